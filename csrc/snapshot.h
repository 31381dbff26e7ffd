/*
 * snapshot.h: the whole state of a machine between two instructions.
 *
 * A snapshot never changes and belongs to no machine: several may go back to
 * it, in several threads. It has no TLB contents. Counters of probes, watches
 * and actions are observations and not part of it; nor is who serves devices
 * and traps.
 */
#ifndef PYK_SNAPSHOT_H
#define PYK_SNAPSHOT_H

#include "kernel.h"
#include "kprobe.h"
#include "machine.h"
#include "pc.h"

/* What of struct cpu is state: the part that a nested run keeps as well. */
#define CPU_STATE_BYTES offsetof(struct cpu, icount)

struct cpu_capture {
    _Alignas(struct cpu) u8 bytes[CPU_STATE_BYTES];
    u64 icount;
    bool nmi;
    struct irq_queue irqs;
    u64 spins;
    struct moment watch_passed, probe_resume, probe_missed;
};

struct board_capture {          /* what struct machine has besides CPUs and memory */
    u32 current;                /* index of the CPU that executes next */
    u64 others;
    struct schedule schedule;   /* list is the snapshot's own; nothing is traced */
    bool intr;
    u8 timer_vector;
    u64 timer_period, timer_next;
    u32 top;                    /* struct memory */
    u32 a20_mask;
    struct pc_capture pc;
};

struct probe_capture {          /* a registered probe */
    u32 addr;
    u8 opcode;
};

struct snapshot {
    struct machine_config config;
    struct page_node *root;     /* NULL in one that only machine_capture has filled */
    struct cpu_capture *cpus;   /* config.cpus of them */
    struct board_capture board;
    struct kernel kernel;       /* pool is the snapshot's own */
    struct kprobe_capture hits;
    struct probe_capture *probes;
    u32 probe_count, probe_room;
};

/* All but memory, into a snapshot that is zeros or has been filled before: no allocation if nothing grew. False: out of
 * host memory. */
bool machine_capture(struct machine *m, struct snapshot *s);
/* The reverse, as machine_restore. */
int machine_rewind(struct machine *m, const struct snapshot *s, bool hits);
void snapshot_deinit(struct snapshot *s);
/* A CPU's state in a form in which equal states have equal bytes. */
void cpu_state_of(const struct snapshot *s, u32 cpu, struct cpu_state *ret);

#endif
