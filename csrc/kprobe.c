/* kprobe.c: the trap side of the patch, arch/i386/kernel/traps.c. */
#include "kprobe.h"

#include <string.h>

#include "action.h"
#include "gate.h"
#include "kernel.h"
#include "mmu.h"
#include "trap.h"

#define STEP_FLAGS (EFLAGS_TF | EFLAGS_IF)
/* Offsets in a TSS; TF and IF are in the lower half of the flags. */
#define TSS16_FLAGS 0x10u
#define TSS32_EFLAGS 0x24u

/* Python's handlers. */

static int call_python(struct machine *m, struct kprobe *p, int kind, u32 arg, struct frame *f)
{
    int result;

    frame_lend(m, f);
    result = machine_callback(m, kind, p->id, arg);
    frame_sync(m, f);
    return result;
}

/* The kernel itself faults: an oops. */
static int oops(struct machine *m, u32 address)
{
    m->stop.vector = T_PGFLT;
    m->stop.error_code = 0;
    m->stop.address = address;
    return -STOP_TRAP;
}

/* pre_handler is called without a null test. That page fault can only be retried for ever if a handler claims it. */
static int call_null(struct machine *m, struct frame *f)
{
    int claimed = kprobe_fault(m, f, T_PGFLT);
    if (claimed < 0)
        return claimed;
    return claimed ? -STOP_LOOP : oops(m, 0);
}

static int call_pre(struct machine *m, struct kprobe *p, struct frame *f)
{
    bool stop;

    p->stats.hits++;
    stop = p->actions && action_run(m, p->actions, f, p->stats.number);
    if (p->handlers & PROBE_PRE) {
        frame_lend(m, f);
        m->config.pre(m->config.tag, p->id);
        frame_sync(m, f);
        if (m->stop_asked)
            return -STOP_PYTHON;
    } else if (!p->actions && !m->kprobes->mends->null_pre_handler) {
        return call_null(m, f);
    }
    return stop ? -STOP_STOPPED : 0;
}

/* All probes of an address, those that are registered meanwhile not. Where one lets execution go on elsewhere, it goes,
 * and where one ends the run the others run first. */
static COLD int call_each_pre(struct machine *m, struct kprobe *p, struct frame *f)
{
    struct kprobe_context *c = kprobe_context(m);
    u32 end = c->now.end, eip = f->regs.eip;
    int result = 0;

    while (p && p->stats.number < end && f->regs.eip == eip) {
        struct kprobe *now = p;
        u32 number = now->stats.number;
        int asked = 0;

        kprobe_pin(now);
        c->now.handled = now;
        if (!now->disabled)
            asked = call_pre(m, now, f);
        c->now.handled = NULL;
        if (result != -STOP_PYTHON && asked)
            result = asked;
        p = kprobe_next_here(m, now, number);
        kprobe_unpin(m->kprobes, now);
    }
    return result;
}

static int call_post(struct machine *m, struct kprobe *p, struct frame *f)
{
    if (p->handlers & PROBE_POST && p->registered && !p->disabled)
        return call_python(m, p, CALLBACK_POST, 0, f);
    return 0;
}

static COLD int call_each_post(struct machine *m, struct kprobe *p, struct frame *f)
{
    struct kprobe_context *c = kprobe_context(m);
    u32 end = c->now.end;
    int result = 0;

    while (p && p->stats.number < end) {
        struct kprobe *now = p;
        u32 number = now->stats.number;

        kprobe_pin(now);
        c->now.handled = now;
        if (call_post(m, now, f) == CALLBACK_RAISED)
            result = CALLBACK_RAISED;
        c->now.handled = NULL;
        p = kprobe_next_here(m, now, number);
        kprobe_unpin(m->kprobes, now);
    }
    return result;
}

/* The lock and the hit that runs. */

static void begin_hit(struct machine *m, struct kprobe *p, u32 status, u32 eflags)
{
    if (kprobes_hidden(m->kprobes))
        kprobe_look_again(m, p);
    kprobe_context(m)->now = (struct kprobe_hit){
        .running = p, .end = m->kprobes->numbers, .shared = p->next_here, .status = status,
        .old_eflags = eflags & STEP_FLAGS, .saved_eflags = eflags & STEP_FLAGS, .task = m->cpu->seg[TR],
    };
    kprobe_pin(p);
}

static void unlock(struct machine *m)
{
    m->kprobes->lock = KPROBE_NO_CPU;
}

/* In "fixed" the hit that was interrupted goes on; else kprobe_cpu is free. The lock is still to be released. */
static void end_hit(struct machine *m)
{
    struct kprobe_context *c = kprobe_context(m);
    struct kprobe *p = c->now.running;

    if (c->nested) {
        c->now = c->outer[--c->nested];
    } else {
        c->cpu = KPROBE_NO_CPU;
    }
    if (p->pins)                /* a fault in 2.5.26's post_handler has ended the hit already */
        kprobe_unpin(m->kprobes, p);
}

/* The CPU's own hit begins. */
static void take(struct machine *m)
{
    s32 cpu = (s32)m->cpu->index;
    m->cpu->plain_hits = false;
    kprobe_context(m)->cpu = cpu;
    if (!m->kprobes->mends->hit_of_cpu)
        m->kprobes->lock = cpu;
}

bool kprobe_hold(struct machine *m, struct kprobe *p)
{
    struct kprobe_context *c = kprobe_context(m);

    if (kprobe_running(m)) {
        if (c->nested == KPROBE_NESTING)
            return false;
        c->outer[c->nested++] = c->now;
    }
    take(m);
    begin_hit(m, p, KPROBE_HIT_ACTIVE, 0);
    return true;
}

void kprobe_release(struct machine *m)
{
    end_hit(m);
    if (!kprobe_running(m))
        unlock(m);
}

static struct moment moment_now(const struct machine *m, const struct kprobe *p)
{
    return (struct moment){true, p->addr, cpu_icount(m->cpu)};
}

static bool is_now(const struct machine *m, const struct kprobe *p, const struct moment *moment)
{
    return moment->set && moment->lin == p->addr && moment->icount == cpu_icount(m->cpu);
}

/* A run that stopped at the probe point has had its hit: going on from there steps the instruction. */
static bool take_resume(struct machine *m, const struct kprobe *p)
{
    bool same = is_now(m, p, &m->cpu->probe_resume);
    m->cpu->probe_resume.set = false;
    return same;
}

static void count_miss(struct machine *m, struct kprobe *p, enum miss_cause cause)
{
    p->stats.misses[cause]++;
    p->stats.nmissed++;
    m->cpu->probe_missed = moment_now(m, p);
}

static void count_misses(struct machine *m, struct kprobe *first, enum miss_cause cause)
{
    for (struct kprobe *p = first; p; p = p->next_here)
        if (!p->disabled)
            count_miss(m, p, cause);
}

/* The first of the probes whose hit runs, NULL if handlers took all of them away. */
static struct kprobe *still_there(const struct machine *m)
{
    const struct kprobe_hit *hit = &kprobe_context(m)->now;
    if (likely(hit->running->registered))
        return hit->running;
    return hit->shared ? kprobe_at(m, hit->running->addr) : NULL;
}

static bool still_armed(const struct machine *m)
{
    const struct kprobe *p = still_there(m);
    return p && p->armed;
}

/* Vectors 1 and 3 are interrupt gates now: what the old handlers expect. */
static void restore_interrupts(struct machine *m, const struct frame *f)
{
    m->cpu->eflags |= f->regs.eflags & EFLAGS_IF;
}

/* cli, sti, iret, popf */
static bool is_if_modifier(const struct kprobe *p)
{
    return memchr("\xFA\xFB\xCF\x9D", p->insn_opcode, 4);
}

static bool is_pushf(const struct kprobe *p)
{
    return p->insn_opcode == 0x9C;
}

/* Trap 3. */

/* The breakpoint's linear address. The patch takes eip for it, whatever the code segment's base is. */
static u32 trap_address(struct machine *m, const struct frame *f)
{
    struct cpu *cpu = m->cpu;
    u32 desc[2];
    struct segment cs;

    if (!m->kprobes->mends->skip_user || f->regs.cs == KERNEL_CS)
        return f->regs.eip - 1;
    if (!protected_mode(cpu) || descriptor_lookup(cpu, (u16)f->regs.cs, desc) != LOOKUP_FOUND)
        return ((f->regs.cs & 0xFFFF) << 4) + f->regs.eip - 1;
    segment_from_descriptor(&cs, (u16)f->regs.cs, desc);
    return cs.base + f->regs.eip - 1;
}

static void disarm(struct machine *m, const struct kprobe *p, struct frame *f, u32 eip)
{
    if (!m->kprobes->copies)
        kprobe_put(m, p, false);
    f->regs.eip = eip;
}

static void begin_step(struct machine *m, struct kprobe *p, struct frame *f, u32 eip)
{
    f->regs.eflags = (f->regs.eflags | EFLAGS_TF) & ~EFLAGS_IF;
    disarm(m, p, f, eip);
}

/* Does INT 3 in two bytes end at addr? */
static bool is_long_int3(struct machine *m, u32 addr)
{
    const struct kprobe *p = kprobe_at(m, addr - 1);
    u8 bytes[2];

    if (mmu_peek(m->cpu, addr - 1, bytes, 2) != 2)
        return false;
    return (p ? p->opcode : bytes[0]) == 0xCD && bytes[1] == T_BRKPT;
}

/* A trap at an address without a probe: removed after the hit, or not a probe's breakpoint at all. */
static int unknown_trap(struct machine *m, struct frame *f, u32 addr)
{
    const struct kprobe_semantics *mends = m->kprobes->mends;
    u8 byte;

    if (mmu_peek(m->cpu, addr, &byte, 1) != 1)
        return mends->skip_user ? 0 : oops(m, addr);
    if (byte == BREAKPOINT_INSTRUCTION || (mends->deliver_cd03 && is_long_int3(m, addr))) {
        restore_interrupts(m, f);
        return 0;
    }
    if (mends->back_up_eip)
        f->regs.eip--;
    return 1;
}

/* A probe inside a hit. Fixed: stepped without its handlers, and counted. 2.5.26: disarmed for good, unless the byte
 * that comes back is a breakpoint: then it would trap here for ever. */
static int nested_hit(struct machine *m, struct kprobe *p, struct frame *f)
{
    struct kprobe_context *c = kprobe_context(m);
    u32 eip = f->regs.eip - 1;

    count_misses(m, p, MISS_RECURSION);
    if (!m->kprobes->mends->step_nested || c->nested == KPROBE_NESTING) {
        if (p->opcode == BREAKPOINT_INSTRUCTION)
            return -STOP_LOOP;
        disarm(m, p, f, eip);
        return 1;
    }
    c->outer[c->nested++] = c->now;
    begin_hit(m, p, KPROBE_REENTER, f->regs.eflags);
    c->now.dr6 = m->cpu->dr[6] & DR6_BS;
    m->cpu->dr[6] &= ~DR6_BS;
    if (is_if_modifier(p))
        c->now.saved_eflags &= ~EFLAGS_IF;
    begin_step(m, p, f, eip);
    return 1;
}

static int first_hit(struct machine *m, struct kprobe *p, struct frame *f)
{
    struct kprobe_context *c = kprobe_context(m);
    u32 trap_eip = f->regs.eip;
    int result = 0;

    take(m);
    begin_hit(m, p, KPROBE_HIT_ACTIVE, f->regs.eflags);
    if (is_if_modifier(p))
        c->now.saved_eflags &= ~EFLAGS_IF;
    if (!take_resume(m, p))
        result = likely(!p->next_here) ? call_pre(m, p, f) : call_each_pre(m, p, f);
    if (result == -STOP_TRAP || result == -STOP_LOOP) {
        f->regs.eip = trap_eip - 1;
        return result;          /* the lock stays held, as after the kernel's oops */
    }
    if (m->kprobes->mends->pre_may_jump && f->regs.eip != trap_eip) {
        end_hit(m);
        return result ? result : 1;
    }
    if (result || !still_armed(m)) {
        if (still_armed(m))
            m->cpu->probe_resume = moment_now(m, p);
        f->regs.eip = trap_eip - 1;
        end_hit(m);
        unlock(m);
        return result ? result : 1;
    }
    if (kprobe_needs_no_step(m, p, f)) {
        f->regs.eip = trap_eip - 1;
        end_hit(m);
        unlock(m);
        return 1;
    }
    begin_step(m, p, f, trap_eip - 1);
    c->now.status = KPROBE_HIT_SS;
    return 1;
}

int kprobe_handler(struct machine *m, struct frame *f)
{
    struct kprobes *kp = m->kprobes;
    struct kprobe *p;
    u32 addr;

    if (kp->mends->skip_user && frame_is_user(f)) {
        restore_interrupts(m, f);
        return 0;
    }
    addr = trap_address(m, f);
    p = kprobe_armed_at(m, addr);
    if (kprobe_running(m)) {
        if (p)
            return nested_hit(m, p, f);
        return kp->mends->restore_interrupts ? unknown_trap(m, f, addr) : 0;
    }
    if (p)
        return first_hit(m, p, f);
    unlock(m);
    return unknown_trap(m, f, addr);
}

int do_int3(struct machine *m, struct frame *f)
{
    int claimed;

    if (!m->kprobes)
        return 0;
    claimed = kprobe_handler(m, f);
    return claimed || f->regs.eflags & EFLAGS_VM ? claimed : kprobe_fault(m, f, T_BRKPT);
}

/* Trap 1. */

/* Breakpoint back in memory. A probe that a handler unregistered or disabled stays away, unless nobody looks. */
static void rearm(struct machine *m, const struct kprobe *p, struct frame *f)
{
    f->regs.eflags &= ~EFLAGS_TF;
    if (!m->kprobes->copies && (still_armed(m) || !m->kprobes->mends->validate))
        kprobe_put(m, p, true);
}

/* The instruction switched tasks: the step's flags went into the old task's TSS (SDM vol. 3, figures 7-2 and 7-10), and
 * the new task's are its own. */
static bool mend_task(struct machine *m)
{
    const struct kprobe_hit *hit = &kprobe_context(m)->now;
    bool wide = SEG_TYPE(hit->task.attr) & TYPE_WIDE;
    u32 at = hit->task.base + (wide ? TSS32_EFLAGS : TSS16_FLAGS), image = 0;

    if (!m->kprobes->mends->fix_image || hit->task.selector == m->cpu->seg[TR].selector)
        return false;
    if (mmu_peek(m->cpu, at, &image, 2) == 2) {
        image = (image & ~STEP_FLAGS) | hit->old_eflags;
        mmu_poke(m->cpu, at, &image, 2);
    }
    return true;
}

/* The step is over: images of the flags, and the flags, as if there had been none. */
static void finish_step(struct machine *m, struct frame *f)
{
    const struct kprobe_hit *hit = &kprobe_context(m)->now;
    u32 own = f->regs.eflags;

    if (is_pushf(hit->running)) {
        f->regs.esp &= ~STEP_FLAGS;
        f->regs.esp |= hit->old_eflags;
    }
    rearm(m, hit->running, f);
    if (mend_task(m))
        f->regs.eflags = own;
    else
        f->regs.eflags |= hit->saved_eflags;
    end_hit(m);
}

/* Is spin_unlock a step of its own? Then an NMI can come before it. */
static bool unlocks_later(const struct machine *m, const struct frame *f)
{
    return kprobe_holds(m) && frame_is_on_stack(f);
}

int post_kprobe_handler(struct machine *m, struct frame *f)
{
    struct kprobe_hit *hit = &kprobe_context(m)->now;
    bool raised = false, stepped = hit->saved_eflags & EFLAGS_TF;
    struct kprobe *p = still_there(m);

    if (hit->status != KPROBE_REENTER && p && (p->handlers & PROBE_POST || p->next_here)) {
        if (m->kprobes->mends->step_done)
            hit->status = KPROBE_HIT_SSDONE;
        raised = (p->next_here ? call_each_post : call_post)(m, p, f) == CALLBACK_RAISED;
    }
    finish_step(m, f);
    if (!raised && unlocks_later(m, f))
        return 1;
    unlock(m);
    if (raised)
        return -STOP_PYTHON;
    /* Somebody else is stepping here: the rest of do_debug must see it. */
    if (stepped) {
        restore_interrupts(m, f);
        return 0;
    }
    return 1;
}

/* The hook at the top, where nothing can hide a step from it. */
static int debug_fixed(struct machine *m, struct frame *f)
{
    struct cpu *cpu = m->cpu;
    u32 condition = cpu->dr[6];
    int claimed = 0;

    if (condition & DR6_BS && kprobe_stepping(m)) {
        cpu->dr[6] = (condition & ~DR6_BS) | kprobe_context(m)->now.dr6;
        claimed = post_kprobe_handler(m, f);
    }
    if (claimed < 0 || (claimed && !(condition & DR6_BREAKS)))
        return claimed;
    restore_interrupts(m, f);
    return 0;
}

/* The hook behind the lazy-DR7 filter. There are no tasks here that could own DR7: what it holds while a probe is
 * stepped counts as left over. */
int do_debug(struct machine *m, struct frame *f)
{
    struct cpu *cpu = m->cpu;
    struct kprobes *kp = m->kprobes;

    if (!kp)
        return 0;
    if (kp->mends->debug_hook_first)
        return debug_fixed(m, f);
    if (cpu->dr[6] & DR6_BREAKS && kprobe_running(m)) {
        cpu_write_debug(cpu, 7, 0);
        return 1;
    }
    if (!(f->regs.eflags & EFLAGS_VM) && cpu->dr[6] & DR6_BS && kprobe_running(m))
        return post_kprobe_handler(m, f);
    return 0;
}

/* SDM vol. 3, 6.12.1.3: a gate clears TF and saves it, so the step of INT n ends only when its handler returns, with
 * the step's flags in the image. Mended: the step ends at the entry. */
int kprobe_entered(struct machine *m, struct frame *f, bool by_int)
{
    struct kprobes *kp = m->kprobes;
    const struct kprobe *p;

    if (likely(!kp || !by_int || !kp->mends->fix_image || !kprobe_stepping(m)))
        return 0;
    p = kprobe_context(m)->now.running;
    if (!p->insn_length || !(f->regs.eflags & EFLAGS_TF) || trap_address(m, f) + 1 != p->addr + p->insn_length)
        return 0;
    return post_kprobe_handler(m, f);
}

/* Faults. */

/* The step did not happen: the instruction is restarted, and hit again. */
static void abandon_step(struct machine *m, struct frame *f)
{
    const struct kprobe_hit *hit = &kprobe_context(m)->now;

    rearm(m, hit->running, f);
    f->regs.eflags |= hit->old_eflags;
    for (struct kprobe *p = still_there(m); p; p = p->next_here)
        p->stats.misses[MISS_FAULT_RESTART] += !p->disabled;
    end_hit(m);
    unlock(m);
}

/* The fault_handler of the probe whose handler runs; while the instruction is stepped all of them, until one claims. */
static int call_fault(struct machine *m, int trapnr, struct frame *f)
{
    const struct kprobe_hit *hit = &kprobe_context(m)->now;
    struct kprobe *p = hit->handled, *next;
    bool all = !p;
    u32 end = hit->end;
    int handled = 0;

    p = all ? still_there(m) : p->registered ? p : NULL;
    for (; p && !handled && p->stats.number < end; p = next) {
        u32 number = p->stats.number;
        kprobe_pin(p);
        if (p->handlers & PROBE_FAULT && !p->disabled)
            handled = call_python(m, p, CALLBACK_FAULT, (u32)trapnr, f);
        next = all ? kprobe_next_here(m, p, number) : NULL;
        kprobe_unpin(m->kprobes, p);
    }
    return handled;
}

int kprobe_fault(struct machine *m, struct frame *f, int trapnr)
{
    const struct kprobe_hit *hit;
    int result = 0, handled;

    if (!m->kprobes || !kprobe_running(m))
        return 0;
    hit = &kprobe_context(m)->now;
    while (hit->status == KPROBE_REENTER)
        abandon_step(m, f);
    handled = call_fault(m, trapnr, f);
    if (handled == CALLBACK_RAISED)
        result = -STOP_PYTHON;
    else if (handled)
        return 1;
    if (hit->status & KPROBE_HIT_SS)
        abandon_step(m, f);
    return result;
}

void kprobe_passing(struct machine *m)
{
    u32 lin = m->cpu->seg[CS].base + m->cpu->eip;
    struct kprobe *p;

    if (kprobe_running(m) && kprobe_context(m)->now.running->addr == lin)
        return;
    if (m->cpu->boosted && m->cpu->boosted_at == lin)
        return;
    p = kprobe_armed_at(m, lin);
    if (p && !kprobe_in_place(m, lin, code_read_probe(m, lin)) && !is_now(m, p, &m->cpu->probe_missed))
        count_misses(m, p, MISS_DISARMED);
}
