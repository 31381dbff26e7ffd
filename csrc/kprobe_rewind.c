/* kprobe_rewind.c: the hits that are running as plain data, and back. */
#include <stdlib.h>

#include "kprobe.h"

static u32 contexts(const struct machine *m)
{
    return m->kprobes->mends->hit_of_cpu ? m->cpu_count : 1;
}

/* How many hits a context has, and each of them, the outermost first. */
static u32 hits(const struct kprobe_context *c)
{
    return c->cpu == KPROBE_NO_CPU ? 0 : c->nested + 1;
}
static struct kprobe_hit *hit_of(struct kprobe_context *c, u32 i)
{
    return i < c->nested ? &c->outer[i] : &c->now;
}

static bool room_for(struct kprobe_capture *c, u32 count)
{
    if (count <= c->room)
        return true;
    struct kprobe_hit_capture *all = realloc(c->hits, count * sizeof(*all));
    if (!all)
        return false;
    c->hits = all;
    c->room = count;
    return true;
}

bool kprobes_capture(const struct machine *m, struct kprobe_capture *ret)
{
    const struct kprobes *kp = m->kprobes;

    ret->lock = kp->lock;
    ret->count = 0;
    for (u32 k = 0; k < contexts(m); k++) {
        struct kprobe_context *c = &kp->contexts[k];
        ret->cpu[k] = c->cpu;
        if (!room_for(ret, ret->count + hits(c)))
            return false;
        for (u32 i = 0; i < hits(c); i++) {
            const struct kprobe_hit *hit = hit_of(c, i);
            struct kprobe_hit_capture *to = &ret->hits[ret->count++];
            *to = (struct kprobe_hit_capture){hit->running->addr, k, *hit};
            to->hit.running = NULL;
        }
    }
    return true;
}

void kprobe_capture_deinit(struct kprobe_capture *c)
{
    free(c->hits);
}

void kprobes_release(struct machine *m)
{
    struct kprobes *kp = m->kprobes;

    for (u32 k = 0; k < contexts(m); k++) {
        struct kprobe_context *c = &kp->contexts[k];
        for (u32 i = 0; i < hits(c); i++)
            if (hit_of(c, i)->running->pins)
                kprobe_unpin(kp, hit_of(c, i)->running);
        c->cpu = KPROBE_NO_CPU;
        c->nested = 0;
    }
    kp->lock = KPROBE_NO_CPU;
    for (u32 i = 0; i < kp->ids; i++)
        kp->by_id[i]->present = kp->by_id[i]->armed;
}

bool kprobes_rewind(struct machine *m, const struct kprobe_capture *c)
{
    struct kprobes *kp = m->kprobes;

    for (u32 i = 0; i < c->count; i++)
        if (!kprobe_at(m, c->hits[i].addr))
            return false;
    kp->lock = c->lock;
    for (u32 k = 0; k < contexts(m); k++)
        kp->contexts[k].cpu = c->cpu[k];
    for (u32 i = 0; i < c->count; i++) {
        struct kprobe_context *context = &kp->contexts[c->hits[i].context];
        bool innermost = i + 1 == c->count || c->hits[i + 1].context != c->hits[i].context;
        struct kprobe_hit *hit = innermost ? &context->now : &context->outer[context->nested++];
        *hit = c->hits[i].hit;
        hit->running = kprobe_at(m, c->hits[i].addr);
        hit->running->present &= !(hit->status & (KPROBE_HIT_SS | KPROBE_REENTER));
        kprobe_pin(hit->running);
    }
    return true;
}

bool kprobe_resumes(const struct machine *m, u32 *ret_addr)
{
    const struct moment *resume = &m->cpu->probe_resume;

    if (!resume->set || resume->icount != cpu_icount(m->cpu))
        return false;
    *ret_addr = resume->lin;
    return true;
}

void kprobe_resume_at(struct machine *m, u32 addr)
{
    m->cpu->probe_resume = (struct moment){true, addr, cpu_icount(m->cpu)};
}
