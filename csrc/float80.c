/* float80.c: parts, rounding, NaNs, and arithmetic of the extended format. */
#include "float80.h"

#define TOP (1ull << 63)
#define QUIET (1ull << 62)

const struct float_format float_single = {24, -126, 127, 192}, float_double = {53, -1022, 1023, 1536};

static unsigned leading_zeros(u64 v)
{
    return (unsigned)__builtin_clzll(v);
}

u128 float_shift_jam(u128 a, u32 count)
{
    if (count == 0)
        return a;
    if (count > 127)
        return a != 0;
    return a >> count | ((a << (128 - count)) != 0);
}

/* --- formats ---------------------------------------------------------------------------------------------- */

static struct float_parts finite(bool sign, s32 exp, u64 mant, bool denormal)
{
    unsigned shift = leading_zeros(mant);
    return (struct float_parts){CLASS_FINITE, sign, denormal, exp - (s32)shift, mant << shift};
}

/* SDM vol. 1, tables 4-3 and 8-3: pseudo-infinities, pseudo-NaNs and unnormals are not supported. */
struct float_parts float80_unpack(struct float80 a)
{
    bool sign = a.se >> 15;
    s32 exp = a.se & FLOAT80_EXP;
    if (exp == 0)
        return a.mant ? finite(sign, 1 - FLOAT80_BIAS, a.mant, true) : (struct float_parts){.sign = sign};
    if (!(a.mant & TOP))
        return (struct float_parts){.class = CLASS_UNSUPPORTED, .sign = sign, .mant = a.mant};
    if (exp < (s32)FLOAT80_EXP)
        return (struct float_parts){CLASS_FINITE, sign, false, exp - FLOAT80_BIAS, a.mant};
    u8 class = a.mant == TOP ? CLASS_INF : a.mant & QUIET ? CLASS_QNAN : CLASS_SNAN;
    return (struct float_parts){.class = class, .sign = sign, .mant = a.mant};
}

/* A format with an implied integer bit; frac is shifted up against bit 62. */
static struct float_parts unpack_implied(bool sign, s32 exp, s32 special, s32 bias, u64 frac)
{
    if (exp == 0)
        return frac ? finite(sign, 1 - bias, frac, true) : (struct float_parts){.sign = sign};
    if (exp < special)
        return (struct float_parts){CLASS_FINITE, sign, false, exp - bias, frac | TOP};
    u8 class = !frac ? CLASS_INF : frac & QUIET ? CLASS_QNAN : CLASS_SNAN;
    return (struct float_parts){.class = class, .sign = sign, .mant = frac | TOP};
}

struct float_parts float32_unpack(u32 a)
{
    return unpack_implied(a >> 31, a >> 23 & 0xFF, 0xFF, 127, (u64)(a & 0x7FFFFF) << 40);
}

struct float_parts float64_unpack(u64 a)
{
    return unpack_implied(a >> 63, (s32)(a >> 52 & 0x7FF), 0x7FF, 1023, (a & 0xFFFFFFFFFFFFF) << 11);
}

/* The biased exponent field of packed parts. */
static u64 exponent_field(const struct float_parts *p, s32 bias, u64 special)
{
    if (p->class == CLASS_ZERO)
        return 0;
    if (p->class != CLASS_FINITE)
        return special;
    return p->mant & TOP ? (u64)(p->exp + bias) : 0;
}

struct float80 float80_pack(struct float_parts p)
{
    u64 mant = p.class == CLASS_INF ? TOP : p.class == CLASS_ZERO ? 0 : p.mant;
    return (struct float80){mant, (u16)((u64)p.sign << 15 | exponent_field(&p, FLOAT80_BIAS, FLOAT80_EXP))};
}

u32 float32_pack(struct float_parts p)
{
    u64 frac = p.class == CLASS_INF || p.class == CLASS_ZERO ? 0 : (p.mant & ~TOP) >> 40;
    return (u32)((u64)p.sign << 31 | exponent_field(&p, 127, 0xFF) << 23 | frac);
}

u64 float64_pack(struct float_parts p)
{
    u64 frac = p.class == CLASS_INF || p.class == CLASS_ZERO ? 0 : (p.mant & ~TOP) >> 11;
    return (u64)p.sign << 63 | exponent_field(&p, 1023, 0x7FF) << 52 | frac;
}

/* --- rounding --------------------------------------------------------------------------------------------- */

struct cut {
    u64 mant;
    bool inexact, up, carry;    /* carry: mant went over and is 1.0, one exponent up */
};

static struct cut cut_to(u64 hi, u64 lo, unsigned bits, unsigned round, bool sign)
{
    u64 unit = 1ull << (64 - bits);
    u64 tail = bits == 64 ? lo : hi << bits | (lo != 0);
    struct cut c = {hi & ~(unit - 1), tail != 0, false, false};
    if (round == ROUND_NEAREST)
        c.up = tail > TOP || (tail == TOP && (c.mant & unit));
    else if (round != ROUND_CHOP)
        c.up = c.inexact && sign == (round == ROUND_DOWN);
    if (c.up) {
        bool high = c.mant & TOP;
        c.mant += unit;
        c.carry = high && !(c.mant & TOP);
        if (c.carry)
            c.mant = TOP;
    }
    return c;
}

/* SDM vol. 1, 4.9.1.4, table 4-11 and 8.5.4; FSCALE can get so far that the adjusted exponent does not fit either. */
static struct float_parts overflow(bool sign, s32 exp, struct cut c, const struct float_format *format,
                                   struct float_env *env)
{
    env->flags |= FLOAT_OE;
    if (!(env->masks & FLOAT_OE)) {
        if (c.inexact)
            env->flags |= FLOAT_PE;
        env->up = c.up;
        exp -= format->adjust;
        if (exp > format->emax) {
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

/* SDM vol. 1, 4.9.1.5: tiny after rounding; masked it is reported only if inexact too. */
static struct float_parts underflow(bool sign, s32 exp, u64 hi, u64 lo, struct cut c,
                                    const struct float_format *format, struct float_env *env)
{
    if (!(env->masks & FLOAT_UE)) {
        env->flags |= c.inexact ? FLOAT_UE | FLOAT_PE : FLOAT_UE;
        env->up = c.up;
        exp += c.carry + format->adjust;
        if (exp < format->emin) {
            env->flags |= FLOAT_PE;
            return (struct float_parts){.class = CLASS_ZERO, .sign = sign};
        }
        return (struct float_parts){CLASS_FINITE, sign, false, exp, c.mant};
    }
    u128 all = float_shift_jam((u128)hi << 64 | lo, (u32)(format->emin - exp));
    c = cut_to((u64)(all >> 64), (u64)all, format->bits, env->round, sign);
    if (c.inexact)
        env->flags |= FLOAT_UE | FLOAT_PE;
    env->up = c.up;
    return (struct float_parts){c.mant ? CLASS_FINITE : CLASS_ZERO, sign, false, format->emin, c.mant};
}

struct float_parts float_round(bool sign, s32 exp, u64 hi, u64 lo, const struct float_format *format,
                               struct float_env *env)
{
    struct cut c = cut_to(hi, lo, format->bits, env->round, sign);
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

/* Precision control shortens the significand and leaves the exponent its range (SDM vol. 1, 8.1.5.2). */
struct float80 float80_round(bool sign, s32 exp, u64 hi, u64 lo, struct float_env *env)
{
    const struct float_format format = {env->bits, 1 - FLOAT80_BIAS, FLOAT80_BIAS, 24576};
    return float80_pack(float_round(sign, exp, hi, lo, &format, env));
}

struct float80 float80_normalize(bool sign, s32 exp, u128 mant, struct float_env *env)
{
    u64 high = (u64)(mant >> 64);
    unsigned shift = high ? leading_zeros(high) : 64 + leading_zeros((u64)mant);
    mant <<= shift;
    return float80_round(sign, exp - (s32)shift, (u64)(mant >> 64), (u64)mant, env);
}

bool float_integer(const struct float_parts *p, struct float_env *env, u64 *ret)
{
    *ret = 0;
    if (p->class == CLASS_ZERO)
        return true;
    if (p->exp > 63)
        return false;
    u128 fixed = float_shift_jam((u128)p->mant << 64, (u32)(63 - p->exp));
    struct cut c = cut_to((u64)(fixed >> 64), (u64)fixed, 64, env->round, p->sign);
    if (c.carry)
        return false;
    if (c.inexact)
        env->flags |= FLOAT_PE;
    env->up = c.up;
    *ret = c.mant;
    return true;
}

/* --- operands that are no numbers ------------------------------------------------------------------------- */

struct float80 float80_invalid(struct float_env *env)
{
    env->flags |= FLOAT_IE;
    return FLOAT80_INDEFINITE;
}

static bool is_nan(const struct float_parts *p)
{
    return p->class == CLASS_QNAN || p->class == CLASS_SNAN;
}

/* SDM vol. 1, table 4-7: a quiet NaN before a signalling one, else the larger significand, else the positive one. */
static bool takes_second(const struct float_parts *a, const struct float_parts *b)
{
    if (!is_nan(a) || !is_nan(b))
        return is_nan(b);
    if (a->class != b->class)
        return b->class == CLASS_QNAN;
    return a->mant != b->mant ? b->mant > a->mant : a->sign;
}

bool float80_nan(struct float80 a, struct float80 b, struct float_env *env, struct float80 *ret)
{
    struct float_parts pa = float80_unpack(a), pb = float80_unpack(b);
    if (pa.class == CLASS_UNSUPPORTED || pb.class == CLASS_UNSUPPORTED) {
        *ret = float80_invalid(env);
        return true;
    }
    if (likely(!is_nan(&pa) && !is_nan(&pb)))
        return false;
    if (pa.class == CLASS_SNAN || pb.class == CLASS_SNAN)
        env->flags |= FLOAT_IE;
    *ret = takes_second(&pa, &pb) ? b : a;
    ret->mant |= QUIET;
    return true;
}

bool float_denormal(const struct float_parts *a, const struct float_parts *b, struct float_env *env)
{
    if (unlikely(a->denormal || b->denormal || env->denormal))
        env->flags |= FLOAT_DE;
    return float_blocked(env);
}

/* --- arithmetic ------------------------------------------------------------------------------------------- */

static struct float80 add_parts(struct float_parts a, struct float_parts b, struct float_env *env)
{
    if (a.exp < b.exp || (a.exp == b.exp && a.mant < b.mant)) {
        struct float_parts t = a;
        a = b;
        b = t;
    }
    u128 x = (u128)a.mant << 63, y = float_shift_jam((u128)b.mant << 63, (u32)(a.exp - b.exp));
    u128 sum = a.sign == b.sign ? x + y : x - y;
    if (sum == 0)
        return float80_zero(env->round == ROUND_DOWN);
    return float80_normalize(a.sign, a.exp + 1, sum, env);
}

static struct float80 add_signed(struct float80 a, struct float80 b, bool negate, struct float_env *env)
{
    struct float80 ret;
    if (float80_nan(a, b, env, &ret))
        return ret;
    struct float_parts pa = float80_unpack(a), pb = float80_unpack(b);
    pb.sign ^= negate;
    if (pa.class == CLASS_INF && pb.class == CLASS_INF && pa.sign != pb.sign)
        return float80_invalid(env);
    if (float_denormal(&pa, &pb, env))
        return a;
    if (pa.class == CLASS_INF || pb.class == CLASS_INF)
        return float80_inf(pa.class == CLASS_INF ? pa.sign : pb.sign);
    if (pa.class == CLASS_ZERO && pb.class == CLASS_ZERO)
        return float80_zero(pa.sign == pb.sign ? pa.sign : env->round == ROUND_DOWN);
    if (pa.class == CLASS_ZERO)
        return float80_round(pb.sign, pb.exp, pb.mant, 0, env);
    if (pb.class == CLASS_ZERO)
        return float80_round(pa.sign, pa.exp, pa.mant, 0, env);
    return add_parts(pa, pb, env);
}

struct float80 float80_add(struct float80 a, struct float80 b, struct float_env *env)
{
    return add_signed(a, b, false, env);
}

struct float80 float80_sub(struct float80 a, struct float80 b, struct float_env *env)
{
    return add_signed(a, b, true, env);
}

struct float80 float80_mul(struct float80 a, struct float80 b, struct float_env *env)
{
    struct float80 ret;
    if (float80_nan(a, b, env, &ret))
        return ret;
    struct float_parts pa = float80_unpack(a), pb = float80_unpack(b);
    bool sign = pa.sign ^ pb.sign;
    bool inf = pa.class == CLASS_INF || pb.class == CLASS_INF, zero = pa.class == CLASS_ZERO || pb.class == CLASS_ZERO;
    if (inf && zero)
        return float80_invalid(env);
    if (float_denormal(&pa, &pb, env))
        return a;
    if (inf || zero)
        return inf ? float80_inf(sign) : float80_zero(sign);
    return float80_normalize(sign, pa.exp + pb.exp + 1, (u128)pa.mant * pb.mant, env);
}

/* a / b of finite parts. */
static struct float80 divide(bool sign, struct float_parts a, struct float_parts b, struct float_env *env)
{
    s32 exp = a.exp - b.exp - (a.mant < b.mant);
    u128 dividend = (u128)a.mant << (a.mant < b.mant ? 64 : 63);
    u64 hi = (u64)(dividend / b.mant), rest = (u64)(dividend % b.mant);
    u128 more = (u128)rest << 64;
    return float80_round(sign, exp, hi, (u64)(more / b.mant) | (more % b.mant != 0), env);
}

struct float80 float80_div(struct float80 a, struct float80 b, struct float_env *env)
{
    struct float80 ret;
    if (float80_nan(a, b, env, &ret))
        return ret;
    struct float_parts pa = float80_unpack(a), pb = float80_unpack(b);
    bool sign = pa.sign ^ pb.sign;
    if (pa.class == pb.class && pa.class != CLASS_FINITE)
        return float80_invalid(env);
    if (pb.class == CLASS_ZERO && pa.class == CLASS_FINITE) {
        env->flags |= FLOAT_ZE;     /* goes before a denormal operand */
        return float80_inf(sign);
    }
    if (float_denormal(&pa, &pb, env))
        return a;
    if (pa.class == CLASS_INF || pb.class == CLASS_ZERO)
        return float80_inf(sign);
    if (pa.class == CLASS_ZERO || pb.class == CLASS_INF)
        return float80_zero(sign);
    return divide(sign, pa, pb, env);
}

/* floor(sqrt(n)) for n >= 2^126, digit by digit; *rest = n - root^2. */
static u64 root_of(u128 n, u128 *rest)
{
    u128 root = 0;
    for (u128 bit = (u128)1 << 126; bit; bit >>= 2) {
        if (n >= root + bit) {
            n -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
    }
    *rest = n;
    return (u64)root;
}

struct float80 float80_sqrt(struct float80 a, struct float_env *env)
{
    struct float80 ret;
    if (float80_nan(a, a, env, &ret))
        return ret;
    struct float_parts p = float80_unpack(a);
    if (p.class == CLASS_ZERO)
        return a;
    if (p.sign)
        return float80_invalid(env);
    if (float_denormal(&p, &p, env) || p.class == CLASS_INF)
        return a;
    u128 rest;
    u64 root = root_of((u128)p.mant << (p.exp & 1 ? 64 : 63), &rest);
    /* Above or below root + 1/2; it is never that itself. */
    u64 lo = rest > root ? 3ull << 62 : rest ? 1ull << 62 : 0;
    return float80_round(false, p.exp >> 1, root, lo, env);
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
    ret = float80_normalize(r.sign, r.exp, (u128)r.rest << 64, &full);
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
    if (pa.class == CLASS_ZERO && pb.class == CLASS_ZERO)
        return ORDER_EQUAL;
    /* With zeros below and infinities above everything, magnitudes are ordered as (class, exp, mant). */
    if (pa.class == CLASS_ZERO)
        return pb.sign ? ORDER_GREATER : ORDER_LESS;
    if (pb.class == CLASS_ZERO || pa.sign != pb.sign)
        return pa.sign ? ORDER_LESS : ORDER_GREATER;
    int order = pa.class != pb.class ? (pa.class < pb.class ? -1 : 1) :
                pa.exp != pb.exp ? (pa.exp < pb.exp ? -1 : 1) :
                pa.mant != pb.mant ? (pa.mant < pb.mant ? -1 : 1) : 0;
    if (order == 0)
        return ORDER_EQUAL;
    return (order < 0) ^ pa.sign ? ORDER_LESS : ORDER_GREATER;
}
