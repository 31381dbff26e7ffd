/*
 * sse_handlers.h: how operations of sse.def and their handlers are written.
 *
 * An operation is an inline function name_on that reads and writes 8 or 16
 * bytes, as its name says; EXPORT makes the function that its rows name,
 * P_HANDLERS and V_HANDLERS what executes it directly on MMX and XMM
 * registers. These do the common case only: nothing in the way of the
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

#define ON_WHOLE(name, bits, lane, expr) \
    OPERATION(name) \
    { \
        typedef u##lane T __attribute__((vector_size((bits) / 8))); \
        typedef s##lane S __attribute__((vector_size((bits) / 8), unused)); \
        T x, y, r; \
        (void)imm; \
        memcpy(&x, d, (bits) / 8); \
        memcpy(&y, s, (bits) / 8); \
        r = (T)(expr); \
        memcpy(d, &r, (bits) / 8); \
    }
#define WHOLE_OF(name, bits, lane, expr) ON_WHOLE(name##bits, bits, lane, expr) EXPORT(name##bits)
/* One expression for whole registers x and y, vectors T of unsigned lanes; S is the same with signed ones. */
#define WHOLE(name, lane, expr) \
    WHOLE_OF(name, 64, lane, expr) P_HANDLERS(name##64) WHOLE_OF(name, 128, lane, expr) V_HANDLERS(name##128)

/* Both halves in one store: the host forwards it to the next instruction, which loads 16 bytes. */
typedef u64 u64x2 __attribute__((vector_size(16)));
ALWAYS_INLINE void lanes_put(union lanes *d, u64 low, u64 high)
{
    u64x2 r = {low, high};
    memcpy(d, &r, 16);
}

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

/* Only the eight bytes of a significand are read and written, so that the host can forward them from one instruction
 * to the next. */
#define ON_MMX(name, offset, s) \
    do { \
        name##_on((union lanes *)MM(offset), s, IMM8); \
        mmx_enter(&cpu->fpu); \
        MM(offset)->se = 0xFFFF; \
        NEXT; \
    } while (0)
#define P_HANDLERS(name) \
    H(name##_mm_r) \
    { \
        if (MMX_BLOCKED) \
            BY_CALLOUT; \
        ON_MMX(name, op->reg, (const union lanes *)MM(op->rm)); \
    } \
    H(name##_mm_m) \
    { \
        if (MMX_BLOCKED) \
            BY_CALLOUT; \
        OPERAND(s, 8, 0); \
        ON_MMX(name, op->reg, &s); \
    }

/* Shifts by the immediate. */
#define I_HANDLERS(name, unit) \
    H(name##_r) \
    { \
        if (unit##_BLOCKED) \
            BY_CALLOUT; \
        unit##_SHIFT(name); \
    }
#define MMX_SHIFT(name) ON_MMX(name, op->rm, NULL)
#define SSE_SHIFT(name) \
    name##_on(XMM(op->rm), NULL, IMM8); \
    NEXT

#endif
