/* sse_integer.c: arithmetic, logic, comparisons and shifts of MMX and SSE2, on lanes of 64 or 128 bits alike. */
#include "sse_handlers.h"

typedef u8 u8x16 __attribute__((vector_size(16)));
typedef u16 u16x8 __attribute__((vector_size(16)));
typedef u32 u32x4 __attribute__((vector_size(16)));
typedef u64 u64x2 __attribute__((vector_size(16)));
typedef s8 s8x16 __attribute__((vector_size(16)));
typedef s16 s16x8 __attribute__((vector_size(16)));
typedef s32 s32x4 __attribute__((vector_size(16)));

#define CLAMP(v, low, high) ((v) < (low) ? (low) : (v) > (high) ? (high) : (v))
/* Where mask is all ones x, where it is zero y. */
#define SELECT(mask, x, y) (((x) & (mask)) | ((y) & ~(mask)))

#define WHOLE_PV(name, type, expr) WHOLE(name, type, expr) PV_HANDLERS(name)
#define EACH_PV(name, field, n, expr) EACH(name, field, n, expr) PV_HANDLERS(name)

WHOLE_PV(pand, u64x2, x & y)
WHOLE_PV(pandn, u64x2, ~x & y)
WHOLE_PV(por, u64x2, x | y)
WHOLE_PV(pxor, u64x2, x ^ y)

WHOLE_PV(paddb, u8x16, x + y)
WHOLE_PV(paddw, u16x8, x + y)
WHOLE_PV(paddd, u32x4, x + y)
WHOLE_PV(paddq, u64x2, x + y)
WHOLE_PV(psubb, u8x16, x - y)
WHOLE_PV(psubw, u16x8, x - y)
WHOLE_PV(psubd, u32x4, x - y)
WHOLE_PV(psubq, u64x2, x - y)
WHOLE_PV(pmullw, u16x8, x * y)

WHOLE_PV(pcmpeqb, u8x16, x == y)
WHOLE_PV(pcmpeqw, u16x8, x == y)
WHOLE_PV(pcmpeqd, u32x4, x == y)
WHOLE_PV(pcmpgtb, s8x16, x > y)
WHOLE_PV(pcmpgtw, s16x8, x > y)
WHOLE_PV(pcmpgtd, s32x4, x > y)

WHOLE_PV(pminub, u8x16, SELECT((u8x16)(x < y), x, y))
WHOLE_PV(pmaxub, u8x16, SELECT((u8x16)(x > y), x, y))
WHOLE_PV(pminsw, s16x8, SELECT((s16x8)(x < y), x, y))
WHOLE_PV(pmaxsw, s16x8, SELECT((s16x8)(x > y), x, y))

/* What wraps around is less than an operand, or more than it was. */
WHOLE_PV(paddusb, u8x16, (x + y) | (u8x16)(x + y < x))
WHOLE_PV(paddusw, u16x8, (x + y) | (u16x8)(x + y < x))
WHOLE_PV(psubusb, u8x16, (x - y) & (u8x16)(x >= y))
WHOLE_PV(psubusw, u16x8, (x - y) & (u16x8)(x >= y))
EACH_PV(paddsb, sb, 16, CLAMP(x + y, -0x80, 0x7F))
EACH_PV(paddsw, sw, 8, CLAMP(x + y, -0x8000, 0x7FFF))
EACH_PV(psubsb, sb, 16, CLAMP(x - y, -0x80, 0x7F))
EACH_PV(psubsw, sw, 8, CLAMP(x - y, -0x8000, 0x7FFF))

EACH_PV(pavgb, b, 16, (x + y + 1) >> 1)
EACH_PV(pavgw, w, 8, (x + y + 1) >> 1)
EACH_PV(pmulhw, sw, 8, x * y >> 16)
EACH_AS(pmulhuw, w, 8, u32, x * y >> 16)
PV_HANDLERS(pmulhuw)
EACH_AS(pmuludq, q, 2, u64, (x & 0xFFFFFFFF) * (y & 0xFFFFFFFF))
PV_HANDLERS(pmuludq)

OPERATION(pmaddwd)
{
    union lanes a = *d;
    (void)imm;
    for (unsigned i = 0; i < 4; i++)
        d->d[i] = (u32)(a.sw[2 * i] * s->sw[2 * i]) + (u32)(a.sw[2 * i + 1] * s->sw[2 * i + 1]);
}
EXPORT(pmaddwd)
PV_HANDLERS(pmaddwd)

OPERATION(psadbw)
{
    (void)imm;
    for (unsigned half = 0; half < 2; half++) {
        u64 sum = 0;
        for (unsigned i = 8 * half; i < 8 * half + 8; i++)
            sum += d->b[i] > s->b[i] ? d->b[i] - s->b[i] : s->b[i] - d->b[i];
        d->q[half] = sum;
    }
}
EXPORT(psadbw)
PV_HANDLERS(psadbw)

/* Shifts: the count is the whole lower half of the source, or the immediate. Too large a one gives zeros, or signs. */
#define SHIFT(name, type, bits, how, too_large) \
    ALWAYS_INLINE void name##_by(union lanes *d, u64 count) \
    { \
        type x; \
        memcpy(&x, d, 16); \
        if (count >= (bits)) \
            x = too_large; \
        else \
            x = x how (int)count; \
        memcpy(d, &x, 16); \
    } \
    OPERATION(name) \
    { \
        (void)imm; \
        name##_by(d, s->q[0]); \
    } \
    EXPORT(name) \
    PV_HANDLERS(name) \
    OPERATION(name##_i) \
    { \
        (void)s; \
        name##_by(d, imm); \
    } \
    EXPORT(name##_i) \
    I_HANDLERS(name##_i)

SHIFT(psrlw, u16x8, 16, >>, x ^ x)
SHIFT(psrld, u32x4, 32, >>, x ^ x)
SHIFT(psrlq, u64x2, 64, >>, x ^ x)
SHIFT(psllw, u16x8, 16, <<, x ^ x)
SHIFT(pslld, u32x4, 32, <<, x ^ x)
SHIFT(psllq, u64x2, 64, <<, x ^ x)
SHIFT(psraw, s16x8, 16, >>, x >> 15)
SHIFT(psrad, s32x4, 32, >>, x >> 31)

/* By bytes, of the whole register. */
OPERATION(psrldq)
{
    union lanes wide[2] = {*d, {{0, 0}}};
    (void)s;
    memcpy(d, (u8 *)wide + (imm < 16 ? imm : 16), 16);
}
EXPORT(psrldq)

OPERATION(pslldq)
{
    union lanes wide[2] = {{{0, 0}}, *d};
    (void)s;
    memcpy(d, (u8 *)wide + 16 - (imm < 16 ? imm : 16), 16);
}
EXPORT(pslldq)
