/*
 * flags.h: lazy arithmetic flags.
 *
 * Three values stand for CF PF AF ZF SF OF: the result, the first operand and
 * the kind of operation. Results and operands of 8 and 16 bits are shifted to
 * the top of the word, so that one formula serves all sizes; the shift is in
 * the kind's low five bits, the class in the next four, then how CF follows.
 */
#ifndef PYK_FLAGS_H
#define PYK_FLAGS_H

#include "types.h"

#define EFLAGS_CF 0x00000001u
#define EFLAGS_PF 0x00000004u
#define EFLAGS_AF 0x00000010u
#define EFLAGS_ZF 0x00000040u
#define EFLAGS_SF 0x00000080u
#define EFLAGS_TF 0x00000100u
#define EFLAGS_IF 0x00000200u
#define EFLAGS_DF 0x00000400u
#define EFLAGS_OF 0x00000800u
#define EFLAGS_IOPL 0x00003000u
#define EFLAGS_NT 0x00004000u
#define EFLAGS_RF 0x00010000u
#define EFLAGS_VM 0x00020000u
#define EFLAGS_AC 0x00040000u
#define EFLAGS_VIF 0x00080000u
#define EFLAGS_VIP 0x00100000u
#define EFLAGS_ID 0x00200000u
#define EFLAGS_ARITH (EFLAGS_CF | EFLAGS_PF | EFLAGS_AF | EFLAGS_ZF | EFLAGS_SF | EFLAGS_OF)
#define EFLAGS_FIXED 0x00000002u
#define EFLAGS_SYSTEM 0x00277700u

enum flags_class {
    FC_ADD,     /* res = a + b */
    FC_ADC,     /* res = a + b + 1 */
    FC_SUB,     /* res = a - b */
    FC_SBB,     /* res = a - b - 1 */
    FC_LOGIC,   /* CF = OF = AF = 0 */
    FC_INC,     /* a holds the CF that inc and dec keep */
    FC_DEC,
    FC_SHIFT,   /* a holds CF in bit 0, OF in bit 1, AF in bit 2; the others follow res */
    FC_EFLAGS,  /* a holds the six flags at their EFLAGS places; res is not used */
};
#define CARRY_BELOW 1u  /* CF if res < a, if they are equal, if res > a; bit 0 of a */
#define CARRY_EQUAL 2u
#define CARRY_ABOVE 4u
#define CARRY_BIT 8u
#define CARRY_RULE(class) \
    ((class) == FC_ADD ? CARRY_BELOW : (class) == FC_ADC ? CARRY_BELOW | CARRY_EQUAL : \
     (class) == FC_SUB ? CARRY_ABOVE : (class) == FC_SBB ? CARRY_ABOVE | CARRY_EQUAL : \
     (class) == FC_LOGIC ? 0 : CARRY_BIT)
#define KIND(class, shift) (CARRY_RULE(class) << 9 | (u32)(class) << 5 | (shift))
#define KIND_CLASS(kind) ((kind) >> 5 & 15)
#define KIND_CARRY(kind) ((kind) >> 9)
#define KIND_SHIFT(kind) ((kind) & 31)
#define SHIFT8 24u
#define SHIFT16 16u
#define SHIFT32 0u

struct lazy_flags {
    u32 res;
    u32 a;
    u32 kind;
};

/* No branches: INC and DEC need it, whatever was before them. */
ALWAYS_INLINE bool flags_cf(u32 res, u32 a, u32 kind)
{
    u32 rule = KIND_CARRY(kind);
    if (__builtin_constant_p(rule))
        return (rule & CARRY_BELOW && res < a) || (rule & CARRY_EQUAL && res == a) || (rule & CARRY_ABOVE && res > a) ||
               (rule & CARRY_BIT && a & 1);
    u32 order = 1u + (res > a) - (res < a);
    return (rule >> order | (rule >> 3 & a)) & 1;
}

ALWAYS_INLINE bool flags_zf(u32 res, u32 a, u32 kind)
{
    return KIND_CLASS(kind) == FC_EFLAGS ? (a & EFLAGS_ZF) != 0 : res == 0;
}

ALWAYS_INLINE bool flags_sf(u32 res, u32 a, u32 kind)
{
    return KIND_CLASS(kind) == FC_EFLAGS ? (a & EFLAGS_SF) != 0 : res >> 31;
}

ALWAYS_INLINE bool flags_pf(u32 res, u32 a, u32 kind)
{
    return KIND_CLASS(kind) == FC_EFLAGS ? (a & EFLAGS_PF) != 0 : !__builtin_parity((u8)(res >> KIND_SHIFT(kind)));
}

ALWAYS_INLINE bool flags_of(u32 res, u32 a, u32 kind)
{
    u32 one = 1u << KIND_SHIFT(kind);
    switch (KIND_CLASS(kind)) {
    case FC_ADD: return (~(a ^ (res - a)) & (a ^ res)) >> 31;
    case FC_ADC: return (~(a ^ (res - a - one)) & (a ^ res)) >> 31;
    case FC_SUB: return ((a ^ (a - res)) & (a ^ res)) >> 31;
    case FC_SBB: return ((a ^ (a - res - one)) & (a ^ res)) >> 31;
    case FC_LOGIC: return false;
    case FC_INC: return res == 0x80000000u;
    case FC_DEC: return res == 0x80000000u - one;
    case FC_SHIFT: return (a >> 1) & 1;
    default: return (a & EFLAGS_OF) != 0;
    }
}

ALWAYS_INLINE bool flags_af(u32 res, u32 a, u32 kind)
{
    u32 shift = KIND_SHIFT(kind);
    switch (KIND_CLASS(kind)) {
    case FC_ADD: return ((a ^ (res - a) ^ res) >> shift) & 0x10;
    case FC_SUB: return ((a ^ (a - res) ^ res) >> shift) & 0x10;
    case FC_ADC: return ((a ^ (res - a - (1u << shift)) ^ res) >> shift) & 0x10;
    case FC_SBB: return ((a ^ (a - res - (1u << shift)) ^ res) >> shift) & 0x10;
    case FC_LOGIC: return false;
    case FC_INC: return ((res >> shift) & 15) == 0;
    case FC_DEC: return ((res >> shift) & 15) == 15;
    case FC_SHIFT: return (a >> 2) & 1;
    default: return (a & EFLAGS_AF) != 0;
    }
}

/* The six arithmetic flags at their EFLAGS places. */
u32 flags_get(u32 res, u32 a, u32 kind);

ALWAYS_INLINE struct lazy_flags flags_set(u32 eflags)
{
    return (struct lazy_flags){0, eflags & EFLAGS_ARITH, KIND(FC_EFLAGS, 0)};
}

#endif
