/* data.c: moves and exchanges that run as plain functions. */
#include "callout.h"

#define STACK_TOP(cpu) REG32(cpu, ESP * 4)

/* SP or ESP by SS.B. */
static u32 stack_mask(const struct cpu *cpu)
{
    return cpu->mode & MODE_STACK32 ? 0xFFFFFFFF : 0xFFFF;
}
static void stack_set(struct cpu *cpu, u32 top)
{
    u32 mask = stack_mask(cpu);
    STACK_TOP(cpu) = (STACK_TOP(cpu) & ~mask) | (top & mask);
}

/* Exchanges. */

int insn_xchg_m(struct cpu *cpu, const struct op *op)
{
    u32 mine = reg_read(cpu, op->reg, op->size), value;

    if (!rm_check_write(cpu, op, op->size) || !rm_read(cpu, op, op->size, &value) ||
        !rm_write(cpu, op, op->size, mine))
        return STATUS_FAULT;
    reg_write(cpu, op->reg, op->size, value);
    return STATUS_NEXT;
}

int insn_xadd(struct cpu *cpu, const struct op *op)
{
    u32 mine = reg_read(cpu, op->reg, op->size), value;

    if (!rm_check_write(cpu, op, op->size) || !rm_read(cpu, op, op->size, &value))
        return STATUS_FAULT;

    u32 sum = value + mine;
    if (op->flags & OP_MEM && !rm_write(cpu, op, op->size, sum))
        return STATUS_FAULT;
    /* With one register as both operands the sum stays. */
    reg_write(cpu, op->reg, op->size, value);
    if (!(op->flags & OP_MEM))
        reg_write(cpu, op->rm, op->size, sum);
    cpu->fl = flags_result(FC_ADD, sum, value, op->size);
    return STATUS_NEXT;
}

int insn_cmpxchg(struct cpu *cpu, const struct op *op)
{
    u32 acc = reg_read(cpu, EAX * 4, op->size), mine = reg_read(cpu, op->reg, op->size), value;

    if (!rm_check_write(cpu, op, op->size) || !rm_read(cpu, op, op->size, &value))
        return STATUS_FAULT;
    if (value != acc)
        reg_write(cpu, EAX * 4, op->size, value);
    else if (!rm_write(cpu, op, op->size, mine))
        return STATUS_FAULT;
    cpu->fl = flags_result(FC_SUB, acc - value, acc, op->size);
    return STATUS_NEXT;
}

int insn_cmpxchg8b(struct cpu *cpu, const struct op *op)
{
    u32 off = op_offset(cpu, op), value[2];
    u32 fl = flags_get(cpu->fl.res, cpu->fl.a, cpu->fl.kind) & ~EFLAGS_ZF;

    if (!mem_check_write(cpu, op->seg, off, 8) || !mem_read(cpu, op->seg, off, 4, &value[0]) ||
        !mem_read(cpu, op->seg, off + 4, 4, &value[1]))
        return STATUS_FAULT;
    if (value[0] != cpu->gpr[EAX] || value[1] != cpu->gpr[EDX]) {
        cpu->gpr[EAX] = value[0];
        cpu->gpr[EDX] = value[1];
    } else {
        if (!mem_write(cpu, op->seg, off, cpu->gpr[EBX], 4) || !mem_write(cpu, op->seg, off + 4, cpu->gpr[ECX], 4))
            return STATUS_FAULT;
        fl |= EFLAGS_ZF;
    }
    cpu->fl = flags_set(fl);
    return STATUS_NEXT;
}

int insn_xlat(struct cpu *cpu, const struct op *op)
{
    u32 value;

    if (!mem_read(cpu, op->seg, (cpu->gpr[EBX] + REG8(cpu, EAX * 4)) & addr_mask(op), 1, &value))
        return STATUS_FAULT;
    REG8(cpu, EAX * 4) = (u8)value;
    return STATUS_NEXT;
}

/* All 16 bits of the operand-size form become zero: undefined in the SDM, so on every Intel CPU. */
int insn_bswap16(struct cpu *cpu, const struct op *op)
{
    REG16(cpu, op->rm) = 0;
    return STATUS_NEXT;
}

/* Flags. */

#define AH_FLAGS (EFLAGS_SF | EFLAGS_ZF | EFLAGS_AF | EFLAGS_PF | EFLAGS_CF)

int insn_lahf(struct cpu *cpu, const struct op *op)
{
    (void)op;
    REG8(cpu, EAX * 4 + 1) = (u8)(cpu_eflags(cpu) & (AH_FLAGS | EFLAGS_FIXED));
    return STATUS_NEXT;
}

int insn_sahf(struct cpu *cpu, const struct op *op)
{
    (void)op;
    cpu->fl = flags_set((cpu_eflags(cpu) & EFLAGS_OF) | (REG8(cpu, EAX * 4 + 1) & AH_FLAGS));
    return STATUS_NEXT;
}

int insn_salc(struct cpu *cpu, const struct op *op)
{
    (void)op;
    REG8(cpu, EAX * 4) = flags_cf(cpu->fl.res, cpu->fl.a, cpu->fl.kind) ? 0xFF : 0;
    return STATUS_NEXT;
}

/* Stack. */

#define NEST_MAX 31             /* ENTER takes the level modulo 32 */

/* Offsets in SS of what ENTER reads of the outer frame and of what it pushes; every one is checked first, because
 * the two may overlap and then must be done in turn. */
struct frame_slots {
    u32 push[NEST_MAX + 1];     /* EBP, outer pointers, frame pointer */
    u32 outer[NEST_MAX + 1];    /* [1] to [level - 1] are used */
    unsigned level;
    u32 top;                    /* ESP after the pushes */
};

static void enter_plan(const struct cpu *cpu, const struct op *op, struct frame_slots *ret)
{
    u32 mask = stack_mask(cpu), sp = cpu->gpr[ESP], bp = cpu->gpr[EBP];

    ret->level = op->disp & NEST_MAX;
    for (unsigned i = 0; i <= ret->level; i++) {
        ret->push[i] = sp = (sp - op->size) & mask;
        ret->outer[i] = (bp - i * op->size) & mask;
    }
    ret->top = sp;
}

static bool enter_check(struct cpu *cpu, const struct op *op, const struct frame_slots *s)
{
    u32 unused;

    for (unsigned i = 0; i <= s->level; i++) {
        if (i > 0 && i < s->level && !mem_read(cpu, SS, s->outer[i], op->size, &unused))
            return false;
        if (!mem_check_write(cpu, SS, s->push[i], op->size))
            return false;
    }
    /* A store at the final ESP must be possible (SDM vol. 2, ENTER). */
    return mem_check_write(cpu, SS, (s->top - op->imm) & stack_mask(cpu), op->size);
}

int insn_enter(struct cpu *cpu, const struct op *op)
{
    struct frame_slots s;
    u32 value = cpu->gpr[EBP];

    enter_plan(cpu, op, &s);
    if (!enter_check(cpu, op, &s))
        return STATUS_FAULT;
    for (unsigned i = 0; i <= s.level; i++) {
        if (i > 0 && i < s.level && !mem_read(cpu, SS, s.outer[i], op->size, &value))
            return STATUS_FAULT;
        if (i > 0 && i == s.level)
            value = s.push[0];
        if (!mem_write(cpu, SS, s.push[i], value, op->size))
            return STATUS_FAULT;
    }
    reg_write(cpu, EBP * 4, op->size, s.push[0]);
    stack_set(cpu, s.top - op->imm);
    return STATUS_NEXT;
}

int insn_pusha(struct cpu *cpu, const struct op *op)
{
    u32 mask = stack_mask(cpu), top = cpu->gpr[ESP];

    for (unsigned i = 1; i <= 8; i++)
        if (!mem_check_write(cpu, SS, (top - i * op->size) & mask, op->size))
            return STATUS_FAULT;
    for (unsigned i = 1; i <= 8; i++)
        if (!mem_write(cpu, SS, (top - i * op->size) & mask, cpu->gpr[i - 1], op->size))
            return STATUS_FAULT;
    stack_set(cpu, top - 8 * op->size);
    return STATUS_NEXT;
}

int insn_popa(struct cpu *cpu, const struct op *op)
{
    u32 mask = stack_mask(cpu), top = cpu->gpr[ESP], value[8];

    for (unsigned i = 0; i < 8; i++)
        if (!mem_read(cpu, SS, (top + i * op->size) & mask, op->size, &value[i]))
            return STATUS_FAULT;
    for (unsigned i = 0; i < 8; i++)
        if (7 - i != ESP)
            reg_write(cpu, (u8)((7 - i) * 4), op->size, value[i]);
    stack_set(cpu, top + 8 * op->size);
    return STATUS_NEXT;
}

/* The address is computed with the incremented ESP (SDM vol. 2, POP). */
int insn_pop_rm(struct cpu *cpu, const struct op *op)
{
    u32 top = cpu->gpr[ESP], value;

    if (!mem_read(cpu, SS, top & stack_mask(cpu), op->size, &value))
        return STATUS_FAULT;
    stack_set(cpu, top + op->size);
    if (rm_write(cpu, op, op->size, value))
        return STATUS_NEXT;
    cpu->gpr[ESP] = top;
    return STATUS_FAULT;
}
