/* interrupt.c: interrupts from outside: queued ones, INTR, the timer, NMIs. */
#include "interrupt.h"

#include "trap.h"

static bool irq_push(struct irq_queue *q, u8 vector)
{
    u64 bit = 1ull << (vector & 63);
    if (q->pending[vector >> 6] & bit)
        return false;
    q->pending[vector >> 6] |= bit;
    q->vector[(u8)(q->first + q->count++)] = vector;
    return true;
}

void interrupt_tick(struct machine *m)
{
    u64 now = machine_now(m);
    m->timer_next += (now - m->timer_next) / m->timer_period * m->timer_period + m->timer_period;
    irq_push(&m->cpus[0]->irqs, m->timer_vector);
}

/* The interrupt acknowledge cycle. A controller that has no vector after all takes its request back. STATUS_NEXT:
 * vector is to be delivered. */
static int acknowledge(struct machine *m, u8 *vector)
{
    if (m->pc) {
        *vector = pc_acknowledge(m);
        return STATUS_NEXT;
    }
    m->access = (struct device_access){0};
    bool stop = machine_callback(m, CALLBACK_INTR, 0, 0) < 0;
    if (!m->access.done) {
        m->intr &= stop;
        return stop ? cpu_stop(m->cpu, STOP_PYTHON) : STATUS_JUMP;
    }
    m->stop_soon |= stop;
    *vector = (u8)m->access.value;
    return STATUS_NEXT;
}

int take_interrupt(struct machine *m)
{
    m->schedule.steps++;
    struct irq_queue *q = &m->cpu->irqs;
    u8 vector = q->vector[q->first];
    bool queued = q->count, halted = m->cpu->halted;
    forget_exit(m->cpu);
    if (!queued) {
        int status = acknowledge(m, &vector);
        if (status != STATUS_NEXT)
            return status;
    }
    m->cpu->halted = false;
    int status = trap_interrupt(m->cpu, vector);
    if (status == STATUS_STOP && m->cpu->stop == STOP_PYTHON) {
        m->cpu->halted = halted;    /* a device's handler failed during delivery: it has not happened */
        if (!queued)
            irq_push(q, vector);
    } else if (queued) {
        q->pending[vector >> 6] &= ~(1ull << (vector & 63));
        q->first++;
        q->count--;
    }
    return status;
}

int take_nmi(struct machine *m)
{
    m->schedule.steps++;
    bool halted = m->cpu->halted;
    forget_exit(m->cpu);
    m->cpu->halted = false;
    int status = trap_interrupt(m->cpu, T_NMI);
    bool failed = status == STATUS_STOP && m->cpu->stop == STOP_PYTHON;    /* in a device: it has not happened */
    if (failed)
        m->cpu->halted = halted;
    m->cpu->nmi = failed;
    m->cpu->nmi_blocked = !failed;
    return status;
}

bool interrupt_skip(struct machine *m)
{
    const struct cpu *first = m->cpus[0];
    if (!first->halted || !(first->eflags & EFLAGS_IF))
        return false;
    if (m->pc)
        return pc_skip(m);
    if (!m->timer_period)
        return false;
    u64 now = machine_now(m);
    for (u32 i = 0; i < m->cpu_count; i++)
        m->cpus[i]->tsc_offset += m->timer_next - now;
    m->timer_next = now;
    interrupt_tick(m);
    return true;
}

int machine_interrupt(machine *m, int cpu, uint8_t vector)
{
    m->cpu->code_changed = true;    /* if a device's handler asks, the next instruction may be too late */
    return irq_push(&m->cpus[cpu]->irqs, vector) ? 0 : -1;
}

void machine_set_intr(machine *m, int level, int served)
{
    m->intr = level;
    m->intr_served = served;
    m->cpu->code_changed = true;
}

void machine_nmi(machine *m, int cpu)
{
    m->cpus[cpu]->nmi = true;
    m->cpu->code_changed = true;
}

void machine_set_timer(machine *m, uint8_t vector, uint64_t period)
{
    m->timer_vector = vector;
    m->timer_period = period;
    m->timer_next = machine_now(m) + period;
}
