/* translate_branch.c: near branches, calls and returns. */
#include "translators.h"

static op_handler *const jcc_any[8] = BY_COND(jcc);
static op_handler *const jcc_sub[8] = BY_COND(jsub);
static op_handler *const jcc_logic[8] = BY_COND(jlogic);

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
    if (!t->fuse && !t->fuse_memory)
        return false;
    struct op *op = &t->ops[t->n - 1];
    if (t->fuse) {
        op->fn = t->fuse[cc >> 1];
        return true;
    }
    if (op->fn == handler_twins[op->id].fast) {
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

void do_jcc(struct translation *t, const struct insn *in)
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

void do_loop(struct translation *t, const struct insn *in)
{
    if (in->row.arg != LOOP_ALWAYS || in->addr16 || !flat_code(t, in)) {
        near(t, in, NEAR_LOOP + in->row.arg, target(t, in));
        return;
    }
    append(t, in, loop32);
    append_branch_exit(t, in, false);
}

void do_jmp(struct translation *t, const struct insn *in)
{
    if (!flat_code(t, in)) {
        near(t, in, NEAR_JMP, target(t, in));
        return;
    }
    append(t, in, jmp);
    append_branch_exit(t, in, false);
}

void do_call(struct translation *t, const struct insn *in)
{
    if (!flat_code(t, in) || !stack32(t, in)) {
        near(t, in, NEAR_CALL, target(t, in));
        return;
    }
    append_stack(t, in, ID_call)->imm = t->eip + in->len;
    append_branch_exit(t, in, false);
}

void do_ret(struct translation *t, const struct insn *in)
{
    if (!flat_code(t, in) || !stack32(t, in)) {
        near(t, in, NEAR_RET, in->imm);
        return;
    }
    append_stack(t, in, ID_ret);
    append_exit(t, 0, 0);
}

void do_jmp_rm(struct translation *t, const struct insn *in)
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

void do_call_rm(struct translation *t, const struct insn *in)
{
    if (!flat_code(t, in) || !stack32(t, in)) {
        near(t, in, NEAR_CALL_RM, 0);
        return;
    }
    struct op *op = in->mem ? append_memory(t, in, ID_call_m_bd, 1) : append_stack(t, in, ID_call_r);
    op->imm = t->eip + in->len;
    append_exit(t, 0, 0);
}
