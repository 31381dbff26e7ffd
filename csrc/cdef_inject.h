/* cdef_inject.h: fault injection, as Python sees it. Times are instructions retired since the snapshot. */

/* What a traced run did, in order. */
enum trace_kind { TRACE_READ = 1, TRACE_WRITE = 2, TRACE_EXECUTE = 4, TRACE_EXCEPTION = 8 };
struct trace_event {
    uint64_t time;              /* of the instruction: how many had retired before it */
    uint32_t address;           /* linear; EXCEPTION: the vector */
    uint32_t phys;              /* of the first byte */
    uint32_t eip;               /* of the instruction */
    uint16_t size;              /* bytes of the access; of the instruction */
    uint8_t kind;               /* one enum trace_kind */
    uint8_t system;             /* the CPU's own access: descriptors, gates, stacks of traps */
};

/* Where experiments begin and end. */
struct inject_range {
    uint32_t first, last;       /* linear addresses */
};
struct inject_setup {
    int32_t has_end;            /* the run ends before the instruction at end; else with HLT */
    uint32_t end;
    const uint32_t *detected;   /* addresses: coming here means that the program has noticed the fault */
    uint32_t detected_count;
    const struct inject_range *output;  /* memory that is the result */
    uint32_t output_count;
    const struct inject_range *image;   /* where code may be; none: anywhere */
    uint32_t image_count;
    uint64_t interval;          /* between checkpoints of the golden run */
};

/* The run without faults. */
typedef struct golden golden;
enum golden_error { GOLDEN_GOOD, GOLDEN_MEMORY, GOLDEN_STOPPED, GOLDEN_ENDLESS, GOLDEN_UNREPEATABLE, GOLDEN_OUTPUT };
/* Runs it twice, up to limit instructions. NULL: *ret_error says why; GOLDEN_STOPPED: stop says how it ended. */
golden *golden_create(const snapshot *s, const struct inject_setup *setup, uint64_t limit, int32_t *ret_error,
                      struct stop_info *ret_stop);
void golden_destroy(golden *g);
uint64_t golden_length(const golden *g);
uint32_t golden_checkpoints(const golden *g);
uint32_t golden_output(const golden *g, uint8_t *ret, uint32_t room);   /* how many bytes there are */
/* The golden run once more, with each access and instruction in events; returns how many there are. */
uint64_t golden_trace(const golden *g, struct trace_event *events, uint64_t room);

/* Faults. */
enum fault_trigger { TRIGGER_TIME, TRIGGER_HIT, TRIGGER_ACCESS, TRIGGER_EXCEPTION };
enum fault_kind { FAULT_REGISTER, FAULT_MEMORY, FAULT_CF, FAULT_RREG, FAULT_WREG, FAULT_RVAL, FAULT_WVAL, FAULT_RADDR,
                  FAULT_WADDR, FAULT_TXT, FAULT_RETURN };
enum fault_model { MODEL_FLIP, MODEL_SET0, MODEL_SET1, MODEL_OVERWRITE, MODEL_SKIP, MODEL_JUMP };
enum fault_lifespan { LIFE_ONCE, LIFE_SPAN, LIFE_OVERWRITTEN, LIFE_PERMANENT };
struct inject_fault {
    uint64_t time;              /* TIME: instructions since the snapshot; else which one, from 1, counted from there */
    uint64_t span;              /* SPAN: instructions; SKIP: how many to skip */
    uint64_t mask, value;       /* which bits; OVERWRITE and JUMP: what they become */
    uint32_t group;             /* faults of one experiment, in the order in which they are awaited */
    uint32_t where;             /* HIT, ACCESS: linear address; EXCEPTION: vector */
    uint32_t target;            /* REGISTER, RREG, WREG: enum reg_id or fault_register; MEMORY: linear address; TXT: offset
                                 * in the instruction; RVAL to WADDR: which access of the instruction, from 0 */
    uint8_t trigger, kind, model, lifespan;
    uint8_t size;               /* MEMORY: bytes, 1 to 8 */
    uint8_t access;             /* ACCESS: TRACE_READ and TRACE_WRITE bits */
    uint8_t unread;             /* MEMORY: 1: the golden run writes there next, before it reads */
    uint8_t spare;
};
/* Registers beyond enum reg_id. */
enum fault_register {
    TARGET_ST = 64,             /* mantissas of ST(0) to ST(7) */
    TARGET_SE = 72,             /* their signs and exponents */
    TARGET_FCW = 80, TARGET_FSW, TARGET_FTW, TARGET_MXCSR,
    TARGET_XMM = 96,            /* the lower and the upper half of XMM0, of XMM1 ... */
    TARGET_END = 112
};

enum outcome { OUTCOME_NONE, OUTCOME_MASKED, OUTCOME_LATENT, OUTCOME_SDC, OUTCOME_DETECTED, OUTCOME_TRAP, OUTCOME_HANG,
               OUTCOME_LEFT, OUTCOME_NOT_FIRED };
enum inject_early { EARLY_OVERWRITTEN = 1, EARLY_GOLDEN = 2, EARLY_LOOP = 4, EARLY_AUDITED = 8, EARLY_WRONG = 16 };
struct inject_result {
    uint64_t end;               /* when the run ended */
    uint64_t injected;          /* when the first fault took effect */
    uint64_t latency;           /* instructions from then to the end */
    uint64_t before, after;     /* the first fault's target, as the machine shows it */
    uint32_t eip, cr2, error_code;
    uint32_t at;                /* eip where the first fault took effect */
    int16_t vector;             /* -1: no exception */
    uint8_t outcome;            /* enum outcome */
    uint8_t reason;             /* enum stop_reason of the end */
    uint8_t fired;              /* how many of the faults took effect */
    uint8_t early;              /* enum inject_early bits */
    uint8_t spare[2];
};

/* A machine that does experiments; one for each thread. */
typedef struct injector injector;
injector *injector_create(const golden *g);
void injector_destroy(injector *in);
struct inject_limits {
    uint64_t limit;             /* when an experiment is a hang */
    uint32_t early;             /* which early exits are taken */
    uint32_t spare;
};
/* Experiments in ascending order of their first fault's time: starts[i] is the row of the first fault of number i, and
 * starts[count] that behind the last. -1: out of host memory, results are not complete. */
int injector_run(injector *in, const struct inject_limits *limits, const struct inject_fault *faults, const uint64_t *starts,
                 uint64_t count, struct inject_result *results);
/* The i-th experiment's machine state at its end, or at a time, for replays. NULL: out of host memory. */
snapshot *injector_replay(injector *in, const struct inject_limits *limits, const struct inject_fault *faults, uint64_t count,
                          struct inject_result *result);
