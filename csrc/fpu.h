/*
 * fpu.h: the x87 of a processor: its state, and what fpu*.c share.
 *
 * Registers are kept by physical number; ST(i) is register (TOP + i) & 7.
 */
#ifndef PYK_FPU_H
#define PYK_FPU_H

#include "float80.h"

/* Status word (SDM vol. 1, 8.1.3); bits 0-5 are enum float_exception. */
#define FPU_SF 0x0040u          /* stack fault */
#define FPU_ES 0x0080u          /* an unmasked exception is pending */
#define FPU_C0 0x0100u
#define FPU_C1 0x0200u
#define FPU_C2 0x0400u
#define FPU_TOP_SHIFT 11
#define FPU_TOP 0x3800u
#define FPU_C3 0x4000u
#define FPU_B 0x8000u
#define FPU_EXCEPTIONS 0x003Fu

/* Control word (SDM vol. 1, 8.1.5); bit 6 reads as 1, the other reserved ones as 0. */
#define FPU_CONTROL_DEFINED 0x1F3Fu
#define FPU_CONTROL_FIXED 0x0040u
#define FPU_CONTROL_INIT 0x037Fu        /* after FNINIT */
#define FPU_CONTROL_RESET 0x0040u

struct fpu {
    struct float80 st[8];       /* by physical number */
    u16 control;
    struct float_env env;       /* what control says to arithmetic, with nothing raised */
    u16 status;                 /* TOP included; ES and B follow flags and masks */
    u8 full;                    /* bit i: register i is not empty */
    u16 opcode;                 /* last instruction but control ones: its 11 bits */
    u16 cs, ds;                 /* selectors of its address and its operand's */
    u32 ip, dp;                 /* offsets of the same */
};

struct cpu;
struct op;
/* An instruction; arg tells apart what a handler serves. Returns an enum status. */
typedef int fpu_handler(struct cpu *cpu, const struct op *op, unsigned arg);

void fpu_reset(struct fpu *f);  /* SDM vol. 3, table 9-1 */
void fpu_init(struct fpu *f);   /* FNINIT */
/* Is there such an instruction? escape is the opcode - D8h. */
bool fpu_defined(unsigned escape, bool mem, unsigned reg, unsigned rm);
/* What it needs besides an x87: an enum feature, or 0. */
u32 fpu_feature(unsigned escape, bool mem, unsigned reg, unsigned rm);
u16 fpu_tag_word(const struct fpu *f);
void fpu_set_tag_word(struct fpu *f, u16 tags);
void fpu_set_control(struct fpu *f, u16 value);
/* Exceptions and TOP as given; ES and B follow from masks. */
void fpu_set_status(struct fpu *f, u16 value);

ALWAYS_INLINE unsigned fpu_number(const struct fpu *f, unsigned i)
{
    return ((f->status >> FPU_TOP_SHIFT) + i) & 7;
}
ALWAYS_INLINE struct float80 *fpu_st(struct fpu *f, unsigned i)
{
    return &f->st[fpu_number(f, i)];
}
ALWAYS_INLINE bool fpu_empty(const struct fpu *f, unsigned i)
{
    return !(f->full >> fpu_number(f, i) & 1);
}
ALWAYS_INLINE void fpu_put(struct fpu *f, unsigned i, struct float80 value)
{
    f->st[fpu_number(f, i)] = value;
    f->full |= (u8)(1 << fpu_number(f, i));
}
ALWAYS_INLINE void fpu_move_top(struct fpu *f, int by)
{
    f->status = (u16)((f->status & ~FPU_TOP) | ((f->status + by * (1 << FPU_TOP_SHIFT)) & FPU_TOP));
}
ALWAYS_INLINE void fpu_pop(struct fpu *f)
{
    f->full &= (u8)~(1 << fpu_number(f, 0));
    fpu_move_top(f, 1);
}
ALWAYS_INLINE void fpu_pops(struct fpu *f, unsigned n)
{
    while (n--)
        fpu_pop(f);
}
ALWAYS_INLINE void fpu_push(struct fpu *f, struct float80 value)
{
    fpu_move_top(f, -1);
    fpu_put(f, 0, value);
}
ALWAYS_INLINE void fpu_set_codes(struct fpu *f, u16 codes)
{
    f->status = (u16)((f->status & ~(FPU_C0 | FPU_C1 | FPU_C2 | FPU_C3)) | codes);
}

ALWAYS_INLINE void fpu_set_c1(struct fpu *f, bool on)
{
    f->status = (u16)((f->status & ~FPU_C1) | (on ? FPU_C1 : 0));
}

/* MMX registers are the significands of the physical registers (SDM vol. 1, 9.6): all of them become valid with TOP 0,
 * and what is written gets an exponent of ones. offset is 16 times the register's number. */
ALWAYS_INLINE void mmx_enter(struct fpu *f)
{
    f->status &= (u16)~FPU_TOP;
    f->full = 0xFF;
}
ALWAYS_INLINE void mmx_put(struct fpu *f, unsigned offset, u64 value)
{
    mmx_enter(f);
    *(struct float80 *)((u8 *)f->st + offset) = (struct float80){value, 0xFFFF};
}

/* Take over what an operation raised; true: an unmasked exception forbids its result. C1 says which way it rounded. */
bool fpu_raise(struct fpu *f, const struct float_env *env);
/* A pending exception before a waiting instruction (SDM vol. 1, 8.7): #MF, or what the board is told. Returns an enum
 * status. */
int fpu_report(struct cpu *cpu);
/* Stack faults (SDM vol. 1, 8.5.1.1): true if the masked response, the indefinite NaN, is to be given. */
bool fpu_underflow(struct fpu *f);
bool fpu_overflow(struct fpu *f);
/* Any of ST(0) and ST(i) empty: true, with the underflow raised; *masked as fpu_underflow. */
bool fpu_missing(struct fpu *f, unsigned i, bool *masked);

/* FLD of everything: push with its checks. */
void fpu_load(struct fpu *f, struct float80 value);

/* fpu_memory.c: the operand in memory. False: cpu->fault is set. */
bool fpu_read(struct cpu *cpu, const struct op *op, void *buf, unsigned size);
bool fpu_write(struct cpu *cpu, const struct op *op, const void *buf, unsigned size);
bool fpu_writable(struct cpu *cpu, const struct op *op, unsigned size);

enum fpu_size { FPU_SINGLE, FPU_DOUBLE, FPU_EXTENDED, FPU_INT16, FPU_INT32, FPU_INT64, FPU_BCD };
#define FPU_POPS 0x10u          /* in arg: pop afterwards */
/* fpu_register.c, and what its arg means. */
enum fpu_arith { FPU_ADD, FPU_MUL, FPU_COM, FPU_COMP, FPU_SUB, FPU_SUBR, FPU_DIV, FPU_DIVR };   /* the reg field */
enum fpu_unary { FPU_CHS, FPU_ABS, FPU_SQRT, FPU_INTEGRAL };
#define FPU_TO_STI 0x08u            /* in arg: the result goes to ST(i) */
#define FPU_QUIETLY 0x08u           /* in arg: FUCOM */
#define FPU_IF_FULL 0x01u           /* in arg: the undocumented FSTP of D9 just pops an empty register */
#define FPU_NEGATED 0x04u           /* in arg, below it the condition: B, E, BE, U */
struct float80 fpu_arith(unsigned how, struct float80 a, struct float80 b, struct float_env *env);
/* FCOMI's ZF, PF and CF. */
u32 fpu_eflags(enum float_order order);
fpu_handler fpu_arith_m, fpu_arith_r, fpu_compare_r, fpu_compare_flags, fpu_ftst, fpu_fxam, fpu_unary, fpu_fscale,
    fpu_fxtract, fpu_fprem, fpu_fld_r, fpu_fst_r, fpu_fxch, fpu_fcmov, fpu_ffree, fpu_turn_stack, fpu_nop,
    fpu_fnclex, fpu_fninit, fpu_fnstsw_ax;
/* fpu_memory.c. */
fpu_handler fpu_fld_m, fpu_fst_m, fpu_fldcw, fpu_fnstcw, fpu_fnstsw_m, fpu_fldenv, fpu_fnstenv, fpu_frstor, fpu_fnsave;
/* A memory operand of arithmetic. */
bool fpu_operand(struct cpu *cpu, const struct op *op, unsigned size, struct float_env *env, struct float80 *ret);
/* fpu_math.c: the transcendental instructions and constants. */
enum fpu_math { FPU_YL2X, FPU_PATAN, FPU_YL2XP1, FPU_SIN, FPU_COS, FPU_SINCOS, FPU_TAN };
fpu_handler fpu_constant, fpu_2xm1, fpu_binary_math, fpu_sine, fpu_sine_push;

#endif
