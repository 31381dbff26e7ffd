#include "block.h"

#include <stdlib.h>
#include <string.h>

#include "debug.h"
#include "execute.h"
#include "kprobe.h"
#include "machine.h"
#include "translate.h"

struct chunk {
    struct chunk *next;
    u8 bytes[ARENA_CHUNK - sizeof(struct chunk *)];
};

static void *arena_alloc(struct code_arena *arena, size_t size)
{
    size = (size + 31) & ~(size_t)31;
    if (!arena->chunks || arena->used + size > sizeof(arena->chunks->bytes)) {
        struct chunk *chunk = malloc(sizeof(*chunk));
        if (!chunk)
            return NULL;
        chunk->next = arena->chunks;
        arena->chunks = chunk;
        arena->used = 0;
        arena->total += sizeof(*chunk);
    }
    void *ret = arena->chunks->bytes + arena->used;
    arena->used += size;
    return ret;
}

void arena_deinit(struct code_arena *arena)
{
    while (arena->chunks) {
        struct chunk *next = arena->chunks->next;
        free(arena->chunks);
        arena->chunks = next;
    }
    arena->used = arena->total = 0;
}

static unsigned hash_phys(u32 phys)
{
    return (phys ^ phys >> BLOCK_HASH_BITS) & (BLOCK_HASH_SIZE - 1);
}

/* --- bytes that change ------------------------------------------------------------------------------------ */

static bool bits_any(const u8 *bitmap, u32 offset, u32 size)
{
    for (u32 i = offset; i < offset + size; i++)
        if (bitmap[i >> 3] >> (i & 7) & 1)
            return true;
    return false;
}

static void bits_set(u8 *bitmap, u32 offset, u32 size)
{
    for (u32 i = offset; i < offset + size; i++)
        bitmap[i >> 3] |= (u8)(1 << (i & 7));
}

/* The part of a block in one of its pages: [*from, *to) as offsets in the page. */
static void block_range(const struct block *b, bool second, u32 *from, u32 *to)
{
    u32 start = b->phys & PAGE_MASK, end = start + b->bytes;
    *from = second ? 0 : start;
    *to = second ? end - PAGE_SIZE : end < PAGE_SIZE ? end : PAGE_SIZE;
}

static bool block_crosses(const struct block *b)
{
    return (b->phys & PAGE_MASK) + b->bytes > PAGE_SIZE;
}

static void block_make_stale(struct block *b)
{
    struct block **at = &b->cpu->blocks[hash_phys(b->phys)];
    while (*at != b)
        at = &(*at)->hash_next;
    *at = b->hash_next;
    b->stale = true;
    b->ops[0].fn = stale;
    b->cpu->code_changed = true;
}

/* Which of its two list nodes a block uses in the page that holds frame. */
static unsigned block_node(const struct block *b, const struct page *page, const struct machine *m)
{
    return memory_page(&m->mem, b->phys >> PAGE_SHIFT) != page;
}

void code_invalidate(struct machine *m, struct page *page, u32 offset, u32 size)
{
    if (!page->code || !bits_any(page->code, offset, size))
        return;
    struct block **at = &page->blocks;
    memset(page->code, 0, PAGE_SIZE / 8);
    while (*at) {
        struct block *b = *at;
        unsigned node = block_node(b, page, m);
        u32 from, to;
        block_range(b, node, &from, &to);
        if (b->stale || (from < offset + size && offset < to)) {
            if (!b->stale)
                block_make_stale(b);
            *at = b->page_next[node];
        } else {
            bits_set(page->code, from, to - from);
            at = &b->page_next[node];
        }
    }
    if (!page->blocks) {
        free(page->code);
        page->code = NULL;
        page->probe_conflict = false;
    }
}

void code_invalidate_lin(struct cpu *cpu, u32 lin, u32 size)
{
    struct machine *m = cpu->machine;
    while (size) {
        u32 phys, n = PAGE_SIZE - (lin & PAGE_MASK);
        n = n < size ? n : size;
        if (mmu_probe(cpu, lin, &phys)) {
            struct page *page = memory_page(&m->mem, phys >> PAGE_SHIFT);
            if (page)
                code_invalidate(m, page, phys & PAGE_MASK, n);
        }
        lin += n;
        size -= n;
    }
}

static bool block_in(const struct block *b, u32 first, u32 last)
{
    u32 start = b->phys >> PAGE_SHIFT, end = b->phys_end >> PAGE_SHIFT;
    return (start >= first && start <= last) || (end >= first && end <= last);
}

static void drop_frames(struct cpu *cpu, u32 first, u32 last)
{
    for (u32 i = 0; i < BLOCK_HASH_SIZE; i++)
        for (struct block *b = cpu->blocks[i], *next; b; b = next) {
            next = b->hash_next;
            if (block_in(b, first, last))
                block_make_stale(b);
        }
    cpu->code_changed = true;
    tlb_flush(cpu);
}

void code_drop_frames(struct machine *m, u32 first, u32 last)
{
    for (u32 i = 0; i < m->cpu_count; i++)
        drop_frames(m->cpus[i], first, last);
}

/* --- probes ----------------------------------------------------------------------------------------------- */

static struct fetch_entry *fetch_slot(struct cpu *cpu, u32 lin)
{
    return &cpu->fetch[(lin >> PAGE_SHIFT) % FETCH_TLB_SIZE];
}

static u32 fetch_tag(const struct cpu *cpu, u32 lin)
{
    return (lin & ~PAGE_MASK) | 2 | (cpu->cpl == 3);
}

/* Where an instruction is fetched from. False: cpu->fault is set. */
static bool fetch_translate(struct cpu *cpu, u32 lin, struct fetch_entry *ret)
{
    struct fetch_entry *e = fetch_slot(cpu, lin);
    u32 phys, tag = fetch_tag(cpu, lin);
    if (unlikely(e->tag != tag)) {
        if (!mmu_translate(cpu, lin, ACCESS_FETCH, &phys))
            return false;
        if (device_in_page(&cpu->machine->space[DEVICE_MEMORY], phys)) {
            cpu_fault_stop(cpu, STOP_DEVICE);
            return false;
        }
        *e = (struct fetch_entry){tag, phys & ~PAGE_MASK, memory_page(&cpu->machine->mem, phys >> PAGE_SHIFT)};
        if (cpu->machine->kprobes && kprobes_hidden(cpu->machine->kprobes) && e->page)
            kprobe_page_fetched(cpu->machine, lin);
    }
    *ret = *e;
    return true;
}

static struct page *probe_page(struct machine *m, u32 lin, u32 *ret_phys)
{
    const struct fetch_entry *e = fetch_slot(m->cpu, lin);
    if (likely((e->tag | 1) == ((lin & ~PAGE_MASK) | 3))) {
        *ret_phys = e->phys | (lin & PAGE_MASK);
        return e->page;
    }
    return mmu_probe(m->cpu, lin, ret_phys) ? memory_page(&m->mem, *ret_phys >> PAGE_SHIFT) : NULL;
}

bool code_is_mapped(struct machine *m, u32 lin)
{
    u32 phys;
    return probe_page(m, lin, &phys);
}

u8 code_read_probe(struct machine *m, u32 lin)
{
    u32 phys;
    const struct page *page = probe_page(m, lin, &phys);
    return page ? page->data[phys & PAGE_MASK] : 0;
}

bool code_bind_probe(struct machine *m, u32 lin, bool on)
{
    u32 phys, offset;
    struct page *page = probe_page(m, lin, &phys);
    if (!page)
        return false;
    offset = phys & PAGE_MASK;
    if (on && !page->probed) {
        if (!memory_own(m, page) || !(page->probed = calloc(1, PAGE_SIZE / 8)))
            return false;
        tlb_protect(m, phys >> PAGE_SHIFT);
    }
    if (!page->probed)
        return true;
    if (on)
        bits_set(page->probed, offset, 1);
    else
        page->probed[offset >> 3] &= (u8)~(1 << (offset & 7));
    code_invalidate(m, page, offset, 1);
    return true;
}

bool code_write_probe(struct machine *m, u32 lin, u8 byte)
{
    u32 phys, offset;
    struct page *page = probe_page(m, lin, &phys);
    if (!page || !memory_own(m, page))
        return false;
    offset = phys & PAGE_MASK;
    page->data[offset] = byte;
    if (page->probe_conflict || !page->probed || !bits_any(page->probed, offset, 1))
        code_invalidate(m, page, offset, 1);
    return true;
}

/* --- decoding --------------------------------------------------------------------------------------------- */

/* The code bytes from one linear address on. */
struct fetch_window {
    u32 phys, phys_end;         /* of the first byte; of the start of the page that the last byte is in */
    struct page *page, *page_end;
    const u8 *host;             /* first byte */
    u32 n;                      /* bytes up to the page's end */
    u8 joined[2 * INSN_MAX];    /* an instruction that crosses into the next page */
    u8 copy[INSN_MAX];          /* one that is executed with another first byte */
};

static const u8 no_ram[INSN_MAX] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
                                    0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};

/* The instruction at window offset `at` crosses the page: put its bytes together. False: #PF. */
static bool fetch_join(struct cpu *cpu, struct fetch_window *w, u32 lin, u32 at)
{
    u32 n = w->n - at, next = (lin + w->n) & ~PAGE_MASK;
    struct fetch_entry second;
    if (!fetch_translate(cpu, next, &second))
        return false;
    w->phys_end = second.phys;
    w->page_end = second.page;
    memcpy(w->joined, w->host + at, n);
    memcpy(w->joined + n, second.page ? second.page->data : no_ram, INSN_MAX);
    return true;
}

/* Note that decoded code covers [offset, offset + size) of a page. */
static bool page_cover(struct machine *m, struct page *page, u32 frame, u32 offset, u32 size)
{
    if (!page->code) {
        page->code = calloc(1, PAGE_SIZE / 8);
        if (!page->code)
            return false;
        tlb_protect(m, frame);
    }
    bits_set(page->code, offset, size);
    return true;
}

/* Decoded bytes that hold a probe's breakpoint without being bound to it: arming must invalidate what is here. */
static void note_conflict(struct page *page, u32 offset, u32 size)
{
    page->probe_conflict |= page->probed && bits_any(page->probed, offset, size);
}

static struct block *out_of_memory(struct cpu *cpu)
{
    cpu_stop(cpu, STOP_MEMORY);
    cpu->leave = LEAVE_STOP;
    return NULL;
}

/* The byte at eip is in a page that faults, but a limit is looked at before pages are. */
static struct block *fetch_fault(struct cpu *cpu, u32 eip)
{
    if (eip > cpu->seg[CS].limit)
        cpu_fault_code(cpu, T_GPFLT, 0);
    cpu->leave = LEAVE_FAULT;
    return NULL;
}

static bool block_enter(struct cpu *cpu, struct block *b)
{
    struct machine *m = cpu->machine;
    for (unsigned second = 0; second <= block_crosses(b); second++) {
        u32 from, to, frame = (second ? b->phys_end : b->phys) >> PAGE_SHIFT;
        struct page *page = memory_page(&m->mem, frame);
        if (!page)
            continue;
        block_range(b, second, &from, &to);
        if (!page_cover(m, page, frame, from, to - from))
            return false;
        b->page_next[second] = page->blocks;
        page->blocks = b;
    }
    unsigned h = hash_phys(b->phys);
    b->hash_next = cpu->blocks[h];
    cpu->blocks[h] = b;
    return true;
}

/* What execution meets at a place: the byte, or HIDDEN_BREAKPOINT. */
ALWAYS_INLINE u16 first_byte(const struct machine *m, const struct page *page, u32 phys, u32 lin)
{
    u8 byte = page->data[phys & PAGE_MASK];
    bool hidden = unlikely(page->probed) && kprobes_hidden(m->kprobes) && kprobe_in_place(m, lin, byte);
    return hidden ? HIDDEN_BREAKPOINT : byte;
}

static struct block *block_build(struct cpu *cpu, const struct translation *t, const struct fetch_window *w, u32 bytes)
{
    size_t size = sizeof(struct block) + t->n * sizeof(struct op);
    struct block *b = arena_alloc(&cpu->machine->arena, size);
    if (!b)
        return NULL;
    *b = (struct block){
        .eip = t->ops[0].eip,
        .cs_base = cpu->seg[CS].base,
        .cs_limit = cpu->seg[CS].limit,
        .mode = t->mode,
        .phys = w->phys,
        .phys_end = w->phys_end,
        .bytes = (u16)bytes,
        .count = (u8)t->count,
        .first = w->page && w->host != w->copy ? first_byte(cpu->machine, w->page, w->phys, cpu->seg[CS].base + cpu->eip)
                                               : *w->host,
        .cpu = cpu,
    };
    memcpy(b->ops, t->ops, t->n * sizeof(struct op));
    return block_enter(cpu, b) ? b : NULL;
}

/* Must a block end before the instruction at eip, so that the run loop sees it? */
static bool block_boundary(const struct cpu *cpu, u32 eip)
{
    const struct machine *m = cpu->machine;
    u32 lin = cpu->seg[CS].base + eip;
    return (m->until_set && m->until == eip) || machine_marked(m, eip) ||
           (cpu->code_breaks && (debug_code(cpu, lin) || watch_code(m, lin)));
}

static bool probe_here(const struct machine *m, const struct page *page, u32 offset, u32 lin)
{
    return page && page->probed && bits_any(page->probed, offset, 1) && kprobe_at(m, lin);
}

/* The window with another first byte: a copy of the one instruction there. */
static void fetch_copy(struct fetch_window *w, u8 first)
{
    w->n = w->n < INSN_MAX ? w->n : INSN_MAX;
    memcpy(w->copy, w->host, w->n);
    w->copy[0] = first;
    w->host = w->copy;
}

/* The instruction under a probe's breakpoint, if blocks may hold the hit and the instruction (kprobe_paths.c). */
static bool decode_hidden(const struct cpu *cpu, u32 mode, const u8 *host, u32 n, u32 lin, struct insn *ret)
{
    const struct kprobe *p = kprobe_at(cpu->machine, lin);
    u8 bytes[INSN_MAX];

    if (mode & MODE_ONE || !(mode & MODE_CODE32) || *host != BREAKPOINT || p->path != PATH_OPTIMIZED || n < INSN_MAX)
        return false;
    memcpy(bytes, host, INSN_MAX);
    bytes[0] = p->opcode;
    return decode(bytes, INSN_MAX, true, ret) == DECODE_OK && !(ret->feature & ~cpu->model->features);
}

/* Decode from cpu->eip; copy: the first byte to be executed whatever memory holds. Instructions behind the first that
 * cannot be fetched are left for a block of their own. */
static struct block *block_decode(struct cpu *cpu, u32 mode, const struct fetch_entry *first, const u8 *copy)
{
    struct machine *m = cpu->machine;
    u32 base = cpu->seg[CS].base, lin = base + cpu->eip, at = 0;
    u32 limit = cpu->seg[CS].limit;
    struct fetch_window w;
    struct translation t;
    struct insn in;

    w.phys = first->phys | (lin & PAGE_MASK);
    w.phys_end = first->phys;
    w.page_end = w.page = first->page;
    struct page *page = w.page;
    w.n = page ? PAGE_SIZE - (w.phys & PAGE_MASK) : INSN_MAX;
    w.host = page ? page->data + (w.phys & PAGE_MASK) : no_ram;
    if (unlikely(copy))
        fetch_copy(&w, *copy);
    translate_begin(&t, mode, cpu->eip);
    unsigned most = mode & MODE_ONE ? 1 : BLOCK_MAX_INSNS;
    while (!t.ended && t.count < most && t.n < TRANSLATION_MAX - 4 && at < w.n) {
        u32 offset = (w.phys & PAGE_MASK) + at;
        bool probed = probe_here(m, page, offset, lin + at);
        bool inlined = probed && decode_hidden(cpu, mode, w.host + at, w.n - at, lin + at, &in);
        if (t.count && ((probed && !inlined) || block_boundary(cpu, t.eip)))
            break;
        if (inlined && t.eip <= limit && in.len - 1u <= limit - t.eip) {
            translate_hit(&t, &in, kprobe_at(m, lin + at));
            note_conflict(page, offset + 1, in.len - 1u);
            at += in.len;
            continue;
        }
        if (probed && (!(mode & MODE_ONE) || kprobe_in_place(m, lin + at, w.host[at]))) {
            translate_probe(&t);
            at++;
            break;
        }
        bool crosses = false;
        enum decode_status status = decode(w.host + at, w.n - at, mode & MODE_CODE32, &in);
        if (status == DECODE_MORE) {
            if (t.count)
                break;
            if (!fetch_join(cpu, &w, lin, at))
                return fetch_fault(cpu, cpu->eip + w.n);
            crosses = true;
            status = decode(w.joined, w.n - at + INSN_MAX, mode & MODE_CODE32, &in);
        }
        if (t.eip > limit || in.len - 1u > limit - t.eip || status == DECODE_TOO_LONG) {
            if (t.count)
                break;
            cpu_fault_code(cpu, T_GPFLT, 0);
            return fetch_fault(cpu, t.eip);
        }
        if (page)
            note_conflict(page, offset + probed, (crosses ? w.n - at : in.len) - probed);
        if (crosses && w.page_end)
            note_conflict(w.page_end, 0, in.len - (w.n - at));
        if (status == DECODE_OK && !(in.feature & ~cpu->model->features))
            translate(&t, &in);
        else
            translate_undefined(&t, in.len);
        at += in.len;
        if (crosses)
            break;
    }
    translate_end(&t);
    struct block *b = block_build(cpu, &t, &w, at);
    return b ? b : out_of_memory(cpu);
}

/* --- lookup ----------------------------------------------------------------------------------------------- */

ALWAYS_INLINE bool block_matches(struct cpu *cpu, const struct block *b, const struct fetch_entry *at, u32 mode,
                                 const u8 *copy)
{
    u32 lin = cpu->seg[CS].base + cpu->eip, phys = at->phys | (lin & PAGE_MASK);
    struct fetch_entry second;
    if (b->phys != phys || b->eip != cpu->eip || b->mode != mode || b->cs_base != cpu->seg[CS].base ||
        b->cs_limit != cpu->seg[CS].limit)
        return false;
    /* A probed instruction is decoded alone twice: with its breakpoint and without. */
    if ((mode & MODE_ONE) && at->page && (copy ? *copy : first_byte(cpu->machine, at->page, phys, lin)) != b->first)
        return false;
    if (!block_crosses(b))
        return true;
    u32 next = (lin + b->bytes - 1) & ~PAGE_MASK;
    return fetch_translate(cpu, next, &second) && second.phys == b->phys_end;
}

ALWAYS_INLINE struct block *find_as(struct cpu *cpu, u32 mode, const u8 *copy)
{
    u32 lin = cpu->seg[CS].base + cpu->eip;
    struct fetch_entry at;
    if (cpu->machine->arena.total > ARENA_MAX && cpu->machine->depth <= 1)
        code_flush(cpu->machine);
    if (!fetch_translate(cpu, lin, &at))
        return fetch_fault(cpu, cpu->eip);
    for (struct block *b = cpu->blocks[hash_phys(at.phys | (lin & PAGE_MASK))]; b; b = b->hash_next)
        if (block_matches(cpu, b, &at, mode, copy))
            return b;
    return block_decode(cpu, mode, &at, copy);
}

static struct block *find(struct cpu *cpu, u32 mode)
{
    return find_as(cpu, mode, NULL);
}

/* The instruction with another first byte than memory holds. */
static COLD struct block *find_copy(struct cpu *cpu, u8 first)
{
    return find_as(cpu, cpu->mode | MODE_ONE, &first);
}

struct block *block_find(struct cpu *cpu)
{
    struct block *b = find(cpu, cpu->mode);
    if (b)
        *JUMP_SLOT(cpu, cpu->eip) = (struct jump_entry){(u64)cpu->mode << 32 | cpu->eip, b->ops};
    return b;
}

struct block *block_find_one(struct cpu *cpu)
{
    u8 first;
    if (unlikely(cpu->machine->cpu_count > 1) && kprobe_copy(cpu, cpu->seg[CS].base + cpu->eip, &first))
        return find_copy(cpu, first);
    return find(cpu, cpu->mode | MODE_ONE);
}

void code_link(struct cpu *cpu, struct block *b)
{
    struct block *from = cpu->stale_from;
    if (from && from->mode == b->mode && from->phys == b->phys)
        from->forward = b;
    struct block_exit *exit = cpu->exit_from;
    if (!exit)
        return;
    /* The op before the exit slot belongs to an instruction of the block that is left. */
    const struct op *op = (const struct op *)(const void *)exit - 1;
    if ((op->eip ^ b->eip) & ~PAGE_MASK) {
        if (cpu->cross_count == CROSS_LINKS_MAX)
            return;
        cpu->cross[cpu->cross_count++] = exit;
    }
    exit->link[cpu->exit_taken] = b->ops;
}

static void unlink_cross(struct cpu *cpu)
{
    for (u32 i = 0; i < cpu->cross_count; i++)
        cpu->cross[i]->link[0] = cpu->cross[i]->link[1] = NULL;
    cpu->cross_count = 0;
    cpu->exit_from = NULL;
}

void code_mapping_changed(struct cpu *cpu)
{
    unlink_cross(cpu);
    memset(cpu->fetch, 0, sizeof(cpu->fetch));
    for (u32 i = 0; i < JUMP_CACHE_SIZE; i++)
        cpu->jump[i].key = ~0ull;
}

static void page_forget(struct page *page)
{
    free(page->code);
    page->code = NULL;
    page->blocks = NULL;
    page->probe_conflict = false;
}

void code_flush(struct machine *m)
{
    for (u32 i = 0; i < m->cpu_count; i++) {
        code_mapping_changed(m->cpus[i]);
        m->cpus[i]->stale_from = NULL;
        memset(m->cpus[i]->blocks, 0, BLOCK_HASH_SIZE * sizeof(*m->cpus[i]->blocks));
    }
    for (u32 i = 0; i < 1024; i++)
        for (u32 k = 0; m->mem.directory[i] && k < 1024; k++)
            page_forget(&m->mem.directory[i][k]);
    arena_deinit(&m->arena);
}
