/* msr.c: model-specific registers, and SYSENTER and SYSEXIT, which three of them serve. */
#include "callout.h"
#include "gate.h"
#include "machine.h"

#define MSR_TSC 0x10u
#define MSR_SYSENTER_CS 0x174u  /* and ESP, EIP */
#define MSR_SYSENTER_EIP 0x176u
#define MSR_PAT 0x277u

/* SDM vol. 2, SYSENTER: the fixed hidden parts */
#define ATTR_CODE (SEG_G | SEG_DB | SEG_P | SEG_S | 0xB)
#define ATTR_STACK (SEG_G | SEG_DB | SEG_P | SEG_S | 0x3)

static bool privileged(struct cpu *cpu)
{
    if (cpu->cpl == 0)
        return true;
    cpu_fault_code(cpu, T_GPFLT, 0);
    return false;
}

static bool is_sysenter(u32 msr)
{
    return msr >= MSR_SYSENTER_CS && msr <= MSR_SYSENTER_EIP;
}

/* SDM vol. 3, 11.12.2: memory types 0, 1 and 4 to 7, the other bits reserved. */
static bool good_pat(u64 value)
{
    for (unsigned i = 0; i < 8; i++, value >>= 8)
        if ((value & 0xFF) > 7 || (value & 6) == 2)
            return false;
    return true;
}

int insn_rdmsr(struct cpu *cpu, const struct op *op)
{
    (void)op;
    u32 msr = cpu->gpr[ECX];
    u64 value;
    if (!privileged(cpu))
        return STATUS_FAULT;
    if (msr == MSR_TSC)
        value = machine_now(cpu->machine) + cpu->tsc_offset;
    else if (is_sysenter(msr))
        value = cpu->sysenter[msr - MSR_SYSENTER_CS];
    else if (msr == MSR_PAT)
        value = cpu->pat;
    else
        return cpu_fault_code(cpu, T_GPFLT, 0);
    cpu->gpr[EAX] = (u32)value;
    cpu->gpr[EDX] = (u32)(value >> 32);
    return STATUS_NEXT;
}

/* SDM vol. 3, 17.17: on this family a write of the TSC clears its upper half. */
int insn_wrmsr(struct cpu *cpu, const struct op *op)
{
    u32 msr = cpu->gpr[ECX], value = cpu->gpr[EAX];
    u64 wide = (u64)cpu->gpr[EDX] << 32 | value;
    if (!privileged(cpu))
        return STATUS_FAULT;
    if (msr == MSR_TSC)
        cpu->tsc_offset = value - machine_now(cpu->machine);
    else if (is_sysenter(msr))
        cpu->sysenter[msr - MSR_SYSENTER_CS] = value;
    else if (msr == MSR_PAT && good_pat(wide))
        cpu->pat = wide;
    else
        return cpu_fault_code(cpu, T_GPFLT, 0);
    return op_leave(cpu, op);
}

/* This processor has no performance counter, so that every number in ECX is as wrong as any (SDM vol. 2, RDPMC). */
int insn_rdpmc(struct cpu *cpu, const struct op *op)
{
    (void)op;
    return cpu_fault_code(cpu, T_GPFLT, 0);
}

static void set_flat(struct segment *s, u32 selector, u32 attr, unsigned cpl)
{
    *s = (struct segment){.limit = 0xFFFFFFFF, .selector = (u16)(selector | cpl), .attr = (u16)(attr | cpl << 5)};
}

static int enter_flat(struct cpu *cpu, u32 selector, unsigned cpl, u32 eip, u32 esp)
{
    set_flat(&cpu->seg[CS], selector, ATTR_CODE, cpl);
    set_flat(&cpu->seg[SS], selector + 8, ATTR_STACK, cpl);
    cpu->gpr[ESP] = esp;
    mode_update(cpu);
    return op_jump(cpu, eip);
}

int insn_sysenter(struct cpu *cpu, const struct op *op)
{
    (void)op;
    u32 selector = cpu->sysenter[0] & 0xFFFC;
    if (!(cpu->cr0 & CR0_PE) || !selector)
        return cpu_fault_code(cpu, T_GPFLT, 0);
    cpu->eflags &= ~(EFLAGS_VM | EFLAGS_IF);
    return enter_flat(cpu, selector, 0, cpu->sysenter[2], cpu->sysenter[1]);
}

int insn_sysexit(struct cpu *cpu, const struct op *op)
{
    (void)op;
    u32 selector = cpu->sysenter[0] & 0xFFFC;
    if (!(cpu->cr0 & CR0_PE) || !selector || cpu->cpl != 0)
        return cpu_fault_code(cpu, T_GPFLT, 0);
    return enter_flat(cpu, selector + 16, 3, cpu->gpr[EDX], cpu->gpr[ECX]);
}
