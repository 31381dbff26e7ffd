/* execute_register.c: hot handlers whose operands are registers and immediates, and those that end blocks. */
#include "execute.h"

#define ALU_R_R(op_, W) \
    H(op_##_r_r##W) \
    { \
        struct alu f = alu_##op_(REG(W, op->reg), REG(W, op->rm), SHIFT##W, CF); \
        REG(W, op->reg) = (BITS##W)f.r; \
        SET_FLAGS(f); \
        NEXT; \
    }
#define ALU_R_I(op_, W) \
    H(op_##_r_i##W) \
    { \
        struct alu f = alu_##op_(REG(W, op->reg), (BITS##W)op->imm, SHIFT##W, CF); \
        REG(W, op->reg) = (BITS##W)f.r; \
        SET_FLAGS(f); \
        NEXT; \
    }
#define CMP_R(name, op_, W) \
    H(name##_r_r##W) \
    { \
        struct alu f = alu_##op_(REG(W, op->reg), REG(W, op->rm), SHIFT##W, false); \
        SET_FLAGS(f); \
        NEXT; \
    } \
    H(name##_r_i##W) \
    { \
        struct alu f = alu_##op_(REG(W, op->reg), (BITS##W)op->imm, SHIFT##W, false); \
        SET_FLAGS(f); \
        NEXT; \
    }
#define UNARY_R(op_, W) \
    H(op_##_r##W) \
    { \
        struct alu f = alu_##op_(REG(W, op->reg), SHIFT##W, CF); \
        REG(W, op->reg) = (BITS##W)f.r; \
        SET_FLAGS(f); \
        NEXT; \
    }
#define MOV_R(W) \
    H(not_r##W) \
    { \
        REG(W, op->reg) = (BITS##W)~REG(W, op->reg); \
        NEXT; \
    } \
    H(mov_r_r##W) \
    { \
        REG(W, op->reg) = REG(W, op->rm); \
        NEXT; \
    } \
    H(mov_r_i##W) \
    { \
        REG(W, op->reg) = (BITS##W)op->imm; \
        NEXT; \
    }
#define EXTEND_R(name, W, type) \
    H(name##W##_r_r) \
    { \
        REG32(cpu, op->reg) = (u32)(type)REG(W, op->rm); \
        NEXT; \
    }

#define PER_WIDTH(M, ...) M(__VA_ARGS__, 8) M(__VA_ARGS__, 16) M(__VA_ARGS__, 32)
#define ALU_ALL(op_) PER_WIDTH(ALU_R_R, op_) PER_WIDTH(ALU_R_I, op_)

ALU_NAMES(ALU_ALL)
PER_WIDTH(CMP_R, cmp, sub)
PER_WIDTH(CMP_R, test, and)
PER_WIDTH(UNARY_R, inc)
PER_WIDTH(UNARY_R, dec)
PER_WIDTH(UNARY_R, neg)
MOV_R(8)
MOV_R(16)
MOV_R(32)
EXTEND_R(movzx, 8, u8)
EXTEND_R(movzx, 16, u16)
EXTEND_R(movsx, 8, s8)
EXTEND_R(movsx, 16, s16)

H(lea_bd)
{
    REG32(cpu, op->reg) = EA_bd;
    NEXT;
}

H(lea_bis)
{
    REG32(cpu, op->reg) = EA_bis;
    NEXT;
}

H(lea_any)
{
    reg_write(cpu, op->reg, op->size, op_offset(cpu, op));
    NEXT;
}

H(cwde)
{
    REG32(cpu, 4 * EAX) = (u32)(s32)(s16)REG16(cpu, 4 * EAX);
    NEXT;
}

H(cdq)
{
    REG32(cpu, 4 * EDX) = (u32)((s32)REG32(cpu, 4 * EAX) >> 31);
    NEXT;
}

H(bswap)
{
    REG32(cpu, op->reg) = __builtin_bswap32(REG32(cpu, op->reg));
    NEXT;
}

H(xchg_r_r32)
{
    u32 value = REG32(cpu, op->reg);
    REG32(cpu, op->reg) = REG32(cpu, op->rm);
    REG32(cpu, op->rm) = value;
    NEXT;
}

H(nop)
{
    NEXT;
}

/* Shifts of registers; count is 1-31. OF is defined for a count of 1 only; whatever the count, Intel's CPUs tell
 * whether a shift by one changes the sign. x comes zero-extended. */
ALWAYS_INLINE struct alu shift_result(u32 r, u32 cf, u32 of, u32 shift)
{
    return (struct alu){r, {r << shift, cf | of << 1, KIND(FC_SHIFT, shift)}};
}

ALWAYS_INLINE struct alu shift_left(u32 x, u32 count, u32 shift)
{
    u32 top = x << shift;
    return shift_result(x << count, top << (count - 1) >> 31, (top ^ top << 1) >> 31, shift);
}

ALWAYS_INLINE struct alu shift_right(u32 x, u32 count, u32 shift)
{
    return shift_result(x >> count, (x >> (count - 1)) & 1, x << shift >> 31, shift);
}

ALWAYS_INLINE struct alu shift_arithmetic(u32 x, u32 count, u32 shift)
{
    s32 s = (s32)(x << shift) >> shift;
    return shift_result((u32)(s >> count), (u32)(s >> (count - 1)) & 1, 0, shift);
}

#define SHIFT_R(name, function, W) \
    H(name##_r_i##W) \
    { \
        struct alu f = function(REG(W, op->reg), op->imm, SHIFT##W); \
        REG(W, op->reg) = (BITS##W)f.r; \
        SET_FLAGS(f); \
        NEXT; \
    } \
    H(name##_r_cl##W) \
    { \
        u32 count = REG8(cpu, 4 * ECX) & 31; \
        if (count) { \
            struct alu f = function(REG(W, op->reg), count, SHIFT##W); \
            REG(W, op->reg) = (BITS##W)f.r; \
            SET_FLAGS(f); \
        } \
        NEXT; \
    }
PER_WIDTH(SHIFT_R, shl, shift_left)
PER_WIDTH(SHIFT_R, shr, shift_right)
PER_WIDTH(SHIFT_R, sar, shift_arithmetic)

/* OF changes with a count of 1 only. */
H(rol_r_i)
{
    u32 x = REG32(cpu, op->reg), r = x << op->imm | x >> (32 - op->imm);
    u32 of = op->imm == 1 ? (r >> 31) ^ (r & 1) : flags_of(res, a, kind);
    struct lazy_flags fl = flags_merge(res, a, kind, r & 1, of);
    REG32(cpu, op->reg) = r;
    SET_LAZY(fl);
    NEXT;
}

H(ror_r_i)
{
    u32 x = REG32(cpu, op->reg), r = x >> op->imm | x << (32 - op->imm);
    u32 of = op->imm == 1 ? (r ^ r << 1) >> 31 : flags_of(res, a, kind);
    struct lazy_flags fl = flags_merge(res, a, kind, r >> 31, of);
    REG32(cpu, op->reg) = r;
    SET_LAZY(fl);
    NEXT;
}

H(imul_r_r)
{
    struct alu f = alu_imul(REG32(cpu, op->reg), REG32(cpu, op->rm));
    REG32(cpu, op->reg) = f.r;
    SET_FLAGS(f);
    NEXT;
}

H(imul_r_r_i)
{
    struct alu f = alu_imul(REG32(cpu, op->rm), op->imm);
    REG32(cpu, op->reg) = f.r;
    SET_FLAGS(f);
    NEXT;
}

H(mul_r32)
{
    u64 product = (u64)REG32(cpu, 4 * EAX) * REG32(cpu, op->rm);
    REG32(cpu, 4 * EAX) = res = (u32)product;
    REG32(cpu, 4 * EDX) = (u32)(product >> 32);
    a = product >> 32 ? 3 : 0;
    kind = KIND(FC_SHIFT, SHIFT32);
    NEXT;
}

H(imul_r32)
{
    s64 product = (s64)(s32)REG32(cpu, 4 * EAX) * (s32)REG32(cpu, op->rm);
    REG32(cpu, 4 * EAX) = res = (u32)product;
    REG32(cpu, 4 * EDX) = (u32)(product >> 32);
    a = product != (s32)product ? 3 : 0;
    kind = KIND(FC_SHIFT, SHIFT32);
    NEXT;
}

H(div_r32)
{
    u64 dividend = (u64)REG32(cpu, 4 * EDX) << 32 | REG32(cpu, 4 * EAX);
    u32 divisor = REG32(cpu, op->rm);
    if (unlikely(REG32(cpu, 4 * EDX) >= divisor)) {
        cpu_fault(cpu, T_DIVIDE);
        return leave_fault(OP_ARGS);
    }
    REG32(cpu, 4 * EAX) = (u32)(dividend / divisor);
    REG32(cpu, 4 * EDX) = (u32)(dividend % divisor);
    NEXT;
}

/* clc, stc, cmc: CARRY_COMPLEMENT in sub, else the new CF. */
H(carry)
{
    u32 of = flags_of(res, a, kind);
    u32 cf = op->sub == CARRY_COMPLEMENT ? !flags_cf(res, a, kind) : op->sub;
    struct lazy_flags fl = flags_merge(res, a, kind, cf, of);
    SET_LAZY(fl);
    NEXT;
}

H(direction)
{
    cpu->eflags = (cpu->eflags & ~EFLAGS_DF) | (op->sub ? EFLAGS_DF : 0);
    NEXT;
}

/* imm 1 negates the condition. */
#define SET_R(cc, CC) \
    H(set_r_##cc) \
    { \
        REG8(cpu, op->rm) = cond_flags(CC, res, a, kind) ^ (u8)op->imm; \
        NEXT; \
    }
#define CMOV_R_R(cc, CC) \
    H(cmov_r_r_##cc) \
    { \
        u32 value = REG32(cpu, op->rm); \
        REG32(cpu, op->reg) = cond_flags(CC, res, a, kind) ^ (op->imm & 1) ? value : REG32(cpu, op->reg); \
        NEXT; \
    }
#define PER_COND(M) M(o, CC_O) M(b, CC_B) M(z, CC_Z) M(be, CC_BE) M(s, CC_S) M(p, CC_P) M(l, CC_L) M(le, CC_LE)
PER_COND(SET_R)
PER_COND(CMOV_R_R)

H(jmp)
{
    EXIT(1);
}

H(jmp_r)
{
    EXIT_INDIRECT(REG32(cpu, op->rm));
}

H(loop32)
{
    u32 count = --REG32(cpu, 4 * ECX);
    EXIT_IF(count);
}

/* Branches on flags of any kind, of a compare or subtraction, of a logical operation. */
#define JCC(cc, CC) \
    H(jcc_##cc) \
    { \
        EXIT_IF(cond_flags(CC, res, a, kind)); \
    } \
    H(jsub_##cc) \
    { \
        EXIT_IF(cond_sub(CC, res, a, KIND_SHIFT(kind))); \
    } \
    H(jlogic_##cc) \
    { \
        EXIT_IF(cond_flags(CC, res, a, KIND(FC_LOGIC, KIND_SHIFT(kind)))); \
    }
PER_COND(JCC)

/* Fused pairs: an operation and the branch on its flags. */
#define JCMP(cc, CC, W) \
    H(jcmp##W##_r_r_##cc) \
    { \
        struct alu f = alu_sub(REG(W, op->reg), REG(W, op->rm), SHIFT##W, false); \
        SET_FLAGS(f); \
        EXIT_IF(cond_sub(CC, res, a, SHIFT##W)); \
    } \
    H(jcmp##W##_r_i_##cc) \
    { \
        struct alu f = alu_sub(REG(W, op->reg), (BITS##W)op->imm, SHIFT##W, false); \
        SET_FLAGS(f); \
        EXIT_IF(cond_sub(CC, res, a, SHIFT##W)); \
    } \
    H(jtest##W##_r_r_##cc) \
    { \
        struct alu f = alu_and(REG(W, op->reg), REG(W, op->rm), SHIFT##W, false); \
        SET_FLAGS(f); \
        EXIT_IF(cond_flags(CC, res, a, KIND(FC_LOGIC, SHIFT##W))); \
    } \
    H(jtest##W##_r_i_##cc) \
    { \
        struct alu f = alu_and(REG(W, op->reg), (BITS##W)op->imm, SHIFT##W, false); \
        SET_FLAGS(f); \
        EXIT_IF(cond_flags(CC, res, a, KIND(FC_LOGIC, SHIFT##W))); \
    }
#define JCMP8(cc, CC) JCMP(cc, CC, 8)
#define JCMP32(cc, CC) JCMP(cc, CC, 32)
PER_COND(JCMP8)
PER_COND(JCMP32)

#define JALU(cc, CC, op_, class) \
    H(j##op_##32_r_i_##cc) \
    { \
        struct alu f = alu_##op_(REG32(cpu, op->reg), op->imm, SHIFT32, false); \
        REG32(cpu, op->reg) = f.r; \
        SET_FLAGS(f); \
        EXIT_IF(cond_flags(CC, res, a, KIND(class, SHIFT32))); \
    }
#define JSUB(cc, CC) JALU(cc, CC, sub, FC_SUB)
#define JADD(cc, CC) JALU(cc, CC, add, FC_ADD)
#define JAND(cc, CC) JALU(cc, CC, and, FC_LOGIC)
PER_COND(JSUB)
PER_COND(JADD)
PER_COND(JAND)

#define JDEC(cc, CC) \
    H(jdec32_r_##cc) \
    { \
        struct alu f = alu_dec(REG32(cpu, op->reg), SHIFT32, CF); \
        REG32(cpu, op->reg) = f.r; \
        SET_FLAGS(f); \
        EXIT_IF(cond_flags(CC, res, a, KIND(FC_DEC, SHIFT32))); \
    }
PER_COND(JDEC)
