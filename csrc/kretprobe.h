/*
 * kretprobe.h: return probes. At a function's entry the return address on the
 * stack is replaced by the trampoline's; what returns there finds its instance
 * by the stack pointer. The trampoline is a part of the built-in kernel side.
 */
#ifndef PYK_KRETPROBE_H
#define PYK_KRETPROBE_H

#include "machine.h"

void kretprobes_destroy(struct machine *m);
/* No call is followed any more. */
void kretprobes_forget(struct machine *m);

/* The action at a function's entry; state is the return probe's id. */
int kretprobe_run(struct machine *m, struct action *a, struct frame *f, u32 probe);
/* The CPU is at the trampoline. STATUS_JUMP: it goes on at cpu->eip; STATUS_STOP; STATUS_NEXT: nobody returns here. */
int kretprobe_return(struct machine *m);

/* For field programs, while return handlers and their actions run: a value kept at entry, false if there is none; and
 * the time since. */
bool kretprobe_kept(const struct machine *m, unsigned slot, u64 *ret);
u64 kretprobe_latency(const struct machine *m);

#endif
