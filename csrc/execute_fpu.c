/*
 * execute_fpu.c: handlers of the x87 instructions that loops are made of, in
 * the common case: nothing pending, no register empty or full that must not
 * be, numbers normal or zero, nothing raised but a masked inexact result, and
 * memory in the TLB. They change nothing before they know that; all else is
 * insn_fpu's (fpu.c).
 */
#include "execute.h"

#define BY_CALLOUT return callout_op(OP_ARGS)
#define BLOCKED unlikely((cpu->cr0 & (CR0_EM | CR0_TS)) | (cpu->fpu.status & FPU_ES))
#define EMPTY(n) unlikely(!(cpu->fpu.full >> (n) & 1))
#define FULL(n) unlikely(cpu->fpu.full >> (n) & 1)
#define NUMBER(i) fpu_number(&cpu->fpu, i)

/* SDM vol. 1, 8.1.8; op->imm is the opcode. */
ALWAYS_INLINE void done(struct cpu *cpu, const struct op *op)
{
    cpu->fpu.ip = op->eip;
    cpu->fpu.cs = cpu->seg[CS].selector;
    cpu->fpu.opcode = (u16)op->imm;
}

ALWAYS_INLINE void done_memory(struct cpu *cpu, const struct op *op)
{
    done(cpu, op);
    cpu->fpu.dp = EA_bis;
    cpu->fpu.ds = cpu->seg[op->seg].selector;
}

#define LOAD_FLOAT(W, var) \
    u##W var; \
    do { \
        u32 lin_ = EA_bis; \
        const struct tlb_entry *entry_ = tlb_entry_of(tlb, lin_); \
        if (unlikely(lin_ - entry_->read_tag > PAGE_SIZE - sizeof(var))) \
            BY_CALLOUT; \
        memcpy(&var, entry_->host + lin_, sizeof(var)); \
    } while (0)

/* --- loads and stores ------------------------------------------------------------------------------------- */

/* Is a single or double one that handlers convert: normal or zero? */
#define EASY(W, raw) ((raw) << 1 == 0 || float##W##_normal(raw))

ALWAYS_INLINE struct float80 widened32(u32 raw)
{
    u16 sign = (u16)(raw >> 31 << 15);
    if (raw << 1 == 0)
        return (struct float80){0, sign};
    return (struct float80){(u64)raw << 40 | FLOAT_TOP, (u16)(sign | ((raw >> 23 & 0xFF) + FLOAT80_BIAS - 127))};
}

ALWAYS_INLINE struct float80 widened64(u64 raw)
{
    u16 sign = (u16)(raw >> 63 << 15);
    if (raw << 1 == 0)
        return (struct float80){0, sign};
    return (struct float80){raw << 11 | FLOAT_TOP, (u16)(sign | ((raw >> 52 & 0x7FF) + FLOAT80_BIAS - 1023))};
}

#define PUSH_FLOAT(value) \
    do { \
        if (FULL(NUMBER(7))) \
            BY_CALLOUT; \
        fpu_set_c1(&cpu->fpu, false); \
        fpu_push(&cpu->fpu, value); \
    } while (0)

#define LOADS(W) \
    H(fld_m##W) \
    { \
        if (BLOCKED) \
            BY_CALLOUT; \
        LOAD_FLOAT(W, raw); \
        if (unlikely(!EASY(W, raw))) \
            BY_CALLOUT; \
        PUSH_FLOAT(widened##W(raw)); \
        done_memory(cpu, op); \
        NEXT; \
    }
LOADS(32)
LOADS(64)

H(fild_m32)
{
    if (BLOCKED)
        BY_CALLOUT;
    LOAD_FLOAT(32, raw);
    PUSH_FLOAT(float80_from_int((s32)raw));
    done_memory(cpu, op);
    NEXT;
}

H(fld_constant)
{
    if (BLOCKED)
        BY_CALLOUT;
    PUSH_FLOAT((op->imm & 7) == 0 ? ((struct float80){FLOAT_TOP, FLOAT80_BIAS}) : float80_zero(false));
    done(cpu, op);
    NEXT;
}

/* FST, or FSTP by the reg field's low bit. */
#define STORES(W, bits, bias) \
    H(fst_m##W) \
    { \
        struct fpu *f = &cpu->fpu; \
        u32 lin = EA_bis; \
        const struct tlb_entry *entry = tlb_entry_of(tlb, lin); \
        if (BLOCKED || EMPTY(NUMBER(0)) || unlikely(lin - entry->write_tag > PAGE_SIZE - W / 8)) \
            BY_CALLOUT; \
        struct float80 value = *fpu_st(f, 0); \
        struct float_cut c = {0, false, false, false}; \
        u##W raw = (u##W)((u64)(value.se >> 15) << (W - 1)); \
        if (likely(value.mant | (value.se & FLOAT80_EXP))) { \
            c = float_cut_to(value.mant, 0, bits, f->env.round, value.se >> 15); \
            s32 exponent = (value.se & (s32)FLOAT80_EXP) - FLOAT80_BIAS + bias + c.carry; \
            if (unlikely((u32)(exponent - 1) >= 2 * bias || !(value.mant & FLOAT_TOP))) \
                BY_CALLOUT; \
            raw |= (u##W)((u64)exponent << (bits - 1) | (c.mant & ~FLOAT_TOP) >> (64 - bits)); \
        } \
        if (unlikely(c.inexact && !(f->env.masks & FLOAT_PE))) \
            BY_CALLOUT; \
        memcpy(entry->host + lin, &raw, sizeof raw); \
        f->status |= c.inexact ? FLOAT_PE : 0; \
        fpu_set_c1(f, c.up); \
        fpu_pops(f, op->sub & 1); \
        done_memory(cpu, op); \
        NEXT; \
    }
STORES(32, 24, 127)
STORES(64, 53, 1023)

/* --- between registers ------------------------------------------------------------------------------------ */

H(fld_r)
{
    if (BLOCKED || EMPTY(NUMBER(op->imm & 7)))
        BY_CALLOUT;
    PUSH_FLOAT(cpu->fpu.st[NUMBER(op->imm & 7)]);
    done(cpu, op);
    NEXT;
}

H(fst_r)
{
    if (BLOCKED || EMPTY(NUMBER(0)))
        BY_CALLOUT;
    fpu_set_c1(&cpu->fpu, false);
    fpu_put(&cpu->fpu, op->imm & 7, *fpu_st(&cpu->fpu, 0));
    fpu_pops(&cpu->fpu, op->sub & 1);
    done(cpu, op);
    NEXT;
}

H(fxch_r)
{
    struct float80 *x = fpu_st(&cpu->fpu, 0), *y = fpu_st(&cpu->fpu, op->imm & 7), was = *x;
    if (BLOCKED || EMPTY(NUMBER(0)) || EMPTY(NUMBER(op->imm & 7)))
        BY_CALLOUT;
    fpu_set_c1(&cpu->fpu, false);
    *x = *y;
    *y = was;
    done(cpu, op);
    NEXT;
}

/* FCHS, FABS. */
H(fsign)
{
    struct float80 *x = fpu_st(&cpu->fpu, 0);
    if (BLOCKED || EMPTY(NUMBER(0)))
        BY_CALLOUT;
    fpu_set_c1(&cpu->fpu, false);
    x->se = (op->imm & 7) == 0 ? x->se ^ FLOAT80_SIGN : x->se & FLOAT80_EXP;
    done(cpu, op);
    NEXT;
}

/* --- arithmetic ------------------------------------------------------------------------------------------- */

/* ST(0) with b, the result to register `to`. False: nothing was done. */
static __attribute__((noinline)) bool arith(struct fpu *f, unsigned how, unsigned to, struct float80 b)
{
    struct float_env env = f->env;
    struct float80 result = fpu_arith(how, *fpu_st(f, 0), b, &env);
    if (unlikely(env.flags & ~(env.masks & FLOAT_PE)))
        return false;
    f->status |= env.flags;
    fpu_set_c1(f, env.up);
    f->st[to] = result;
    return true;
}

#define ARITH_MEMORY(W) \
    H(farith_m##W) \
    { \
        if (BLOCKED || EMPTY(NUMBER(0))) \
            BY_CALLOUT; \
        LOAD_FLOAT(W, raw); \
        if (unlikely(!EASY(W, raw) || !arith(&cpu->fpu, op->sub & 7, NUMBER(0), widened##W(raw)))) \
            BY_CALLOUT; \
        done_memory(cpu, op); \
        NEXT; \
    }
ARITH_MEMORY(32)
ARITH_MEMORY(64)

#define ARITH_REGISTER(name, to, pops) \
    H(name) \
    { \
        unsigned i = op->imm & 7; \
        if (BLOCKED || EMPTY(NUMBER(0)) || EMPTY(NUMBER(i)) || \
            unlikely(!arith(&cpu->fpu, op->sub & 7, NUMBER(to), cpu->fpu.st[NUMBER(i)]))) \
            BY_CALLOUT; \
        fpu_pops(&cpu->fpu, pops); \
        done(cpu, op); \
        NEXT; \
    }
ARITH_REGISTER(farith_st0, 0, 0)
ARITH_REGISTER(farith_sti, i, 0)
ARITH_REGISTER(farith_sti_pop, i, 1)

/* FCOMI, FUCOMI; with pops of escape DF. */
H(fcomi_r)
{
    struct float_parts x = float80_unpack(*fpu_st(&cpu->fpu, 0)), y = float80_unpack(*fpu_st(&cpu->fpu, op->imm & 7));
    if (BLOCKED || EMPTY(NUMBER(0)) || EMPTY(NUMBER(op->imm & 7)) ||
        unlikely(x.class > CLASS_INF || y.class > CLASS_INF || x.denormal || y.denormal))
        BY_CALLOUT;
    SET_LAZY(flags_set(fpu_eflags(float_compare(&x, &y))));
    fpu_pops(&cpu->fpu, op->sub >> 3 == 7);
    done(cpu, op);
    NEXT;
}

/* --- which ------------------------------------------------------------------------------------------------ */

#define ARITH(handler) {handler, handler, NULL, NULL, handler, handler, handler, handler}

op_handler *fpu_hot(unsigned escape, bool mem, unsigned reg, unsigned rm)
{
    static op_handler *const memory[8][8] = {
        ARITH(farith_m32), {fld_m32, NULL, fst_m32, fst_m32}, {NULL}, {fild_m32},
        ARITH(farith_m64), {fld_m64, NULL, fst_m64, fst_m64},
    };
    static op_handler *const registers[8][8] = {
        ARITH(farith_st0), {fld_r, fxch_r}, {NULL}, {[5] = fcomi_r, [6] = fcomi_r},
        ARITH(farith_sti), {[2] = fst_r, [3] = fst_r}, ARITH(farith_sti_pop), {[5] = fcomi_r, [6] = fcomi_r},
    };
    if (mem)
        return memory[escape][reg];
    if (escape == 1 && reg == 4)
        return rm < 2 ? fsign : NULL;
    if (escape == 1 && reg == 5)
        return rm == 0 || rm == 6 ? fld_constant : NULL;
    return registers[escape][reg];
}
