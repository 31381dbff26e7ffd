/* mmu.c: segments, the software TLB, linear accesses. */
#include "mmu.h"

#include <string.h>

#include "block.h"
#include "debug.h"
#include "machine.h"
#include "paging.h"
#include "spy.h"

/* The TLB. */

/* A page that cannot index entry i. */
static u32 tlb_invalid(u32 i)
{
    return (i ^ TLB_SIZE / 2) << PAGE_SHIFT;
}

static void tlb_drop(struct cpu *cpu, unsigned id, u32 i)
{
    struct tlb_entry *e = &cpu->tlbs[id][i];
    e->read_tag = e->write_tag = tlb_invalid(i);
}

void tlb_init(struct cpu *cpu)
{
    for (u32 i = 0; i < TLB_SIZE; i++)
        tlb_drop(cpu, TLB_ALIGNED, i);
    tlb_flush(cpu);
}

void tlb_flush(struct cpu *cpu)
{
    cpu->plain_hits = false;
    for (u32 i = 0; i < TLB_SIZE; i++) {
        tlb_drop(cpu, 0, i);
        tlb_drop(cpu, 1, i);
    }
    cpu->grants = 0;
    code_mapping_changed(cpu);
}

void tlb_flush_page(struct cpu *cpu, u32 lin)
{
    /* INVLPG drops all of a large page, and the old translation may have been one (SDM vol. 3, 4.10.4.1). */
    unsigned shift = cpu->cr4 & (CR4_PSE | CR4_PAE) ? 22 : PAGE_SHIFT;

    cpu->plain_hits = false;
    for (u32 i = 0; i < TLB_SIZE; i++)
        for (unsigned user = 0; user < 2; user++)
            if ((cpu->tlbs[user][i].read_tag ^ lin) >> shift == 0)
                tlb_drop(cpu, user, i);
    code_mapping_changed(cpu);
}

static bool tlb_maps(const struct tlb_entry *e, u32 i, const u8 *data)
{
    return e->read_tag != tlb_invalid(i) && e->host + e->read_tag == data;
}

static void protect(struct cpu *cpu, const u8 *data)
{
    for (u32 i = 0; i < TLB_SIZE; i++)
        for (unsigned user = 0; user < 2; user++)
            if (tlb_maps(&cpu->tlbs[user][i], i, data))
                cpu->tlbs[user][i].write_tag = tlb_invalid(i);
}

void tlb_protect(struct machine *m, u32 frame)
{
    const struct page *page = memory_page(&m->mem, frame);

    for (u32 i = 0; page && i < m->cpu_count; i++)
        protect(m->cpus[i], page->data);
}

static void forget(struct cpu *cpu, const u8 *data)
{
    for (u32 i = 0; i < TLB_SIZE; i++)
        for (unsigned user = 0; user < 2; user++)
            if (tlb_maps(&cpu->tlbs[user][i], i, data))
                tlb_drop(cpu, user, i);
}

void tlb_forget(struct machine *m, const u8 *data)
{
    for (u32 i = 0; i < m->cpu_count; i++)
        forget(m->cpus[i], data);
}

void tlb_flush_all(struct machine *m)
{
    for (u32 i = 0; i < m->cpu_count; i++)
        tlb_flush(m->cpus[i]);
}

static void clean(struct cpu *cpu)
{
    struct tlb_entry *all = cpu->tlbs[0];

    if (likely(cpu->grants <= TLB_GRANTS)) {
        for (u32 i = 0; i < cpu->grants; i++)
            all[cpu->granted[i]].write_tag = tlb_invalid(cpu->granted[i] % TLB_SIZE);
    } else {
        for (u32 i = 0; i < 2 * TLB_SIZE; i++)
            all[i].write_tag = tlb_invalid(i % TLB_SIZE);
    }
    cpu->grants = 0;
}

void tlb_clean(struct machine *m)
{
    for (u32 i = 0; i < m->cpu_count; i++)
        clean(m->cpus[i]);
}

static void tlb_fill(struct cpu *cpu, struct tlb_entry *e, u32 lin, const struct page *page, bool writable)
{
    u32 tag = lin & ~PAGE_MASK;
    bool plain = page->owned && page->dirty && !page->code && !page->probed && !page->tables && !page->rom;

    e->read_tag = tag;
    e->write_tag = tlb_invalid(tag >> PAGE_SHIFT & (TLB_SIZE - 1));
    if (writable && plain) {
        e->write_tag = tag;
        if (cpu->grants < TLB_GRANTS)
            cpu->granted[cpu->grants] = (u16)(e - cpu->tlbs[0]);
        cpu->grants += cpu->grants <= TLB_GRANTS;
    }
    e->host = (u8 *)((uintptr_t)page->data - tag);
}

/* Linear accesses. */

static struct page *ram_at(struct cpu *cpu, u32 phys)
{
    return memory_page(&cpu->machine->mem, phys >> PAGE_SHIFT);
}

static bool is_device(const struct cpu *cpu, u32 phys)
{
    return device_in_page(&cpu->machine->space[DEVICE_MEMORY], phys);
}

/* Where in physical memory an access goes; RAM is then in the TLB if it may be. */
static bool locate(struct cpu *cpu, u32 lin, unsigned access, u32 *ret)
{
    struct translation t;

    if (!paging_walk(cpu, lin, access, &t))
        return false;
    *ret = t.phys;
    struct page *page = is_device(cpu, t.phys) ? NULL : ram_at(cpu, t.phys);
    if (!page || (access & ACCESS_WRITE && !memory_own(cpu->machine, page)))
        return true;
    u32 watched = watch_page(cpu->machine, lin);
    if (unlikely(cpu->machine->spy))
        return true;
    if (mmu_aligns(cpu) && !(access & ACCESS_SYSTEM))
        return true;
    if (!debug_page(cpu, lin) && !(watched & WATCH_READ))
        tlb_fill(cpu, tlb_slot(cpu, lin, access), lin, page, t.writable && !(watched & WATCH_WRITE));
    return true;
}

static u32 first_part(u32 lin, u32 size)
{
    u32 room = PAGE_SIZE - (lin & PAGE_MASK);
    return size < room ? size : room;
}

/* Both pages of an access of up to PAGE_SIZE bytes, checked before anything is changed. */
static bool locate_both(struct cpu *cpu, u32 lin, unsigned size, unsigned access, u32 ret[2])
{
    u32 first = first_part(lin, size);
    return locate(cpu, lin, access, &ret[0]) && (first == size || locate(cpu, lin + first, access, &ret[1]));
}

/* Within one page. Pages are looked up again each time: a device's handler may have changed what is where. */
static bool part_read(struct cpu *cpu, u32 phys, u32 size, u8 *buf)
{
    if (unlikely(is_device(cpu, phys)))
        return device_transfer(cpu->machine, DEVICE_MEMORY, phys, size, buf, false);
    const struct page *page = ram_at(cpu, phys);
    if (page)
        memcpy(buf, page->data + (phys & PAGE_MASK), size);
    return true;
}

static bool part_write(struct cpu *cpu, u32 phys, u32 size, u8 *buf)
{
    if (unlikely(is_device(cpu, phys)))
        return device_transfer(cpu->machine, DEVICE_MEMORY, phys, size, buf, true);
    memory_store(cpu->machine, ram_at(cpu, phys), phys & PAGE_MASK, buf, size);
    return true;
}

static COLD bool read_slow(struct cpu *cpu, u32 lin, unsigned size, unsigned access, u32 *ret)
{
    struct machine *m = cpu->machine;
    u8 buf[4] = {0xFF, 0xFF, 0xFF, 0xFF};
    u32 phys[2], first;

    if (unlikely(m->spy))
        lin = spy_address(m, lin, false, access);
    first = first_part(lin, size);
    if (!locate_both(cpu, lin, size, access, phys))
        return false;
    if (!(access & ACCESS_SYSTEM))
        debug_data(cpu, lin, size, false);
    if (!part_read(cpu, phys[0], first, buf) || (first < size && !part_read(cpu, phys[1], size - first, buf + first)))
        return false;
    *ret = 0;
    memcpy(ret, buf, size);
    if (unlikely(m->spy))
        *ret = spy_read(m, lin, phys[0], size, access, *ret);
    watch_access(cpu, WATCH_READ, lin, size, *ret);
    return true;
}

static COLD bool write_slow(struct cpu *cpu, u32 lin, u32 value, unsigned size, unsigned access)
{
    struct machine *m = cpu->machine;
    u8 *bytes = (u8 *)&value;
    u32 phys[2], first;

    if (unlikely(m->spy)) {
        lin = spy_address(m, lin, true, access);
        value = spy_write(m, lin, size, access, value);
    }
    first = first_part(lin, size);
    if (!locate_both(cpu, lin, size, access, phys))
        return false;
    if (!(access & ACCESS_SYSTEM) || access & ACCESS_DATA)
        debug_data(cpu, lin, size, true);
    if (!part_write(cpu, phys[0], first, bytes) ||
        (first < size && !part_write(cpu, phys[1], size - first, bytes + first)))
        return false;
    if (unlikely(m->spy))
        spy_wrote(m, lin, phys[0], size, access);
    watch_access(cpu, WATCH_WRITE, lin, size, value);
    return true;
}

static u32 host_read(const u8 *host, unsigned size)
{
    u32 value = 0;
    if (size == 4)
        memcpy(&value, host, 4);
    else if (size == 2)
        memcpy(&value, host, 2);
    else
        value = *host;
    return value;
}

static void host_write(u8 *host, u32 value, unsigned size)
{
    if (size == 4)
        memcpy(host, &value, 4);
    else if (size == 2)
        memcpy(host, &value, 2);
    else
        *host = (u8)value;
}

bool lin_read(struct cpu *cpu, u32 lin, unsigned size, unsigned access, u32 *ret)
{
    access &= ACCESS_SYSTEM | ACCESS_FETCH;
    const u8 *host = tlb_host(cpu, lin, size, access);

    if (unlikely(!host))
        return read_slow(cpu, lin, size, access, ret);
    *ret = host_read(host, size);
    return true;
}

bool lin_write(struct cpu *cpu, u32 lin, u32 value, unsigned size, unsigned access)
{
    access = (access & (ACCESS_SYSTEM | ACCESS_DATA)) | ACCESS_WRITE;
    u8 *host = tlb_host(cpu, lin, size, access);

    if (unlikely(!host))
        return write_slow(cpu, lin, value, size, access);
    host_write(host, value, size);
    return true;
}

bool lin_check_write(struct cpu *cpu, u32 lin, unsigned size, unsigned access)
{
    u32 phys[2];

    access = (access & ACCESS_SYSTEM) | ACCESS_WRITE;
    return likely(tlb_host(cpu, lin, size, access)) || locate_both(cpu, lin, size, access, phys);
}

bool lin_read_bytes(struct cpu *cpu, u32 lin, void *buf, unsigned size)
{
    const u8 *host = tlb_host(cpu, lin, size, ACCESS_READ);
    u32 value;

    if (likely(host)) {
        memcpy(buf, host, size);
        return true;
    }
    for (unsigned i = 0, n; i < size; i += n) {
        n = size - i >= 4 ? 4 : 2;
        if (!lin_read(cpu, lin + i, n, 0, &value))
            return false;
        memcpy((u8 *)buf + i, &value, n);
    }
    return true;
}

bool lin_write_bytes(struct cpu *cpu, u32 lin, const void *buf, unsigned size)
{
    u8 *host = tlb_host(cpu, lin, size, ACCESS_WRITE);

    if (likely(host)) {
        memcpy(host, buf, size);
        return true;
    }
    if (!lin_check_write(cpu, lin, size, 0))
        return false;
    for (unsigned i = 0, n; i < size; i += n) {
        u32 value = 0;
        n = size - i >= 4 ? 4 : 2;
        memcpy(&value, (const u8 *)buf + i, n);
        if (!lin_write(cpu, lin + i, value, n, 0))
            return false;
    }
    return true;
}

bool mmu_translate(struct cpu *cpu, u32 lin, unsigned access, u32 *ret)
{
    struct translation t;

    if (!paging_walk(cpu, lin, access, &t))
        return false;
    *ret = t.phys;
    return true;
}

bool mmu_probe(struct cpu *cpu, u32 lin, u32 *ret)
{
    return paging_probe(cpu, lin, ret);
}

/* Segments. */

/* SDM vol. 3, 3.4.5.1: code is never writable, and readable by bit 1; data is always readable, and writable by bit 1. */
static bool type_allows(u16 attr, unsigned access)
{
    if (!(attr & SEG_P))
        return false;
    if (access & ACCESS_WRITE)
        return (attr & 0xA) == 0x2;
    return access & ACCESS_FETCH || (attr & 0xA) != 0x8;
}

bool seg_allows(const struct cpu *cpu, unsigned seg, u32 off, u32 size, unsigned access)
{
    const struct segment *s = &cpu->seg[seg];

    if (cpu->mode & MODE_PROTECTED && !type_allows(s->attr, access))
        return false;
    if ((s->attr & (SEG_S | 0xC)) == (SEG_S | 0x4)) {
        /* Expand-down: the valid offsets lie above the limit (SDM vol. 3, 5.3). */
        u32 top = s->attr & SEG_DB ? 0xFFFFFFFF : 0xFFFF;
        return off > s->limit && off <= top && size - 1 <= top - off;
    }
    /* With a limit of 4 GiB accesses wrap; the SDM leaves that to the implementation. */
    return s->limit == 0xFFFFFFFF || (off <= s->limit && size - 1 <= s->limit - off);
}

/* SDM vol. 3, table 6-7. Environments of the x87 are made of words of 2 or 4 bytes, numbers of 10 bytes go by 8. The
 * order of #AC and #PF is the processor's own; it comes before page faults, as on silicon. */
static COLD bool aligned(struct cpu *cpu, u32 lin, u32 size)
{
    u32 unit = size == 10 ? 8 : size & (0 - size);
    if (!(lin & ((unit < 16 ? unit : 16) - 1)))
        return true;
    cpu_fault_code(cpu, T_ALIGN, 0);
    return false;
}

bool seg_linear(struct cpu *cpu, unsigned seg, u32 off, unsigned size, unsigned access, u32 *ret)
{
    if (unlikely(!seg_allows(cpu, seg, off, size, access))) {
        cpu_fault_code(cpu, seg == SS ? T_STACK : T_GPFLT, 0);
        return false;
    }
    *ret = cpu->seg[seg].base + off;
    return likely(!mmu_aligns(cpu)) || aligned(cpu, *ret, size);
}

bool mem_read(struct cpu *cpu, unsigned seg, u32 off, unsigned size, u32 *ret)
{
    u32 lin;
    return seg_linear(cpu, seg, off, size, ACCESS_READ, &lin) && lin_read(cpu, lin, size, 0, ret);
}

bool mem_write(struct cpu *cpu, unsigned seg, u32 off, u32 value, unsigned size)
{
    u32 lin;
    return seg_linear(cpu, seg, off, size, ACCESS_WRITE, &lin) && lin_write(cpu, lin, value, size, 0);
}

bool mem_check_write(struct cpu *cpu, unsigned seg, u32 off, unsigned size)
{
    u32 lin;
    return seg_linear(cpu, seg, off, size, ACCESS_WRITE, &lin) && lin_check_write(cpu, lin, size, 0);
}

/* Debug access. */

/* The page of lin that a debugger may touch: mapped and RAM. */
static struct page *debugger_page(struct cpu *cpu, u32 lin)
{
    u32 phys;
    return mmu_probe(cpu, lin, &phys) ? memory_page(&cpu->machine->mem, phys >> PAGE_SHIFT) : NULL;
}

u32 mmu_peek(struct cpu *cpu, u32 lin, void *buf, u32 size)
{
    u32 done = 0;

    while (done < size) {
        const struct page *page = debugger_page(cpu, lin + done);
        u32 n = first_part(lin + done, size - done);
        if (!page)
            break;
        memcpy((u8 *)buf + done, page->data + ((lin + done) & PAGE_MASK), n);
        done += n;
    }
    return done;
}

u32 mmu_poke(struct cpu *cpu, u32 lin, const void *buf, u32 size)
{
    u32 done = 0;

    while (done < size) {
        struct page *page = debugger_page(cpu, lin + done);
        u32 n = first_part(lin + done, size - done);
        if (!page || !memory_patch(cpu->machine, page, (lin + done) & PAGE_MASK, (const u8 *)buf + done, n))
            break;
        done += n;
    }
    return done;
}
