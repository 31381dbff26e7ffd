/*
 * inject.h: fault injection.
 *
 * inject_golden.c runs without faults and keeps checkpoints, inject_fault.c
 * changes the machine, inject.c does the experiments. A golden run never
 * changes; each thread has an injector, a machine that walks along it.
 */
#ifndef PYK_INJECT_H
#define PYK_INJECT_H

#include "snapshot.h"
#include "spy.h"

struct checkpoint {
    u64 time;
    snapshot *state;
    struct cpu_state *cpus;     /* of state */
};

struct golden {
    struct inject_setup setup;  /* its arrays are the golden run's own */
    u64 zero;                   /* the icount that is time 0 */
    u64 length;                 /* when it ends */
    u32 stop_eip;
    u8 stop_reason;             /* enum stop_reason */
    struct checkpoint *points;  /* the first at time 0, the last the end */
    u32 count, room;
    u8 *output;
    u32 output_size;
};

/* The states of all CPUs of a capture. */
void inject_cpus(const struct snapshot *s, struct cpu_state *ret);
/* A machine as the experiments of a golden run want it: it stops at marks, calls nobody. NULL: out of host memory. */
struct machine *inject_machine(const snapshot *s, const struct inject_setup *setup);
/* Copy the result's memory; false if a part of it is not mapped. */
bool inject_output(struct machine *m, const struct inject_setup *setup, u8 *ret);
u32 inject_output_size(const struct inject_setup *setup);
/* The same, or to the end of the block in which the time comes: quicker, and repeatable where the flow is the same. */
enum stop_reason inject_run_about(struct machine *m, u64 zero, u64 time);
/* Run to a time; STOP_NONE: it was reached. */
enum stop_reason inject_run_to(struct machine *m, u64 zero, u64 time);
ALWAYS_INLINE u64 inject_time(const struct machine *m, u64 zero)
{
    return machine_now(m) - zero;
}

/* What a model makes of a value. */
u64 fault_value(const struct inject_fault *f, u64 value);
struct evidence {
    u64 before, after;
};
/* Change the machine, which stands where the fault strikes. STOP_NONE: it struck, or could not (false in *ret_fired);
 * else the instruction that had to be executed ended the run. zero as in golden. */
enum stop_reason fault_strike(struct machine *m, u64 zero, const struct inject_fault *f, struct evidence *ret, bool *ret_fired);
/* Faults that go on: put the value there again. */
void fault_hold(struct machine *m, const struct inject_fault *f, u64 value);

#endif
