/* fpu_register.c: x87 arithmetic, comparisons, and moves between registers. */
#include "callout.h"
#include "gate.h"

/* --- arithmetic ------------------------------------------------------------------------------------------- */

struct float80 fpu_arith(unsigned how, struct float80 a, struct float80 b, struct float_env *env)
{
    switch (how) {
    case FPU_ADD: return float80_add(a, b, env);
    case FPU_MUL: return float80_mul(a, b, env);
    case FPU_SUB: return float80_sub(a, b, env);
    case FPU_SUBR: return float80_sub(b, a, env);
    case FPU_DIV: return float80_div(a, b, env);
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
int fpu_arith_m(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    struct float80 b, *a = fpu_st(f, 0), result;
    unsigned how = arg & 7;
    bool masked;
    if (!fpu_operand(cpu, op, arg >> 3, &env, &b))
        return STATUS_FAULT;
    bool compares = how == FPU_COM || how == FPU_COMP, done;
    if (fpu_missing(f, 0, &masked)) {
        done = masked;
        result = FLOAT80_INDEFINITE;
        if (compares && masked)
            fpu_set_codes(f, order_codes(ORDER_UNORDERED));
    } else if (compares) {
        done = compare(f, b, false, &env);
    } else {
        result = fpu_arith(how, *a, b, &env);
        done = !fpu_raise(f, &env);
    }
    if (done && !compares)
        fpu_put(f, 0, result);
    if (done && how == FPU_COMP)
        fpu_pop(f);
    return STATUS_NEXT;
}

/* D8, DC, DE with registers. In the DC and DE rows reg 4-7 mean ST(i) op ST(0) and its reverse swapped. */
int fpu_arith_r(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    unsigned i = op->imm & 7;
    struct float80 result = FLOAT80_INDEFINITE;
    bool done;
    if (!fpu_missing(f, i, &done)) {
        result = fpu_arith(arg & 7, *fpu_st(f, 0), *fpu_st(f, i), &env);
        done = !fpu_raise(f, &env);
    }
    if (done) {
        fpu_put(f, arg & FPU_TO_STI ? i : 0, result);
        fpu_pops(f, arg / FPU_POPS);
    }
    return STATUS_NEXT;
}

int fpu_compare_r(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    unsigned i = op->imm & 7;
    bool done;
    if (fpu_missing(f, i, &done)) {
        if (done)
            fpu_set_codes(f, order_codes(ORDER_UNORDERED));
    } else {
        done = compare(f, *fpu_st(f, i), arg & FPU_QUIETLY, &env);
    }
    if (done)
        fpu_pops(f, arg / FPU_POPS);
    return STATUS_NEXT;
}

u32 fpu_eflags(enum float_order order)
{
    static const u32 eflags[] = {[ORDER_GREATER] = 0, [ORDER_LESS] = EFLAGS_CF, [ORDER_EQUAL] = EFLAGS_ZF,
                                 [ORDER_UNORDERED] = EFLAGS_ZF | EFLAGS_PF | EFLAGS_CF};
    return eflags[order];
}

/* FCOMI and its kin: ZF, PF, CF tell the order, the other arithmetic flags are cleared. C1 changes only by a stack
 * fault. */
int fpu_compare_flags(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    unsigned i = op->imm & 7;
    enum float_order order = ORDER_UNORDERED;
    bool done, c1 = f->status & FPU_C1;
    if (!fpu_missing(f, i, &done)) {
        order = float80_compare(*fpu_st(f, 0), *fpu_st(f, i), arg & FPU_QUIETLY, &env);
        done = !fpu_raise(f, &env);
        fpu_set_c1(f, c1);
    }
    if (done) {
        cpu->fl = flags_set(fpu_eflags(order));
        fpu_pops(f, arg / FPU_POPS);
    }
    return STATUS_NEXT;
}

int fpu_ftst(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    bool masked;
    (void)op, (void)arg;
    if (!fpu_missing(f, 0, &masked))
        compare(f, float80_zero(false), false, &env);
    else if (masked)
        fpu_set_codes(f, order_codes(ORDER_UNORDERED));
    return STATUS_NEXT;
}

/* SDM vol. 2, FXAM. */
int fpu_fxam(struct cpu *cpu, const struct op *op, unsigned arg)
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

/* FCHS and FABS touch the sign alone, of NaNs too. */
int fpu_unary(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    struct float80 value = *fpu_st(f, 0);
    bool done;
    (void)op;
    if (fpu_missing(f, 0, &done)) {
        value = FLOAT80_INDEFINITE;
    } else {
        switch (arg) {
        case FPU_CHS: value.se ^= FLOAT80_SIGN; break;
        case FPU_ABS: value.se &= FLOAT80_EXP; break;
        case FPU_SQRT: value = float80_sqrt(value, &env); break;
        default: value = float80_to_integral(value, &env);
        }
        done = !fpu_raise(f, &env);
    }
    if (done)
        fpu_put(f, 0, value);
    return STATUS_NEXT;
}

int fpu_fscale(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
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

int fpu_fxtract(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
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
int fpu_fprem(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
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
    fpu_set_c1(f, false);
    if (fpu_empty(f, 7))
        fpu_push(f, value);
    else if (fpu_overflow(f))
        fpu_push(f, FLOAT80_INDEFINITE);
}

int fpu_fld_r(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    unsigned i = op->imm & 7;
    (void)arg;
    if (!fpu_empty(f, i))
        fpu_load(f, *fpu_st(f, i));
    else if (fpu_underflow(f))
        fpu_push(f, FLOAT80_INDEFINITE);
    return STATUS_NEXT;
}

int fpu_fst_r(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float80 value = *fpu_st(f, 0);
    bool done = true;
    fpu_set_c1(f, false);
    if (fpu_empty(f, 0)) {
        if (arg & FPU_IF_FULL) {
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

int fpu_fxch(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    unsigned i = op->imm & 7;
    struct float80 a = *fpu_st(f, 0), b = *fpu_st(f, i);
    bool masked = true;
    (void)arg;
    fpu_set_c1(f, false);
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

int fpu_fcmov(struct cpu *cpu, const struct op *op, unsigned arg)
{
    static const u32 conditions[] = {EFLAGS_CF, EFLAGS_ZF, EFLAGS_CF | EFLAGS_ZF, EFLAGS_PF};
    struct fpu *f = &cpu->fpu;
    unsigned i = op->imm & 7;
    bool holds = cpu_eflags(cpu) & conditions[arg & 3], masked;
    if (fpu_missing(f, i, &masked)) {
        if (masked)
            fpu_put(f, 0, FLOAT80_INDEFINITE);
    } else if (holds != !!(arg & FPU_NEGATED)) {
        fpu_put(f, 0, *fpu_st(f, i));
    }
    return STATUS_NEXT;
}

/* FFREE, and with FPU_POPS its undocumented twin of DF. */
int fpu_ffree(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    fpu_set_c1(f, false);
    f->full &= (u8)~(1 << fpu_number(f, op->imm & 7));
    if (arg)
        fpu_pop(f);
    return STATUS_NEXT;
}

int fpu_turn_stack(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)op;
    fpu_set_c1(&cpu->fpu, false);
    fpu_move_top(&cpu->fpu, arg ? 1 : -1);
    return STATUS_NEXT;
}

/* FNOP, and FENI, FDISI and FSETPM of the 8087 and 80287. */
int fpu_nop(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)cpu, (void)op, (void)arg;
    return STATUS_NEXT;
}

int fpu_fnclex(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)op, (void)arg;
    cpu->fpu.status &= (u16)~(FPU_EXCEPTIONS | FPU_SF | FPU_ES | FPU_B);
    return STATUS_NEXT;
}

int fpu_fninit(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)op, (void)arg;
    fpu_init(&cpu->fpu);
    return STATUS_NEXT;
}

int fpu_fnstsw_ax(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)op, (void)arg;
    REG16(cpu, 4 * EAX) = cpu->fpu.status;
    return STATUS_NEXT;
}
