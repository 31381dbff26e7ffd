/* segment.c: descriptors, segment registers and the instructions that handle selectors. */
#include "callout.h"
#include "gate.h"

#include <string.h>

/* Limit of the table that a selector points into; false: LDT wanted and there is none. */
static bool table_of(const struct cpu *cpu, u16 selector, u32 *base, u32 *limit)
{
    const struct segment *ldt = &cpu->seg[LDTR];
    bool local = selector & 4;
    *base = local ? ldt->base : cpu->gdtr.base;
    *limit = local ? ldt->limit : cpu->gdtr.limit;
    return !local || (ldt->attr & SEG_P);
}

bool lin_read_pair(struct cpu *cpu, u32 lin, u32 ret[2])
{
    const u8 *host = tlb_host(cpu, lin, 8, ACCESS_SYSTEM);
    if (unlikely(!host))
        return lin_read(cpu, lin, 4, ACCESS_SYSTEM, &ret[0]) && lin_read(cpu, lin + 4, 4, ACCESS_SYSTEM, &ret[1]);
    memcpy(ret, host, 8);
    return true;
}

enum lookup descriptor_lookup(struct cpu *cpu, u16 selector, u32 ret[2])
{
    u32 base, limit;
    if (!table_of(cpu, selector, &base, &limit) || (selector | 7u) > limit)
        return LOOKUP_OUTSIDE;
    return lin_read_pair(cpu, base + (selector & 0xFFF8u), ret) ? LOOKUP_FOUND : LOOKUP_FAULT;
}

bool descriptor_get(struct cpu *cpu, u16 selector, enum vector vector, u32 ext, u32 ret[2])
{
    enum lookup found = descriptor_lookup(cpu, selector, ret);
    if (found == LOOKUP_OUTSIDE)
        fault_selector(cpu, vector, selector, ext);
    return found == LOOKUP_FOUND;
}

/* Rewrite the byte that holds the type. */
static bool descriptor_write_type(struct cpu *cpu, u16 selector, const u32 desc[2])
{
    u32 base, limit;
    return table_of(cpu, selector, &base, &limit) &&
           lin_write(cpu, base + (selector & 0xFFF8u) + 5, desc[1] >> 8 & 0xFF, 1, ACCESS_SYSTEM);
}

bool descriptor_touch(struct cpu *cpu, u16 selector, u32 desc[2])
{
    if (desc[1] & DESC_A)
        return true;
    desc[1] |= DESC_A;
    return descriptor_write_type(cpu, selector, desc);
}

/* SDM vol. 3, 3.4.5 */
void segment_from_descriptor(struct segment *s, u16 selector, const u32 desc[2])
{
    s->selector = selector;
    s->base = desc[0] >> 16 | (desc[1] & 0xFF) << 16 | (desc[1] & 0xFF000000);
    s->attr = (desc[1] >> 8) & 0xF0FF;
    s->limit = (desc[0] & 0xFFFF) | (desc[1] & 0x000F0000);
    if (s->attr & SEG_G)
        s->limit = s->limit << 12 | 0xFFF;
}

void segment_set_null(struct segment *s, u16 selector)
{
    *s = (struct segment){.selector = selector};
}

/* SDM vol. 3, 20.1.1 and 20.2. Real mode keeps limit and size of what protected mode loaded. */
void segment_set_paragraph(struct segment *s, u16 selector, bool v86)
{
    bool keep = !v86 && (s->attr & SEG_P);
    s->selector = selector;
    s->base = (u32)selector << 4;
    s->limit = keep ? s->limit : 0xFFFF;
    s->attr = (u16)((keep ? s->attr & (SEG_DB | SEG_G) : 0) | SEG_P | SEG_S | 3 | (v86 ? 3 << 5 : 0));
}

bool segment_contains(const struct segment *s, u32 off, u32 size)
{
    if ((s->attr & (SEG_S | 0xC)) == (SEG_S | 0x4)) {
        u32 top = stack_mask(s);
        return off > s->limit && off <= top && size - 1 <= top - off;
    }
    return s->limit == 0xFFFFFFFF || (off <= s->limit && size - 1 <= s->limit - off);
}

bool segment_check_stack(struct cpu *cpu, u16 selector, unsigned cpl, enum vector vector, u32 ext, u32 ret[2])
{
    if (SELECTOR_NULL(selector)) {
        cpu_fault_code(cpu, vector, ext);
        return false;
    }
    if (!descriptor_get(cpu, selector, vector, ext, ret))
        return false;
    if (SELECTOR_RPL(selector) != cpl || !desc_is_writable(ret) || DESC_DPL(ret) != cpl) {
        fault_selector(cpu, vector, selector, ext);
        return false;
    }
    if (!(ret[1] & DESC_P)) {
        fault_selector(cpu, T_STACK, selector, ext);
        return false;
    }
    return true;
}

/* SDM vol. 2, MOV: a data segment register. */
static bool check_data(struct cpu *cpu, u16 selector, u32 ret[2])
{
    if (!descriptor_get(cpu, selector, T_GPFLT, 0, ret))
        return false;
    unsigned dpl = DESC_DPL(ret);
    bool privileged = desc_is_conforming(ret) || (SELECTOR_RPL(selector) <= dpl && cpu->cpl <= dpl);
    if (!desc_is_readable(ret) || !privileged) {
        fault_selector(cpu, T_GPFLT, selector, 0);
        return false;
    }
    if (!(ret[1] & DESC_P)) {
        fault_selector(cpu, T_SEGNP, selector, 0);
        return false;
    }
    return true;
}

int segment_load(struct cpu *cpu, unsigned seg, u16 selector)
{
    u32 desc[2];
    if (!protected_mode(cpu)) {
        segment_set_paragraph(&cpu->seg[seg], selector, cpu->mode & MODE_V86);
    } else if (seg != SS && SELECTOR_NULL(selector)) {
        segment_set_null(&cpu->seg[seg], selector);
    } else {
        bool good = seg == SS ? segment_check_stack(cpu, selector, cpu->cpl, T_GPFLT, 0, desc)
                              : check_data(cpu, selector, desc);
        if (!good || !descriptor_touch(cpu, selector, desc))
            return STATUS_FAULT;
        segment_from_descriptor(&cpu->seg[seg], selector, desc);
    }
    mode_update(cpu);
    return STATUS_NEXT;
}

void segment_code(struct segment *s, u16 selector, const u32 desc[2], unsigned cpl)
{
    segment_from_descriptor(s, (u16)((selector & 0xFFFCu) | cpl), desc);
    s->attr = (u16)((s->attr & ~0x60u) | cpl << 5);
}

/* SDM vol. 2, LLDT and LTR: a present system descriptor of the GDT whose type is in the set of types. */
static bool check_system(struct cpu *cpu, u16 selector, u32 types, u32 ret[2])
{
    if (selector & 4) {
        fault_selector(cpu, T_GPFLT, selector, 0);
        return false;
    }
    if (!descriptor_get(cpu, selector, T_GPFLT, 0, ret))
        return false;
    if ((ret[1] & DESC_S) || !(types >> DESC_TYPE(ret) & 1)) {
        fault_selector(cpu, T_GPFLT, selector, 0);
        return false;
    }
    if (!(ret[1] & DESC_P)) {
        fault_selector(cpu, T_SEGNP, selector, 0);
        return false;
    }
    return true;
}

bool segment_load_ldtr(struct cpu *cpu, u16 selector)
{
    u32 desc[2];
    if (SELECTOR_NULL(selector)) {
        segment_set_null(&cpu->seg[LDTR], selector);
        return true;
    }
    if (!check_system(cpu, selector, 1u << SYS_LDT, desc))
        return false;
    segment_from_descriptor(&cpu->seg[LDTR], selector, desc);
    return true;
}

bool segment_load_tr(struct cpu *cpu, u16 selector, bool busy)
{
    u32 desc[2], types = 1u << SYS_TSS16 | 1u << SYS_TSS32;
    if (busy)
        types |= 1u << SYS_TSS16_BUSY | 1u << SYS_TSS32_BUSY;
    if (SELECTOR_NULL(selector)) {
        cpu_fault_code(cpu, T_GPFLT, 0);
        return false;
    }
    if (!check_system(cpu, selector, types, desc))
        return false;
    desc[1] |= TYPE_BUSY << 8;
    if (!descriptor_write_type(cpu, selector, desc))
        return false;
    segment_from_descriptor(&cpu->seg[TR], selector, desc);
    return true;
}

static bool flat(const struct segment *s)
{
    return s->base == 0 && s->limit == 0xFFFFFFFF;
}
static bool flat_data(const struct segment *s)  /* present, writable, expand-up */
{
    return flat(s) && (s->attr & (SEG_P | SEG_S | 0xE)) == (SEG_P | SEG_S | 0x2);
}

void mode_update(struct cpu *cpu)
{
    cpu->plain_hits = false;
    const struct segment *s = cpu->seg;
    bool protect = cpu->cr0 & CR0_PE, v86 = protect && (cpu->eflags & EFLAGS_VM);
    u32 mode = (s[CS].attr & SEG_DB ? MODE_CODE32 : 0) | (s[SS].attr & SEG_DB ? MODE_STACK32 : 0);
    if (flat_data(&s[DS]) && flat_data(&s[ES]) && flat_data(&s[SS]))
        mode |= MODE_FLAT;
    if (flat(&s[CS]))
        mode |= MODE_FLAT_CS;
    if (v86)
        mode |= MODE_V86;
    else if (protect)
        mode |= MODE_PROTECTED;
    cpu->cpl = (u8)(v86 ? 3 : protect ? SEG_DPL(s[CS].attr) : 0);
    if (cpu->cpl == 3)
        mode |= MODE_CPL3;
    cpu->mode = mode;
    bool aligns = cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (cpu->eflags & EFLAGS_AC);
    cpu->tlb = cpu->tlbs[aligns ? TLB_ALIGNED : cpu->cpl == 3 ? TLB_USER : TLB_SUPERVISOR];
}

bool stack_push(struct cpu *cpu, u32 value, unsigned size)
{
    u32 off = (cpu->gpr[ESP] - size) & stack_mask(&cpu->seg[SS]);
    if (!mem_write(cpu, SS, off, value, size))
        return false;
    stack_move(cpu, 0 - size);
    return true;
}

/* After a segment load: decoded code depends on the mode, and a new stack on its pointer. */
static int loaded(struct cpu *cpu, const struct op *op, u32 old_mode)
{
    return cpu->mode != old_mode || cpu->shadow ? op_leave(cpu, op) : STATUS_NEXT;
}

int insn_mov_sreg_rm(struct cpu *cpu, const struct op *op)
{
    u32 selector, mode = cpu->mode;
    if (!rm_read(cpu, op, 2, &selector) || segment_load(cpu, op->sub, (u16)selector) != STATUS_NEXT)
        return STATUS_FAULT;
    if (op->sub == SS)
        cpu->shadow = 2;
    return loaded(cpu, op, mode);
}

int insn_mov_rm_sreg(struct cpu *cpu, const struct op *op)
{
    unsigned size = op->flags & OP_MEM ? 2 : op->size;
    return rm_write(cpu, op, size, cpu->seg[op->sub].selector) ? STATUS_NEXT : STATUS_FAULT;
}

int insn_push_sreg(struct cpu *cpu, const struct op *op)
{
    return stack_push(cpu, cpu->seg[op->sub].selector, op->size) ? STATUS_NEXT : STATUS_FAULT;
}

int insn_pop_sreg(struct cpu *cpu, const struct op *op)
{
    u32 selector, mode = cpu->mode, mask = stack_mask(&cpu->seg[SS]), esp = cpu->gpr[ESP];
    if (!mem_read(cpu, SS, esp & mask, op->size, &selector) ||
        segment_load(cpu, op->sub, (u16)selector) != STATUS_NEXT)
        return STATUS_FAULT;
    cpu->gpr[ESP] = (esp & ~mask) | ((esp + op->size) & mask);
    if (op->sub == SS)
        cpu->shadow = 2;
    return loaded(cpu, op, mode);
}

int insn_load_far(struct cpu *cpu, const struct op *op)
{
    u32 off = op_offset(cpu, op), value, selector, mode = cpu->mode;
    if (!mem_read(cpu, op->seg, off, op->size, &value) ||
        !mem_read(cpu, op->seg, (off + op->size) & addr_mask(op), 2, &selector) ||
        segment_load(cpu, op->sub, (u16)selector) != STATUS_NEXT)
        return STATUS_FAULT;
    reg_write(cpu, op->reg, op->size, value);
    return loaded(cpu, op, mode);
}

static void set_zf(struct cpu *cpu, bool zf)
{
    eflags_load(cpu, zf ? EFLAGS_ZF : 0, EFLAGS_ZF);
}

/* System types that LAR and LSL accept (SDM vol. 2, LAR table 3-49, LSL table 3-56). */
#define LSL_TYPES (1u << SYS_TSS16 | 1u << SYS_LDT | 1u << SYS_TSS16_BUSY | 1u << SYS_TSS32 | 1u << SYS_TSS32_BUSY)
#define LAR_TYPES (LSL_TYPES | 1u << SYS_CALL16 | 1u << SYS_TASK | 1u << SYS_CALL32)

/* May the descriptor be inspected at this privilege? LOOKUP_OUTSIDE: no, which clears ZF. system: types allowed. */
static enum lookup inspect(struct cpu *cpu, const struct op *op, u32 system, u32 desc[2])
{
    u32 selector;
    if (!protected_mode(cpu)) {
        cpu_fault(cpu, T_ILLOP);
        return LOOKUP_FAULT;
    }
    if (!rm_read(cpu, op, 2, &selector))
        return LOOKUP_FAULT;
    if (SELECTOR_NULL(selector))
        return LOOKUP_OUTSIDE;
    enum lookup found = descriptor_lookup(cpu, (u16)selector, desc);
    if (found != LOOKUP_FOUND)
        return found;
    if (!(desc[1] & DESC_S) && !(system >> DESC_TYPE(desc) & 1))
        return LOOKUP_OUTSIDE;
    unsigned dpl = DESC_DPL(desc);
    bool privileged = desc_is_conforming(desc) || (cpu->cpl <= dpl && SELECTOR_RPL(selector) <= dpl);
    return privileged ? LOOKUP_FOUND : LOOKUP_OUTSIDE;
}

int insn_lar(struct cpu *cpu, const struct op *op)
{
    u32 desc[2];
    enum lookup found = inspect(cpu, op, LAR_TYPES, desc);
    if (found == LOOKUP_FAULT)
        return STATUS_FAULT;
    if (found == LOOKUP_FOUND)
        reg_write(cpu, op->reg, op->size, desc[1] & 0x00FFFF00);
    set_zf(cpu, found == LOOKUP_FOUND);
    return STATUS_NEXT;
}

int insn_lsl(struct cpu *cpu, const struct op *op)
{
    u32 desc[2];
    struct segment s;
    enum lookup found = inspect(cpu, op, LSL_TYPES, desc);
    if (found == LOOKUP_FAULT)
        return STATUS_FAULT;
    if (found == LOOKUP_FOUND) {
        segment_from_descriptor(&s, 0, desc);
        reg_write(cpu, op->reg, op->size, s.limit);
    }
    set_zf(cpu, found == LOOKUP_FOUND);
    return STATUS_NEXT;
}

static int verify(struct cpu *cpu, const struct op *op, bool (*usable)(const u32 desc[2]))
{
    u32 desc[2];
    enum lookup found = inspect(cpu, op, 0, desc);
    if (found == LOOKUP_FAULT)
        return STATUS_FAULT;
    set_zf(cpu, found == LOOKUP_FOUND && usable(desc));
    return STATUS_NEXT;
}

int insn_verr(struct cpu *cpu, const struct op *op)
{
    return verify(cpu, op, desc_is_readable);
}

int insn_verw(struct cpu *cpu, const struct op *op)
{
    return verify(cpu, op, desc_is_writable);
}

int insn_arpl(struct cpu *cpu, const struct op *op)
{
    u32 dest, rpl = SELECTOR_RPL(REG16(cpu, op->reg));
    if (!protected_mode(cpu))
        return cpu_fault(cpu, T_ILLOP);
    if (!rm_read(cpu, op, 2, &dest))
        return STATUS_FAULT;
    bool raise = SELECTOR_RPL(dest) < rpl;
    if (raise && !rm_write(cpu, op, 2, (dest & 0xFFFCu) | rpl))
        return STATUS_FAULT;
    set_zf(cpu, raise);
    return STATUS_NEXT;
}
