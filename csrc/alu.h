/*
 * alu.h: pure arithmetic with lazy flags. Operands of 8 and 16 bits come in
 * the low bits; the flag values leave shifted to the top of the word.
 */
#ifndef PYK_ALU_H
#define PYK_ALU_H

#include "flags.h"

struct alu {
    u32 r;                  /* result in the low bits */
    struct lazy_flags fl;
};

#define ALU_RESULT(r, x, class, shift) ((struct alu){r, {(r) << (shift), (x) << (shift), KIND(class, shift)}})

ALWAYS_INLINE struct alu alu_add(u32 x, u32 y, u32 shift, bool cf)
{
    (void)cf;
    return ALU_RESULT(x + y, x, FC_ADD, shift);
}

ALWAYS_INLINE struct alu alu_adc(u32 x, u32 y, u32 shift, bool cf)
{
    return cf ? ALU_RESULT(x + y + 1, x, FC_ADC, shift) : ALU_RESULT(x + y, x, FC_ADD, shift);
}

ALWAYS_INLINE struct alu alu_sub(u32 x, u32 y, u32 shift, bool cf)
{
    (void)cf;
    return ALU_RESULT(x - y, x, FC_SUB, shift);
}

ALWAYS_INLINE struct alu alu_sbb(u32 x, u32 y, u32 shift, bool cf)
{
    return cf ? ALU_RESULT(x - y - 1, x, FC_SBB, shift) : ALU_RESULT(x - y, x, FC_SUB, shift);
}

ALWAYS_INLINE struct alu alu_and(u32 x, u32 y, u32 shift, bool cf)
{
    (void)cf;
    return ALU_RESULT(x & y, x, FC_LOGIC, shift);
}

ALWAYS_INLINE struct alu alu_or(u32 x, u32 y, u32 shift, bool cf)
{
    (void)cf;
    return ALU_RESULT(x | y, x, FC_LOGIC, shift);
}

ALWAYS_INLINE struct alu alu_xor(u32 x, u32 y, u32 shift, bool cf)
{
    (void)cf;
    return ALU_RESULT(x ^ y, x, FC_LOGIC, shift);
}

ALWAYS_INLINE struct alu alu_inc(u32 x, u32 shift, bool cf)
{
    return (struct alu){x + 1, {(x + 1) << shift, cf, KIND(FC_INC, shift)}};
}

ALWAYS_INLINE struct alu alu_dec(u32 x, u32 shift, bool cf)
{
    return (struct alu){x - 1, {(x - 1) << shift, cf, KIND(FC_DEC, shift)}};
}

ALWAYS_INLINE struct alu alu_neg(u32 x, u32 shift, bool cf)
{
    (void)cf;
    return (struct alu){-x, {-x << shift, 0, KIND(FC_SUB, shift)}};
}

/* CF and OF say that the product does not fit; ZF and AF are cleared, SF and PF follow the result. */
ALWAYS_INLINE struct alu alu_imul(u32 x, u32 y)
{
    s64 product = (s64)(s32)x * (s32)y;
    u32 r = (u32)product;
    return (struct alu){r, {r, product != (s32)r ? 3 : 0, KIND(FC_SHIFT, SHIFT32)}};
}

/* The eight conditions; an odd condition code is the negation of the even one before it. */
enum cond { CC_O, CC_B, CC_Z, CC_BE, CC_S, CC_P, CC_L, CC_LE };

ALWAYS_INLINE bool cond_flags(enum cond cc, u32 res, u32 a, u32 kind)
{
    switch (cc) {
    case CC_O: return flags_of(res, a, kind);
    case CC_B: return flags_cf(res, a, kind);
    case CC_Z: return flags_zf(res, a, kind);
    case CC_BE: return flags_cf(res, a, kind) | flags_zf(res, a, kind);
    case CC_S: return flags_sf(res, a, kind);
    case CC_P: return flags_pf(res, a, kind);
    case CC_L: return flags_sf(res, a, kind) ^ flags_of(res, a, kind);
    default: return flags_zf(res, a, kind) | (flags_sf(res, a, kind) ^ flags_of(res, a, kind));
    }
}

/* The condition after a compare, from its result and first operand: x - y = res. */
ALWAYS_INLINE bool cond_sub(enum cond cc, u32 res, u32 x, u32 shift)
{
    u32 y = x - res;
    switch (cc) {
    case CC_B: return x < y;
    case CC_Z: return x == y;
    case CC_BE: return x <= y;
    case CC_L: return (s32)x < (s32)y;
    case CC_LE: return (s32)x <= (s32)y;
    default: return cond_flags(cc, res, x, KIND(FC_SUB, shift));
    }
}

#endif
