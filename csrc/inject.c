/* inject.c: experiments: to the fault, the fault, to an end, and what kind of end that is. */
#include "inject.h"

#include <stdlib.h>
#include <string.h>

#include "mmu.h"

#define LOOP_PAGES 256u         /* dirty pages with which loops are looked for */
#define LOOP_STRIDE 1024u       /* instructions after which the first reference state is replaced */
#define LOOP_PATIENCE 8192u     /* instructions behind the golden run's end before loops are looked for */
#define HOLDS_MAX 16u

struct hold {
    const struct inject_fault *fault;
    u64 value, until;           /* until this time it is put there again */
};

struct injector {
    const struct golden *g;
    struct machine *m;
    struct snapshot base;       /* where experiments begin: all but memory, which is the machine's base */
    u64 base_time;
    bool valid;                 /* there is one */
    bool at_base;               /* the machine is there */
    u32 point;                  /* the checkpoint on whose tree the machine's memory is based */
    struct snapshot now;        /* a capture to be looked at */
    struct cpu_state *cpus, *reference;
    u8 *output;
    u8 *pages;                  /* copies of dirty pages */
    u32 page_count;
    struct hold holds[HOLDS_MAX];
    u32 hold_count;
};

injector *injector_create(const golden *g)
{
    struct injector *in = calloc(1, sizeof(*in));
    u32 cpus = g->points[0].state->config.cpus;

    if (!in)
        return NULL;
    in->g = g;
    in->m = inject_machine(g->points[0].state, &g->setup);
    in->cpus = calloc(cpus, sizeof(*in->cpus));
    in->reference = calloc(cpus, sizeof(*in->reference));
    in->output = malloc(g->output_size + 1);
    in->pages = malloc(LOOP_PAGES * PAGE_SIZE);
    if (!in->m || !in->cpus || !in->reference || !in->output || !in->pages) {
        injector_destroy(in);
        return NULL;
    }
    return in;
}

void injector_destroy(injector *in)
{
    if (!in)
        return;
    machine_destroy(in->m);
    snapshot_deinit(&in->base);
    snapshot_deinit(&in->now);
    free(in->cpus);
    free(in->reference);
    free(in->output);
    free(in->pages);
    free(in);
}

/* --- states ----------------------------------------------------------------------------------------------- */

static u64 now(const struct injector *in)
{
    return inject_time(in->m, in->g->zero);
}

/* The CPUs' states as they are, into in->cpus. False: out of host memory. */
static bool look(struct injector *in)
{
    if (!machine_capture(in->m, &in->now))
        return false;
    inject_cpus(&in->now, in->cpus);
    return true;
}

static bool same_cpus(const struct injector *in, const struct cpu_state *other, bool any_time)
{
    u32 count = in->m->cpu_count;
    for (u32 i = 0; any_time && i < count; i++)
        in->cpus[i].icount = other[i].icount;
    return memcmp(in->cpus, other, count * sizeof(*other)) == 0;
}

static bool same_board(const struct board_capture *a, const struct board_capture *b)
{
    return a->current == b->current && a->intr == b->intr && a->timer_period == b->timer_period &&
           (!a->timer_period || (a->timer_next == b->timer_next && a->timer_vector == b->timer_vector)) &&
           a->a20_mask == b->a20_mask && a->pc.pc.hz == 0 && b->pc.pc.hz == 0;
}

static bool page_is(const struct page *page, const struct page_node *root)
{
    bool rom;
    const struct contents *c = tree_get(root, page->frame, &rom);
    return c && (page->data == c->bytes || memcmp(page->data, c->bytes, PAGE_SIZE) == 0);
}

static bool list_is(const struct page_list *list, const struct page_node *root)
{
    for (u32 i = 0; i < list->count; i++)
        if (!page_is(list->pages[i], root))
            return false;
    return true;
}

struct comparison {
    const struct machine *m;
    bool differs;
};

/* A page that is neither dirty nor moved still is what it was at the checkpoint on which memory is based. */
static void compare_page(void *context, u32 frame, struct contents *c, bool rom)
{
    struct comparison *comparison = context;
    const struct page *page = memory_page(&comparison->m->mem, frame);
    (void)rom;
    if (!comparison->differs)
        comparison->differs = !page || !c || (page->data != c->bytes && memcmp(page->data, c->bytes, PAGE_SIZE) != 0);
}

static bool same_memory(const struct injector *in, const struct checkpoint *p)
{
    const struct memory *mem = &in->m->mem;
    const struct page_node *root = p->state->root;
    struct comparison comparison = {in->m, false};

    if (!list_is(&mem->dirty, root) || !list_is(&mem->moved, root))
        return false;
    tree_diff(mem->root, root, compare_page, &comparison);
    return !comparison.differs;
}

/* What is cheap to look at first. */
static bool may_be_at(const struct injector *in, const struct checkpoint *p)
{
    const struct cpu *cpu = in->m->cpu;
    const struct cpu_state *other = &p->cpus[cpu->index];
    return cpu->eip == other->eip && memcmp(cpu->gpr, other->gpr, sizeof(cpu->gpr)) == 0;
}

static bool is_at(struct injector *in, const struct checkpoint *p, bool any_time)
{
    return may_be_at(in, p) && look(in) && same_cpus(in, p->cpus, any_time) &&
           (any_time || same_board(&in->now.board, &p->state->board)) && same_memory(in, p);
}

/* --- to the fault ----------------------------------------------------------------------------------------- */

/* The last checkpoint that is not behind a time; the end is none. */
static u32 point_before(const struct golden *g, u64 time)
{
    u32 low = 0, high = g->count - 1;
    while (high - low > 1) {
        u32 middle = (low + high) / 2;
        if (g->points[middle].time <= time)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static bool begin_at(struct injector *in, u64 time)
{
    const struct golden *g = in->g;
    u32 point = point_before(g, time);

    if (!in->valid || time < in->base_time || g->points[point].time > in->base_time) {
        machine_restore(in->m, g->points[point].state, true);
        in->base_time = g->points[point].time;
        in->point = point;
        in->valid = in->at_base = machine_capture(in->m, &in->base);
        if (!in->valid)
            return false;
    }
    if (!in->at_base) {
        memory_restore_base(in->m);
        if (machine_rewind(in->m, &in->base, true) == -2)
            return false;
    }
    if (time > in->base_time) {
        in->valid = false;
        if (inject_run_to(in->m, g->zero, time) != STOP_NONE || !memory_advance(in->m) ||
            !machine_capture(in->m, &in->base))
            return false;
        in->base_time = time;
        in->valid = true;
    }
    in->at_base = false;
    return true;
}

/* --- running with faults that go on ----------------------------------------------------------------------- */

static void expire(struct injector *in)
{
    u32 kept = 0;
    for (u32 i = 0; i < in->hold_count; i++)
        if (in->holds[i].until > now(in))
            in->holds[kept++] = in->holds[i];
    in->hold_count = kept;
}

static enum stop_reason run_to(struct injector *in, u64 time)
{
    while (in->hold_count && now(in) < time) {
        for (u32 i = 0; i < in->hold_count; i++)
            fault_hold(in->m, in->holds[i].fault, in->holds[i].value);
        enum stop_reason reason = inject_run_to(in->m, in->g->zero, now(in) + 1);
        if (reason != STOP_NONE)
            return reason;
        expire(in);
    }
    return inject_run_to(in->m, in->g->zero, time);
}

static u32 spied_kind(const struct inject_fault *f)
{
    return f->trigger == TRIGGER_ACCESS ? f->access : TRACE_EXCEPTION;
}

/* To where a fault strikes. STOP_NONE and *ret_late: its time has passed already. */
static enum stop_reason await(struct injector *in, const struct inject_fault *f, u64 limit, bool *ret_late)
{
    struct machine *m = in->m;
    struct spy spy = {.wanted = spied_kind(f), .where = f->where, .zero = in->g->zero};
    enum stop_reason reason = STOP_NONE;
    u64 seen = 0;

    *ret_late = false;
    if (f->trigger == TRIGGER_TIME) {
        *ret_late = f->time < now(in);
        return *ret_late ? STOP_NONE : run_to(in, f->time < limit ? f->time : limit);
    }
    if (f->trigger != TRIGGER_HIT)
        spy_set(m, &spy);
    while (reason == STOP_NONE && now(in) < limit) {
        if (f->trigger == TRIGGER_HIT && m->cpu->seg[CS].base + m->cpu->eip == f->where && ++seen >= f->time)
            break;
        reason = run_to(in, now(in) + 1);
        if (f->trigger != TRIGGER_HIT && spy.seen >= f->time)
            break;
    }
    if (f->trigger != TRIGGER_HIT)
        spy_set(m, NULL);
    return reason;
}

/* --- loops ------------------------------------------------------------------------------------------------ */

/* Keep the state to compare with. False: too much is dirty. */
static bool refer(struct injector *in)
{
    const struct page_list *dirty = &in->m->mem.dirty;
    if (dirty->count > LOOP_PAGES || !look(in))
        return false;
    memcpy(in->reference, in->cpus, in->m->cpu_count * sizeof(*in->cpus));
    for (u32 i = 0; i < dirty->count; i++)
        memcpy(in->pages + (size_t)i * PAGE_SIZE, dirty->pages[i]->data, PAGE_SIZE);
    in->page_count = dirty->count;
    in->m->cpu->clock_read = false;
    return true;
}

static bool again(struct injector *in)
{
    const struct page_list *dirty = &in->m->mem.dirty;
    const struct cpu *cpu = in->m->cpu;
    if (dirty->count != in->page_count || cpu->clock_read || memcmp(cpu->gpr, in->reference[cpu->index].gpr, sizeof(cpu->gpr)))
        return false;
    if (!look(in) || !same_cpus(in, in->reference, true))
        return false;
    for (u32 i = 0; i < dirty->count; i++)
        if (memcmp(in->pages + (size_t)i * PAGE_SIZE, dirty->pages[i]->data, PAGE_SIZE))
            return false;
    return true;
}

/* One more mark, behind those of the setup. */
static void set_mark(struct machine *m, u32 i, u32 eip)
{
    code_invalidate_lin(m->cpu, m->cpu->seg[CS].base + eip, 1);
    m->marks[i] = eip;
    m->mark_count = i + 1;
}

/* Run to the limit, or until a state comes again: then nothing new can come before the limit, and what is left of it is
 * a number of rounds and a rest, which is run. Time that the program can see, and interrupts, make no state the same. */
static enum stop_reason run_looking_for_loops(struct injector *in, u64 limit, u8 *early)
{
    struct machine *m = in->m;
    u64 stride = LOOP_STRIDE, from = now(in);
    enum stop_reason reason = STOP_NONE;
    u32 mark = m->mark_count;

    if (m->timer_period || m->cpu_count > 1 || mark == MARKS_MAX)
        return inject_run_to(m, in->g->zero, limit);
    while (reason == STOP_NONE && now(in) < limit && refer(in)) {
        u64 end = now(in) + stride < limit ? now(in) + stride : limit;
        from = now(in);
        set_mark(m, mark, m->cpu->eip);
        do {
            m->cpu->until_fresh = true;
            reason = inject_run_to(m, in->g->zero, end);
            bool here = reason == STOP_UNTIL && m->cpu->eip == m->marks[mark];
            if (here && again(in)) {
                u64 period = now(in) - from, rest = (limit - now(in)) % period;
                *early |= EARLY_LOOP;
                m->mark_count = mark;
                m->cpu->until_fresh = false;
                return inject_run_to(m, in->g->zero, now(in) + rest);
            }
            if (here)
                reason = STOP_NONE;
        } while (reason == STOP_NONE && now(in) < end);
        m->mark_count = mark;
        stride *= 2;
    }
    return reason == STOP_NONE ? inject_run_to(m, in->g->zero, limit) : reason;
}

/* --- to the end ------------------------------------------------------------------------------------------- */

/* STOP_NONE: at the limit, or *early says why the run is over. */
static enum stop_reason run_on(struct injector *in, const struct inject_limits *limits, u8 *early)
{
    const struct golden *g = in->g;
    enum stop_reason reason = STOP_NONE;
    u32 last = g->count - 1;

    if (in->hold_count)
        reason = run_to(in, limits->limit < in->holds[0].until ? limits->limit : in->holds[0].until);
    while (reason == STOP_NONE && in->hold_count && now(in) < limits->limit)
        reason = run_to(in, limits->limit);
    if (reason == STOP_NONE && limits->early & EARLY_GOLDEN) {
        for (u32 point = point_before(g, now(in)) + 1, step = 1; point < last; point += step, step *= 2) {
            const struct checkpoint *p = &g->points[point];
            if (p->time + BLOCK_MAX_INSNS >= limits->limit)
                break;
            if (now(in) >= p->time)
                continue;
            reason = inject_run_about(in->m, g->zero, p->time);
            if (reason != STOP_NONE)
                return reason;
            if (now(in) == p->time && is_at(in, p, false)) {
                *early |= EARLY_GOLDEN;
                return STOP_NONE;
            }
        }
    }
    if (reason == STOP_NONE && limits->early & EARLY_LOOP) {
        u64 late = g->length + LOOP_PATIENCE;
        late = late < limits->limit ? late : limits->limit;
        reason = inject_run_to(in->m, g->zero, late);
        if (reason == STOP_NONE)
            return run_looking_for_loops(in, limits->limit, early);
    }
    return reason == STOP_NONE ? inject_run_to(in->m, g->zero, limits->limit) : reason;
}

static bool in_image(const struct inject_setup *setup, u32 eip)
{
    for (u32 i = 0; i < setup->image_count; i++)
        if (eip - setup->image[i].first <= setup->image[i].last - setup->image[i].first)
            return true;
    return !setup->image_count;
}

static enum outcome compare_result(struct injector *in)
{
    const struct golden *g = in->g;
    if (!inject_output(in->m, &g->setup, in->output) || memcmp(in->output, g->output, g->output_size) != 0)
        return OUTCOME_SDC;
    return is_at(in, &g->points[g->count - 1], true) ? OUTCOME_MASKED : OUTCOME_LATENT;
}

static enum outcome classify(struct injector *in, enum stop_reason reason, const struct stop_info *stop)
{
    const struct inject_setup *setup = &in->g->setup;
    u32 eip = in->m->cpu->eip;

    switch (reason) {
    case STOP_NONE:
    case STOP_LOOP:
        return OUTCOME_HANG;
    case STOP_HALT:
        return !setup->has_end && eip == in->g->stop_eip ? compare_result(in) : OUTCOME_HANG;
    case STOP_UNTIL:
        if (setup->has_end && eip == setup->end)
            return compare_result(in);
        for (u32 i = 0; i < setup->detected_count; i++)
            if (eip == setup->detected[i])
                return OUTCOME_DETECTED;
        return OUTCOME_LEFT;    /* to the return address of calls */
    case STOP_PYTHON:
        return OUTCOME_LEFT;    /* into a function that Python provides */
    default:
        break;
    }
    bool fetch = stop->vector == T_PGFLT && stop->address == eip;
    return fetch || !in_image(setup, eip) ? OUTCOME_LEFT : OUTCOME_TRAP;
}

/* The state is the golden run's again, and so is the end. */
static void end_as_golden(const struct injector *in, struct inject_result *r)
{
    const struct golden *g = in->g;
    r->outcome = OUTCOME_MASKED;
    r->reason = g->stop_reason;
    r->end = g->length;
    r->eip = g->stop_eip;
    const struct checkpoint *end = &g->points[g->count - 1];
    r->cr2 = end->cpus[end->state->board.current].cr2;
}

static void describe(struct injector *in, enum stop_reason reason, struct inject_result *r)
{
    const struct stop_info *stop = machine_stop_info(in->m);
    bool trap = reason == STOP_TRAP || reason == STOP_SHUTDOWN;

    r->reason = (u8)(reason == STOP_NONE ? STOP_LIMIT : reason);
    r->end = now(in);
    r->eip = in->m->cpu->eip;
    r->cr2 = in->m->cpu->cr2;
    r->vector = (int16_t)(trap ? stop->vector : -1);
    r->error_code = trap ? stop->error_code : 0;
    r->outcome = (u8)classify(in, reason, stop);
}

static void hold(struct injector *in, const struct inject_fault *f, u64 value)
{
    if (in->hold_count == HOLDS_MAX || (f->lifespan != LIFE_SPAN && f->lifespan != LIFE_PERMANENT))
        return;
    u64 until = f->lifespan == LIFE_PERMANENT || now(in) + f->span < f->span ? UINT64_MAX : now(in) + f->span;
    in->holds[in->hold_count++] = (struct hold){f, value, until};
}

/* The faults of one experiment in their order. STOP_NONE: go on; else the run has ended. */
static enum stop_reason strike_all(struct injector *in, const struct inject_fault *faults, u64 count, u64 limit,
                                   struct inject_result *r)
{
    for (u64 i = 0; i < count; i++) {
        struct evidence evidence = {0, 0};
        bool late = false, fired = false;
        enum stop_reason reason = i ? await(in, &faults[i], limit, &late) : STOP_NONE;
        if (reason != STOP_NONE || now(in) >= limit)
            return reason;
        if (late)
            continue;
        u64 time = now(in);
        u32 eip = in->m->cpu->eip;
        reason = fault_strike(in->m, in->g->zero, &faults[i], &evidence, &fired);
        if (fired && !r->fired) {
            r->injected = time;
            r->at = eip;
            r->before = evidence.before;
            r->after = evidence.after;
        }
        r->fired += fired;
        if (reason != STOP_NONE)
            return reason;
        if (fired)
            hold(in, &faults[i], evidence.after);
    }
    return STOP_NONE;
}

static bool experiment(struct injector *in, const struct inject_limits *limits, const struct inject_fault *faults,
                       u64 count, struct inject_result *r)
{
    *r = (struct inject_result){.vector = -1};
    if (faults[0].time >= in->g->length) {
        end_as_golden(in, r);
        r->outcome = OUTCOME_NOT_FIRED;
        return true;
    }
    if (!begin_at(in, faults[0].time))
        return false;
    in->hold_count = 0;
    enum stop_reason reason = strike_all(in, faults, count, limits->limit, r);
    if (reason == STOP_NONE && count == 1 && faults[0].unread && limits->early & EARLY_OVERWRITTEN)
        r->early = EARLY_OVERWRITTEN;
    else if (reason == STOP_NONE && now(in) < limits->limit)
        reason = run_on(in, limits, &r->early);
    if (reason == STOP_MEMORY)
        return false;
    if (r->early & (EARLY_GOLDEN | EARLY_OVERWRITTEN))
        end_as_golden(in, r);
    else
        describe(in, reason, r);
    if (r->early & EARLY_LOOP)
        r->end = limits->limit;
    if (!r->fired)
        r->outcome = OUTCOME_NOT_FIRED;
    r->latency = r->fired ? r->end - r->injected : 0;
    return true;
}

int injector_run(injector *in, const struct inject_limits *limits, const struct inject_fault *faults, const uint64_t *starts,
                 uint64_t count, struct inject_result *results)
{
    for (u64 i = 0; i < count; i++)
        if (!experiment(in, limits, faults + starts[i], starts[i + 1] - starts[i], &results[i]))
            return -1;
    return 0;
}

snapshot *injector_replay(injector *in, const struct inject_limits *limits, const struct inject_fault *faults, uint64_t count,
                          struct inject_result *result)
{
    bool good = experiment(in, limits, faults, count, result);
    snapshot *s = good ? machine_snapshot(in->m) : NULL;
    in->valid = false;
    return s;
}
