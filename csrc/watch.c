/* watch.c: the list of watchpoints, and telling who watches. */
#include "watch.h"

#include <stdlib.h>
#include <string.h>

#include "action.h"
#include "debug.h"

void watches_deinit(struct watches *w)
{
    free(w->list);
    free(w->events);
}

static bool overlaps(const struct watch *w, u32 address, u32 size)
{
    return address - w->first <= w->last - w->first || w->first - address < size;
}

u32 watch_page(const struct machine *m, u32 lin)
{
    u32 kinds = 0;
    for (u32 i = 0; i < m->watches.count; i++)
        if (overlaps(&m->watches.list[i], lin & ~PAGE_MASK, PAGE_SIZE))
            kinds |= m->watches.list[i].kinds;
    return kinds;
}

static bool event_room(struct machine *m)
{
    struct watches *w = &m->watches;
    if (w->pending < w->space)
        return true;
    u32 space = w->space ? 2 * w->space : 16;
    struct watch_event *events = realloc(w->events, space * sizeof(*events));
    if (!events) {
        m->mem.exhausted = true;
        return false;
    }
    w->events = events;
    w->space = space;
    return true;
}

void watch_access(struct cpu *cpu, u32 kind, u32 address, u32 size, u32 value)
{
    struct watches *w = &cpu->machine->watches;
    if (likely(!(w->kinds & kind)))
        return;
    for (u32 i = 0; i < w->count; i++) {
        if (!(w->list[i].kinds & kind) || !overlaps(&w->list[i], address, size))
            continue;
        cpu->code_changed = true;   /* the block is left behind this instruction */
        if (!event_room(cpu->machine))
            return;
        w->events[w->pending++] = (struct watch_event){w->list[i].id, (s32)kind, address, size, value, cpu->eip};
    }
}

bool watch_code(const struct machine *m, u32 lin)
{
    for (u32 i = 0; i < m->watches.count; i++)
        if (m->watches.list[i].kinds & WATCH_EXECUTE && overlaps(&m->watches.list[i], lin, 1))
            return true;
    return false;
}

bool watch_execution(struct machine *m, u32 lin)
{
    struct cpu *cpu = m->cpu;
    struct moment *passed = &cpu->watch_passed;
    if (passed->set && passed->lin == lin && passed->icount == cpu->icount)
        return false;
    *passed = (struct moment){true, lin, cpu->icount};
    watch_access(cpu, WATCH_EXECUTE, lin, 1, 0);
    return true;
}

/* --- telling ---------------------------------------------------------------------------------------------- */

static struct watch *find(struct machine *m, s32 id)
{
    for (u32 i = 0; i < m->watches.count; i++)
        if (m->watches.list[i].id == id)
            return &m->watches.list[i];
    return NULL;
}

static enum stop_reason run_actions(struct machine *m, struct action **actions, u32 id)
{
    struct live_frame *lf = frame_begin(m);
    if (!lf)
        return STOP_MEMORY;
    frame_capture(m, lf);
    bool stop = action_run(m, actions, &lf->frame, id);
    frame_end(m);
    return stop ? STOP_STOPPED : STOP_NONE;
}

static enum stop_reason tell(struct machine *m, const struct watch_event *event)
{
    struct watch *w = find(m, event->id);
    enum stop_reason reason = STOP_NONE;
    if (!w)
        return reason;          /* an earlier handler took it away */
    w->hits++;
    m->watches.now = *event;
    bool python = w->python;
    if (w->actions)
        reason = run_actions(m, w->actions, (u32)w->id);
    u32 hidden = m->frames.hidden;
    m->frames.hidden = m->frames.used;
    if (python && machine_callback(m, CALLBACK_WATCH, event->id, 0) < 0)
        reason = STOP_PYTHON;
    m->frames.hidden = hidden;
    return reason;
}

/* Those that were not told because a handler ended the run come first in the next one. */
static void put_back(struct machine *m, struct watch_event *events, u32 count, u32 space)
{
    struct watches *w = &m->watches;
    free(w->events);            /* runs inside handlers have told all of theirs */
    w->events = events;
    w->pending = count;
    w->space = space;
}

enum stop_reason watch_tell(struct machine *m)
{
    struct watches *w = &m->watches;
    struct watch_event *events = w->events;
    u32 count = w->pending, space = w->space, told = 0;
    enum stop_reason reason = STOP_NONE;

    w->events = NULL;
    w->pending = w->space = 0;
    while (told < count && reason != STOP_PYTHON) {
        enum stop_reason asked = tell(m, &events[told++]);
        reason = asked != STOP_NONE ? asked : reason;
    }
    memmove(events, events + told, (count - told) * sizeof(*events));
    put_back(m, events, count - told, space);
    return reason;
}

/* --- what Python asks ------------------------------------------------------------------------------------- */

/* TLB entries and blocks know nothing of a new watch, and too much of an old one. */
static void changed(struct machine *m)
{
    struct watches *w = &m->watches;
    w->kinds = 0;
    for (u32 i = 0; i < w->count; i++)
        w->kinds |= w->list[i].kinds;
    for (u32 i = 0; i < m->cpu_count; i++)
        debug_update(m->cpus[i]);
    code_drop_frames(m, 0, 0xFFFFFFFF >> PAGE_SHIFT);
}

int machine_watch(machine *m, uint32_t first, uint32_t last, int kinds, int id, int python, struct action **actions)
{
    struct watches *w = &m->watches;
    if (w->count == w->room) {
        u32 room = w->room ? 2 * w->room : 8;
        struct watch *list = realloc(w->list, room * sizeof(*list));
        if (!list)
            return -1;
        w->list = list;
        w->room = room;
    }
    w->list[w->count++] = (struct watch){first, last, (u32)kinds, id, python, actions, 0};
    changed(m);
    return 0;
}

uint64_t machine_watch_hits(machine *m, int id)
{
    const struct watch *w = find(m, id);
    return w ? w->hits : 0;
}

void machine_unwatch(machine *m, int id)
{
    struct watches *w = &m->watches;
    struct watch *gone = find(m, id);
    if (!gone)
        return;
    u32 behind = w->count - (u32)(gone - w->list) - 1;
    memmove(gone, gone + 1, behind * sizeof(*gone));
    w->count--;
    changed(m);
}

const struct watch_event *machine_watch_event(machine *m)
{
    return &m->watches.now;
}
