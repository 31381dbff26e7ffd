/* registers.c: registers by number, for Python. */
#include <string.h>

#include "gate.h"
#include "kprobe.h"
#include "machine.h"
#include "trap.h"

static unsigned debug_index(int id)
{
    return id < REG_DR6 ? (unsigned)(id - REG_DR0) : (unsigned)(id - REG_DR6) + 6;
}

uint32_t machine_get_reg(machine *m, int id)
{
    const struct cpu *cpu = m->cpu;
    if (id >= 0 && id < 8)
        return cpu->gpr[id];
    if (id >= REG_ES && id <= REG_TR)
        return cpu->seg[id - REG_ES].selector;
    if (id >= REG_DR0 && id <= REG_DR7)
        return cpu->dr[debug_index(id)];
    switch (id) {
    case REG_EIP: return cpu->eip;
    case REG_EFLAGS: return cpu_eflags(cpu);
    case REG_CR0: return cpu->cr0;
    case REG_CR2: return cpu->cr2;
    case REG_CR3: return cpu->cr3;
    case REG_CR4: return cpu->cr4;
    case REG_GDTR_BASE: return cpu->gdtr.base;
    case REG_GDTR_LIMIT: return cpu->gdtr.limit;
    case REG_IDTR_BASE: return cpu->idtr.base;
    case REG_IDTR_LIMIT: return cpu->idtr.limit;
    case REG_CPL: return cpu->cpl;
    default: return 0;
    }
}

/* VM can be entered, which reloads the segments as paragraphs; leaving it needs selectors: only a trap does that. */
static bool set_eflags(struct cpu *cpu, u32 value)
{
    bool enter = value & ~cpu->eflags & EFLAGS_VM, leave = cpu->eflags & ~value & EFLAGS_VM;
    if ((value & ~(cpu->model->eflags | EFLAGS_FIXED)) || leave || (enter && !(cpu->cr0 & CR0_PE)))
        return false;
    cpu_set_eflags(cpu, value);
    if (enter)
        for (unsigned i = ES; i <= GS; i++)
            segment_set_paragraph(&cpu->seg[i], cpu->seg[i].selector, true);
    mode_update(cpu);
    return true;
}

/* CS by the rules of a far return to any ring: the selector's RPL becomes CPL (SDM vol. 2, RET). */
static bool set_cs(struct cpu *cpu, u16 selector)
{
    u32 desc[2];
    unsigned cpl = SELECTOR_RPL(selector);
    if (SELECTOR_NULL(selector) || descriptor_lookup(cpu, selector, desc) != LOOKUP_FOUND)
        return false;
    unsigned dpl = DESC_DPL(desc);
    bool allowed = desc_is_conforming(desc) ? dpl <= cpl : dpl == cpl;
    if (!desc_is_code(desc) || !(desc[1] & DESC_P) || !allowed || !descriptor_touch(cpu, selector, desc))
        return false;
    segment_code(&cpu->seg[CS], selector, desc, cpl);
    mode_update(cpu);
    return true;
}

static bool set_selector(struct cpu *cpu, unsigned seg, u16 selector)
{
    if (seg == LDTR)
        return segment_load_ldtr(cpu, selector);
    if (seg == TR)
        return segment_load_tr(cpu, selector, true);
    if (seg == CS && protected_mode(cpu))
        return set_cs(cpu, selector);
    return segment_load(cpu, seg, selector) == STATUS_NEXT;
}

static bool set_table(struct dtable *table, bool limit, u32 value)
{
    if (limit && value > 0xFFFF)
        return false;
    if (limit)
        table->limit = (u16)value;
    else
        table->base = value;
    return true;
}

/* Leaving protected mode from virtual-8086 mode would leave VM set where it means nothing. */
static bool set_cr0(struct cpu *cpu, u32 value)
{
    return !((cpu->eflags & EFLAGS_VM) && !(value & CR0_PE)) && cpu_write_control(cpu, 0, value);
}

static bool set_other(struct cpu *cpu, int id, u32 value)
{
    switch (id) {
    case REG_EIP:
        cpu->eip = value;
        cpu->halted = false;    /* somebody who sets eip wants to run from there */
        cpu->parked = cpu->waits = cpu->trapped = false;
        cpu->probe_resume.set = false;
        if (!cpu->machine->depth)
            cpu->watch_passed.set = false;
        return true;
    case REG_EFLAGS: return set_eflags(cpu, value);
    case REG_CR0: return set_cr0(cpu, value);
    case REG_CR2: return cpu_write_control(cpu, 2, value);
    case REG_CR3: return cpu_write_control(cpu, 3, value);
    case REG_CR4: return cpu_write_control(cpu, 4, value);
    case REG_GDTR_BASE: return set_table(&cpu->gdtr, false, value);
    case REG_GDTR_LIMIT: return set_table(&cpu->gdtr, true, value);
    case REG_IDTR_BASE: return set_table(&cpu->idtr, false, value);
    case REG_IDTR_LIMIT: return set_table(&cpu->idtr, true, value);
    case REG_CPL: return value == cpu->cpl;     /* follows CS */
    default: return false;
    }
}

static bool set_reg(struct cpu *cpu, int id, u32 value)
{
    if (id >= 0 && id < 8) {
        cpu->gpr[id] = value;
        return true;
    }
    if (id >= REG_ES && id <= REG_TR)
        return value <= 0xFFFF && set_selector(cpu, (unsigned)(id - REG_ES), (u16)value);
    if (id >= REG_DR0 && id <= REG_DR7) {
        cpu_write_debug(cpu, debug_index(id), value);
        return true;
    }
    return set_other(cpu, id, value);
}

int machine_set_reg(machine *m, int id, uint32_t value)
{
    struct cpu *cpu = m->cpu;
    struct fault fault = cpu->fault;    /* a refused selector must not look like the guest's fault */
    u8 leave = cpu->leave;
    bool done = set_reg(cpu, id, value);
    cpu->fault = fault;
    cpu->leave = leave;
    return done ? 0 : -1;
}

/* --- hidden parts ----------------------------------------------------------------------------------------- */

#define ATTR_DEFINED 0xD0FFu    /* type, S, DPL, P, AVL, D/B, G */
#define V86_ATTR 0x00F3u        /* SDM vol. 3, 20.1: what segments are in virtual-8086 mode */
#define G_LIMIT_LOW 0xFFFu      /* these bits of a limit in pages are set */

/* SDM vol. 3, 3.4.5.1 and table 3-2: what each register's type may be, by bit. CS is a data segment after reset and
 * until the first far jump behind entering protected mode. */
static u32 types_of(unsigned seg, bool protect)
{
    switch (seg) {
    case CS: return protect ? 0xFF08 : 0xFFFF;
    case SS: return protect ? 0x00CC : 0xFFFF;
    case LDTR: return 1u << SYS_LDT;
    case TR: return 1u << SYS_TSS16_BUSY | 1u << SYS_TSS32_BUSY;
    default: return protect ? 0xCCFF : 0xFFFF;
    }
}

static enum segment_error check_segment(const struct cpu *cpu, unsigned seg, const struct segment *s)
{
    bool system = seg == LDTR || seg == TR, protect = cpu->cr0 & CR0_PE, v86 = cpu->eflags & EFLAGS_VM;
    if (s->attr & ~ATTR_DEFINED)
        return SEGMENT_RESERVED;
    if (s->attr & SEG_G ? (s->limit & G_LIMIT_LOW) != G_LIMIT_LOW : s->limit > 0xFFFFF)
        return SEGMENT_LIMIT;
    if (!(s->attr & SEG_P))
        return seg == CS || seg == SS || seg == TR ? SEGMENT_ABSENT : SEGMENT_GOOD;
    if (!(s->attr & SEG_S) != system || !(types_of(seg, protect) >> SEG_TYPE(s->attr) & 1))
        return SEGMENT_TYPE;
    if (v86 && !system && (s->base != (u32)s->selector << 4 || s->limit != 0xFFFF || s->attr != V86_ATTR))
        return SEGMENT_V86;
    return SEGMENT_GOOD;
}

void machine_get_segment(machine *m, int id, struct segment_state *ret)
{
    const struct segment *s = &m->cpu->seg[id - REG_ES];
    *ret = (struct segment_state){s->base, s->limit, s->selector, s->attr};
}

int machine_set_segment(machine *m, int id, const struct segment_state *state)
{
    struct cpu *cpu = m->cpu;
    unsigned seg = (unsigned)(id - REG_ES);
    struct segment s = {state->base, state->limit, state->selector, state->attributes};
    enum segment_error error = check_segment(cpu, seg, &s);
    if (error != SEGMENT_GOOD)
        return error;
    cpu->seg[seg] = s;
    mode_update(cpu);
    cpu->code_changed = true;   /* decoded code may depend on it: a handler's block is left */
    return SEGMENT_GOOD;
}

void machine_get_fpu(machine *m, struct fpu_state *ret)
{
    struct fpu *f = &m->cpu->fpu;
    *ret = (struct fpu_state){.control = f->control, .status = f->status, .tag = fpu_tag_word(f), .opcode = f->opcode,
                              .cs = f->cs, .ds = f->ds, .ip = f->ip, .dp = f->dp};
    for (unsigned i = 0; i < 8; i++)
        memcpy(ret->st + 10 * i, fpu_st(f, i), 10);
}

void machine_set_fpu(machine *m, const struct fpu_state *state)
{
    struct fpu *f = &m->cpu->fpu;
    fpu_set_control(f, state->control);
    fpu_set_status(f, state->status);
    fpu_set_tag_word(f, state->tag);
    f->opcode = state->opcode & 0x7FF;
    f->cs = state->cs;
    f->ds = state->ds;
    f->ip = state->ip;
    f->dp = state->dp;
    for (unsigned i = 0; i < 8; i++)
        memcpy(fpu_st(f, i), state->st + 10 * i, 10);
}

static bool has_sse(const machine *m)
{
    return m->cpu->model->features & FEATURE_SSE;
}

int machine_get_sse(machine *m, struct sse_state *ret)
{
    if (!has_sse(m))
        return -1;
    memcpy(ret->xmm, m->cpu->sse.xmm, sizeof(ret->xmm));
    ret->mxcsr = m->cpu->sse.mxcsr;
    return 0;
}

int machine_set_sse(machine *m, const struct sse_state *state)
{
    if (!has_sse(m) || state->mxcsr & ~mxcsr_defined(m->cpu))
        return -1;
    memcpy(m->cpu->sse.xmm, state->xmm, sizeof(state->xmm));
    m->cpu->sse.mxcsr = state->mxcsr;
    return 0;
}
