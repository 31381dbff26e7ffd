/* memory_rewind.c: memory becomes a tree, and goes back to one. */
#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "machine.h"
#include "mmu.h"

static struct contents *contents_of(const struct page *page)
{
    return page->present ? (struct contents *)(void *)page->data : NULL;
}

/* --- back to the base ------------------------------------------------------------------------------------- */

/* A registered probe's byte: the ops that are bound to it look at it, so that it may change under decoded code. */
static bool is_bound(const struct page *page, u32 offset)
{
    return page->probed && !page->probe_conflict && page->probed[offset >> 3] >> (offset & 7) & 1;
}

/* Drop decoded code of the bytes that are about to become others. */
static void drop_changed_code(struct machine *m, struct page *page, const u8 *bytes)
{
    for (u32 i = 0; page->code && i < PAGE_SIZE; i += sizeof(u64)) {
        if (memcmp(page->data + i, bytes + i, sizeof(u64)) == 0)
            continue;
        for (u32 k = i; k < i + sizeof(u64); k++)
            if (page->data[k] != bytes[k] && !is_bound(page, k))
                code_invalidate(m, page, k, 1);
    }
}

/* RAM comes or goes, or lies elsewhere on the host. */
static void replace(struct machine *m, struct page *page)
{
    struct contents *base = page->base;

    if (page->present && base)
        drop_changed_code(m, page, base->bytes);
    else
        code_drop_frames(m, page->frame, page->frame);
    if (page->owned)
        contents_drop(contents_of(page));
    page->owned = false;
    page->present = base;
    page->data = base ? base->bytes : NULL;
}

/* The page is as its base. True: what TLBs know of it, or from it, is not true any more. */
static bool reset(struct machine *m, struct page *page)
{
    bool flush = page->rom != page->base_rom || (page->dirty && page->walked);

    page->dirty = false;
    page->rom = page->base_rom;
    if (likely(page->owned && page->base)) {
        if (page->code)
            drop_changed_code(m, page, page->base->bytes);
        memcpy(page->data, page->base->bytes, PAGE_SIZE);
        return flush;
    }
    if (contents_of(page) == page->base)
        return flush;
    replace(m, page);
    return true;
}

static bool reset_dirty(struct machine *m)
{
    struct page_list *dirty = &m->mem.dirty;
    bool flush = false;

    for (u32 i = 0; i < dirty->count; i++)
        flush |= reset(m, dirty->pages[i]);
    dirty->count = 0;
    m->mem.exhausted = false;
    return flush;
}

/* Clean pages have no write tags. */
static void forget(struct machine *m, bool all)
{
    if (all)
        tlb_flush_all(m);
    else
        tlb_clean(m);
}

void memory_restore_base(struct machine *m)
{
    forget(m, reset_dirty(m));
}

struct rebase {
    struct machine *m;
    bool flush;
};

/* Dirty pages are reset with the others of their list. */
static void set_base(struct rebase *r, struct page *page, struct contents *base, bool rom)
{
    page->base = base;
    page->base_rom = rom;
    if (page->dirty)
        return;
    r->flush |= page->walked;
    r->flush |= reset(r->m, page);
}

static void visit_difference(void *context, u32 frame, struct contents *c, bool rom)
{
    struct rebase *r = context;
    struct page *table = r->m->mem.directory[frame >> 10];
    if (table)
        set_base(r, &table[frame & 1023], c, rom);
}

/* Pages with bases of their own take those of the tree. */
static void end_moves(struct rebase *r, const struct page_node *root)
{
    struct page_list *moved = &r->m->mem.moved;

    for (u32 i = 0; i < moved->count; i++) {
        struct page *page = moved->pages[i];
        bool rom;
        contents_drop(page->base);
        page->moved = false;
        struct contents *base = tree_get(root, page->frame, &rom);
        set_base(r, page, base, rom);
    }
    moved->count = 0;
}

void memory_restore(struct machine *m, struct page_node *root)
{
    struct memory *mem = &m->mem;
    struct rebase r = {m, false};
    struct page_node *old = mem->root;

    end_moves(&r, root);
    tree_diff(old, root, visit_difference, &r);
    mem->root = tree_hold(root);
    forget(m, reset_dirty(m) | r.flush);
    tree_drop(old);
}

/* --- forward ---------------------------------------------------------------------------------------------- */

/* Does a page that is on a list hold what a tree of the old base does not? */
static bool changed(const struct page *page)
{
    if (!page->present || !page->base || page->rom != page->base_rom)
        return true;
    return page->data != page->base->bytes && memcmp(page->data, page->base->bytes, PAGE_SIZE) != 0;
}

static bool tree_add(struct page_node **root, const struct page_list *list)
{
    for (u32 i = 0; i < list->count; i++) {
        const struct page *page = list->pages[i];
        if ((page->moved || changed(page)) && !tree_set(root, page->frame, contents_of(page), page->rom))
            return false;
    }
    return true;
}

/* What is in the tree is not the machine's any more; what is the same there stays a private copy. */
static void give(struct page *page)
{
    if (page->moved || changed(page)) {
        if (page->moved)
            contents_drop(page->base);
        if (page->owned)
            contents_drop(contents_of(page));
        page->owned = false;
        page->base = contents_of(page);
        page->base_rom = page->rom;
    }
    page->moved = page->dirty = false;
}

bool memory_snapshot(struct machine *m, struct page_node **ret)
{
    struct memory *mem = &m->mem;
    struct page_node *root = tree_hold(mem->root);

    if (!tree_add(&root, &mem->moved) || !tree_add(&root, &mem->dirty)) {
        tree_drop(root);
        return false;
    }
    for (u32 i = 0; i < mem->dirty.count; i++)
        give(mem->dirty.pages[i]);
    for (u32 i = 0; i < mem->moved.count; i++)
        if (mem->moved.pages[i]->moved)
            give(mem->moved.pages[i]);
    mem->dirty.count = mem->moved.count = 0;
    tree_drop(mem->root);
    mem->root = tree_hold(root);
    tlb_clean(m);
    *ret = root;
    return true;
}

/* The page gets a base that nobody else has. */
static bool move_base(struct memory *mem, struct page *page)
{
    struct contents *own = page_list_room(&mem->moved, 1) ? contents_create() : NULL;
    if (!own)
        return false;
    page->base = own;
    page->moved = true;
    mem->moved.pages[mem->moved.count++] = page;
    return true;
}

bool memory_advance(struct machine *m)
{
    struct page_list *dirty = &m->mem.dirty;

    while (dirty->count) {
        struct page *page = dirty->pages[dirty->count - 1];
        if (!page->moved && !move_base(&m->mem, page))
            return false;
        memcpy(page->base->bytes, page->data, PAGE_SIZE);
        page->dirty = false;
        dirty->count--;
    }
    tlb_clean(m);
    return true;
}
