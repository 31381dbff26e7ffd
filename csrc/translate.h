/*
 * translate.h: instructions -> ops.
 */
#ifndef PYK_TRANSLATE_H
#define PYK_TRANSLATE_H

#include "decode.h"
#include "op.h"

#define TRANSLATION_MAX (BLOCK_MAX_INSNS + 4)

/* A block under construction. */
struct translation {
    u32 mode;                   /* enum mode bits of the block */
    u32 eip;                    /* of the instruction to translate next */
    unsigned n;                 /* ops so far */
    unsigned count;             /* instructions so far */
    bool ended;                 /* the last op leaves the block */
    bool probes;                /* probe points are bound here */
    int flags_class;            /* enum flags_class that the flags have here whatever the path, or -1 */
    op_handler *const *fuse;    /* handlers by condition that fuse the last op with a branch, or NULL */
    u16 fuse_id;                /* the same for memory operands: first enum handler_id, or 0 */
    bool fuse_memory;
    struct op ops[TRANSLATION_MAX];
};

void translate_begin(struct translation *t, u32 mode, u32 eip);
/* Append one instruction. */
void translate(struct translation *t, const struct insn *in);
/* Append an instruction that is undefined. */
void translate_undefined(struct translation *t, unsigned len);
/* Append the hit of a probe and the instruction that its breakpoint hides. */
void translate_hit(struct translation *t, const struct insn *in, struct kprobe *p);
/* Append the end of a probe point instead of the instruction there. */
void translate_probe(struct translation *t);
/* Append a jump to t->eip if the last op does not leave the block. */
void translate_end(struct translation *t);

#endif
