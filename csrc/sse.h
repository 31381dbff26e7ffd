/*
 * sse.h: MMX, SSE and SSE2: their state, and the rows of sse.def.
 *
 * A row is found by opcode, mandatory prefix and ModRM; it says where the
 * operands are and names the operation, a function over lanes that knows
 * nothing of the processor. insn_sse does everything around it: what makes
 * the instruction undefined or unavailable, the memory operand, write-back,
 * and for floating-point operations (float_simd.h) MXCSR and #XM.
 *
 * Hot rows have handlers of their own besides (sse_handlers.h) that do the
 * common case; all else falls back on insn_sse.
 */
#ifndef PYK_SSE_H
#define PYK_SSE_H

#include "float_simd.h"

struct sse {
    union lanes xmm[8];
    u32 mxcsr;
};

struct cpu;
struct op;
struct insn;
struct tlb_entry;

/* Operations on integers, and moves. imm is the instruction's immediate byte. */
typedef void sse_integer(union lanes *d, const union lanes *s, unsigned imm);
/* Instructions that do their own work; only the checks for availability precede them. */
typedef int sse_special(struct cpu *cpu, const struct op *op);

/* op_handler of op.h. */
typedef void sse_handler(struct cpu *cpu, const struct op *op, struct tlb_entry *tlb, u32 res, u32 a, u32 kind);

enum sse_place {
    AT_NONE,
    AT_MM, AT_XMM,
    AT_GPR,                     /* a 32-bit general register */
};

enum sse_flags {
    SSE_TO_RM = 1 << 0,         /* r/m is the destination, reg the source */
    SSE_ANYWHERE = 1 << 1,      /* its 16 bytes of memory need not be aligned */
    SSE_FLOAT = 1 << 2,
    SSE_SPECIAL = 1 << 3,
    SSE_TO_FLAGS = 1 << 4,      /* the result goes to EFLAGS */
};

struct sse_row {
    union {
        sse_integer *integer;
        sse_float *floating;    /* SSE_FLOAT */
        sse_special *special;   /* SSE_SPECIAL */
    };
    sse_handler *handler;       /* for the common case, or NULL: by insn_sse alone */
    u32 feature;                /* the enum feature that it needs; 0: there is no such instruction */
    u8 reg;                     /* enum sse_place of the reg operand */
    u8 rm;                      /* and of the r/m operand if it is a register */
    u8 size;                    /* bytes of the r/m operand if it is memory */
    u8 flags;                   /* enum sse_flags */
};

enum sse_prefix { SSE_NP, SSE_66, SSE_F3, SSE_F2 };

/* The row of an instruction of family F_SSE, or NULL. */
const struct sse_row *sse_find(const struct insn *in);
/* execute_sse_float.c: the handler of a SSE_FLOAT row with flat memory if any, or NULL. */
sse_handler *sse_float_handler(const struct sse_row *row, bool mem);
unsigned sse_number(const struct sse_row *row);
const struct sse_row *sse_row(unsigned number);

/* The memory operand's linear address, checked against its segment and for alignment, a power of two. False: cpu->fault
 * is set. access is enum access. */
bool sse_operand(struct cpu *cpu, const struct op *op, unsigned size, unsigned access, u32 align, u32 *ret);

/* SDM vol. 3, table 9-1. */
void sse_reset(struct sse *s);
/* Bits of MXCSR that exist: LDMXCSR and FXRSTOR of others is #GP(0). */
u32 mxcsr_defined(const struct cpu *cpu);

#endif
