/* float80.c: formats, NaNs and arithmetic of the x87. */
#include "float80.h"

/* --- formats ---------------------------------------------------------------------------------------------- */

/* SDM vol. 1, tables 4-3 and 8-3: pseudo-infinities, pseudo-NaNs and unnormals are not supported. */
struct float_parts float80_unpack(struct float80 a)
{
    bool sign = a.se >> 15;
    s32 exp = a.se & FLOAT80_EXP;
    if (exp == 0)
        return a.mant ? float_finite(sign, 1 - FLOAT80_BIAS, a.mant, true) : (struct float_parts){.sign = sign};
    if (!(a.mant & FLOAT_TOP))
        return (struct float_parts){.class = CLASS_UNSUPPORTED, .sign = sign, .mant = a.mant};
    if (exp < (s32)FLOAT80_EXP)
        return (struct float_parts){CLASS_FINITE, sign, false, exp - FLOAT80_BIAS, a.mant};
    u8 class = a.mant == FLOAT_TOP ? CLASS_INF : a.mant & FLOAT_QUIET ? CLASS_QNAN : CLASS_SNAN;
    return (struct float_parts){.class = class, .sign = sign, .mant = a.mant};
}

struct float80 float80_pack(struct float_parts p)
{
    u64 mant = p.class == CLASS_INF ? FLOAT_TOP : p.class == CLASS_ZERO ? 0 : p.mant;
    return (struct float80){mant, (u16)((u64)p.sign << 15 | float_field(&p, FLOAT80_BIAS))};
}

/* Precision control shortens the significand and leaves the exponent its range (SDM vol. 1, 8.1.5.2). */
static struct float_format extended(unsigned bits)
{
    return (struct float_format){(u8)bits, 1 - FLOAT80_BIAS, FLOAT80_BIAS, 24576};
}

struct float80 float80_round(bool sign, s32 exp, u64 hi, u64 lo, struct float_env *env)
{
    struct float_format format = extended(env->bits);
    return float80_pack(float_round(sign, exp, hi, lo, &format, env));
}

/* --- operands that are no numbers ------------------------------------------------------------------------- */

struct float80 float80_invalid(struct float_env *env)
{
    return float80_pack(float_invalid(env));
}

/* SDM vol. 1, table 4-7: a quiet NaN before a signalling one, else the larger significand, else the positive one. */
static bool takes_second(const struct float_parts *a, const struct float_parts *b)
{
    if (!float_is_nan(a) || !float_is_nan(b))
        return float_is_nan(b);
    if (a->class != b->class)
        return b->class == CLASS_QNAN;
    return a->mant != b->mant ? b->mant > a->mant : a->sign;
}

/* float80_nan with both unpacked. */
static bool nan_parts(const struct float_parts *a, const struct float_parts *b, struct float_env *env,
                      struct float_parts *ret)
{
    if (likely(a->class < CLASS_QNAN && b->class < CLASS_QNAN))
        return false;
    if (a->class == CLASS_UNSUPPORTED || b->class == CLASS_UNSUPPORTED) {
        *ret = float_invalid(env);
        return true;
    }
    if (a->class == CLASS_SNAN || b->class == CLASS_SNAN)
        env->flags |= FLOAT_IE;
    *ret = takes_second(a, b) ? *b : *a;
    ret->class = CLASS_QNAN;
    ret->mant |= FLOAT_QUIET;
    return true;
}

bool float80_nan(struct float80 a, struct float80 b, struct float_env *env, struct float80 *ret)
{
    struct float_parts pa = float80_unpack(a), pb = float80_unpack(b), nan;
    if (!nan_parts(&pa, &pb, env, &nan))
        return false;
    *ret = float80_pack(nan);
    return true;
}

/* --- arithmetic ------------------------------------------------------------------------------------------- */

static struct float80 operate(float_operation *operation, struct float80 a, struct float80 b, bool negate,
                              struct float_env *env)
{
    struct float_parts pa = float80_unpack(a), pb = float80_unpack(b), result;
    if (!nan_parts(&pa, &pb, env, &result)) {
        struct float_format format = extended(env->bits);
        pb.sign ^= negate;
        result = operation(pa, pb, &format, env);
    }
    return float80_pack(result);
}

/* The short way of what is common: normal numbers in and out. */

ALWAYS_INLINE bool normal(struct float80 a)
{
    return (u32)((a.se & FLOAT80_EXP) - 1) < FLOAT80_EXP - 1 && a.mant & FLOAT_TOP;
}

ALWAYS_INLINE bool all_normal(struct float80 a, struct float80 b, const struct float_env *env)
{
    return normal(a) && normal(b) && !env->denormal;
}

/* As float80_round with a biased exponent; false: the result is not normal, and nothing was raised. */
ALWAYS_INLINE bool round_normal(bool sign, s32 exponent, u64 hi, u64 lo, struct float_env *env, struct float80 *ret)
{
    struct float_cut c = float_cut_to(hi, lo, env->bits, env->round, sign);
    exponent += c.carry;
    if (unlikely((u32)(exponent - 1) >= FLOAT80_EXP - 1))
        return false;
    env->flags |= c.inexact ? FLOAT_PE : 0;
    env->up = c.up;
    *ret = (struct float80){c.mant, (u16)(exponent | sign << 15)};
    return true;
}

ALWAYS_INLINE struct float80 add_or_sub(struct float80 a, struct float80 b, bool negate, struct float_env *env)
{
    struct float80 ret, x = a, y = b;
    if (unlikely(!all_normal(a, b, env)))
        return operate(float_add, a, b, negate, env);
    y.se ^= (u16)(negate << 15);
    if ((x.se & FLOAT80_EXP) < (y.se & FLOAT80_EXP) || ((x.se & FLOAT80_EXP) == (y.se & FLOAT80_EXP) && x.mant < y.mant)) {
        struct float80 t = x;
        x = y;
        y = t;
    }
    s32 exponent = x.se & FLOAT80_EXP;
    u128 big = (u128)x.mant << 63, small = float_shift_jam((u128)y.mant << 63, (u32)(exponent - (y.se & FLOAT80_EXP)));
    u128 sum = (x.se ^ y.se) >> 15 ? big - small : big + small;
    u64 high = (u64)(sum >> 64);
    if (unlikely(high == 0))
        return operate(float_add, a, b, negate, env);
    unsigned shift = (unsigned)__builtin_clzll(high);
    sum <<= shift;
    if (likely(round_normal(x.se >> 15, exponent + 1 - (s32)shift, (u64)(sum >> 64), (u64)sum, env, &ret)))
        return ret;
    return operate(float_add, a, b, negate, env);
}

struct float80 float80_add(struct float80 a, struct float80 b, struct float_env *env)
{
    return add_or_sub(a, b, false, env);
}

struct float80 float80_sub(struct float80 a, struct float80 b, struct float_env *env)
{
    return add_or_sub(a, b, true, env);
}

struct float80 float80_mul(struct float80 a, struct float80 b, struct float_env *env)
{
    struct float80 ret;
    if (likely(all_normal(a, b, env))) {
        u128 product = (u128)a.mant * b.mant;
        bool carry = product >> 127;
        product <<= !carry;
        s32 exponent = (a.se & (s32)FLOAT80_EXP) + (b.se & (s32)FLOAT80_EXP) - FLOAT80_BIAS + carry;
        if (likely(round_normal((a.se ^ b.se) >> 15, exponent, (u64)(product >> 64), (u64)product, env, &ret)))
            return ret;
    }
    return operate(float_mul, a, b, false, env);
}

struct float80 float80_div(struct float80 a, struct float80 b, struct float_env *env)
{
    return operate(float_div, a, b, false, env);
}

struct float80 float80_sqrt(struct float80 a, struct float_env *env)
{
    return operate(float_sqrt, a, a, false, env);
}

/* --- FSCALE, FXTRACT, FPREM, FRNDINT, comparison ---------------------------------------------------------- */

/* A finite number chopped to an integer, at most `most` in magnitude. */
static s32 chopped(const struct float_parts *p, s32 most)
{
    if (p->class == CLASS_ZERO || p->exp < 0)
        return 0;
    s32 n = p->exp > 30 || (p->mant >> (63 - p->exp)) > (u64)most ? most : (s32)(p->mant >> (63 - p->exp));
    return p->sign ? -n : n;
}

/* Full precision whatever the control word says: the significand only moves. */
static struct float_env full_precision(const struct float_env *env)
{
    struct float_env full = *env;
    full.bits = 64;
    return full;
}

static struct float80 scale_infinite(const struct float_parts *a, const struct float_parts *b, struct float_env *env)
{
    /* SDM vol. 2, FSCALE: 0 * 2^inf and inf * 2^-inf are invalid. */
    if (b->class == CLASS_INF && a->class == (b->sign ? CLASS_INF : CLASS_ZERO))
        return float80_invalid(env);
    if (float_denormal(a, b, env))
        return float80_zero(false);
    if (b->class != CLASS_INF || a->class == CLASS_INF)
        return float80_inf(a->sign);
    return b->sign ? float80_zero(a->sign) : float80_inf(a->sign);
}

struct float80 float80_scale(struct float80 a, struct float80 b, struct float_env *env)
{
    struct float80 ret;
    if (float80_nan(a, b, env, &ret))
        return ret;
    struct float_parts pa = float80_unpack(a), pb = float80_unpack(b);
    if (pa.class == CLASS_INF || pb.class == CLASS_INF)
        return scale_infinite(&pa, &pb, env);
    if (float_denormal(&pa, &pb, env) || pa.class == CLASS_ZERO)
        return a;
    struct float_env full = full_precision(env);
    ret = float80_round(pa.sign, pa.exp + chopped(&pb, 0x10000), pa.mant, 0, &full);
    env->flags = full.flags;
    env->up = full.up;
    return ret;
}

void float80_extract(struct float80 a, struct float_env *env, struct float80 ret[2])
{
    if (float80_nan(a, a, env, &ret[1])) {
        ret[0] = ret[1];
        return;
    }
    struct float_parts p = float80_unpack(a);
    ret[1] = a;
    if (p.class == CLASS_INF) {
        ret[0] = float80_inf(false);
    } else if (p.class == CLASS_ZERO) {
        env->flags |= FLOAT_ZE;
        ret[0] = float80_inf(true);
    } else if (!float_denormal(&p, &p, env)) {
        ret[0] = float80_from_int(p.exp);
        ret[1] = (struct float80){p.mant, (u16)(FLOAT80_BIAS | p.sign << 15)};
    }
}

/* a mod b by `steps` + 1 quotient bits, a and b with bit 63 set: returns the rest below b, *quotient its low bits. */
static u64 long_division(u64 a, u64 b, s32 steps, u64 *quotient)
{
    u128 rest = a;
    u64 q = 0;
    for (s32 i = steps;; i--) {
        q <<= 1;
        if (rest >= b) {
            rest -= b;
            q |= 1;
        }
        if (i == 0)
            break;
        rest <<= 1;
    }
    *quotient = q;
    return (u64)rest;
}

struct remainder {
    bool sign;
    s32 exp;                    /* of rest's bit 63 */
    u64 rest, quotient;
};

/* FPREM1: the quotient goes up where the rest is over half of b, or half and the quotient odd (SDM vol. 2, FPREM1). */
static void round_quotient(struct remainder *r, const struct float_parts *b)
{
    /* rest * 2^(exp - 63) against b * 2^(b->exp - 63) / 2; exp is b->exp or b->exp - 1 */
    u128 twice = (u128)r->rest << (r->exp == b->exp ? 1 : 0);
    if (twice > b->mant || (twice == b->mant && r->quotient & 1)) {
        u128 rest = ((u128)b->mant << (r->exp == b->exp ? 0 : 1)) - r->rest;
        r->rest = (u64)rest;
        r->quotient++;
        r->sign = !r->sign;
    }
}

struct float80 float80_remainder(struct float80 a, struct float80 b, bool nearest, struct float_env *env, int *quotient)
{
    struct float80 ret;
    *quotient = 0;
    if (float80_nan(a, b, env, &ret))
        return ret;
    struct float_parts pa = float80_unpack(a), pb = float80_unpack(b);
    if (pa.class == CLASS_INF || pb.class == CLASS_ZERO)
        return float80_invalid(env);
    if (float_denormal(&pa, &pb, env) || pa.class == CLASS_ZERO)
        return a;
    struct float_env full = full_precision(env);
    struct remainder r = {pa.sign, pb.exp, 0, 0};
    s32 diff = pa.exp - pb.exp;
    if (pb.class == CLASS_INF || diff < -1) {
        r.rest = pa.mant;
        r.exp = pa.exp;
    } else if (diff == -1) {
        r.rest = pa.mant;
        r.exp = pa.exp;
        if (nearest)
            round_quotient(&r, &pb);
    } else if (diff < 64) {
        r.rest = long_division(pa.mant, pb.mant, diff, &r.quotient);
        if (nearest)
            round_quotient(&r, &pb);
    } else {
        /* Take 32 to 63 off the difference of the exponents (SDM vol. 2, FPREM). */
        s32 steps = (diff & 31) | 32;
        r.rest = long_division(pa.mant, pb.mant, steps, &r.quotient);
        r.exp = pa.exp - steps;
        *quotient = -1;
    }
    if (*quotient == 0)
        *quotient = (int)(r.quotient & 7);
    if (r.rest == 0)
        return float80_zero(pa.sign);
    struct float_format format = extended(64);
    ret = float80_pack(float_normalize(r.sign, r.exp, (u128)r.rest << 64, &format, &full));
    env->flags = full.flags;
    env->up = full.up;
    return ret;
}

enum float_order float80_compare(struct float80 a, struct float80 b, bool quiet, struct float_env *env)
{
    struct float_parts pa = float80_unpack(a), pb = float80_unpack(b);
    u8 worst = pa.class > pb.class ? pa.class : pb.class;
    if (worst >= CLASS_QNAN) {
        if (!quiet || worst != CLASS_QNAN)
            env->flags |= FLOAT_IE;
        return ORDER_UNORDERED;
    }
    if (float_denormal(&pa, &pb, env))
        return ORDER_UNORDERED;
    return float_compare(&pa, &pb);
}
