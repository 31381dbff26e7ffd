/* float_simd_convert.c: SSE and SSE2 conversions, and the approximations. */
#include "float_element.h"

#define EXPONENT_SHIFT (1023 - 127)     /* between the biases */
#define FRAC_SHIFT (52 - 23)

/* --- one element ------------------------------------------------------------------------------------------ */

/* A denormal is inexact, not a denormal operand (SDM vol. 1, table 11-1). chop: CVTT. */
ALWAYS_INLINE u32 to_int(u64 a, bool chop, struct float_env *env, struct layout l)
{
    u8 round = env->round;
    struct float_parts p = element_unpack(a, env, l);
    if (chop)
        env->round = ROUND_CHOP;
    s64 value = float_to_int(&p, 32, env);
    env->round = round;
    return (u32)value;
}

ALWAYS_INLINE u64 from_int(s32 a, struct float_env *env, struct layout l)
{
    u64 ret = 0, size = a < 0 ? -(u64)a : (u64)a;
    if (a == 0)
        return 0;
    unsigned shift = (unsigned)__builtin_clzll(size);
    element_round(a < 0, l.bias + 63 - (s32)shift, size << shift, env, l, &ret);
    return ret;
}

/* NaNs keep the upper part of their significand and get quiet. */
static struct float_parts converted(struct float_parts p, struct float_env *env)
{
    struct float_parts ret = p;
    if (!element_nan(&p, &p, env, &ret))
        float_denormal(&p, &p, env);
    return ret;
}

static u32 narrow(u64 a, struct float_env *env)
{
    s32 exponent = element_exponent(a, DOUBLE);
    u64 ret;
    if (likely(element_normal(exponent, DOUBLE)) &&
        element_round(a >> 63, exponent - EXPONENT_SHIFT, element_mant(a, DOUBLE), env, SINGLE, &ret))
        return (u32)ret;
    struct float_parts p = converted(element_unpack(a, env, DOUBLE), env);
    if (p.class == CLASS_FINITE && !float_blocked(env))
        p = float_round(p.sign, p.exp, p.mant, 0, &float_single, env);
    return float32_pack(p);
}

static u64 widen(u32 a, struct float_env *env)
{
    if (likely(element_normal(element_exponent(a, SINGLE), SINGLE)))
        return (u64)(a >> 31) << 63 | (((u64)(a & 0x7FFFFFFF) << FRAC_SHIFT) + ((u64)EXPONENT_SHIFT << 52));
    return float64_pack(converted(element_unpack(a, env, SINGLE), env));
}

/* --- instructions ----------------------------------------------------------------------------------------- */

#define INSTRUCTION(name) unsigned float_##name(union lanes *d, const union lanes *s, unsigned imm, u32 mxcsr)

ALWAYS_INLINE unsigned ints(union lanes *d, const union lanes *s, unsigned n, bool chop, u32 mxcsr, struct layout l)
{
    struct float_env env;
    element_begin(&env, mxcsr);
    for (unsigned i = 0; i < n; i++)
        d->d[i] = to_int(l.frac == 23 ? s->d[i] : s->q[i], chop, &env, l);
    return element_flags(&env);
}

INSTRUCTION(cvtss2si)
{
    (void)imm;
    return ints(d, s, 1, false, mxcsr, SINGLE);
}

INSTRUCTION(cvttss2si)
{
    (void)imm;
    return ints(d, s, 1, true, mxcsr, SINGLE);
}

INSTRUCTION(cvtsd2si)
{
    (void)imm;
    return ints(d, s, 1, false, mxcsr, DOUBLE);
}

INSTRUCTION(cvttsd2si)
{
    (void)imm;
    return ints(d, s, 1, true, mxcsr, DOUBLE);
}

INSTRUCTION(cvtps2pi)
{
    (void)imm;
    return ints(d, s, 2, false, mxcsr, SINGLE);
}

INSTRUCTION(cvttps2pi)
{
    (void)imm;
    return ints(d, s, 2, true, mxcsr, SINGLE);
}

INSTRUCTION(cvtps2dq)
{
    (void)imm;
    return ints(d, s, 4, false, mxcsr, SINGLE);
}

INSTRUCTION(cvttps2dq)
{
    (void)imm;
    return ints(d, s, 4, true, mxcsr, SINGLE);
}

INSTRUCTION(cvtpd2pi)
{
    (void)imm;
    return ints(d, s, 2, false, mxcsr, DOUBLE);
}

INSTRUCTION(cvttpd2pi)
{
    (void)imm;
    return ints(d, s, 2, true, mxcsr, DOUBLE);
}

INSTRUCTION(cvtpd2dq)
{
    (void)imm;
    unsigned flags = ints(d, s, 2, false, mxcsr, DOUBLE);
    d->q[1] = 0;
    return flags;
}

INSTRUCTION(cvttpd2dq)
{
    (void)imm;
    unsigned flags = ints(d, s, 2, true, mxcsr, DOUBLE);
    d->q[1] = 0;
    return flags;
}

ALWAYS_INLINE unsigned singles_of_ints(union lanes *d, const union lanes *s, unsigned n, u32 mxcsr)
{
    struct float_env env;
    element_begin(&env, mxcsr);
    for (unsigned i = 0; i < n; i++)
        d->d[i] = (u32)from_int(s->sd[i], &env, SINGLE);
    return element_flags(&env);
}

INSTRUCTION(cvtsi2ss)
{
    (void)imm;
    return singles_of_ints(d, s, 1, mxcsr);
}

INSTRUCTION(cvtpi2ps)
{
    (void)imm;
    return singles_of_ints(d, s, 2, mxcsr);
}

INSTRUCTION(cvtdq2ps)
{
    (void)imm;
    return singles_of_ints(d, s, 4, mxcsr);
}

/* The upper element first: source and destination may be one register. */
ALWAYS_INLINE unsigned doubles_of_ints(union lanes *d, const union lanes *s, unsigned n, u32 mxcsr)
{
    struct float_env env;
    element_begin(&env, mxcsr);
    for (unsigned i = n; i-- > 0;)
        d->q[i] = from_int(s->sd[i], &env, DOUBLE);
    return element_flags(&env);
}

INSTRUCTION(cvtsi2sd)
{
    (void)imm;
    return doubles_of_ints(d, s, 1, mxcsr);
}

INSTRUCTION(cvtpi2pd)
{
    (void)imm;
    return doubles_of_ints(d, s, 2, mxcsr);
}

INSTRUCTION(cvtdq2pd)
{
    (void)imm;
    return doubles_of_ints(d, s, 2, mxcsr);
}

ALWAYS_INLINE unsigned widened(union lanes *d, const union lanes *s, unsigned n, u32 mxcsr)
{
    struct float_env env;
    element_begin(&env, mxcsr);
    for (unsigned i = n; i-- > 0;)
        d->q[i] = widen(s->d[i], &env);
    return element_flags(&env);
}

INSTRUCTION(cvtss2sd)
{
    (void)imm;
    return widened(d, s, 1, mxcsr);
}

INSTRUCTION(cvtps2pd)
{
    (void)imm;
    return widened(d, s, 2, mxcsr);
}

INSTRUCTION(cvtsd2ss)
{
    (void)imm;
    struct float_env env;
    element_begin(&env, mxcsr);
    d->d[0] = narrow(s->q[0], &env);
    return element_flags(&env);
}

INSTRUCTION(cvtpd2ps)
{
    (void)imm;
    struct float_env env;
    element_begin(&env, mxcsr);
    for (unsigned i = 0; i < 2; i++)
        d->d[i] = narrow(s->q[i], &env);
    d->q[1] = 0;
    return element_flags(&env);
}

/* --- approximations --------------------------------------------------------------------------------------- */

#define APPROXIMATE_BITS 12

/* q / 2^12 * 2^exponent, 2^11 <= q <= 2^12; what is too small becomes zero. */
static u32 approximate(u32 sign, s32 exponent, u32 q)
{
    s32 field = exponent - 1 + SINGLE.bias;
    s64 bits = field * (1ll << 23) + ((s64)(q - (1u << (APPROXIMATE_BITS - 1))) << (24 - APPROXIMATE_BITS));
    return sign | (bits < 1 << 23 ? 0 : (u32)bits);
}

/* The operands that no table is needed for; true: *ret is the result. */
static bool approximate_special(u32 a, u32 *ret)
{
    u32 sign = a & 0x80000000, size = a & 0x7FFFFFFF, inf = (u32)element_infinity(SINGLE);
    if (size < 1u << 23)
        *ret = sign | inf;
    else if (size > inf)
        *ret = a | 1u << 22;
    else if (size == inf)
        *ret = sign;
    else
        return false;
    return true;
}

static u32 reciprocal(u32 a)
{
    u32 ret, mant = (a & 0x7FFFFF) | 1u << 23;
    if (approximate_special(a, &ret))
        return ret;
    /* No quotient lies in the middle between two numbers of 12 bits. */
    u32 q = (u32)((1ull << (24 + APPROXIMATE_BITS)) / mant + 1) >> 1;
    s32 exponent = SINGLE.bias - element_exponent(a, SINGLE);
    return approximate(a & 0x80000000, exponent, q);
}

static u32 reciprocal_root(u32 a)
{
    u32 ret;
    if (a >> 31 && (a & 0x7FFFFFFF) >= 1u << 23 && (a & 0x7FFFFFFF) <= element_infinity(SINGLE))
        return 0xFFC00000;
    if (approximate_special(a, &ret))
        return ret;
    s32 exponent = element_exponent(a, SINGLE) - SINGLE.bias;
    u64 rest, mant = (u64)((a & 0x7FFFFF) | 1u << 23) << (exponent & 1);
    /* floor(2^13 / sqrt(mant / 2^23)): the root of 2^49 / mant, which is shifted into the place that float_root64 wants */
    u64 square = (1ull << 49) / mant;
    u32 q = mant == 1u << 23 ? 1u << APPROXIMATE_BITS : ((float_root64(square << 38, &rest) >> 19) + 1) >> 1;
    return approximate(0, -(exponent >> 1), q);
}

INSTRUCTION(rcpps)
{
    (void)imm, (void)mxcsr;
    for (unsigned i = 0; i < 4; i++)
        d->d[i] = reciprocal(s->d[i]);
    return 0;
}

INSTRUCTION(rcpss)
{
    (void)imm, (void)mxcsr;
    d->d[0] = reciprocal(s->d[0]);
    return 0;
}

INSTRUCTION(rsqrtps)
{
    (void)imm, (void)mxcsr;
    for (unsigned i = 0; i < 4; i++)
        d->d[i] = reciprocal_root(s->d[i]);
    return 0;
}

INSTRUCTION(rsqrtss)
{
    (void)imm, (void)mxcsr;
    d->d[0] = reciprocal_root(s->d[0]);
    return 0;
}
