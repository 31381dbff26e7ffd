/* memory.c: the table of guest pages. */
#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "machine.h"
#include "mmu.h"

#define TABLE_BITS 10
#define TABLE_SIZE (1u << TABLE_BITS)

/* --- lists ------------------------------------------------------------------------------------------------ */

bool page_list_room(struct page_list *list, u32 more)
{
    if (likely(list->room - list->count >= more))
        return true;
    u32 room = list->room ? 2 * list->room : 64;
    while (room - list->count < more)
        room *= 2;
    struct page **pages = realloc(list->pages, room * sizeof(*pages));
    if (!pages)
        return false;
    list->pages = pages;
    list->room = room;
    return true;
}

static void list_add(struct page_list *list, struct page *page)
{
    list->pages[list->count++] = page;
}

static void make_dirty(struct memory *mem, struct page *page)
{
    if (page->dirty)
        return;
    page->dirty = true;
    list_add(&mem->dirty, page);
}

/* --- tables ----------------------------------------------------------------------------------------------- */

bool memory_init_from(struct memory *mem, struct page_node *root)
{
    *mem = (struct memory){.directory = calloc(FRAME_COUNT / TABLE_SIZE, sizeof *mem->directory), .root = tree_hold(root)};
    return mem->directory;
}

bool memory_init(struct memory *mem, u32 count)
{
    struct page_node *root;
    if (!tree_zeros(count, &root))
        return false;
    bool good = memory_init_from(mem, root);
    tree_drop(root);
    mem->top = count;
    return good;
}

static struct contents *private_copy(const struct page *page)
{
    return page->owned ? (struct contents *)(void *)page->data : NULL;
}

static void table_free(struct page *table)
{
    for (u32 i = 0; table && i < TABLE_SIZE; i++) {
        contents_drop(private_copy(&table[i]));
        if (table[i].moved)
            contents_drop(table[i].base);
        free(table[i].code);
        free(table[i].probed);
    }
    free(table);
}

void memory_deinit(struct memory *mem)
{
    for (u32 i = 0; mem->directory && i < FRAME_COUNT / TABLE_SIZE; i++)
        table_free(mem->directory[i]);
    free(mem->directory);
    free(mem->dirty.pages);
    free(mem->moved.pages);
    tree_drop(mem->root);
    *mem = (struct memory){0};
}

static struct page *table_create(struct memory *mem, u32 table)
{
    struct page *pages = calloc(TABLE_SIZE, sizeof(*pages));
    for (u32 i = 0; pages && i < TABLE_SIZE; i++) {
        bool rom;
        u32 frame = table << TABLE_BITS | i;
        struct contents *c = tree_get(mem->root, frame, &rom);
        pages[i] = (struct page){.data = c ? c->bytes : NULL, .base = c, .frame = frame, .present = c,
                                 .rom = rom, .base_rom = rom};
    }
    return mem->directory[table] = pages;
}

struct page *memory_table(const struct memory *mem, u32 table)
{
    struct memory *mine = (struct memory *)(uintptr_t)mem;
    if (!tree_has(mem->root, table << TABLE_BITS))
        return NULL;
    struct page *pages = table_create(mine, table);
    mine->exhausted |= !pages;
    return pages;
}

/* Tables for frames [first, end). One allocated before a failure stays, without RAM, for the next try. */
static bool tables_add(struct memory *mem, u32 first, u32 end)
{
    for (u32 i = first >> TABLE_BITS; i <= (end - 1) >> TABLE_BITS; i++)
        if (!mem->directory[i] && !table_create(mem, i))
            return false;
    return true;
}

bool memory_add(struct memory *mem, u32 first, u32 count)
{
    u32 end = first + count;

    if (first > FRAME_COUNT || count > FRAME_COUNT - first)
        return false;
    if (!count)
        return true;
    for (u32 f = first; f < end; f++)
        if (memory_page(mem, f))
            return false;
    if (!tables_add(mem, first, end) || !page_list_room(&mem->dirty, count))
        return false;
    for (u32 f = first; f < end; f++) {
        struct page *page = &mem->directory[f >> TABLE_BITS][f & (TABLE_SIZE - 1)];
        page->present = true;
        page->data = contents_zero()->bytes;
        make_dirty(mem, page);
    }
    if (end > mem->top)
        mem->top = end;
    return true;
}

bool memory_remove(struct machine *m, u32 frame)
{
    struct page *page = memory_page(&m->mem, frame);

    if (!page || !page_list_room(&m->mem.dirty, 1))
        return false;
    if (page->blocks)
        code_invalidate(m, page, 0, PAGE_SIZE);
    tlb_forget(m, page->data);
    contents_drop(private_copy(page));
    page->data = NULL;
    page->owned = page->present = false;
    make_dirty(&m->mem, page);
    return true;
}

/* --- writing ---------------------------------------------------------------------------------------------- */

static bool exhausted(struct machine *m)
{
    m->mem.exhausted = true;
    m->cpu->code_changed = true;
    return false;
}

bool memory_own(struct machine *m, struct page *page)
{
    if (likely(page->owned && page->dirty))
        return true;
    if (!page_list_room(&m->mem.dirty, 1))
        return exhausted(m);
    if (!page->owned) {
        struct contents *c = contents_create();
        if (!c)
            return exhausted(m);
        memcpy(c->bytes, page->data, PAGE_SIZE);
        tlb_forget(m, page->data);
        page->data = c->bytes;
        page->owned = true;
    }
    make_dirty(&m->mem, page);
    return true;
}

bool memory_add_rom(struct machine *m, u32 frame, const u8 *data)
{
    if (!memory_page(&m->mem, frame) && !memory_add(&m->mem, frame, 1))
        return false;
    struct page *page = memory_page(&m->mem, frame);
    if (!memory_patch(m, page, 0, data, PAGE_SIZE))
        return false;
    page->rom = true;
    tlb_protect(m, frame);
    return true;
}

static bool bits_any(const u8 *bits, u32 offset, u32 size)
{
    for (u32 i = offset; i < offset + size; i++)
        if (bits[i >> 3] >> (i & 7) & 1)
            return true;
    return false;
}

bool memory_store(struct machine *m, struct page *page, u32 offset, const void *src, u32 size)
{
    return !page || page->rom || memory_patch(m, page, offset, src, size);
}

bool memory_patch(struct machine *m, struct page *page, u32 offset, const void *src, u32 size)
{
    if (!memory_own(m, page))
        return false;
    memcpy(page->data + offset, src, size);
    if (unlikely(page->tables))
        m->cpu->plain_hits = false;
    if (page->code && bits_any(page->code, offset, size))
        code_invalidate(m, page, offset, size);
    return true;
}

/* Bytes of an access that lie in its first page. */
static u32 first_part(u32 addr, u32 size)
{
    u32 room = PAGE_SIZE - (addr & PAGE_MASK);
    return size < room ? size : room;
}

/* Page tables do not lie in devices: there the bus floats. */
static struct page *engine_page(struct machine *m, u32 phys, u32 size)
{
    if (device_touches(&m->space[DEVICE_MEMORY], phys, phys + (size - 1)))
        return NULL;
    return memory_page(&m->mem, phys >> PAGE_SHIFT);
}

static void part_read(struct machine *m, u32 phys, u8 *buf, u32 size)
{
    const struct page *page = engine_page(m, phys, size);
    if (page)
        memcpy(buf, page->data + (phys & PAGE_MASK), size);
}

u32 phys_read(struct machine *m, u32 phys, unsigned size)
{
    u8 buf[4] = {0xFF, 0xFF, 0xFF, 0xFF};
    u32 first = first_part(phys, size), value = 0;

    part_read(m, phys, buf, first);
    if (unlikely(first < size))
        part_read(m, phys + first, buf + first, size - first);
    memcpy(&value, buf, size);
    return value;
}

void phys_write(struct machine *m, u32 phys, u32 value, unsigned size)
{
    u32 first = first_part(phys, size);
    const u8 *bytes = (const u8 *)&value;

    memory_store(m, engine_page(m, phys, first), phys & PAGE_MASK, bytes, first);
    if (unlikely(first < size))
        memory_store(m, engine_page(m, phys + first, size - first), 0, bytes + first, size - first);
}
