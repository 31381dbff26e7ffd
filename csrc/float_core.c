/* float_core.c: rounding, and arithmetic of unpacked numbers. */
#include "float_core.h"

const struct float_format float_single = {24, -126, 127, 0}, float_double = {53, -1022, 1023, 0};

static const struct float_parts indefinite = {.class = CLASS_QNAN, .sign = true, .mant = FLOAT_TOP | FLOAT_QUIET};

/* --- rounding --------------------------------------------------------------------------------------------- */

/* SDM vol. 1, 4.9.1.4, table 4-11 and 8.5.4; FSCALE can get so far that the adjusted exponent does not fit either. */
static struct float_parts overflow(bool sign, s32 exp, struct float_cut c, const struct float_format *format,
                                   struct float_env *env)
{
    env->flags |= FLOAT_OE;
    if (!(env->masks & FLOAT_OE)) {
        if (c.inexact)
            env->flags |= FLOAT_PE;
        env->up = c.up;
        exp -= format->adjust;
        if (format->adjust && exp > format->emax) {
            env->flags |= FLOAT_PE;
            env->up = true;
            return (struct float_parts){.class = CLASS_INF, .sign = sign};
        }
        return (struct float_parts){CLASS_FINITE, sign, false, exp, c.mant};
    }
    env->flags |= FLOAT_PE;
    env->up = env->round == ROUND_NEAREST || (env->round != ROUND_CHOP && sign == (env->round == ROUND_DOWN));
    if (env->up)
        return (struct float_parts){.class = CLASS_INF, .sign = sign};
    return (struct float_parts){CLASS_FINITE, sign, false, format->emax, ~0ull << (64 - format->bits)};
}

/* SDM vol. 1, 4.9.1.5 and 10.2.3.3: tiny after rounding; masked it is reported only if inexact too, or flushed. */
static struct float_parts underflow(bool sign, s32 exp, u64 hi, u64 lo, struct float_cut c,
                                    const struct float_format *format, struct float_env *env)
{
    if (!(env->masks & FLOAT_UE)) {
        env->flags |= c.inexact ? FLOAT_UE | FLOAT_PE : FLOAT_UE;
        env->up = c.up;
        exp += c.carry + format->adjust;
        if (format->adjust && exp < format->emin) {
            env->flags |= FLOAT_PE;
            return (struct float_parts){.class = CLASS_ZERO, .sign = sign};
        }
        return (struct float_parts){CLASS_FINITE, sign, false, exp, c.mant};
    }
    if (env->flush) {
        env->flags |= FLOAT_UE | FLOAT_PE;
        return (struct float_parts){.class = CLASS_ZERO, .sign = sign};
    }
    u128 all = float_shift_jam((u128)hi << 64 | lo, (u32)(format->emin - exp));
    c = float_cut_to((u64)(all >> 64), (u64)all, format->bits, env->round, sign);
    if (c.inexact)
        env->flags |= FLOAT_UE | FLOAT_PE;
    env->up = c.up;
    return (struct float_parts){c.mant ? CLASS_FINITE : CLASS_ZERO, sign, false, format->emin, c.mant};
}

struct float_parts float_round(bool sign, s32 exp, u64 hi, u64 lo, const struct float_format *format,
                               struct float_env *env)
{
    struct float_cut c = float_cut_to(hi, lo, format->bits, env->round, sign);
    s32 rounded = exp + c.carry;
    if (unlikely(rounded < format->emin))
        return underflow(sign, exp, hi, lo, c, format, env);
    if (unlikely(rounded > format->emax))
        return overflow(sign, rounded, c, format, env);
    if (c.inexact)
        env->flags |= FLOAT_PE;
    env->up = c.up;
    return (struct float_parts){CLASS_FINITE, sign, false, rounded, c.mant};
}

struct float_parts float_normalize(bool sign, s32 exp, u128 mant, const struct float_format *format,
                                   struct float_env *env)
{
    u64 high = (u64)(mant >> 64);
    unsigned shift = (unsigned)(high ? __builtin_clzll(high) : 64 + __builtin_clzll((u64)mant));
    mant <<= shift;
    return float_round(sign, exp - (s32)shift, (u64)(mant >> 64), (u64)mant, format, env);
}

bool float_integer(const struct float_parts *p, struct float_env *env, u64 *ret)
{
    *ret = 0;
    if (p->class == CLASS_ZERO)
        return true;
    if (p->exp > 63)
        return false;
    u128 fixed = float_shift_jam((u128)p->mant << 64, (u32)(63 - p->exp));
    struct float_cut c = float_cut_to((u64)(fixed >> 64), (u64)fixed, 64, env->round, p->sign);
    if (c.carry)
        return false;
    if (c.inexact)
        env->flags |= FLOAT_PE;
    env->up = c.up;
    *ret = c.mant;
    return true;
}

s64 float_to_int(const struct float_parts *p, unsigned bits, struct float_env *env)
{
    struct float_env before = *env;
    u64 least = 1ull << (bits - 1), value;
    if (p->class <= CLASS_FINITE && float_integer(p, env, &value) && value <= least - !p->sign)
        return (s64)(p->sign ? -value : value);
    *env = before;
    env->flags |= FLOAT_IE;
    return (s64)-least;
}

/* --- arithmetic ------------------------------------------------------------------------------------------- */

static struct float_parts infinity(bool sign)
{
    return (struct float_parts){.class = CLASS_INF, .sign = sign};
}

static struct float_parts zero(bool sign)
{
    return (struct float_parts){.class = CLASS_ZERO, .sign = sign};
}

struct float_parts float_invalid(struct float_env *env)
{
    env->flags |= FLOAT_IE;
    return indefinite;
}

struct float_parts float_add(struct float_parts a, struct float_parts b, const struct float_format *format,
                             struct float_env *env)
{
    if (a.class == CLASS_INF && b.class == CLASS_INF && a.sign != b.sign)
        return float_invalid(env);
    if (float_denormal(&a, &b, env))
        return a;
    if (a.class == CLASS_INF || b.class == CLASS_INF)
        return infinity(a.class == CLASS_INF ? a.sign : b.sign);
    if (a.class == CLASS_ZERO && b.class == CLASS_ZERO)
        return zero(a.sign == b.sign ? a.sign : env->round == ROUND_DOWN);
    if (a.class == CLASS_ZERO || (b.class != CLASS_ZERO && (a.exp < b.exp || (a.exp == b.exp && a.mant < b.mant)))) {
        struct float_parts t = a;
        a = b;
        b = t;
    }
    u128 x = (u128)a.mant << 63, y = 0;
    if (b.class == CLASS_FINITE)
        y = float_shift_jam((u128)b.mant << 63, (u32)(a.exp - b.exp));
    u128 sum = a.sign == b.sign ? x + y : x - y;
    if (sum == 0)
        return zero(env->round == ROUND_DOWN);
    return float_normalize(a.sign, a.exp + 1, sum, format, env);
}

struct float_parts float_mul(struct float_parts a, struct float_parts b, const struct float_format *format,
                             struct float_env *env)
{
    bool sign = a.sign ^ b.sign;
    bool inf = a.class == CLASS_INF || b.class == CLASS_INF, null = a.class == CLASS_ZERO || b.class == CLASS_ZERO;
    if (inf && null)
        return float_invalid(env);
    if (float_denormal(&a, &b, env))
        return a;
    if (inf || null)
        return inf ? infinity(sign) : zero(sign);
    return float_normalize(sign, a.exp + b.exp + 1, (u128)a.mant * b.mant, format, env);
}

struct float_parts float_div(struct float_parts a, struct float_parts b, const struct float_format *format,
                             struct float_env *env)
{
    bool sign = a.sign ^ b.sign;
    if (a.class == b.class && a.class != CLASS_FINITE)
        return float_invalid(env);
    if (b.class == CLASS_ZERO && a.class == CLASS_FINITE) {
        env->flags |= FLOAT_ZE;     /* goes before a denormal operand */
        return infinity(sign);
    }
    if (float_denormal(&a, &b, env))
        return a;
    if (a.class == CLASS_INF || b.class == CLASS_ZERO)
        return infinity(sign);
    if (a.class == CLASS_ZERO || b.class == CLASS_INF)
        return zero(sign);
    bool less = a.mant < b.mant;
    u128 dividend = (u128)a.mant << (less ? 64 : 63);
    u64 hi = (u64)(dividend / b.mant), rest = (u64)dividend - hi * b.mant;
    /* Of what follows only its order against 1/2 counts. */
    u128 twice = (u128)rest << 1;
    u64 lo = rest == 0 ? 0 : twice < b.mant ? FLOAT_TOP >> 1 : FLOAT_TOP | (u64)(twice > b.mant);
    return float_round(sign, a.exp - b.exp - less, hi, lo, format, env);
}

/* A root of n's upper half, root0 with rest0, and a digit n1 n0 of base b more, where b = 2^bits: one division doubles
 * the places (Zimmermann, Karatsuba square root). The quotient is at most one too large. */
u32 float_root64(u64 n, u64 *rest)
{
    u32 root = 0, top = (u32)(n >> 32);
    for (u32 bit = 1u << 30; bit; bit >>= 2) {
        bool fits = top >= root + bit;
        top -= fits ? root + bit : 0;
        root = (root >> 1) + (fits ? bit : 0);
    }
    u64 dividend = (u64)top << 16 | (u16)(n >> 16), q = dividend / (2 * root), u = dividend % (2 * root);
    u64 s = ((u64)root << 16) + q;
    s64 left = (s64)(u << 16 | (u16)n) - (s64)(q * q);
    if (left < 0) {
        left += (s64)(2 * s - 1);
        s--;
    }
    *rest = (u64)left;
    return (u32)s;
}

u64 float_root128(u128 n, u128 *rest)
{
    u64 top;
    u64 root = float_root64((u64)(n >> 64), &top);
    u128 dividend = (u128)top << 32 | (u32)(n >> 32);
    u64 q = (u64)(dividend / (2 * root)), u = (u64)dividend - q * 2 * root;
    u128 s = ((u128)root << 32) + q, plus = (u128)u << 32 | (u32)n, minus = (u128)q * q;
    if (plus < minus) {
        plus += 2 * s - 1;
        s--;
    }
    *rest = plus - minus;
    return (u64)s;
}

struct float_parts float_sqrt(struct float_parts a, struct float_parts b, const struct float_format *format,
                              struct float_env *env)
{
    if (a.class == CLASS_ZERO)
        return a;
    if (a.sign)
        return float_invalid(env);
    if (float_denormal(&a, &b, env) || a.class == CLASS_INF)
        return a;
    u128 rest;
    u64 root = float_root128((u128)a.mant << (a.exp & 1 ? 64 : 63), &rest);
    /* Above or below root + 1/2; it is never that itself. */
    u64 lo = rest > root ? 3ull << 62 : rest ? 1ull << 62 : 0;
    return float_round(false, a.exp >> 1, root, lo, format, env);
}

enum float_order float_compare(const struct float_parts *a, const struct float_parts *b)
{
    if (a->class == CLASS_ZERO && b->class == CLASS_ZERO)
        return ORDER_EQUAL;
    /* With zeros below and infinities above everything, magnitudes are ordered as (class, exp, mant). */
    if (a->class == CLASS_ZERO)
        return b->sign ? ORDER_GREATER : ORDER_LESS;
    if (b->class == CLASS_ZERO || a->sign != b->sign)
        return a->sign ? ORDER_LESS : ORDER_GREATER;
    int order = a->class != b->class ? (a->class < b->class ? -1 : 1) :
                a->exp != b->exp ? (a->exp < b->exp ? -1 : 1) :
                a->mant != b->mant ? (a->mant < b->mant ? -1 : 1) : 0;
    if (order == 0)
        return ORDER_EQUAL;
    return (order < 0) ^ a->sign ? ORDER_LESS : ORDER_GREATER;
}
