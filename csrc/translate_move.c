/* translate_move.c: moves, the stack, segment registers, and what runs as callouts only. */
#include "translators.h"

static op_handler *const setcc_r[8] = BY_COND(set_r), *const cmov_r_r[8] = BY_COND(cmov_r_r);
static op_handler *const mov_r_r[3] = TABLE3(mov_r_r), *const mov_r_i[3] = TABLE3(mov_r_i);

void do_mov_rm_r(struct translation *t, const struct insn *in)
{
    unsigned w = log2_size(in->size);
    if (in->mem) {
        append_memory(t, in, ID_mov_m_r8_bd + 2 * w, 1);
        return;
    }
    struct op *op = append(t, in, mov_r_r[w]);
    u8 reg = op->reg;
    op->reg = op->rm;
    op->rm = reg;
}

void do_mov_r_rm(struct translation *t, const struct insn *in)
{
    unsigned w = log2_size(in->size);
    if (in->mem)
        append_memory(t, in, ID_mov_r_m8_bd + 2 * w, 1);
    else
        append(t, in, mov_r_r[w]);
}

void do_mov_a_m(struct translation *t, const struct insn *in)
{
    append_memory(t, in, ID_mov_r_m8_bd + 2 * log2_size(in->size), 1)->reg = 4 * EAX;
}

void do_mov_m_a(struct translation *t, const struct insn *in)
{
    append_memory(t, in, ID_mov_m_r8_bd + 2 * log2_size(in->size), 1)->reg = 4 * EAX;
}

void do_mov_r_i(struct translation *t, const struct insn *in)
{
    append(t, in, mov_r_i[log2_size(in->size)])->reg = reg_offset(in->row.arg, in->size);
}

void do_mov_rm_i(struct translation *t, const struct insn *in)
{
    unsigned w = log2_size(in->size);
    if (in->mem)
        append_memory(t, in, ID_mov_m_i8_bd + 2 * w, 1);
    else
        append(t, in, mov_r_i[w])->reg = reg_offset(in->rm, in->size);
}

void do_lea(struct translation *t, const struct insn *in)
{
    struct op *op = append(t, in, lea_any);
    if (in->size == 4 && !in->addr16)
        op->fn = op->index == ZERO_REG ? lea_bd : lea_bis;
}

void do_extend(struct translation *t, const struct insn *in)
{
    static op_handler *const registers[2][2] = {{movzx8_r_r, movzx16_r_r}, {movsx8_r_r, movsx16_r_r}};
    static const u16 memory[2][2] = {
        {ID_movzx8_r_m_bd, ID_movzx16_r_m_bd}, {ID_movsx8_r_m_bd, ID_movsx16_r_m_bd}};
    unsigned sign = in->row.arg, size = in->row.properties & P_RM_BYTE ? 1 : 2;
    u8 rm = reg_offset(in->rm, size);
    struct op *op;
    if (in->size == 4 && in->mem) {
        append_memory(t, in, memory[sign][size - 1], 1);
        return;
    }
    if (in->size == 4) {
        op = append(t, in, registers[sign][size - 1]);
    } else {
        op = append_callout(t, in, CALLOUT_extend);
        op->sub = (u8)sign;
        op->imm = size;
    }
    if (!in->mem)
        op->rm = rm;
}

void do_convert(struct translation *t, const struct insn *in)
{
    if (in->size == 4)
        append(t, in, in->row.arg ? cdq : cwde);
    else
        append_callout(t, in, CALLOUT_convert)->sub = in->row.arg;
}

void do_xchg(struct translation *t, const struct insn *in)
{
    if (in->mem)
        append_callout(t, in, CALLOUT_xchg_m);
    else if (in->size == 4)
        append(t, in, xchg_r_r32);
    else
        append_callout(t, in, CALLOUT_xchg_r);
}

void do_xchg_a(struct translation *t, const struct insn *in)
{
    struct op *op = in->size == 4 ? append(t, in, xchg_r_r32) : append_callout(t, in, CALLOUT_xchg_r);
    op->reg = 4 * EAX;
    op->rm = (u8)(4 * in->row.arg);
}

void do_nop(struct translation *t, const struct insn *in)
{
    append(t, in, nop);
}

void do_bswap(struct translation *t, const struct insn *in)
{
    struct op *op = in->size == 4 ? append(t, in, bswap) : append_callout(t, in, CALLOUT_bswap16);
    op->reg = op->rm = (u8)(4 * in->row.arg);
}

void do_setcc(struct translation *t, const struct insn *in)
{
    unsigned cc = in->row.arg;
    if (in->mem) {
        append_callout(t, in, CALLOUT_setcc_m)->sub = (u8)cc;
        return;
    }
    append(t, in, setcc_r[cc >> 1])->imm = cc & 1;
}

void do_cmov(struct translation *t, const struct insn *in)
{
    unsigned cc = in->row.arg;
    if (in->size == 4 && !in->mem)
        append(t, in, cmov_r_r[cc >> 1])->imm = cc & 1;
    else
        append_callout(t, in, CALLOUT_cmov)->sub = (u8)cc;
}

void do_push_r(struct translation *t, const struct insn *in)
{
    struct op *op;
    if (stack32(t, in)) {
        op = append_stack(t, in, ID_push_r);
    } else {
        op = append_callout(t, in, CALLOUT_push);
        op->sub = PUSH_RM;
    }
    op->reg = op->rm = (u8)(4 * in->row.arg);
}

void do_push_i(struct translation *t, const struct insn *in)
{
    if (stack32(t, in))
        append_stack(t, in, ID_push_i);
    else
        append_callout(t, in, CALLOUT_push)->sub = PUSH_IMM;
}

void do_push_rm(struct translation *t, const struct insn *in)
{
    if (!stack32(t, in))
        append_callout(t, in, CALLOUT_push)->sub = PUSH_RM;
    else if (in->mem)
        append_memory(t, in, ID_push_m_bd, 1);
    else
        append_stack(t, in, ID_push_r)->reg = reg_offset(in->rm, 4);
}

void do_pop_r(struct translation *t, const struct insn *in)
{
    struct op *op = stack32(t, in) ? append_stack(t, in, ID_pop_r) : append_callout(t, in, CALLOUT_pop_r);
    op->reg = (u8)(4 * in->row.arg);
}

void do_pop_rm(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_pop_rm);
}

void do_leave(struct translation *t, const struct insn *in)
{
    if (stack32(t, in))
        append_stack(t, in, ID_leave32);
    else
        append_callout(t, in, CALLOUT_leave);
}

void do_push_sreg(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_push_sreg)->sub = in->row.arg;
}

void do_pop_sreg(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_pop_sreg)->sub = in->row.arg;
}

void do_mov_rm_sreg(struct translation *t, const struct insn *in)
{
    if (in->reg > GS)
        append_undefined(t, in);
    else
        append_callout(t, in, CALLOUT_mov_rm_sreg);
}

void do_mov_sreg_rm(struct translation *t, const struct insn *in)
{
    if (in->reg > GS || in->reg == CS)
        append_undefined(t, in);
    else
        append_callout(t, in, CALLOUT_mov_sreg_rm);
}

void do_load_far(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_load_far)->sub = in->row.arg;
}

void do_callout(struct translation *t, const struct insn *in)
{
    struct op *op = append_callout(t, in, in->row.arg);
    if (in->row.operands == ENC_FAR || in->row.operands == ENC_IW_IB)
        op->disp = in->imm2;
}

void do_callout_fpu(struct translation *t, const struct insn *in)
{
    unsigned escape = in->row.arg;
    if (!fpu_defined(escape, in->mem, in->reg, in->rm)) {
        append_undefined(t, in);
        return;
    }
    struct op *op = append_callout(t, in, CALLOUT_fpu);
    op->sub = (u8)(escape << 3 | in->reg);
    op->imm = escape << 8 | in->modrm;
    bool flat = (t->mode & MODE_FLAT) && in->seg <= DS && in->seg != CS && !in->addr16;
    op_handler *hot = !in->mem || flat ? fpu_hot(escape, in->mem, in->reg, in->rm) : NULL;
    if (hot)
        op->fn = hot;
}

static u8 sse_offset(unsigned place, unsigned reg)
{
    return (u8)(place == AT_MM || place == AT_XMM ? 16 * reg : 4 * reg);
}

/* insn_sse does every row; those with a handler get it for registers and flat memory. */
void do_sse(struct translation *t, const struct insn *in)
{
    const struct sse_row *row = in->sse;
    bool flat = (t->mode & MODE_FLAT) && in->seg <= DS && in->seg != CS && !in->addr16;
    struct op *op = append_callout(t, in, CALLOUT_sse);
    op->reg = row->flags & SSE_SPECIAL && row->reg == AT_NONE ? op->reg : sse_offset(row->reg, in->reg);
    if (!in->mem)
        op->rm = sse_offset(row->rm, in->rm);
    op->imm = sse_number(row) << 8 | (in->imm & 0xFF);
    sse_handler *hot = row->flags & SSE_FLOAT ? sse_float_handler(row, in->mem) : row->handler;
    if (hot && (!in->mem || flat))
        op->fn = hot;
}

void do_string(struct translation *t, const struct insn *in)
{
    append_callout(t, in, in->row.arg);
}

void do_in_out(struct translation *t, const struct insn *in)
{
    append_callout(t, in, in->row.arg)->sub = in->row.operands == ENC_IB_ZERO;
}

void do_control(struct translation *t, const struct insn *in)
{
    append_callout(t, in, in->row.arg);
}
