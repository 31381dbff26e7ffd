/* action.c: counters and histograms kept at a hit, without Python. */
#include "action.h"

static u32 log2_bin(u64 value)
{
    return value ? 64 - (u32)__builtin_clzll(value) : 0;
}

/* bins[0] counts what is below lo, bins[nbins + 1] what is above all bins. */
static u64 linear_bin(const struct action *a, u64 value)
{
    bool below = a->field.is_signed ? (s64)value < a->lo : a->lo > 0 && value < (u64)a->lo;
    u64 bin;

    if (below)
        return 0;
    bin = (value - (u64)a->lo) / (u64)(a->width > 0 ? a->width : 1);
    return bin < a->nbins ? bin + 1 : (u64)a->nbins + 1;
}

static void bin_value(struct machine *m, struct action *a, const struct frame *f)
{
    u64 value;

    if (!fetch_value(m, &a->field, f, &value)) {
        a->faults++;
        return;
    }
    if (a->kind == ACTION_HIST_LINEAR)
        a->bins[linear_bin(a, value)]++;
    else if (log2_bin(value) < a->nbins)
        a->bins[log2_bin(value)]++;
}

bool action_run(struct machine *m, struct action *a, const struct frame *f)
{
    bool stop = false;

    for (; a; a = a->next) {
        a->count++;
        if (a->kind == ACTION_STOP)
            stop = true;
        else if (a->kind != ACTION_COUNT)
            bin_value(m, a, f);
    }
    return stop;
}
