/* kprobe_group.c: several probes at one address. The first to be registered stands in the tables for all of them. */
#include <errno.h>

#include "kprobe.h"
#include "mmu.h"

bool kprobe_arm(struct machine *m, struct kprobe *p)
{
    bool bound = code_bind_probe(m, p->addr, true);

    if (!bound && (!kprobes_hidden(m->kprobes) || code_is_mapped(m, p->addr)))
        return false;
    p->armed = p->present = true;
    if (!kprobes_hidden(m->kprobes))
        code_write_probe(m, p->addr, BREAKPOINT_INSTRUCTION);
    return true;
}

void kprobe_disarm(struct machine *m, struct kprobe *p)
{
    if (!kprobes_hidden(m->kprobes))
        code_write_probe(m, p->addr, p->opcode);
    p->armed = p->present = false;
    if (!code_bind_probe(m, p->addr, false))
        code_drop_frames(m, 0, UINT32_MAX >> PAGE_SHIFT);  /* its page is not mapped here and now: any block may know it */
}

struct kprobe *kprobe_armed_at(const struct machine *m, u32 lin)
{
    struct kprobe *p = kprobe_at(m, lin);
    return p && p->armed ? p : NULL;
}

/* Breakpoint and blocks as the number of enabled probes wants them. */
static bool settle(struct machine *m, struct kprobe *first)
{
    if (first->enabled && !first->armed)
        return kprobe_arm(m, first);
    if (!first->enabled && first->armed)
        kprobe_disarm(m, first);
    return true;
}

bool kprobe_join(struct machine *m, struct kprobe *first, struct kprobe *p)
{
    struct kprobe *last = first->last_here;

    p->opcode = first->opcode;
    p->insn_opcode = first->insn_opcode;
    p->insn_length = first->insn_length;
    first->enabled++;
    if (!settle(m, first)) {
        first->enabled--;
        return false;
    }
    p->prev_here = last;
    last->next_here = first->last_here = p;
    p->registered = true;
    return true;
}

/* The next one stands for all from here on. */
static void succeed(struct machine *m, struct kprobe *p)
{
    struct kprobe *next = p->next_here;

    next->enabled = p->enabled;
    next->armed = p->armed;
    next->present = p->present;
    next->last_here = p->last_here;
    kprobe_replace(m->kprobes, p, next);
    if (next->armed)
        code_bind_probe(m, next->addr, true);   /* blocks may know the old one */
}

void kprobe_part(struct machine *m, struct kprobe *p)
{
    struct kprobe *first = kprobe_at(m, p->addr);

    if (!p->disabled)
        first->enabled--;
    if (p == first) {
        succeed(m, p);
        first = p->next_here;
    } else {
        p->prev_here->next_here = p->next_here;
    }
    if (p->next_here)
        p->next_here->prev_here = p->prev_here;
    else
        first->last_here = p->prev_here;
    p->registered = false;
    settle(m, first);
}

struct kprobe *kprobe_next_here(const struct machine *m, const struct kprobe *p, u32 number)
{
    struct kprobe *next;

    if (likely(p->registered && p->stats.number == number))
        return p->next_here;
    /* Its handler took it away, and perhaps others: numbers ascend. */
    for (next = kprobe_at(m, p->addr); next && next->stats.number <= number; next = next->next_here)
        ;
    return next;
}

int kprobe_enable(machine *m, int id, int on)
{
    struct kprobes *kp = m->kprobes;
    struct kprobe *p, *first;

    if (!kp || !kp->mends->validate)
        return -ENOSYS;
    if (id < 0 || (u32)id >= kp->ids || !kp->by_id[id]->registered)
        return -ENOENT;
    p = kp->by_id[id];
    if (p->disabled == !on)
        return 0;
    first = kprobe_at(m, p->addr);
    first->enabled += on ? 1 : -1;
    if (!settle(m, first)) {
        first->enabled--;
        return -ENOMEM;
    }
    p->disabled = !on;
    return 0;
}
