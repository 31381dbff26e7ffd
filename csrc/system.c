/* system.c: flags, tables, control and debug registers, and what tells about the processor. */
#include "api.h"
#include "callout.h"
#include "gate.h"
#include "machine.h"

static bool privileged(struct cpu *cpu)
{
    if (cpu->cpl == 0)
        return true;
    cpu_fault_code(cpu, T_GPFLT, 0);
    return false;
}

/* CLI, STI: privilege against IOPL, which virtual-8086 code passes with IOPL 3 only. */
static bool io_privileged(struct cpu *cpu)
{
    if (cpu->cpl <= iopl(cpu))
        return true;
    cpu_fault_code(cpu, T_GPFLT, 0);
    return false;
}

/* PUSHF, POPF: only virtual-8086 mode asks for IOPL 3. */
static bool flags_allowed(struct cpu *cpu)
{
    return !(cpu->mode & MODE_V86) || io_privileged(cpu);
}

int insn_hlt(struct cpu *cpu, const struct op *op)
{
    if (!privileged(cpu))
        return STATUS_FAULT;
    cpu->halted = true;
    return op_leave(cpu, op);
}

int insn_cli(struct cpu *cpu, const struct op *op)
{
    if (!io_privileged(cpu))
        return STATUS_FAULT;
    cpu->eflags &= ~EFLAGS_IF;
    return op_leave(cpu, op);
}

int insn_sti(struct cpu *cpu, const struct op *op)
{
    if (!io_privileged(cpu))
        return STATUS_FAULT;
    if (!(cpu->eflags & EFLAGS_IF))
        cpu->shadow = 1;
    cpu->eflags |= EFLAGS_IF;
    return op_leave(cpu, op);
}

int insn_pushf(struct cpu *cpu, const struct op *op)
{
    if (!flags_allowed(cpu))
        return STATUS_FAULT;
    u32 image = cpu_eflags(cpu) & ~(EFLAGS_RF | EFLAGS_VM);
    return stack_push(cpu, image, op->size) ? STATUS_NEXT : STATUS_FAULT;
}

int insn_popf(struct cpu *cpu, const struct op *op)
{
    u32 value, off = cpu->gpr[ESP] & stack_mask(&cpu->seg[SS]);
    if (!flags_allowed(cpu) || !mem_read(cpu, SS, off, op->size, &value))
        return STATUS_FAULT;
    stack_move(cpu, op->size);
    eflags_load(cpu, value, eflags_mask(cpu, op->size));
    return op_leave(cpu, op);
}

static int load_table(struct cpu *cpu, const struct op *op, struct dtable *table)
{
    u32 off = op_offset(cpu, op), limit, base;
    if (!privileged(cpu) || !mem_read(cpu, op->seg, off, 2, &limit) ||
        !mem_read(cpu, op->seg, (off + 2) & addr_mask(op), 4, &base))
        return STATUS_FAULT;
    table->limit = (u16)limit;
    table->base = op->size == 2 ? base & 0x00FFFFFF : base;
    return op_leave(cpu, op);
}

static int store_table(struct cpu *cpu, const struct op *op, const struct dtable *table)
{
    u32 off = op_offset(cpu, op), base_off = (off + 2) & addr_mask(op);
    if (!mem_check_write(cpu, op->seg, off, 2) || !mem_check_write(cpu, op->seg, base_off, 4) ||
        !mem_write(cpu, op->seg, off, table->limit, 2) || !mem_write(cpu, op->seg, base_off, table->base, 4))
        return STATUS_FAULT;
    return STATUS_NEXT;
}

int insn_lgdt(struct cpu *cpu, const struct op *op)
{
    return load_table(cpu, op, &cpu->gdtr);
}
int insn_lidt(struct cpu *cpu, const struct op *op)
{
    return load_table(cpu, op, &cpu->idtr);
}
int insn_sgdt(struct cpu *cpu, const struct op *op)
{
    return store_table(cpu, op, &cpu->gdtr);
}
int insn_sidt(struct cpu *cpu, const struct op *op)
{
    return store_table(cpu, op, &cpu->idtr);
}

/* SMSW, SLDT, STR: 16 bits to memory, the whole operand to a register. */
static int store_word(struct cpu *cpu, const struct op *op, u32 value)
{
    return rm_write(cpu, op, op->flags & OP_MEM ? 2 : op->size, value) ? STATUS_NEXT : STATUS_FAULT;
}

int insn_smsw(struct cpu *cpu, const struct op *op)
{
    return store_word(cpu, op, cpu->cr0);
}

static int write_control(struct cpu *cpu, const struct op *op, unsigned n, u32 value)
{
    return cpu_write_control(cpu, n, value) ? op_leave(cpu, op) : cpu_fault_code(cpu, T_GPFLT, 0);
}

/* SDM vol. 2, LMSW: the low four bits, and PE cannot be cleared. */
int insn_lmsw(struct cpu *cpu, const struct op *op)
{
    u32 value, low = CR0_MP | CR0_EM | CR0_TS;
    if (!privileged(cpu) || !rm_read(cpu, op, 2, &value))
        return STATUS_FAULT;
    return write_control(cpu, op, 0, (cpu->cr0 & ~low) | (value & (low | CR0_PE)));
}

int insn_clts(struct cpu *cpu, const struct op *op)
{
    if (!privileged(cpu))
        return STATUS_FAULT;
    return write_control(cpu, op, 0, cpu->cr0 & ~CR0_TS);
}

static int load_system(struct cpu *cpu, const struct op *op, u16 *selector)
{
    u32 value;
    if (!protected_mode(cpu))
        return cpu_fault(cpu, T_ILLOP);
    if (!privileged(cpu) || !rm_read(cpu, op, 2, &value))
        return STATUS_FAULT;
    *selector = (u16)value;
    return STATUS_NEXT;
}

int insn_lldt(struct cpu *cpu, const struct op *op)
{
    u16 selector;
    if (load_system(cpu, op, &selector) != STATUS_NEXT || !segment_load_ldtr(cpu, selector))
        return STATUS_FAULT;
    return STATUS_NEXT;
}

int insn_ltr(struct cpu *cpu, const struct op *op)
{
    u16 selector;
    if (load_system(cpu, op, &selector) != STATUS_NEXT || !segment_load_tr(cpu, selector, false))
        return STATUS_FAULT;
    return STATUS_NEXT;
}

int insn_sldt(struct cpu *cpu, const struct op *op)
{
    return protected_mode(cpu) ? store_word(cpu, op, cpu->seg[LDTR].selector) : cpu_fault(cpu, T_ILLOP);
}

int insn_str(struct cpu *cpu, const struct op *op)
{
    return protected_mode(cpu) ? store_word(cpu, op, cpu->seg[TR].selector) : cpu_fault(cpu, T_ILLOP);
}

int insn_invlpg(struct cpu *cpu, const struct op *op)
{
    if (!(cpu->model->features & FEATURE_486))
        return cpu_fault(cpu, T_ILLOP);
    if (!privileged(cpu))
        return STATUS_FAULT;
    tlb_flush_page(cpu, cpu->seg[op->seg].base + op_offset(cpu, op));
    return op_leave(cpu, op);
}

static bool has_control(const struct cpu *cpu, unsigned n)
{
    return n == 0 || n == 2 || n == 3 || (n == 4 && cpu->model->cr4);
}

int insn_mov_r_cr(struct cpu *cpu, const struct op *op)
{
    if (!has_control(cpu, op->sub))
        return cpu_fault(cpu, T_ILLOP);
    if (!privileged(cpu))
        return STATUS_FAULT;
    const u32 values[] = {cpu->cr0, 0, cpu->cr2, cpu->cr3, cpu->cr4};
    reg_write(cpu, op->rm, 4, values[op->sub]);
    return STATUS_NEXT;
}

int insn_mov_cr_r(struct cpu *cpu, const struct op *op)
{
    if (!has_control(cpu, op->sub))
        return cpu_fault(cpu, T_ILLOP);
    if (!privileged(cpu))
        return STATUS_FAULT;
    return write_control(cpu, op, op->sub, reg_read(cpu, op->rm, 4));
}

/* SDM vol. 3, 17.2.2 and 17.2.4: DR4 and DR5 are DR6 and DR7, and with CR4.DE undefined; with DR7.GD any access is
 * #DB. */
static bool debug_allowed(struct cpu *cpu, const struct op *op)
{
    if (cpu->cr4 & CR4_DE && (op->sub == 4 || op->sub == 5)) {
        cpu_fault(cpu, T_ILLOP);
        return false;
    }
    if (!privileged(cpu))
        return false;
    if (!(cpu->dr[7] & DR7_GD))
        return true;
    cpu->dr[6] |= DR6_BD;
    cpu_fault(cpu, T_DEBUG);
    return false;
}

static unsigned debug_number(const struct op *op)
{
    return op->sub == 4 || op->sub == 5 ? op->sub + 2u : op->sub;
}

int insn_mov_r_dr(struct cpu *cpu, const struct op *op)
{
    if (!debug_allowed(cpu, op))
        return STATUS_FAULT;
    reg_write(cpu, op->rm, 4, cpu->dr[debug_number(op)]);
    return STATUS_NEXT;
}

int insn_mov_dr_r(struct cpu *cpu, const struct op *op)
{
    if (!debug_allowed(cpu, op))
        return STATUS_FAULT;
    cpu_write_debug(cpu, debug_number(op), reg_read(cpu, op->rm, 4));
    return op_leave(cpu, op);
}

int insn_rdtsc(struct cpu *cpu, const struct op *op)
{
    (void)op;
    if ((cpu->cr4 & CR4_TSD) && !privileged(cpu))
        return STATUS_FAULT;
    cpu->clock_read = true;
    u64 tsc = machine_now(cpu->machine) + cpu->tsc_offset;
    cpu->gpr[EAX] = (u32)tsc;
    cpu->gpr[EDX] = (u32)(tsc >> 32);
    return STATUS_NEXT;
}

#define CPUID_EXTENDED 0x80000000u
#define CPUID_ADDRESSES 0x80000008u     /* the last extended leaf */

/* SDM vol. 2, CPUID; beyond the last leaf: the last. Models with PAE have extended leaves, for the width of physical
 * addresses. */
int insn_cpuid(struct cpu *cpu, const struct op *op)
{
    const struct cpu_model *model = cpu->model;
    const u32 leaves[3][4] = {              /* EAX, ECX, EDX, EBX: the order of enum gpr */
        {model->max_leaf, 0x6C65746E, 0x49656E69, 0x756E6547},                      /* GenuineIntel */
        {model->signature, 0, model->features & ~FEATURES_UNTOLD, model->flush_line},
        {model->caches[0], model->caches[1], model->caches[2], model->caches[3]},
    };
    (void)op;
    static const u32 no_features[4], extended_max[4] = {CPUID_ADDRESSES}, address_bits[4] = {32 << 8 | 32};
    u32 leaf = cpu->gpr[EAX];
    const u32 *values = leaves[leaf < model->max_leaf ? leaf : model->max_leaf];
    if (model->features & FEATURE_PAE && leaf >= CPUID_EXTENDED && leaf <= CPUID_ADDRESSES)
        values = leaf == CPUID_EXTENDED ? extended_max : leaf == CPUID_ADDRESSES ? address_bits : no_features;
    for (unsigned i = EAX; i <= EBX; i++)
        cpu->gpr[i] = values[i];
    return STATUS_NEXT;
}

int insn_cache_control(struct cpu *cpu, const struct op *op)
{
    (void)op;
    return privileged(cpu) ? STATUS_NEXT : STATUS_FAULT;
}
