/* action.c: counters, filters and histograms at a hit, without Python. */
#include "action.h"

#include "kretprobe.h"

static int count_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    (void)m, (void)f, (void)probe;
    a->count++;
    return ACTION_NEXT;
}

static int stop_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    (void)m, (void)f, (void)probe;
    a->count++;
    return ACTION_STOPS;
}

/* Filters. */

ALWAYS_INLINE int pass(struct action *a, bool passes)
{
    a->passed += passes;
    return passes ? ACTION_NEXT : ACTION_END;
}

static int when_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    u64 value;

    (void)probe;
    a->count++;
    if (unlikely(!field_run(m, a->program, f, &value))) {
        a->faults++;
        return ACTION_END;
    }
    return pass(a, value);
}

static int every_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    (void)m, (void)f, (void)probe;
    a->count++;
    if (++a->state < a->every)
        return ACTION_END;
    a->state = 0;
    return pass(a, true);
}

/* The splitmix64 generator: a counter, mixed. */
static u64 random_next(u64 *state)
{
    u64 x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static int random_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    (void)m, (void)f, (void)probe;
    a->count++;
    return pass(a, random_next(&a->state) < a->every);
}

/* Histograms. */

ALWAYS_INLINE bool binned_value(struct machine *m, struct action *a, const struct frame *f, u64 *ret)
{
    a->count++;
    if (likely(field_value(m, a->program, f, ret)))
        return true;
    a->faults++;
    return false;
}

static int log2_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    u64 value;

    (void)probe;
    if (binned_value(m, a, f, &value))
        a->bins[value ? 64 - __builtin_clzll(value) : 0]++;
    return ACTION_NEXT;
}

/* bins[0] counts what is below lo, bins[nbins + 1] what is above all bins. */
static int linear_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    u64 value, bin;

    (void)probe;
    if (!binned_value(m, a, f, &value))
        return ACTION_NEXT;
    if (a->is_signed ? (s64)value < a->lo : a->lo > 0 && value < (u64)a->lo) {
        a->bins[0]++;
        return ACTION_NEXT;
    }
    if (unlikely(!a->is_signed && value > INT64_MAX))
        value = INT64_MAX;      /* above all bins, and its distance to lo fits */
    value -= (u64)a->lo;
    bin = a->shift < 64 ? value >> a->shift : value / (u64)a->width;
    a->bins[bin < a->nbins ? bin + 1 : (u64)a->nbins + 1]++;
    return ACTION_NEXT;
}

/* Edges are 64-bit signed; an unsigned value beyond them is above all. */
static int edges_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    u64 value;
    u32 low = 0, high = a->nbins + 1;   /* the number of edges <= value is in [low, high] */

    (void)probe;
    if (!binned_value(m, a, f, &value))
        return ACTION_NEXT;
    if (!a->is_signed && value > INT64_MAX)
        low = high;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (a->edges[middle] <= (s64)value)
            low = middle + 1;
        else
            high = middle;
    }
    a->bins[low]++;
    return ACTION_NEXT;
}

/* Values in the order in which they came first; exact while there is room. */
static int keys_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    u64 value, hash;
    u32 at;

    (void)probe;
    if (!binned_value(m, a, f, &value))
        return ACTION_NEXT;
    hash = value * 0x9E3779B97F4A7C15u;
    for (at = (u32)(hash >> 32) & a->index_mask; a->index[at]; at = (at + 1) & a->index_mask) {
        u32 place = a->index[at] - 1;
        if (a->keys[place] == value) {
            a->bins[place]++;
            return ACTION_NEXT;
        }
    }
    if (a->used == a->nbins) {
        a->others++;
        return ACTION_NEXT;
    }
    a->keys[a->used] = value;
    a->bins[a->used] = 1;
    a->index[at] = a->used + 1;
    __atomic_store_n(&a->used, a->used + 1, __ATOMIC_RELEASE);  /* its reader may be another thread */
    return ACTION_NEXT;
}

void action_prepare(struct action *a)
{
    static int (*const run[ACTION_KINDS])(struct machine *, struct action *, struct frame *, u32) = {
        [ACTION_COUNT] = count_run,
        [ACTION_STOP] = stop_run,
        [ACTION_WHEN] = when_run,
        [ACTION_EVERY] = every_run,
        [ACTION_RANDOM] = random_run,
        [ACTION_HIST_LOG2] = log2_run,
        [ACTION_HIST_LINEAR] = linear_run,
        [ACTION_HIST_EDGES] = edges_run,
        [ACTION_HIST_KEYS] = keys_run,
        [ACTION_RECORD] = record_run,
        [ACTION_RETURN] = kretprobe_run,
    };
    a->run = a->kind == ACTION_RECORD && record_of_words(a) ? record_words_run : run[a->kind];
}
