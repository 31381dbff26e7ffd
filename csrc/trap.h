/*
 * trap.h, with gate.c and segment.c behind it: everything that changes
 * privilege, segments or eip in a way that the guest's descriptor tables decide.
 */
#ifndef PYK_TRAP_H
#define PYK_TRAP_H

#include "cpu.h"
#include "op.h"

/* Deliver cpu->fault (exception, int n) or an external interrupt through the guest's IDT: gate and privilege
 * checks, stack switch by the TSS, frame, error code, CR2. Faults inside become #DF and then shutdown.
 * cpu->eip is the eip to push (faulting instruction, or the next for traps and int n). cpu->fault is then what was
 * delivered, or at SHUTDOWN the fault that was one too many; cpu->cr2 the address of the last #PF.
 * Returns STATUS_JUMP with eip at the handler, or STATUS_STOP (SHUTDOWN). */
int trap_deliver(struct cpu *cpu);
int trap_interrupt(struct cpu *cpu, u8 vector);
/* IRET by operand size, but for NT: STATUS_JUMP or STATUS_FAULT with nothing changed. Counts nothing. */
int trap_return(struct cpu *cpu, unsigned size);

/* segment.c. Load a segment register in protected mode with all checks (STATUS_FAULT) or real/v86 mode. */
int segment_load(struct cpu *cpu, unsigned seg, u16 selector);
/* Hidden part from a descriptor. */
void segment_from_descriptor(struct segment *s, u16 selector, const u32 desc[2]);
/* A stack pointer add or push, honouring SS.B. */
bool stack_push(struct cpu *cpu, u32 value, unsigned size);

#endif
