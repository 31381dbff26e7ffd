/*
 * op.h: decoded code. A block is an array of 32-byte ops; each op's handler
 * does its work and tail-calls the next op's handler.
 */
#ifndef PYK_OP_H
#define PYK_OP_H

#include <string.h>

#include "cpu.h"

struct op;

#define BREAKPOINT 0xCC         /* INT 3 */

/* The arguments that travel from handler to handler in registers. */
#define OP_PARAMS struct cpu *cpu, const struct op *op, struct tlb_entry *tlb, u32 res, u32 a, u32 kind
#define OP_ARGS cpu, op, tlb, res, a, kind
typedef void op_handler(OP_PARAMS);

struct op {
    op_handler *fn;
    u32 imm;                    /* immediate, branch target, or a handler's own datum */
    u32 disp;                   /* displacement of the memory operand */
    u32 eip;                    /* offset of this instruction in its code segment */
    u16 id;                     /* enum op_id: finds the slow twin of fn; callouts: enum callout_id */
    u8 reg;                     /* byte offset in struct cpu of the register operand */
    u8 rm;                      /* byte offset of the r/m register, or of the memory operand's base */
    u8 index;                   /* byte offset of the index register, or ZERO_REG */
    u8 scale;                   /* shift count of the index, 0-3 */
    u8 seg;                     /* enum sreg of the memory operand */
    u8 done;                    /* instructions of the block retired before this op */
    u8 len;                     /* length of the instruction in bytes */
    u8 flags;                   /* enum op_flags */
    u8 sub;                     /* condition code, group index: what a shared handler tells apart */
    u8 size;                    /* operand size in bytes: 1, 2, 4 */
};
_Static_assert(sizeof(struct op) == 40 || sizeof(struct op) == 32, "ops are laid out for the cache");

enum op_flags {
    OP_MEM = 1 << 0,            /* r/m operand is memory */
    OP_ADDR16 = 1 << 1,         /* effective address wraps at 64 KiB */
    OP_REP = 1 << 2,            /* F3 */
    OP_REPNE = 1 << 3,          /* F2 */
    OP_LOCK = 1 << 4,
    OP_HAS_SEG = 1 << 5,        /* a segment override prefix was given */
    OP_PROBED = 1 << 6,         /* a probe_hit op is before it */
};

/* Follows every op that ends a block, in the next slot of the op array. */
struct block_exit {
    const struct op *link[2];   /* first op of the fall-through [0] and the taken [1] block, NULL when not known */
    u32 target[2];              /* their eip */
    u8 count;                   /* instructions that the block retires through this exit */
};
_Static_assert(sizeof(struct block_exit) <= sizeof(struct op), "an exit fills one op slot");
#define OP_EXIT(op) ((struct block_exit *)(uintptr_t)((op) + 1))

/* The probe of a probe_hit op: its address lies where others have imm and disp. */
struct kprobe;
ALWAYS_INLINE struct kprobe *op_probe(const struct op *op)
{
    struct kprobe *p;
    memcpy(&p, &op->imm, sizeof(p));
    return p;
}
_Static_assert(offsetof(struct op, disp) == offsetof(struct op, imm) + 4 && sizeof(void *) <= 8, "room for a pointer");

/* What a callout returns. */
enum status {
    STATUS_NEXT,                /* done: go on behind the instruction */
    STATUS_JUMP,                /* done, retired; cpu->eip is set: leave the block for the run loop */
    STATUS_FAULT,               /* cpu->fault is set, nothing else changed; not retired */
    STATUS_STOP,                /* cpu->stop is set; not retired, eip at the instruction */
    STATUS_REPEAT,              /* a string instruction retired iterations but has more to do: eip stays */
};

/* A callout runs one rare instruction as a plain function. On entry cpu->fl holds the flags, cpu->eip is the
 * address of the instruction itself, and cpu->budget already counts what the block retired before it. It may
 * change cpu->fl. Instructions that change mode, privilege, eip or paging are marked ENDS in opcodes.def: they
 * return STATUS_JUMP with eip set, or STATUS_NEXT to go on behind. */
typedef int callout(struct cpu *cpu, const struct op *op);

#define HIDDEN_BREAKPOINT 0x100u

struct block {
    u32 eip;                    /* offset in the code segment */
    u32 cs_base;
    u32 cs_limit;
    u32 mode;
    u32 phys;                   /* physical address of the first byte */
    u32 phys_end;               /* physical address of the page that the last byte is in */
    u16 bytes;                  /* length of the code in bytes */
    u16 first;                  /* its first byte, or HIDDEN_BREAKPOINT where a probe's is that is no byte */
    bool stale;                 /* its bytes changed; ops[0] forwards or leaves */
    u8 count;                   /* instructions that it retires at most, repetitions aside */
    struct block *forward;      /* stale: the block decoded since at the same place, or NULL */
    struct cpu *cpu;            /* whose block it is */
    struct block *hash_next;    /* in cpu->blocks */
    struct block *page_next[2]; /* in the list of its first page, and of its second one if it crosses */
    struct op ops[];
};

#endif
