/* kprobe_hidden.c: probes of which the guest sees nothing, on a PC's board. */
#include "kprobe.h"

#include <stdlib.h>

#define NO_ID (-1)

static s32 *head(const struct kprobes *kp, u32 lin)
{
    return &kp->pages[(lin >> PAGE_SHIFT) % KPROBE_PAGES];
}

bool kprobes_hide(struct kprobes *kp)
{
    kp->pages = malloc(KPROBE_PAGES * sizeof *kp->pages);
    for (u32 i = 0; kp->pages && i < KPROBE_PAGES; i++)
        kp->pages[i] = NO_ID;
    return kp->pages;
}

void kprobe_hidden_add(struct kprobes *kp, struct kprobe *p)
{
    if (!kprobes_hidden(kp))
        return;
    p->page_next = *head(kp, p->addr);
    *head(kp, p->addr) = p->id;
}

void kprobe_hidden_replace(struct kprobes *kp, const struct kprobe *p, struct kprobe *next)
{
    s32 *at;

    if (!kprobes_hidden(kp))
        return;
    at = head(kp, p->addr);
    while (*at != p->id)
        at = &kp->by_id[*at]->page_next;
    *at = next ? next->id : p->page_next;
    if (next)
        next->page_next = p->page_next;
}

bool kprobe_in_place(const struct machine *m, u32 lin, u8 byte)
{
    const struct kprobe *p;

    if (likely(!kprobes_hidden(m->kprobes)))
        return byte == BREAKPOINT_INSTRUCTION;
    p = kprobe_at(m, lin);
    return p && p->present;
}

void kprobe_put(struct machine *m, const struct kprobe *p, bool there)
{
    struct kprobe *first;

    if (likely(!kprobes_hidden(m->kprobes))) {
        kprobe_write(m, p->addr, there ? BREAKPOINT_INSTRUCTION : p->opcode);
        return;
    }
    first = kprobe_at(m, p->addr);
    if (first)
        first->present = there;
}

void kprobe_page_fetched(struct machine *m, u32 lin)
{
    const struct kprobes *kp = m->kprobes;

    for (s32 id = *head(kp, lin); id != NO_ID; id = kp->by_id[id]->page_next)
        if ((kp->by_id[id]->addr ^ lin) >> PAGE_SHIFT == 0 && kp->by_id[id]->armed)
            code_bind_probe(m, kp->by_id[id]->addr, true);
}

void kprobe_look_again(struct machine *m, struct kprobe *p)
{
    p->opcode = code_read_probe(m, p->addr);
    kprobe_classify(m, p, p->opcode);
}
