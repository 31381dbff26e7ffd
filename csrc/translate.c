#include "translators.h"

struct op *append(struct translation *t, const struct insn *in, op_handler *fn)
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

struct op *append_memory(struct translation *t, const struct insn *in, unsigned id, unsigned apart)
{
    struct op *op = append(t, in, NULL);
    bool flat = (t->mode & MODE_FLAT) && in->seg <= DS && in->seg != CS && !in->addr16;
    op->id = (u16)(id + (op->index == ZERO_REG ? 0 : apart));
    op->fn = flat ? handler_twins[op->id].fast : handler_twins[op->id].slow;
    return op;
}

struct op *append_stack(struct translation *t, const struct insn *in, unsigned id)
{
    struct op *op = append(t, in, NULL);
    op->id = (u16)id;
    op->fn = t->mode & MODE_FLAT ? handler_twins[id].fast : handler_twins[id].slow;
    return op;
}

void append_exit(struct translation *t, u32 fall, u32 taken)
{
    struct block_exit *exit = (struct block_exit *)&t->ops[t->n++];
    *exit = (struct block_exit){.target = {fall, taken}, .count = (u8)(t->count + 1)};
    t->ended = true;
}

struct op *append_callout(struct translation *t, const struct insn *in, unsigned id)
{
    bool ends = in->row.properties & P_ENDS;
    struct op *op = append(t, in, ends ? callout_end : callout_op);
    op->id = (u16)id;
    if (ends)
        append_exit(t, t->eip + in->len, 0);
    return op;
}

void append_undefined(struct translation *t, const struct insn *in)
{
    append(t, in, raise_ud);
    append_exit(t, t->eip + in->len, 0);
}

void fuse_with(struct translation *t, op_handler *const *table)
{
    t->fuse = table;
}

void fuse_memory(struct translation *t, unsigned id)
{
    t->fuse_id = (u16)id;
    t->fuse_memory = true;
}

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
    [F_JMP_RM] = do_jmp_rm, [F_CALL_RM] = do_call_rm, [F_SSE] = do_sse,
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
    append_undefined(t, &in);
}

void translate_probe(struct translation *t)
{
    struct insn in = {.size = 4, .base = NO_REG, .index = NO_REG};
    append(t, &in, probe_point);
    append_exit(t, t->eip, 0);
}

/* Frequent sequences of ops get one handler, the last ones first: a branch that shares its handler with few others
 * is predicted better. The slot behind the last op is its exit. */
static void combine(struct translation *t)
{
    op_handler *fn, *last = NULL;
    for (unsigned i = t->n - 1; i-- > 0; last = fn) {
        fn = last ? combined(t->ops[i].fn, last) : NULL;
        if (fn)
            t->ops[i].fn = fn;
        else
            fn = t->ops[i].fn;
    }
}

void translate_hit(struct translation *t, const struct insn *in, struct kprobe *p)
{
    struct insn hit = {.size = 4, .base = NO_REG, .index = NO_REG};
    struct op *op = append(t, &hit, probe_hit);
    memcpy(&op->imm, &p, sizeof(p));
    /* Handlers may change the flags, and what they see must not be half of a fused pair. */
    t->fuse = NULL;
    t->fuse_memory = false;
    t->flags_class = -1;
    unsigned at = t->n;
    translate(t, in);
    t->ops[at].flags |= OP_PROBED;
}

void translate_end(struct translation *t)
{
    if (!t->ended) {
        struct insn in = {.size = 4, .base = NO_REG, .index = NO_REG};
        append(t, &in, jmp);
        append_exit(t, t->eip, t->eip);
        /* The jump is not an instruction of the guest. */
        ((struct block_exit *)&t->ops[t->n - 1])->count = (u8)t->count;
    }
    combine(t);
}
