/* sse_move.c: moves, shuffles, packs and unpacks of MMX, SSE and SSE2. */
#include "sse_handlers.h"

/* --- moves ------------------------------------------------------------------------------------------------ */

#define MOVE(name, statement) \
    OPERATION(name) \
    { \
        (void)imm; \
        statement; \
    } \
    EXPORT(name)

MOVE(move, *d = *s)
MOVE(move_low, *d = ((union lanes){{s->q[0], 0}}))
MOVE(merge4, d->d[0] = s->d[0])
MOVE(merge8, d->q[0] = s->q[0])
MOVE(high_to_low, d->q[0] = s->q[1])
MOVE(low_to_high, d->q[1] = s->q[0])
MOVE(move64, d->q[0] = s->q[0])
P_HANDLERS(move64)
V_HANDLERS(move)

#define MOVE_R(name, statement) \
    H(name) \
    { \
        if (SSE_BLOCKED) \
            BY_CALLOUT; \
        statement; \
        NEXT; \
    }
MOVE_R(move_low_r, *XMM(op->reg) = ((union lanes){{XMM(op->rm)->q[0], 0}}))
MOVE_R(merge4_r, XMM(op->reg)->d[0] = XMM(op->rm)->d[0])
MOVE_R(merge8_r, XMM(op->reg)->q[0] = XMM(op->rm)->q[0])
MOVE_R(movd_to_xmm, *XMM(op->reg) = ((union lanes){{REG32(cpu, op->rm), 0}}))
MOVE_R(movd_from_xmm, REG32(cpu, op->rm) = XMM(op->reg)->d[0])

#define LOADS(name, bytes, statement) \
    H(name) \
    { \
        if (SSE_BLOCKED) \
            BY_CALLOUT; \
        OPERAND(s, bytes, 0); \
        statement; \
        NEXT; \
    }
LOADS(load16, 16, *XMM(op->reg) = s)
LOADS(load8, 8, *XMM(op->reg) = s)
LOADS(load4, 4, *XMM(op->reg) = s)
LOADS(load_low, 8, XMM(op->reg)->q[0] = s.q[0])
LOADS(load_high, 8, XMM(op->reg)->q[1] = s.q[0])

#define STORES(name, bytes, align, from) \
    H(name) \
    { \
        if (SSE_BLOCKED) \
            BY_CALLOUT; \
        RESULT(from, bytes, align); \
        NEXT; \
    }
STORES(store16, 16, 0, XMM(op->reg))
STORES(store16_aligned, 16, 15, XMM(op->reg))
STORES(store8, 8, 0, XMM(op->reg))
STORES(store4, 4, 0, XMM(op->reg))
STORES(store_high, 8, 0, &XMM(op->reg)->q[1])

H(store8_mm)
{
    if (MMX_BLOCKED)
        BY_CALLOUT;
    RESULT(&MM(op->reg)->mant, 8, 0);
    mmx_enter(&cpu->fpu);
    NEXT;
}

/* --- parts ------------------------------------------------------------------------------------------------ */

/* The top bits of n lanes. */
#define TOP_BITS(name, field, n, top) \
    OPERATION(name) \
    { \
        u32 bits = 0; \
        (void)imm; \
        for (unsigned i = 0; i < (n); i++) \
            bits |= (u32)(s->field[i] >> (top)) << i; \
        d->d[0] = bits; \
    } \
    EXPORT(name)
TOP_BITS(movmskps, d, 4, 31)
TOP_BITS(movmskpd, q, 2, 63)
TOP_BITS(pmovmskb64, b, 8, 7)
TOP_BITS(pmovmskb128, b, 16, 7)

#define WORDS(bits, last) \
    MOVE(pinsrw##bits, d->w[imm & (last)] = s->w[0]) \
    MOVE(pextrw##bits, d->d[0] = s->w[imm & (last)])
WORDS(64, 3)
WORDS(128, 7)

/* --- shuffles --------------------------------------------------------------------------------------------- */

#define PICK(imm, i) ((imm) >> 2 * (i) & 3)
ALWAYS_INLINE u64 pick_words(const u16 *from, unsigned imm)
{
    return from[PICK(imm, 0)] | (u64)from[PICK(imm, 1)] << 16 | (u64)from[PICK(imm, 2)] << 32 |
           (u64)from[PICK(imm, 3)] << 48;
}
ALWAYS_INLINE u64 pick_two(const u32 *from, unsigned imm)
{
    return from[PICK(imm, 0)] | (u64)from[PICK(imm, 1)] << 32;
}
#define SHUFFLE(name, low, high) \
    OPERATION(name) \
    { \
        lanes_put(d, low, high); \
    } \
    EXPORT(name) \
    V_HANDLERS(name)
SHUFFLE(pshuflw, pick_words(s->w, imm), s->q[1])
SHUFFLE(pshufhw, s->q[0], pick_words(s->w + 4, imm))
SHUFFLE(pshufd, pick_two(s->d, imm), pick_two(s->d, imm >> 4))
SHUFFLE(shufps, pick_two(d->d, imm), pick_two(s->d, imm >> 4))
SHUFFLE(shufpd, d->q[imm & 1], s->q[imm >> 1 & 1])

OPERATION(pshufw64)
{
    d->q[0] = pick_words(s->w, imm);
}
EXPORT(pshufw64)
P_HANDLERS(pshufw64)

/* n lanes of d and s in turn, from the first one on. */
#define UNPACK(name, bits, lane, first) \
    OPERATION(name##bits) \
    { \
        lane a[(bits) / 8 / sizeof(lane)], b[(bits) / 8 / sizeof(lane)], r[(bits) / 8 / sizeof(lane)]; \
        (void)imm; \
        memcpy(a, d, (bits) / 8); \
        memcpy(b, s, (bits) / 8); \
        for (unsigned i = 0; i < sizeof(r) / sizeof(*r) / 2; i++) { \
            r[2 * i] = a[(first) + i]; \
            r[2 * i + 1] = b[(first) + i]; \
        } \
        memcpy(d, r, (bits) / 8); \
    } \
    EXPORT(name##bits)
#define UNPACK_ALL(low, high, lane) \
    UNPACK(low, 64, lane, 0) P_HANDLERS(low##64) \
    UNPACK(high, 64, lane, 4 / sizeof(lane)) P_HANDLERS(high##64) \
    UNPACK(low, 128, lane, 0) V_HANDLERS(low##128) \
    UNPACK(high, 128, lane, 8 / sizeof(lane)) V_HANDLERS(high##128)
UNPACK_ALL(punpcklbw, punpckhbw, u8)
UNPACK_ALL(punpcklwd, punpckhwd, u16)
UNPACK_ALL(punpckldq, punpckhdq, u32)
UNPACK(punpcklqdq, 128, u64, 0)
V_HANDLERS(punpcklqdq128)
UNPACK(punpckhqdq, 128, u64, 1)
V_HANDLERS(punpckhqdq128)

/* All lanes of d, then of s, saturated to half their width. */
#define PACK(name, bits, to, from, low, high) \
    OPERATION(name##bits) \
    { \
        from a[2 * (bits) / 8 / sizeof(from)]; \
        to r[(bits) / 8 / sizeof(to)]; \
        (void)imm; \
        memcpy(a, d, (bits) / 8); \
        memcpy((u8 *)a + (bits) / 8, s, (bits) / 8); \
        for (unsigned i = 0; i < sizeof(r) / sizeof(*r); i++) \
            r[i] = (to)(a[i] < (low) ? (low) : a[i] > (high) ? (high) : a[i]); \
        memcpy(d, r, (bits) / 8); \
    } \
    EXPORT(name##bits)
#define PACK_ALL(name, to, from, low, high) \
    PACK(name, 64, to, from, low, high) P_HANDLERS(name##64) \
    PACK(name, 128, to, from, low, high) V_HANDLERS(name##128)
PACK_ALL(packsswb, s8, s16, -0x80, 0x7F)
PACK_ALL(packuswb, u8, s16, 0, 0xFF)
PACK_ALL(packssdw, s16, s32, -0x8000, 0x7FFF)
