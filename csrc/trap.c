/* trap.c: exceptions, software and external interrupts through the guest's IDT (SDM vol. 3, chapter 6). */
#include "trap.h"

#include "api.h"
#include "gate.h"
#include "mmu.h"
#include "task.h"

/* What is being delivered. */
struct event {
    u32 vector;
    u32 error_code;
    u32 ext;                    /* EXT bit of error codes: not asked for by an instruction */
    u32 length;                 /* as in struct fault */
    bool has_error;
    bool software;              /* int n, int3, into */
    bool external;              /* interrupt from outside */
    bool retired;               /* as in struct fault */
};

enum severity { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

/* SDM vol. 3, table 6-4; INT n is benign whatever its vector. */
static enum severity severity(const struct event *ev)
{
    static const u8 of_vector[] = {
        [T_DIVIDE] = CONTRIBUTORY, [T_TSS] = CONTRIBUTORY, [T_SEGNP] = CONTRIBUTORY, [T_STACK] = CONTRIBUTORY,
        [T_GPFLT] = CONTRIBUTORY, [T_PGFLT] = PAGE_FAULT, [T_DBLFLT] = DOUBLE_FAULT, [T_ALIGN] = BENIGN
    };
    if (ev->external || ev->software || ev->vector >= sizeof of_vector)
        return BENIGN;
    return of_vector[ev->vector];
}

/* SDM vol. 3, table 6-5: does a second fault while delivering the first make a double fault? */
static bool makes_double(enum severity first, enum severity second)
{
    return (first == CONTRIBUTORY && second == CONTRIBUTORY) || (first == PAGE_FAULT && second != BENIGN);
}

/* Vectors whose exceptions are faults, reported before the instruction: their frame shows RF set, so that
 * the restart passes an instruction breakpoint (SDM vol. 3, 17.3.1.1). #DB is never among them. */
#define FAULT_CLASS (1u << T_DIVIDE | 1u << T_BOUND | 1u << T_ILLOP | 1u << T_DEVICE | 1u << T_DBLFLT | 1u << T_TSS | \
                     1u << T_SEGNP | 1u << T_STACK | 1u << T_GPFLT | 1u << T_PGFLT | 1u << T_FPERR | 1u << T_ALIGN | \
                     1u << T_SIMD)

static u32 flags_image(const struct cpu *cpu, const struct event *ev)
{
    u32 flags = cpu_eflags(cpu);
    if (ev->length)
        return flags & ~EFLAGS_RF;
    if (!ev->external && ev->vector < 32 && (FAULT_CLASS >> ev->vector & 1))
        return flags | EFLAGS_RF;
    return flags;
}

/* SDM vol. 2, INT n, real-address mode. */
static int deliver_real(struct cpu *cpu, const struct event *ev)
{
    u32 at = ev->vector * 4u, off, selector;
    struct stack stack;
    if (at + 3 > cpu->idtr.limit)
        return cpu_fault(cpu, T_GPFLT);
    if (!lin_read(cpu, cpu->idtr.base + at, 2, ACCESS_SYSTEM, &off) ||
        !lin_read(cpu, cpu->idtr.base + at + 2, 2, ACCESS_SYSTEM, &selector))
        return STATUS_FAULT;
    if (!segment_contains(&cpu->seg[CS], off, 1))
        return cpu_fault(cpu, T_GPFLT);
    const u32 words[3] = {flags_image(cpu, ev), cpu->seg[CS].selector, cpu->eip};
    stack_current(cpu, 0, &stack);
    if (!stack_write(cpu, &stack, words, 3, 2))
        return STATUS_FAULT;
    stack_commit(cpu, &stack);
    segment_set_paragraph(&cpu->seg[CS], (u16)selector, false);
    cpu->eip = off;
    cpu->eflags &= ~(EFLAGS_IF | EFLAGS_TF | EFLAGS_AC | EFLAGS_RF);
    return STATUS_JUMP;
}

/* The checks of the gate itself. */
static int read_gate(struct cpu *cpu, const struct event *ev, u32 gate[2])
{
    u32 at = ev->vector * 8u, error = at | 2 | ev->ext;
    if (at + 7 > cpu->idtr.limit)
        return cpu_fault_code(cpu, T_GPFLT, error);
    if (!lin_read_pair(cpu, cpu->idtr.base + at, gate))
        return STATUS_FAULT;
    unsigned type = DESC_TYPE(gate);
    bool task = type == SYS_TASK, known = task || (type & 7 & ~1u) == SYS_INT16;
    if ((gate[1] & DESC_S) || !known || (ev->software && DESC_DPL(gate) < cpu->cpl))
        return cpu_fault_code(cpu, T_GPFLT, error);
    if (!(gate[1] & DESC_P))
        return cpu_fault_code(cpu, T_SEGNP, error);
    return STATUS_NEXT;
}

/* The gate's code segment; ret_cpl: the privilege that it runs at. */
static bool check_handler(struct cpu *cpu, u16 selector, u32 ext, u32 desc[2], unsigned *ret_cpl)
{
    bool v86 = cpu->mode & MODE_V86;
    if (SELECTOR_NULL(selector)) {
        cpu_fault_code(cpu, T_GPFLT, ext);
        return false;
    }
    if (!descriptor_get(cpu, selector, T_GPFLT, ext, desc))
        return false;
    if (!desc_is_code(desc) || DESC_DPL(desc) > cpu->cpl) {
        fault_selector(cpu, T_GPFLT, selector, ext);
        return false;
    }
    if (!(desc[1] & DESC_P)) {
        fault_selector(cpu, T_SEGNP, selector, ext);
        return false;
    }
    *ret_cpl = desc_is_conforming(desc) ? cpu->cpl : DESC_DPL(desc);
    if (v86 && *ret_cpl != 0) {
        fault_selector(cpu, T_GPFLT, selector, ext);
        return false;
    }
    return descriptor_touch(cpu, selector, desc);
}

/* What the frame holds, in the order of the pushes (SDM vol. 3, figures 6-4 and 20-3). */
static unsigned build_frame(const struct cpu *cpu, const struct event *ev, bool inner, u32 *words)
{
    static const u8 v86_segments[] = {GS, FS, DS, ES};
    unsigned n = 0;
    if (cpu->mode & MODE_V86)
        for (unsigned i = 0; i < 4; i++)
            words[n++] = cpu->seg[v86_segments[i]].selector;
    if (inner) {
        words[n++] = cpu->seg[SS].selector;
        words[n++] = cpu->gpr[ESP];
    }
    words[n++] = flags_image(cpu, ev);
    words[n++] = cpu->seg[CS].selector;
    words[n++] = cpu->eip;
    if (ev->has_error)
        words[n++] = ev->error_code;
    return n;
}

static void enter_handler(struct cpu *cpu, const u32 gate[2], const struct segment *cs, u32 eip)
{
    static const u8 data_segments[] = {DS, ES, FS, GS};
    if (cpu->mode & MODE_V86)
        for (unsigned i = 0; i < 4; i++)
            segment_set_null(&cpu->seg[data_segments[i]], 0);
    cpu->seg[CS] = *cs;
    cpu->eip = eip;
    cpu->eflags &= ~(EFLAGS_TF | EFLAGS_NT | EFLAGS_RF | EFLAGS_VM);
    if (!(DESC_TYPE(gate) & 1))
        cpu->eflags &= ~EFLAGS_IF;
}

/* Through a task gate. Behind the commit point a fault is the new task's, and what was interrupted is settled. */
static int deliver_task(struct cpu *cpu, struct event *ev, u16 selector)
{
    struct task_switch ts = {.cause = TASK_EVENT, .eip = cpu->eip, .eflags = flags_image(cpu, ev), .ext = ev->ext,
                             .has_error = ev->has_error, .error_code = ev->error_code};
    int status = task_switch(cpu, selector, &ts);
    if (ts.committed) {
        ev->length = 0;
        ev->retired = false;
    }
    return status;
}

static int deliver_protected(struct cpu *cpu, struct event *ev)
{
    u32 gate[2], desc[2], words[FRAME_MAX];
    unsigned cpl;
    struct stack stack;
    int status = read_gate(cpu, ev, gate);
    if (status != STATUS_NEXT)
        return status;
    if (DESC_TYPE(gate) == SYS_TASK)
        return deliver_task(cpu, ev, (u16)(gate[0] >> 16));
    if (!check_handler(cpu, (u16)(gate[0] >> 16), ev->ext, desc, &cpl))
        return STATUS_FAULT;

    bool inner = cpl < cpu->cpl, wide = DESC_TYPE(gate) & TYPE_WIDE;
    u32 eip = wide ? (gate[0] & 0xFFFF) | (gate[1] & 0xFFFF0000) : gate[0] & 0xFFFF;
    struct segment cs;
    segment_code(&cs, (u16)(gate[0] >> 16), desc, cpl);
    if (!inner)
        stack_current(cpu, ev->ext, &stack);
    else if (!stack_inner(cpu, cpl, ev->ext, &stack))
        return STATUS_FAULT;
    if (eip > cs.limit)
        return cpu_fault_code(cpu, T_GPFLT, ev->ext);
    unsigned count = build_frame(cpu, ev, inner, words);
    if (!stack_write(cpu, &stack, words, count, wide ? 4 : 2))
        return STATUS_FAULT;
    stack_commit(cpu, &stack);
    enter_handler(cpu, gate, &cs, eip);
    return STATUS_JUMP;
}

static int deliver(struct cpu *cpu, struct event *ev)
{
    int status = cpu->cr0 & CR0_PE ? deliver_protected(cpu, ev) : deliver_real(cpu, ev);
    if (status != STATUS_JUMP)
        return status;
    mode_update(cpu);
    if (ev->vector == T_DEBUG && !ev->external && !ev->software)
        cpu->dr[7] &= ~DR7_GD;  /* SDM vol. 3, 17.2.4 */
    cpu->halted = false;
    cpu->shadow = 0;
    return STATUS_JUMP;
}

static struct event event_of(const struct fault *f)
{
    return (struct event){.vector = f->vector, .error_code = f->error_code, .ext = !f->software, .length = f->length,
                          .has_error = f->has_error, .software = f->software, .retired = f->retired};
}

/* An INT n that cannot be delivered faults or stops like any instruction: it did not retire. */
static void unretire(struct cpu *cpu, const struct event *ev)
{
    cpu->eip -= ev->length;
    if (ev->retired)
        cpu->budget++;
}

/* The event that a fault during the delivery of ev makes of it. False: shutdown. */
static bool escalate(struct cpu *cpu, struct event *ev)
{
    struct event second = event_of(&cpu->fault);
    if (second.vector == T_PGFLT)
        cpu->cr2 = cpu->fault.address;
    if (severity(ev) == DOUBLE_FAULT)
        return false;
    if (makes_double(severity(ev), severity(&second)))
        cpu_fault_code(cpu, T_DBLFLT, 0);
    *ev = event_of(&cpu->fault);
    return true;
}

/* Ends: each fault in delivery is contributory or a page fault, so the fourth at the latest is a double fault. */
static int deliver_event(struct cpu *cpu, struct event *ev)
{
    while (likely(!cpu->fault.stop)) {
        if (likely(deliver(cpu, ev) == STATUS_JUMP))
            return STATUS_JUMP;
        unretire(cpu, ev);
        if (!cpu->fault.stop && !escalate(cpu, ev))
            return cpu_stop(cpu, STOP_SHUTDOWN);
    }
    return cpu_stop(cpu, cpu->fault.stop);
}

int trap_deliver(struct cpu *cpu)
{
    struct event ev = event_of(&cpu->fault);
    if (ev.vector == T_PGFLT && !ev.software)
        cpu->cr2 = cpu->fault.address;
    return deliver_event(cpu, &ev);
}

int trap_interrupt(struct cpu *cpu, u8 vector)
{
    struct event ev = {.vector = vector, .ext = 1, .external = true};
    cpu->fault = (struct fault){.vector = vector};
    return deliver_event(cpu, &ev);
}
