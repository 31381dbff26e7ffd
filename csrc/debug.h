/*
 * debug.h: the breakpoints of DR0-DR3 and DR7 (SDM vol. 3, 17.2).
 */
#ifndef PYK_DEBUG_H
#define PYK_DEBUG_H

#include "cpu.h"

/* DR0-DR3 or DR7 got a new value: code and TLB entries that ignore a breakpoint go. */
void debug_changed(struct cpu *cpu, const u32 old[8]);

/* DR7 or the user's watches changed: note whether any instruction must be looked at. */
void debug_update(struct cpu *cpu);

/* DR6 bits of the code breakpoints at a linear address. */
u32 debug_code(const struct cpu *cpu, u32 lin);
/* Does an enabled data breakpoint lie in this page? Then the TLB must not serve it. */
bool debug_page(const struct cpu *cpu, u32 lin);
/* An access that the TLB did not serve: note the data breakpoints that it hits, for #DB behind the instruction. */
void debug_data(struct cpu *cpu, u32 lin, u32 size, bool write);
/* The same for an access to ports, which I/O breakpoints need CR4.DE for. */
void debug_io(struct cpu *cpu, u16 port, u32 size);

#endif
