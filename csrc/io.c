/* io.c: ports, and who may use them. */
#include "callout.h"
#include "gate.h"
#include "machine.h"

#include <stdlib.h>

#define PORT_COUNT 65536u
#define TSS32_MIN_LIMIT 103u    /* SDM vol. 3, 7.2.2 */
#define TSS32_IO_MAP 102u       /* where a 32-bit TSS keeps the bitmap's offset */

/* SDM vol. 1, 18.5.2: the bitmap allows a port whose bit is clear; two bytes are always read. */
static bool bitmap_allows(struct cpu *cpu, u16 port, unsigned size, bool *ret)
{
    const struct segment *tr = &cpu->seg[TR];
    u32 map, bits;
    *ret = false;
    if (!(SEG_TYPE(tr->attr) & TYPE_WIDE) || tr->limit < TSS32_MIN_LIMIT)
        return true;
    if (!lin_read(cpu, tr->base + TSS32_IO_MAP, 2, ACCESS_SYSTEM, &map))
        return false;
    u32 at = map + port / 8;
    if (at + 1 > tr->limit)
        return true;
    if (!lin_read(cpu, tr->base + at, 2, ACCESS_SYSTEM, &bits))
        return false;
    *ret = ((bits >> (port & 7)) & ((1u << size) - 1)) == 0;
    return true;
}

int io_check(struct cpu *cpu, u16 port, unsigned size)
{
    bool allowed;
    if (!(cpu->mode & MODE_V86) && cpu->cpl <= iopl(cpu))
        return STATUS_NEXT;
    if (!bitmap_allows(cpu, port, size, &allowed))
        return STATUS_FAULT;
    return allowed ? STATUS_NEXT : cpu_fault_code(cpu, T_GPFLT, 0);
}

static u32 port_mask(unsigned size)
{
    return 0xFFFFFFFFu >> (32 - 8 * size);
}

static bool claimed(const struct machine *m, u16 port)
{
    return m->port_claimed && (m->port_claimed[port >> 3] >> (port & 7) & 1);
}

static int call_python(struct machine *m, int kind, u16 port, unsigned size)
{
    if (m->config.callback(m->config.tag, kind, port, size) < 0)
        return cpu_stop(m->cpu, STOP_PYTHON);
    return STATUS_NEXT;
}

int io_read(struct cpu *cpu, u16 port, unsigned size, u32 *ret)
{
    struct machine *m = cpu->machine;
    int status = io_check(cpu, port, size);
    if (status != STATUS_NEXT)
        return status;
    *ret = port_mask(size);
    if (!claimed(m, port))
        return STATUS_NEXT;
    m->io_value = port_mask(size);
    status = call_python(m, CALLBACK_READ_PORT, port, size);
    *ret = m->io_value & port_mask(size);
    return status;
}

int io_write(struct cpu *cpu, u16 port, unsigned size, u32 value)
{
    struct machine *m = cpu->machine;
    int status = io_check(cpu, port, size);
    if (status != STATUS_NEXT || !claimed(m, port))
        return status;
    m->io_value = value & port_mask(size);
    return call_python(m, CALLBACK_WRITE_PORT, port, size);
}

static u16 port_of(const struct cpu *cpu, const struct op *op)
{
    return op->sub ? (u16)op->imm : (u16)cpu->gpr[EDX];
}

int insn_in(struct cpu *cpu, const struct op *op)
{
    u32 value;
    int status = io_read(cpu, port_of(cpu, op), op->size, &value);
    if (status == STATUS_NEXT)
        reg_write(cpu, offsetof(struct cpu, gpr[EAX]), op->size, value);
    return status;
}

int insn_out(struct cpu *cpu, const struct op *op)
{
    return io_write(cpu, port_of(cpu, op), op->size, cpu->gpr[EAX]);
}

int machine_claim_port(machine *m, uint16_t port, int on)
{
    if (!m->port_claimed && !on)
        return 0;
    if (!m->port_claimed && !(m->port_claimed = calloc(PORT_COUNT / 8, 1)))
        return -1;
    u8 bit = (u8)(1u << (port & 7));
    if (on)
        m->port_claimed[port >> 3] |= bit;
    else
        m->port_claimed[port >> 3] &= (u8)~bit;
    return 0;
}

uint32_t *machine_io_value(machine *m)
{
    return &m->io_value;
}
