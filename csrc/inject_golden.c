/* inject_golden.c: the run without faults, its checkpoints and its trace. */
#include <stdlib.h>
#include <string.h>

#include "inject.h"
#include "mmu.h"

/* --- machines --------------------------------------------------------------------------------------------- */

/* Nobody serves anything: what would be Python's business ends the run. */
static int refuse(uint32_t tag, int kind, int index, uint32_t arg)
{
    (void)tag;
    (void)kind;
    (void)index;
    (void)arg;
    return CALLBACK_RAISED;
}

static void no_handler(uint32_t tag, int index)
{
    (void)tag;
    (void)index;
}

struct machine *inject_machine(const snapshot *s, const struct inject_setup *setup)
{
    struct machine_config config = s->config;
    config.callback = refuse;
    config.pre = no_handler;
    struct machine *m = machine_clone(s, &config);
    u32 count = 0;

    if (!m)
        return NULL;
    if (setup->has_end)
        m->marks[count++] = setup->end;
    for (u32 i = 0; i < setup->detected_count && count < MARKS_MAX; i++)
        m->marks[count++] = setup->detected[i];
    m->mark_count = count;
    return m;
}

enum stop_reason inject_run_to(struct machine *m, u64 zero, u64 time)
{
    u64 now = inject_time(m, zero);

    for (u32 still = 0; now < time && still < 2; still++) {
        enum stop_reason reason = machine_run(m, time - now);
        if (reason != STOP_NONE)
            return reason;
        if (inject_time(m, zero) != now)
            still = 0;
        now = inject_time(m, zero);
    }
    return now < time ? STOP_LOOP : STOP_NONE;  /* traps and nothing else */
}

enum stop_reason inject_run_about(struct machine *m, u64 zero, u64 time)
{
    bool events = m->timer_period || m->pc || m->cpu_count > 1;     /* have to be met exactly */
    m->slack = events ? 0 : BLOCK_MAX_INSNS - 1;
    enum stop_reason reason = inject_run_to(m, zero, time);
    m->slack = 0;
    return reason;
}

u32 inject_output_size(const struct inject_setup *setup)
{
    u32 size = 0;
    for (u32 i = 0; i < setup->output_count; i++)
        size += setup->output[i].last - setup->output[i].first + 1;
    return size;
}

bool inject_output(struct machine *m, const struct inject_setup *setup, u8 *ret)
{
    for (u32 i = 0; i < setup->output_count; i++) {
        u32 first = setup->output[i].first, size = setup->output[i].last - first + 1;
        if (mmu_peek(m->cpu, first, ret, size) != size)
            return false;
        ret += size;
    }
    return true;
}

void inject_cpus(const struct snapshot *s, struct cpu_state *ret)
{
    for (u32 i = 0; i < s->config.cpus; i++)
        cpu_state_of(s, i, &ret[i]);
}

/* --- the golden run --------------------------------------------------------------------------------------- */

static bool copy(const void *from, size_t size, const void *to)
{
    void *made = size ? malloc(size) : NULL;
    if (made)
        memcpy(made, from, size);
    memcpy((void *)(uintptr_t)to, &made, sizeof(made));
    return made || !size;
}

/* The arrays of the setup become the golden run's own. */
static bool own_setup(struct golden *g, const struct inject_setup *setup)
{
    struct inject_setup *own = &g->setup;
    *own = *setup;
    bool good = copy(setup->detected, setup->detected_count * sizeof(*setup->detected), &own->detected);
    good &= copy(setup->output, setup->output_count * sizeof(*setup->output), &own->output);
    good &= copy(setup->image, setup->image_count * sizeof(*setup->image), &own->image);
    return good;
}

static bool add_point(struct golden *g, struct machine *m)
{
    if (g->count == g->room) {
        u32 room = g->room ? 2 * g->room : 16;
        struct checkpoint *points = realloc(g->points, room * sizeof(*points));
        if (!points)
            return false;
        g->points = points;
        g->room = room;
    }
    struct checkpoint *p = &g->points[g->count];
    *p = (struct checkpoint){inject_time(m, g->zero), machine_snapshot(m), calloc(m->cpu_count, sizeof(*p->cpus))};
    g->count++;
    if (!p->state || !p->cpus)
        return false;
    inject_cpus(p->state, p->cpus);
    return true;
}

static bool good_end(const struct golden *g, const struct machine *m, enum stop_reason reason)
{
    return g->setup.has_end ? reason == STOP_UNTIL && m->cpu->eip == g->setup.end : reason == STOP_HALT;
}

static enum golden_error first_run(struct golden *g, struct machine *m, u64 limit)
{
    for (;;) {
        if (!add_point(g, m))
            return GOLDEN_MEMORY;
        u64 next = g->points[g->count - 1].time + g->setup.interval;
        next = next < limit ? next : limit;
        enum stop_reason reason = inject_run_about(m, g->zero, next);
        if (good_end(g, m, reason)) {
            g->stop_reason = (u8)reason;
            g->stop_eip = m->cpu->eip;
            break;
        }
        if (reason != STOP_NONE)
            return reason == STOP_MEMORY ? GOLDEN_MEMORY : GOLDEN_STOPPED;
        if (next == limit)
            return GOLDEN_ENDLESS;
    }
    g->length = inject_time(m, g->zero);
    g->output_size = inject_output_size(&g->setup);
    g->output = malloc(g->output_size + 1);
    if (!g->output || !add_point(g, m))
        return GOLDEN_MEMORY;
    return inject_output(m, &g->setup, g->output) ? GOLDEN_GOOD : GOLDEN_OUTPUT;
}

struct difference {
    const struct page_node *other;
    bool found;
};

static void compare_page(void *context, u32 frame, struct contents *c, bool rom)
{
    struct difference *d = context;
    bool other_rom;
    struct contents *other = tree_get(d->other, frame, &other_rom);
    d->found |= !c || !other || rom != other_rom || memcmp(c->bytes, other->bytes, PAGE_SIZE) != 0;
}

/* Once more in one go, which must end in the same state. */
static enum golden_error second_run(struct golden *g, struct machine *m)
{
    const struct checkpoint *end = &g->points[g->count - 1];
    u32 cpus = m->cpu_count;
    struct cpu_state *states = calloc(cpus, sizeof(*states));

    machine_restore(m, g->points[0].state, true);
    enum stop_reason reason = inject_run_to(m, g->zero, g->length + 1);
    snapshot *again = machine_snapshot(m);
    enum golden_error error = GOLDEN_MEMORY;
    if (states && again) {
        struct difference d = {end->state->root, false};
        tree_diff(end->state->root, again->root, compare_page, &d);
        inject_cpus(again, states);
        bool same = good_end(g, m, reason) && !d.found && memcmp(states, end->cpus, cpus * sizeof(*states)) == 0;
        error = same ? GOLDEN_GOOD : GOLDEN_UNREPEATABLE;
    }
    snapshot_destroy(again);
    free(states);
    return error;
}

golden *golden_create(const snapshot *s, const struct inject_setup *setup, uint64_t limit, int32_t *ret_error,
                      struct stop_info *ret_stop)
{
    struct golden *g = calloc(1, sizeof(*g));
    struct machine *m = g && own_setup(g, setup) ? inject_machine(s, &g->setup) : NULL;
    enum golden_error error = GOLDEN_MEMORY;

    if (m) {
        g->zero = machine_now(m);
        error = first_run(g, m, limit);
        *ret_stop = *machine_stop_info(m);
        if (error == GOLDEN_GOOD)
            error = second_run(g, m);
    }
    machine_destroy(m);
    *ret_error = (int32_t)error;
    if (error == GOLDEN_GOOD)
        return g;
    golden_destroy(g);
    return NULL;
}

void golden_destroy(golden *g)
{
    if (!g)
        return;
    for (u32 i = 0; i < g->count; i++) {
        snapshot_destroy(g->points[i].state);
        free(g->points[i].cpus);
    }
    free(g->points);
    free(g->output);
    free((void *)(uintptr_t)g->setup.detected);
    free((void *)(uintptr_t)g->setup.output);
    free((void *)(uintptr_t)g->setup.image);
    free(g);
}

uint64_t golden_length(const golden *g)
{
    return g->length;
}

uint32_t golden_checkpoints(const golden *g)
{
    return g->count;
}

uint32_t golden_output(const golden *g, uint8_t *ret, uint32_t room)
{
    memcpy(ret, g->output, g->output_size < room ? g->output_size : room);
    return g->output_size;
}

uint64_t golden_trace(const golden *g, struct trace_event *events, uint64_t room)
{
    struct machine *m = inject_machine(g->points[0].state, &g->setup);
    struct spy spy = {.events = events, .room = room, .zero = g->zero};

    if (!m)
        return 0;
    spy_set(m, &spy);
    inject_run_to(m, g->zero, g->length);
    machine_destroy(m);
    return spy.count;
}
