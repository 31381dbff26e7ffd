/*
 * float_simd.h: the floating-point operations of SSE and SSE2 as pure
 * functions, which rows of sse.def name.
 *
 * An operation sees whole registers: in d the destination operand, which it
 * replaces by the result, in s the source operand; lanes that the instruction
 * leaves alone stay in d. Whatever it raises is returned, masked or not; with
 * an unmasked exception the caller drops d (SDM vol. 1, 11.5.1 to 11.5.3).
 *
 * Where operands and results are:
 *   singles in d[], doubles in q[], scalars in the first lane; packed
 *   integers in sd[]; an MMX register in q[0]
 *   a general register in d[0]
 *   COMISS and its kin: EFLAGS bits ZF, PF, CF as the result in d[0]
 */
#ifndef PYK_FLOAT_SIMD_H
#define PYK_FLOAT_SIMD_H

#include "types.h"

/* An XMM register; an MMX register in its lower half. */
union lanes {
    u64 q[2];
    u32 d[4];
    u16 w[8];
    u8 b[16];
    s64 sq[2];
    s32 sd[4];
    s16 sw[8];
    s8 sb[16];
};
_Static_assert(sizeof(union lanes) == 16, "an XMM register has 128 bits");

/* MXCSR (SDM vol. 1, 10.2.3): flags in bits 0-5 and masks in bits 7-12 are enum float_exception, rounding in 13-14 is
 * enum float_rounding. */
#define MXCSR_FLAGS 0x003Fu
#define MXCSR_DAZ 0x0040u       /* denormal operands are zeros */
#define MXCSR_MASKS(mxcsr) ((mxcsr) >> 7 & 0x3F)
#define MXCSR_ROUNDING(mxcsr) ((mxcsr) >> 13 & 3)
#define MXCSR_FTZ 0x8000u       /* underflow that is masked gives zero */
#define MXCSR_RESET 0x1F80u

/* Returns the exceptions of all lanes: enum float_exception. imm is the instruction's immediate, or 0. */
typedef unsigned sse_float(union lanes *d, const union lanes *s, unsigned imm, u32 mxcsr);

/* float_simd.c */
sse_float float_addps, float_addss, float_addpd, float_addsd, float_subps, float_subss, float_subpd, float_subsd,
    float_mulps, float_mulss, float_mulpd, float_mulsd, float_divps, float_divss, float_divpd, float_divsd,
    float_sqrtps, float_sqrtss, float_sqrtpd, float_sqrtsd, float_minps, float_minss, float_minpd, float_minsd,
    float_maxps, float_maxss, float_maxpd, float_maxsd;
/* imm & 7: the predicate. */
sse_float float_cmpps, float_cmpss, float_cmppd, float_cmpsd;
/* d->d[0]: ZF, PF, CF of EFLAGS. */
sse_float float_comiss, float_comisd, float_ucomiss, float_ucomisd;

/* float_simd_convert.c */
sse_float float_cvtsi2ss, float_cvtsi2sd, float_cvtss2si, float_cvttss2si, float_cvtsd2si, float_cvttsd2si,
    float_cvtpi2ps, float_cvtps2pi, float_cvttps2pi, float_cvtpi2pd, float_cvtpd2pi, float_cvttpd2pi,
    float_cvtdq2ps, float_cvtps2dq, float_cvttps2dq, float_cvtdq2pd, float_cvtpd2dq, float_cvttpd2dq,
    float_cvtss2sd, float_cvtsd2ss, float_cvtps2pd, float_cvtpd2ps;
/* 1/x and 1/sqrt(x) correctly rounded to 12 bits, a relative error of at most 2^-12 where the manual allows 1.5 * 2^-12
 * and every processor has a table of its own. Denormals count as zeros, tiny results become zeros, nothing is raised. */
sse_float float_rcpps, float_rcpss, float_rsqrtps, float_rsqrtss;

#endif
