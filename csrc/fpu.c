/* fpu.c: the x87: state, exceptions, and the table of its instructions. */
#include "fpu.h"

#include <string.h>

#include "callout.h"
#include "gate.h"

/* --- state ------------------------------------------------------------------------------------------------ */

/* ES and its copy B say whether an unmasked exception is pending (SDM vol. 1, 8.1.3.3). */
static void summarize(struct fpu *f)
{
    bool pending = f->status & ~f->control & FPU_EXCEPTIONS;
    f->status = (u16)((f->status & ~(FPU_ES | FPU_B)) | (pending ? FPU_ES | FPU_B : 0));
}

static void set_control(struct fpu *f, u16 value)
{
    static const u8 bits[] = {24, 64, 53, 64};
    f->control = value;
    f->env = (struct float_env){.round = value >> 10 & 3, .bits = bits[value >> 8 & 3], .masks = value & FPU_EXCEPTIONS};
}

void fpu_set_control(struct fpu *f, u16 value)
{
    set_control(f, (value & FPU_CONTROL_DEFINED) | FPU_CONTROL_FIXED);
    summarize(f);
}

void fpu_set_status(struct fpu *f, u16 value)
{
    f->status = value;
    summarize(f);
}

void fpu_init(struct fpu *f)
{
    set_control(f, FPU_CONTROL_INIT);
    f->status = f->opcode = f->cs = f->ds = 0;
    f->ip = f->dp = 0;
    f->full = 0;
}

void fpu_reset(struct fpu *f)
{
    fpu_init(f);
    memset(f->st, 0, sizeof f->st);
    set_control(f, FPU_CONTROL_RESET);
    f->full = 0xFF;
}

/* SDM vol. 1, 8.1.7: 0 valid, 1 zero, 2 special, 3 empty. */
u16 fpu_tag_word(const struct fpu *f)
{
    u16 tags = 0;
    for (unsigned i = 0; i < 8; i++) {
        struct float_parts p = float80_unpack(f->st[i]);
        unsigned tag = !(f->full >> i & 1) ? 3 : p.class == CLASS_ZERO ? 1 : p.class != CLASS_FINITE || p.denormal ? 2 : 0;
        tags |= (u16)(tag << 2 * i);
    }
    return tags;
}

void fpu_set_tag_word(struct fpu *f, u16 tags)
{
    f->full = 0;
    for (unsigned i = 0; i < 8; i++)
        if ((tags >> 2 * i & 3) != 3)
            f->full |= (u8)(1 << i);
}

/* --- exceptions ------------------------------------------------------------------------------------------- */

bool fpu_raise(struct fpu *f, const struct float_env *env)
{
    bool blocked = float_blocked(env);
    fpu_set_c1(f, env->up && !blocked);
    f->status |= env->flags;
    summarize(f);
    return blocked;
}

static bool stack_fault(struct fpu *f, bool overflow)
{
    fpu_set_c1(f, overflow);
    f->status |= FLOAT_IE | FPU_SF;
    summarize(f);
    return f->control & FLOAT_IE;
}

bool fpu_underflow(struct fpu *f)
{
    return stack_fault(f, false);
}

bool fpu_overflow(struct fpu *f)
{
    return stack_fault(f, true);
}

bool fpu_missing(struct fpu *f, unsigned i, bool *masked)
{
    if (likely(!fpu_empty(f, 0) && !fpu_empty(f, i)))
        return false;
    *masked = fpu_underflow(f);
    return true;
}

/* --- the table (SDM vol. 2, A.5) -------------------------------------------------------------------------- */

enum { WAITS = 1, POINTS = 2 };     /* reports pending exceptions first; becomes the last instruction */

struct row {
    fpu_handler *fn;                /* NULL: undefined */
    u8 arg;
    u8 flags;
};
#define ROW(fn, arg) {fn, arg, WAITS | POINTS}
#define CONTROL(fn, arg) {fn, arg, WAITS}
#define NOWAIT(fn, arg) {fn, arg, 0}

#define ARITH_M(size) \
    ROW(fpu_arith_m, size << 3 | FPU_ADD), ROW(fpu_arith_m, size << 3 | FPU_MUL), ROW(fpu_arith_m, size << 3 | FPU_COM), \
    ROW(fpu_arith_m, size << 3 | FPU_COMP), ROW(fpu_arith_m, size << 3 | FPU_SUB), ROW(fpu_arith_m, size << 3 | FPU_SUBR), \
    ROW(fpu_arith_m, size << 3 | FPU_DIV), ROW(fpu_arith_m, size << 3 | FPU_DIVR)
#define STORES(size, pops) ROW(fpu_fst_m, size | (pops ? FPU_POPS : 0))

static const struct row memory_rows[8][8] = {
    {ARITH_M(FPU_SINGLE)},
    {ROW(fpu_fld_m, FPU_SINGLE), {0}, STORES(FPU_SINGLE, 0), STORES(FPU_SINGLE, 1), CONTROL(fpu_fldenv, 0),
     CONTROL(fpu_fldcw, 0), NOWAIT(fpu_fnstenv, 0), NOWAIT(fpu_fnstcw, 0)},
    {ARITH_M(FPU_INT32)},
    {ROW(fpu_fld_m, FPU_INT32), {0}, STORES(FPU_INT32, 0), STORES(FPU_INT32, 1), {0}, ROW(fpu_fld_m, FPU_EXTENDED),
     {0}, STORES(FPU_EXTENDED, 1)},
    {ARITH_M(FPU_DOUBLE)},
    {ROW(fpu_fld_m, FPU_DOUBLE), {0}, STORES(FPU_DOUBLE, 0), STORES(FPU_DOUBLE, 1), CONTROL(fpu_frstor, 0), {0},
     NOWAIT(fpu_fnsave, 0), NOWAIT(fpu_fnstsw_m, 0)},
    {ARITH_M(FPU_INT16)},
    {ROW(fpu_fld_m, FPU_INT16), {0}, STORES(FPU_INT16, 0), STORES(FPU_INT16, 1), ROW(fpu_fld_m, FPU_BCD),
     ROW(fpu_fld_m, FPU_INT64), STORES(FPU_BCD, 1), STORES(FPU_INT64, 1)},
};

#define ARITH_STI(pops) \
    ROW(fpu_arith_r, FPU_ADD | FPU_TO_STI | (pops)), ROW(fpu_arith_r, FPU_MUL | FPU_TO_STI | (pops))
/* DC and DE name the operation from ST(i)'s side: reg 4 is ST(0) - ST(i). */
#define REVERSED_STI(pops) \
    ROW(fpu_arith_r, FPU_SUB | FPU_TO_STI | (pops)), ROW(fpu_arith_r, FPU_SUBR | FPU_TO_STI | (pops)), ROW(fpu_arith_r, FPU_DIV | FPU_TO_STI | (pops)), \
    ROW(fpu_arith_r, FPU_DIVR | FPU_TO_STI | (pops))

/* Register forms that take ST(i); some are undocumented twins that every x87 has. */
static const struct row register_rows[8][8] = {
    {ROW(fpu_arith_r, FPU_ADD), ROW(fpu_arith_r, FPU_MUL), ROW(fpu_compare_r, 0), ROW(fpu_compare_r, FPU_POPS), ROW(fpu_arith_r, FPU_SUB),
     ROW(fpu_arith_r, FPU_SUBR), ROW(fpu_arith_r, FPU_DIV), ROW(fpu_arith_r, FPU_DIVR)},
    {ROW(fpu_fld_r, 0), ROW(fpu_fxch, 0), {0}, ROW(fpu_fst_r, FPU_POPS | FPU_IF_FULL)},
    {ROW(fpu_fcmov, 0), ROW(fpu_fcmov, 1), ROW(fpu_fcmov, 2), ROW(fpu_fcmov, 3)},
    {ROW(fpu_fcmov, FPU_NEGATED | 0), ROW(fpu_fcmov, FPU_NEGATED | 1), ROW(fpu_fcmov, FPU_NEGATED | 2), ROW(fpu_fcmov, FPU_NEGATED | 3), {0},
     ROW(fpu_compare_flags, FPU_QUIETLY), ROW(fpu_compare_flags, 0)},
    {ARITH_STI(0), ROW(fpu_compare_r, 0), ROW(fpu_compare_r, FPU_POPS), REVERSED_STI(0)},
    {ROW(fpu_ffree, 0), ROW(fpu_fxch, 0), ROW(fpu_fst_r, 0), ROW(fpu_fst_r, FPU_POPS), ROW(fpu_compare_r, FPU_QUIETLY),
     ROW(fpu_compare_r, FPU_QUIETLY | FPU_POPS)},
    {ARITH_STI(FPU_POPS), ROW(fpu_compare_r, FPU_POPS), {0}, REVERSED_STI(FPU_POPS)},
    {ROW(fpu_ffree, FPU_POPS), ROW(fpu_fxch, 0), ROW(fpu_fst_r, FPU_POPS), ROW(fpu_fst_r, FPU_POPS), {0},
     ROW(fpu_compare_flags, FPU_QUIETLY | FPU_POPS), ROW(fpu_compare_flags, FPU_POPS)},
};

/* Register forms that mean one instruction for each value of rm. */
struct group {
    u8 escape, reg;
    struct row rows[8];
};
static const struct group groups[] = {
    {1, 2, {ROW(fpu_nop, 0)}},
    {1, 4, {ROW(fpu_unary, FPU_CHS), ROW(fpu_unary, FPU_ABS), {0}, {0}, ROW(fpu_ftst, 0), ROW(fpu_fxam, 0)}},
    {1, 5, {ROW(fpu_constant, 0), ROW(fpu_constant, 1), ROW(fpu_constant, 2), ROW(fpu_constant, 3),
            ROW(fpu_constant, 4), ROW(fpu_constant, 5), ROW(fpu_constant, 6)}},
    {1, 6, {ROW(fpu_2xm1, 0), ROW(fpu_binary_math, FPU_YL2X), ROW(fpu_sine_push, FPU_TAN),
            ROW(fpu_binary_math, FPU_PATAN), ROW(fpu_fxtract, 0), ROW(fpu_fprem, 1), ROW(fpu_turn_stack, 0), ROW(fpu_turn_stack, 1)}},
    {1, 7, {ROW(fpu_fprem, 0), ROW(fpu_binary_math, FPU_YL2XP1), ROW(fpu_unary, FPU_SQRT), ROW(fpu_sine_push, FPU_SINCOS),
            ROW(fpu_unary, FPU_INTEGRAL), ROW(fpu_fscale, 0), ROW(fpu_sine, FPU_SIN), ROW(fpu_sine, FPU_COS)}},
    {2, 5, {{0}, ROW(fpu_compare_r, FPU_QUIETLY | 2 * FPU_POPS)}},
    {3, 4, {NOWAIT(fpu_nop, 0), NOWAIT(fpu_nop, 0), NOWAIT(fpu_fnclex, 0), NOWAIT(fpu_fninit, 0), NOWAIT(fpu_nop, 0)}},
    {6, 3, {{0}, ROW(fpu_compare_r, 2 * FPU_POPS)}},
    {7, 4, {NOWAIT(fpu_fnstsw_ax, 0)}},
};

static const struct row *find(unsigned escape, bool mem, unsigned reg, unsigned rm)
{
    if (mem)
        return &memory_rows[escape][reg];
    for (unsigned i = 0; i < sizeof groups / sizeof *groups; i++)
        if (groups[i].escape == escape && groups[i].reg == reg)
            return &groups[i].rows[rm];
    return &register_rows[escape][reg];
}

bool fpu_defined(unsigned escape, bool mem, unsigned reg, unsigned rm)
{
    return find(escape, mem, reg, rm)->fn;
}

u32 fpu_feature(unsigned escape, bool mem, unsigned reg, unsigned rm)
{
    fpu_handler *fn = find(escape, mem, reg, rm)->fn;
    return fn == fpu_fcmov || fn == fpu_compare_flags ? FEATURE_CMOV : 0;
}

/* With CR0.NE clear FERR# is asserted and the processor waits, IGNNE# being inactive, for the interrupt that the board
 * makes of it. */
int fpu_report(struct cpu *cpu)
{
    if (cpu->cr0 & CR0_NE)
        return cpu_fault(cpu, T_FPERR);
    cpu->halted = true;
    return STATUS_JUMP;
}

/* op->sub: escape << 3 | reg, op->imm: escape << 8 | ModRM. */
int insn_fpu(struct cpu *cpu, const struct op *op)
{
    bool mem = op->flags & OP_MEM;
    unsigned escape = op->sub >> 3;
    const struct row *row = find(escape, mem, op->sub & 7, op->imm & 7);
    struct fpu *f = &cpu->fpu;
    if (unlikely(cpu->cr0 & (CR0_EM | CR0_TS)))
        return cpu_fault(cpu, T_DEVICE);
    if (unlikely(row->flags & WAITS && f->status & FPU_ES))
        return fpu_report(cpu);
    int status = row->fn(cpu, op, row->arg);
    if (likely(status == STATUS_NEXT && row->flags & POINTS)) {
        f->ip = op->eip;
        f->cs = cpu->seg[CS].selector;
        f->opcode = (u16)op->imm;
        if (mem) {
            f->dp = op_offset(cpu, op);
            f->ds = cpu->seg[op->seg].selector;
        }
    }
    return status;
}

int insn_wait(struct cpu *cpu, const struct op *op)
{
    (void)op;
    if ((cpu->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
        return cpu_fault(cpu, T_DEVICE);
    return cpu->fpu.status & FPU_ES ? fpu_report(cpu) : STATUS_NEXT;
}
