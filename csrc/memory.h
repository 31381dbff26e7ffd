/*
 * memory.h: guest physical memory, 4 KiB pages over an immutable tree.
 *
 * The machine is based on a tree (page_tree.h), its own at first: what it has
 * not written it shares with everybody who has that tree. The first write to a
 * page makes a private copy and puts the page on the dirty list; memory_restore
 * copies the base's bytes back into the pages of that list, so that it costs
 * what was dirtied and host addresses stay. Addresses without RAM read all
 * ones and swallow writes.
 */
#ifndef PYK_MEMORY_H
#define PYK_MEMORY_H

#include "page_tree.h"
#include "tunables.h"
#include "types.h"

struct machine;
struct block;

struct page {
    u8 *data;                   /* PAGE_SIZE bytes: those of base, or a private copy (a struct contents, too) */
    struct contents *base;      /* what memory_restore puts back, NULL: no RAM; held by the tree, or if moved by the page */
    struct block *blocks;       /* decoded blocks with bytes in this page */
    u8 *code;                   /* bitmap of bytes that decoded code covers, NULL when none */
    u8 *probed;                 /* bitmap of bytes that hold or held a kprobe's breakpoint, NULL when none */
    u32 frame;                  /* its number */
    bool present : 1;           /* there is RAM */
    bool owned : 1;             /* data is private, and stays allocated when the page becomes clean */
    bool dirty : 1;             /* on the dirty list: may differ from base. Only such pages have write tags in TLBs */
    bool moved : 1;             /* on the moved list: base is not the tree's but this machine's own (memory_advance) */
    bool walked : 1;            /* was looked at as a page table: TLBs may depend on its bytes */
    bool tables : 1;            /* gates or descriptors that cpu->plain_hits relies on may be here */
    bool rom : 1;               /* guest stores are ignored */
    bool base_rom : 1;          /* and so they are in the base */
    bool probe_conflict : 1;    /* decoded code covers a probed byte other than as a bound probe: arming must invalidate */
};
_Static_assert(sizeof(struct page) <= 48, "there is one for each page in use");

struct page_list {
    struct page **pages;
    u32 count, room;
};

struct memory {
    struct page **directory;    /* 1024 pointers to 1024 pages each, NULL where nobody has looked yet or no RAM is */
    struct page_node *root;     /* the tree that the machine is based on */
    struct page_list dirty, moved;
    u32 top;                    /* first frame number never used by memory_add's automatic placement */
    bool exhausted;             /* the host had no memory for a page: a write was lost, stop with STOP_MEMORY */
};

/* Room for so many more pages. False: out of host memory. */
bool page_list_room(struct page_list *list, u32 more);

/* RAM at frames [0, count), all zeros; or what a tree has. */
bool memory_init(struct memory *mem, u32 count);
bool memory_init_from(struct memory *mem, struct page_node *root);
void memory_deinit(struct memory *mem);
/* Put RAM at frames [first, first + count). False: out of host memory or already RAM there. */
bool memory_add(struct memory *mem, u32 first, u32 count);
/* Take RAM away, its bytes and decoded code with it; the caller flushes TLBs. False: there is none, or no host memory. */
bool memory_remove(struct machine *m, u32 frame);

/* The 1024 pages of a table that nobody has looked at yet; NULL: no RAM there, or exhausted. */
struct page *memory_table(const struct memory *mem, u32 table);

ALWAYS_INLINE struct page *memory_page(const struct memory *mem, u32 frame)
{
    struct page *table = mem->directory[frame >> 10];
    if (unlikely(!table) && !(table = memory_table(mem, frame >> 10)))
        return NULL;
    struct page *page = &table[frame & 1023];
    return page->present ? page : NULL;
}

/* Put ROM with these bytes at a frame, in the place of RAM if there is any. False: out of host memory. */
bool memory_add_rom(struct machine *m, u32 frame, const u8 *data);

/* Make the page's data its own so that it can be written, and the page dirty; TLBs forget the shared data. False: out
 * of host memory, with exhausted and code_changed set so that the run ends behind this instruction. */
bool memory_own(struct machine *m, struct page *page);
/* Write bytes that lie in one page, NULL for an address without RAM. Keeps decoded code coherent. False: as memory_own.
 * memory_store is what the guest does, memory_patch what a debugger does: it writes ROM too. */
bool memory_store(struct machine *m, struct page *page, u32 offset, const void *src, u32 size);
bool memory_patch(struct machine *m, struct page *page, u32 offset, const void *src, u32 size);

/* What is in memory now becomes a tree, which the caller holds, and which the machine is based on: costs the dirty pages.
 * False: out of host memory, nothing has changed. */
bool memory_snapshot(struct machine *m, struct page_node **ret);
/* Memory is as in a tree, and based on it. For the tree that it was based on already, this costs the dirty pages; else
 * those that differ, too. Decoded code stays where its bytes do. Not within an instruction. */
void memory_restore(struct machine *m, struct page_node *root);
/* What is in memory now is what memory_restore_base goes back to: a snapshot for nobody else, without a tree. */
bool memory_advance(struct machine *m);
void memory_restore_base(struct machine *m);

/* Physical accesses of the engine itself. Writes keep decoded code coherent. size 1, 2, 4; may cross pages. */
u32 phys_read(struct machine *m, u32 phys, unsigned size);
void phys_write(struct machine *m, u32 phys, u32 value, unsigned size);

#endif
