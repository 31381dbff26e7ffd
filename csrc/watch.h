/*
 * watch.h: watchpoints of the user's, which the guest cannot see.
 *
 * Watched pages lack the TLB's read or write tag, watched instructions run
 * alone: nothing is looked at where nothing is watched. What an instruction did
 * is told behind it, and forgotten if it faults; an execution before it.
 */
#ifndef PYK_WATCH_H
#define PYK_WATCH_H

#include "api.h"
#include "types.h"

struct cpu;
struct machine;

struct watch {
    u32 first, last;            /* linear addresses or ports */
    u32 kinds;                  /* enum watch_kind bits */
    s32 id;
    bool python;                /* there is a handler in Python */
    struct action **actions;
    u64 hits;
};

struct watches {
    struct watch *list;
    u32 count, room;
    u32 kinds;                  /* of all of them */
    struct watch_event *events; /* not told yet */
    u32 pending, space;
    struct watch_event now;     /* the one whose handler runs */
};

void watches_deinit(struct watches *w);
/* The kinds that are watched somewhere in the page of a linear address. */
u32 watch_page(const struct machine *m, u32 lin);
/* An access was made: note it for the watches that it hits. */
void watch_access(struct cpu *cpu, u32 kind, u32 address, u32 size, u32 value);
/* Is the instruction at a linear address watched? */
bool watch_code(const struct machine *m, u32 lin);
/* Note that it is about to be executed. False: that is known already. */
bool watch_execution(struct machine *m, u32 lin);
/* Tell handlers and actions what is pending: STOP_NONE, or why the run ends. */
enum stop_reason watch_tell(struct machine *m);

#endif
