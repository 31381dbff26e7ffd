/* kernel_map.c: page tables of the built-in kernel side, and RAM wherever the user wants it. */
#include <stdlib.h>

#include "kernel.h"
#include "mmu.h"

/* Page-directory and page-table entries (SDM vol. 3, tables 4-5 and 4-6). */
#define PTE_P 0x001u
#define PTE_W 0x002u
#define PTE_U 0x004u
#define PTE_A 0x020u
#define PTE_D 0x040u
#define ENTRIES 1024u

bool kernel_frame(struct machine *m, u32 *ret)
{
    struct kernel *k = m->kernel;
    const struct device_space *devices = &m->space[DEVICE_MEMORY];

    /* Frames that a device hides are lost: it was claimed while they had no RAM. */
    while (k->pool_used && device_in_page(devices, k->pool[k->pool_used - 1] << PAGE_SHIFT))
        k->pool_used--;
    while (!k->pool_used && device_in_page(devices, m->mem.top << PAGE_SHIFT))
        m->mem.top++;
    *ret = k->pool_used ? k->pool[k->pool_used - 1] : m->mem.top;
    if (!memory_add(&m->mem, *ret, 1))
        return false;
    if (k->pool_used)
        k->pool_used--;
    return true;
}

/* Without memory for the pool the frame is lost until the machine goes. */
static void frame_release(struct machine *m, u32 frame)
{
    struct kernel *k = m->kernel;

    if (!memory_remove(m, frame))
        return;
    if (k->pool_used == k->pool_size) {
        u32 size = k->pool_size ? 2 * k->pool_size : 64;
        u32 *pool = realloc(k->pool, size * sizeof *pool);
        if (!pool)
            return;
        k->pool = pool;
        k->pool_size = size;
    }
    k->pool[k->pool_used++] = frame;
}

/* Physical address of lin's page-table entry, 0 when there is no table. */
static u32 entry_find(struct machine *m, u32 lin)
{
    u32 pde = phys_read(m, m->kernel->directory + (lin >> 22) * 4, 4);
    return pde & PTE_P ? (pde & ~PAGE_MASK) + (lin >> PAGE_SHIFT & (ENTRIES - 1)) * 4 : 0;
}

static u32 entry_get(struct machine *m, u32 lin)
{
    u32 at = entry_find(m, lin);
    return at ? phys_read(m, at, 4) : 0;
}

/* Accessed and dirty bits are set from the start, as the kernel's own are: first touches do not write page tables. */
static u32 entry_make(struct machine *m, u32 lin)
{
    u32 at = entry_find(m, lin), frame;

    if (at)
        return at;
    if (!kernel_frame(m, &frame))
        return 0;
    phys_write(m, m->kernel->directory + (lin >> 22) * 4, frame << PAGE_SHIFT | PTE_A | PTE_U | PTE_W | PTE_P, 4);
    return entry_find(m, lin);
}

static u32 entry_rights(int rights)
{
    return PTE_P | PTE_A | (rights & MAP_WRITE ? PTE_W | PTE_D : 0) | (rights & MAP_USER ? PTE_U : 0);
}

static bool map_page(struct machine *m, u32 lin, u32 rights)
{
    u32 at = entry_make(m, lin), frame;

    if (!at || !kernel_frame(m, &frame))
        return false;
    phys_write(m, at, frame << PAGE_SHIFT | rights, 4);
    return true;
}

static void unmap_pages(struct machine *m, u32 lin, u32 pages)
{
    for (u32 i = 0; i < pages; i++) {
        u32 at = entry_find(m, lin + (i << PAGE_SHIFT));
        u32 entry = at ? phys_read(m, at, 4) : 0;
        if (!(entry & PTE_P))
            continue;
        phys_write(m, at, 0, 4);
        frame_release(m, entry >> PAGE_SHIFT);
    }
    tlb_flush_all(m);
}

/* Are all of the pages, or is any of them, mapped? */
static bool mapped(struct machine *m, u32 lin, u32 pages, bool all)
{
    for (u32 i = 0; i < pages; i++)
        if (((entry_get(m, lin + (i << PAGE_SHIFT)) & PTE_P) != 0) != all)
            return !all;
    return all;
}

int kernel_map(struct machine *m, u32 lin, u32 pages, int rights)
{
    if (mapped(m, lin, pages, false))
        return -1;
    for (u32 i = 0; i < pages; i++)
        if (!map_page(m, lin + (i << PAGE_SHIFT), entry_rights(rights)) || m->mem.exhausted) {
            unmap_pages(m, lin, i);
            return -2;
        }
    return 0;
}

/* Page 0 stays unmapped: a null pointer must fault. */
bool kernel_map_ram(struct machine *m, u32 pages)
{
    for (u32 i = 1; i < pages; i++) {
        u32 at = entry_make(m, i << PAGE_SHIFT);
        if (!at)
            return false;
        phys_write(m, at, i << PAGE_SHIFT | entry_rights(MAP_WRITE | MAP_USER), 4);
    }
    return !m->mem.exhausted;
}

bool kernel_owns_frames(const struct machine *m, u32 first, u32 last)
{
    for (u32 frame = first >> PAGE_SHIFT; frame <= last >> PAGE_SHIFT; frame++)
        if (frame >= m->config.memory_pages && memory_page(&m->mem, frame))
            return true;
    return false;
}

bool kernel_map_device(struct machine *m, u32 first, u32 last)
{
    for (u32 page = first >> PAGE_SHIFT; page <= last >> PAGE_SHIFT; page++) {
        u32 at = entry_make(m, page << PAGE_SHIFT);
        if (!at)
            return false;
        if (!(phys_read(m, at, 4) & PTE_P))
            phys_write(m, at, page << PAGE_SHIFT | entry_rights(MAP_WRITE | MAP_USER), 4);
    }
    return true;
}

/* The window, and the pages below the stacks, which must stay unmapped to catch their overflow. */
static bool reserved(const struct machine *m, u32 lin, u32 size)
{
    const struct kernel_layout *l = &m->kernel->layout;
    u32 last = lin + (size - 1), guard = l->stack_bottom - PAGE_SIZE;

    for (u32 i = 0; i < m->cpu_count; i++, guard += l->stack_stride)
        if (lin <= guard && last >= guard)
            return true;
    return lin <= l->window_end && last >= l->window;
}

/* Whole pages inside the address space? */
static bool good_range(u32 lin, u32 size)
{
    return size && !((lin | size) & PAGE_MASK) && size - 1 <= 0xFFFFFFFF - lin;
}

static int map_bare(struct machine *m, u32 first, u32 pages)
{
    for (u32 i = 0; i < pages; i++)
        if (memory_page(&m->mem, first + i))
            return -1;
    if (!memory_add(&m->mem, first, pages))
        return -2;
    code_drop_frames(m, first, first + pages - 1);
    return 0;
}

static int unmap_bare(struct machine *m, u32 first, u32 pages)
{
    for (u32 i = 0; i < pages; i++)
        if (!memory_page(&m->mem, first + i))
            return -1;
    for (u32 i = 0; i < pages; i++)
        memory_remove(m, first + i);
    tlb_flush_all(m);
    return 0;
}

int machine_map(machine *m, uint32_t lin, uint32_t size, int rights)
{
    if (!good_range(lin, size))
        return -2;
    if (!m->kernel)
        return map_bare(m, lin >> PAGE_SHIFT, size >> PAGE_SHIFT);
    if (reserved(m, lin, size))
        return -1;
    return kernel_map(m, lin, size >> PAGE_SHIFT, rights);
}

int machine_unmap(machine *m, uint32_t lin, uint32_t size)
{
    if (!good_range(lin, size))
        return -1;
    if (!m->kernel)
        return unmap_bare(m, lin >> PAGE_SHIFT, size >> PAGE_SHIFT);
    if (reserved(m, lin, size) || !mapped(m, lin, size >> PAGE_SHIFT, true))
        return -1;
    unmap_pages(m, lin, size >> PAGE_SHIFT);
    return 0;
}

#define ROM_ALIAS (128u << 10)  /* as PC chipsets decode it */

int machine_load_rom(machine *m, const void *data, uint32_t size)
{
    const u8 *bytes = data;
    u32 pages = size >> PAGE_SHIFT, start = 0 - size, alias = size < ROM_ALIAS ? size : ROM_ALIAS;
    for (u32 i = 0; i < pages; i++)
        if (memory_page(&m->mem, (start >> PAGE_SHIFT) + i))
            return -1;
    for (u32 at = 0; at < size; at += PAGE_SIZE)
        if (!memory_add_rom(m, (start + at) >> PAGE_SHIFT, bytes + at))
            return -2;
    for (u32 at = 0; at < alias; at += PAGE_SIZE)
        if (!memory_add_rom(m, (0x100000 - alias + at) >> PAGE_SHIFT, bytes + size - alias + at))
            return -2;
    code_drop_frames(m, start >> PAGE_SHIFT, (start >> PAGE_SHIFT) + pages - 1);
    code_drop_frames(m, (0x100000 - alias) >> PAGE_SHIFT, 0xFF);
    return 0;
}

int machine_mapping(machine *m, uint32_t lin)
{
    u32 phys;
    if (!m->kernel) {
        bool mapped = mmu_probe(m->cpu, lin, &phys) && memory_page(&m->mem, phys >> PAGE_SHIFT);
        return mapped ? 1 | (MAP_WRITE | MAP_USER) << 1 : 0;
    }
    u32 entry = entry_get(m, lin);
    int rights = (entry & PTE_W ? MAP_WRITE : 0) | (entry & PTE_U ? MAP_USER : 0);
    return entry & PTE_P ? 1 | rights << 1 : 0;
}
