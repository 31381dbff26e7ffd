/* float80_math.c: transcendental functions by series in 128-bit fixed and floating point. */
#include "float80_math.h"

/* --- 128-bit significands --------------------------------------------------------------------------------- */

struct wide {                   /* mant * 2^(exp - 127), bit 127 of mant set */
    bool sign;
    s32 exp;
    u128 mant;
};

#define WIDE(hi, lo) ((u128)(hi) << 64 | (lo))
#define WIDE_TOP WIDE(1ull << 63, 0)
#define UNIT WIDE(1ull << 62, 0)        /* 1 in fixed point: 126 bits of fraction, values below 4 */

static const struct wide one = {false, 0, WIDE_TOP}, two = {false, 1, WIDE_TOP};
static const struct wide ln_2 = {false, -1, WIDE(0xB17217F7D1CF79AB, 0xC9E3B39803F2F6AF)};
static const struct wide two_log2_e = {false, 1, WIDE(0xB8AA3B295C17F0BB, 0xBE87FED0691D3E88)};
static const struct wide pi = {false, 1, WIDE(0xC90FDAA22168C234, 0xC4C6628B80DC1CD1)};
static const struct wide half_pi = {false, 0, WIDE(0xC90FDAA22168C234, 0xC4C6628B80DC1CD1)};

static u128 mul_high(u128 a, u128 b)
{
    u64 a1 = (u64)(a >> 64), a0 = (u64)a, b1 = (u64)(b >> 64), b0 = (u64)b;
    u128 middle = (u128)a1 * b0 + (((u128)a0 * b0) >> 64);
    u128 low = (u128)a0 * b1 + (u64)middle;
    return (u128)a1 * b1 + (middle >> 64) + (low >> 64);
}

static struct wide normal(bool sign, s32 exp, u128 mant)
{
    u64 high = (u64)(mant >> 64);
    int shift = high ? __builtin_clzll(high) : 64 + __builtin_clzll((u64)mant);
    return (struct wide){sign, exp - shift, mant << shift};
}

static struct wide wide_of(const struct float_parts *p)
{
    return (struct wide){p->sign, p->exp, (u128)p->mant << 64};
}

static struct wide mul(struct wide a, struct wide b)
{
    return normal(a.sign ^ b.sign, a.exp + b.exp + 1, mul_high(a.mant, b.mant));
}

static struct wide divide(struct wide a, struct wide b)
{
    u128 rest = a.mant, q = 0;
    bool carry = false;
    s32 exp = a.exp - b.exp;
    if (rest < b.mant) {
        exp--;
        carry = true;           /* bit 127 of a.mant is shifted out */
        rest <<= 1;
    }
    for (int i = 0; i < 128; i++) {
        bool bit = carry || rest >= b.mant;
        if (bit)
            rest -= b.mant;
        q = q << 1 | bit;
        carry = rest >> 127;
        rest <<= 1;
    }
    return (struct wide){a.sign ^ b.sign, exp, q};
}

/* a + b, not zero. */
static struct wide add(struct wide a, struct wide b)
{
    if (a.exp < b.exp || (a.exp == b.exp && a.mant < b.mant)) {
        struct wide t = a;
        a = b;
        b = t;
    }
    u128 x = a.mant >> 1, y = float_shift_jam(b.mant >> 1, (u32)(a.exp - b.exp));
    return normal(a.sign, a.exp + 1, a.sign == b.sign ? x + y : x - y);
}

static struct wide negative(struct wide a)
{
    a.sign = !a.sign;
    return a;
}

/* |a| < 4 in fixed point, chopped; and back. */
static u128 fixed(struct wide a)
{
    return a.exp < -126 ? 0 : a.mant >> (1 - a.exp);
}

static struct wide floating(u128 a)
{
    return normal(false, 1, a);
}

static u128 mul_fixed(u128 a, u128 b)
{
    return mul_high(a, b) << 2;
}

/* The one rounding. These functions have no exact results but the ones that are told apart before, so that bits behind
 * the 128 are always there. */
static struct float80 rounded(struct wide a, struct float_env *env)
{
    struct float_env full = *env;
    full.bits = 64;
    struct float80 ret = float80_round(a.sign, a.exp, (u64)(a.mant >> 64), (u64)a.mant | 1, &full);
    env->flags = full.flags;
    env->up = full.up;
    return ret;
}

/* --- sine, cosine, tangent -------------------------------------------------------------------------------- */

#define SINE_TERMS 18           /* (pi/4)^37 / 37! < 2^-150 */
#define HALF_PI_66 WIDE(0x3, 0x243F6A8885A308D3)    /* pi/2 in units of 2^-65, as silicon has it */

struct angle {                  /* quadrant * pi/2 + r, or - r where `below`; 0 < r <= pi/4 */
    struct wide r;
    unsigned quadrant;
    bool below;
};

/* |a| for a.exp < 63, by pi of 66 bits (SDM vol. 1, 8.3.8). */
static struct angle reduce(const struct float_parts *a)
{
    struct angle ret = {wide_of(a), 0, false};
    ret.r.sign = false;
    if (a->exp < -1)
        return ret;
    u128 rest = a->mant;
    for (s32 i = 0; i < a->exp + 2; i++) {
        bool bit = (rest <<= 1) >= HALF_PI_66;
        if (bit)
            rest -= HALF_PI_66;
        ret.quadrant = ret.quadrant << 1 | bit;
    }
    ret.below = 2 * rest > HALF_PI_66;
    if (ret.below) {
        rest = HALF_PI_66 - rest;
        ret.quadrant++;
    }
    ret.r = normal(false, 127 - 65, rest);
    return ret;
}

/* The alternating series 1 - r2 / (n (n + 1)) + ... of the cosine (n = 1) and of sin r / r (n = 2); below 1 for any r. */
static struct wide sine_series(struct wide r, unsigned first)
{
    u128 r2 = fixed(mul(r, r)), f = UNIT;
    for (unsigned k = SINE_TERMS; k > 0; k--) {
        unsigned n = 2 * (k - 1) + first;
        f = UNIT - mul_fixed(r2, f) / (n * (n + 1));
    }
    return floating(f == UNIT ? f - 1 : f);
}

static struct wide sine(const struct angle *a, unsigned quadrant)
{
    struct wide ret = quadrant & 1 ? sine_series(a->r, 1) : mul(a->r, sine_series(a->r, 2));
    ret.sign = !!(quadrant & 2) ^ (a->below && !(quadrant & 1));
    return ret;
}

/* NaNs, infinities, zeros, denormals. True: *value is what FSIN and FPTAN give, or an unmasked exception ends it. */
static bool trivial(struct float80 a, const struct float_parts *p, struct float_env *env, struct float80 *value)
{
    if (float80_nan(a, a, env, value))
        return true;
    *value = p->class == CLASS_INF ? float80_invalid(env) : a;
    return p->class != CLASS_FINITE || (p->exp < 63 && float_denormal(p, p, env));
}

bool float80_sincos(struct float80 a, struct float_env *env, struct float80 *sin, struct float80 *cos)
{
    struct float_parts p = float80_unpack(a);
    struct float80 value;
    if (trivial(a, &p, env, &value)) {
        if (cos)
            *cos = p.class == CLASS_ZERO ? float80_from_int(1) : value;
        if (sin)
            *sin = value;
        return true;
    }
    if (p.exp >= 63)
        return false;
    struct angle angle = reduce(&p);
    if (cos)
        *cos = rounded(sine(&angle, angle.quadrant + 1), env);
    if (sin) {
        struct wide w = sine(&angle, angle.quadrant);
        w.sign ^= p.sign;
        *sin = rounded(w, env);
    }
    return true;
}

bool float80_tan(struct float80 a, struct float_env *env, struct float80 *ret)
{
    struct float_parts p = float80_unpack(a);
    if (trivial(a, &p, env, ret))
        return true;
    if (p.exp >= 63)
        return false;
    struct angle angle = reduce(&p);
    struct wide w = angle.r;    /* where r^2 is nothing beside 1, tan r is a little above r */
    if (w.exp >= -63)
        w = divide(sine(&angle, angle.quadrant), sine(&angle, angle.quadrant + 1));
    w.sign ^= p.sign;
    *ret = rounded(w, env);
    return true;
}

/* --- arctangent ------------------------------------------------------------------------------------------- */

/* Euler's series for 0 < q <= 1: q / (1 + q^2) (1 + 2/3 z (1 + 4/5 z (...))), z = q^2 / (1 + q^2) <= 1/2. */
static struct wide arctangent(struct wide q)
{
    struct wide q2 = mul(q, q), sum = add(one, q2);
    u128 z = fixed(divide(q2, sum)), f = UNIT;
    if (z == 0)                 /* a little below q */
        return normal(false, q.exp, q.mant - 1);
    unsigned zeros = z >> 64 ? (unsigned)__builtin_clzll((u64)(z >> 64)) - 1 : 63;
    for (unsigned n = 128 / zeros + 4; n > 0; n--) {
        u128 t = mul_fixed(z, f);
        f = UNIT + t - t / (2 * n + 1);
    }
    return mul(divide(q, sum), floating(f));
}

struct float80 float80_patan(struct float80 a, struct float80 b, struct float_env *env)
{
    struct float80 ret;
    if (float80_nan(a, b, env, &ret))
        return ret;
    struct float_parts x = float80_unpack(a), y = float80_unpack(b);
    bool left = x.sign, flat = y.class == CLASS_ZERO || (x.class == CLASS_INF && y.class != CLASS_INF);
    struct wide angle;
    if (float_denormal(&x, &y, env))
        return a;
    if (flat && !left)
        return float80_zero(y.sign);
    if (flat) {
        angle = pi;
    } else if (x.class == CLASS_INF) {
        angle = half_pi;
        angle.exp--;
        if (left)
            angle = add(pi, negative(angle));
    } else if (x.class == CLASS_ZERO || y.class == CLASS_INF) {
        angle = half_pi;
    } else {
        struct wide wx = wide_of(&x), wy = wide_of(&y);
        wx.sign = wy.sign = false;
        bool steep = wy.exp > wx.exp || (wy.exp == wx.exp && wy.mant > wx.mant);
        angle = arctangent(steep ? divide(wx, wy) : divide(wy, wx));
        if (steep)
            angle = add(half_pi, left ? angle : negative(angle));
        else if (left)
            angle = add(pi, negative(angle));
    }
    angle.sign = y.sign;
    return rounded(angle, env);
}

/* --- logarithms ------------------------------------------------------------------------------------------- */

#define LOG_TERMS 27            /* (3 - 2 sqrt 2)^54 < 2^-136 */
#define SQRT_2 WIDE(0xB504F333F9DE6484, 0)

/* log2((1 + s) / (1 - s)) for |s| <= 3 - 2 sqrt 2. */
static struct wide log_series(struct wide s)
{
    u128 s2 = fixed(mul(s, s)), f = 0;
    for (unsigned k = LOG_TERMS + 1; k > 0; k--)
        f = UNIT / (2 * k - 1) + mul_fixed(s2, f);
    return mul(mul(s, floating(f)), two_log2_e);
}

/* log2 a for a > 0, a != 1; *exact: a power of two. */
static struct wide log2_of(struct wide a, bool *exact)
{
    s32 exp = a.exp + (a.mant > SQRT_2);
    *exact = a.mant == WIDE_TOP;
    struct wide whole = {0}, m = {false, a.exp - exp, a.mant};
    if (exp)
        whole = normal(exp < 0, 127, exp < 0 ? (u128)-exp : (u128)exp);
    if (*exact)
        return whole;
    struct wide part = log_series(divide(add(m, negative(one)), add(m, one)));
    return exp ? add(whole, part) : part;
}

/* b * log with the sign of an infinite or zero b; log is neither. Silicon reports a product as inexact even if the log
 * is exact. */
static struct float80 times_log(const struct float_parts *b, struct wide log, bool exact, struct float_env *env)
{
    if (b->class == CLASS_INF)
        return float80_inf(b->sign ^ log.sign);
    if (b->class == CLASS_ZERO)
        return float80_zero(b->sign ^ log.sign);
    struct wide product = mul(wide_of(b), log);
    if (!exact)
        return rounded(product, env);
    struct float_env full = *env;
    full.bits = 64;
    struct float80 ret = float80_round(product.sign, product.exp, (u64)(product.mant >> 64), (u64)product.mant, &full);
    bool tiny = !(ret.se & 0x7FFF);   /* as inexact as PE says, so that it underflows */
    env->flags = full.flags | FLOAT_PE | (tiny ? FLOAT_UE : 0);
    env->up = full.up;
    return ret;
}

/* log2 a where that is infinite: a is 0 or +inf. */
static struct float80 infinite_log(const struct float_parts *a, const struct float_parts *b, struct float_env *env)
{
    bool zero = a->class == CLASS_ZERO;
    if (b->class == CLASS_ZERO)
        return float80_invalid(env);
    if (zero && b->class == CLASS_FINITE)
        env->flags |= FLOAT_ZE;
    return float80_inf(b->sign ^ zero);
}

struct float80 float80_yl2x(struct float80 a, struct float80 b, struct float_env *env)
{
    struct float80 ret;
    if (float80_nan(a, b, env, &ret))
        return ret;
    struct float_parts x = float80_unpack(a), y = float80_unpack(b);
    bool is_one = x.class == CLASS_FINITE && x.exp == 0 && x.mant == 1ull << 63, exact;
    if ((x.sign && x.class != CLASS_ZERO) || (is_one && y.class == CLASS_INF))
        return float80_invalid(env);
    if (x.class == CLASS_ZERO)
        return infinite_log(&x, &y, env);
    if (x.class == CLASS_INF && y.class == CLASS_ZERO)
        return float80_invalid(env);
    if (float_denormal(&x, &y, env))
        return a;
    if (x.class == CLASS_INF)
        return infinite_log(&x, &y, env);
    if (is_one)
        return float80_zero(y.sign);
    struct wide log = log2_of(wide_of(&x), &exact);
    return times_log(&y, log, exact, env);
}

struct float80 float80_yl2xp1(struct float80 a, struct float80 b, struct float_env *env)
{
    struct float80 ret;
    if (float80_nan(a, b, env, &ret))
        return ret;
    struct float_parts x = float80_unpack(a), y = float80_unpack(b);
    if ((x.class == CLASS_INF && x.sign) || (x.class == CLASS_ZERO && y.class == CLASS_INF) || (x.class == CLASS_INF && y.class == CLASS_ZERO))
        return float80_invalid(env);
    if (float_denormal(&x, &y, env))
        return a;
    if (x.class == CLASS_INF)
        return float80_inf(y.sign);
    if (x.class == CLASS_ZERO)
        return float80_zero(x.sign ^ y.sign);
    if (x.sign && x.exp >= 0) {
        env->flags |= FLOAT_PE;
        return a;
    }
    bool exact = false;
    struct wide w = wide_of(&x);
    struct wide log = x.exp < -2 ? log_series(divide(w, add(w, two))) : log2_of(add(w, one), &exact);
    return times_log(&y, log, exact, env);
}

/* --- 2^x - 1 ---------------------------------------------------------------------------------------------- */

#define EXP_TERMS 35            /* (ln 2)^35 / 35! < 2^-150 */

struct float80 float80_2xm1(struct float80 a, struct float_env *env)
{
    struct float80 ret;
    if (float80_nan(a, a, env, &ret))
        return ret;
    struct float_parts p = float80_unpack(a);
    if (p.class == CLASS_INF)
        return p.sign ? float80_pack((struct float_parts){CLASS_FINITE, true, false, 0, 1ull << 63}) : a;
    if (p.class == CLASS_ZERO || float_denormal(&p, &p, env))
        return a;
    if (p.exp >= 0) {
        env->flags |= FLOAT_PE;
        if (p.sign && p.exp == 0 && p.mant == 1ull << 63)
            a.se--;             /* -1: -1/2 */
        return a;
    }
    struct wide t = mul(wide_of(&p), ln_2);
    struct wide size = {false, t.exp, t.mant};
    u128 x = fixed(size), f = UNIT;
    for (unsigned n = EXP_TERMS; n > 1; n--) {
        u128 term = mul_fixed(x, f) / n;
        f = p.sign ? UNIT - term : UNIT + term;
    }
    return rounded(mul(t, floating(f)), env);
}
