/*
 * schedule.h: several CPUs take turns. One executes at a time, and they change
 * between instructions only.
 *
 * Turns are measured in steps: a retired instruction, the delivery of an
 * exception or interrupt, an entry point that C serves. Where slices of runs
 * end makes no difference to who executes when.
 */
#ifndef PYK_SCHEDULE_H
#define PYK_SCHEDULE_H

#include "api.h"
#include "types.h"

struct machine;
struct cpu;

struct schedule {
    s32 kind;                   /* enum schedule_kind */
    u64 value;                  /* QUANTUM: steps of a turn; SEED: state of the generator */
    struct schedule_turn *list;
    u32 count, at;              /* LIST: how many, and the next one */
    u32 cpu;                    /* whose turn it is */
    u64 left;                   /* steps of it */
    u64 steps;                  /* deliveries and entry points, of all CPUs, ever */
    bool fresh;                 /* the CPU before could not go on when the turn was given */
    struct schedule_step *trace; /* where steps are noted, one by one; NULL: nowhere */
    u32 traced, room;
};

void schedule_deinit(struct schedule *s);
/* The same schedule at the same place of it; to->list is memory of its own. False: out of host memory, nothing changed. */
bool schedule_copy(struct schedule *to, const struct schedule *from);
/* Make m->cpu the CPU that is to execute. STOP_NONE, or why none can. */
enum stop_reason schedule_next(struct machine *m);
/* How many steps it may make at once. They are noted if somebody wants to know, and accounted for. */
u64 schedule_begin(struct machine *m);
void schedule_used(struct machine *m, u64 steps);
/* The CPU that executes has nothing more to do in its turn. */
void schedule_yield(struct machine *m);
/* Can a CPU execute? Not while it is parked, halted without an interrupt to take, or waiting for a lock that is held. */
bool schedule_runnable(const struct cpu *cpu);

#endif
