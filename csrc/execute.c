/* execute.c: entering decoded code, the ways back to the run loop, callouts. */
#include "execute.h"

#include "block.h"
#include "kprobe.h"

static callout *const callout_table[CALLOUT_COUNT] = {
#define ENTRY(name) insn_##name,
    CALLOUTS(ENTRY)
#undef ENTRY
};

void execute(struct cpu *cpu, const struct op *op)
{
    cpu->leave = LEAVE_LOOKUP;
    cpu->exit_from = NULL;
    cpu->stale_from = NULL;
    cpu->code_changed = false;
#ifdef LOOP_DISPATCH
    for (cpu->next = op; cpu->next;)
        cpu->next->fn(cpu, cpu->next, cpu->tlb, cpu->fl.res, cpu->fl.a, cpu->fl.kind);
#else
    op->fn(cpu, op, cpu->tlb, cpu->fl.res, cpu->fl.a, cpu->fl.kind);
#endif
}

void leave(struct cpu *cpu, enum leave why, u32 res, u32 a, u32 kind)
{
    cpu->fl = (struct lazy_flags){res, a, kind};
    cpu->leave = why;
    cpu->next = NULL;
}

/* The handler's access is not a plain TLB hit. */
void go_slow(OP_PARAMS)
{
    handler_twins[op->id].slow(OP_ARGS);
}

/* Behind an instruction that changed decoded code, maybe this block. */
void leave_next(OP_PARAMS)
{
    (void)tlb;
    cpu->eip = op[1].eip;
    cpu->budget -= op[1].done;
    leave(cpu, LEAVE_LOOKUP, res, a, kind);
}

static void leave_exit(struct cpu *cpu, const struct op *op, unsigned taken)
{
    cpu->exit_from = OP_EXIT(op);
    cpu->exit_taken = (u8)taken;
    cpu->eip = cpu->exit_from->target[taken];
}

/* Through an exit whose count is already off the budget. */
void leave_taken(OP_PARAMS)
{
    (void)tlb;
    leave_exit(cpu, op, 1);
    leave(cpu, LEAVE_LOOKUP, res, a, kind);
}

void leave_fall(OP_PARAMS)
{
    (void)tlb;
    leave_exit(cpu, op, 0);
    leave(cpu, LEAVE_LOOKUP, res, a, kind);
}

void leave_indirect(OP_PARAMS)
{
    (void)tlb;
    (void)op;
    leave(cpu, LEAVE_LOOKUP, res, a, kind);
}

void leave_fault(OP_PARAMS)
{
    (void)tlb;
    if (unlikely(op->flags & OP_PROBED))
        kprobe_inline_fault(cpu->machine, op);
    cpu->eip = op->eip;
    cpu->budget -= op->done;
    leave(cpu, LEAVE_FAULT, res, a, kind);
}

/* In a slow access the CPU looks as it does in a callout: eip at the instruction, flags and count as before it. */
static void show_state(struct cpu *cpu, const struct op *op, struct lazy_flags fl)
{
    cpu->fl = fl;
    cpu->eip = op->eip;
    cpu->budget -= op->done;
}

static u64 hide_state(struct cpu *cpu, const struct op *op, bool good, u32 value)
{
    cpu->budget += op->done;
    return good ? value : MEM_FAULT;
}

u64 slow_load(struct cpu *cpu, const struct op *op, struct lazy_flags fl, unsigned size)
{
    u32 value = 0;
    show_state(cpu, op, fl);
    bool good = mem_read(cpu, op->seg, op_offset(cpu, op), size, &value);
    return hide_state(cpu, op, good, value);
}

u64 slow_modify(struct cpu *cpu, const struct op *op, struct lazy_flags fl, unsigned size)
{
    u32 value = 0, off = op_offset(cpu, op);
    show_state(cpu, op, fl);
    bool good = mem_check_write(cpu, op->seg, off, size) && mem_read(cpu, op->seg, off, size, &value);
    return hide_state(cpu, op, good, value);
}

bool slow_store(struct cpu *cpu, const struct op *op, struct lazy_flags fl, u32 value, unsigned size)
{
    show_state(cpu, op, fl);
    bool good = mem_write(cpu, op->seg, op_offset(cpu, op), value, size);
    return !(hide_state(cpu, op, good, 0) & MEM_FAULT);
}

bool slow_push(struct cpu *cpu, const struct op *op, struct lazy_flags fl, u32 value)
{
    show_state(cpu, op, fl);
    bool good = stack_push(cpu, value, 4);
    return !(hide_state(cpu, op, good, 0) & MEM_FAULT);
}

u64 slow_stack_load(struct cpu *cpu, const struct op *op, struct lazy_flags fl, u32 off)
{
    u32 value = 0;
    show_state(cpu, op, fl);
    bool good = mem_read(cpu, SS, off, 4, &value);
    return hide_state(cpu, op, good, value);
}

u64 slow_pop(struct cpu *cpu, const struct op *op, struct lazy_flags fl)
{
    u64 value = slow_stack_load(cpu, op, fl, REG32(cpu, 4 * ESP));
    if (!(value & MEM_FAULT))
        REG32(cpu, 4 * ESP) += 4;
    return value;
}

static const enum leave leave_of[] = {
    [STATUS_JUMP] = LEAVE_LOOKUP,
    [STATUS_FAULT] = LEAVE_FAULT,
    [STATUS_STOP] = LEAVE_STOP,
    [STATUS_REPEAT] = LEAVE_LOOKUP,
};

static int call_out(struct cpu *cpu, const struct op *op, u32 res, u32 a, u32 kind)
{
    cpu->fl = (struct lazy_flags){res, a, kind};
    cpu->eip = op->eip;
    cpu->budget -= op->done;
    return callout_table[op->id](cpu, op);
}

void callout_op(OP_PARAMS)
{
    (void)tlb;
    int status = call_out(cpu, op, res, a, kind);
    res = cpu->fl.res, a = cpu->fl.a, kind = cpu->fl.kind;
    if (unlikely(status != STATUS_NEXT)) {
        if (status == STATUS_FAULT && op->flags & OP_PROBED)
            kprobe_inline_fault(cpu->machine, op);
        leave(cpu, leave_of[status], res, a, kind);
        return;
    }
    cpu->budget += op->done;
    if (unlikely(cpu->code_changed)) {
        leave_next(OP_ARGS);
        return;
    }
    tlb = cpu->tlb;
    DISPATCH(op + 1, res, a, kind);
}

/* A callout after which nothing decoded before may be trusted: always back to the run loop. */
void callout_end(OP_PARAMS)
{
    (void)tlb;
    int status = call_out(cpu, op, res, a, kind);
    if (status == STATUS_NEXT) {
        const struct block_exit *exit = OP_EXIT(op);
        cpu->budget += op->done - exit->count;
        cpu->eip = exit->target[0];
        status = STATUS_JUMP;
    }
    if (status == STATUS_FAULT && op->flags & OP_PROBED)
        kprobe_inline_fault(cpu->machine, op);
    leave(cpu, leave_of[status], cpu->fl.res, cpu->fl.a, cpu->fl.kind);
}

void raise_ud(OP_PARAMS)
{
    cpu_fault(cpu, T_ILLOP);
    leave_fault(OP_ARGS);
}

static void leave_breakpoint(struct cpu *cpu, const struct op *op, u32 res, u32 a, u32 kind)
{
    cpu->fault = (struct fault){.vector = T_BRKPT, .software = true, .length = 1, .probe = true};
    cpu->eip = op->eip + 1;
    leave(cpu, LEAVE_FAULT, res, a, kind);
}

/* A registered probe's address. The byte there decides: a breakpoint traps, anything else means that the probe is
 * disarmed at the moment, and the instruction runs alone. The trap itself retires nothing: the probed instruction will. */
void probe_point(OP_PARAMS)
{
    (void)tlb;
    cpu->budget -= op->done;
    u32 lin = cpu->seg[CS].base + op->eip;
    if (kprobe_in_place(cpu->machine, lin, code_read_probe(cpu->machine, lin))) {
        leave_breakpoint(cpu, op, res, a, kind);
    } else {
        cpu->eip = op->eip;
        cpu->step_over = true;
        leave(cpu, LEAVE_LOOKUP, res, a, kind);
    }
}

/* First op of a block whose bytes changed: on to its successor, or to the run loop that finds it one. */
void stale(OP_PARAMS)
{
    struct block *block = (struct block *)((u8 *)(uintptr_t)op - offsetof(struct block, ops));
    if (block->forward) {
        op = block->forward->ops;
        DISPATCH(op, res, a, kind);
    }
    cpu->stale_from = block;
    cpu->eip = block->eip;
    leave(cpu, LEAVE_LOOKUP, res, a, kind);
}
