#include "machine.h"

#include <stdlib.h>
#include <string.h>

#include "debug.h"
#include "execute.h"
#include "interrupt.h"
#include "kernel.h"
#include "kprobe.h"
#include "kretprobe.h"
#include "pc.h"
#include "spy.h"
#include "trap.h"

/* The CPU state that a run inside a handler must give back. */
struct nest {
    struct nest *outer;
    struct cpu state;           /* only the part before `icount` is kept */
    s64 budget_start;
    bool until_set;
    bool stop_asked;
    u32 until;
    bool resumes;               /* it was stopped at a probe point whose hit is done */
    u32 resume_addr;
};
#define NEST_BYTES offsetof(struct cpu, icount)

/* --- creation --------------------------------------------------------------------------------------------- */

static bool cpu_create(struct machine *m)
{
    struct cpu *cpu = calloc(1, sizeof(*cpu));
    if (!cpu)
        return false;
    cpu->machine = m;
    cpu->index = m->cpu_count;
    cpu->model = &cpu_models[m->config.cpu];
    cpu->blocks = calloc(BLOCK_HASH_SIZE, sizeof(*cpu->blocks));
    cpu->cross = calloc(CROSS_LINKS_MAX, sizeof(*cpu->cross));
    m->cpus[m->cpu_count++] = cpu;
    if (!cpu->blocks || !cpu->cross)
        return false;
    cpu_reset(cpu);
    cpu->parked = cpu->index > 0;
    return true;
}

/* CPU 0 is the one that starts. */
static bool cpus_create(struct machine *m)
{
    do {
        if (!cpu_create(m))
            return false;
        m->cpu = m->cpus[0];
    } while (m->cpu_count < m->config.cpus);
    return true;
}

static void cpu_destroy(struct cpu *cpu)
{
    free(cpu->blocks);
    free(cpu->cross);
    free(cpu);
}

machine *machine_create_from(const struct machine_config *config, struct page_node *root)
{
    machine *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->config = *config;
    m->a20_mask = ~0u;
    m->schedule.value = SCHEDULE_STEPS;
    if (!(root ? memory_init_from(&m->mem, root) : memory_init(&m->mem, config->memory_pages)) || !cpus_create(m) ||
        (config->kernel == KERNEL_BUILTIN && !root && !kernel_create(m)) ||
        (config->board_hz && !pc_create(m, config->board_hz, config->board_seconds)) ||
        (config->kprobes != KPROBES_OFF && !kprobes_create(m))) {
        machine_destroy(m);
        return NULL;
    }
    m->schedule.cpu = m->cpu_count - 1;     /* CPU 0 is the first */
    return m;
}

machine *machine_create(const struct machine_config *config)
{
    return machine_create_from(config, NULL);
}

void machine_destroy(machine *m)
{
    if (!m)
        return;
    while (m->nest)
        machine_nest_end(m);
    kretprobes_destroy(m);
    if (m->kprobes)
        kprobes_destroy(m);
    if (m->kernel)
        kernel_destroy(m);
    pc_destroy(m);
    arena_deinit(&m->arena);
    schedule_deinit(&m->schedule);
    memory_deinit(&m->mem);
    for (u32 i = 0; i < m->cpu_count; i++)
        cpu_destroy(m->cpus[i]);
    watches_deinit(&m->watches);
    for (unsigned i = 0; i < DEVICE_KINDS; i++)
        free(m->space[i].devices);
    free(m);
}

/* --- traps ------------------------------------------------------------------------------------------------ */

/* With the guest's own IDT the probes see exceptions before its gates do. */
static bool probes_first(const struct machine *m)
{
    return m->kprobes && !kernel_owns_traps(m);
}

static int deliver_fault(struct machine *m)
{
    m->schedule.steps++;
    forget_exit(m->cpu);
    if (unlikely(m->spy))
        spy_exception(m, m->cpu->fault.vector);
    if (unlikely(m->cpu->fault.stop))
        return trap_deliver(m->cpu);    /* no exception that anybody could claim */
    int status = m->kernel ? kernel_trap(m) : STATUS_FAULT;
    if (status != STATUS_FAULT)
        return status;
    if (unlikely(probes_first(m))) {
        int taken = kprobe_intercept(m);
        if (taken)
            return taken > 0 ? STATUS_JUMP : STATUS_STOP;
    }
    return trap_deliver(m->cpu);
}

/* #DB for the conditions in bits: DR6_BS after a single step, breakpoints 0-3. Those of the last one go, the other
 * bits stay until software clears them (SDM vol. 3, 17.2.3). */
static int debug_trap(struct machine *m, u32 bits)
{
    struct cpu *cpu = m->cpu;
    cpu->dr[6] = (cpu->dr[6] & ~DR6_BREAKS) | bits;
    cpu_fault(cpu, T_DEBUG);
    return deliver_fault(m);
}

/* #DB behind an instruction that has retired, or behind a task switch that no instruction asked for. */
static int pending_debug_trap(struct machine *m, u32 bits)
{
    struct cpu *cpu = m->cpu;
    cpu->db_pending = 0;
    int status = debug_trap(m, bits);
    if (unlikely(status == STATUS_STOP && cpu->fault.stop))
        cpu->db_pending = bits;     /* a device's handler failed during delivery: it has not happened */
    return status;
}

/* What decoded code left behind; step: DR6_BS if the instruction was single-stepped; held: breakpoints that a load of
 * SS before it hit. Behind a load of SS debug exceptions wait for the next instruction, also if that faults or is an
 * INT n, and the single step is lost (SDM vol. 3, 6.8.3). */
static int after_execute(struct machine *m, u32 step, u32 held)
{
    struct cpu *cpu = m->cpu;
    u32 bits = cpu->db_pending | step;
    cpu->db_pending = held;
    if (unlikely(cpu->shadow == 2)) {
        cpu->db_pending |= bits & ~step;
        return STATUS_JUMP;
    }
    switch (cpu->leave) {
    case LEAVE_FAULT:
        m->watches.pending = 0;     /* what did not retire did nothing */
        return deliver_fault(m);
    case LEAVE_STOP:
        m->watches.pending = 0;
        return STATUS_STOP;
    default:
        bits |= held;
        return unlikely(bits) ? pending_debug_trap(m, bits) : STATUS_JUMP;
    }
}

/* --- the run loop ----------------------------------------------------------------------------------------- */

static void settle(struct cpu *cpu)
{
    cpu->icount += (u64)(cpu->budget_start - cpu->budget);
    cpu->budget_start = cpu->budget = 0;
}

/* Did the instruction end the run with nothing of it done? */
static bool undone(const struct cpu *cpu)
{
    return cpu->leave == LEAVE_STOP || (cpu->leave == LEAVE_FAULT && cpu->fault.stop);
}

/* Run one instruction, with the trap that TF asks for. */
ALWAYS_INLINE int run_one(struct machine *m)
{
    struct cpu *cpu = m->cpu;
    bool tf = cpu->eflags & EFLAGS_TF;
    u32 held = cpu->db_pending, rf = cpu->eflags & EFLAGS_RF;
    u8 shadow = cpu->shadow;
    struct block *b = block_find_one(cpu);
    cpu->step_over = false;
    forget_exit(cpu);
    if (!b) {
        if (unlikely(cpu->boosted))
            kprobe_end_boost(m);
        return cpu->leave == LEAVE_FAULT ? deliver_fault(m) : STATUS_STOP;
    }
    if (m->kprobes)
        kprobe_passing(m);
    if (unlikely(m->spy))
        spy_execute(m, b);
    cpu->shadow = 0;
    cpu->db_pending = 0;
    cpu->eflags &= ~EFLAGS_RF;
    cpu->one = true;
    execute(cpu, b->ops);
    cpu->one = false;
    forget_exit(cpu);
    if (unlikely(cpu->boosted))
        kprobe_end_boost(m);
    cpu->until_fresh = false;
    bool again = undone(cpu);
    int status = after_execute(m, tf ? DR6_BS : 0, held);
    if (unlikely(again)) {
        cpu->shadow = shadow;
        cpu->eflags |= rf;
    }
    return status;
}

/* Run blocks until something needs attention or at most `most` instructions are done: with a small budget one block, if
 * it fits, else one instruction. */
ALWAYS_INLINE int run_blocks(struct machine *m, u64 most)
{
    struct cpu *cpu = m->cpu;
    struct block *b = block_find(cpu);
    if (!b)
        return cpu->leave == LEAVE_FAULT ? deliver_fault(m) : STATUS_STOP;
    /* Behind the counted instructions there may be one that faults: the run ends before it. */
    if (unlikely(b->count >= most))
        return run_one(m);
    code_link(cpu, b);
    cpu->eflags &= ~EFLAGS_RF;
    cpu->plain_hits = false;
    cpu->budget = cpu->budget_start = (s64)(most - BLOCK_MAX_INSNS);
    execute(cpu, b->ops);
    return after_execute(m, 0, 0);
}

static u64 instructions_left(const struct machine *m, u64 end)
{
    u64 now = machine_now(m), left = end - now;
    if (m->timer_period && m->timer_next - now < left)
        left = m->timer_next - now;
    if (m->pc && pc_left(m) < left)
        left = pc_left(m);
    return left;
}

#define GO_ON (-1)

/* What the CPU does next: one entry point, event, instruction or run of blocks. GO_ON, or the reason to end the run. */
ALWAYS_INLINE int turn(struct machine *m, u64 end)
{
    struct cpu *cpu = m->cpu;
    int status;
    if (m->kernel && kernel_serves(m, cpu->seg[CS].base + cpu->eip)) {
        forget_exit(cpu);
        status = kernel_enter(m);
        if (status == STATUS_FAULT)
            status = deliver_fault(m);
    } else {
        bool at_until = (m->until_set && cpu->eip == m->until) || machine_marked(m, cpu->eip);
        if (unlikely(m->mem.exhausted))
            return STOP_MEMORY;
        if (unlikely(m->stop_soon)) {
            m->stop_soon = false;
            return STOP_PYTHON;
        }
        if (at_until && !cpu->until_fresh)
            return STOP_UNTIL;
        if (machine_now(m) >= end)
            return STOP_NONE;
        timer_tick(m);
        if (unlikely(cpu->db_pending) && cpu->shadow != 2) {
            status = pending_debug_trap(m, cpu->db_pending);
        } else if (unlikely(nmi_ready(cpu))) {
            status = take_nmi(m);
        } else if (interrupt_ready(cpu)) {
            status = take_interrupt(m);
        } else if (unlikely(cpu->halted)) {
            return interrupt_skip(m) ? GO_ON : STOP_HALT;
        } else {
            u32 lin = cpu->seg[CS].base + cpu->eip;
            u32 breaks = cpu->code_breaks ? debug_code(cpu, lin) : 0;
            bool watched = cpu->code_breaks && watch_code(m, lin), told = cpu->eflags & EFLAGS_RF;
            if (unlikely(watched) && !told && watch_execution(m, lin))
                return GO_ON;
            u64 left = instructions_left(m, end) + m->slack;
            bool one = (cpu->eflags & EFLAGS_TF) || cpu->step_over || cpu->boosted || cpu->shadow || at_until || breaks ||
                       watched || m->spy;
            if (breaks && !(cpu->eflags & EFLAGS_RF) && cpu->shadow != 2)
                status = debug_trap(m, breaks);
            else
                status = one ? run_one(m) : run_blocks(m, left);
        }
    }
    return unlikely(status == STATUS_STOP) ? cpu->stop : GO_ON;
}

/* Between two turns: GO_ON, or the reason to end the run. */
ALWAYS_INLINE int before_turn(struct machine *m, u32 turns)
{
    settle(m->cpu);
    if (unlikely(m->watches.pending)) {
        enum stop_reason reason = watch_tell(m);
        if (reason != STOP_NONE)
            return (int)reason;
    }
    return unlikely(turns >= RUN_TURNS) ? STOP_NONE : GO_ON;
}

static enum stop_reason run(struct machine *m, u64 end)
{
    for (u32 turns = 0;; turns++) {
        int reason = before_turn(m, turns);
        if (reason == GO_ON)
            reason = turn(m, end);
        if (reason != GO_ON)
            return (enum stop_reason)reason;
    }
}

/* The same with other CPUs around. NMIs come between any two steps, also before an entry point. */
static int turn_of_several(struct machine *m, u64 end)
{
    struct cpu *cpu = m->cpu;
    int status;
    cpu->waits = false;
    if (unlikely(cpu->trapped)) {
        status = deliver_fault(m);
    } else if (unlikely(nmi_ready(cpu)) && kernel_serves(m, cpu->seg[CS].base + cpu->eip)) {
        status = take_nmi(m);
    } else {
        return turn(m, end);
    }
    return status == STATUS_STOP ? cpu->stop : GO_ON;
}

static u64 steps_now(const struct machine *m)
{
    return m->schedule.steps + machine_now(m);
}

static enum stop_reason run_several(struct machine *m, u64 end)
{
    for (u32 turns = 0;; turns++) {
        int reason = before_turn(m, turns);
        if (unlikely(reason != GO_ON))
            return (enum stop_reason)reason;
        enum stop_reason none = schedule_next(m);
        if (unlikely(none != STOP_NONE))
            return none;
        u64 before = steps_now(m), now = machine_now(m), left = schedule_begin(m);
        reason = turn_of_several(m, left < end - now ? now + left : end);
        schedule_used(m, steps_now(m) - before);
        if (reason != GO_ON)
            return (enum stop_reason)reason;
    }
}

static void describe_stop(struct machine *m, enum stop_reason reason)
{
    struct cpu *cpu = m->cpu;
    struct stop_info *stop = &m->stop;
    settle(cpu);
    stop->reason = (s32)reason;
    stop->eip = cpu->eip;
    stop->icount = machine_now(m);
    stop->cpu = cpu->index;
    stop->nbytes = 0;
    if (reason != STOP_TRAP) {
        stop->vector = reason == STOP_SHUTDOWN ? cpu->fault.vector : -1;
        stop->error_code = 0;
        stop->address = reason == STOP_SHUTDOWN ? cpu->cr2 : 0;
    }
    if (reason == STOP_UNIMPLEMENTED)
        stop->nbytes = (u8)mmu_peek(cpu, cpu->seg[CS].base + cpu->eip, stop->bytes, INSN_MAX);
}

int machine_run(machine *m, uint64_t slice)
{
    u64 now = machine_now(m);
    for (u32 i = 0; i < m->cpu_count; i++)
        forget_exit(m->cpus[i]);    /* eip may have been set since */
    m->depth++;
    u64 end = now + slice < now ? UINT64_MAX : now + slice;
    bool alone = m->cpu_count == 1 && !m->cpu->parked;
    enum stop_reason reason = alone ? run(m, end) : run_several(m, end);
    m->depth--;
    describe_stop(m, reason);
    return (int)reason;
}

/* --- what Python asks ------------------------------------------------------------------------------------- */

const struct stop_info *machine_stop_info(machine *m)
{
    return &m->stop;
}

void machine_select(struct machine *m, struct cpu *cpu)
{
    m->others += cpu_icount(m->cpu) - cpu_icount(cpu);
    m->cpu = cpu;
    kprobe_select(m);
}

int machine_current(machine *m)
{
    return (int)m->cpu->index;
}

void machine_cpu_info(machine *m, int index, struct cpu_info *ret)
{
    const struct cpu *cpu = m->cpus[index];
    *ret = (struct cpu_info){cpu_icount(cpu), cpu->spins, cpu->halted, cpu->parked, kprobe_waits_for(cpu)};
}

void machine_park(machine *m, int index)
{
    struct cpu *cpu = m->cpus[index];
    cpu->parked = true;
    cpu->code_changed = true;
}

int machine_focus(machine *m, int index)
{
    int before = (int)m->cpu->index;
    machine_select(m, m->cpus[index]);
    return before;
}

static void drop_code_at(struct machine *m, u32 eip)
{
    for (u32 i = 0; i < m->cpu_count; i++)
        code_invalidate_lin(m->cpus[i], m->cpus[i]->seg[CS].base + eip, 1);
}

void machine_set_until(machine *m, int set, uint32_t eip)
{
    if (m->until_set && !(set && m->until == eip))
        drop_code_at(m, m->until);
    if (set && !(m->until_set && m->until == eip))
        drop_code_at(m, eip);
    m->until_set = set;
    for (u32 i = 0; i < m->cpu_count; i++)
        m->cpus[i]->until_fresh = set && m->cpus[i]->eip == eip;
    m->until = eip;
}

uint64_t machine_icount(machine *m)
{
    return machine_now(m);
}

int machine_nest_begin(machine *m)
{
    struct cpu *cpu = m->cpu;
    struct nest *nest = m->nests < CALL_DEPTH_MAX ? malloc(sizeof(*nest)) : NULL;
    if (!nest)
        return -1;
    memcpy(&nest->state, cpu, NEST_BYTES);
    nest->budget_start = cpu->budget_start;
    nest->until_set = m->until_set;
    nest->until = m->until;
    nest->stop_asked = machine_take_stop(m);
    nest->resumes = kprobe_resumes(m, &nest->resume_addr);
    nest->outer = m->nest;
    m->nest = nest;
    m->nests++;
    settle(cpu);
    cpu->halted = cpu->parked = cpu->waits = cpu->trapped = cpu->step_over = false;
    cpu->shadow = 0;
    cpu->db_pending = 0;
    return 0;
}

void machine_nest_end(machine *m)
{
    struct cpu *cpu = m->cpu;
    struct nest *nest = m->nest;
    settle(cpu);
    u64 tsc_offset = cpu->tsc_offset;
    bool paging = cpu->cr0 != nest->state.cr0 || cpu->cr3 != nest->state.cr3 || cpu->cr4 != nest->state.cr4;
    memcpy(cpu, &nest->state, NEST_BYTES);
    cpu->tsc_offset = tsc_offset;
    cpu->budget_start = nest->budget_start;
    cpu->icount -= (u64)(cpu->budget_start - cpu->budget);
    if (paging)
        tlb_flush(cpu);
    /* The nested run may have changed the code that is running now. */
    cpu->code_changed = true;
    machine_set_until(m, nest->until_set, nest->until);
    cpu->until_fresh = false;
    m->stop_asked = nest->stop_asked;
    if (nest->resumes)
        kprobe_resume_at(m, nest->resume_addr);
    else
        cpu->probe_resume.set = false;
    m->nest = nest->outer;
    m->nests--;
    free(nest);
}

uint32_t machine_peek(machine *m, uint32_t lin, void *buf, uint32_t size)
{
    return mmu_peek(m->cpu, lin, buf, size);
}

uint32_t machine_poke(machine *m, uint32_t lin, const void *buf, uint32_t size)
{
    return mmu_poke(m->cpu, lin, buf, size);
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
const char *machine_build(void)
{
#ifndef BUILD_FLAGS
#define BUILD_FLAGS "unknown flags"
#endif
#ifdef LOOP_DISPATCH
#define DISPATCH_KIND "loop"
#else
#define DISPATCH_KIND "tail calls"
#endif
#ifdef __clang__
    return "clang " TEXT(__clang_major__) "." TEXT(__clang_minor__) " " BUILD_FLAGS ", dispatch by " DISPATCH_KIND;
#else
    return "gcc " TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__) " " BUILD_FLAGS ", dispatch by " DISPATCH_KIND;
#endif
}
