/* kprobe_lock.c: kprobe_lock among several CPUs. In "fixed" no hit takes it. */
#include "kprobe.h"
#include "op.h"

int kprobe_wait(struct machine *m)
{
    m->cpu->waits = true;
    m->cpu->spins++;
    schedule_yield(m);
    return STATUS_JUMP;
}

s32 kprobe_waits_for(const struct cpu *cpu)
{
    bool spinning = cpu->waits && !cpu->parked && kprobe_lock_held(cpu->machine);
    return spinning ? cpu->machine->kprobes->lock : KPROBE_NO_CPU;
}

bool kprobe_copy(const struct cpu *cpu, u32 lin, u8 *ret)
{
    const struct machine *m = cpu->machine;
    const struct kprobe *p;

    if (!m->kprobes || !m->kprobes->copies)
        return false;
    if (cpu->boosted)
        p = kprobe_at(m, cpu->boosted_at);
    else
        p = cpu->eflags & EFLAGS_TF && kprobe_stepping(m) ? kprobe_context(m)->now.running : NULL;
    if (!p)
        return false;
    *ret = p->opcode;
    return p->addr == lin;
}
