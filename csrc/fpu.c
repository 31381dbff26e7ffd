/* fpu.c: the x87: state, exceptions, and the table of its instructions. */
#include "fpu.h"

#include <string.h>

#include "api.h"
#include "callout.h"
#include "gate.h"

/* --- state ------------------------------------------------------------------------------------------------ */

/* ES and its copy B say whether an unmasked exception is pending (SDM vol. 1, 8.1.3.3). */
static void summarize(struct fpu *f)
{
    bool pending = f->status & ~f->control & FPU_EXCEPTIONS;
    f->status = (u16)((f->status & ~(FPU_ES | FPU_B)) | (pending ? FPU_ES | FPU_B : 0));
}

void fpu_set_control(struct fpu *f, u16 value)
{
    f->control = (value & FPU_CONTROL_DEFINED) | FPU_CONTROL_FIXED;
    summarize(f);
}

void fpu_set_status(struct fpu *f, u16 value)
{
    f->status = value;
    summarize(f);
}

void fpu_init(struct fpu *f)
{
    f->control = FPU_CONTROL_INIT;
    f->status = f->opcode = f->cs = f->ds = 0;
    f->ip = f->dp = 0;
    f->full = 0;
}

void fpu_reset(struct fpu *f)
{
    fpu_init(f);
    memset(f->st, 0, sizeof f->st);
    f->control = FPU_CONTROL_RESET;
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

struct float_env fpu_env(const struct fpu *f)
{
    static const u8 bits[] = {24, 64, 53, 64};
    return (struct float_env){.round = f->control >> 10 & 3, .bits = bits[f->control >> 8 & 3],
                              .masks = f->control & FPU_EXCEPTIONS};
}

static void set_c1(struct fpu *f, bool on)
{
    f->status = (u16)((f->status & ~FPU_C1) | (on ? FPU_C1 : 0));
}

bool fpu_raise(struct fpu *f, const struct float_env *env)
{
    bool blocked = float_blocked(env);
    set_c1(f, env->up && !blocked);
    f->status |= env->flags;
    summarize(f);
    return blocked;
}

static bool stack_fault(struct fpu *f, bool overflow)
{
    set_c1(f, overflow);
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

/* --- arithmetic ------------------------------------------------------------------------------------------- */

enum arith { ADD, MUL, COM, COMP, SUB, SUBR, DIV, DIVR };   /* the reg field */

static struct float80 arith(unsigned how, struct float80 a, struct float80 b, struct float_env *env)
{
    switch (how) {
    case ADD: return float80_add(a, b, env);
    case MUL: return float80_mul(a, b, env);
    case SUB: return float80_sub(a, b, env);
    case SUBR: return float80_sub(b, a, env);
    case DIV: return float80_div(a, b, env);
    default: return float80_div(b, a, env);
    }
}

/* Codes of a comparison in the places of C0, C2, C3 (SDM vol. 2, FCOM). */
static u16 order_codes(enum float_order order)
{
    static const u16 codes[] = {[ORDER_GREATER] = 0, [ORDER_LESS] = FPU_C0, [ORDER_EQUAL] = FPU_C3,
                                [ORDER_UNORDERED] = FPU_C0 | FPU_C2 | FPU_C3};
    return codes[order];
}

/* ST(0) against b; quiet: FUCOM. True: the comparison was made, by the masked response perhaps. */
static bool compare(struct fpu *f, struct float80 b, bool quiet, struct float_env *env)
{
    enum float_order order = float80_compare(*fpu_st(f, 0), b, quiet, env);
    bool blocked = fpu_raise(f, env);
    if (!blocked)
        fpu_set_codes(f, order_codes(order));
    return !blocked;
}

/* D8, DA, DC, DE with memory; arg: enum fpu_size << 3 | enum arith. */
static int arith_m(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = fpu_env(f);
    struct float80 b, *a = fpu_st(f, 0), result;
    unsigned how = arg & 7;
    bool masked;
    if (!fpu_operand(cpu, op, arg >> 3, &env, &b))
        return STATUS_FAULT;
    bool compares = how == COM || how == COMP, done;
    if (fpu_missing(f, 0, &masked)) {
        done = masked;
        result = FLOAT80_INDEFINITE;
        if (compares && masked)
            fpu_set_codes(f, order_codes(ORDER_UNORDERED));
    } else if (compares) {
        done = compare(f, b, false, &env);
    } else {
        result = arith(how, *a, b, &env);
        done = !fpu_raise(f, &env);
    }
    if (done && !compares)
        fpu_put(f, 0, result);
    if (done && how == COMP)
        fpu_pop(f);
    return STATUS_NEXT;
}

#define TO_STI 0x08u            /* in arg: the result goes to ST(i) */

/* D8, DC, DE with registers. In the DC and DE rows reg 4-7 mean ST(i) op ST(0) and its reverse swapped. */
static int arith_r(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = fpu_env(f);
    unsigned i = op->imm & 7;
    struct float80 result = FLOAT80_INDEFINITE;
    bool done;
    if (!fpu_missing(f, i, &done)) {
        result = arith(arg & 7, *fpu_st(f, 0), *fpu_st(f, i), &env);
        done = !fpu_raise(f, &env);
    }
    if (done) {
        fpu_put(f, arg & TO_STI ? i : 0, result);
        fpu_pops(f, arg / FPU_POPS);
    }
    return STATUS_NEXT;
}

#define QUIETLY 0x08u           /* in arg: FUCOM */

static int compare_r(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = fpu_env(f);
    unsigned i = op->imm & 7;
    bool done;
    if (fpu_missing(f, i, &done)) {
        if (done)
            fpu_set_codes(f, order_codes(ORDER_UNORDERED));
    } else {
        done = compare(f, *fpu_st(f, i), arg & QUIETLY, &env);
    }
    if (done)
        fpu_pops(f, arg / FPU_POPS);
    return STATUS_NEXT;
}

/* FCOMI and its kin: ZF, PF, CF tell the order, the other arithmetic flags are cleared. C1 changes only by a stack
 * fault. */
static int compare_flags(struct cpu *cpu, const struct op *op, unsigned arg)
{
    static const u32 eflags[] = {[ORDER_GREATER] = 0, [ORDER_LESS] = EFLAGS_CF, [ORDER_EQUAL] = EFLAGS_ZF,
                                 [ORDER_UNORDERED] = EFLAGS_ZF | EFLAGS_PF | EFLAGS_CF};
    struct fpu *f = &cpu->fpu;
    struct float_env env = fpu_env(f);
    unsigned i = op->imm & 7;
    enum float_order order = ORDER_UNORDERED;
    bool done, c1 = f->status & FPU_C1;
    if (!fpu_missing(f, i, &done)) {
        order = float80_compare(*fpu_st(f, 0), *fpu_st(f, i), arg & QUIETLY, &env);
        done = !fpu_raise(f, &env);
        set_c1(f, c1);
    }
    if (done) {
        cpu->fl = flags_set(eflags[order]);
        fpu_pops(f, arg / FPU_POPS);
    }
    return STATUS_NEXT;
}

static int ftst(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = fpu_env(f);
    bool masked;
    (void)op, (void)arg;
    if (!fpu_missing(f, 0, &masked))
        compare(f, float80_zero(false), false, &env);
    else if (masked)
        fpu_set_codes(f, order_codes(ORDER_UNORDERED));
    return STATUS_NEXT;
}

/* SDM vol. 2, FXAM. */
static int fxam(struct cpu *cpu, const struct op *op, unsigned arg)
{
    static const u16 codes[] = {[CLASS_UNSUPPORTED] = 0, [CLASS_QNAN] = FPU_C0, [CLASS_SNAN] = FPU_C0,
                                [CLASS_FINITE] = FPU_C2, [CLASS_INF] = FPU_C2 | FPU_C0, [CLASS_ZERO] = FPU_C3};
    struct fpu *f = &cpu->fpu;
    struct float_parts p = float80_unpack(*fpu_st(f, 0));
    u16 found = p.denormal ? FPU_C3 | FPU_C2 : codes[p.class];
    (void)op, (void)arg;
    if (fpu_empty(f, 0))
        found = FPU_C3 | FPU_C0;
    fpu_set_codes(f, found | (p.sign ? FPU_C1 : 0));
    return STATUS_NEXT;
}

enum unary { CHS, ABS, SQRT, INTEGRAL };

/* FCHS and FABS touch the sign alone, of NaNs too. */
static int unary(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = fpu_env(f);
    struct float80 value = *fpu_st(f, 0);
    bool done;
    (void)op;
    if (fpu_missing(f, 0, &done)) {
        value = FLOAT80_INDEFINITE;
    } else {
        switch (arg) {
        case CHS: value.se ^= FLOAT80_SIGN; break;
        case ABS: value.se &= FLOAT80_EXP; break;
        case SQRT: value = float80_sqrt(value, &env); break;
        default: value = float80_to_integral(value, &env);
        }
        done = !fpu_raise(f, &env);
    }
    if (done)
        fpu_put(f, 0, value);
    return STATUS_NEXT;
}

static int fscale(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = fpu_env(f);
    struct float80 value = FLOAT80_INDEFINITE;
    bool done;
    (void)op, (void)arg;
    if (!fpu_missing(f, 1, &done)) {
        value = float80_scale(*fpu_st(f, 0), *fpu_st(f, 1), &env);
        done = !fpu_raise(f, &env);
    }
    if (done)
        fpu_put(f, 0, value);
    return STATUS_NEXT;
}

static int fxtract(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = fpu_env(f);
    struct float80 values[2] = {FLOAT80_INDEFINITE, FLOAT80_INDEFINITE};
    bool done;
    (void)op, (void)arg;
    if (!fpu_missing(f, 0, &done)) {
        if (!fpu_empty(f, 7)) {
            done = fpu_overflow(f);
        } else {
            float80_extract(*fpu_st(f, 0), &env, values);
            done = !fpu_raise(f, &env);
        }
    }
    if (done) {
        fpu_put(f, 0, values[0]);
        fpu_push(f, values[1]);
    }
    return STATUS_NEXT;
}

/* arg: FPREM1. C2 says that the reduction goes on, else C0 C3 C1 are the quotient's low bits (SDM vol. 2, FPREM). */
static int fprem(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = fpu_env(f);
    struct float80 value = FLOAT80_INDEFINITE;
    int quotient = 0;
    bool done;
    (void)op;
    fpu_set_codes(f, f->status & (FPU_C0 | FPU_C3));
    if (!fpu_missing(f, 1, &done)) {
        value = float80_remainder(*fpu_st(f, 0), *fpu_st(f, 1), arg, &env, &quotient);
        bool nan = float80_unpack(value).class > CLASS_INF;
        done = !fpu_raise(f, &env);
        if (done && quotient < 0)
            fpu_set_codes(f, FPU_C2);
        else if (done && !nan)
            fpu_set_codes(f, (u16)((quotient & 4 ? FPU_C0 : 0) | (quotient & 2 ? FPU_C3 : 0) | (quotient & 1 ? FPU_C1 : 0)));
    }
    if (done)
        fpu_put(f, 0, value);
    return STATUS_NEXT;
}

/* --- moves ------------------------------------------------------------------------------------------------ */

void fpu_load(struct fpu *f, struct float80 value)
{
    set_c1(f, false);
    if (fpu_empty(f, 7))
        fpu_push(f, value);
    else if (fpu_overflow(f))
        fpu_push(f, FLOAT80_INDEFINITE);
}

static int fld_r(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    unsigned i = op->imm & 7;
    (void)arg;
    if (!fpu_empty(f, 7) || !fpu_empty(f, i))
        fpu_load(f, *fpu_st(f, i));
    else if (fpu_underflow(f))
        fpu_push(f, FLOAT80_INDEFINITE);
    return STATUS_NEXT;
}

#define IF_FULL 0x01u           /* in arg: the undocumented FSTP of D9 just pops an empty register */

static int fst_r(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float80 value = *fpu_st(f, 0);
    bool done = true;
    set_c1(f, false);
    if (fpu_empty(f, 0)) {
        if (arg & IF_FULL) {
            fpu_pop(f);
            return STATUS_NEXT;
        }
        value = FLOAT80_INDEFINITE;
        done = fpu_underflow(f);
    }
    if (done) {
        fpu_put(f, op->imm & 7, value);
        fpu_pops(f, arg / FPU_POPS);
    }
    return STATUS_NEXT;
}

static int fxch(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    unsigned i = op->imm & 7;
    struct float80 a = *fpu_st(f, 0), b = *fpu_st(f, i);
    bool masked = true;
    (void)arg;
    set_c1(f, false);
    if (fpu_empty(f, 0))
        a = FLOAT80_INDEFINITE;
    if (fpu_empty(f, i))
        b = FLOAT80_INDEFINITE;
    if (fpu_missing(f, i, &masked) && !masked)
        return STATUS_NEXT;
    fpu_put(f, 0, b);
    fpu_put(f, i, a);
    return STATUS_NEXT;
}

#define NEGATED 0x04u           /* in arg, below it the condition: B, E, BE, U */

static int fcmov(struct cpu *cpu, const struct op *op, unsigned arg)
{
    static const u32 conditions[] = {EFLAGS_CF, EFLAGS_ZF, EFLAGS_CF | EFLAGS_ZF, EFLAGS_PF};
    struct fpu *f = &cpu->fpu;
    unsigned i = op->imm & 7;
    bool holds = cpu_eflags(cpu) & conditions[arg & 3], masked;
    if (fpu_missing(f, i, &masked)) {
        if (masked)
            fpu_put(f, 0, FLOAT80_INDEFINITE);
    } else if (holds != !!(arg & NEGATED)) {
        fpu_put(f, 0, *fpu_st(f, i));
    }
    return STATUS_NEXT;
}

/* FFREE, and with FPU_POPS its undocumented twin of DF. */
static int ffree(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    set_c1(f, false);
    f->full &= (u8)~(1 << fpu_number(f, op->imm & 7));
    if (arg)
        fpu_pop(f);
    return STATUS_NEXT;
}

static int turn_stack(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)op;
    set_c1(&cpu->fpu, false);
    fpu_move_top(&cpu->fpu, arg ? 1 : -1);
    return STATUS_NEXT;
}

/* FNOP, and FENI, FDISI and FSETPM of the 8087 and 80287. */
static int nop(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)cpu, (void)op, (void)arg;
    return STATUS_NEXT;
}

static int fnclex(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)op, (void)arg;
    cpu->fpu.status &= (u16)~(FPU_EXCEPTIONS | FPU_SF | FPU_ES | FPU_B);
    return STATUS_NEXT;
}

static int fninit(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)op, (void)arg;
    fpu_init(&cpu->fpu);
    return STATUS_NEXT;
}

static int fnstsw_ax(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)op, (void)arg;
    REG16(cpu, 4 * EAX) = cpu->fpu.status;
    return STATUS_NEXT;
}

static int not_done(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)op, (void)arg;
    return cpu_stop(cpu, STOP_UNIMPLEMENTED);
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
    ROW(arith_m, size << 3 | ADD), ROW(arith_m, size << 3 | MUL), ROW(arith_m, size << 3 | COM), \
    ROW(arith_m, size << 3 | COMP), ROW(arith_m, size << 3 | SUB), ROW(arith_m, size << 3 | SUBR), \
    ROW(arith_m, size << 3 | DIV), ROW(arith_m, size << 3 | DIVR)
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
    ROW(arith_r, ADD | TO_STI | (pops)), ROW(arith_r, MUL | TO_STI | (pops))
/* DC and DE name the operation from ST(i)'s side: reg 4 is ST(0) - ST(i). */
#define REVERSED_STI(pops) \
    ROW(arith_r, SUB | TO_STI | (pops)), ROW(arith_r, SUBR | TO_STI | (pops)), ROW(arith_r, DIV | TO_STI | (pops)), \
    ROW(arith_r, DIVR | TO_STI | (pops))

/* Register forms that take ST(i); some are undocumented twins that every x87 has. */
static const struct row register_rows[8][8] = {
    {ROW(arith_r, ADD), ROW(arith_r, MUL), ROW(compare_r, 0), ROW(compare_r, FPU_POPS), ROW(arith_r, SUB),
     ROW(arith_r, SUBR), ROW(arith_r, DIV), ROW(arith_r, DIVR)},
    {ROW(fld_r, 0), ROW(fxch, 0), {0}, ROW(fst_r, FPU_POPS | IF_FULL)},
    {ROW(fcmov, 0), ROW(fcmov, 1), ROW(fcmov, 2), ROW(fcmov, 3)},
    {ROW(fcmov, NEGATED | 0), ROW(fcmov, NEGATED | 1), ROW(fcmov, NEGATED | 2), ROW(fcmov, NEGATED | 3), {0},
     ROW(compare_flags, QUIETLY), ROW(compare_flags, 0)},
    {ARITH_STI(0), ROW(compare_r, 0), ROW(compare_r, FPU_POPS), REVERSED_STI(0)},
    {ROW(ffree, 0), ROW(fxch, 0), ROW(fst_r, 0), ROW(fst_r, FPU_POPS), ROW(compare_r, QUIETLY),
     ROW(compare_r, QUIETLY | FPU_POPS)},
    {ARITH_STI(FPU_POPS), ROW(compare_r, FPU_POPS), {0}, REVERSED_STI(FPU_POPS)},
    {ROW(ffree, FPU_POPS), ROW(fxch, 0), ROW(fst_r, FPU_POPS), ROW(fst_r, FPU_POPS), {0},
     ROW(compare_flags, QUIETLY | FPU_POPS), ROW(compare_flags, FPU_POPS)},
};

/* Register forms that mean one instruction for each value of rm. */
struct group {
    u8 escape, reg;
    struct row rows[8];
};
static const struct group groups[] = {
    {1, 2, {ROW(nop, 0)}},
    {1, 4, {ROW(unary, CHS), ROW(unary, ABS), {0}, {0}, ROW(ftst, 0), ROW(fxam, 0)}},
    {1, 5, {ROW(fpu_constant, 0), ROW(fpu_constant, 1), ROW(fpu_constant, 2), ROW(fpu_constant, 3),
            ROW(fpu_constant, 4), ROW(fpu_constant, 5), ROW(fpu_constant, 6)}},
    {1, 6, {ROW(not_done, 0), ROW(not_done, 0), ROW(not_done, 0), ROW(not_done, 0), ROW(fxtract, 0), ROW(fprem, 1), ROW(turn_stack, 0), ROW(turn_stack, 1)}},
    {1, 7, {ROW(fprem, 0), ROW(not_done, 0), ROW(unary, SQRT), ROW(not_done, 0), ROW(unary, INTEGRAL), ROW(fscale, 0), ROW(not_done, 0), ROW(not_done, 0)}},
    {2, 5, {{0}, ROW(compare_r, QUIETLY | 2 * FPU_POPS)}},
    {3, 4, {NOWAIT(nop, 0), NOWAIT(nop, 0), NOWAIT(fnclex, 0), NOWAIT(fninit, 0), NOWAIT(nop, 0)}},
    {6, 3, {{0}, ROW(compare_r, 2 * FPU_POPS)}},
    {7, 4, {NOWAIT(fnstsw_ax, 0)}},
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

/* A pending exception before a waiting instruction (SDM vol. 1, 8.7): #MF, or with CR0.NE clear FERR# is asserted and
 * the processor waits, IGNNE# being inactive, for the interrupt that the board makes of it. */
static int report(struct cpu *cpu)
{
    if (cpu->cr0 & CR0_NE)
        return cpu_fault(cpu, T_FPERR);
    cpu->halted = true;
    return STATUS_JUMP;
}

/* op->sub: escape << 3 | reg, op->imm: ModRM. */
int insn_fpu(struct cpu *cpu, const struct op *op)
{
    bool mem = op->flags & OP_MEM;
    unsigned escape = op->sub >> 3;
    const struct row *row = find(escape, mem, op->sub & 7, op->imm & 7);
    struct fpu *f = &cpu->fpu;
    if (unlikely(cpu->cr0 & (CR0_EM | CR0_TS)))
        return cpu_fault(cpu, T_DEVICE);
    if (unlikely(row->flags & WAITS && f->status & FPU_ES))
        return report(cpu);
    int status = row->fn(cpu, op, row->arg);
    if (likely(status == STATUS_NEXT && row->flags & POINTS)) {
        f->ip = op->eip;
        f->cs = cpu->seg[CS].selector;
        f->opcode = (u16)(escape << 8 | op->imm);
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
    return cpu->fpu.status & FPU_ES ? report(cpu) : STATUS_NEXT;
}
