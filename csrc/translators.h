/*
 * translators.h: what the translate_*.c files share: the ways to append an op,
 * and one translator for each family of decode.h.
 */
#ifndef PYK_TRANSLATORS_H
#define PYK_TRANSLATORS_H

#include "execute.h"
#include "translate.h"

/* Handlers by operand size, by condition. */
#define TABLE3(name) {name##8, name##16, name##32}
#define BY_COND(name) {name##_o, name##_b, name##_z, name##_be, name##_s, name##_p, name##_l, name##_le}


/* 1, 2, 4 -> 0, 1, 2 */
ALWAYS_INLINE unsigned log2_size(unsigned size)
{
    return size >> 1;
}

/* Byte offset of a register in struct cpu: AH, CH, DH, BH are the second bytes. */
ALWAYS_INLINE u8 reg_offset(unsigned reg, unsigned size)
{
    return (u8)(size == 1 && reg >= 4 ? 4 * (reg - 4) + 1 : 4 * reg);
}

/* Do pushes and pops of this instruction use ESP and four bytes? */
ALWAYS_INLINE bool stack32(const struct translation *t, const struct insn *in)
{
    return (t->mode & MODE_STACK32) && in->size == 4;
}

struct op *append(struct translation *t, const struct insn *in, op_handler *fn);
/* A handler with a memory operand; id is its _bd form, the _bis form lies `apart` behind. */
struct op *append_memory(struct translation *t, const struct insn *in, unsigned id, unsigned apart);
/* A handler that pushes or pops. */
struct op *append_stack(struct translation *t, const struct insn *in, unsigned id);
/* The slot behind an op that ends the block. */
void append_exit(struct translation *t, u32 fall, u32 taken);
struct op *append_callout(struct translation *t, const struct insn *in, unsigned id);
void append_undefined(struct translation *t, const struct insn *in);

/* The last op can do a following conditional branch as well: handlers by condition; the first of the ids. */
void fuse_with(struct translation *t, op_handler *const *table);
void fuse_memory(struct translation *t, unsigned id);

typedef void translator(struct translation *t, const struct insn *in);
translator do_alu_rm_r, do_alu_r_rm, do_alu_a_i, do_alu_rm_i, do_test_rm_r, do_test_a_i, do_test_rm_i, do_inc_r,
    do_dec_r, do_inc_rm, do_dec_rm, do_not, do_neg, do_mul_div, do_imul, do_shift, do_double_shift, do_bit_test_r,
    do_bit_test_i, do_bit_scan, do_carry, do_direction, do_mov_rm_r, do_mov_r_rm, do_mov_a_m, do_mov_m_a,
    do_mov_r_i, do_mov_rm_i, do_lea, do_extend, do_convert, do_xchg, do_xchg_a, do_nop, do_bswap, do_setcc, do_cmov,
    do_push_r, do_push_i, do_push_rm, do_pop_r, do_pop_rm, do_leave, do_push_sreg, do_pop_sreg, do_mov_rm_sreg,
    do_mov_sreg_rm, do_load_far, do_callout, do_callout_fpu, do_string, do_in_out, do_control, do_jcc, do_loop,
    do_jmp, do_call, do_ret, do_jmp_rm, do_call_rm, do_sse;

#endif
