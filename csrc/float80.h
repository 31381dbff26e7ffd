/*
 * float80.h: floating point in integers, the same on every host. Pure
 * functions over the 80-bit extended format with the x87's rules, on a core
 * (parts, float_round) that serves the 32- and 64-bit formats as well.
 *
 * SDM vol. 1, 4.8 and 8.5: exceptions collect in env->flags. After an unmasked
 * invalid, denormal or zero-divide exception the value returned means nothing.
 */
#ifndef PYK_FLOAT80_H
#define PYK_FLOAT80_H

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
};

struct float80 {
    u64 mant;                   /* bit 63 is the integer bit */
    u16 se;                     /* sign 15, biased exponent 0-14 */
};

struct float_format {
    u8 bits;                    /* of the significand, integer bit included */
    s32 emin, emax;             /* of normal numbers */
    s32 adjust;                 /* added to or taken from the exponent where over- and underflow are unmasked */
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

struct float_parts float80_unpack(struct float80 a);
struct float_parts float32_unpack(u32 a);
struct float_parts float64_unpack(u64 a);
struct float80 float80_pack(struct float_parts p);
u32 float32_pack(struct float_parts p);
u64 float64_pack(struct float_parts p);

/* The number sign (hi + lo / 2^64) * 2^(exp - 63), bit 63 of hi set, in a format; a lo that is not zero but below its
 * last bit counts as sticky. Denormals come back with bit 63 of mant clear and exp = emin. */
struct float_parts float_round(bool sign, s32 exp, u64 hi, u64 lo, const struct float_format *format,
                               struct float_env *env);
/* The same in the extended format with env->bits of precision. */
struct float80 float80_round(bool sign, s32 exp, u64 hi, u64 lo, struct float_env *env);
/* Any 128-bit significand that is not zero, in place of hi and lo: it is shifted up first. */
struct float80 float80_normalize(bool sign, s32 exp, u128 mant, struct float_env *env);
/* a >> count, with what is lost or-ed into bit 0. */
u128 float_shift_jam(u128 a, u32 count);

/* A finite number rounded to an integer by env->round: its magnitude, with inexact in PE and env->up. False, and nothing
 * raised: 2^64 or more. */
bool float_integer(const struct float_parts *p, struct float_env *env, u64 *ret);

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
ALWAYS_INLINE bool float_blocked(const struct float_env *env)
{
    return env->flags & ~env->masks & FLOAT_BEFORE;
}
struct float80 float80_invalid(struct float_env *env);
/* True: an operand is a NaN or unsupported, and *ret is the result (SDM vol. 1, table 4-7). */
bool float80_nan(struct float80 a, struct float80 b, struct float_env *env, struct float80 *ret);
/* Raise DE where an operand is denormal; true if that ends the operation. */
bool float_denormal(const struct float_parts *a, const struct float_parts *b, struct float_env *env);

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
/* bits 16, 32 or 64; what does not fit is invalid and gives the most negative integer. */
s64 float80_to_int(struct float80 a, unsigned bits, struct float_env *env);
void float80_to_bcd(struct float80 a, struct float_env *env, u8 bcd[10]);

#endif
