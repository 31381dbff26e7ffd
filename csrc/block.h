/*
 * block.h: decoded code: its memory, its lookup by address, and its
 * invalidation when bytes change.
 */
#ifndef PYK_BLOCK_H
#define PYK_BLOCK_H

#include "cpu.h"
#include "op.h"

struct machine;
struct page;
struct kprobe;

struct code_arena {
    struct chunk *chunks;       /* newest first */
    size_t used;                /* bytes used of the newest */
    size_t total;               /* bytes in all chunks */
};

/* The block at cpu->eip in cpu->mode, decoded if need be. NULL: cpu->fault is set (#PF, #GP of the fetch), or
 * cpu->stop on lack of host memory (cpu->leave tells which). */
struct block *block_find(struct cpu *cpu);
/* The single instruction at cpu->eip with mode bit MODE_ONE, ignoring probes' bindings but not their bytes. */
struct block *block_find_one(struct cpu *cpu);

/* Bytes [offset, offset + size) of a page changed: all CPUs' blocks over them are stale. Sets their code_changed.
 * lin is as cpu sees it. */
void code_invalidate(struct machine *m, struct page *page, u32 offset, u32 size);
void code_invalidate_lin(struct cpu *cpu, u32 lin, u32 size);

/* Other things than before lie at these frames: drop code decoded there, without RAM too, and translations. */
void code_drop_frames(struct machine *m, u32 first, u32 last);

/* Write a probe's breakpoint or its saved byte. Blocks in which the probe is bound stay valid: their probe op
 * looks at the byte. False: the address is not mapped. */
bool code_write_probe(struct machine *m, u32 lin, u8 byte);
bool code_is_mapped(struct machine *m, u32 lin);
/* The byte at a probe's address; 0 if it is no longer mapped. */
u8 code_read_probe(struct machine *m, u32 lin);
/* A probe comes or goes at lin: mark or unmark the byte and drop the blocks over it. False: not mapped or no memory. */
bool code_bind_probe(struct machine *m, u32 lin, bool on);

/* Forget all that decoded code owes to the page tables: links between pages, indirect targets, fetch translations. */
void code_mapping_changed(struct cpu *cpu);
/* The run loop found block behind cpu->exit_from or cpu->stale_from: link them. */
void code_link(struct cpu *cpu, struct block *block);
/* eip is about to change by other means than the code itself: the last exit's target is not what comes next. */
ALWAYS_INLINE void forget_exit(struct cpu *cpu)
{
    cpu->exit_from = NULL;
    cpu->stale_from = NULL;
}
void arena_deinit(struct code_arena *arena);
/* Drop all decoded code; only between blocks. */
void code_flush(struct machine *m);

#endif
