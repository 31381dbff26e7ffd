/* kretprobe.c: return probes: instances, the trampoline, and who is still alive. */
#include "kretprobe.h"

#include <errno.h>
#include <stdlib.h>

#include "action.h"
#include "execute.h"
#include "kernel.h"
#include "kprobe.h"
#include "mmu.h"
#include "op.h"

#define SMALL_STACK 8192u       /* stacks of a kernel's tasks: THREAD_SIZE of 2.5 */
#define POPPED_MAX 0xFFFFu      /* ret n */

struct kretprobe {
    struct kretprobe_stats stats;
    struct kretprobe_instance *pool, *free; /* all of them; the idle ones, through older */
    struct action **actions;
    const struct kept_field *kept;
    u32 kept_count;
    s32 id, kprobe;             /* kprobe: the id of the one at the entry */
    bool python;                /* there is a handler */
    bool gone;                  /* unregistered while instances were out */
};

struct kretprobes {
    struct kretprobe **by_id;   /* NULL where free */
    u32 ids;
    struct kretprobe_instance *live;    /* of all probes, newest first */
    const struct kretprobe_instance *returning; /* whose handlers run */
};

static u32 trampoline(const struct machine *m)
{
    return m->kernel->layout.trampoline;
}

static void free_probe(struct kretprobes *rps, struct kretprobe *rp)
{
    rps->by_id[rp->id] = NULL;
    free(rp->pool);
    free(rp);
}

void kretprobes_destroy(struct machine *m)
{
    struct kretprobes *rps = m->kretprobes;

    if (!rps)
        return;
    for (u32 i = 0; i < rps->ids; i++)
        if (rps->by_id[i])
            free_probe(rps, rps->by_id[i]);
    free(rps->by_id);
    free(rps);
    m->kretprobes = NULL;
}

static int take_id(struct kretprobes *rps)
{
    struct kretprobe **by_id;

    for (u32 i = 0; i < rps->ids; i++)
        if (!rps->by_id[i])
            return (int)i;
    by_id = realloc(rps->by_id, (rps->ids + 1) * sizeof *by_id);
    if (!by_id)
        return -ENOMEM;
    rps->by_id = by_id;
    by_id[rps->ids] = NULL;
    return (int)rps->ids++;
}

int kretprobe_create(machine *m, uint32_t maxactive, struct action **actions, const struct kept_field *kept,
                     uint32_t kept_count, int python)
{
    struct kretprobe *rp;
    int id;

    if (!m->kretprobes && !(m->kretprobes = calloc(1, sizeof *m->kretprobes)))
        return -ENOMEM;
    id = take_id(m->kretprobes);
    rp = id < 0 ? NULL : calloc(1, sizeof *rp);
    if (!rp || !(rp->pool = calloc(maxactive, sizeof *rp->pool))) {
        free(rp);
        return -ENOMEM;
    }
    rp->id = id;
    rp->kprobe = -1;
    rp->actions = actions;
    rp->kept = kept;
    rp->kept_count = kept_count;
    rp->python = python;
    for (u32 i = maxactive; i-- > 0;) {
        rp->pool[i] = (struct kretprobe_instance){.rp = rp, .number = i, .older = rp->free};
        rp->free = &rp->pool[i];
    }
    m->kretprobes->by_id[id] = rp;
    return id;
}

void kretprobe_bind(machine *m, int id, int kprobe)
{
    m->kretprobes->by_id[id]->kprobe = kprobe;
}

void kretprobe_destroy(machine *m, int id)
{
    struct kretprobe *rp = m->kretprobes->by_id[id];

    rp->gone = true;
    if (!rp->stats.active)
        free_probe(m->kretprobes, rp);
}

const struct kretprobe_stats *kretprobe_stats(machine *m, int id)
{
    return &m->kretprobes->by_id[id]->stats;
}

const struct kretprobe_instance *kretprobe_returning(machine *m)
{
    return m->kretprobes ? m->kretprobes->returning : NULL;
}

/* Instances. */

static void recycle(struct kretprobes *rps, struct kretprobe_instance *instance)
{
    struct kretprobe *rp = instance->rp;

    instance->older = rp->free;
    rp->free = instance;
    if (!--rp->stats.active && rp->gone)
        free_probe(rps, rp);
}

void kretprobes_forget(struct machine *m)
{
    struct kretprobes *rps = m->kretprobes;

    while (rps && rps->live) {
        struct kretprobe_instance *instance = rps->live;
        rps->live = instance->older;
        recycle(rps, instance);
    }
}

/* Which of the built-in kernel side's stacks holds an address; 0: none. */
static u32 stack_of(const struct machine *m, u32 lin)
{
    const struct kernel_layout *l = &m->kernel->layout;
    return lin >= l->stack_bottom && lin <= l->stack_top ? 1 + (l->stack_top - lin) / l->stack_stride : 0;
}

static bool same_stack(const struct machine *m, u32 a, u32 b)
{
    u32 stack = stack_of(m, a);
    return stack ? stack == stack_of(m, b) : (a ^ b) < SMALL_STACK;
}

/* Its return address is overwritten, or frames above it are gone: a longjmp, or a call that ended by a fault. */
static bool is_dead(struct machine *m, const struct kretprobe_instance *instance, u32 sp)
{
    u32 word;

    if (field_read(m, instance->slot, &word, 4) != 4 || word != trampoline(m))
        return true;
    return instance->slot < sp && same_stack(m, instance->slot, sp);
}

static void reclaim(struct machine *m, u32 sp)
{
    struct kretprobe_instance **link = &m->kretprobes->live;

    while (*link) {
        struct kretprobe_instance *instance = *link;
        if (is_dead(m, instance, sp)) {
            *link = instance->older;
            instance->rp->stats.abandoned++;
            recycle(m->kretprobes, instance);
        } else {
            link = &instance->older;
        }
    }
}

/* Entry. */

static void keep_fields(struct machine *m, struct kretprobe_instance *instance, const struct frame *f)
{
    const struct kretprobe *rp = instance->rp;

    instance->kept_faults = 0;
    for (u32 i = 0; i < rp->kept_count; i++) {
        const struct kept_field *field = &rp->kept[i];
        if (!field_value(m, field->program, f, &instance->kept[field->slot]))
            instance->kept_faults |= 1u << field->slot;
    }
}

static bool put_trampoline(struct machine *m, struct frame *f, u32 slot)
{
    u8 *host = tlb_host(m->cpu, slot, 4, ACCESS_WRITE | ACCESS_SYSTEM);
    u32 word = trampoline(m);

    if (likely(host))
        *(u32 *)(void *)host = word;
    else if (mmu_poke(m->cpu, slot, &word, 4) != 4)
        return false;
    if (f && !frame_is_user(f))
        f->regs.esp = word;     /* the slot is the word on top of the interrupted stack */
    return true;
}

static bool enter(struct machine *m, struct kretprobe *rp, struct frame *f, u32 probe)
{
    u32 slot = hit_sp(m, f);
    struct kretprobe_instance *instance;

    if (unlikely(!rp->free))
        reclaim(m, slot);
    instance = rp->free;
    if (!instance || field_read(m, slot, &instance->ret_addr, 4) != 4) {
        rp->stats.nmissed++;
        return false;
    }
    instance->slot = slot;
    instance->probe = probe;
    instance->entered = machine_now(m);
    if (rp->kept_count)
        keep_fields(m, instance, f);
    if (!put_trampoline(m, f, slot)) {
        rp->stats.nmissed++;
        return false;
    }
    rp->free = instance->older;
    rp->stats.active++;
    instance->older = m->kretprobes->live;
    m->kretprobes->live = instance;
    return true;
}

int kretprobe_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    a->count++;
    enter(m, m->kretprobes->by_id[a->state], f, probe);
    return ACTION_NEXT;
}

int kretprobe_ready(machine *m, int id)
{
    struct kretprobe *rp = m->kretprobes->by_id[id];
    struct frame *f = machine_frame(m);

    if (!rp->free && f)
        reclaim(m, f->sp);
    if (rp->free)
        return 1;
    rp->stats.nmissed++;
    return 0;
}

int kretprobe_enter(machine *m, int id, uint32_t probe)
{
    struct frame *f = machine_frame(m);
    return f && enter(m, m->kretprobes->by_id[id], f, probe) ? (int)m->kretprobes->live->number : -1;
}

/* Return. */

/* Who returned with this stack pointer: RET has popped the slot, and perhaps arguments behind it. */
static struct kretprobe_instance *returned(const struct machine *m, u32 sp)
{
    struct kretprobe_instance *found = NULL;

    for (struct kretprobe_instance *i = m->kretprobes->live; i; i = i->older) {
        u32 popped = sp - 4 - i->slot;
        if (!popped)
            return i;
        if (popped <= POPPED_MAX && (!found || i->slot > found->slot))
            found = i;
    }
    return found;
}

static struct kretprobe_instance *same_slot(const struct machine *m, u32 slot)
{
    struct kretprobe_instance *i = m->kretprobes->live;
    while (i && i->slot != slot)
        i = i->older;
    return i;
}

/* Take an instance out of the list, and those of frames below it, which cannot return any more. */
static void unlink_instance(struct machine *m, struct kretprobe_instance *instance)
{
    struct kretprobe_instance **link = &m->kretprobes->live;

    while (*link != instance) {
        struct kretprobe_instance *newer = *link;
        if (newer->slot < instance->slot && same_stack(m, newer->slot, instance->slot)) {
            *link = newer->older;
            newer->rp->stats.abandoned++;
            recycle(m->kretprobes, newer);
        } else {
            link = &newer->older;
        }
    }
    *link = instance->older;
}

/* The entry's probe counts as being hit meanwhile: what is hit inside the handler is a recursion. */
static bool call_python(struct machine *m, const struct kretprobe_instance *instance, struct frame *f)
{
    struct kprobe *p = m->kprobes->by_id[instance->rp->kprobe];
    bool held = kprobe_hold(m, p), raised;

    frame_lend(m, f);
    raised = machine_callback(m, CALLBACK_RETURN, instance->rp->id, instance->number) == CALLBACK_RAISED;
    frame_sync(m, f);
    if (held)
        kprobe_release(m);
    return raised;
}

/* An instance's actions and handler. Returns STOP_NONE or why the run ends. */
static enum stop_reason handle(struct machine *m, const struct kretprobe_instance *instance, struct live_frame **frame)
{
    struct kretprobes *rps = m->kretprobes;
    const struct kretprobe_instance *outer = rps->returning;
    struct kretprobe *rp = instance->rp;
    enum stop_reason reason = STOP_NONE;

    if (rp->gone)
        return STOP_NONE;
    rp->stats.hits++;
    rps->returning = instance;
    if (rp->actions && action_run(m, rp->actions, *frame ? &(*frame)->frame : NULL, instance->probe))
        reason = STOP_STOPPED;
    if (rp->python) {
        if (!*frame && (*frame = frame_begin(m)))
            frame_capture(m, *frame);
        if (!*frame)
            reason = STOP_MEMORY;
        else if (call_python(m, instance, &(*frame)->frame))
            reason = STOP_PYTHON;
    }
    rps->returning = outer;
    return reason;
}

/* The newest call returns to its caller, and nothing but actions runs: STATUS_JUMP or STATUS_STOP, else STATUS_NEXT with
 * nothing done. */
static __attribute__((noinline)) int return_newest(struct machine *m)
{
    struct cpu *cpu = m->cpu;
    struct kretprobes *rps = m->kretprobes;
    struct kretprobe_instance *instance = rps->live;
    struct live_frame *none = NULL;
    enum stop_reason reason;

    if (unlikely(!instance || instance->slot + 4 != cpu->gpr[ESP] || instance->rp->python || instance->rp->gone ||
                 instance->ret_addr == trampoline(m)))
        return STATUS_NEXT;
    rps->live = instance->older;
    reason = handle(m, instance, &none);
    cpu->eip = instance->ret_addr;
    recycle(rps, instance);
    return unlikely(reason != STOP_NONE) ? cpu_stop(cpu, (int)reason) : STATUS_JUMP;
}

/* The trampoline as an op. What return_newest does not do is left to the run loop, which comes to kretprobe_return. */
static void trampoline_hit(OP_PARAMS)
{
    const struct jump_entry *slot;
    int status;

    cpu->fl = (struct lazy_flags){res, a, kind};
    cpu->eip = trampoline(cpu->machine);
    status = return_newest(cpu->machine);
    if (unlikely(status == STATUS_STOP)) {
        leave(cpu, LEAVE_STOP, res, a, kind);
        return;
    }
    slot = JUMP_SLOT(cpu, cpu->eip);
    if (unlikely(status == STATUS_NEXT || slot->key != ((u64)cpu->mode << 32 | cpu->eip)))
        return leave_indirect(OP_ARGS);
    DISPATCH(slot->ops, res, a, kind);
}

/* RET finds the trampoline where it finds blocks. What makes the kernel side serve it is in the key, or empties the cache. */
static void cache_trampoline(struct machine *m)
{
    static const struct op ops[] = {{.fn = trampoline_hit}};
    struct cpu *cpu = m->cpu;

    if (cpu->mode & MODE_FLAT_CS && cpu->mode & MODE_STACK32 && cpu->mode & MODE_FLAT)
        *JUMP_SLOT(cpu, trampoline(m)) = (struct jump_entry){(u64)cpu->mode << 32 | trampoline(m), ops};
}

int kretprobe_return(struct machine *m)
{
    struct cpu *cpu = m->cpu;
    struct kretprobes *rps = m->kretprobes;
    struct kretprobe_instance *instance = rps ? returned(m, cpu->gpr[ESP]) : NULL;
    struct live_frame *frame = NULL;
    enum stop_reason reason = STOP_NONE;
    u32 ret_addr;

    if (!instance)
        return STATUS_NEXT;
    cache_trampoline(m);
    do {
        u32 slot = instance->slot;
        ret_addr = instance->ret_addr;
        unlink_instance(m, instance);
        enum stop_reason asked = handle(m, instance, &frame);
        if (asked != STOP_NONE && reason != STOP_PYTHON)
            reason = asked;
        recycle(rps, instance);
        instance = ret_addr == trampoline(m) ? same_slot(m, slot) : NULL;
    } while (instance);
    if (frame) {
        if (frame->frame.regs.eip == trampoline(m))
            frame->frame.regs.eip = ret_addr;
        frame_write_back(m, frame);
        frame_end(m);
    } else {
        cpu->eip = ret_addr;
    }
    return reason == STOP_NONE ? STATUS_JUMP : cpu_stop(cpu, (int)reason);
}

bool kretprobe_kept(const struct machine *m, unsigned slot, u64 *ret)
{
    const struct kretprobe_instance *instance = m->kretprobes ? m->kretprobes->returning : NULL;

    if (!instance || instance->kept_faults >> slot & 1)
        return false;
    *ret = instance->kept[slot];
    return true;
}

u64 kretprobe_latency(const struct machine *m)
{
    const struct kretprobe_instance *instance = m->kretprobes ? m->kretprobes->returning : NULL;
    return instance ? machine_now(m) - instance->entered : 0;
}
