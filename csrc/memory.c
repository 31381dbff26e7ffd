/* memory.c: the table of guest pages. */
#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include "block.h"
#include "machine.h"
#include "mmu.h"

#define FRAMES (1u << (32 - PAGE_SHIFT))
#define TABLE_BITS 10
#define TABLE_SIZE (1u << TABLE_BITS)

/* What every page shows until it is first written. */
static const u8 zero_page[PAGE_SIZE];

bool memory_init(struct memory *mem)
{
    *mem = (struct memory){.directory = calloc(FRAMES / TABLE_SIZE, sizeof *mem->directory)};
    return mem->directory;
}

static void table_free(struct page *table)
{
    for (u32 i = 0; table && i < TABLE_SIZE; i++) {
        if (table[i].owned)
            free(table[i].data);
        free(table[i].code);
        free(table[i].probed);
    }
    free(table);
}

void memory_deinit(struct memory *mem)
{
    for (u32 i = 0; mem->directory && i < FRAMES / TABLE_SIZE; i++)
        table_free(mem->directory[i]);
    free(mem->directory);
    *mem = (struct memory){0};
}

/* Metadata for frames [first, end). A table allocated before a failure stays, without RAM, for the next try. */
static bool tables_add(struct memory *mem, u32 first, u32 end)
{
    for (u32 i = first >> TABLE_BITS; i <= (end - 1) >> TABLE_BITS; i++) {
        if (!mem->directory[i])
            mem->directory[i] = calloc(TABLE_SIZE, sizeof(struct page));
        if (!mem->directory[i])
            return false;
    }
    return true;
}

bool memory_add(struct memory *mem, u32 first, u32 count)
{
    u32 end = first + count;

    if (first > FRAMES || count > FRAMES - first)
        return false;
    if (!count)
        return true;
    for (u32 f = first; f < end; f++)
        if (memory_page(mem, f))
            return false;
    if (!tables_add(mem, first, end))
        return false;
    for (u32 f = first; f < end; f++) {
        struct page *page = &mem->directory[f >> TABLE_BITS][f & (TABLE_SIZE - 1)];
        page->present = true;
        page->data = (u8 *)(uintptr_t)zero_page;
    }
    if (end > mem->top)
        mem->top = end;
    return true;
}

bool memory_own(struct machine *m, struct page *page)
{
    if (likely(page->owned))
        return true;

    u8 *data = malloc(PAGE_SIZE);
    if (!data) {
        m->mem.exhausted = true;
        m->cpu->code_changed = true;
        return false;
    }
    memcpy(data, page->data, PAGE_SIZE);
    tlb_forget(m, page->data);
    page->data = data;
    page->owned = true;
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
