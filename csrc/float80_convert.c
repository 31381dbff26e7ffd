/* float80_convert.c: between the extended format and single, double, integers and packed BCD. */
#include <string.h>

#include "float80.h"

#define BCD_DIGITS 18
#define BCD_LIMIT 1000000000000000000ull

static struct float80 widen(struct float_parts p, struct float_env *env)
{
    env->denormal = p.denormal;
    return float80_pack(p);
}

struct float80 float80_widen_single(u32 a, struct float_env *env)
{
    return widen(float32_unpack(a), env);
}

struct float80 float80_widen_double(u64 a, struct float_env *env)
{
    return widen(float64_unpack(a), env);
}

/* SDM vol. 1, 8.5.1.2 and 8.5.2. */
static struct float80 load(struct float_parts p, struct float_env *env)
{
    if (p.class == CLASS_SNAN) {
        env->flags |= FLOAT_IE;
        p.mant |= FLOAT_QUIET;
    }
    if (p.denormal)
        env->flags |= FLOAT_DE;
    return float80_pack(p);
}

struct float80 float80_from_single(u32 a, struct float_env *env)
{
    return load(float32_unpack(a), env);
}

struct float80 float80_from_double(u64 a, struct float_env *env)
{
    return load(float64_unpack(a), env);
}

static struct float80 from_magnitude(bool sign, u64 mant)
{
    if (mant == 0)
        return float80_zero(sign);
    unsigned shift = (unsigned)__builtin_clzll(mant);
    return float80_pack((struct float_parts){CLASS_FINITE, sign, false, 63 - (s32)shift, mant << shift});
}

struct float80 float80_from_int(s64 a)
{
    return from_magnitude(a < 0, a < 0 ? -(u64)a : (u64)a);
}

struct float80 float80_from_bcd(const u8 bcd[10])
{
    u64 value = 0;
    for (int i = 8; i >= 0; i--)
        value = value * 100 + (bcd[i] >> 4) * 10u + (bcd[i] & 15);
    return from_magnitude(bcd[9] >> 7, value);
}

/* What a store to single or double keeps: finite numbers rounded, NaNs quiet, the unsupported the indefinite NaN. */
static struct float_parts narrow(struct float80 a, const struct float_format *format, struct float_env *env)
{
    struct float_parts p = float80_unpack(a);
    if (p.class == CLASS_UNSUPPORTED) {
        env->flags |= FLOAT_IE;
        return (struct float_parts){.class = CLASS_QNAN, .sign = true, .mant = FLOAT80_INDEFINITE.mant};
    }
    if (p.class == CLASS_SNAN)
        env->flags |= FLOAT_IE;
    if (p.class == CLASS_SNAN || p.class == CLASS_QNAN)
        p.mant |= FLOAT_QUIET;
    return p.class == CLASS_FINITE ? float_round(p.sign, p.exp, p.mant, 0, format, env) : p;
}

u32 float80_to_single(struct float80 a, struct float_env *env)
{
    return float32_pack(narrow(a, &float_single, env));
}

u64 float80_to_double(struct float80 a, struct float_env *env)
{
    return float64_pack(narrow(a, &float_double, env));
}

s64 float80_to_int(struct float80 a, unsigned bits, struct float_env *env)
{
    struct float_parts p = float80_unpack(a);
    return float_to_int(&p, bits, env);
}

void float80_to_bcd(struct float80 a, struct float_env *env, u8 bcd[10])
{
    static const u8 indefinite[10] = {0, 0, 0, 0, 0, 0, 0, 0xC0, 0xFF, 0xFF};
    struct float_parts p = float80_unpack(a);
    struct float_env before = *env;
    u64 value;
    if (p.class > CLASS_FINITE || !float_integer(&p, env, &value) || value >= BCD_LIMIT) {
        *env = before;
        env->flags |= FLOAT_IE;
        memcpy(bcd, indefinite, sizeof indefinite);
        return;
    }
    for (int i = 0; i < BCD_DIGITS / 2; i++, value /= 100)
        bcd[i] = (u8)(value % 10 | value / 10 % 10 << 4);
    bcd[9] = p.sign ? 0x80 : 0;
}

struct float80 float80_to_integral(struct float80 a, struct float_env *env)
{
    struct float80 ret;
    if (float80_nan(a, a, env, &ret))
        return ret;
    struct float_parts p = float80_unpack(a);
    if (float_denormal(&p, &p, env) || p.class != CLASS_FINITE || p.exp >= 63)
        return a;
    u64 value;
    float_integer(&p, env, &value);
    return from_magnitude(p.sign, value);
}
