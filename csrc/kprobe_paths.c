/*
 * kprobe_paths.c: hits without single steps, and hits without traps.
 *
 * An optimised probe is an op before its instruction's own. It runs the handlers where a trap would be taken whose
 * every step is known; whenever something is not as that needs it, the trap is taken. A boosted probe traps; then its
 * instruction runs alone, and the breakpoint comes back without a #DB.
 */
#include <string.h>

#include "action.h"
#include "callout.h"
#include "decode.h"
#include "execute.h"
#include "kernel.h"
#include "kprobe.h"

/* Families whose instructions do the same behind an op as under a single step: no flag, shadow or event of theirs ends
 * with a trap, none is repeated, and none but through a memory operand sees its own bytes. */
static const bool inlined[FAMILY_COUNT] = {
    [F_ALU_RM_R] = true, [F_ALU_R_RM] = true, [F_ALU_A_I] = true, [F_ALU_RM_I] = true, [F_TEST_RM_R] = true,
    [F_TEST_A_I] = true, [F_TEST_RM_I] = true, [F_INC_R] = true, [F_DEC_R] = true, [F_INC_RM] = true,
    [F_DEC_RM] = true, [F_NOT] = true, [F_NEG] = true, [F_MUL_DIV] = true, [F_IMUL] = true, [F_SHIFT] = true,
    [F_DOUBLE_SHIFT] = true, [F_BIT_SCAN] = true, [F_MOV_RM_R] = true, [F_MOV_R_RM] = true, [F_MOV_A_M] = true,
    [F_MOV_M_A] = true, [F_MOV_R_I] = true, [F_MOV_RM_I] = true, [F_LEA] = true, [F_EXTEND] = true,
    [F_CONVERT] = true, [F_XCHG] = true, [F_XCHG_A] = true, [F_NOP] = true, [F_BSWAP] = true, [F_SETCC] = true,
    [F_CMOV] = true, [F_CARRY] = true, [F_DIRECTION] = true, [F_PUSH_R] = true, [F_PUSH_I] = true,
    [F_PUSH_RM] = true, [F_POP_R] = true, [F_JCC] = true, [F_LOOP] = true, [F_JMP] = true,
    [F_CALL] = true, [F_RET] = true, [F_JMP_RM] = true, [F_CALL_RM] = true,
};

/* can_boost of the kernel for i386, a bit for each opcode from 00 and from 0F 00 on. */
static const u32 boostable_one[8] = {
    0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0x0000FFFB, 0xFBFFFFFF, 0xFFFFFFFF, 0x00B08FFC, 0x3F20F4F0,
};
static const u32 boostable_two[8] = {
    0x0000034C, 0x0002000F, 0x0000FFFF, 0xC0F0CFFF, 0xFFFF0000, 0xF8FFBB3B, 0xBB2EFF03, 0x772EBB26,
};

/* Behind these an event may come sooner or later under a step than without one. */
static bool shifts_events(unsigned opcode)
{
    return opcode == 0x17 || opcode == 0x8E || opcode == 0x9D || opcode == 0xCF || opcode == 0xFB;
}

static bool boostable(const struct insn *in, const u8 *bytes)
{
    const u32 *table = in->opcode < 0x100 ? boostable_one : boostable_two;
    unsigned i = in->opcode & 0xFF;

    for (unsigned at = 0; at < in->len; at++)
        if (bytes[at] == 0x67 || bytes[at] == 0x2E)
            return false;
        else if (!memchr("\x26\x36\x3E\x64\x65\x66\xF0\xF2\xF3", bytes[at], 9))
            break;
    return table[i >> 5] >> (i & 31) & 1 && !((in->rep || in->repne) && in->row.family == F_STRING) &&
           !shifts_events(in->opcode);
}

static enum kprobe_path choose(struct machine *m, const struct kprobe *p)
{
    u8 bytes[INSN_MAX];
    struct insn in;
    u32 n = mmu_peek(m->cpu, p->addr, bytes, INSN_MAX);

    if (m->config.optimize == PATH_TRAP || m->config.kprobes != KPROBES_FIXED || kprobes_hidden(m->kprobes) || p->handlers & (PROBE_POST | PROBE_FAULT))
        return PATH_TRAP;
    bytes[0] = p->opcode;
    if (decode(bytes, n, true, &in) != DECODE_OK)
        return PATH_TRAP;
    if (inlined[in.row.family] && m->config.optimize == PATH_OPTIMIZED)
        return PATH_OPTIMIZED;
    return boostable(&in, bytes) ? PATH_BOOSTED : PATH_TRAP;
}

void kprobe_choose_path(struct machine *m, struct kprobe *p)
{
    struct action **actions = p->actions;

    p->path = (u8)choose(m, p);
    if (actions && actions[0] && !actions[1] && actions[0]->kind == ACTION_COUNT && !p->handlers)
        p->counter = &actions[0]->count;
}

/* The slowest of those that share an address; several are never optimised. */
static enum kprobe_path shared_path(const struct machine *m, const struct kprobe *p)
{
    u8 path = p->path;

    if (!p->next_here && !p->prev_here)
        return path;
    for (p = kprobe_at(m, p->addr); p && path != PATH_TRAP; p = p->next_here)
        path = p->path == PATH_TRAP ? PATH_TRAP : PATH_BOOSTED;
    return path;
}

int kprobe_path(machine *m, int id)
{
    const struct kprobes *kp = m->kprobes;
    bool known = kp && id >= 0 && (u32)id < kp->ids && kp->by_id[id]->registered;
    return known ? (int)shared_path(m, kp->by_id[id]) : PATH_TRAP;
}

/* Does the probed instruction access its own first byte? It would see the breakpoint there. */
ALWAYS_INLINE bool sees_itself(const struct cpu *cpu, const struct kprobe *p, const struct op *op)
{
    return op->flags & OP_MEM && p->addr - (cpu->seg[op->seg].base + op_offset(cpu, op)) < 8;
}

/* Nothing to be seen of a trap but what a hit does anyway. cpu->plain_hits remembers the answer until the run loop is
 * reached or a table or mapping changes; the page of each table has no write tag. */
static COLD bool find_plain(struct machine *m)
{
    struct cpu *cpu = m->cpu;

    cpu->plain_hits = kernel_plain_traps(m) && !kprobe_running(m) && !cpu->nmi_blocked && !(cpu->dr[7] & DR7_GD);
    return cpu->plain_hits;
}

/* The handlers want pt_regs: on the guest's stack, as a trap leaves it. When they leave everything as it was, what
 * they left behind says that the instruction has had its hit. */
enum hit_outcome {
    HIT_DONE,                   /* the instruction follows */
    HIT_TRAPS,                  /* nothing was done: the trap has to be taken */
    HIT_LEAVES,                 /* go on at cpu->eip, through the run loop */
    HIT_STOPS,                  /* cpu->stop is set */
};

static enum hit_outcome hit_with_frame(struct machine *m, const struct kprobe *p, u32 eip)
{
    struct cpu *cpu = m->cpu;
    u32 mode = cpu->mode, resume;
    int status;

    cpu->fault = (struct fault){.vector = T_BRKPT, .software = true, .length = 1};
    cpu->eip = eip + 1;
    cpu->code_changed = false;
    cpu->inline_hit = true;
    status = kernel_trap(m);
    cpu->inline_hit = false;
    if (status == STATUS_FAULT) {
        cpu->eip = eip;
        return HIT_TRAPS;
    }
    if (status == STATUS_STOP)
        return HIT_STOPS;
    if (cpu->eip != eip || cpu->mode != mode || cpu->code_changed || cpu->eflags & EFLAGS_TF || !p->present || p->next_here ||
        !kprobe_resumes(m, &resume) || resume != p->addr)
        return HIT_LEAVES;
    cpu->probe_resume.set = false;
    return HIT_DONE;
}

/* Is everything as an optimised hit needs it, with room on the stack for the frame that a trap would push? */
ALWAYS_INLINE bool can_hit(struct cpu *cpu, const struct kprobe *p, const struct op *op, struct tlb_entry *tlb)
{
    u32 frame = STACK_TOP - FRAME_ESP;
    return p->present && !p->next_here && !cpu->probe_resume.set && !sees_itself(cpu, p, op + 1) &&
           frame - tlb_entry_of(tlb, frame)->write_tag <= PAGE_SIZE - sizeof(struct pt_regs);
}

/* Behind the step of a trapping hit its #DB leaves DR6 like this. */
ALWAYS_INLINE void clear_dr6(struct cpu *cpu)
{
    cpu->dr[6] &= ~(DR6_BREAKS | DR6_BS);
}

static enum hit_outcome run_actions(struct machine *m, struct kprobe *p)
{
    p->stats.hits++;
    clear_dr6(m->cpu);
    if (likely(!p->actions || !action_run(m, p->actions, NULL, p->stats.number)))
        return HIT_DONE;
    kprobe_resume_at(m, p->addr);
    cpu_stop(m->cpu, STOP_STOPPED);
    return HIT_STOPS;
}

/* Handlers and actions see the CPU as a callout does. */
static __attribute__((noinline)) void probe_hit_any(OP_PARAMS)
{
    struct machine *m = cpu->machine;
    struct kprobe *p = op_probe(op);
    enum hit_outcome outcome = HIT_TRAPS;

    cpu->fl = (struct lazy_flags){res, a, kind};
    cpu->eip = op->eip;
    cpu->budget -= op->done;
    if (likely(can_hit(cpu, p, op, tlb) && (cpu->plain_hits || find_plain(m))))
        outcome = p->handlers & PROBE_PRE ? hit_with_frame(m, p, op->eip) : run_actions(m, p);
    if (likely(outcome == HIT_DONE)) {
        cpu->budget += op->done;
        tlb = cpu->tlb;
        DISPATCH(op + 1, cpu->fl.res, cpu->fl.a, cpu->fl.kind);
    }
    if (outcome == HIT_TRAPS) {
        cpu->budget += op->done;
        return probe_point(OP_ARGS);
    }
    leave(cpu, outcome == HIT_STOPS ? LEAVE_STOP : LEAVE_LOOKUP, cpu->fl.res, cpu->fl.a, cpu->fl.kind);
}

void probe_hit(OP_PARAMS)
{
    struct kprobe *p = op_probe(op);

    if (unlikely(!p->counter || !cpu->plain_hits || !can_hit(cpu, p, op, tlb)))
        return probe_hit_any(OP_ARGS);
    p->stats.hits++;
    clear_dr6(cpu);
    ++*p->counter;
    DISPATCH(op + 1, res, a, kind);
}

/* The probed instruction did not happen: it is restarted, and hit again. After a stop it goes on as the same hit. */
static void note_fault(struct machine *m, struct kprobe *p)
{
    if (m->cpu->fault.stop)
        kprobe_resume_at(m, p->addr);
    else
        for (; p; p = p->next_here)
            p->stats.misses[MISS_FAULT_RESTART] += !p->disabled;
}

void kprobe_inline_fault(struct machine *m, const struct op *op)
{
    u32 lin = m->cpu->seg[CS].base + op->eip;
    struct kprobe *p = kprobe_armed_at(m, lin);

    if (p)
        note_fault(m, p);
}

bool kprobe_needs_no_step(struct machine *m, struct kprobe *p, const struct frame *f)
{
    if (f->regs.eflags & EFLAGS_TF || shared_path(m, p) == PATH_TRAP)
        return false;
    if (m->cpu->inline_hit) {
        kprobe_resume_at(m, p->addr);
    } else {
        if (!m->kprobes->copies)
            kprobe_put(m, p, false);
        m->cpu->boosted = true;
        m->cpu->boosted_at = p->addr;
    }
    return true;
}

void kprobe_end_boost(struct machine *m)
{
    struct cpu *cpu = m->cpu;
    struct kprobe *p = kprobe_armed_at(m, cpu->boosted_at);

    cpu->boosted = false;
    clear_dr6(cpu);
    if (!p)
        return;
    if (!m->kprobes->copies)
        kprobe_put(m, p, true);
    if (cpu->leave == LEAVE_FAULT)
        note_fault(m, p);
}
