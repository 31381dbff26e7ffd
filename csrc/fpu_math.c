/* fpu_math.c: x87 constants and transcendental instructions. */
#include "callout.h"
#include "float80_math.h"

/* 128 bits of each, chopped: more than rounding by RC looks at (SDM vol. 2, FLD1). */
static const struct {
    s16 exp;
    u64 hi;
    u64 lo;
} constants[] = {
    {0, 1ull << 63, 0},
    {1, 0xD49A784BCD1B8AFE, 0x492BF6FF4DAFDB4C},    /* log2 10 */
    {0, 0xB8AA3B295C17F0BB, 0xBE87FED0691D3E88},    /* log2 e */
    {1, 0xC90FDAA22168C234, 0xC4C6628B80DC1CD1},    /* pi */
    {-2, 0x9A209A84FBCFF798, 0x8F8959AC0B7C9178},   /* log10 2 */
    {-1, 0xB17217F7D1CF79AB, 0xC9E3B39803F2F6AF},   /* ln 2 */
};
#define CONSTANT_ZERO 6         /* the rm of FLDZ */

/* Full precision, no exception (SDM vol. 2, FLD1). */
int fpu_constant(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    env.bits = 64;
    (void)op;
    fpu_load(f, arg == CONSTANT_ZERO ? float80_zero(false) :
             float80_round(false, constants[arg].exp, constants[arg].hi, constants[arg].lo, &env));
    return STATUS_NEXT;
}

/* F2XM1. */
int fpu_2xm1(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    struct float80 value = FLOAT80_INDEFINITE;
    bool done;
    (void)op, (void)arg;
    if (!fpu_missing(f, 0, &done)) {
        value = float80_2xm1(*fpu_st(f, 0), &env);
        done = !fpu_raise(f, &env);
    }
    if (done)
        fpu_put(f, 0, value);
    return STATUS_NEXT;
}

/* FYL2X, FPATAN, FYL2XP1: the result replaces ST(1), and ST(0) goes. */
int fpu_binary_math(struct cpu *cpu, const struct op *op, unsigned arg)
{
    static struct float80 (*const functions[])(struct float80, struct float80, struct float_env *) = {
        [FPU_YL2X] = float80_yl2x, [FPU_PATAN] = float80_patan, [FPU_YL2XP1] = float80_yl2xp1,
    };
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    struct float80 value = FLOAT80_INDEFINITE;
    bool done;
    (void)op;
    if (!fpu_missing(f, 1, &done)) {
        value = functions[arg](*fpu_st(f, 0), *fpu_st(f, 1), &env);
        done = !fpu_raise(f, &env);
    }
    if (done) {
        fpu_put(f, 1, value);
        fpu_pop(f);
    }
    return STATUS_NEXT;
}

/* FSIN, FCOS: C2 says that the operand was out of range and is still there. */
int fpu_sine(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    struct float80 value = FLOAT80_INDEFINITE, *st = fpu_st(f, 0);
    bool done;
    (void)op;
    f->status &= (u16)~(FPU_C1 | FPU_C2);
    if (!fpu_missing(f, 0, &done)) {
        if (!float80_sincos(*st, &env, arg == FPU_SIN ? &value : NULL, arg == FPU_SIN ? NULL : &value)) {
            f->status |= FPU_C2;
            return STATUS_NEXT;
        }
        done = !fpu_raise(f, &env);
    }
    if (done)
        fpu_put(f, 0, value);
    return STATUS_NEXT;
}

/* FSINCOS, FPTAN: the second result, cosine or 1, is pushed. */
int fpu_sine_push(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    struct float80 first = FLOAT80_INDEFINITE, second = first, *st = fpu_st(f, 0);
    bool done, tangent = arg == FPU_TAN;
    (void)op;
    f->status &= (u16)~(FPU_C1 | FPU_C2);
    if (!fpu_missing(f, 0, &done)) {
        if (!fpu_empty(f, 7)) {
            done = fpu_overflow(f);
        } else {
            bool reduced = tangent ? float80_tan(*st, &env, &first) : float80_sincos(*st, &env, &first, &second);
            if (!reduced) {
                f->status |= FPU_C2;
                return STATUS_NEXT;
            }
            if (tangent)
                second = float80_unpack(first).class > CLASS_INF ? first : float80_from_int(1);
            done = !fpu_raise(f, &env);
        }
    }
    if (done) {
        fpu_put(f, 0, first);
        fpu_push(f, second);
    }
    return STATUS_NEXT;
}
