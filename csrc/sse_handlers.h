/*
 * sse_handlers.h: how operations of sse.def and their handlers are written.
 *
 * An operation is an inline function name_on; EXPORT makes the function that
 * its rows name, P_HANDLERS and V_HANDLERS what executes it directly on MMX
 * and XMM registers. These do the common case only: nothing in the way of the
 * instruction, and memory, if any, in the TLB, flat and aligned. Everything
 * else is insn_sse's (sse.c).
 */
#ifndef PYK_SSE_HANDLERS_H
#define PYK_SSE_HANDLERS_H

#include "execute.h"
#include "sse.h"

#define OPERATION(name) ALWAYS_INLINE void name##_on(union lanes *d, const union lanes *s, unsigned imm)
#define EXPORT(name) \
    sse_integer name; \
    void name(union lanes *d, const union lanes *s, unsigned imm) \
    { \
        name##_on(d, s, imm); \
    }

/* One expression for whole registers x and y of a vector type. */
#define WHOLE(name, type, expr) \
    OPERATION(name) \
    { \
        type x, y, r; \
        (void)imm; \
        memcpy(&x, d, 16); \
        memcpy(&y, s, 16); \
        r = (type)(expr); \
        memcpy(d, &r, 16); \
    } \
    EXPORT(name)

/* One expression for lanes x and y of a field of union lanes, computed in int unless said otherwise. */
#define EACH_AS(name, field, n, type, expr) \
    OPERATION(name) \
    { \
        union lanes a = *d, b = *s; \
        (void)imm; \
        for (unsigned i = 0; i < (n); i++) { \
            type x = a.field[i], y = b.field[i]; \
            a.field[i] = (__typeof__(a.field[0]))(expr); \
        } \
        *d = a; \
    } \
    EXPORT(name)
#define EACH(name, field, n, expr) EACH_AS(name, field, n, int, expr)

#define BY_CALLOUT return callout_op(OP_ARGS)
#define MMX_BLOCKED unlikely((cpu->cr0 & (CR0_EM | CR0_TS)) | (cpu->fpu.status & FPU_ES))
#define SSE_BLOCKED unlikely((cpu->cr0 & (CR0_EM | CR0_TS)) | (~cpu->cr4 & CR4_OSFXSR))
#define XMM(offset) ((union lanes *)((u8 *)cpu->sse.xmm + (offset)))
#define MM(offset) ((struct float80 *)((u8 *)cpu->fpu.st + (offset)))
#define IMM8 ((u8)op->imm)

/* Declare var, of which the first bytes come from the memory operand; align is a mask. */
#define OPERAND(var, bytes, align) \
    union lanes var = {{0, 0}}; \
    do { \
        u32 lin_ = EA_bis; \
        const struct tlb_entry *entry_ = tlb_entry_of(tlb, lin_); \
        if (unlikely((lin_ - entry_->read_tag > PAGE_SIZE - (bytes)) | (lin_ & (align)))) \
            BY_CALLOUT; \
        memcpy(&var, entry_->host + lin_, bytes); \
    } while (0)
#define RESULT(from, bytes, align) \
    do { \
        u32 lin_ = EA_bis; \
        const struct tlb_entry *entry_ = tlb_entry_of(tlb, lin_); \
        if (unlikely((lin_ - entry_->write_tag > PAGE_SIZE - (bytes)) | (lin_ & (align)))) \
            BY_CALLOUT; \
        memcpy(entry_->host + lin_, from, bytes); \
    } while (0)

#define V_HANDLERS(name) \
    H(name##_xmm_r) \
    { \
        if (SSE_BLOCKED) \
            BY_CALLOUT; \
        union lanes s = *XMM(op->rm); \
        name##_on(XMM(op->reg), &s, IMM8); \
        NEXT; \
    } \
    H(name##_xmm_m) \
    { \
        if (SSE_BLOCKED) \
            BY_CALLOUT; \
        OPERAND(s, 16, 15); \
        name##_on(XMM(op->reg), &s, IMM8); \
        NEXT; \
    }

#define ON_MMX(name, offset) \
    do { \
        union lanes d_ = {{MM(offset)->mant, 0}}; \
        name##_on(&d_, &s, IMM8); \
        mmx_put(&cpu->fpu, offset, d_.q[0]); \
        NEXT; \
    } while (0)
#define P_HANDLERS(name) \
    H(name##_mm_r) \
    { \
        if (MMX_BLOCKED) \
            BY_CALLOUT; \
        union lanes s = {{MM(op->rm)->mant, 0}}; \
        ON_MMX(name, op->reg); \
    } \
    H(name##_mm_m) \
    { \
        if (MMX_BLOCKED) \
            BY_CALLOUT; \
        OPERAND(s, 8, 0); \
        ON_MMX(name, op->reg); \
    }
#define PV_HANDLERS(name) P_HANDLERS(name) V_HANDLERS(name)

/* Shifts by the immediate. */
#define I_HANDLERS(name) \
    H(name##_mm_r) \
    { \
        const union lanes s = {{0, 0}}; \
        if (MMX_BLOCKED) \
            BY_CALLOUT; \
        ON_MMX(name, op->rm); \
    } \
    H(name##_xmm_r) \
    { \
        const union lanes s = {{0, 0}}; \
        if (SSE_BLOCKED) \
            BY_CALLOUT; \
        name##_on(XMM(op->rm), &s, IMM8); \
        NEXT; \
    }

#endif
