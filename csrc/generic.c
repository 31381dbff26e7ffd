/* generic.c: rare forms of common instructions: 16-bit operands, 16-bit stacks, code segments that are not flat. */
#include "callout.h"

#include "alu.h"
#include "decode.h"

static bool condition(const struct cpu *cpu, unsigned cc)
{
    return cond_flags((enum cond)(cc >> 1), cpu->fl.res, cpu->fl.a, cpu->fl.kind) ^ (cc & 1);
}

static int pop(struct cpu *cpu, unsigned size, u32 *ret)
{
    u32 mask = cpu->seg[SS].attr & SEG_DB ? 0xFFFFFFFF : 0xFFFF;
    u32 esp = REG32(cpu, 4 * ESP);
    if (!mem_read(cpu, SS, esp & mask, size, ret))
        return STATUS_FAULT;
    REG32(cpu, 4 * ESP) = (esp & ~mask) | ((esp + size) & mask);
    return STATUS_NEXT;
}

/* A near transfer that is taken: the target must lie within the code segment. */
static int jump(struct cpu *cpu, u32 to)
{
    if (to > cpu->seg[CS].limit)
        return cpu_fault_code(cpu, T_GPFLT, 0);
    cpu->eip = to;
    cpu->budget--;
    return STATUS_JUMP;
}

static int near_call(struct cpu *cpu, const struct op *op, u32 to)
{
    if (to > cpu->seg[CS].limit)
        return cpu_fault_code(cpu, T_GPFLT, 0);
    if (!stack_push(cpu, op->eip + op->len, op->size))
        return STATUS_FAULT;
    return jump(cpu, to);
}

static int near_ret(struct cpu *cpu, const struct op *op)
{
    u32 to, esp = REG32(cpu, 4 * ESP);
    int status = pop(cpu, op->size, &to);
    if (status != STATUS_NEXT)
        return status;
    if (to > cpu->seg[CS].limit) {
        REG32(cpu, 4 * ESP) = esp;
        return cpu_fault_code(cpu, T_GPFLT, 0);
    }
    if (cpu->seg[SS].attr & SEG_DB)
        REG32(cpu, 4 * ESP) += op->imm;
    else
        REG16(cpu, 4 * ESP) += (u16)op->imm;
    return jump(cpu, to);
}

/* sub - NEAR_LOOP is LOOP_NE, LOOP_E, LOOP_ALWAYS or LOOP_CXZ. */
static bool loop_taken(struct cpu *cpu, const struct op *op, unsigned how)
{
    u32 mask = addr_mask(op), count = REG32(cpu, 4 * ECX) & mask;
    if (how == LOOP_CXZ)
        return count == 0;
    count = (count - 1) & mask;
    return count && (how == LOOP_ALWAYS || condition(cpu, 4) == (how == LOOP_E));
}

int insn_near(struct cpu *cpu, const struct op *op)
{
    u32 to;
    if (op->sub >= NEAR_LOOP) {
        bool taken = loop_taken(cpu, op, op->sub - NEAR_LOOP);
        if (taken && op->imm > cpu->seg[CS].limit)
            return cpu_fault_code(cpu, T_GPFLT, 0);
        if (op->sub - NEAR_LOOP != LOOP_CXZ)
            reg_write(cpu, 4 * ECX, op->flags & OP_ADDR16 ? 2 : 4, REG32(cpu, 4 * ECX) - 1);
        return taken ? jump(cpu, op->imm) : STATUS_NEXT;
    }
    switch (op->sub) {
    case NEAR_JMP:
        return jump(cpu, op->imm);
    case NEAR_CALL:
        return near_call(cpu, op, op->imm);
    case NEAR_RET:
        return near_ret(cpu, op);
    case NEAR_JMP_RM:
        return rm_read(cpu, op, op->size, &to) ? jump(cpu, to) : STATUS_FAULT;
    case NEAR_CALL_RM:
        return rm_read(cpu, op, op->size, &to) ? near_call(cpu, op, to) : STATUS_FAULT;
    default:
        return condition(cpu, op->sub) ? jump(cpu, op->imm) : STATUS_NEXT;
    }
}

int insn_push(struct cpu *cpu, const struct op *op)
{
    u32 value = op->imm;
    if (op->sub == PUSH_RM && !rm_read(cpu, op, op->size, &value))
        return STATUS_FAULT;
    return stack_push(cpu, value, op->size) ? STATUS_NEXT : STATUS_FAULT;
}

int insn_pop_r(struct cpu *cpu, const struct op *op)
{
    u32 value;
    int status = pop(cpu, op->size, &value);
    if (status == STATUS_NEXT)
        reg_write(cpu, op->reg, op->size, value);
    return status;
}

int insn_leave(struct cpu *cpu, const struct op *op)
{
    u32 value, mask = cpu->seg[SS].attr & SEG_DB ? 0xFFFFFFFF : 0xFFFF;
    u32 ebp = REG32(cpu, 4 * EBP), esp = REG32(cpu, 4 * ESP);
    if (!mem_read(cpu, SS, ebp & mask, op->size, &value))
        return STATUS_FAULT;
    REG32(cpu, 4 * ESP) = (esp & ~mask) | ((ebp + op->size) & mask);
    reg_write(cpu, 4 * EBP, op->size, value);
    return STATUS_NEXT;
}

/* cbw (sub 0), cwd (sub 1). */
int insn_convert(struct cpu *cpu, const struct op *op)
{
    if (op->sub)
        REG16(cpu, 4 * EDX) = (s16)REG16(cpu, 4 * EAX) < 0 ? 0xFFFF : 0;
    else
        REG16(cpu, 4 * EAX) = (u16)(s16)(s8)REG8(cpu, 4 * EAX);
    return STATUS_NEXT;
}

/* movzx and movsx (sub: EXTEND_ZERO, EXTEND_SIGN) with a 16-bit destination; imm is the source's size. */
int insn_extend(struct cpu *cpu, const struct op *op)
{
    u32 value;
    if (!rm_read(cpu, op, op->imm, &value))
        return STATUS_FAULT;
    if (op->sub == EXTEND_SIGN && op->imm == 1)
        value = (u32)(s32)(s8)value;
    REG16(cpu, op->reg) = (u16)value;
    return STATUS_NEXT;
}

/* 16-bit two- and three-operand imul (sub: 1 when imm is the second factor). */
int insn_imul(struct cpu *cpu, const struct op *op)
{
    u32 x, y = op->sub ? op->imm : REG16(cpu, op->reg);
    if (!rm_read(cpu, op, 2, &x))
        return STATUS_FAULT;
    s32 product = (s32)(s16)x * (s16)y;
    REG16(cpu, op->reg) = (u16)product;
    cpu->fl = flags_result(FC_SHIFT, (u32)product, product != (s16)product ? 3 : 0, 2);
    return STATUS_NEXT;
}

int insn_xchg_r(struct cpu *cpu, const struct op *op)
{
    u32 value = reg_read(cpu, op->reg, op->size);
    reg_write(cpu, op->reg, op->size, reg_read(cpu, op->rm, op->size));
    reg_write(cpu, op->rm, op->size, value);
    return STATUS_NEXT;
}

int insn_setcc_m(struct cpu *cpu, const struct op *op)
{
    return rm_write(cpu, op, 1, condition(cpu, op->sub)) ? STATUS_NEXT : STATUS_FAULT;
}

/* The operand is read whatever the condition. */
int insn_cmov(struct cpu *cpu, const struct op *op)
{
    u32 value;
    if (!rm_read(cpu, op, op->size, &value))
        return STATUS_FAULT;
    if (condition(cpu, op->sub))
        reg_write(cpu, op->reg, op->size, value);
    return STATUS_NEXT;
}
