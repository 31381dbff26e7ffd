/* kprobe_lock.c: kprobe_lock among several CPUs. In "fixed" no hit takes it. */
#include "kprobe.h"
#include "op.h"

static bool spins(const struct machine *m)
{
    return m->cpu_count > 1 && m->kprobes && !m->kprobes->mends->hit_of_cpu;
}

bool kprobe_must_lock(const struct machine *m)
{
    return spins(m) && !kprobe_running(m);
}

bool kprobe_holds(const struct machine *m)
{
    return spins(m) && m->kprobes->lock == (s32)m->cpu->index && !kprobe_running(m);
}

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
