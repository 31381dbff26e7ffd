/*
 * float80_math.h: transcendental functions of the extended format, computed
 * with 128-bit significands and rounded once, to 64 bits whatever env->bits.
 *
 * Operands are classified here as SDM vol. 2 tables them for each instruction.
 */
#ifndef PYK_FLOAT80_MATH_H
#define PYK_FLOAT80_MATH_H

#include "float80.h"

/* False: |a| is 2^63 or more, nothing done. Either result may be NULL. */
bool float80_sincos(struct float80 a, struct float_env *env, struct float80 *sin, struct float80 *cos);
bool float80_tan(struct float80 a, struct float_env *env, struct float80 *ret);
/* atan2(b, a), b * log2(a), b * log2(a + 1) as the stack has them: a is ST(0), b ST(1). For a <= -1 the last one, which
 * is undefined there, gives a. */
struct float80 float80_patan(struct float80 a, struct float80 b, struct float_env *env);
struct float80 float80_yl2x(struct float80 a, struct float80 b, struct float_env *env);
struct float80 float80_yl2xp1(struct float80 a, struct float80 b, struct float_env *env);
/* 2^a - 1; defined for |a| <= 1, beyond that a comes back. */
struct float80 float80_2xm1(struct float80 a, struct float_env *env);

#endif
