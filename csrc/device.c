/* device.c: who serves an address, and the calls. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "mmu.h"

#define PORT_LAST 0xFFFFu

/* The index of the first device that ends at or behind an address. */
static u32 lower_bound(const struct device_space *s, u32 address)
{
    u32 low = 0, high = s->count;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (s->devices[middle].last < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool device_search(const struct device_space *s, u32 first, u32 last)
{
    u32 i = lower_bound(s, first);
    return i < s->count && s->devices[i].first <= last;
}

/* --- calls ------------------------------------------------------------------------------------------------ */

static bool call(struct machine *m, enum device_kind kind, s32 id, u32 address, u32 size, u8 *buf, bool write)
{
    struct cpu *cpu = m->cpu;
    u32 value = 0;
    memcpy(&value, buf, size);
    m->access = (struct device_access){.kind = kind, .address = address, .size = size, .value = value, .write = write};
    u32 hidden = m->frames.hidden;
    m->frames.hidden = m->frames.used;      /* the frame of a trap is not its business */
    bool stop = machine_callback(m, CALLBACK_DEVICE, id, 0) < 0;
    m->frames.hidden = hidden;
    cpu->code_changed = true;
    if (!m->access.done) {
        cpu_fault_stop(cpu, STOP_PYTHON);
        return false;
    }
    m->stop_soon |= stop;
    if (!write)
        memcpy(buf, &m->access.value, size);
    return true;
}

static void plain(struct machine *m, u32 phys, u32 size, u8 *buf, bool write)
{
    struct page *page = memory_page(&m->mem, phys >> PAGE_SHIFT);
    if (write)
        memory_store(m, page, phys & PAGE_MASK, buf, size);
    else if (page)
        memcpy(buf, page->data + (phys & PAGE_MASK), size);
}

bool device_transfer(struct machine *m, enum device_kind kind, u32 address, u32 size, u8 *buf, bool write)
{
    while (size) {
        const struct device_space *s = &m->space[kind];
        u32 i = lower_bound(s, address), n = size;
        const struct device *d = i < s->count ? &s->devices[i] : NULL;
        if (d && d->first <= address) {
            n = d->last - address < n ? d->last - address + 1 : n;
            n = n == 3 ? 2 : n;
            if (!call(m, kind, d->id, address, n, buf, write))
                return false;
        } else {
            n = d && d->first - address < n ? d->first - address : n;
            if (kind == DEVICE_MEMORY)
                plain(m, address, n, buf, write);
        }
        address += n;
        buf += n;
        size -= n;
    }
    return true;
}

/* --- claims ----------------------------------------------------------------------------------------------- */

static bool space_room(struct device_space *s)
{
    if (s->count < s->room)
        return true;
    u32 room = s->room ? 2 * s->room : 8;
    struct device *devices = realloc(s->devices, room * sizeof(*devices));
    if (!devices)
        return false;
    s->devices = devices;
    s->room = room;
    return true;
}

int machine_claim(machine *m, int kind, uint32_t first, uint32_t last, int id)
{
    struct device_space *s = &m->space[kind];
    bool mapped = kind == DEVICE_MEMORY && m->kernel;
    if (first > last || (kind == DEVICE_PORT && last > PORT_LAST) || device_search(s, first, last))
        return -1;
    if (mapped && kernel_owns_frames(m, first, last))
        return -1;
    if (!space_room(s))
        return -2;
    u32 i = lower_bound(s, first);
    memmove(&s->devices[i + 1], &s->devices[i], (s->count - i) * sizeof(*s->devices));
    s->devices[i] = (struct device){first, last, id};
    s->count++;
    if (mapped && !kernel_map_device(m, first, last)) {     /* its page tables must not lie there themselves */
        machine_release(m, kind, id);
        return -2;
    }
    if (kind == DEVICE_MEMORY)
        code_drop_frames(m, first >> PAGE_SHIFT, last >> PAGE_SHIFT);
    return 0;
}

void machine_release(machine *m, int kind, int id)
{
    struct device_space *s = &m->space[kind];
    u32 kept = 0;
    for (u32 i = 0; i < s->count; i++)
        if (s->devices[i].id != id)
            s->devices[kept++] = s->devices[i];
    s->count = kept;
    /* TLBs know nothing of the pages. */
}

struct device_access *machine_access(machine *m)
{
    return &m->access;
}
