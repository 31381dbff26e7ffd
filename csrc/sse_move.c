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
PV_HANDLERS(move)

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
#define SHUFFLE(name, field, first) \
    OPERATION(name) \
    { \
        union lanes a = *s; \
        *d = a; \
        for (unsigned i = 0; i < 4; i++) \
            d->field[(first) + i] = a.field[(first) + PICK(imm, i)]; \
    } \
    EXPORT(name)
SHUFFLE(pshufw, w, 0)
P_HANDLERS(pshufw)
SHUFFLE(pshuflw, w, 0)
V_HANDLERS(pshuflw)
SHUFFLE(pshufhw, w, 4)
V_HANDLERS(pshufhw)
SHUFFLE(pshufd, d, 0)
V_HANDLERS(pshufd)

OPERATION(shufps)
{
    union lanes a = *d;
    for (unsigned i = 0; i < 4; i++)
        d->d[i] = (i < 2 ? &a : s)->d[PICK(imm, i)];
}
EXPORT(shufps)
V_HANDLERS(shufps)

OPERATION(shufpd)
{
    *d = (union lanes){{d->q[imm & 1], s->q[imm >> 1 & 1]}};
}
EXPORT(shufpd)
V_HANDLERS(shufpd)

/* Lanes of d and s in turn, n of each from the first one on. */
#define UNPACK(name, field, n, first) \
    OPERATION(name) \
    { \
        union lanes a = *d, b = *s; \
        (void)imm; \
        for (unsigned i = 0; i < (n); i++) { \
            d->field[2 * i] = a.field[(first) + i]; \
            d->field[2 * i + 1] = b.field[(first) + i]; \
        } \
    } \
    EXPORT(name)
#define UNPACK_BOTH(low, high, field, n) \
    UNPACK(low##64, field, (n) / 2, 0) P_HANDLERS(low##64) \
    UNPACK(high##64, field, (n) / 2, (n) / 2) P_HANDLERS(high##64) \
    UNPACK(low##128, field, n, 0) V_HANDLERS(low##128) \
    UNPACK(high##128, field, n, n) V_HANDLERS(high##128)
UNPACK_BOTH(punpcklbw, punpckhbw, b, 8)
UNPACK_BOTH(punpcklwd, punpckhwd, w, 4)
UNPACK_BOTH(punpckldq, punpckhdq, d, 2)
UNPACK(punpcklqdq, q, 1, 0)
V_HANDLERS(punpcklqdq)
UNPACK(punpckhqdq, q, 1, 1)
V_HANDLERS(punpckhqdq)

/* n lanes of d, then n of s, saturated to half their width. */
#define PACK(name, to, from, n, low, high) \
    OPERATION(name) \
    { \
        union lanes a = *d, b = *s; \
        (void)imm; \
        for (unsigned i = 0; i < 2 * (n); i++) { \
            s32 v = i < (n) ? a.from[i] : b.from[i - (n)]; \
            d->to[i] = (__typeof__(d->to[0]))(v < (low) ? (low) : v > (high) ? (high) : v); \
        } \
    } \
    EXPORT(name)
#define PACK_BOTH(name, to, from, n, low, high) \
    PACK(name##64, to, from, (n) / 2, low, high) P_HANDLERS(name##64) \
    PACK(name##128, to, from, n, low, high) V_HANDLERS(name##128)
PACK_BOTH(packsswb, sb, sw, 8, -0x80, 0x7F)
PACK_BOTH(packuswb, b, sw, 8, 0, 0xFF)
PACK_BOTH(packssdw, sw, sd, 4, -0x8000, 0x7FFF)
