/*
 * execute_combined.c: two or three instructions in one handler. The ops stay apart: the combined handler stands in
 * the first one and goes on behind the last, so that faults, slow accesses and counts are those of the single ones.
 * What pays is that there are fewer indirect jumps, each with fewer targets, and that flags which the second
 * instruction overwrites are never computed.
 */
#ifndef LOOP_DISPATCH

#define COMBINED
#include "execute_register.c"
#undef PER_WIDTH
#undef PER_COND
#undef ALU_ALL
#include "execute_memory.c"
#include "combined.def"

/* The second part of a combined handler: for next_op of the first. */
#define SECOND(first, last) ALWAYS_INLINE void last##_second(OP_PARAMS) { last##_then(OP_ARGS, NULL); }
LAST(SECOND, )

#define PAIR(first, last) static void first##__##last(OP_PARAMS) { first##_then(OP_ARGS, last##_second); }
#define PAIRS(first) LAST(PAIR, first)
FIRST(PAIRS)

#define END(first, step, branch) \
    ALWAYS_INLINE void step##__##branch##_second(OP_PARAMS) { step##_then(OP_ARGS, branch##_second); }
#define ENDS(first, step) LOOP_BRANCH(END, first, step)
LOOP_STEP(ENDS, )

#define TRIPLE(first, step, branch) \
    static void first##__##step##__##branch(OP_PARAMS) { first##_then(OP_ARGS, step##__##branch##_second); }
#define TRIPLES_OF(first, step) LOOP_BRANCH(TRIPLE, first, step)
#define TRIPLES(first) LOOP_STEP(TRIPLES_OF, first)
LOOP_FIRST(TRIPLES)

/* What may be second, and for each first handler the combined ones in the same order. */
static op_handler *const lasts[] = {
#define ENTRY(first, last) last,
    LAST(ENTRY, )
#undef ENTRY
};
static op_handler *const loop_ends[] = {
#define ENTRY(first, step, branch) step##__##branch,
#define ENTRIES(first, step) LOOP_BRANCH(ENTRY, first, step)
    LOOP_STEP(ENTRIES, )
#undef ENTRY
#undef ENTRIES
};
#define LENGTH(array) (sizeof(array) / sizeof(*(array)))

static const struct {
    op_handler *first;
    op_handler *combined[LENGTH(lasts)];
} pairs[] = {
#define ENTRY(first, last) first##__##last,
#define ROW(first) {first, {LAST(ENTRY, first)}},
    FIRST(ROW)
#undef ENTRY
#undef ROW
};
static const struct {
    op_handler *first;
    op_handler *combined[LENGTH(loop_ends)];
} triples[] = {
#define ENTRY(first, step, branch) first##__##step##__##branch,
#define ENTRIES(first, step) LOOP_BRANCH(ENTRY, first, step)
#define ROW(first) {first, {LOOP_STEP(ENTRIES, first)}},
    LOOP_FIRST(ROW)
};

static unsigned position(op_handler *const *list, unsigned n, op_handler *fn)
{
    unsigned i = 0;
    while (i < n && list[i] != fn)
        i++;
    return i;
}

op_handler *combined(op_handler *first, op_handler *last)
{
    unsigned pair = position(lasts, LENGTH(lasts), last);
    for (unsigned i = 0; pair < LENGTH(lasts) && i < LENGTH(pairs); i++)
        if (pairs[i].first == first)
            return pairs[i].combined[pair];
    unsigned end = position(loop_ends, LENGTH(loop_ends), last);
    for (unsigned i = 0; end < LENGTH(loop_ends) && i < LENGTH(triples); i++)
        if (triples[i].first == first)
            return triples[i].combined[end];
    return NULL;
}

#else

#include "execute.h"

/* Each handler returns to the loop here. */
op_handler *combined(op_handler *first, op_handler *last)
{
    (void)first, (void)last;
    return NULL;
}

#endif
