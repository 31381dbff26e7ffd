/* sse_integer.c: arithmetic, logic, comparisons and shifts of MMX and SSE2. */
#include "sse_handlers.h"

/* Where the lanes of mask are all ones x, where they are zero y. */
#define SELECT(mask, x, y) (((x) & (mask)) | ((y) & ~(mask)))
#define LESS_SIGNED(x, y) ((T)((S)(x) < (S)(y)))
#define NEGATIVE(x) LESS_SIGNED(x, (T){0})

WHOLE(pand, 64, x & y)
WHOLE(pandn, 64, ~x & y)
WHOLE(por, 64, x | y)
WHOLE(pxor, 64, x ^ y)

WHOLE(paddb, 8, x + y)
WHOLE(paddw, 16, x + y)
WHOLE(paddd, 32, x + y)
WHOLE(paddq, 64, x + y)
WHOLE(psubb, 8, x - y)
WHOLE(psubw, 16, x - y)
WHOLE(psubd, 32, x - y)
WHOLE(psubq, 64, x - y)
WHOLE(pmullw, 16, x * y)
WHOLE(pmuludq, 64, (x & 0xFFFFFFFF) * (y & 0xFFFFFFFF))

WHOLE(pcmpeqb, 8, x == y)
WHOLE(pcmpeqw, 16, x == y)
WHOLE(pcmpeqd, 32, x == y)
WHOLE(pcmpgtb, 8, LESS_SIGNED(y, x))
WHOLE(pcmpgtw, 16, LESS_SIGNED(y, x))
WHOLE(pcmpgtd, 32, LESS_SIGNED(y, x))

WHOLE(pminub, 8, SELECT((T)(x < y), x, y))
WHOLE(pmaxub, 8, SELECT((T)(x > y), x, y))
WHOLE(pminsw, 16, SELECT(LESS_SIGNED(x, y), x, y))
WHOLE(pmaxsw, 16, SELECT(LESS_SIGNED(y, x), x, y))

/* What wraps around is less than an operand, or more than it was. */
WHOLE(paddusb, 8, (x + y) | (T)(x + y < x))
WHOLE(paddusw, 16, (x + y) | (T)(x + y < x))
WHOLE(psubusb, 8, (x - y) & (T)(x >= y))
WHOLE(psubusw, 16, (x - y) & (T)(x >= y))
/* A signed sum overflows where it has neither operand's sign; then the most positive or negative number of x's sign. */
#define OVERFLOWN(largest) (NEGATIVE(x) ^ (T)((T){0} + (largest)))
WHOLE(paddsb, 8, SELECT(NEGATIVE((x ^ (x + y)) & (y ^ (x + y))), OVERFLOWN(0x7F), x + y))
WHOLE(paddsw, 16, SELECT(NEGATIVE((x ^ (x + y)) & (y ^ (x + y))), OVERFLOWN(0x7FFF), x + y))
WHOLE(psubsb, 8, SELECT(NEGATIVE((x ^ y) & (x ^ (x - y))), OVERFLOWN(0x7F), x - y))
WHOLE(psubsw, 16, SELECT(NEGATIVE((x ^ y) & (x ^ (x - y))), OVERFLOWN(0x7FFF), x - y))

/* (x + y + 1) >> 1 */
WHOLE(pavgb, 8, (x | y) - ((x ^ y) >> 1))
WHOLE(pavgw, 16, (x | y) - ((x ^ y) >> 1))

#define EACH_OF(name, bits, lane, wide, expr) \
    OPERATION(name##bits) \
    { \
        lane a[(bits) / 8 / sizeof(lane)], b[(bits) / 8 / sizeof(lane)]; \
        (void)imm; \
        memcpy(a, d, (bits) / 8); \
        memcpy(b, s, (bits) / 8); \
        for (unsigned i = 0; i < sizeof(a) / sizeof(*a); i++) { \
            wide x = a[i], y = b[i]; \
            a[i] = (lane)(expr); \
        } \
        memcpy(d, a, (bits) / 8); \
    } \
    EXPORT(name##bits)
/* One expression for each lane of a type, computed in a wider one. */
#define EACH(name, lane, wide, expr) \
    EACH_OF(name, 64, lane, wide, expr) P_HANDLERS(name##64) EACH_OF(name, 128, lane, wide, expr) V_HANDLERS(name##128)
EACH(pmulhw, s16, s32, x * y >> 16)
EACH(pmulhuw, u16, u32, x * y >> 16)

#define PMADDWD(bits) \
    OPERATION(pmaddwd##bits) \
    { \
        s16 a[(bits) / 16], b[(bits) / 16]; \
        u32 sums[(bits) / 32]; \
        (void)imm; \
        memcpy(a, d, sizeof(a)); \
        memcpy(b, s, sizeof(b)); \
        for (unsigned i = 0; i < (bits) / 32; i++) \
            sums[i] = (u32)(a[2 * i] * b[2 * i]) + (u32)(a[2 * i + 1] * b[2 * i + 1]); \
        memcpy(d, sums, sizeof(sums)); \
    } \
    EXPORT(pmaddwd##bits)
PMADDWD(64)
P_HANDLERS(pmaddwd64)
PMADDWD(128)
V_HANDLERS(pmaddwd128)

/* The differences of unsigned bytes, and their sum: in pairs, then all four of these by a multiplication. */
#define DIFFERENCES(x, y) (((x - y) & (T)(x > y)) | ((y - x) & (T)(y > x)))
ON_WHOLE(differences64, 64, 8, DIFFERENCES(x, y))
ON_WHOLE(differences128, 128, 8, DIFFERENCES(x, y))
ALWAYS_INLINE u64 sum_of_bytes(u64 x)
{
    const u64 even = 0x00FF00FF00FF00FF;
    return ((x & even) + (x >> 8 & even)) * 0x0001000100010001 >> 48;
}
OPERATION(psadbw64)
{
    differences64_on(d, s, imm);
    d->q[0] = sum_of_bytes(d->q[0]);
}
EXPORT(psadbw64)
P_HANDLERS(psadbw64)
OPERATION(psadbw128)
{
    union lanes a = *d;
    differences128_on(&a, s, imm);
    lanes_put(d, sum_of_bytes(a.q[0]), sum_of_bytes(a.q[1]));
}
EXPORT(psadbw128)
V_HANDLERS(psadbw128)

/* Shifts: the count is the whole lower half of the source, or the immediate. Too large a one gives zeros, or signs. */
#define SHIFT_OF(name, bits, lane, sign, how, too_large) \
    ALWAYS_INLINE void name##_by##bits(union lanes *d, u64 count) \
    { \
        typedef sign##lane T __attribute__((vector_size((bits) / 8))); \
        T x; \
        memcpy(&x, d, (bits) / 8); \
        x = count < (lane) ? x how (int)count : too_large; \
        memcpy(d, &x, (bits) / 8); \
    } \
    OPERATION(name##bits) \
    { \
        (void)imm; \
        name##_by##bits(d, s->q[0]); \
    } \
    EXPORT(name##bits) \
    OPERATION(name##_i##bits) \
    { \
        (void)s; \
        name##_by##bits(d, imm); \
    } \
    EXPORT(name##_i##bits)
#define SHIFT(name, lane, sign, how, too_large) \
    SHIFT_OF(name, 64, lane, sign, how, too_large) P_HANDLERS(name##64) I_HANDLERS(name##_i64, MMX) \
    SHIFT_OF(name, 128, lane, sign, how, too_large) V_HANDLERS(name##128) I_HANDLERS(name##_i128, SSE)
SHIFT(psrlw, 16, u, >>, x ^ x)
SHIFT(psrld, 32, u, >>, x ^ x)
SHIFT(psrlq, 64, u, >>, x ^ x)
SHIFT(psllw, 16, u, <<, x ^ x)
SHIFT(pslld, 32, u, <<, x ^ x)
SHIFT(psllq, 64, u, <<, x ^ x)
SHIFT(psraw, 16, s, >>, x >> 15)
SHIFT(psrad, 32, s, >>, x >> 31)

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
