/*
 * memory.h: guest physical memory, a table of 4 KiB pages.
 *
 * A page exists when RAM was put there (memory_add); its bytes are allocated
 * at the first write, until then it reads as zeros. Addresses without RAM read
 * all ones and swallow writes.
 */
#ifndef PYK_MEMORY_H
#define PYK_MEMORY_H

#include "tunables.h"
#include "types.h"

struct machine;
struct block;

struct page {
    u8 *data;                   /* PAGE_SIZE bytes; the shared zero page until first written */
    struct block *blocks;       /* decoded blocks with bytes in this page */
    u8 *code;                   /* bitmap of bytes that decoded code covers, NULL when none */
    u8 *probed;                 /* bitmap of bytes that hold or held a kprobe's breakpoint, NULL when none */
    bool present;               /* there is RAM */
    bool owned;                 /* data is this page's own, may be written */
    bool rom;                   /* guest stores are ignored */
    bool probe_conflict;        /* decoded code covers a probed byte other than as a bound probe: arming must invalidate */
};

struct memory {
    struct page **directory;    /* 1024 pointers to 1024 pages each, NULL where there is no RAM */
    u32 top;                    /* first frame number never used by memory_add's automatic placement */
    bool exhausted;             /* the host had no memory for a page: a write was lost, stop with STOP_MEMORY */
};

bool memory_init(struct memory *mem);
void memory_deinit(struct memory *mem);
/* Put RAM at frames [first, first + count). False: out of host memory or already RAM there. */
bool memory_add(struct memory *mem, u32 first, u32 count);

ALWAYS_INLINE struct page *memory_page(const struct memory *mem, u32 frame)
{
    struct page *table = mem->directory[frame >> 10];
    struct page *page = table ? &table[frame & 1023] : NULL;
    return page && page->present ? page : NULL;
}

/* Put ROM with these bytes at a frame, in the place of RAM if there is any. False: out of host memory. */
bool memory_add_rom(struct machine *m, u32 frame, const u8 *data);

/* Make the page's data its own so that it can be written; TLBs forget the shared data. False: out of host memory,
 * with exhausted and code_changed set so that the run ends behind this instruction. */
bool memory_own(struct machine *m, struct page *page);
/* Write bytes that lie in one page, NULL for an address without RAM. Keeps decoded code coherent. False: as memory_own.
 * memory_store is what the guest does, memory_patch what a debugger does: it writes ROM too. */
bool memory_store(struct machine *m, struct page *page, u32 offset, const void *src, u32 size);
bool memory_patch(struct machine *m, struct page *page, u32 offset, const void *src, u32 size);

/* Physical accesses of the engine itself. Writes keep decoded code coherent. size 1, 2, 4; may cross pages. */
u32 phys_read(struct machine *m, u32 phys, unsigned size);
void phys_write(struct machine *m, u32 phys, u32 value, unsigned size);

#endif
