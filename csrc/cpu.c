/* cpu.c: reset, faults and stops, and the rules of control and debug registers. */
#include "cpu.h"

#include <string.h>

#include "api.h"
#include "debug.h"
#include "mmu.h"
#include "op.h"
#include "paging.h"

#define SEG_RESET 0x0093u       /* present, writable data, accessed */

#define PAT_RESET 0x0007040600070406ull     /* SDM vol. 3, 11.12.4 */
#define DR6_WRITABLE 0x0000E00Fu
#define DR7_WRITABLE 0xFFFF23FFu

static int raise_fault(struct cpu *cpu, struct fault fault)
{
    cpu->fault = fault;
    cpu->leave = LEAVE_FAULT;
    return STATUS_FAULT;
}

int cpu_fault(struct cpu *cpu, enum vector vector)
{
    return raise_fault(cpu, (struct fault){.vector = (u8)vector});
}

int cpu_fault_code(struct cpu *cpu, enum vector vector, u32 error_code)
{
    return raise_fault(cpu, (struct fault){.vector = (u8)vector, .has_error = true, .error_code = error_code});
}

int cpu_fault_stop(struct cpu *cpu, int stop_reason)
{
    return raise_fault(cpu, (struct fault){.stop = (u8)stop_reason});
}

int cpu_stop(struct cpu *cpu, int stop_reason)
{
    cpu->stop = (u8)stop_reason;
    cpu->leave = LEAVE_STOP;
    return STATUS_STOP;
}

static void reset_segments(struct cpu *cpu)
{
    for (unsigned i = 0; i < SREG_COUNT; i++)
        cpu->seg[i] = (struct segment){.limit = 0xFFFF, .attr = SEG_RESET};
    cpu->seg[CS].selector = 0xF000;
    cpu->seg[CS].base = 0xFFFF0000;
    cpu->seg[LDTR].attr = SEG_P | 2;
    cpu->seg[TR].attr = SEG_P | 11;
    cpu->gdtr = cpu->idtr = (struct dtable){.limit = 0xFFFF};
}

void cpu_reset(struct cpu *cpu)
{
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = cpu->dr[i] = 0;
    cpu->gpr[EDX] = cpu->model->signature;
    cpu->eflags_defined = cpu->model->eflags & ~EFLAGS_ARITH;
    cpu->zero = 0;
    cpu->eip = 0xFFF0;
    cpu_set_eflags(cpu, 0);
    reset_segments(cpu);
    cpu->cr0 = ((CR0_CD | CR0_NW) & cpu->model->cr0) | CR0_ET;
    cpu->cr2 = cpu->cr3 = cpu->cr4 = 0;
    memset(cpu->sysenter, 0, sizeof(cpu->sysenter));
    memset(cpu->pdpte, 0, sizeof(cpu->pdpte));
    cpu->pat = PAT_RESET;
    cpu->dr[6] = DR6_FIXED;
    cpu->dr[7] = DR7_FIXED;
    fpu_reset(&cpu->fpu);
    sse_reset(&cpu->sse);
    cpu->fault = (struct fault){0};
    cpu->db_pending = 0;
    cpu->code_breaks = false;
    cpu->shadow = 0;
    cpu->halted = false;
    cpu->nmi_blocked = false;
    cpu->leave = LEAVE_LOOKUP;
    mode_update(cpu);
    tlb_init(cpu);
}

/* SDM vol. 3, 4.4.1: with PAE these writes read the page-directory pointers anew, and fail if one is bad. */
static bool load_pointers(struct cpu *cpu, u32 cr0, u32 cr3, u32 cr4, u32 changed)
{
    bool pae = (cr0 & CR0_PG) && (cr4 & CR4_PAE);
    return !pae || !changed || paging_load_pointers(cpu, cr3);
}

/* SDM vol. 3, 2.5: paging needs protected mode, NW needs CD; undefined bits cannot be set. */
static bool write_cr0(struct cpu *cpu, u32 value)
{
    value = (value & cpu->model->cr0) | CR0_ET;
    if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
        return false;
    u32 changed = cpu->cr0 ^ value;
    if (!load_pointers(cpu, value, cpu->cr3, cpu->cr4, changed & (CR0_CD | CR0_NW | CR0_PG)))
        return false;
    cpu->cr0 = value;
    mode_update(cpu);
    if (changed & (CR0_PG | CR0_PE | CR0_WP))
        tlb_flush(cpu);
    return true;
}

bool cpu_write_control(struct cpu *cpu, unsigned n, u32 value)
{
    switch (n) {
    case 0:
        return write_cr0(cpu, value);
    case 2:
        cpu->cr2 = value;
        return true;
    case 3:
        if (!load_pointers(cpu, cpu->cr0, value, cpu->cr4, ~0u))
            return false;
        cpu->cr3 = value;
        break;
    default:
        if ((value & ~cpu->model->cr4) || !load_pointers(cpu, cpu->cr0, cpu->cr3, value,
                                                     (cpu->cr4 ^ value) & (CR4_PAE | CR4_PGE | CR4_PSE)))
            return false;
        cpu->cr4 = value;
    }
    tlb_flush(cpu);
    return true;
}

/* SDM vol. 3, 17.2. */
void cpu_write_debug(struct cpu *cpu, unsigned n, u32 value)
{
    cpu->plain_hits = false;
    if (n == 6)
        value = (value & DR6_WRITABLE) | DR6_FIXED;
    else if (n == 7)
        value = (value & DR7_WRITABLE) | DR7_FIXED;
    u32 old[8];
    memcpy(old, cpu->dr, sizeof(old));
    cpu->dr[n] = value;
    if (n != 6)
        debug_changed(cpu, old);
}
