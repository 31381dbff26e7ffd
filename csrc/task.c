/* task.c: task switches (SDM vol. 3, 7.3 and tables 7-1, 7-2). */
#include "task.h"

#include "gate.h"
#include "mmu.h"
#include "paging.h"
#include "trap.h"

/* Where a TSS keeps things (SDM vol. 3, figures 7-2 and 7-10). Everything that a switch saves lies in one piece that
 * begins with EIP: EIP, EFLAGS, eight general registers, segment registers. */
struct layout {
    u8 word;                    /* size of EIP, EFLAGS, general registers; distance of selectors */
    u8 saved;                   /* offset of EIP */
    u8 sregs;                   /* segment registers kept: ES CS SS DS and FS GS */
    u8 ldt;
    u8 min_limit;
};
static const struct layout layout16 = {2, 0x0E, 4, 0x2A, 0x2B}, layout32 = {4, 0x20, 6, 0x60, 0x67};
#define TSS_LINK 0x00u
#define TSS32_CR3 0x1Cu
#define TSS32_TRAP 0x64u        /* bit 0: T */
#define WORDS_MAX 16u           /* EIP EFLAGS, 8 general and 6 segment registers */
#define FIRST_GPR 2u
#define FIRST_SREG 10u
#define DR7_LOCAL 0x155u        /* L0-L3, LE */

static const u8 sreg_order[] = {ES, CS, SS, DS, FS, GS};

/* What a TSS gives a task that begins or goes on. */
struct state {
    u32 words[WORDS_MAX];
    u32 cr3;
    u32 ldt;
    u32 trap;
};

static const struct layout *layout_of(const struct segment *tss)
{
    return SEG_TYPE(tss->attr) & TYPE_WIDE ? &layout32 : &layout16;
}

static u32 word_count(const struct layout *l)
{
    return FIRST_SREG + l->sregs;
}

static bool fail(struct cpu *cpu, enum vector vector, u16 selector, u32 ext)
{
    fault_selector(cpu, vector, selector, ext);
    return false;
}

/* --- before the commit point ------------------------------------------------------------------------------ */

/* Rows 1 to 5 of table 7-1, in the order of the instructions' own descriptions. A task that goes on must be busy,
 * and then #TS takes the place of #GP. */
static bool check_tss(struct cpu *cpu, u16 selector, const struct task_switch *ts, struct segment *ret)
{
    bool back = ts->cause == TASK_RETURN;
    enum vector vector = back ? T_TSS : T_GPFLT;
    u32 desc[2];
    if ((selector & 4) || SELECTOR_NULL(selector))
        return fail(cpu, vector, selector, ts->ext);
    if (!descriptor_get(cpu, selector, vector, ts->ext, desc))
        return false;
    unsigned type = DESC_TYPE(desc) & ~TYPE_WIDE;
    if ((desc[1] & DESC_S) || type != (back ? SYS_TSS16_BUSY : SYS_TSS16))
        return fail(cpu, vector, selector, ts->ext);
    if (!(desc[1] & DESC_P))
        return fail(cpu, T_SEGNP, selector, ts->ext);
    segment_from_descriptor(ret, selector, desc);
    ret->attr |= TYPE_BUSY;
    return ret->limit >= layout_of(ret)->min_limit || fail(cpu, T_TSS, selector, ts->ext);
}

static bool check_read(struct cpu *cpu, u32 lin, u32 size)
{
    u32 phys;
    return mmu_translate(cpu, lin, ACCESS_SYSTEM, &phys) && mmu_translate(cpu, lin + size - 1, ACCESS_SYSTEM, &phys);
}

static u32 type_address(const struct cpu *cpu, const struct segment *tss)
{
    return cpu->gdtr.base + (tss->selector & 0xFFF8u) + 5;
}

/* All memory that the switch reads or writes up to the commit point is there (7.3, step 5). */
static bool check_memory(struct cpu *cpu, const struct task_switch *ts, const struct segment *to)
{
    const struct segment *from = &cpu->seg[TR];
    const struct layout *old = layout_of(from), *new = layout_of(to);
    u32 saved = word_count(old) * old->word;
    bool nests = ts->cause == TASK_CALL || ts->cause == TASK_EVENT;
    if (from->limit < old->saved + saved - 1)
        return fail(cpu, T_TSS, from->selector, ts->ext);
    return lin_check_write(cpu, from->base + old->saved, saved, ACCESS_SYSTEM) &&
           check_read(cpu, to->base, new->min_limit + 1u) &&
           (!nests || lin_check_write(cpu, to->base + TSS_LINK, 2, ACCESS_SYSTEM)) &&
           (nests || lin_check_write(cpu, type_address(cpu, from), 1, ACCESS_SYSTEM)) &&
           (ts->cause == TASK_RETURN || lin_check_write(cpu, type_address(cpu, to), 1, ACCESS_SYSTEM));
}

static bool save(struct cpu *cpu, const struct task_switch *ts)
{
    const struct segment *from = &cpu->seg[TR];
    const struct layout *l = layout_of(from);
    u32 words[WORDS_MAX] = {ts->eip, ts->cause == TASK_RETURN ? ts->eflags & ~EFLAGS_NT : ts->eflags};
    for (unsigned i = 0; i < 8; i++)
        words[FIRST_GPR + i] = cpu->gpr[i];
    for (unsigned i = 0; i < l->sregs; i++)
        words[FIRST_SREG + i] = cpu->seg[sreg_order[i]].selector;
    for (unsigned i = 0; i < word_count(l); i++)
        if (!lin_write(cpu, from->base + l->saved + i * l->word, words[i], i < FIRST_SREG ? l->word : 2, ACCESS_SYSTEM))
            return false;
    return true;
}

/* Set or clear a TSS descriptor's busy bit (table 7-2). */
static bool mark(struct cpu *cpu, const struct segment *tss, bool busy)
{
    u32 at = type_address(cpu, tss), byte;
    if (!lin_read(cpu, at, 1, ACCESS_SYSTEM, &byte))
        return false;
    return lin_write(cpu, at, busy ? byte | TYPE_BUSY : byte & ~TYPE_BUSY, 1, ACCESS_SYSTEM);
}

static bool read_state(struct cpu *cpu, const struct segment *to, struct state *ret)
{
    const struct layout *l = layout_of(to);
    *ret = (struct state){.cr3 = cpu->cr3};
    for (unsigned i = 0; i < word_count(l); i++)
        if (!lin_read(cpu, to->base + l->saved + i * l->word, i < FIRST_SREG ? l->word : 2, ACCESS_SYSTEM,
                      &ret->words[i]))
            return false;
    if (!lin_read(cpu, to->base + l->ldt, 2, ACCESS_SYSTEM, &ret->ldt))
        return false;
    return l == &layout16 || (lin_read(cpu, to->base + TSS32_CR3, 4, ACCESS_SYSTEM, &ret->cr3) &&
                              lin_read(cpu, to->base + TSS32_TRAP, 2, ACCESS_SYSTEM, &ret->trap));
}

/* Steps 6 to 12: what is written to memory, and the new task's state. A fault here means that the guest's tables lie
 * over each other, over its page tables or in a device; the old task's registers are as they were. The new TSS becomes
 * busy last, so that the switch can be tried again. */
static bool exchange(struct cpu *cpu, const struct task_switch *ts, const struct segment *to, struct state *ret)
{
    const struct segment *from = &cpu->seg[TR];
    bool nests = ts->cause == TASK_CALL || ts->cause == TASK_EVENT;
    return (nests || mark(cpu, from, false)) && save(cpu, ts) && read_state(cpu, to, ret) &&
           (!nests || lin_write(cpu, to->base + TSS_LINK, from->selector, 2, ACCESS_SYSTEM)) &&
           (ts->cause == TASK_RETURN || mark(cpu, to, true));
}

/* --- behind it -------------------------------------------------------------------------------------------- */

/* Registers and selectors; no segment is usable yet. */
static void load_registers(struct cpu *cpu, const struct task_switch *ts, const struct segment *to,
                           const struct state *state)
{
    const struct layout *l = layout_of(to);
    u32 eflags = state->words[1];
    bool nests = ts->cause == TASK_CALL || ts->cause == TASK_EVENT;
    cpu->seg[TR] = *to;
    cpu->eip = state->words[0];
    cpu_set_eflags(cpu, nests ? eflags | EFLAGS_NT : eflags);
    /* The manual leaves the upper halves open with a 16-bit TSS; the 80386 fills them with ones. */
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = state->words[FIRST_GPR + i] | (l->word == 2 ? 0xFFFF0000 : 0);
    bool v86 = cpu->eflags & EFLAGS_VM;
    for (unsigned i = 0; i < 6; i++) {
        struct segment *s = &cpu->seg[sreg_order[i]];
        u16 selector = (u16)state->words[FIRST_SREG + i];
        segment_set_null(s, selector);
        if (v86)
            segment_set_paragraph(s, selector, true);
    }
    if (!v86)
        cpu->seg[CS].attr = (u16)(SELECTOR_RPL(cpu->seg[CS].selector) << 5);
    segment_set_null(&cpu->seg[LDTR], (u16)state->ldt);
    cpu->cr0 |= CR0_TS;
    cpu->shadow = 0;
    cpu->halted = false;
    if (cpu->dr[7] & DR7_LOCAL)
        cpu_write_debug(cpu, 7, cpu->dr[7] & ~DR7_LOCAL);
    mode_update(cpu);
}

/* The LDT, which is used to read CS and SS before its P bit is looked at (table 7-1, rows 7 and 12). */
static bool load_ldt(struct cpu *cpu, u16 selector, u32 ext, bool *ret_present)
{
    u32 desc[2];
    *ret_present = true;
    if (SELECTOR_NULL(selector))
        return true;
    if (selector & 4)
        return fail(cpu, T_TSS, selector, ext);
    if (!descriptor_get(cpu, selector, T_TSS, ext, desc))
        return false;
    if ((desc[1] & DESC_S) || DESC_TYPE(desc) != SYS_LDT)
        return fail(cpu, T_TSS, selector, ext);
    *ret_present = desc[1] & DESC_P;
    segment_from_descriptor(&cpu->seg[LDTR], selector, desc);
    cpu->seg[LDTR].attr |= SEG_P;
    return true;
}

static bool read_descriptor(struct cpu *cpu, u16 selector, u32 ext, u32 ret[2])
{
    if (SELECTOR_NULL(selector))
        return fail(cpu, T_TSS, selector, ext);
    return descriptor_get(cpu, selector, T_TSS, ext, ret);
}

/* Rows 8 to 15: CS and SS, whose checks are interleaved, and the LDT's presence. */
static bool load_code_and_stack(struct cpu *cpu, u32 ext, bool ldt_present)
{
    u16 cs = cpu->seg[CS].selector, ss = cpu->seg[SS].selector;
    unsigned cpl = SELECTOR_RPL(cs);
    u32 code[2], stack[2];
    if (!read_descriptor(cpu, cs, ext, code))
        return false;
    unsigned dpl = DESC_DPL(code);
    if (desc_is_code(code) && (desc_is_conforming(code) ? dpl > cpl : dpl != cpl))
        return fail(cpu, T_TSS, cs, ext);
    if (!read_descriptor(cpu, ss, ext, stack))
        return false;
    if (!desc_is_writable(stack))
        return fail(cpu, T_TSS, ss, ext);
    if (!(stack[1] & DESC_P))
        return fail(cpu, T_STACK, ss, ext);
    if (DESC_DPL(stack) != cpl)
        return fail(cpu, T_TSS, ss, ext);
    if (!ldt_present)
        return fail(cpu, T_TSS, cpu->seg[LDTR].selector, ext);
    if (!desc_is_code(code))
        return fail(cpu, T_TSS, cs, ext);
    if (!(code[1] & DESC_P))
        return fail(cpu, T_SEGNP, cs, ext);
    if (SELECTOR_RPL(ss) != cpl)
        return fail(cpu, T_TSS, ss, ext);
    if (!descriptor_touch(cpu, cs, code) || !descriptor_touch(cpu, ss, stack))
        return false;
    segment_code(&cpu->seg[CS], cs, code, cpl);
    segment_from_descriptor(&cpu->seg[SS], ss, stack);
    mode_update(cpu);
    return true;
}

/* Rows 16 to 19. */
static bool load_data(struct cpu *cpu, u32 ext)
{
    static const u8 order[] = {DS, ES, FS, GS};
    for (unsigned i = 0; i < 4; i++) {
        struct segment *s = &cpu->seg[order[i]];
        u16 selector = s->selector;
        u32 desc[2];
        if (SELECTOR_NULL(selector))
            continue;
        if (!descriptor_get(cpu, selector, T_TSS, ext, desc))
            return false;
        if (!desc_is_readable(desc))
            return fail(cpu, T_TSS, selector, ext);
        if (!(desc[1] & DESC_P))
            return fail(cpu, T_SEGNP, selector, ext);
        unsigned dpl = DESC_DPL(desc);
        if (!desc_is_conforming(desc) && (dpl < cpu->cpl || dpl < SELECTOR_RPL(selector)))
            return fail(cpu, T_TSS, selector, ext);
        if (!descriptor_touch(cpu, selector, desc))
            return false;
        segment_from_descriptor(s, selector, desc);
    }
    mode_update(cpu);
    return true;
}

static bool load_segments(struct cpu *cpu, u32 ext)
{
    bool ldt_present, good;
    if (!load_ldt(cpu, cpu->seg[LDTR].selector, ext, &ldt_present))
        return false;
    if (cpu->eflags & EFLAGS_VM)
        good = ldt_present || fail(cpu, T_TSS, cpu->seg[LDTR].selector, ext);
    else
        good = load_code_and_stack(cpu, ext, ldt_present) && load_data(cpu, ext);
    if (!ldt_present)
        cpu->seg[LDTR].attr &= (u16)~SEG_P;
    return good;
}

/* SDM vol. 3, 6.13: the error code of an exception goes onto the new task's stack, in its TSS's size. */
static bool push_error(struct cpu *cpu, const struct task_switch *ts)
{
    struct stack stack;
    if (!ts->has_error)
        return true;
    stack_current(cpu, ts->ext, &stack);
    if (!stack_write(cpu, &stack, &ts->error_code, 1, layout_of(&cpu->seg[TR])->word))
        return false;
    stack_commit(cpu, &stack);
    return true;
}

static bool check_eip(struct cpu *cpu, u32 ext)
{
    if (segment_contains(&cpu->seg[CS], cpu->eip, 1))
        return true;
    cpu_fault_code(cpu, T_GPFLT, ext);
    return false;
}

int task_switch(struct cpu *cpu, u16 selector, struct task_switch *ts)
{
    struct segment to;
    struct state state;
    ts->committed = false;
    if (!check_tss(cpu, selector, ts, &to) || !check_memory(cpu, ts, &to) || !exchange(cpu, ts, &to, &state))
        return STATUS_FAULT;

    ts->committed = true;
    load_registers(cpu, ts, &to, &state);
    if (cpu->cr0 & CR0_PG && state.cr3 != cpu->cr3 && !cpu_write_control(cpu, 3, state.cr3)) {
        cpu_fault_code(cpu, T_GPFLT, 0);
        return STATUS_FAULT;
    }
    if (!load_segments(cpu, ts->ext) || !push_error(cpu, ts) || !check_eip(cpu, ts->ext))
        return STATUS_FAULT;
    if (state.trap & 1)
        cpu->db_pending |= DR6_BT;      /* SDM vol. 3, 17.3.1.5: before the task's first instruction */
    return STATUS_JUMP;
}

int task_return(struct cpu *cpu, struct task_switch *ts)
{
    u32 link;
    ts->cause = TASK_RETURN;
    ts->committed = false;
    if (!lin_read(cpu, cpu->seg[TR].base + TSS_LINK, 2, ACCESS_SYSTEM, &link))
        return STATUS_FAULT;
    return task_switch(cpu, (u16)link, ts);
}
