/*
 * interrupt.h: what comes to a CPU from outside. INTR and the timer are CPU
 * 0's, each CPU has queued interrupts and NMIs of its own.
 */
#ifndef PYK_INTERRUPT_H
#define PYK_INTERRUPT_H

#include "machine.h"
#include "pc.h"

/* The timer's period has passed. */
void interrupt_tick(struct machine *m);
ALWAYS_INLINE void timer_tick(struct machine *m)
{
    if (m->pc)
        pc_look(m);
    if (m->timer_period && machine_now(m) >= m->timer_next)
        interrupt_tick(m);
}
/* No CPU can go on: time passes at once up to the next tick that can wake CPU 0. False: nothing ever will. */
bool interrupt_skip(struct machine *m);

/* Is there an interrupt that the CPU takes before its next instruction? */
ALWAYS_INLINE bool interrupt_ready(const struct cpu *cpu)
{
    const struct machine *m = cpu->machine;
    bool asked = cpu->irqs.count || (m->intr && (m->intr_served || m->pc) && cpu->index == 0);
    return asked && (cpu->eflags & EFLAGS_IF) && !cpu->shadow && !cpu->boosted;
}
/* An NMI? SDM vol. 3, 6.7.1: no other before an IRET. A load of SS holds NMIs back too (6.8.3); so does STI here. */
ALWAYS_INLINE bool nmi_ready(const struct cpu *cpu)
{
    return cpu->nmi && !cpu->nmi_blocked && !cpu->shadow && !cpu->boosted;
}
/* Deliver it to m->cpu: as trap_deliver. */
int take_interrupt(struct machine *m);
int take_nmi(struct machine *m);

#endif
