/* translate_alu.c: arithmetic, logic, shifts and bits. */
#include "translators.h"

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

static op_handler *const jcmp32_rr[8] = BY_COND(jcmp32_r_r), *const jcmp32_ri[8] = BY_COND(jcmp32_r_i);
static op_handler *const jcmp8_rr[8] = BY_COND(jcmp8_r_r), *const jcmp8_ri[8] = BY_COND(jcmp8_r_i);
static op_handler *const jtest32_rr[8] = BY_COND(jtest32_r_r), *const jtest32_ri[8] = BY_COND(jtest32_r_i);
static op_handler *const jtest8_rr[8] = BY_COND(jtest8_r_r), *const jtest8_ri[8] = BY_COND(jtest8_r_i);
static op_handler *const jsub32_ri[8] = BY_COND(jsub32_r_i), *const jadd32_ri[8] = BY_COND(jadd32_r_i);
static op_handler *const jand32_ri[8] = BY_COND(jand32_r_i), *const jdec32[8] = BY_COND(jdec32_r);

static void set_alu_class(struct translation *t, unsigned alu)
{
    t->flags_class = alu_class[alu];
}

void do_alu_rm_r(struct translation *t, const struct insn *in)
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

void do_alu_r_rm(struct translation *t, const struct insn *in)
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

void do_alu_a_i(struct translation *t, const struct insn *in)
{
    alu_register_immediate(t, in, 4 * EAX);
}

void do_alu_rm_i(struct translation *t, const struct insn *in)
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

void do_test_rm_r(struct translation *t, const struct insn *in)
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

void do_test_a_i(struct translation *t, const struct insn *in)
{
    test_register_immediate(t, in, 4 * EAX);
}

void do_test_rm_i(struct translation *t, const struct insn *in)
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

void do_inc_r(struct translation *t, const struct insn *in)
{
    append(t, in, inc_r[log2_size(in->size)])->reg = (u8)(4 * in->row.arg);
}

void do_dec_r(struct translation *t, const struct insn *in)
{
    append(t, in, dec_r[log2_size(in->size)])->reg = (u8)(4 * in->row.arg);
    if (in->size == 4)
        fuse_with(t, jdec32);
}

void do_inc_rm(struct translation *t, const struct insn *in)
{
    unary(t, in, inc_r, ID_inc_m8_bd);
}

void do_dec_rm(struct translation *t, const struct insn *in)
{
    unary(t, in, dec_r, ID_dec_m8_bd);
    if (in->size == 4 && !in->mem)
        fuse_with(t, jdec32);
}

void do_not(struct translation *t, const struct insn *in)
{
    static op_handler *const handlers[3] = TABLE3(not_r);
    unary(t, in, handlers, ID_not_m8_bd);
}

void do_neg(struct translation *t, const struct insn *in)
{
    static op_handler *const handlers[3] = TABLE3(neg_r);
    unary(t, in, handlers, ID_neg_m8_bd);
    t->flags_class = FC_SUB;
}

void do_mul_div(struct translation *t, const struct insn *in)
{
    static op_handler *const handlers[8] = {[4] = mul_r32, [5] = imul_r32, [6] = div_r32};
    if (in->size == 4 && !in->mem && handlers[in->row.arg])
        append(t, in, handlers[in->row.arg]);
    else
        append_callout(t, in, CALLOUT_mul_div);
}

void do_imul(struct translation *t, const struct insn *in)
{
    bool immediate = in->row.arg;
    if (in->size != 4)
        append_callout(t, in, CALLOUT_imul)->sub = immediate;
    else if (in->mem)
        append_memory(t, in, immediate ? ID_imul_r_m_i_bd : ID_imul_r_m_bd, 1);
    else
        append(t, in, immediate ? imul_r_r_i : imul_r_r);
}

void do_shift(struct translation *t, const struct insn *in)
{
    static op_handler *const by_imm[8][3] = {{[2] = rol_r_i}, {[2] = ror_r_i}, {NULL}, {NULL},
        TABLE3(shl_r_i), TABLE3(shr_r_i), TABLE3(shl_r_i), TABLE3(sar_r_i)};
    static op_handler *const by_cl[8][3] = {[4] = TABLE3(shl_r_cl), TABLE3(shr_r_cl), TABLE3(shl_r_cl), TABLE3(sar_r_cl)};
    bool cl = in->row.arg == SHIFT_BY_CL;
    u32 count = in->row.arg == SHIFT_BY_1 ? 1 : in->imm & 31;
    op_handler *fn = (cl ? by_cl : by_imm)[in->reg][log2_size(in->size)];
    struct op *op;
    if (!in->mem && fn) {
        op = append(t, in, cl || count ? fn : nop);
        op->reg = reg_offset(in->rm, in->size);
    } else {
        op = append_callout(t, in, CALLOUT_rotate_shift);
        op->reg = cl ? 4 * ECX : ZERO_REG;
    }
    op->imm = count;
}

void do_double_shift(struct translation *t, const struct insn *in)
{
    append_callout(t, in, in->row.arg)->sub = in->row.operands != ENC_MODRM_IB;
}

void do_bit_test_r(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_bt)->sub = in->row.arg;
}

void do_bit_test_i(struct translation *t, const struct insn *in)
{
    struct op *op = append_callout(t, in, CALLOUT_bt);
    op->sub = in->row.arg;
    op->reg = ZERO_REG;
}

void do_bit_scan(struct translation *t, const struct insn *in)
{
    append_callout(t, in, CALLOUT_bit_scan)->sub = in->row.arg;
}

void do_carry(struct translation *t, const struct insn *in)
{
    append(t, in, carry)->sub = in->row.arg;
}

void do_direction(struct translation *t, const struct insn *in)
{
    append(t, in, direction)->sub = in->row.arg;
}
