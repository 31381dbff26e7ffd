/*
 * execute_sse_float.c: handlers of floating-point rows of sse.def, with all
 * exceptions masked. Operations then work on the register in place. Everything
 * else is insn_sse's (sse.c).
 */
#include "sse_handlers.h"

#define NOINLINE __attribute__((noinline))
#define ALL_MASKED (MXCSR_MASKS(cpu->sse.mxcsr) == MXCSR_FLAGS)
#define UNAVAILABLE (SSE_BLOCKED || unlikely(!ALL_MASKED))

ALWAYS_INLINE void operate(struct cpu *cpu, const struct op *op, union lanes *d, const union lanes *s)
{
    cpu->sse.mxcsr |= sse_row(op->imm >> 8)->floating(d, s, IMM8, cpu->sse.mxcsr);
}

/* A memory operand. False: it is not in the TLB, or not aligned; align is a mask. */
ALWAYS_INLINE bool operand(struct cpu *cpu, const struct op *op, struct tlb_entry *tlb, unsigned bytes, u32 align,
                           union lanes *ret)
{
    u32 lin = EA_bis;
    const struct tlb_entry *entry = tlb_entry_of(tlb, lin);
    if (unlikely((lin - entry->read_tag > PAGE_SIZE - bytes) | (lin & align)))
        return false;
    memcpy(ret, entry->host + lin, bytes);
    return true;
}

/* --- XMM to XMM ------------------------------------------------------------------------------------------- */

H(float_xmm_r)
{
    if (UNAVAILABLE)
        BY_CALLOUT;
    operate(cpu, op, XMM(op->reg), XMM(op->rm));
    NEXT;
}

/* Functions of their own: a local whose address is taken would keep a handler from jumping to the next. */
#define FROM_MEMORY(name, bytes, align) \
    static NOINLINE bool name##_done(struct cpu *cpu, const struct op *op, struct tlb_entry *tlb) \
    { \
        union lanes s; \
        if (unlikely(!operand(cpu, op, tlb, bytes, align, &s))) \
            return false; \
        operate(cpu, op, XMM(op->reg), &s); \
        return true; \
    } \
    H(name) \
    { \
        if (UNAVAILABLE || unlikely(!name##_done(cpu, op, tlb))) \
            BY_CALLOUT; \
        NEXT; \
    }
FROM_MEMORY(float_xmm_m4, 4, 0)
FROM_MEMORY(float_xmm_m8, 8, 0)
FROM_MEMORY(float_xmm_m16, 16, 15)

/* --- general registers ------------------------------------------------------------------------------------ */

static NOINLINE void from_gpr(struct cpu *cpu, const struct op *op)
{
    union lanes s = {.d = {REG32(cpu, op->rm)}};
    operate(cpu, op, XMM(op->reg), &s);
}

H(float_xmm_gpr)
{
    if (UNAVAILABLE)
        BY_CALLOUT;
    from_gpr(cpu, op);
    NEXT;
}

static NOINLINE void to_gpr(struct cpu *cpu, const struct op *op)
{
    union lanes d;
    operate(cpu, op, &d, XMM(op->rm));
    REG32(cpu, op->reg) = d.d[0];
}

H(float_gpr_xmm)
{
    if (UNAVAILABLE)
        BY_CALLOUT;
    to_gpr(cpu, op);
    NEXT;
}

/* --- flags ------------------------------------------------------------------------------------------------ */

static NOINLINE u32 compare(struct cpu *cpu, const struct op *op, const union lanes *s)
{
    union lanes d = *XMM(op->reg);
    operate(cpu, op, &d, s);
    return d.d[0];
}

H(float_flags_r)
{
    if (UNAVAILABLE)
        BY_CALLOUT;
    SET_LAZY(flags_set(compare(cpu, op, XMM(op->rm))));
    NEXT;
}

/* --- which ------------------------------------------------------------------------------------------------ */

sse_handler *sse_float_handler(const struct sse_row *row, bool mem)
{
    if (row->flags & SSE_TO_FLAGS)
        return mem ? NULL : float_flags_r;
    if (row->reg == AT_GPR && row->rm == AT_XMM)
        return mem ? NULL : float_gpr_xmm;
    if (row->reg != AT_XMM || row->rm == AT_MM)
        return NULL;
    if (mem)
        return row->size == 4 ? float_xmm_m4 : row->size == 8 ? float_xmm_m8 : float_xmm_m16;
    return row->rm == AT_XMM ? float_xmm_r : float_xmm_gpr;
}
