/* cdef_actions.h: what C does at a hit, as Python sees it; goes with cdef.h. */

/* Field programs: fetch arguments (kernel probe-event syntax) and filters, compiled by Python for a stack of 64-bit
 * values. Jumps go forward only, so a program is over after as many steps as it is long. */
enum field_code {
    FIELD_END,                  /* the value is on top */
    FIELD_WORD,                 /* push word arg of pt_regs */
    FIELD_SP,                   /* push the interrupted stack pointer */
    FIELD_KEPT,                 /* return probes: push value arg kept at the function's entry */
    FIELD_LATENCY,              /* return probes: push the instructions retired since then */
    FIELD_IMM,                  /* push imm */
    FIELD_HIGH,                 /* top |= imm << 32 */
    FIELD_STACK,                /* push arg bytes from memory at the stack pointer + imm */
    FIELD_LOAD,                 /* top = arg bytes from memory at top + imm */
    FIELD_BITS,                 /* top = to bits of top from bit arg on */
    FIELD_SIGN,                 /* sign-extend top from arg bits */
    FIELD_NEG, FIELD_INVERT, FIELD_NOT, FIELD_BOOL,             /* of top: -x, ~x, !x, !!x */
    FIELD_ADD, FIELD_SUB, FIELD_MUL, FIELD_AND, FIELD_OR, FIELD_XOR,    /* of the two on top; S signed, U unsigned */
    FIELD_DIVS, FIELD_DIVU, FIELD_MODS, FIELD_MODU, FIELD_SHL, FIELD_SHRS, FIELD_SHRU,
    FIELD_EQ, FIELD_NE, FIELD_LTS, FIELD_LTU, FIELD_LES, FIELD_LEU,
    FIELD_AND_ELSE,             /* && : if top is 0 go to instruction `to`, else drop it */
    FIELD_OR_ELSE,              /* || : if top is 1 go to instruction `to`, else drop it */
    FIELD_CODES
};
enum { FIELD_DEPTH = 32, FIELD_KEPT_MAX = 32, FIELD_STEPS_MAX = 4096 };
struct field_op {
    uint8_t code;               /* enum field_code */
    uint8_t arg;
    uint16_t to;
    uint32_t imm;
};
/* 0, or -1: not a program of n steps that ends, within the stack's depth. */
int field_check(const struct field_op *program, uint32_t n);

/* A ring of records. C writes, Python reads, maybe at the same time in another thread; its memory is numpy's. */
enum ring_full { RING_DROP_OLDEST, RING_DROP_NEWEST, RING_STOP };
struct ring {
    uint8_t *data;              /* capacity records of stride bytes */
    uint64_t capacity;
    uint32_t stride;
    int32_t full;               /* enum ring_full */
    uint64_t slot;              /* where the next record goes */
    uint64_t begun, written;    /* records since the memory was given; they differ while one is being written */
    uint64_t drained;           /* of these, how many the reader has */
    uint64_t dropped;           /* newest ones */
};
/* Copy the records from number first up to, not including, end, which is not beyond `written`. Returns how many of the
 * first ones are not valid because they were overwritten meanwhile. */
uint64_t ring_copy(struct ring *r, uint64_t first, uint64_t end, void *out);
/* New memory, empty. Not while a run is in progress in another thread. */
void ring_give(struct ring *r, uint8_t *data);

/* What a record begins with; fields follow. */
struct record_head {
    uint64_t icount;            /* instructions retired before the hit */
    uint16_t cpu;
    uint16_t reserved;          /* 0 */
    uint32_t probe;             /* number of the probe */
    uint64_t faults;            /* bit i: field i could not be read and is 0 */
};
enum record_kind { RECORD_VALUE, RECORD_ARRAY, RECORD_STRING };
struct record_field {
    const struct field_op *program; /* gives the value, or the address of the array's or string's first byte */
    uint16_t offset;            /* in the record */
    uint16_t size;              /* bytes of the value or element; of a string with its padding */
    uint16_t count;             /* elements, 1 if no array; of strings: pointers are followed */
    uint16_t kind;              /* enum record_kind */
};

/* Actions run in C at a hit. All memory that they point to is Python's, lent for the life of the action. */
enum action_kind {
    ACTION_COUNT, ACTION_STOP, ACTION_WHEN, ACTION_EVERY, ACTION_RANDOM,
    ACTION_HIST_LOG2, ACTION_HIST_LINEAR, ACTION_HIST_EDGES, ACTION_HIST_KEYS, ACTION_RECORD,
    ACTION_RETURN, ACTION_KINDS
};
enum { ACTION_NEXT = 0, ACTION_END = 1, ACTION_STOPS = 2 }; /* go on; leave this chain; and end the run behind the hit */
struct action {
    int (*run)(machine *m, struct action *a, struct frame *f, uint32_t probe);  /* action_prepare sets it */
    uint64_t count;             /* hits seen */
    uint64_t passed;            /* filters, samples: hits that went on to the next action */
    uint64_t faults;            /* hits whose program could not read memory or divided by zero */
    const struct field_op *program; /* filters: go on if it is not 0; histograms: what is binned */
    int32_t kind;               /* enum action_kind */
    int32_t is_signed;          /* edges: how values compare */

    uint64_t *bins;             /* log2: bin 0 is value 0, bin k is [2^(k-1), 2^k), 65 bins; others: 1 below, nbins, 1 above */
    uint32_t nbins;             /* keys: how many there is room for */
    uint32_t shift;             /* linear: width is 1 << shift; 64: it is no power of two */
    int64_t lo;                 /* linear: lowest value of bins[1] */
    int64_t width;              /* linear: values per bin */
    int64_t *edges;             /* edges: nbins + 1, ascending */

    uint64_t *keys;             /* keys: the values in bins[0] ... bins[used - 1] */
    uint32_t *index;            /* keys: their places + 1, open addressing by value; 0: free */
    uint32_t index_mask;        /* slots of index - 1, a power of two - 1, at least 2 * nbins - 1 */
    uint32_t used;
    uint64_t others;            /* keys: values that found no room */

    uint64_t every;             /* every n-th hit passes, or those whose random 64 bits are below this */
    uint64_t state;             /* hits since the last one, or the generator's state; a return probe's id */

    struct ring *ring;
    const struct record_field *fields;
    uint32_t nfields;
};
/* After the rest is filled in, and when fields were: how it runs. */
void action_prepare(struct action *a);
/* The value of a program for the frame of the handler that is running. 0, or -1: it could not be computed. */
int machine_fetch(machine *m, const struct field_op *program, uint64_t *ret);
/* Bytes of the string at lin without its NUL, at most max; -1: not readable. */
int machine_fetch_string(machine *m, uint32_t lin, char *buf, uint32_t max);

/* Return probes: an action ACTION_RETURN, or kretprobe_enter from a Python handler, at a function's entry; and what runs
 * when the function returns through the trampoline. */
struct kretprobe_stats {
    uint64_t hits;              /* returns */
    uint64_t nmissed;           /* calls that are not followed: all instances were out, or the stack not writable */
    uint64_t abandoned;         /* instances of calls that never returned */
    uint32_t active;            /* instances that are out */
};
struct kretprobe_instance {     /* a call that has not returned */
    struct kretprobe_instance *older;
    struct kretprobe *rp;
    uint32_t number;            /* among its probe's instances */
    uint32_t probe;             /* what records call the probe */
    uint32_t ret_addr;          /* the real one */
    uint32_t slot;              /* where on the stack it was */
    uint64_t entered;           /* time of the entry */
    uint32_t kept_faults;       /* bit i: kept[i] could not be computed */
    uint64_t kept[32];          /* FIELD_KEPT_MAX */
};
struct kept_field {             /* a value that is computed at entry */
    const struct field_op *program;
    uint32_t slot;              /* below FIELD_KEPT_MAX */
};
/* The id >= 0 or -ENOMEM. Actions and the handler (CALLBACK_RETURN) are those of returns. */
int kretprobe_create(machine *m, uint32_t maxactive, struct action **actions, const struct kept_field *kept,
                     uint32_t kept_count, int python);
/* The probe at the entry is this one. */
void kretprobe_bind(machine *m, int id, int kprobe);
/* Calls that are out return without handlers. */
void kretprobe_destroy(machine *m, int id);
const struct kretprobe_stats *kretprobe_stats(machine *m, int id);
/* In a Python handler at the entry. Is an instance free? If not, that is counted. And: follow this call, as the
 * instance whose number it returns, or -1. */
int kretprobe_ready(machine *m, int id);
int kretprobe_enter(machine *m, int id, uint32_t probe);
/* The instance whose handler runs; NULL: none does. */
const struct kretprobe_instance *kretprobe_returning(machine *m);
