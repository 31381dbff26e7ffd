/* transfer.c: far jumps, calls and returns, IRET, and the instructions that raise exceptions. */
#include "callout.h"
#include "gate.h"
#include "task.h"

/* A checked place to go on at. */
struct target {
    u16 selector;
    u32 desc[2];
    u32 eip;
    unsigned cpl;               /* privilege there */
};

static bool fail(struct cpu *cpu, enum vector vector, u16 selector)
{
    fault_selector(cpu, vector, selector, 0);
    return false;
}

/* EIP must lie in the segment; last of all checks but those of the stack. */
static bool check_eip(struct cpu *cpu, const struct target *t)
{
    struct segment cs;
    segment_from_descriptor(&cs, 0, t->desc);
    return t->eip <= cs.limit || fail(cpu, T_GPFLT, 0);
}

static void enter(struct cpu *cpu, const struct target *t)
{
    segment_code(&cpu->seg[CS], t->selector, t->desc, t->cpl);
    cpu->eip = t->eip;
    mode_update(cpu);
}

static int branch_paragraph(struct cpu *cpu, u16 selector, u32 eip)
{
    segment_set_paragraph(&cpu->seg[CS], selector, cpu->mode & MODE_V86);
    mode_update(cpu);
    return op_jump(cpu, eip);
}

/* The return address of a far call, on the current stack. */
static bool push_return(struct cpu *cpu, const struct op *op, unsigned size)
{
    const u32 words[2] = {cpu->seg[CS].selector, op->eip + op->len};
    struct stack stack;
    stack_current(cpu, 0, &stack);
    if (!stack_write(cpu, &stack, words, 2, size))
        return false;
    stack_commit(cpu, &stack);
    return true;
}

/* A code segment named directly (SDM vol. 2, JMP: conforming and nonconforming code segment). */
static bool check_direct(struct cpu *cpu, struct target *t)
{
    unsigned dpl = DESC_DPL(t->desc);
    bool allowed = desc_is_conforming(t->desc) ? dpl <= cpu->cpl
                                               : SELECTOR_RPL(t->selector) <= cpu->cpl && dpl == cpu->cpl;
    t->cpl = cpu->cpl;
    if (!allowed)
        return fail(cpu, T_GPFLT, t->selector);
    if (!(t->desc[1] & DESC_P))
        return fail(cpu, T_SEGNP, t->selector);
    return check_eip(cpu, t) && descriptor_touch(cpu, t->selector, t->desc);
}

/* The code segment behind a call gate; JMP cannot change privilege (SDM vol. 3, table 5-1). */
static bool check_gate(struct cpu *cpu, const u32 gate[2], bool call, struct target *ret)
{
    ret->selector = (u16)(gate[0] >> 16);
    ret->eip = gate[0] & 0xFFFF;
    if (DESC_TYPE(gate) & TYPE_WIDE)
        ret->eip |= gate[1] & 0xFFFF0000;
    if (SELECTOR_NULL(ret->selector))
        return fail(cpu, T_GPFLT, 0);
    if (!descriptor_get(cpu, ret->selector, T_GPFLT, 0, ret->desc))
        return false;
    unsigned dpl = DESC_DPL(ret->desc);
    bool conforming = desc_is_conforming(ret->desc), inner = !conforming && dpl < cpu->cpl;
    if (!desc_is_code(ret->desc) || dpl > cpu->cpl || (inner && !call))
        return fail(cpu, T_GPFLT, ret->selector);
    if (!(ret->desc[1] & DESC_P))
        return fail(cpu, T_SEGNP, ret->selector);
    ret->cpl = inner ? dpl : cpu->cpl;
    return descriptor_touch(cpu, ret->selector, ret->desc);
}

/* The frame of a call to an inner ring: the old stack, parameters copied from it, the return address. */
static bool gate_frame(struct cpu *cpu, const struct op *op, const u32 gate[2], unsigned size, struct stack *stack)
{
    u32 words[FRAME_MAX], mask = stack_mask(&cpu->seg[SS]);
    unsigned n = 0, params = gate[1] & 31;
    words[n++] = cpu->seg[SS].selector;
    words[n++] = cpu->gpr[ESP];
    for (unsigned i = params; i-- > 0;)
        if (!mem_read(cpu, SS, (cpu->gpr[ESP] + i * size) & mask, size, &words[n++]))
            return false;
    words[n++] = cpu->seg[CS].selector;
    words[n++] = op->eip + op->len;
    return stack_write(cpu, stack, words, n, size);
}

static int through_gate(struct cpu *cpu, const struct op *op, u16 selector, const u32 gate[2], bool call)
{
    unsigned size = DESC_TYPE(gate) & TYPE_WIDE ? 4 : 2, dpl = DESC_DPL(gate);
    struct target t;
    struct stack stack;
    if (dpl < cpu->cpl || dpl < SELECTOR_RPL(selector))
        return fault_selector(cpu, T_GPFLT, selector, 0);
    if (!(gate[1] & DESC_P))
        return fault_selector(cpu, T_SEGNP, selector, 0);
    if (!check_gate(cpu, gate, call, &t))
        return STATUS_FAULT;
    if (t.cpl < cpu->cpl) {
        if (!stack_inner(cpu, t.cpl, 0, &stack) || !check_eip(cpu, &t) || !gate_frame(cpu, op, gate, size, &stack))
            return STATUS_FAULT;
        stack_commit(cpu, &stack);
    } else if (!check_eip(cpu, &t) || (call && !push_return(cpu, op, size))) {
        return STATUS_FAULT;
    }
    enter(cpu, &t);
    return op_jump(cpu, t.eip);
}

/* A switch that an instruction asked for, which has retired once the new task is there. */
static int finish_switch(struct cpu *cpu, int status, const struct task_switch *ts)
{
    if (ts->committed)
        cpu->budget--;
    return status;
}

static int branch_task(struct cpu *cpu, const struct op *op, u16 selector, bool call)
{
    struct task_switch ts = {
        .cause = call ? TASK_CALL : TASK_JUMP, .eip = op->eip + op->len, .eflags = cpu_eflags(cpu)};
    return finish_switch(cpu, task_switch(cpu, selector, &ts), &ts);
}

/* A TSS or a task gate named by the selector (SDM vol. 2, JMP: TASK-GATE, TASK-STATE-SEGMENT). */
static int through_task(struct cpu *cpu, const struct op *op, u16 selector, const u32 desc[2], bool call)
{
    unsigned dpl = DESC_DPL(desc);
    if (dpl < cpu->cpl || dpl < SELECTOR_RPL(selector))
        return fault_selector(cpu, T_GPFLT, selector, 0);
    if (!(desc[1] & DESC_P))
        return fault_selector(cpu, T_SEGNP, selector, 0);
    return branch_task(cpu, op, DESC_TYPE(desc) == SYS_TASK ? (u16)(desc[0] >> 16) : selector, call);
}

static int branch_protected(struct cpu *cpu, const struct op *op, u16 selector, u32 eip, bool call)
{
    struct target t = {.selector = selector, .eip = eip};
    if (SELECTOR_NULL(selector))
        return cpu_fault_code(cpu, T_GPFLT, 0);
    if (!descriptor_get(cpu, selector, T_GPFLT, 0, t.desc))
        return STATUS_FAULT;
    if (desc_is_code(t.desc)) {
        if (!check_direct(cpu, &t) || (call && !push_return(cpu, op, op->size)))
            return STATUS_FAULT;
        enter(cpu, &t);
        return op_jump(cpu, eip);
    }
    if (t.desc[1] & DESC_S)
        return fault_selector(cpu, T_GPFLT, selector, 0);
    switch (DESC_TYPE(t.desc)) {
    case SYS_CALL16:
    case SYS_CALL32:
        return through_gate(cpu, op, selector, t.desc, call);
    case SYS_TASK:
    case SYS_TSS16:
    case SYS_TSS32:
        return through_task(cpu, op, selector, t.desc, call);
    default:
        return fault_selector(cpu, T_GPFLT, selector, 0);
    }
}

static int branch_far(struct cpu *cpu, const struct op *op, u16 selector, u32 eip, bool call)
{
    if (protected_mode(cpu))
        return branch_protected(cpu, op, selector, eip, call);
    if (!segment_contains(&cpu->seg[CS], eip, 1))
        return cpu_fault_code(cpu, T_GPFLT, 0);
    if (call && !push_return(cpu, op, op->size))
        return STATUS_FAULT;
    return branch_paragraph(cpu, selector, eip);
}

static int branch_far_memory(struct cpu *cpu, const struct op *op, bool call)
{
    u32 off = op_offset(cpu, op), eip, selector;
    if (!mem_read(cpu, op->seg, off, op->size, &eip) ||
        !mem_read(cpu, op->seg, (off + op->size) & addr_mask(op), 2, &selector))
        return STATUS_FAULT;
    return branch_far(cpu, op, (u16)selector, eip, call);
}

int insn_jmp_far(struct cpu *cpu, const struct op *op)
{
    return branch_far(cpu, op, (u16)op->disp, op->imm, false);
}
int insn_call_far(struct cpu *cpu, const struct op *op)
{
    return branch_far(cpu, op, (u16)op->disp, op->imm, true);
}
int insn_jmp_far_m(struct cpu *cpu, const struct op *op)
{
    return branch_far_memory(cpu, op, false);
}
int insn_call_far_m(struct cpu *cpu, const struct op *op)
{
    return branch_far_memory(cpu, op, true);
}

/* Words on top of the stack, the top one first. */
static bool peek(struct cpu *cpu, u32 skip, unsigned size, u32 *ret, unsigned count)
{
    u32 mask = stack_mask(&cpu->seg[SS]);
    for (unsigned i = 0; i < count; i++)
        if (!mem_read(cpu, SS, (cpu->gpr[ESP] + skip + i * size) & mask, size, &ret[i]))
            return false;
    return true;
}

/* The code segment that RET or IRET goes back to (SDM vol. 2, RET, IRET). */
static bool check_return(struct cpu *cpu, struct target *t)
{
    if (SELECTOR_NULL(t->selector))
        return fail(cpu, T_GPFLT, 0);
    if (!descriptor_get(cpu, t->selector, T_GPFLT, 0, t->desc))
        return false;
    unsigned dpl = DESC_DPL(t->desc);
    t->cpl = SELECTOR_RPL(t->selector);
    bool allowed = desc_is_code(t->desc) && t->cpl >= cpu->cpl &&
                   (desc_is_conforming(t->desc) ? dpl <= t->cpl : dpl == t->cpl);
    if (!allowed)
        return fail(cpu, T_GPFLT, t->selector);
    if (!(t->desc[1] & DESC_P))
        return fail(cpu, T_SEGNP, t->selector);
    return descriptor_touch(cpu, t->selector, t->desc);
}

/* After a return to an outer ring no segment register may hold what that ring could not load (SDM vol. 3, 5.8.6). */
static void drop_inner_segments(struct cpu *cpu)
{
    static const u8 data_segments[] = {ES, FS, GS, DS};
    for (unsigned i = 0; i < 4; i++) {
        struct segment *s = &cpu->seg[data_segments[i]];
        bool conforming = (s->attr & 0xC) == 0xC;
        if (!conforming && SEG_DPL(s->attr) < cpu->cpl)
            segment_set_null(s, 0);
    }
}

/* Go back to t; skip: bytes of the current stack to the popped ESP and SS; release: parameters of RET n on both. */
static bool return_to(struct cpu *cpu, const struct target *t, u32 skip, unsigned size, u32 release)
{
    u32 words[2], desc[2];
    if (t->cpl == cpu->cpl) {
        if (!check_eip(cpu, t))
            return false;
        stack_move(cpu, skip);
        enter(cpu, t);
        return true;
    }
    if (!peek(cpu, skip, size, words, 2))
        return false;
    u16 ss = (u16)words[1];
    if (!segment_check_stack(cpu, ss, t->cpl, T_GPFLT, 0, desc) || !check_eip(cpu, t) ||
        !descriptor_touch(cpu, ss, desc))
        return false;
    segment_from_descriptor(&cpu->seg[SS], ss, desc);
    u32 mask = stack_mask(&cpu->seg[SS]);
    cpu->gpr[ESP] = (cpu->gpr[ESP] & ~mask) | ((words[0] + release) & mask);
    enter(cpu, t);
    drop_inner_segments(cpu);
    mode_update(cpu);
    return true;
}

int insn_retf(struct cpu *cpu, const struct op *op)
{
    u32 words[2], skip = 2u * op->size + op->imm;
    if (!peek(cpu, 0, op->size, words, 2))
        return STATUS_FAULT;
    if (!protected_mode(cpu)) {
        if (!segment_contains(&cpu->seg[CS], words[0], 1))
            return cpu_fault_code(cpu, T_GPFLT, 0);
        stack_move(cpu, skip);
        return branch_paragraph(cpu, (u16)words[1], words[0]);
    }
    struct target t = {.selector = (u16)words[1], .eip = words[0]};
    if (!check_return(cpu, &t) || !return_to(cpu, &t, skip, op->size, op->imm))
        return STATUS_FAULT;
    return op_jump(cpu, t.eip);
}

/* SDM vol. 3, 20.2.4: virtual-8086 code may IRET only with IOPL 3, and then changes neither IOPL nor VM. */
static int return_paragraph(struct cpu *cpu, unsigned size)
{
    u32 words[3], mask = eflags_mask(cpu, size);
    bool v86 = cpu->mode & MODE_V86;
    if (v86 && iopl(cpu) < 3)
        return cpu_fault_code(cpu, T_GPFLT, 0);
    if (!peek(cpu, 0, size, words, 3))
        return STATUS_FAULT;
    if (!segment_contains(&cpu->seg[CS], words[0], 1))
        return cpu_fault_code(cpu, T_GPFLT, 0);
    stack_move(cpu, 3 * size);
    eflags_load(cpu, words[2], mask | (size == 4 ? EFLAGS_RF : 0));
    segment_set_paragraph(&cpu->seg[CS], (u16)words[1], v86);
    cpu->eip = words[0];
    mode_update(cpu);
    return STATUS_JUMP;
}

/* SDM vol. 3, 20.2.3; words: EIP CS EFLAGS ESP SS ES DS FS GS. */
static int return_v86(struct cpu *cpu)
{
    static const u8 order[] = {SS, ES, DS, FS, GS};
    u32 words[9];
    if (!peek(cpu, 0, 4, words, 9))
        return STATUS_FAULT;
    if (words[0] > 0xFFFF)
        return cpu_fault_code(cpu, T_GPFLT, 0);
    eflags_load(cpu, words[2], EFLAGS_ARITH | EFLAGS_SYSTEM);
    cpu->gpr[ESP] = words[3];
    segment_set_paragraph(&cpu->seg[CS], (u16)words[1], true);
    for (unsigned i = 0; i < 5; i++)
        segment_set_paragraph(&cpu->seg[order[i]], (u16)words[4 + i], true);
    cpu->eip = words[0];
    mode_update(cpu);
    return STATUS_JUMP;
}

int trap_return(struct cpu *cpu, unsigned size)
{
    u32 words[3];
    cpu->nmi_blocked = false;   /* even if it faults (SDM vol. 3, 25.3) */
    if (!protected_mode(cpu))
        return return_paragraph(cpu, size);
    if (!peek(cpu, 0, size, words, 3))
        return STATUS_FAULT;
    if (size == 4 && (words[2] & EFLAGS_VM) && cpu->cpl == 0)
        return return_v86(cpu);

    u32 mask = eflags_mask(cpu, size) | (size == 4 ? EFLAGS_RF : 0);
    struct target t = {.selector = (u16)words[1], .eip = words[0]};
    if (!check_return(cpu, &t) || !return_to(cpu, &t, 3 * size, size, 0))
        return STATUS_FAULT;
    eflags_load(cpu, words[2], mask);
    return STATUS_JUMP;
}

int insn_iret(struct cpu *cpu, const struct op *op)
{
    if (protected_mode(cpu) && (cpu->eflags & EFLAGS_NT)) {
        cpu->nmi_blocked = false;
        struct task_switch ts = {.eip = op->eip + op->len, .eflags = cpu_eflags(cpu)};
        return finish_switch(cpu, task_return(cpu, &ts), &ts);
    }
    int status = trap_return(cpu, op->size);
    if (status == STATUS_JUMP)
        cpu->budget--;
    return status;
}

/* An instruction that asks for an exception: it has retired, and eip is behind it. */
static int ask(struct cpu *cpu, const struct op *op, u32 vector, bool checked)
{
    cpu_fault(cpu, vector);
    cpu->fault.software = checked;
    cpu->fault.length = op->len;
    cpu->fault.retired = true;
    cpu->eip = op->eip + op->len;
    cpu->budget--;
    return STATUS_FAULT;
}

int insn_int(struct cpu *cpu, const struct op *op)
{
    if ((cpu->mode & MODE_V86) && iopl(cpu) < 3)
        return cpu_fault_code(cpu, T_GPFLT, 0);
    return ask(cpu, op, op->imm & 0xFF, true);
}

int insn_int3(struct cpu *cpu, const struct op *op)
{
    return ask(cpu, op, T_BRKPT, true);
}

/* The gate's DPL is not looked at (SDM vol. 2, INT n). */
int insn_int1(struct cpu *cpu, const struct op *op)
{
    return ask(cpu, op, T_DEBUG, false);
}

int insn_into(struct cpu *cpu, const struct op *op)
{
    return cpu_eflags(cpu) & EFLAGS_OF ? ask(cpu, op, T_OFLOW, true) : STATUS_NEXT;
}

/* The lower bound is checked before the upper one is read, as processors do. */
int insn_bound(struct cpu *cpu, const struct op *op)
{
    u32 off = op_offset(cpu, op), low, high;
    unsigned shift = 32 - 8 * op->size;
    s32 value = (s32)(reg_read(cpu, op->reg, op->size) << shift);
    if (!mem_read(cpu, op->seg, off, op->size, &low))
        return STATUS_FAULT;
    if (value < (s32)(low << shift))
        return cpu_fault(cpu, T_BOUND);
    if (!mem_read(cpu, op->seg, (off + op->size) & addr_mask(op), op->size, &high))
        return STATUS_FAULT;
    return value <= (s32)(high << shift) ? STATUS_NEXT : cpu_fault(cpu, T_BOUND);
}

int insn_ud(struct cpu *cpu, const struct op *op)
{
    (void)op;
    return cpu_fault(cpu, T_ILLOP);
}
