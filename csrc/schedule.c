/* schedule.c: whose turn it is. */
#include "schedule.h"

#include <stdlib.h>
#include <string.h>

#include "interrupt.h"
#include "kprobe.h"

#define QUANTUM_BITS 11         /* a seed's turns have up to 2^(QUANTUM_BITS - 1) steps */
#define FOR_EVER UINT64_MAX

void schedule_deinit(struct schedule *s)
{
    free(s->list);
}

bool schedule_copy(struct schedule *to, const struct schedule *from)
{
    if (from->count) {
        struct schedule_turn *list = realloc(to->list, from->count * sizeof(*list));
        if (!list)
            return false;
        memcpy(list, from->list, from->count * sizeof(*list));
        to->list = list;
    }
    to->kind = from->kind;
    to->value = from->value;
    to->count = from->count;
    to->at = from->at;
    to->cpu = from->cpu;
    to->left = from->left;
    to->fresh = from->fresh;
    return true;
}

bool schedule_runnable(const struct cpu *cpu)
{
    if (cpu->parked)
        return false;
    if (cpu->trapped)
        return !kprobe_lock_held(cpu->machine);
    if (nmi_ready(cpu))
        return true;
    if (cpu->waits)
        return !kprobe_lock_held(cpu->machine);
    return !cpu->halted || interrupt_ready(cpu);
}

/* Can it, now that its turn may come? If it spins, its turn passes. */
static bool comes(struct cpu *cpu)
{
    if (schedule_runnable(cpu))
        return true;
    cpu->spins += !cpu->parked && cpu->waits;
    return false;
}

/* The first CPU from number first on, in a ring, that can execute; NULL if none. */
static struct cpu *ring(struct machine *m, u32 first)
{
    for (u32 i = 0; i < m->cpu_count; i++) {
        struct cpu *cpu = m->cpus[(first + i) % m->cpu_count];
        if (comes(cpu))
            return cpu;
    }
    return NULL;
}

/* Splitmix64: a sequence that is the same for the same seed. */
static u64 draw(struct schedule *s)
{
    u64 z = s->value += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static void give(struct machine *m, struct cpu *cpu, u64 steps)
{
    m->schedule.cpu = cpu->index;
    m->schedule.left = steps;
}

/* Short turns are as likely as long ones. */
static bool next_random(struct machine *m)
{
    struct schedule *s = &m->schedule;
    struct cpu *cpu = ring(m, (u32)(draw(s) % m->cpu_count));
    u64 most = 1ull << draw(s) % QUANTUM_BITS;
    if (!cpu)
        return false;
    give(m, cpu, 1 + draw(s) % most);
    return true;
}

/* A turn of a CPU that cannot execute passes. Behind the list each goes on until it cannot. */
static bool next_listed(struct machine *m)
{
    struct schedule *s = &m->schedule;
    while (s->at < s->count) {
        const struct schedule_turn *turn = &s->list[s->at++];
        if (!comes(m->cpus[turn->cpu]))
            continue;
        give(m, m->cpus[turn->cpu], turn->steps);
        return true;
    }
    struct cpu *cpu = ring(m, s->cpu);
    if (cpu)
        give(m, cpu, FOR_EVER);
    return cpu;
}

static bool next_turn(struct machine *m)
{
    struct schedule *s = &m->schedule;
    if (s->kind == SCHEDULE_SEED)
        return next_random(m);
    if (s->kind == SCHEDULE_LIST)
        return next_listed(m);
    struct cpu *cpu = ring(m, s->cpu + 1);
    if (cpu)
        give(m, cpu, s->value);
    return cpu;
}

static enum stop_reason nobody(const struct machine *m)
{
    bool waits = false, halted = false;
    for (u32 i = 0; i < m->cpu_count; i++) {
        waits |= !m->cpus[i]->parked && m->cpus[i]->waits;
        halted |= !m->cpus[i]->parked && m->cpus[i]->halted;
    }
    return waits ? STOP_DEADLOCK : halted ? STOP_HALT : STOP_PARKED;
}

/* A run inside another one, and a call, is one CPU's alone. */
static enum stop_reason next_nested(const struct machine *m)
{
    const struct cpu *cpu = m->cpu;
    if (schedule_runnable(cpu) || (cpu->halted && !cpu->waits && !cpu->parked))
        return STOP_NONE;
    return cpu->parked ? STOP_PARKED : STOP_DEADLOCK;
}

enum stop_reason schedule_next(struct machine *m)
{
    struct schedule *s = &m->schedule;
    if (m->nest)
        return next_nested(m);
    while (!s->left || !schedule_runnable(m->cpus[s->cpu])) {
        s->fresh = !schedule_runnable(m->cpus[s->cpu]);
        if (!next_turn(m)) {
            s->left = 0;
            if (!interrupt_skip(m))
                return nobody(m);
            /* That need not have woken it: the run loop looks, and skips on. */
            give(m, m->cpus[0], 1);
            break;
        }
    }
    if (m->cpu->index != s->cpu)
        machine_select(m, m->cpus[s->cpu]);
    return STOP_NONE;
}

static bool noting(const struct machine *m)
{
    return !m->nest && m->schedule.traced < m->schedule.room;
}

u64 schedule_begin(struct machine *m)
{
    struct schedule *s = &m->schedule;
    const struct cpu *cpu = m->cpu;
    u32 runnable = 0;
    if (!noting(m))
        return m->nest ? FOR_EVER : s->left;
    for (u32 i = 0; i < m->cpu_count; i++)
        runnable |= (u32)schedule_runnable(m->cpus[i]) << i;
    s->trace[s->traced] = (struct schedule_step){cpu->seg[CS].base + cpu->eip, runnable, cpu->index, 0, s->fresh};
    return 1;
}

void schedule_used(struct machine *m, u64 steps)
{
    struct schedule *s = &m->schedule;
    if (noting(m) && steps)
        s->trace[s->traced++].steps = (u32)steps;
    s->fresh &= !steps;
    if (!m->nest && s->left != FOR_EVER)
        s->left -= steps < s->left ? steps : s->left;
}

void schedule_yield(struct machine *m)
{
    if (!m->nest)
        m->schedule.left = 0;
}

void machine_trace_schedule(machine *m, struct schedule_step *steps, uint32_t room)
{
    struct schedule *s = &m->schedule;
    s->trace = steps;
    s->room = room;
    s->traced = 0;
}

uint32_t machine_schedule_traced(machine *m)
{
    return m->schedule.traced;
}

int machine_set_schedule(machine *m, int kind, uint64_t value, const struct schedule_turn *list, uint32_t count)
{
    struct schedule *s = &m->schedule;
    struct schedule_turn *copy = malloc((count + 1) * sizeof(*copy));
    if (!copy)
        return -1;
    if (count)
        memcpy(copy, list, count * sizeof(*copy));
    free(s->list);
    s->kind = kind;
    s->value = value;
    s->list = copy;
    s->count = count;
    s->at = 0;
    s->left = 0;
    s->cpu = kind == SCHEDULE_QUANTUM ? m->cpu_count - 1 : 0;   /* CPU 0 is the first */
    return 0;
}
