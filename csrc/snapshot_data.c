/* snapshot_data.c: what is in a snapshot, for comparisons, hashes and files. */
#include <stdlib.h>
#include <string.h>

#include "mmu.h"
#include "snapshot.h"

/* --- CPUs ------------------------------------------------------------------------------------------------- */

/* INT n and its like have just entered the kernel side's entry point at eip: the length, which its C code looks at. */
static u8 *entry_length(const struct snapshot *s, struct cpu *cpu)
{
    u32 vector = (cpu->seg[CS].base + cpu->eip - s->kernel.layout.entry) / ENTRY_STRIDE;
    bool at = s->config.kernel == KERNEL_BUILTIN && vector < 256 && cpu->fault.vector == vector;
    return at ? &cpu->fault.length : NULL;
}

static void fpu_state_of(const struct fpu *f, struct cpu_state *ret)
{
    for (unsigned i = 0; i < 8; i++) {
        ret->st_mantissa[i] = f->st[i].mant;
        ret->st_exponent[i] = f->st[i].se;
    }
    ret->fpu_control = f->control;
    ret->fpu_status = f->status;
    ret->fpu_opcode = f->opcode;
    ret->fpu_cs = f->cs;
    ret->fpu_ds = f->ds;
    ret->fpu_ip = f->ip;
    ret->fpu_dp = f->dp;
    ret->fpu_full = f->full;
}

static void fpu_set_state(struct fpu *f, const struct cpu_state *s)
{
    for (unsigned i = 0; i < 8; i++)
        f->st[i] = (struct float80){s->st_mantissa[i], s->st_exponent[i]};
    f->control = s->fpu_control;
    f->status = s->fpu_status;
    f->opcode = s->fpu_opcode;
    f->cs = s->fpu_cs;
    f->ds = s->fpu_ds;
    f->ip = s->fpu_ip;
    f->dp = s->fpu_dp;
    f->full = s->fpu_full;
}

/* Fields that are the same in struct cpu: name here, name there. Arrays and numbers alike. */
#define CPU_FIELDS(F) \
    F(gpr, gpr) F(eip, eip) F(cr0, cr0) F(cr2, cr2) F(cr3, cr3) F(cr4, cr4) F(pdpte, pdpte) F(dr, dr) \
    F(sysenter, sysenter) F(gdtr_base, gdtr.base) F(gdtr_limit, gdtr.limit) F(idtr_base, idtr.base) \
    F(idtr_limit, idtr.limit) F(db_pending, db_pending) F(tsc_offset, tsc_offset) F(pat, pat) F(cpl, cpl) \
    F(shadow, shadow) F(halted, halted) F(nmi_blocked, nmi_blocked) F(parked, parked) F(xmm, sse.xmm) \
    F(mxcsr, sse.mxcsr)
#define CHECK(here, there) \
    _Static_assert(sizeof(((struct cpu_state *)0)->here) == sizeof(((struct cpu *)0)->there), "one is a copy of the other");
CPU_FIELDS(CHECK)
#undef CHECK

void cpu_state_of(const struct snapshot *s, u32 index, struct cpu_state *ret)
{
    const struct cpu_capture *c = &s->cpus[index];
    struct cpu *cpu = (struct cpu *)(uintptr_t)c->bytes;
    const u8 *length = entry_length(s, cpu);

    memset(ret, 0, sizeof(*ret));
#define COPY(here, there) memcpy(&ret->here, &cpu->there, sizeof(ret->here));
    CPU_FIELDS(COPY)
#undef COPY
    ret->icount = c->icount;
    ret->eflags = cpu_eflags(cpu);
    ret->entry_length = length ? *length : 0;
    for (unsigned i = 0; i < SREG_COUNT; i++) {
        ret->seg_base[i] = cpu->seg[i].base;
        ret->seg_limit[i] = cpu->seg[i].limit;
        ret->seg_selector[i] = cpu->seg[i].selector;
        ret->seg_attributes[i] = cpu->seg[i].attr;
    }
    fpu_state_of(&cpu->fpu, ret);
    ret->nmi = c->nmi;
    ret->irq_count = c->irqs.count;
    for (u32 i = 0; i < c->irqs.count; i++)
        ret->irqs[i] = c->irqs.vector[(u8)(c->irqs.first + i)];
}

/* Into a capture of a fresh machine, whose engine state stays. */
static void cpu_set_state(struct snapshot *s, u32 index, const struct cpu_state *from)
{
    struct cpu_capture *c = &s->cpus[index];
    struct cpu *cpu = (struct cpu *)(void *)c->bytes;

#define COPY(here, there) memcpy(&cpu->there, &from->here, sizeof(from->here));
    CPU_FIELDS(COPY)
#undef COPY
    c->icount = from->icount;
    cpu_set_eflags(cpu, from->eflags);
    for (unsigned i = 0; i < SREG_COUNT; i++)
        cpu->seg[i] = (struct segment){from->seg_base[i], from->seg_limit[i], from->seg_selector[i], from->seg_attributes[i]};
    cpu->fault = (struct fault){.vector = (u8)((cpu->seg[CS].base + cpu->eip - s->kernel.layout.entry) / ENTRY_STRIDE)};
    u8 *length = entry_length(s, cpu);
    if (length)
        *length = from->entry_length;
    fpu_set_state(&cpu->fpu, from);
    c->nmi = from->nmi;
    c->irqs = (struct irq_queue){.count = from->irq_count};
    for (u32 i = 0; i < from->irq_count; i++) {
        c->irqs.vector[i] = from->irqs[i];
        c->irqs.pending[from->irqs[i] >> 6] |= 1ull << (from->irqs[i] & 63);
    }
}

void snapshot_cpu(const snapshot *s, uint32_t cpu, struct cpu_state *ret)
{
    cpu_state_of(s, cpu, ret);
}

void snapshot_board(const snapshot *s, struct board_state *ret, uint32_t *pool, uint32_t room)
{
    const struct kernel *k = &s->kernel;
    *ret = (struct board_state){.timer_period = s->board.timer_period, .timer_next = s->board.timer_next,
                                .timer_vector = s->board.timer_vector, .intr = s->board.intr, .top = s->board.top,
                                .cpu = s->board.current, .pool = k->pool_used};
    if (room && k->pool_used)
        memcpy(pool, k->pool, (k->pool_used < room ? k->pool_used : room) * sizeof(*pool));
}

void snapshot_pc(const snapshot *s, struct pc_state *ret, uint8_t *typed, uint32_t room)
{
    const struct pc_capture *c = &s->board.pc;
    memset(ret, 0, sizeof(*ret));
    if (!s->config.board_hz)
        return;
    pc_state_of(&c->pc, ret);
    ret->a20 = s->board.a20_mask == ~0u;
    if (room && ret->typed)
        memcpy(typed, c->in, ret->typed < room ? ret->typed : room);
}

static bool pc_load(struct snapshot *s, const struct pc_state *from, const uint8_t *typed)
{
    struct pc_capture *c = &s->board.pc;
    u8 *in = realloc(c->in, from->typed);
    if (from->typed && !in)
        return false;
    c->in = in;
    c->room = from->typed;
    if (from->typed)
        memcpy(in, typed, from->typed);
    pc_set_state(&c->pc, from);
    s->board.a20_mask = from->a20 ? ~0u : ~A20;
    return true;
}

/* --- memory ----------------------------------------------------------------------------------------------- */

struct listing {
    uint32_t *frames;
    uint8_t *flags;
    uint32_t count, room;
};

static void list_page(void *context, u32 frame, struct contents *c, bool rom)
{
    struct listing *l = context;
    if (c && l->count < l->room) {
        bool nonzero = c != contents_zero() && memcmp(c->bytes, contents_zero()->bytes, PAGE_SIZE) != 0;
        l->frames[l->count] = frame;
        l->flags[l->count] = (u8)((rom ? SNAPSHOT_ROM : 0) | (nonzero ? SNAPSHOT_NONZERO : 0));
    }
    l->count += c != NULL;
}

uint32_t snapshot_pages(const snapshot *s, uint32_t *frames, uint8_t *flags, uint32_t room)
{
    struct listing l = {frames, flags, 0, room};
    tree_diff(NULL, s->root, list_page, &l);
    return l.count;
}

void snapshot_bytes(const snapshot *s, const uint32_t *frames, uint32_t count, uint8_t *ret)
{
    for (u32 i = 0; i < count; i++) {
        bool rom;
        const struct contents *c = tree_get(s->root, frames[i], &rom);
        memcpy(ret + (size_t)i * PAGE_SIZE, (c ? c : contents_zero())->bytes, PAGE_SIZE);
    }
}

/* --- from parts ------------------------------------------------------------------------------------------- */

static bool tree_load(struct page_node **root, const uint32_t *frames, const uint8_t *flags, u32 count, const u8 *bytes)
{
    for (u32 i = 0; i < count; i++) {
        struct contents *c = flags[i] & SNAPSHOT_NONZERO ? contents_create() : contents_zero();
        if (!c)
            return false;
        if (flags[i] & SNAPSHOT_NONZERO) {
            memcpy(c->bytes, bytes, PAGE_SIZE);
            bytes += PAGE_SIZE;
        }
        bool good = tree_set(root, frames[i], c, flags[i] & SNAPSHOT_ROM);
        contents_drop(c);
        if (!good)
            return false;
    }
    return true;
}

static bool pool_load(struct kernel *k, const uint32_t *pool, u32 count)
{
    u32 *own = realloc(k->pool, count * sizeof(*own));
    if (!own)
        return false;
    memcpy(own, pool, count * sizeof(*own));
    k->pool = own;
    k->pool_used = k->pool_size = count;
    return true;
}

snapshot *snapshot_load(const struct machine_config *config, const uint32_t *frames, const uint8_t *flags, uint32_t count,
                        const uint8_t *bytes, const struct cpu_state *cpus, const struct board_state *board,
                        const uint32_t *pool, const struct pc_state *pc, const uint8_t *typed)
{
    machine *m = machine_create(config);
    struct snapshot *s = m ? machine_snapshot(m) : NULL;

    machine_destroy(m);
    if (!s)
        return NULL;
    tree_drop(s->root);
    s->root = NULL;
    if (!tree_load(&s->root, frames, flags, count, bytes) || (board->pool && !pool_load(&s->kernel, pool, board->pool)) ||
        (config->board_hz && !pc_load(s, pc, typed))) {
        snapshot_destroy(s);
        return NULL;
    }
    s->board.timer_period = board->timer_period;
    s->board.timer_next = board->timer_next;
    s->board.timer_vector = (u8)board->timer_vector;
    s->board.intr = board->intr;
    s->board.top = board->top;
    s->board.current = board->cpu;
    s->board.others = 0;
    for (u32 i = 0; i < s->config.cpus; i++) {
        cpu_set_state(s, i, &cpus[i]);
        s->board.others += i == board->cpu ? 0 : cpus[i].icount;
    }
    return s;
}
