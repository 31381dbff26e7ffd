/*
 * float80.h: pure functions over the 80-bit extended format with the x87's
 * rules (SDM vol. 1, 4.8 and 8.5).
 */
#ifndef PYK_FLOAT80_H
#define PYK_FLOAT80_H

#include "float_core.h"

struct float80 {
    u64 mant;                   /* bit 63 is the integer bit */
    u16 se;                     /* sign 15, biased exponent 0-14 */
};

struct float_parts float80_unpack(struct float80 a);
struct float80 float80_pack(struct float_parts p);
/* float_round in the extended format with env->bits of precision. */
struct float80 float80_round(bool sign, s32 exp, u64 hi, u64 lo, struct float_env *env);

#define FLOAT80_INDEFINITE ((struct float80){0xC000000000000000, 0xFFFF})
#define FLOAT80_SIGN 0x8000u
#define FLOAT80_EXP 0x7FFFu
#define FLOAT80_BIAS 16383

ALWAYS_INLINE struct float80 float80_inf(bool sign)
{
    return (struct float80){1ull << 63, (u16)(FLOAT80_EXP | sign << 15)};
}
ALWAYS_INLINE struct float80 float80_zero(bool sign)
{
    return (struct float80){0, (u16)(sign << 15)};
}
struct float80 float80_invalid(struct float_env *env);
/* True: an operand is a NaN or unsupported, and *ret is the result (SDM vol. 1, table 4-7). */
bool float80_nan(struct float80 a, struct float80 b, struct float_env *env, struct float80 *ret);

struct float80 float80_add(struct float80 a, struct float80 b, struct float_env *env);
struct float80 float80_sub(struct float80 a, struct float80 b, struct float_env *env);
struct float80 float80_mul(struct float80 a, struct float80 b, struct float_env *env);
struct float80 float80_div(struct float80 a, struct float80 b, struct float_env *env);
struct float80 float80_sqrt(struct float80 a, struct float_env *env);
struct float80 float80_scale(struct float80 a, struct float80 b, struct float_env *env);
struct float80 float80_to_integral(struct float80 a, struct float_env *env);
/* a = significand * 2^exponent: ret[0] is the exponent, ret[1] the significand. */
void float80_extract(struct float80 a, struct float_env *env, struct float80 ret[2]);
/* One step of the remainder: nearest is FPREM1. quotient gets its low bits, or -1 if more steps are needed. */
struct float80 float80_remainder(struct float80 a, struct float80 b, bool nearest, struct float_env *env, int *quotient);
/* quiet: only signalling NaNs are invalid. */
enum float_order float80_compare(struct float80 a, struct float80 b, bool quiet, struct float_env *env);

/* An operand of arithmetic: a NaN stays as it is, and a denormal is noted in env->denormal. */
struct float80 float80_widen_single(u32 a, struct float_env *env);
struct float80 float80_widen_double(u64 a, struct float_env *env);
/* A load: SNaNs are invalid and get quiet, denormals are reported. */
struct float80 float80_from_single(u32 a, struct float_env *env);
struct float80 float80_from_double(u64 a, struct float_env *env);
struct float80 float80_from_int(s64 a);
struct float80 float80_from_bcd(const u8 bcd[10]);
/* After an unmasked invalid, overflow or underflow the value returned is not to be stored. */
u32 float80_to_single(struct float80 a, struct float_env *env);
u64 float80_to_double(struct float80 a, struct float_env *env);
s64 float80_to_int(struct float80 a, unsigned bits, struct float_env *env);
void float80_to_bcd(struct float80 a, struct float_env *env, u8 bcd[10]);

#endif
