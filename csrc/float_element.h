/*
 * float_element.h: one element of an SSE instruction, in single or double
 * precision; what float_simd*.c share. One text serves both formats: struct
 * layout is a constant where these functions are inlined.
 */
#ifndef PYK_FLOAT_ELEMENT_H
#define PYK_FLOAT_ELEMENT_H

#include "float_core.h"
#include "float_simd.h"

struct layout {
    unsigned frac;              /* bits of the fraction */
    s32 bias;                   /* of the exponent */
};
#define SINGLE ((struct layout){23, 127})
#define DOUBLE ((struct layout){52, 1023})

/* Field by field: a structure returned would be put together in memory, and its first use would wait for that. */
ALWAYS_INLINE void element_begin(struct float_env *env, u32 mxcsr)
{
    env->round = MXCSR_ROUNDING(mxcsr);
    env->bits = 0;
    env->masks = MXCSR_MASKS(mxcsr);
    env->flags = 0;
    env->up = env->denormal = false;
    env->zeros = mxcsr & MXCSR_DAZ;
    env->flush = mxcsr & MXCSR_FTZ;
}
/* What the elements raised together: where an exception before the computation is not masked, none after it is looked
 * for (SDM vol. 1, 11.5.3). */
ALWAYS_INLINE unsigned element_flags(const struct float_env *env)
{
    return unlikely(float_blocked(env)) ? env->flags & FLOAT_BEFORE : env->flags;
}

ALWAYS_INLINE u64 element_infinity(struct layout l)
{
    return (u64)(2 * l.bias + 1) << l.frac;
}
ALWAYS_INLINE u64 element_sign(struct layout l)
{
    return (u64)(2 * l.bias + 2) << l.frac;
}
ALWAYS_INLINE s32 element_exponent(u64 a, struct layout l)
{
    return (s32)(a >> l.frac) & (2 * l.bias + 1);
}
/* Neither zero nor denormal, infinite or NaN, by the biased exponent. */
ALWAYS_INLINE bool element_normal(s32 exponent, struct layout l)
{
    return (u32)(exponent - 1) < (u32)(2 * l.bias);
}
/* The significand of a normal number against bit 63. */
ALWAYS_INLINE u64 element_mant(u64 a, struct layout l)
{
    return a << (63 - l.frac) | FLOAT_TOP;
}
/* sig, with bit 63 set, rounded: true if the result is a normal number, with *ret. */
ALWAYS_INLINE bool element_round(bool sign, s32 exponent, u64 sig, struct float_env *env, struct layout l, u64 *ret)
{
    struct float_cut c = float_cut_to(sig, 0, l.frac + 1, env->round, sign);
    exponent += c.carry;
    if (unlikely(!element_normal(exponent, l)))
        return false;
    env->flags |= c.inexact ? FLOAT_PE : 0;
    *ret = (sign ? element_sign(l) : 0) | (u64)exponent << l.frac | (c.mant & ~FLOAT_TOP) >> (63 - l.frac);
    return true;
}

ALWAYS_INLINE const struct float_format *element_format(struct layout l)
{
    return l.frac == 23 ? &float_single : &float_double;
}
ALWAYS_INLINE struct float_parts element_unpack(u64 a, const struct float_env *env, struct layout l)
{
    struct float_parts p = l.frac == 23 ? float32_unpack((u32)a) : float64_unpack(a);
    if (p.denormal && env->zeros)
        p = (struct float_parts){.class = CLASS_ZERO, .sign = p.sign};
    return p;
}
ALWAYS_INLINE u64 element_pack(struct float_parts p, struct layout l)
{
    return l.frac == 23 ? float32_pack(p) : float64_pack(p);
}
/* True: a or b is a NaN, and *ret is the result: the first, made quiet (SDM vol. 1, table 4-7). */
ALWAYS_INLINE bool element_nan(const struct float_parts *a, const struct float_parts *b, struct float_env *env,
                               struct float_parts *ret)
{
    if (likely(!float_is_nan(a) && !float_is_nan(b)))
        return false;
    if (a->class == CLASS_SNAN || b->class == CLASS_SNAN)
        env->flags |= FLOAT_IE;
    *ret = float_is_nan(a) ? *a : *b;
    ret->mant |= FLOAT_QUIET;
    return true;
}

#endif
