/*
 * machine.h: owns one of everything: CPU, memory, decoded code, the built-in
 * kernel side, probes. One thread at a time may use a machine.
 */
#ifndef PYK_MACHINE_H
#define PYK_MACHINE_H

#include "api.h"
#include "block.h"
#include "cpu.h"
#include "frame.h"
#include "memory.h"

struct kprobes;
struct kernel;

struct machine {
    struct cpu *cpu;            /* the processor */
    struct memory mem;
    struct code_arena arena;    /* memory of decoded blocks */
    struct kernel *kernel;      /* built-in kernel side, NULL for a bare machine */
    struct kprobes *kprobes;    /* probe table, NULL when kprobes is off */
    struct machine_config config;
    struct frame_stack frames;  /* what the running handlers see */
    s32 verdict;                /* of the pre_handler that is running: CALLBACK_RAISED or 0 */
    u32 depth;                  /* runs within handlers of runs ...; 0 when idle */
    struct nest *nest;          /* the CPU state of the runs that are interrupted, innermost first */
    u32 nests;                  /* how many */
    bool until_set;             /* stop before executing at until */
    bool until_fresh;           /* set since: the instruction there still has to run once */
    u32 until;                  /* eip */
    s32 irq;                    /* pending external interrupt vector, -1 none */
    u8 timer_vector;
    u64 timer_period;           /* instructions; 0: off */
    u64 timer_next;             /* icount of the next tick */
    struct stop_info stop;      /* why the last run ended */
    u32 io_value;               /* datum of the port access that Python serves */
    u8 *port_claimed;           /* bitmap of 65536 ports that Python serves, NULL: none */
    u64 trap_claimed[4];        /* bitmap of vectors offered to Python */
};

#endif
