/* io.c: ports, and who may use them. */
#include "callout.h"
#include "debug.h"
#include "gate.h"
#include "machine.h"
#include "pc.h"

#include <string.h>

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

int io_read(struct cpu *cpu, u16 port, unsigned size, u32 *ret)
{
    struct machine *m = cpu->machine;
    u8 bytes[4] = {0xFF, 0xFF, 0xFF, 0xFF};
    int status = io_check(cpu, port, size);
    if (status != STATUS_NEXT)
        return status;
    if (device_touches(&m->space[DEVICE_PORT], port, port + size - 1)) {
        if (!device_transfer(m, DEVICE_PORT, port, size, bytes, false))
            return STATUS_FAULT;
    } else if (m->pc) {
        pc_read(m, port, size, bytes);
    }
    *ret = 0;
    memcpy(ret, bytes, size);
    debug_io(cpu, port, size);
    watch_access(cpu, WATCH_IN, port, size, *ret);
    return STATUS_NEXT;
}

int io_write(struct cpu *cpu, u16 port, unsigned size, u32 value)
{
    struct machine *m = cpu->machine;
    int status = io_check(cpu, port, size);
    if (status != STATUS_NEXT)
        return status;
    value &= 0xFFFFFFFFu >> (32 - 8 * size);
    if (device_touches(&m->space[DEVICE_PORT], port, port + size - 1)) {
        if (!device_transfer(m, DEVICE_PORT, port, size, (u8 *)&value, true))
            return STATUS_FAULT;
    } else if (m->pc && !pc_write(m, port, size, (const u8 *)&value)) {
        return cpu_stop(cpu, STOP_RESET);
    }
    debug_io(cpu, port, size);
    watch_access(cpu, WATCH_OUT, port, size, value);
    return STATUS_NEXT;
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
