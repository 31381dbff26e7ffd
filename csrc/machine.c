#include "machine.h"

#include <stdlib.h>
#include <string.h>

#include "debug.h"
#include "execute.h"
#include "kernel.h"
#include "kprobe.h"
#include "kretprobe.h"
#include "pc.h"
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
    if (!(root ? memory_init_from(&m->mem, root) : memory_init(&m->mem, config->memory_pages)) || !cpus_create(m) ||
        (config->kernel == KERNEL_BUILTIN && !root && !kernel_create(m)) ||
        (config->board_hz && !pc_create(m, config->board_hz, config->board_seconds)) ||
        (config->kprobes != KPROBES_OFF && !kprobes_create(m))) {
        machine_destroy(m);
        return NULL;
    }
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
    memory_deinit(&m->mem);
    for (u32 i = 0; i < m->cpu_count; i++)
        cpu_destroy(m->cpus[i]);
    watches_deinit(&m->watches);
    for (unsigned i = 0; i < DEVICE_KINDS; i++)
        free(m->space[i].devices);
    free(m);
}

/* --- traps ------------------------------------------------------------------------------------------------ */

/* eip is about to change by other means than the code itself: the last exit's target is not what comes next. */
static void forget_exit(struct cpu *cpu)
{
    cpu->exit_from = NULL;
    cpu->stale_from = NULL;
}

/* With the guest's own IDT the probes see exceptions before its gates do. */
static bool probes_first(const struct machine *m)
{
    return m->kprobes && !kernel_owns_traps(m);
}

static int deliver_fault(struct machine *m)
{
    forget_exit(m->cpu);
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

static bool irq_push(struct irq_queue *q, u8 vector)
{
    u64 bit = 1ull << (vector & 63);
    if (q->pending[vector >> 6] & bit)
        return false;
    q->pending[vector >> 6] |= bit;
    q->vector[(u8)(q->first + q->count++)] = vector;
    return true;
}

static void timer_tick(struct machine *m)
{
    if (m->pc)
        pc_look(m);
    u64 now = machine_now(m);
    if (!m->timer_period || now < m->timer_next)
        return;
    m->timer_next += (now - m->timer_next) / m->timer_period * m->timer_period + m->timer_period;
    irq_push(&m->cpus[0]->irqs, m->timer_vector);
}

/* Does INTR ask the CPU? A board has it at CPU 0. */
static bool intr_asks(const struct cpu *cpu)
{
    const struct machine *m = cpu->machine;
    return m->intr && (m->intr_served || m->pc) && cpu->index == 0;
}

static bool interrupt_ready(const struct cpu *cpu)
{
    return (cpu->irqs.count || intr_asks(cpu)) && (cpu->eflags & EFLAGS_IF) && !cpu->shadow;
}

/* The interrupt acknowledge cycle. A controller that has no vector after all takes its request back. STATUS_NEXT:
 * vector is to be delivered. */
static int acknowledge(struct machine *m, u8 *vector)
{
    if (m->pc) {
        *vector = pc_acknowledge(m);
        return STATUS_NEXT;
    }
    m->access = (struct device_access){0};
    bool stop = machine_callback(m, CALLBACK_INTR, 0, 0) < 0;
    if (!m->access.done) {
        m->intr &= stop;
        return stop ? cpu_stop(m->cpu, STOP_PYTHON) : STATUS_JUMP;
    }
    m->stop_soon |= stop;
    *vector = (u8)m->access.value;
    return STATUS_NEXT;
}

static int take_interrupt(struct machine *m)
{
    struct irq_queue *q = &m->cpu->irqs;
    u8 vector = q->vector[q->first];
    bool queued = q->count, halted = m->cpu->halted;
    forget_exit(m->cpu);
    if (!queued) {
        int status = acknowledge(m, &vector);
        if (status != STATUS_NEXT)
            return status;
    }
    m->cpu->halted = false;
    int status = trap_interrupt(m->cpu, vector);
    if (status == STATUS_STOP && m->cpu->stop == STOP_PYTHON) {
        m->cpu->halted = halted;    /* a device's handler failed during delivery: it has not happened */
        if (!queued)
            irq_push(q, vector);
    } else if (queued) {
        q->pending[vector >> 6] &= ~(1ull << (vector & 63));
        q->first++;
        q->count--;
    }
    return status;
}

/* SDM vol. 3, 6.7.1: no other NMI before an IRET. A load of SS holds NMIs back too (6.8.3); so does STI here. */
static bool nmi_ready(const struct cpu *cpu)
{
    return cpu->nmi && !cpu->nmi_blocked && !cpu->shadow;
}

static int take_nmi(struct machine *m)
{
    bool halted = m->cpu->halted;
    forget_exit(m->cpu);
    m->cpu->halted = false;
    int status = trap_interrupt(m->cpu, T_NMI);
    bool failed = status == STATUS_STOP && m->cpu->stop == STOP_PYTHON;    /* in a device: it has not happened */
    if (failed)
        m->cpu->halted = halted;
    m->cpu->nmi = failed;
    m->cpu->nmi_blocked = !failed;
    return status;
}

/* No CPU can go on: time passes at once up to the next tick that can wake CPU 0. False: nothing ever will. */
static bool skip_to_tick(struct machine *m)
{
    const struct cpu *first = m->cpus[0];
    if (!first->halted || !(first->eflags & EFLAGS_IF))
        return false;
    if (m->pc)
        return pc_skip(m);
    if (!m->timer_period)
        return false;
    u64 now = machine_now(m);
    for (u32 i = 0; i < m->cpu_count; i++)
        m->cpus[i]->tsc_offset += m->timer_next - now;
    m->timer_next = now;
    timer_tick(m);
    return true;
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
static int run_one(struct machine *m)
{
    struct cpu *cpu = m->cpu;
    bool tf = cpu->eflags & EFLAGS_TF;
    u32 held = cpu->db_pending, rf = cpu->eflags & EFLAGS_RF;
    u8 shadow = cpu->shadow;
    struct block *b = block_find_one(cpu);
    cpu->step_over = false;
    forget_exit(cpu);
    if (!b)
        return cpu->leave == LEAVE_FAULT ? deliver_fault(m) : STATUS_STOP;
    if (m->kprobes)
        kprobe_passing(m);
    cpu->shadow = 0;
    cpu->db_pending = 0;
    cpu->eflags &= ~EFLAGS_RF;
    cpu->one = true;
    execute(cpu, b->ops);
    cpu->one = false;
    forget_exit(cpu);
    cpu->until_fresh = false;
    bool again = undone(cpu);
    int status = after_execute(m, tf ? DR6_BS : 0, held);
    if (unlikely(again)) {
        cpu->shadow = shadow;
        cpu->eflags |= rf;
    }
    return status;
}

/* Run blocks until something needs attention or at most `most` instructions are done. */
static int run_blocks(struct machine *m, u64 most)
{
    struct cpu *cpu = m->cpu;
    struct block *b = block_find(cpu);
    if (!b)
        return cpu->leave == LEAVE_FAULT ? deliver_fault(m) : STATUS_STOP;
    code_link(cpu, b);
    cpu->eflags &= ~EFLAGS_RF;
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
        bool at_until = m->until_set && cpu->eip == m->until;
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
            return skip_to_tick(m) ? GO_ON : STOP_HALT;
        } else {
            u32 lin = cpu->seg[CS].base + cpu->eip;
            u32 breaks = cpu->code_breaks ? debug_code(cpu, lin) : 0;
            bool watched = cpu->code_breaks && watch_code(m, lin), told = cpu->eflags & EFLAGS_RF;
            if (unlikely(watched) && !told && watch_execution(m, lin))
                return GO_ON;
            u64 left = instructions_left(m, end);
            bool one = (cpu->eflags & EFLAGS_TF) || cpu->step_over || cpu->shadow || at_until || breaks ||
                       watched || left <= BLOCK_MAX_INSNS;
            if (breaks && !(cpu->eflags & EFLAGS_RF) && cpu->shadow != 2)
                status = debug_trap(m, breaks);
            else
                status = one ? run_one(m) : run_blocks(m, left);
        }
    }
    return unlikely(status == STATUS_STOP) ? cpu->stop : GO_ON;
}

static enum stop_reason run(struct machine *m, u64 end)
{
    for (u32 turns = 0;; turns++) {
        settle(m->cpu);
        if (unlikely(m->watches.pending)) {
            enum stop_reason reason = watch_tell(m);
            if (reason != STOP_NONE)
                return reason;
        }
        if (unlikely(turns >= RUN_TURNS))
            return STOP_NONE;
        int reason = turn(m, end);
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
    enum stop_reason reason = run(m, now + slice < now ? UINT64_MAX : now + slice);
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

int machine_interrupt(machine *m, int cpu, uint8_t vector)
{
    m->cpu->code_changed = true;    /* if a device's handler asks, the next instruction may be too late */
    return irq_push(&m->cpus[cpu]->irqs, vector) ? 0 : -1;
}

void machine_set_intr(machine *m, int level, int served)
{
    m->intr = level;
    m->intr_served = served;
    m->cpu->code_changed = true;
}

void machine_nmi(machine *m, int cpu)
{
    m->cpus[cpu]->nmi = true;
    m->cpu->code_changed = true;
}

void machine_set_timer(machine *m, uint8_t vector, uint64_t period)
{
    m->timer_vector = vector;
    m->timer_period = period;
    m->timer_next = machine_now(m) + period;
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
    cpu->halted = cpu->parked = cpu->step_over = false;
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
#ifdef LOOP_DISPATCH
#define DISPATCH_KIND "loop"
#else
#define DISPATCH_KIND "tail calls"
#endif
#ifdef __clang__
    return "clang " TEXT(__clang_major__) "." TEXT(__clang_minor__) ", dispatch by " DISPATCH_KIND;
#else
    return "gcc " TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__) ", dispatch by " DISPATCH_KIND;
#endif
}
