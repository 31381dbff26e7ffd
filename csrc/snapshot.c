/* snapshot.c: capture and restore. */
#include "snapshot.h"

#include <stdlib.h>
#include <string.h>

#include "debug.h"
#include "kretprobe.h"
#include "mmu.h"

/* --- CPUs ------------------------------------------------------------------------------------------------- */

static void cpu_capture(const struct cpu *cpu, struct cpu_capture *ret)
{
    memcpy(ret->bytes, cpu, CPU_STATE_BYTES);
    ret->icount = cpu_icount(cpu);
    ret->nmi = cpu->nmi;
    ret->irqs = cpu->irqs;
    ret->spins = cpu->spins;
    ret->watch_passed = cpu->watch_passed;
    ret->probe_resume = cpu->probe_resume;
    ret->probe_missed = cpu->probe_missed;
}

/* What translations depend on besides page tables. */
static bool same_paging(const struct cpu *a, const struct cpu *b)
{
    return a->cr0 == b->cr0 && a->cr3 == b->cr3 && a->cr4 == b->cr4 && memcmp(a->pdpte, b->pdpte, sizeof(a->pdpte)) == 0;
}

/* Breakpoints are in decoded code and in TLBs. */
static bool same_breakpoints(const struct cpu *a, const struct cpu *b)
{
    return a->dr[7] == b->dr[7] && (!(a->dr[7] & DR7_ENABLES) || memcmp(a->dr, b->dr, 4 * sizeof(a->dr[0])) == 0);
}

static void cpu_rewind(struct cpu *cpu, const struct cpu_capture *c)
{
    const struct cpu *to = (const struct cpu *)(const void *)c->bytes;
    bool paging = same_paging(cpu, to), breakpoints = same_breakpoints(cpu, to);

    memcpy(cpu, c->bytes, CPU_STATE_BYTES);
    cpu->icount = c->icount;
    cpu->nmi = c->nmi;
    cpu->irqs = c->irqs;
    cpu->spins = c->spins;
    cpu->watch_passed = c->watch_passed;
    cpu->probe_resume = c->probe_resume;
    cpu->probe_missed = c->probe_missed;
    cpu->until_fresh = false;
    cpu->budget = cpu->budget_start = 0;
    cpu->exit_from = NULL;
    cpu->stale_from = NULL;
    mode_update(cpu);
    debug_update(cpu);
    if (!breakpoints)
        code_drop_frames(cpu->machine, 0, FRAME_COUNT - 1);
    else if (!paging)
        tlb_flush(cpu);
}

/* --- the board -------------------------------------------------------------------------------------------- */

static bool board_capture(const struct machine *m, struct board_capture *b)
{
    b->current = m->cpu->index;
    b->others = m->others;
    b->intr = m->intr;
    b->timer_vector = m->timer_vector;
    b->timer_period = m->timer_period;
    b->timer_next = m->timer_next;
    b->top = m->mem.top;
    b->a20_mask = m->a20_mask;
    return schedule_copy(&b->schedule, &m->schedule) && (!m->pc || pc_capture(m, &b->pc));
}

static void board_rewind(struct machine *m, const struct board_capture *b)
{
    m->cpu = m->cpus[b->current];
    kprobe_select(m);
    m->others = b->others;
    m->intr = b->intr;
    m->timer_vector = b->timer_vector;
    m->timer_period = b->timer_period;
    m->timer_next = b->timer_next;
    m->mem.top = b->top;
    if (m->a20_mask != b->a20_mask)
        tlb_flush_all(m);
    m->a20_mask = b->a20_mask;
    if (m->pc)
        pc_rewind(m, &b->pc);
    m->watches.pending = 0;
    m->stop_soon = false;
}

/* --- the kernel side and probes --------------------------------------------------------------------------- */

/* A kernel side as another one; the pool's memory stays each one's own. */
static bool kernel_copy(struct kernel *to, const struct kernel *from)
{
    u32 *pool = to->pool, size = to->pool_size;

    if (from->pool_used > size) {
        pool = realloc(pool, from->pool_used * sizeof *pool);
        if (!pool)
            return false;
        size = from->pool_used;
    }
    if (from->pool_used)
        memcpy(pool, from->pool, from->pool_used * sizeof *pool);
    *to = *from;
    to->pool = pool;
    to->pool_size = size;
    return true;
}

static bool probes_capture(const struct machine *m, struct snapshot *s)
{
    const struct kprobes *kp = m->kprobes;

    s->probe_count = 0;
    if (!kp)
        return true;
    if (!kprobes_capture(m, &s->hits))
        return false;
    if (kp->ids > s->probe_room) {
        struct probe_capture *probes = realloc(s->probes, kp->ids * sizeof(*probes));
        if (!probes)
            return false;
        s->probes = probes;
        s->probe_room = kp->ids;
    }
    for (u32 i = 0; i < kp->ids; i++)
        if (kp->by_id[i]->registered)
            s->probes[s->probe_count++] = (struct probe_capture){kp->by_id[i]->addr, kp->by_id[i]->opcode};
    return true;
}

/* --- all together ----------------------------------------------------------------------------------------- */

bool machine_capture(struct machine *m, struct snapshot *s)
{
    if (!s->cpus)
        s->cpus = calloc(m->cpu_count, sizeof(*s->cpus));
    if (!s->cpus)
        return false;
    s->config = m->config;
    s->config.cpus = m->cpu_count;
    for (u32 i = 0; i < m->cpu_count; i++)
        cpu_capture(m->cpus[i], &s->cpus[i]);
    return board_capture(m, &s->board) && (!m->kernel || kernel_copy(&s->kernel, m->kernel)) && probes_capture(m, s);
}

int machine_rewind(struct machine *m, const struct snapshot *s, bool hits)
{
    if (!schedule_copy(&m->schedule, &s->board.schedule) || (m->kernel && !kernel_copy(m->kernel, &s->kernel)))
        return -2;
    for (u32 i = 0; i < m->cpu_count; i++)
        cpu_rewind(m->cpus[i], &s->cpus[i]);
    board_rewind(m, &s->board);
    if (m->kprobes)
        kprobes_release(m);
    kretprobes_forget(m);
    return m->kprobes && hits && !kprobes_rewind(m, &s->hits) ? -1 : 0;
}

void snapshot_deinit(struct snapshot *s)
{
    tree_drop(s->root);
    kprobe_capture_deinit(&s->hits);
    pc_capture_deinit(&s->board.pc);
    schedule_deinit(&s->board.schedule);
    free(s->kernel.pool);
    free(s->probes);
    free(s->cpus);
}

snapshot *machine_snapshot(machine *m)
{
    struct snapshot *s = calloc(1, sizeof(*s));

    if (!s || !machine_capture(m, s) || !memory_snapshot(m, &s->root)) {
        snapshot_destroy(s);
        return NULL;
    }
    tlb_flush_all(m);
    return s;
}

void snapshot_destroy(snapshot *s)
{
    if (s)
        snapshot_deinit(s);
    free(s);
}

int machine_restore(machine *m, const snapshot *s, int hits)
{
    memory_restore(m, s->root);
    return machine_rewind(m, s, hits);
}

machine *machine_clone(const snapshot *s, const struct machine_config *config)
{
    machine *m = machine_create_from(config, s->root);

    if (!m)
        return NULL;
    if (config->kernel == KERNEL_BUILTIN)
        m->kernel = calloc(1, sizeof *m->kernel);
    if ((config->kernel == KERNEL_BUILTIN && !m->kernel) || machine_rewind(m, s, false) == -2) {
        machine_destroy(m);
        return NULL;
    }
    machine_withdraw_probes(m, s);
    return m;
}

void machine_withdraw_probes(machine *m, const snapshot *s)
{
    for (u32 i = 0; i < s->probe_count && !kprobes_hidden(m->kprobes); i++) {
        const struct probe_capture *p = &s->probes[i];
        u8 byte;
        if (!kprobe_at(m, p->addr) && mmu_peek(m->cpu, p->addr, &byte, 1) == 1 && byte == BREAKPOINT)
            mmu_poke(m->cpu, p->addr, &p->opcode, 1);
    }
}

int snapshot_probe(const snapshot *s, uint32_t i, uint32_t *ret_addr)
{
    if (i >= s->probe_count)
        return -1;
    *ret_addr = s->probes[i].addr;
    return s->probes[i].opcode;
}

int snapshot_hit(const snapshot *s, uint32_t i, uint32_t *ret_addr)
{
    if (s->config.kprobes == KPROBES_OFF || i >= s->hits.count)
        return -1;
    *ret_addr = s->hits.hits[i].addr;
    return 0;
}
