/*
 * kprobe.h: the probe table of the patch and its hooks in the traps.
 *
 * kprobe_table.c registers and looks up, kprobe_group.c knows several at one
 * address, kprobe.c is the patch's trap side, kprobe_intercept.c puts it before a
 * guest's own IDT.
 */
#ifndef PYK_KPROBE_H
#define PYK_KPROBE_H

#include "machine.h"

#define BREAKPOINT_INSTRUCTION 0xCC

/* What "fixed" mends of "2.5.26"; the numbers are those of the list of known defects in docs/kprobes.md. */
struct kprobe_semantics {
    bool back_up_eip;           /* 1: a trap whose probe went away meanwhile restarts the instruction at its start */
    bool deliver_cd03;          /* 2: INT 3 in two bytes is no removed probe */
    bool skip_user;             /* 3: traps from user and virtual-8086 code are not ours; code bases are honoured */
    bool step_nested;           /* 6: a probe hit inside a hit is counted and stepped, and stays armed */
    bool validate;              /* 8: no probes on the trap's own entry; nor on a breakpoint or twice unregistered */
    bool step_copy;             /* 4: with several CPUs a copy is stepped, and the breakpoint stays */
    bool hit_of_cpu;            /* 5: each CPU has a hit of its own, so that none waits for another's */
    bool restore_interrupts;    /* 10: on every way to the old handlers */
    bool debug_hook_first;      /* 11: before the lazy-DR7 filter; a step taken leaves no BS in DR6 */
    bool fpu_hook_first;        /* 12: before CLTS */
    bool step_done;             /* 13: a fault in the post_handler is not one of the step */
    bool pre_may_jump;          /* 14: an eip that the pre_handler sets is where execution goes on, without a step */
    bool int1_kernel_only;      /* 15: INT 1 is #GP in ring 3 */
    bool null_pre_handler;      /* 17: may be left out */
    bool see_prefixes;          /* 18: pushf and IF modifiers are known behind prefixes */
    bool fix_image;             /* 18: the flags that INT n or a task switch at the probe stores are those before it */
    bool share_address;         /* several probes at one address */
    bool lock_irqsave;          /* register and unregister keep IF, and work from handlers */
    bool hide;                  /* on a PC's board breakpoints are no bytes of memory */
};
/* By enum kprobes_mode; NULL when off. */
const struct kprobe_semantics *kprobe_semantics(int mode);

struct kprobe {
    u32 addr;                   /* linear address of the probe point */
    s32 list_next, list_prev;   /* ids of the neighbours in its bucket of the patch's table, -1 at the ends */
    s32 id;
    u8 opcode;                  /* the byte that the breakpoint replaced */
    u8 insn_opcode;             /* the opcode behind the prefixes */
    u8 insn_length;             /* INT n, INT3, INTO, INT1: length; else 0 */
    u16 pins;                   /* hits that are using it */
    bool registered;
    u8 path;                    /* enum kprobe_path: the fastest that instruction and handlers allow */
    u8 handlers;                /* PROBE_PRE | PROBE_POST | PROBE_FAULT: Python handlers */
    bool disabled;
    struct action **actions;    /* chain that runs before the Python pre_handler, or NULL */
    struct kprobe *next_here, *prev_here;   /* others at this address, by number; the first one stands in the tables */
    struct kprobe *last_here;   /* the first one's: the last one */
    u32 enabled;                /* the first one's: how many are not disabled */
    bool armed;                 /* the first one's: the breakpoint is in place, but for hits that run */
    bool present;               /* the first one's: the breakpoint is in memory, as far as the probes know */
    u64 *counter;               /* of the one action, which only counts; else NULL */
    s32 page_next;              /* the first one's, hidden: id of the next one with this hash of its page, or -1 */
    struct kprobe_stats stats;
};

/* kprobe_status */
enum kprobe_status {
    KPROBE_HIT_ACTIVE = 1,      /* in the pre_handler */
    KPROBE_HIT_SS = 2,          /* single-stepping */
    KPROBE_REENTER = 4,         /* fixed: stepping a probe that was hit inside a hit */
    KPROBE_HIT_SSDONE = 8,      /* fixed: in the post_handler */
};

struct kprobe_hit {             /* the patch's globals of one hit */
    struct kprobe *running;     /* the first one of its address when the hit began */
    struct kprobe *handled;     /* of several, the one whose handler runs; else NULL */
    u32 end;                    /* probes with this number and on were registered meanwhile */
    bool shared;                /* there were several: if the first one is gone, others may be there */
    u32 status;                 /* enum kprobe_status */
    u32 old_eflags, saved_eflags; /* TF and IF only */
    u32 dr6;                    /* BS of a step that the hit came between: its trap is delivered, but not served */
    struct segment task;        /* TR when the hit began */
};
#define KPROBE_PAGES 1024u
#define KPROBE_NESTING (CALL_DEPTH_MAX + 2)
#define KPROBE_NO_CPU (-1)      /* NR_CPUS of the patch; a lock that is free */

struct kprobe_context {         /* who is in a hit, and in which */
    s32 cpu;                    /* kprobe_cpu: whose hit runs, else KPROBE_NO_CPU */
    struct kprobe_hit now;
    struct kprobe_hit outer[KPROBE_NESTING]; /* fixed: hits that the running one interrupted */
    u32 nested;
};

struct kprobes {
    const struct kprobe_semantics *mends;
    struct kprobe_context *contexts; /* 2.5.26: one for the machine; fixed: one for each CPU */
    struct kprobe_context *context; /* that of the CPU that executes */
    bool spins;                 /* 2.5.26 on several CPUs: they wait for the lock */
    bool copies;                /* fixed on several CPUs: they step a copy of the instruction */
    s32 lock;                   /* kprobe_lock: the CPU that holds it, else KPROBE_NO_CPU */
    u32 on_entry;               /* probes on the trap entry itself */
    s32 *pages;                 /* hidden: KPROBE_PAGES first ids by hash of the page; NULL when breakpoints are bytes */

    struct kprobe **by_id;      /* stable while registered; kept for reuse */
    u32 ids, id_space;
    u32 numbers;                /* given to probes so far */
    s32 free_id;                /* chain of unregistered ids through list_next, -1 at the end */
    struct kprobe **index;      /* by address, open addressing */
    u32 index_bits, registered;
    s32 bucket[KPROBE_TABLE_SIZE]; /* first id, -1 when empty: newest first */
    u32 occupancy[KPROBE_TABLE_SIZE];
};

struct kprobe_hit_capture {
    u32 addr;                   /* of its probe */
    u32 context;                /* index in struct kprobes */
    struct kprobe_hit hit;      /* all but running, which is NULL */
};
struct kprobe_capture {         /* what struct kprobes has of the machine's state: all but the probes themselves */
    s32 lock;
    s32 cpu[CPUS_MAX];          /* of each context */
    u32 count, room;
    struct kprobe_hit_capture *hits;    /* outermost first, context after context */
};
bool kprobes_capture(const struct machine *m, struct kprobe_capture *ret);
void kprobe_capture_deinit(struct kprobe_capture *c);
/* Nobody is in a hit, the lock is free. */
void kprobes_release(struct machine *m);
/* After that: false: the probe of a hit is not registered, and so none is running. */
bool kprobes_rewind(struct machine *m, const struct kprobe_capture *c);

bool kprobes_create(struct machine *m);
void kprobes_destroy(struct machine *m);

/* The hit of the CPU that executes. */
ALWAYS_INLINE struct kprobe_context *kprobe_context(const struct machine *m)
{
    return m->kprobes->context;
}
/* Does it run one? Is that in its single step? */
ALWAYS_INLINE bool kprobe_running(const struct machine *m)
{
    return kprobe_context(m)->cpu == (s32)m->cpu->index;
}
ALWAYS_INLINE bool kprobe_stepping(const struct machine *m)
{
    return kprobe_running(m) && kprobe_context(m)->now.status & (KPROBE_HIT_SS | KPROBE_REENTER);
}
/* Another CPU executes. */
ALWAYS_INLINE void kprobe_select(struct machine *m)
{
    struct kprobes *kp = m->kprobes;
    if (kp)
        kp->context = &kp->contexts[kp->mends->hit_of_cpu ? m->cpu->index : 0];
}

/* kprobe_lock among several CPUs. Held by anybody? */
ALWAYS_INLINE bool kprobe_lock_held(const struct machine *m)
{
    return m->kprobes && m->kprobes->lock != KPROBE_NO_CPU;
}
/* Must this CPU, at a breakpoint, take it first? */
ALWAYS_INLINE bool kprobe_must_lock(const struct machine *m)
{
    return m->kprobes && m->kprobes->spins && !kprobe_running(m);
}
/* Does it hold the lock without being kprobe_cpu? */
ALWAYS_INLINE bool kprobe_holds(const struct machine *m)
{
    const struct kprobes *kp = m->kprobes;
    return kp && kp->spins && kp->lock == (s32)m->cpu->index && !kprobe_running(m);
}
/* Spin: its turn passes, and what it does now it does again when the lock is free. Returns STATUS_JUMP. */
int kprobe_wait(struct machine *m);
/* The CPU that holds the lock which a CPU waits for, or KPROBE_NO_CPU. */
s32 kprobe_waits_for(const struct cpu *cpu);
/* Does the CPU step a copy of the instruction at lin? Its first byte is then *ret, whatever memory holds. */
bool kprobe_copy(const struct cpu *cpu, u32 lin, u8 *ret);

/* The registered probe at a linear address, NULL if none: constant time however many there are. */
struct kprobe *kprobe_at(const struct machine *m, u32 lin);
/* The same if it is armed. */
struct kprobe *kprobe_armed_at(const struct machine *m, u32 lin);
/* On a PC's board breakpoints are hidden: no byte of the guest's memory changes, so that nothing that it checks or
 * patches there, its own kprobes first of all, meets them. A probe may then be where no memory is yet: it is bound when
 * code is fetched from its page. */
ALWAYS_INLINE bool kprobes_hidden(const struct kprobes *kp)
{
    return kp->pages;
}
/* Would execution meet a probe's breakpoint there? The caller knows that memory holds byte. */
bool kprobe_in_place(const struct machine *m, u32 lin, u8 byte);
/* Code is fetched from a page for the first time since the mapping changed: bind the hidden probes in it. */
void kprobe_page_fetched(struct machine *m, u32 lin);
/* Breakpoints are hidden from here on. False: out of memory. */
bool kprobes_hide(struct kprobes *kp);
/* An address's first probe comes into the tables; goes out of them, next taking its place if it is not NULL. */
void kprobe_hidden_add(struct kprobes *kp, struct kprobe *p);
void kprobe_hidden_replace(struct kprobes *kp, const struct kprobe *p, struct kprobe *next);
/* The guest may have changed the instruction since p was registered: find out what it is. */
void kprobe_look_again(struct machine *m, struct kprobe *p);
/* Find out what instruction p is at. */
void kprobe_classify(struct machine *m, struct kprobe *p, u8 first);
/* Breakpoint and decoded code of an address's first probe. False: out of memory. */
bool kprobe_arm(struct machine *m, struct kprobe *p);
void kprobe_disarm(struct machine *m, struct kprobe *p);
/* Add p to the probes at first's address, false: out of memory; take it from them, if it is not the only one. */
bool kprobe_join(struct machine *m, struct kprobe *first, struct kprobe *p);
void kprobe_part(struct machine *m, struct kprobe *p);
/* The probe behind p, whose number was number when it was looked at, whatever handlers have taken away since. */
struct kprobe *kprobe_next_here(const struct machine *m, const struct kprobe *p, u32 number);
/* next takes p's place in the tables. */
void kprobe_replace(struct kprobes *kp, struct kprobe *p, struct kprobe *next);
/* Write a byte at a probe's address, whether or not a probe is registered there now. */
void kprobe_write(struct machine *m, u32 lin, u8 byte);
/* A hit takes the breakpoint away for the instruction, and puts it back. */
void kprobe_put(struct machine *m, const struct kprobe *p, bool there);
/* A hit begins or ends to use a probe: its id is not given away meanwhile. */
void kprobe_pin(struct kprobe *p);
void kprobe_unpin(struct kprobes *kp, struct kprobe *p);

/* The entry points' C side (kernel_traps.c calls them with the frame that is on the guest's stack, IF already off).
 * They return what the patch's functions return: nonzero, straight to restore_all. Negative: the negated reason to
 * stop; the frame is what the machine then shows. */
int do_int3(struct machine *m, struct frame *f);
int do_debug(struct machine *m, struct frame *f);
/* kprobe_fault(regs, trapnr) of the patch: nonzero swallows the trap. */
int kprobe_fault(struct machine *m, struct frame *f, int trapnr);
/* A trap's frame is complete, or what it will hold is known: if it is that of an INT n at the probe being stepped, the
 * step ends here. by_int: INT n, INT3, INTO or INT1 has just raised it. */
int kprobe_entered(struct machine *m, struct frame *f, bool by_int);
/* An instruction is about to run alone: a probe there whose breakpoint is away misses it, unless it is being stepped. */
void kprobe_passing(struct machine *m);
/* 2.5.26: a probe on the entry that serves probes; it would be hit again before anything notices. */
bool kprobe_blocks_entry(const struct machine *m, u32 lin);
/* Does going on from here belong to a hit that a stop or an exception ended? And: it does again, after a run in between. */
bool kprobe_resumes(const struct machine *m, u32 *ret_addr);
void kprobe_resume_at(struct machine *m, u32 addr);

/* A return handler runs for p's function: hits inside it are recursions, until release. False: too deep for that. */
bool kprobe_hold(struct machine *m, struct kprobe *p);
void kprobe_release(struct machine *m);

/* The patch's two halves of a hit, for kprobe_intercept.c. */
int kprobe_handler(struct machine *m, struct frame *f);
int post_kprobe_handler(struct machine *m, struct frame *f);

/* kprobe_paths.c. How may a probe that has just been registered be hit? */
void kprobe_choose_path(struct machine *m, struct kprobe *p);
/* The instruction behind a probe_hit op faults. */
void kprobe_inline_fault(struct machine *m, const struct op *op);
/* The handlers have run: does the instruction follow without a step? It is made ready then. */
bool kprobe_needs_no_step(struct machine *m, struct kprobe *p, const struct frame *f);
/* The instruction of cpu->boosted has run or has faulted. */
void kprobe_end_boost(struct machine *m);

/* With an IDT that is not the built-in one: takes an exception (cpu->fault, cpu->eip as for trap_deliver) before the
 * guest's gate when it is ours. 1: taken, go on at cpu->eip; 0: not ours; -1: stop, cpu->stop is set. */
int kprobe_intercept(struct machine *m);

#endif
