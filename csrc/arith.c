/*
 * arith.c: arithmetic that runs as plain functions: decimal adjust, bits,
 * shifts, rotates, multiply, divide.
 *
 * Flags that the SDM calls undefined are what Intel Core and Xeon CPUs give.
 */
#include "callout.h"

static u32 low_mask(unsigned bits)
{
    return 0xFFFFFFFFu >> (32 - bits);
}
static s32 sign_extend(u32 v, unsigned bits)
{
    return (s32)(v << (32 - bits)) >> (32 - bits);
}
static u32 arith_flags(const struct cpu *cpu)
{
    return flags_get(cpu->fl.res, cpu->fl.a, cpu->fl.kind);
}
static void set_flags(struct cpu *cpu, u32 mask, u32 value)
{
    cpu->fl = flags_set((arith_flags(cpu) & ~mask) | value);
}
/* SF, ZF and PF of a result; CF, OF and AF clear. */
static u32 result_flags(u32 res, unsigned size)
{
    struct lazy_flags fl = flags_result(FC_LOGIC, res, 0, size);
    return flags_get(fl.res, fl.a, fl.kind);
}

/* Decimal adjust. */

#define AL(cpu) REG8(cpu, EAX * 4)
#define AH(cpu) REG8(cpu, EAX * 4 + 1)
#define AX(cpu) REG16(cpu, EAX * 4)

static int decimal_adjust(struct cpu *cpu, int sign)
{
    u32 fl = arith_flags(cpu), al = AL(cpu), ret = 0, adjust = 0;

    if ((al & 0xF) > 9 || fl & EFLAGS_AF) {
        adjust = 0x06;
        ret = EFLAGS_AF | (fl & EFLAGS_CF);
        if (sign < 0 && al < 6)
            ret |= EFLAGS_CF;
    }
    if (al > 0x99 || fl & EFLAGS_CF) {
        adjust += 0x60;
        ret |= EFLAGS_CF;
    }
    AL(cpu) = (u8)(al + (u32)sign * adjust);
    set_flags(cpu, EFLAGS_ARITH, ret | result_flags(AL(cpu), 1));
    return STATUS_NEXT;
}

int insn_daa(struct cpu *cpu, const struct op *op)
{
    (void)op;
    return decimal_adjust(cpu, 1);
}
int insn_das(struct cpu *cpu, const struct op *op)
{
    (void)op;
    return decimal_adjust(cpu, -1);
}

static int ascii_adjust(struct cpu *cpu, int sign)
{
    u32 ret = 0;

    if ((AL(cpu) & 0xF) > 9 || arith_flags(cpu) & EFLAGS_AF) {
        AX(cpu) = (u16)(AX(cpu) + (u32)sign * 0x106);
        ret = EFLAGS_AF | EFLAGS_CF;
    }
    AL(cpu) &= 0xF;
    set_flags(cpu, EFLAGS_ARITH, ret | result_flags(AL(cpu), 1));
    return STATUS_NEXT;
}

int insn_aaa(struct cpu *cpu, const struct op *op)
{
    (void)op;
    return ascii_adjust(cpu, 1);
}
int insn_aas(struct cpu *cpu, const struct op *op)
{
    (void)op;
    return ascii_adjust(cpu, -1);
}

int insn_aam(struct cpu *cpu, const struct op *op)
{
    u32 base = op->imm & 0xFF, al = AL(cpu);

    if (!base)
        return cpu_fault(cpu, T_DIVIDE);
    AX(cpu) = (u16)(al / base << 8 | al % base);
    cpu->fl = flags_result(FC_LOGIC, AL(cpu), 0, 1);
    return STATUS_NEXT;
}

int insn_aad(struct cpu *cpu, const struct op *op)
{
    u32 tens = AH(cpu) * (op->imm & 0xFF);
    u32 sum = AL(cpu) + tens;

    cpu->fl = flags_result(FC_ADD, sum, AL(cpu), 1);
    AX(cpu) = sum & 0xFF;
    return STATUS_NEXT;
}

/* Bits. */

enum { BIT_TEST = 4, BIT_SET, BIT_RESET, BIT_COMPLEMENT };

static u32 bit_apply(u32 value, u32 bit, unsigned action)
{
    switch (action) {
    case BIT_SET: return value | bit;
    case BIT_RESET: return value & ~bit;
    case BIT_COMPLEMENT: return value ^ bit;
    default: return value;
    }
}

/* A bit number in a register is signed and reaches memory beyond the operand (SDM vol. 2, BT). */
int insn_bt(struct cpu *cpu, const struct op *op)
{
    unsigned size = op->size, bits = size * 8;
    bool in_reg = op->reg != ZERO_REG, mem = op->flags & OP_MEM;
    s32 number = in_reg ? sign_extend(reg_read(cpu, op->reg, size), bits) : (s32)op->imm;
    u32 bit = 1u << (number & (s32)(bits - 1)), off = 0, value;

    if (mem) {
        off = op_offset(cpu, op);
        if (in_reg)
            off = (off + (u32)(number >> (size == 4 ? 5 : 4)) * size) & addr_mask(op);
        if (op->sub != BIT_TEST && !mem_check_write(cpu, op->seg, off, size))
            return STATUS_FAULT;
        if (!mem_read(cpu, op->seg, off, size, &value))
            return STATUS_FAULT;
    } else {
        value = reg_read(cpu, op->rm, size);
    }
    if (op->sub != BIT_TEST) {
        u32 changed = bit_apply(value, bit, op->sub);
        if (!mem)
            reg_write(cpu, op->rm, size, changed);
        else if (!mem_write(cpu, op->seg, off, changed, size))
            return STATUS_FAULT;
    }
    set_flags(cpu, EFLAGS_CF, value & bit ? EFLAGS_CF : 0);
    return STATUS_NEXT;
}

/* PF is that of the bit number; a source of zero leaves the destination. */
int insn_bit_scan(struct cpu *cpu, const struct op *op)
{
    u32 value, index = 0;

    if (!rm_read(cpu, op, op->size, &value))
        return STATUS_FAULT;
    if (value) {
        index = (u32)(op->sub ? 31 - __builtin_clz(value) : __builtin_ctz(value));
        reg_write(cpu, op->reg, op->size, index);
    }
    set_flags(cpu, EFLAGS_ARITH, (result_flags(index, 1) & EFLAGS_PF) | (value ? 0 : EFLAGS_ZF));
    return STATUS_NEXT;
}

/* Shifts and rotates. */

struct shifted {
    u32 res;                    /* bits above the operand size are garbage */
    bool cf;
};
typedef struct shifted shift_fn(u32 v, unsigned count, unsigned bits, bool cf);

static struct shifted shift_rol(u32 v, unsigned count, unsigned bits, bool cf)
{
    u32 res = (u32)((u64)v << count % bits | v >> (bits - count % bits - 1) >> 1);
    (void)cf;
    return (struct shifted){res, res & 1};
}
static struct shifted shift_ror(u32 v, unsigned count, unsigned bits, bool cf)
{
    u32 res = (u32)((u64)v << (bits - count % bits) | v >> count % bits);
    (void)cf;
    return (struct shifted){res, res >> (bits - 1) & 1};
}
static struct shifted shift_rcl(u32 v, unsigned count, unsigned bits, bool cf)
{
    u64 wide = (u64)cf << bits | v;
    unsigned n = count % (bits + 1);
    wide = wide << n | wide >> (bits + 1 - n);
    return (struct shifted){(u32)wide, wide >> bits & 1};
}
static struct shifted shift_rcr(u32 v, unsigned count, unsigned bits, bool cf)
{
    return shift_rcl(v, bits + 1 - count % (bits + 1), bits, cf);
}
static struct shifted shift_shl(u32 v, unsigned count, unsigned bits, bool cf)
{
    u64 wide = (u64)v << count;
    (void)cf;
    return (struct shifted){(u32)wide, wide >> bits & 1};
}
static struct shifted shift_shr(u32 v, unsigned count, unsigned bits, bool cf)
{
    (void)bits, (void)cf;
    return (struct shifted){v >> count, v >> (count - 1) & 1};
}
static struct shifted shift_sar(u32 v, unsigned count, unsigned bits, bool cf)
{
    s32 s = sign_extend(v, bits);
    (void)cf;
    return (struct shifted){(u32)(s >> count), s >> (count - 1) & 1};
}

static bool sign_differs(u32 x, u32 y, unsigned bits)
{
    return (x ^ y) >> (bits - 1) & 1;
}

static void shift_flags(struct cpu *cpu, struct shifted s, bool of, unsigned size)
{
    cpu->fl = flags_result(FC_SHIFT, s.res, (u32)s.cf | (u32)of << 1, size);
}
static void rotate_flags(struct cpu *cpu, struct shifted s, bool of)
{
    set_flags(cpu, EFLAGS_CF | EFLAGS_OF, (s.cf ? EFLAGS_CF : 0) | (of ? EFLAGS_OF : 0));
}

enum { SHIFT_RCL = 2, SHIFT_SHL = 4 };  /* rows of the group */

static bool rotate_keeps_of(const struct op *op, unsigned count)
{
    unsigned row = op->sub & 7;
    return row < SHIFT_RCL ? op->reg == ZERO_REG && count != 1 : count % (op->size * 8 + 1) == 0;
}

/* A count of zero still writes memory, but leaves the flags. Whatever the count, OF tells whether the first step
 * changes the sign; rotates by an immediate other than 1 and full turns through CF leave OF. */
int insn_rotate_shift(struct cpu *cpu, const struct op *op)
{
    static shift_fn *const table[8] = {
        shift_rol, shift_ror, shift_rcl, shift_rcr, shift_shl, shift_shr, shift_shl, shift_sar,
    };
    unsigned size = op->size, count = (op->reg == ZERO_REG ? op->imm : REG8(cpu, op->reg)) & 31;
    bool cf = arith_flags(cpu) & EFLAGS_CF, of = arith_flags(cpu) & EFLAGS_OF, rotate = (op->sub & 7) < SHIFT_SHL;
    shift_fn *shift = table[op->sub & 7];
    u32 value;

    if (!rm_check_write(cpu, op, size) || !rm_read(cpu, op, size, &value))
        return STATUS_FAULT;
    if (!count)
        return rm_write(cpu, op, size, value) ? STATUS_NEXT : STATUS_FAULT;

    struct shifted s = shift(value, count, size * 8, cf);
    if (!rm_write(cpu, op, size, s.res))
        return STATUS_FAULT;
    if (!(rotate && rotate_keeps_of(op, count)))
        of = sign_differs(value, shift(value, 1, size * 8, cf).res, size * 8);
    if (rotate)
        rotate_flags(cpu, s, of);
    else
        shift_flags(cpu, s, of, size);
    return STATUS_NEXT;
}

/* Double shifts. In 16 bits the three words shifted are destination, source, destination: this gives counts above 16
 * their meaning on real CPUs. */
static struct shifted shld(u32 dest, u32 src, unsigned count, unsigned bits)
{
    u64 wide = bits == 32 ? (u64)dest << 32 | src : (u64)dest << 48 | (u64)src << 32 | dest << 16;
    return (struct shifted){(u32)(wide << count >> (64 - bits)), wide >> (64 - count) & 1};
}
static struct shifted shrd(u32 dest, u32 src, unsigned count, unsigned bits)
{
    u64 wide = bits == 32 ? (u64)src << 32 | dest : (u64)dest << 32 | src << 16 | dest;
    return (struct shifted){(u32)(wide >> count), wide >> (count - 1) & 1};
}

typedef struct shifted double_fn(u32 dest, u32 src, unsigned count, unsigned bits);

static int double_shift(struct cpu *cpu, const struct op *op, double_fn *shift)
{
    unsigned size = op->size, bits = size * 8, count = (op->sub ? REG8(cpu, ECX * 4) : op->imm) & 31;
    u32 dest, src = reg_read(cpu, op->reg, size);

    if (!rm_check_write(cpu, op, size) || !rm_read(cpu, op, size, &dest))
        return STATUS_FAULT;
    if (!count)
        return rm_write(cpu, op, size, dest) ? STATUS_NEXT : STATUS_FAULT;

    struct shifted s = shift(dest, src, count, bits);
    if (!rm_write(cpu, op, size, s.res))
        return STATUS_FAULT;
    shift_flags(cpu, s, sign_differs(dest, shift(dest, src, 1, bits).res, bits), size);
    return STATUS_NEXT;
}

int insn_shld(struct cpu *cpu, const struct op *op)
{
    return double_shift(cpu, op, shld);
}
int insn_shrd(struct cpu *cpu, const struct op *op)
{
    return double_shift(cpu, op, shrd);
}

/* Multiply and divide. The double-width operand is AX, DX:AX or EDX:EAX. */

static u64 wide_read(const struct cpu *cpu, unsigned size)
{
    if (size == 1)
        return AX(cpu);
    return (u64)reg_read(cpu, EDX * 4, size) << size * 8 | reg_read(cpu, EAX * 4, size);
}
static void wide_write(struct cpu *cpu, unsigned size, u32 high, u32 low)
{
    reg_write(cpu, EAX * 4, size, low);
    reg_write(cpu, size == 1 ? EAX * 4 + 1 : EDX * 4, size, high);
}

/* CF and OF: the product does not fit the lower half. SF and PF are the lower half's, ZF and AF clear. */
static void multiply(struct cpu *cpu, u32 v, unsigned size, bool is_signed)
{
    unsigned bits = size * 8;
    u32 acc = reg_read(cpu, EAX * 4, size);
    u64 product = is_signed ? (u64)((s64)sign_extend(acc, bits) * sign_extend(v, bits)) : (u64)acc * v;
    u32 low = (u32)product & low_mask(bits);
    bool fits = product == (is_signed ? (u64)sign_extend(low, bits) : low);

    wide_write(cpu, size, (u32)(product >> bits), low);
    cpu->fl = flags_set((result_flags(low, size) & ~EFLAGS_ZF) | (fits ? 0 : EFLAGS_CF | EFLAGS_OF));
}

static int divide(struct cpu *cpu, u32 v, unsigned size)
{
    u64 n = wide_read(cpu, size);

    if (!v || n / v > low_mask(size * 8))
        return cpu_fault(cpu, T_DIVIDE);
    wide_write(cpu, size, (u32)(n % v), (u32)(n / v));
    return STATUS_NEXT;
}

static int divide_signed(struct cpu *cpu, u32 v, unsigned size)
{
    unsigned bits = size * 8, spare = 64 - 2 * bits;
    s64 n = (s64)(wide_read(cpu, size) << spare) >> spare, d = sign_extend(v, bits);

    if (!d || (n == INT64_MIN && d == -1) || n / d != sign_extend((u32)(n / d), bits))
        return cpu_fault(cpu, T_DIVIDE);
    wide_write(cpu, size, (u32)(n % d), (u32)(n / d));
    return STATUS_NEXT;
}

int insn_mul_div(struct cpu *cpu, const struct op *op)
{
    u32 v;

    if (!rm_read(cpu, op, op->size, &v))
        return STATUS_FAULT;
    if (op->sub == 6)
        return divide(cpu, v, op->size);
    if (op->sub == 7)
        return divide_signed(cpu, v, op->size);
    multiply(cpu, v, op->size, op->sub == 5);
    return STATUS_NEXT;
}
