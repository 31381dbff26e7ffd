/*
 * float_core.h: floating point in integers, the same on every host. Numbers
 * of all formats are unpacked into parts; arithmetic on parts rounds once, to
 * the precision and exponent range of any format.
 *
 * SDM vol. 1, 4.8 and 4.9: exceptions collect in env->flags. After an unmasked
 * invalid, denormal or zero-divide exception the value returned means nothing.
 */
#ifndef PYK_FLOAT_CORE_H
#define PYK_FLOAT_CORE_H

#include "types.h"

__extension__ typedef unsigned __int128 u128;

/* In the order of status, control and MXCSR. */
enum float_exception {
    FLOAT_IE = 0x01, FLOAT_DE = 0x02, FLOAT_ZE = 0x04, FLOAT_OE = 0x08, FLOAT_UE = 0x10, FLOAT_PE = 0x20,
    FLOAT_BEFORE = FLOAT_IE | FLOAT_DE | FLOAT_ZE,  /* unmasked: no result */
};
enum float_rounding { ROUND_NEAREST, ROUND_DOWN, ROUND_UP, ROUND_CHOP };
enum float_order { ORDER_GREATER, ORDER_LESS, ORDER_EQUAL, ORDER_UNORDERED };

struct float_env {
    u8 round;                   /* enum float_rounding */
    u8 bits;                    /* precision of results in the extended format: 24, 53 or 64 */
    u8 masks;                   /* enum float_exception bits that are masked */
    u8 flags;                   /* raised so far */
    bool up;                    /* the last rounding made the magnitude larger */
    bool denormal;              /* an operand was a denormal of its own, narrower format */
    bool zeros;                 /* MXCSR.DAZ: denormal operands count as zeros */
    bool flush;                 /* MXCSR.FTZ: where underflow is masked, tiny results become zeros */
};

struct float_format {
    u8 bits;                    /* of the significand, integer bit included */
    s32 emin, emax;             /* of normal numbers */
    s32 adjust;                 /* to the exponent where over- and underflow are unmasked; 0: their results are not used */
};
extern const struct float_format float_single, float_double;

enum float_class { CLASS_ZERO, CLASS_FINITE, CLASS_INF, CLASS_QNAN, CLASS_SNAN, CLASS_UNSUPPORTED };

/* mant * 2^(exp - 63); of a finite number bit 63 of mant is set. A NaN keeps its significand in mant. */
struct float_parts {
    u8 class;                   /* enum float_class */
    bool sign;
    bool denormal;              /* was one, or a pseudo-denormal, as an operand */
    s32 exp;
    u64 mant;
};

#define FLOAT_TOP (1ull << 63)
#define FLOAT_QUIET (1ull << 62)

/* --- formats ---------------------------------------------------------------------------------------------- */

ALWAYS_INLINE struct float_parts float_finite(bool sign, s32 exp, u64 mant, bool denormal)
{
    unsigned shift = (unsigned)__builtin_clzll(mant);
    return (struct float_parts){CLASS_FINITE, sign, denormal, exp - (s32)shift, mant << shift};
}

/* A format with an implied integer bit; frac is shifted up against bit 62. */
ALWAYS_INLINE struct float_parts float_unpack_implied(bool sign, s32 exp, s32 bias, u64 frac)
{
    if (exp == 0)
        return frac ? float_finite(sign, 1 - bias, frac, true) : (struct float_parts){.sign = sign};
    if (exp <= 2 * bias)
        return (struct float_parts){CLASS_FINITE, sign, false, exp - bias, frac | FLOAT_TOP};
    u8 class = !frac ? CLASS_INF : frac & FLOAT_QUIET ? CLASS_QNAN : CLASS_SNAN;
    return (struct float_parts){.class = class, .sign = sign, .mant = frac | FLOAT_TOP};
}
ALWAYS_INLINE struct float_parts float32_unpack(u32 a)
{
    return float_unpack_implied(a >> 31, a >> 23 & 0xFF, 127, (u64)(a & 0x7FFFFF) << 40);
}
ALWAYS_INLINE struct float_parts float64_unpack(u64 a)
{
    return float_unpack_implied(a >> 63, (s32)(a >> 52 & 0x7FF), 1023, (a & 0xFFFFFFFFFFFFF) << 11);
}

ALWAYS_INLINE bool float32_normal(u32 a)
{
    return (a >> 23 & 0xFF) - 1 < 2 * 127;
}
ALWAYS_INLINE bool float64_normal(u64 a)
{
    return (a >> 52 & 0x7FF) - 1 < 2 * 1023;
}

/* The biased exponent field of packed parts. */
ALWAYS_INLINE u64 float_field(const struct float_parts *p, s32 bias)
{
    if (p->class == CLASS_ZERO)
        return 0;
    if (p->class != CLASS_FINITE)
        return (u64)(2 * bias + 1);
    return p->mant & FLOAT_TOP ? (u64)(p->exp + bias) : 0;
}
ALWAYS_INLINE u64 float_fraction(const struct float_parts *p)
{
    return p->class == CLASS_INF || p->class == CLASS_ZERO ? 0 : p->mant & ~FLOAT_TOP;
}
ALWAYS_INLINE u32 float32_pack(struct float_parts p)
{
    return (u32)((u64)p.sign << 31 | float_field(&p, 127) << 23 | float_fraction(&p) >> 40);
}
ALWAYS_INLINE u64 float64_pack(struct float_parts p)
{
    return (u64)p.sign << 63 | float_field(&p, 1023) << 52 | float_fraction(&p) >> 11;
}

/* --- rounding --------------------------------------------------------------------------------------------- */

struct float_cut {
    u64 mant;
    bool inexact, up, carry;    /* carry: mant went over and is 1.0, one exponent up */
};

/* hi + lo / 2^64 cut to its upper bits. */
ALWAYS_INLINE struct float_cut float_cut_to(u64 hi, u64 lo, unsigned bits, unsigned round, bool sign)
{
    u64 unit = 1ull << (64 - bits);
    u64 tail = bits == 64 ? lo : hi << bits | (lo != 0);
    struct float_cut c = {hi & ~(unit - 1), tail != 0, false, false};
    if (likely(round == ROUND_NEAREST))
        c.up = tail > FLOAT_TOP || (tail == FLOAT_TOP && (c.mant & unit));
    else if (round != ROUND_CHOP)
        c.up = c.inexact && sign == (round == ROUND_DOWN);
    if (c.up) {
        bool high = c.mant & FLOAT_TOP;
        c.mant += unit;
        c.carry = high && !(c.mant & FLOAT_TOP);
        if (c.carry)
            c.mant = FLOAT_TOP;
    }
    return c;
}

/* The number sign (hi + lo / 2^64) * 2^(exp - 63), bit 63 of hi set, in a format; a lo that is not zero but below its
 * last bit counts as sticky. Denormals come back with bit 63 of mant clear and exp = emin. */
struct float_parts float_round(bool sign, s32 exp, u64 hi, u64 lo, const struct float_format *format,
                               struct float_env *env);
/* Any 128-bit significand that is not zero, in place of hi and lo: it is shifted up first. */
struct float_parts float_normalize(bool sign, s32 exp, u128 mant, const struct float_format *format,
                                   struct float_env *env);

/* a >> count, with what is lost or-ed into bit 0. */
ALWAYS_INLINE u128 float_shift_jam(u128 a, u32 count)
{
    if (count == 0)
        return a;
    if (count > 127)
        return a != 0;
    return a >> count | ((a << (128 - count)) != 0);
}

/* A finite number rounded to an integer by env->round: its magnitude, with inexact in PE and env->up. False, and nothing
 * raised: 2^64 or more. */
bool float_integer(const struct float_parts *p, struct float_env *env, u64 *ret);
/* bits 16, 32 or 64; what does not fit is invalid and gives the most negative integer. */
s64 float_to_int(const struct float_parts *p, unsigned bits, struct float_env *env);

/* --- arithmetic of what is no NaN ------------------------------------------------------------------------- */

ALWAYS_INLINE bool float_is_nan(const struct float_parts *p)
{
    return p->class == CLASS_QNAN || p->class == CLASS_SNAN;
}
ALWAYS_INLINE bool float_blocked(const struct float_env *env)
{
    return env->flags & ~env->masks & FLOAT_BEFORE;
}
/* Raise DE where an operand is denormal; true if that ends the operation. */
ALWAYS_INLINE bool float_denormal(const struct float_parts *a, const struct float_parts *b, struct float_env *env)
{
    if (unlikely(a->denormal || b->denormal || env->denormal))
        env->flags |= FLOAT_DE;
    return float_blocked(env);
}
/* Raise IE: the indefinite QNaN. */
struct float_parts float_invalid(struct float_env *env);

typedef struct float_parts float_operation(struct float_parts a, struct float_parts b, const struct float_format *format,
                                           struct float_env *env);
/* a - b is float_add with b.sign turned. float_sqrt takes its operand twice. */
float_operation float_add, float_mul, float_div, float_sqrt;

/* floor(sqrt(n)) for n >= 2^126 (2^62); *rest = n - root^2. */
u64 float_root128(u128 n, u128 *rest);
u32 float_root64(u64 n, u64 *rest);

/* a against b with everything known of their order but NaNs. */
enum float_order float_compare(const struct float_parts *a, const struct float_parts *b);

#endif
