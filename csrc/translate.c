#include "translate.h"

#include "execute.h"

#define TABLE3(name) {name##8, name##16, name##32}
#define BY_COND(name) {name##_o, name##_b, name##_z, name##_be, name##_s, name##_p, name##_l, name##_le}

#define ALU_TABLE(form) { \
    TABLE3(add_##form), TABLE3(or_##form), TABLE3(adc_##form), TABLE3(sbb_##form), \
    TABLE3(and_##form), TABLE3(sub_##form), TABLE3(xor_##form), TABLE3(cmp_##form)}
static op_handler *const alu_r_r[8][3] = ALU_TABLE(r_r);
static op_handler *const alu_r_i[8][3] = ALU_TABLE(r_i);

#define ALU_IDS(form) { \
    ID_add_##form##8_bd, ID_or_##form##8_bd, ID_adc_##form##8_bd, ID_sbb_##form##8_bd, \
    ID_and_##form##8_bd, ID_sub_##form##8_bd, ID_xor_##form##8_bd, ID_cmp_##form##8_bd}
static const u16 alu_r_m[8] = ALU_IDS(r_m);
static const u16 alu_m_r[8] = ALU_IDS(m_r);
static const u16 alu_m_i[8] = ALU_IDS(m_i);

static const s8 alu_class[8] = {FC_ADD, FC_LOGIC, -1, -1, FC_LOGIC, FC_SUB, FC_LOGIC, FC_SUB};

static op_handler *const jcc_any[8] = BY_COND(jcc);
static op_handler *const jcc_sub[8] = BY_COND(jsub);
static op_handler *const jcc_logic[8] = BY_COND(jlogic);
static op_handler *const jcmp32_rr[8] = BY_COND(jcmp32_r_r), *const jcmp32_ri[8] = BY_COND(jcmp32_r_i);
static op_handler *const jcmp8_rr[8] = BY_COND(jcmp8_r_r), *const jcmp8_ri[8] = BY_COND(jcmp8_r_i);
static op_handler *const jtest32_rr[8] = BY_COND(jtest32_r_r), *const jtest32_ri[8] = BY_COND(jtest32_r_i);
static op_handler *const jtest8_rr[8] = BY_COND(jtest8_r_r), *const jtest8_ri[8] = BY_COND(jtest8_r_i);
static op_handler *const jsub32_ri[8] = BY_COND(jsub32_r_i), *const jadd32_ri[8] = BY_COND(jadd32_r_i);
static op_handler *const jand32_ri[8] = BY_COND(jand32_r_i), *const jdec32[8] = BY_COND(jdec32_r);
static op_handler *const setcc_r[8] = BY_COND(set_r), *const cmov_r_r[8] = BY_COND(cmov_r_r);

static unsigned log2_size(unsigned size)
{
    return size >> 1;           /* 1, 2, 4 -> 0, 1, 2 */
}

static u8 reg_offset(unsigned reg, unsigned size)
{
    return (u8)(size == 1 && reg >= 4 ? 4 * (reg - 4) + 1 : 4 * reg);
}

static struct op *append(struct translation *t, const struct insn *in, op_handler *fn)
{
    struct op *op = &t->ops[t->n++];
    *op = (struct op){
        .fn = fn,
        .imm = in->imm,
        .disp = in->disp,
        .eip = t->eip,
        .reg = reg_offset(in->reg, in->size),
        .rm = reg_offset(in->rm, in->size),
        .index = ZERO_REG,
        .seg = in->seg,
        .done = (u8)t->count,
        .len = in->len,
        .size = in->size,
        .sub = in->reg,
    };
    if (in->mem) {
        op->rm = in->base == NO_REG ? ZERO_REG : (u8)(4 * in->base);
        op->index = in->index == NO_REG ? ZERO_REG : (u8)(4 * in->index);
        op->scale = in->scale;
        op->flags |= OP_MEM;
    }
    op->flags |= (in->addr16 ? OP_ADDR16 : 0) | (in->rep ? OP_REP : 0) | (in->repne ? OP_REPNE : 0) |
                 (in->lock ? OP_LOCK : 0) | (in->has_seg ? OP_HAS_SEG : 0);
    return op;
}

/* A handler with a memory operand; id is its _bd form, the _bis form lies `apart` behind. */
static struct op *append_memory(struct translation *t, const struct insn *in, unsigned id, unsigned apart)
{
    struct op *op = append(t, in, NULL);
    bool flat = (t->mode & MODE_FLAT) && in->seg <= DS && in->seg != CS && !in->addr16;
    op->id = (u16)(id + (op->index == ZERO_REG ? 0 : apart));
    op->fn = flat ? handler_twins[op->id].fast : handler_twins[op->id].slow;
    return op;
}

static struct op *append_stack(struct translation *t, const struct insn *in, unsigned id)
{
    struct op *op = append(t, in, NULL);
    op->id = (u16)id;
    op->fn = t->mode & MODE_FLAT ? handler_twins[id].fast : handler_twins[id].slow;
    return op;
}

static void append_exit(struct translation *t, u32 fall, u32 taken)
{
    struct block_exit *exit = (struct block_exit *)&t->ops[t->n++];
    *exit = (struct block_exit){.target = {fall, taken}, .count = (u8)(t->count + 1)};
    t->ended = true;
}

static struct op *append_callout(struct translation *t, const struct insn *in, unsigned id)
{
    bool ends = in->row.properties & P_ENDS;
    struct op *op = append(t, in, ends ? callout_end : callout_op);
    op->id = (u16)id;
    if (ends)
        append_exit(t, t->eip + in->len, 0);
    return op;
}

static void undefined(struct translation *t, const struct insn *in)
{
    append(t, in, raise_ud);
    append_exit(t, t->eip + in->len, 0);
}

static void fuse_with(struct translation *t, op_handler *const *table)
{
    t->fuse = table;
}

static void fuse_memory(struct translation *t, unsigned id)
{
    t->fuse_id = (u16)id;
    t->fuse_memory = true;
}

/* --- arithmetic ------------------------------------------------------------------------------------------- */

static void set_alu_class(struct translation *t, unsigned alu)
{
    t->flags_class = alu_class[alu];
}

static void do_alu_rm_r(struct translation *t, const struct insn *in)
{
    unsigned alu = in->row.arg, w = log2_size(in->size);
    if (in->mem) {
        append_memory(t, in, alu_m_r[alu] + 2 * w, 1);
        if (alu == ALU_CMP && in->size == 4)
            fuse_memory(t, ID_jcmp32_m_r_bd_o);
    } else {
        struct op *op = append(t, in, alu_r_r[alu][w]);
        u8 reg = op->reg;
        op->reg = op->rm;
        op->rm = reg;
        if (alu == ALU_CMP && in->size != 2)
            fuse_with(t, in->size == 4 ? jcmp32_rr : jcmp8_rr);
    }
    set_alu_class(t, alu);
}

static void do_alu_r_rm(struct translation *t, const struct insn *in)
{
    unsigned alu = in->row.arg, w = log2_size(in->size);
    if (in->mem) {
        append_memory(t, in, alu_r_m[alu] + 2 * w, 1);
        if (alu == ALU_CMP && in->size != 2)
            fuse_memory(t, in->size == 4 ? ID_jcmp32_r_m_bd_o : ID_jcmp8_r_m_bd_o);
    } else {
        append(t, in, alu_r_r[alu][w]);
        if (alu == ALU_CMP && in->size != 2)
            fuse_with(t, in->size == 4 ? jcmp32_rr : jcmp8_rr);
    }
    set_alu_class(t, alu);
}

static void alu_register_immediate(struct translation *t, const struct insn *in, u8 reg)
{
    static op_handler *const *const fused32[8] = {
        [ALU_ADD] = jadd32_ri, [ALU_AND] = jand32_ri, [ALU_SUB] = jsub32_ri, [ALU_CMP] = jcmp32_ri};
    unsigned alu = in->row.arg;
    append(t, in, alu_r_i[alu][log2_size(in->size)])->reg = reg;
    if (in->size == 4)
        fuse_with(t, fused32[alu]);
    else if (in->size == 1 && alu == ALU_CMP)
        fuse_with(t, jcmp8_ri);
    set_alu_class(t, alu);
}

static void do_alu_a_i(struct translation *t, const struct insn *in)
{
    alu_register_immediate(t, in, 4 * EAX);
}

static void do_alu_rm_i(struct translation *t, const struct insn *in)
{
    unsigned alu = in->row.arg;
    if (!in->mem) {
        alu_register_immediate(t, in, reg_offset(in->rm, in->size));
        return;
    }
    append_memory(t, in, alu_m_i[alu] + 2 * log2_size(in->size), 1);
    if (alu == ALU_CMP && in->size != 2)
        fuse_memory(t, in->size == 4 ? ID_jcmp32_m_i_bd_o : ID_jcmp8_m_i_bd_o);
    set_alu_class(t, alu);
}

static void do_test_rm_r(struct translation *t, const struct insn *in)
{
    static op_handler *const handlers[3] = TABLE3(test_r_r);
    unsigned w = log2_size(in->size);
    if (in->mem) {
        append_memory(t, in, ID_test_m_r8_bd + 2 * w, 1);
    } else {
        append(t, in, handlers[w]);
        if (in->size != 2)
            fuse_with(t, in->size == 4 ? jtest32_rr : jtest8_rr);
    }
    t->flags_class = FC_LOGIC;
}

static void test_register_immediate(struct translation *t, const struct insn *in, u8 reg)
{
    static op_handler *const handlers[3] = TABLE3(test_r_i);
    append(t, in, handlers[log2_size(in->size)])->reg = reg;
    if (in->size != 2)
        fuse_with(t, in->size == 4 ? jtest32_ri : jtest8_ri);
    t->flags_class = FC_LOGIC;
}

static void do_test_a_i(struct translation *t, const struct insn *in)
{
    test_register_immediate(t, in, 4 * EAX);
}

static void do_test_rm_i(struct translation *t, const struct insn *in)
{
    if (!in->mem) {
        test_register_immediate(t, in, reg_offset(in->rm, in->size));
        return;
    }
    append_memory(t, in, ID_test_m_i8_bd + 2 * log2_size(in->size), 1);
    if (in->size == 1)
        fuse_memory(t, ID_jtest8_m_i_bd_o);
    t->flags_class = FC_LOGIC;
}

static void unary(struct translation *t, const struct insn *in, op_handler *const handlers[3], unsigned id)
{
    unsigned w = log2_size(in->size);
    if (in->mem)
        append_memory(t, in, id + 2 * w, 1);
    else
        append(t, in, handlers[w])->reg = reg_offset(in->rm, in->size);
}

static op_handler *const inc_r[3] = TABLE3(inc_r), *const dec_r[3] = TABLE3(dec_r);

static void do_inc_r(struct translation *t, const struct insn *in)
{
    append(t, in, inc_r[log2_size(in->size)])->reg = (u8)(4 * in->row.arg);
}

static void do_dec_r(struct translation *t, const struct insn *in)
{
    append(t, in, dec_r[log2_size(in->size)])->reg = (u8)(4 * in->row.arg);
    if (in->size == 4)
        fuse_with(t, jdec32);
}

static void do_inc_rm(struct translation *t, const struct insn *in)
{
    unary(t, in, inc_r, ID_inc_m8_bd);
}

static void do_dec_rm(struct translation *t, const struct insn *in)
{
    unary(t, in, dec_r, ID_dec_m8_bd);
    if (in->size == 4 && !in->mem)
        fuse_with(t, jdec32);
}

static void do_not(struct translation *t, const struct insn *in)
{
    static op_handler *const handlers[3] = TABLE3(not_r);
    unary(t, in, handlers, ID_not_m8_bd);
}

static void do_neg(struct translation *t, const struct insn *in)
{
    static op_handler *const handlers[3] = TABLE3(neg_r);
    unary(t, in, handlers, ID_neg_m8_bd);
    t->flags_class = FC_SUB;
}

static void do_mul_div(struct translation *t, const struct insn *in)
{
    static op_handler *const handlers[8] = {[4] = mul_r32, [5] = imul_r32, [6] = div_r32};
    if (in->size == 4 && !in->mem && handlers[in->row.arg])
        append(t, in, handlers[in->row.arg]);
    else
        append_callout(t, in, CALLOUT_mul_div);
}

static void do_imul(struct translation *t, const struct insn *in)
{
    bool immediate = in->row.arg;
    if (in->size != 4)
        append_callout(t, in, CALLOUT_imul)->sub = immediate;
    else if (in->mem)
        append_memory(t, in, immediate ? ID_imul_r_m_i_bd : ID_imul_r_m_bd, 1);
    else
        append(t, in, immediate ? imul_r_r_i : imul_r_r);
}

static void do_shift(struct translation *t, const struct insn *in)
{
    static op_handler *const by_imm[8] = {rol_r_i, ror_r_i, NULL, NULL, shl_r_i, shr_r_i, shl_r_i, sar_r_i};
    static op_handler *const by_cl[8] = {NULL, NULL, NULL, NULL, shl_r_cl, shr_r_cl, shl_r_cl, sar_r_cl};
    bool cl = in->row.arg == SHIFT_BY_CL;
    u32 count = in->row.arg == SHIFT_BY_1 ? 1 : in->imm & 31;
    op_handler *fn = cl ? by_cl[in->reg] : by_imm[in->reg];
    struct op *op;
    if (in->size == 4 && !in->mem && fn) {
        op = append(t, in, cl || count ? fn : nop);
        op->reg = op->rm;
    } else {
        op = append_callout(t, in, CALLOUT_rotate_shift);
        op->reg = cl ? 4 * ECX : ZERO_REG;
    }
    op->imm = count;
}

static void do_double_shift(struct translation *t, const struct insn *in)
{
    append_callout(t, in, in->row.arg)->sub = in->row.operands != ENC_MODRM_IB;
}

static void do_bit_test_r(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_bt)->sub = in->row.arg;
}

static void do_bit_test_i(struct translation *t, const struct insn *in)
{
    struct op *op = append_callout(t, in, CALLOUT_bt);
    op->sub = in->row.arg;
    op->reg = ZERO_REG;
}

static void do_bit_scan(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_bit_scan)->sub = in->row.arg;
}

static void do_carry(struct translation *t, const struct insn *in)
{
    append(t, in, carry)->sub = in->row.arg;
}

static void do_direction(struct translation *t, const struct insn *in)
{
    append(t, in, direction)->sub = in->row.arg;
}

/* --- moves ------------------------------------------------------------------------------------------------ */

static op_handler *const mov_r_r[3] = TABLE3(mov_r_r), *const mov_r_i[3] = TABLE3(mov_r_i);

static void do_mov_rm_r(struct translation *t, const struct insn *in)
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

static void do_mov_r_rm(struct translation *t, const struct insn *in)
{
    unsigned w = log2_size(in->size);
    if (in->mem)
        append_memory(t, in, ID_mov_r_m8_bd + 2 * w, 1);
    else
        append(t, in, mov_r_r[w]);
}

static void do_mov_a_m(struct translation *t, const struct insn *in)
{
    append_memory(t, in, ID_mov_r_m8_bd + 2 * log2_size(in->size), 1)->reg = 4 * EAX;
}

static void do_mov_m_a(struct translation *t, const struct insn *in)
{
    append_memory(t, in, ID_mov_m_r8_bd + 2 * log2_size(in->size), 1)->reg = 4 * EAX;
}

static void do_mov_r_i(struct translation *t, const struct insn *in)
{
    append(t, in, mov_r_i[log2_size(in->size)])->reg = reg_offset(in->row.arg, in->size);
}

static void do_mov_rm_i(struct translation *t, const struct insn *in)
{
    unsigned w = log2_size(in->size);
    if (in->mem)
        append_memory(t, in, ID_mov_m_i8_bd + 2 * w, 1);
    else
        append(t, in, mov_r_i[w])->reg = reg_offset(in->rm, in->size);
}

static void do_lea(struct translation *t, const struct insn *in)
{
    struct op *op = append(t, in, lea_any);
    if (in->size == 4 && !in->addr16)
        op->fn = op->index == ZERO_REG ? lea_bd : lea_bis;
}

static void do_extend(struct translation *t, const struct insn *in)
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

static void do_convert(struct translation *t, const struct insn *in)
{
    if (in->size == 4)
        append(t, in, in->row.arg ? cdq : cwde);
    else
        append_callout(t, in, CALLOUT_convert)->sub = in->row.arg;
}

static void do_xchg(struct translation *t, const struct insn *in)
{
    if (in->mem)
        append_callout(t, in, CALLOUT_xchg_m);
    else if (in->size == 4)
        append(t, in, xchg_r_r32);
    else
        append_callout(t, in, CALLOUT_xchg_r);
}

static void do_xchg_a(struct translation *t, const struct insn *in)
{
    struct op *op = in->size == 4 ? append(t, in, xchg_r_r32) : append_callout(t, in, CALLOUT_xchg_r);
    op->reg = 4 * EAX;
    op->rm = (u8)(4 * in->row.arg);
}

static void do_nop(struct translation *t, const struct insn *in)
{
    append(t, in, nop);
}

static void do_bswap(struct translation *t, const struct insn *in)
{
    struct op *op = in->size == 4 ? append(t, in, bswap) : append_callout(t, in, CALLOUT_bswap16);
    op->reg = op->rm = (u8)(4 * in->row.arg);
}

static void do_setcc(struct translation *t, const struct insn *in)
{
    unsigned cc = in->row.arg;
    if (in->mem) {
        append_callout(t, in, CALLOUT_setcc_m)->sub = (u8)cc;
        return;
    }
    append(t, in, setcc_r[cc >> 1])->imm = cc & 1;
}

static void do_cmov(struct translation *t, const struct insn *in)
{
    unsigned cc = in->row.arg;
    if (in->size == 4 && !in->mem)
        append(t, in, cmov_r_r[cc >> 1])->imm = cc & 1;
    else
        append_callout(t, in, CALLOUT_cmov)->sub = (u8)cc;
}

/* --- stack ------------------------------------------------------------------------------------------------ */

static bool stack32(const struct translation *t, const struct insn *in)
{
    return (t->mode & MODE_STACK32) && in->size == 4;
}

static void do_push_r(struct translation *t, const struct insn *in)
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

static void do_push_i(struct translation *t, const struct insn *in)
{
    if (stack32(t, in))
        append_stack(t, in, ID_push_i);
    else
        append_callout(t, in, CALLOUT_push)->sub = PUSH_IMM;
}

static void do_push_rm(struct translation *t, const struct insn *in)
{
    if (!stack32(t, in))
        append_callout(t, in, CALLOUT_push)->sub = PUSH_RM;
    else if (in->mem)
        append_memory(t, in, ID_push_m_bd, 1);
    else
        append_stack(t, in, ID_push_r)->reg = reg_offset(in->rm, 4);
}

static void do_pop_r(struct translation *t, const struct insn *in)
{
    struct op *op = stack32(t, in) ? append_stack(t, in, ID_pop_r) : append_callout(t, in, CALLOUT_pop_r);
    op->reg = (u8)(4 * in->row.arg);
}

static void do_pop_rm(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_pop_rm);
}

static void do_leave(struct translation *t, const struct insn *in)
{
    if (stack32(t, in))
        append_stack(t, in, ID_leave32);
    else
        append_callout(t, in, CALLOUT_leave);
}

static void do_push_sreg(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_push_sreg)->sub = in->row.arg;
}

static void do_pop_sreg(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_pop_sreg)->sub = in->row.arg;
}

static void do_mov_rm_sreg(struct translation *t, const struct insn *in)
{
    if (in->reg > GS)
        undefined(t, in);
    else
        append_callout(t, in, CALLOUT_mov_rm_sreg);
}

static void do_mov_sreg_rm(struct translation *t, const struct insn *in)
{
    if (in->reg > GS || in->reg == CS)
        undefined(t, in);
    else
        append_callout(t, in, CALLOUT_mov_sreg_rm);
}

static void do_load_far(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_load_far)->sub = in->row.arg;
}

/* --- the rest --------------------------------------------------------------------------------------------- */

static void do_callout(struct translation *t, const struct insn *in)
{
    struct op *op = append_callout(t, in, in->row.arg);
    if (in->row.operands == ENC_FAR || in->row.operands == ENC_IW_IB)
        op->disp = in->imm2;
}

static void do_callout_fpu(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_fpu);
}

static void do_string(struct translation *t, const struct insn *in)
{
    append_callout(t, in, in->row.arg);
}

static void do_in_out(struct translation *t, const struct insn *in)
{
    append_callout(t, in, in->row.arg)->sub = in->row.operands == ENC_IB_ZERO;
}

static void do_control(struct translation *t, const struct insn *in)
{
    append_callout(t, in, in->row.arg);
}

/* --- branches --------------------------------------------------------------------------------------------- */

static void near(struct translation *t, const struct insn *in, unsigned what, u32 imm)
{
    struct op *op = append_callout(t, in, CALLOUT_near);
    op->sub = (u8)what;
    op->imm = imm;
}

static bool flat_code(const struct translation *t, const struct insn *in)
{
    return (t->mode & MODE_FLAT_CS) && in->size == 4;
}

static u32 target(const struct translation *t, const struct insn *in)
{
    u32 to = t->eip + in->len + in->imm;
    return in->size == 2 ? to & 0xFFFF : to;
}

/* Turn the last op into one that branches as well. */
static bool fuse(struct translation *t, unsigned cc)
{
    struct op *op = &t->ops[t->n - 1];
    if (t->fuse) {
        op->fn = t->fuse[cc >> 1];
        return true;
    }
    if (t->fuse_memory && op->fn == handler_twins[op->id].fast) {
        op->id = (u16)(t->fuse_id + (op->index == ZERO_REG ? 0 : 8) + (cc >> 1));
        op->fn = handler_twins[op->id].fast;
        return true;
    }
    return false;
}

static void append_branch_exit(struct translation *t, const struct insn *in, bool negated)
{
    u32 fall = t->eip + in->len, taken = target(t, in);
    if (negated)
        append_exit(t, taken, fall);
    else
        append_exit(t, fall, taken);
}

static void do_jcc(struct translation *t, const struct insn *in)
{
    unsigned cc = in->row.arg;
    if (!flat_code(t, in)) {
        near(t, in, cc, target(t, in));
        return;
    }
    if (!fuse(t, cc)) {
        op_handler *const *table =
            t->flags_class == FC_SUB ? jcc_sub : t->flags_class == FC_LOGIC ? jcc_logic : jcc_any;
        append(t, in, table[cc >> 1]);
    }
    append_branch_exit(t, in, cc & 1);
}

static void do_loop(struct translation *t, const struct insn *in)
{
    if (in->row.arg != LOOP_ALWAYS || in->addr16 || !flat_code(t, in)) {
        near(t, in, NEAR_LOOP + in->row.arg, target(t, in));
        return;
    }
    append(t, in, loop32);
    append_branch_exit(t, in, false);
}

static void do_jmp(struct translation *t, const struct insn *in)
{
    if (!flat_code(t, in)) {
        near(t, in, NEAR_JMP, target(t, in));
        return;
    }
    append(t, in, jmp);
    append_branch_exit(t, in, false);
}

static void do_call(struct translation *t, const struct insn *in)
{
    if (!flat_code(t, in) || !stack32(t, in)) {
        near(t, in, NEAR_CALL, target(t, in));
        return;
    }
    append_stack(t, in, ID_call)->imm = t->eip + in->len;
    append_branch_exit(t, in, false);
}

static void do_ret(struct translation *t, const struct insn *in)
{
    if (!flat_code(t, in) || !stack32(t, in)) {
        near(t, in, NEAR_RET, in->imm);
        return;
    }
    append_stack(t, in, ID_ret);
    append_exit(t, 0, 0);
}

static void do_jmp_rm(struct translation *t, const struct insn *in)
{
    if (!flat_code(t, in)) {
        near(t, in, NEAR_JMP_RM, 0);
        return;
    }
    if (in->mem)
        append_memory(t, in, ID_jmp_m_bd, 1);
    else
        append(t, in, jmp_r);
    append_exit(t, 0, 0);
}

static void do_call_rm(struct translation *t, const struct insn *in)
{
    if (!flat_code(t, in) || !stack32(t, in)) {
        near(t, in, NEAR_CALL_RM, 0);
        return;
    }
    struct op *op = in->mem ? append_memory(t, in, ID_call_m_bd, 1) : append_stack(t, in, ID_call_r);
    op->imm = t->eip + in->len;
    append_exit(t, 0, 0);
}

typedef void translator(struct translation *t, const struct insn *in);

static translator *const translators[FAMILY_COUNT] = {
    [F_CALLOUT] = do_callout, [F_CALLOUT_FPU] = do_callout_fpu, [F_ALU_RM_R] = do_alu_rm_r, [F_ALU_R_RM] = do_alu_r_rm,
    [F_ALU_A_I] = do_alu_a_i, [F_ALU_RM_I] = do_alu_rm_i, [F_TEST_RM_R] = do_test_rm_r, [F_TEST_A_I] = do_test_a_i,
    [F_TEST_RM_I] = do_test_rm_i, [F_INC_R] = do_inc_r, [F_DEC_R] = do_dec_r, [F_INC_RM] = do_inc_rm,
    [F_DEC_RM] = do_dec_rm, [F_NOT] = do_not, [F_NEG] = do_neg, [F_MUL_DIV] = do_mul_div, [F_IMUL] = do_imul,
    [F_SHIFT] = do_shift, [F_DOUBLE_SHIFT] = do_double_shift, [F_BIT_TEST_R] = do_bit_test_r,
    [F_BIT_TEST_I] = do_bit_test_i, [F_BIT_SCAN] = do_bit_scan, [F_MOV_RM_R] = do_mov_rm_r, [F_MOV_R_RM] = do_mov_r_rm,
    [F_MOV_A_M] = do_mov_a_m, [F_MOV_M_A] = do_mov_m_a, [F_MOV_R_I] = do_mov_r_i, [F_MOV_RM_I] = do_mov_rm_i,
    [F_LEA] = do_lea, [F_EXTEND] = do_extend, [F_CONVERT] = do_convert, [F_XCHG] = do_xchg, [F_XCHG_A] = do_xchg_a,
    [F_NOP] = do_nop, [F_BSWAP] = do_bswap, [F_SETCC] = do_setcc, [F_CMOV] = do_cmov, [F_CARRY] = do_carry,
    [F_DIRECTION] = do_direction, [F_PUSH_R] = do_push_r, [F_PUSH_I] = do_push_i, [F_PUSH_RM] = do_push_rm,
    [F_POP_R] = do_pop_r, [F_POP_RM] = do_pop_rm, [F_LEAVE] = do_leave, [F_PUSH_SREG] = do_push_sreg,
    [F_POP_SREG] = do_pop_sreg, [F_MOV_RM_SREG] = do_mov_rm_sreg, [F_MOV_SREG_RM] = do_mov_sreg_rm,
    [F_LOAD_FAR] = do_load_far, [F_STRING] = do_string, [F_IN_OUT] = do_in_out, [F_CONTROL] = do_control,
    [F_JCC] = do_jcc, [F_LOOP] = do_loop, [F_JMP] = do_jmp, [F_CALL] = do_call, [F_RET] = do_ret,
    [F_JMP_RM] = do_jmp_rm, [F_CALL_RM] = do_call_rm,
};

static const bool keeps_flags[FAMILY_COUNT] = {
    [F_NOT] = true, [F_MOV_RM_R] = true, [F_MOV_R_RM] = true, [F_MOV_A_M] = true, [F_MOV_M_A] = true, [F_MOV_R_I] = true,
    [F_MOV_RM_I] = true, [F_LEA] = true, [F_EXTEND] = true, [F_CONVERT] = true, [F_XCHG] = true, [F_XCHG_A] = true,
    [F_NOP] = true, [F_BSWAP] = true, [F_SETCC] = true, [F_CMOV] = true, [F_PUSH_R] = true, [F_PUSH_I] = true,
    [F_PUSH_RM] = true, [F_POP_R] = true, [F_LEAVE] = true, [F_JCC] = true,
};

void translate_begin(struct translation *t, u32 mode, u32 eip)
{
    t->mode = mode;
    t->eip = eip;
    t->n = t->count = 0;
    t->ended = false;
    t->flags_class = -1;
    t->fuse = NULL;
    t->fuse_memory = false;
}

void translate(struct translation *t, const struct insn *in)
{
    bool branch = in->row.family == F_JCC;
    if (!branch) {
        t->fuse = NULL;
        t->fuse_memory = false;
    }
    if (!keeps_flags[in->row.family])
        t->flags_class = -1;
    translators[in->row.family](t, in);
    t->eip += in->len;
    t->count++;
}

void translate_undefined(struct translation *t, unsigned len)
{
    struct insn in = {.len = (u8)len, .size = 4, .base = NO_REG, .index = NO_REG};
    undefined(t, &in);
}

void translate_probe(struct translation *t)
{
    struct insn in = {.size = 4, .base = NO_REG, .index = NO_REG};
    append(t, &in, probe_point);
    append_exit(t, t->eip, 0);
}

void translate_end(struct translation *t)
{
    if (t->ended)
        return;
    struct insn in = {.size = 4, .base = NO_REG, .index = NO_REG};
    append(t, &in, jmp);
    append_exit(t, t->eip, t->eip);
    /* The jump is not an instruction of the guest. */
    ((struct block_exit *)&t->ops[t->n - 1])->count = (u8)t->count;
}
