/*
 * gate.h: what trap delivery and far transfers share: descriptors, code
 * segments to be entered, inner stacks and the frames written there.
 *
 * Functions that return bool fill cpu->fault when they return false, and have
 * changed nothing but accessed bits then.
 */
#ifndef PYK_GATE_H
#define PYK_GATE_H

#include "cpu.h"
#include "op.h"

/* The high word of a descriptor (SDM vol. 3, 3.4.5). */
#define DESC_TYPE(desc) (((desc)[1] >> 8) & 0x0F)
#define DESC_DPL(desc) (((desc)[1] >> 13) & 3u)
#define DESC_A 0x0100u
#define DESC_S 0x1000u
#define DESC_P 0x8000u

/* Types of system descriptors (SDM vol. 3, table 3-2). */
enum system_type {
    SYS_TSS16 = 1, SYS_LDT = 2, SYS_TSS16_BUSY = 3, SYS_CALL16 = 4, SYS_TASK = 5, SYS_INT16 = 6, SYS_TRAP16 = 7,
    SYS_TSS32 = 9, SYS_TSS32_BUSY = 11, SYS_CALL32 = 12, SYS_INT32 = 14, SYS_TRAP32 = 15
};
#define TYPE_WIDE 8u            /* this bit of a system type tells 32-bit TSSs and gates from 16-bit ones */
#define TYPE_BUSY 2u            /* and this one a busy TSS */

/* Code and data descriptors (SDM vol. 3, table 3-1). */
ALWAYS_INLINE bool desc_is_code(const u32 desc[2])
{
    return (desc[1] & (DESC_S | 0x800)) == (DESC_S | 0x800);
}
ALWAYS_INLINE bool desc_is_conforming(const u32 desc[2])
{
    return (desc[1] & (DESC_S | 0xC00)) == (DESC_S | 0xC00);
}
ALWAYS_INLINE bool desc_is_readable(const u32 desc[2])  /* data, or code that can be read */
{
    return (desc[1] & DESC_S) && (desc[1] & 0xA00) != 0x800;
}
ALWAYS_INLINE bool desc_is_writable(const u32 desc[2])  /* data that can be written: a stack */
{
    return (desc[1] & (DESC_S | 0xA00)) == (DESC_S | 0x200);
}

#define SELECTOR_NULL(selector) (((selector) & 0xFFFC) == 0)
#define SELECTOR_RPL(selector) ((selector) & 3u)

/* A fault whose error code is a selector; ext is the EXT bit (SDM vol. 3, 6.13). */
ALWAYS_INLINE int fault_selector(struct cpu *cpu, enum vector vector, u16 selector, u32 ext)
{
    return cpu_fault_code(cpu, vector, (selector & 0xFFFCu) | ext);
}

enum lookup { LOOKUP_FOUND, LOOKUP_OUTSIDE, LOOKUP_FAULT };
/* Both words of a descriptor or gate. */
bool lin_read_pair(struct cpu *cpu, u32 lin, u32 ret[2]);
/* A descriptor; OUTSIDE: beyond its table, no fault raised; FAULT: #PF. */
enum lookup descriptor_lookup(struct cpu *cpu, u16 selector, u32 ret[2]);
/* The same; beyond the table is vector(selector + ext). */
bool descriptor_get(struct cpu *cpu, u16 selector, enum vector vector, u32 ext, u32 ret[2]);
/* Set the accessed bit, in the table and in desc. */
bool descriptor_touch(struct cpu *cpu, u16 selector, u32 desc[2]);
/* LDTR and TR: all checks of LLDT and LTR but the privilege; busy: a busy TSS is good too. */
bool segment_load_ldtr(struct cpu *cpu, u16 selector);
bool segment_load_tr(struct cpu *cpu, u16 selector, bool busy);
/* A stack segment for privilege cpl: null, table, RPL, DPL and type faults are vector's, absence is #SS. */
bool segment_check_stack(struct cpu *cpu, u16 selector, unsigned cpl, enum vector vector, u32 ext, u32 ret[2]);
/* The hidden part of a code segment to be entered: its DPL becomes cpl, so that mode_update() finds CPL there. */
void segment_code(struct segment *s, u16 selector, const u32 desc[2], unsigned cpl);
/* Real and virtual-8086 mode's segments; v86 also sets limit and rights. */
void segment_set_paragraph(struct segment *s, u16 selector, bool v86);
void segment_set_null(struct segment *s, u16 selector);
/* Bytes [off, off + size) lie in the segment. */
bool segment_contains(const struct segment *s, u32 off, u32 size);

/* A stack onto which a frame goes, not yet the current one if privilege changes. */
struct stack {
    const struct segment *ss;   /* the current one, or inner */
    struct segment inner;
    u32 esp;
    unsigned access;            /* of its memory accesses */
    u32 error;                  /* error code of #SS when the frame does not fit */
};
#define FRAME_MAX 36            /* words: a call gate's 31 parameters, SS, ESP, CS, EIP; a v86 trap has 10 */

void stack_current(const struct cpu *cpu, u32 ext, struct stack *ret);
/* The stack of privilege cpl in the TSS (SDM vol. 3, 5.8.5 and 6.12.1). */
bool stack_inner(struct cpu *cpu, unsigned cpl, u32 ext, struct stack *ret);
/* Push words[0 .. count) of size bytes each and move the stack's esp: nothing is written if any cannot be. */
bool stack_write(struct cpu *cpu, struct stack *s, const u32 *words, unsigned count, unsigned size);
/* Make it the current stack. */
void stack_commit(struct cpu *cpu, const struct stack *s);

ALWAYS_INLINE u32 stack_mask(const struct segment *ss)
{
    return ss->attr & SEG_DB ? 0xFFFFFFFF : 0xFFFF;
}
/* Move ESP by delta, or only SP on a 16-bit stack. */
ALWAYS_INLINE void stack_move(struct cpu *cpu, u32 delta)
{
    u32 mask = stack_mask(&cpu->seg[SS]);
    cpu->gpr[ESP] = (cpu->gpr[ESP] & ~mask) | ((cpu->gpr[ESP] + delta) & mask);
}

ALWAYS_INLINE bool protected_mode(const struct cpu *cpu)
{
    return (cpu->mode & MODE_PROTECTED) != 0;
}
ALWAYS_INLINE unsigned iopl(const struct cpu *cpu)
{
    return (cpu->eflags >> 12) & 3;
}
/* Load the bits of mask, arithmetic ones included. */
ALWAYS_INLINE void eflags_load(struct cpu *cpu, u32 value, u32 mask)
{
    u32 old = cpu_eflags(cpu);
    cpu_set_eflags(cpu, (old & ~mask) | (value & mask));
    if (unlikely((old ^ value) & mask & EFLAGS_AC))
        mode_update(cpu);
}
/* What POPF and IRET may change at the current privilege (SDM vol. 2, POPF table). */
ALWAYS_INLINE u32 eflags_mask(const struct cpu *cpu, unsigned size)
{
    u32 mask = EFLAGS_ARITH | EFLAGS_TF | EFLAGS_DF | EFLAGS_NT | (size == 4 ? EFLAGS_AC | EFLAGS_ID : 0);
    if (cpu->cpl <= iopl(cpu))
        mask |= EFLAGS_IF;
    if (cpu->cpl == 0)
        mask |= EFLAGS_IOPL;
    return mask;
}

/* How a callout ends that retired its instruction but must leave the block. */
ALWAYS_INLINE int op_jump(struct cpu *cpu, u32 eip)
{
    cpu->eip = eip;
    cpu->budget--;
    return STATUS_JUMP;
}
ALWAYS_INLINE int op_leave(struct cpu *cpu, const struct op *op)
{
    return op_jump(cpu, op->eip + op->len);
}

#endif
