/*
 * machine.h: owns one of everything: CPU, memory, decoded code, the built-in
 * kernel side, probes. One thread at a time may use a machine.
 */
#ifndef PYK_MACHINE_H
#define PYK_MACHINE_H

#include "api.h"
#include "block.h"
#include "cpu.h"
#include "device.h"
#include "frame.h"
#include "memory.h"
#include "schedule.h"
#include "watch.h"

struct kprobes;
struct spy;
struct kretprobes;
struct kernel;
struct pc;

struct machine {
    struct cpu *cpu;            /* the processor that executes, or did last */
    struct cpu *cpus[CPUS_MAX];
    u32 cpu_count;
    u64 others;                 /* instructions that the CPUs other than cpu have retired */
    struct schedule schedule;
    struct memory mem;
    struct code_arena arena;    /* memory of decoded blocks */
    struct kernel *kernel;      /* built-in kernel side, NULL for a bare machine */
    struct pc *pc;              /* the board, NULL when there is none */
    u32 a20_mask;               /* physical addresses that the board lets through */
    struct kprobes *kprobes;    /* probe table, NULL when kprobes is off */
    struct kretprobes *kretprobes; /* NULL until the first return probe */
    struct machine_config config;
    struct frame_stack frames;  /* what the running handlers see */
    bool stop_asked;            /* a handler of the run in progress has asked to end it */
    u32 depth;                  /* runs within handlers of runs ...; 0 when idle */
    struct nest *nest;          /* the CPU state of the runs that are interrupted, innermost first */
    u32 nests;                  /* how many */
    bool until_set;             /* stop before executing at until */
    u32 until;                  /* eip */
    bool intr;                  /* level of INTR, a pin of CPU 0 */
    bool intr_served;           /* somebody gives vectors for it */
    bool stop_soon;             /* so has one within an instruction: stop before the next */
    u8 timer_vector;            /* of CPU 0 */
    u64 timer_period;           /* instructions; 0: off */
    u64 timer_next;             /* time of the next tick */
    u32 marks[MARKS_MAX], mark_count;   /* stop before executing at these, too */
    u32 slack;                  /* instructions by which a run may go beyond its end, to the end of a block */
    struct spy *spy;            /* sees all accesses and instructions, NULL: nobody does */
    struct stop_info stop;      /* why the last run ended */
    struct device_space space[DEVICE_KINDS];
    struct watches watches;
    struct device_access access; /* that of the device whose handler runs */
    u64 trap_claimed[4];        /* bitmap of vectors offered to Python */
};

/* machine_create, or with a tree a machine with that memory whose CPU and kernel side are not laid out. */
machine *machine_create_from(const struct machine_config *config, struct page_node *root);
/* Time: the instructions that all CPUs together have retired. */
ALWAYS_INLINE u64 machine_now(const struct machine *m)
{
    return m->others + cpu_icount(m->cpu);
}
/* Is there a mark at eip? Code decoded before the mark came must be dropped there. */
ALWAYS_INLINE bool machine_marked(const struct machine *m, u32 eip)
{
    for (u32 i = 0; i < m->mark_count; i++)
        if (m->marks[i] == eip)
            return true;
    return false;
}
/* Make another CPU the one that m->cpu is. */
void machine_select(struct machine *m, struct cpu *cpu);
/* Call Python's handler (enum callback). What it returned, or CALLBACK_RAISED if the run is to end. */
int machine_callback(struct machine *m, int kind, int index, u32 arg);

#endif
