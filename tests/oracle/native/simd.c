/*
 * simd.c: csrc/float_simd*.c against this CPU's own SSE instructions, bit for
 * bit: result, MXCSR's flags, and whether an unmasked exception trapped.
 *
 *     simd NAME SEED COUNT
 *
 * runs every pair of edge values under every rounding mode, DAZ and FTZ, then
 * COUNT random cases with random masks. The first few differences are printed.
 */
#define _GNU_SOURCE
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "flags.h"
#include "float_core.h"
#include "float_simd.h"

/* --- the CPU ---------------------------------------------------------------------------------------------- */

struct state {
    union lanes d, s;           /* 0, 16: XMM0 and XMM1 */
    u64 mmx;                    /* 32: MM0 afterwards; MM1 is s.q[0] */
    u32 eax;                    /* 40: afterwards; ECX is s.d[0] */
    u32 mxcsr;                  /* 44: before and after */
};
void invoke(void (*stub)(void), struct state *state);

__asm__(
    "invoke:\n"
    "    push %rbx\n"
    "    mov %rsi, %rbx\n"
    "    movups (%rbx), %xmm0\n"
    "    movups 16(%rbx), %xmm1\n"
    "    movq 16(%rbx), %mm1\n"
    "    pxor %mm0, %mm0\n"
    "    mov 16(%rbx), %ecx\n"
    "    ldmxcsr 44(%rbx)\n"
    "    call *%rdi\n"
    "    stmxcsr 44(%rbx)\n"
    "    movups %xmm0, (%rbx)\n"
    "    movq %mm0, 32(%rbx)\n"
    "    mov %eax, 40(%rbx)\n"
    "    emms\n"
    "    pushq $0x1F80\n"
    "    ldmxcsr (%rsp)\n"
    "    pop %rbx\n"
    "    pop %rbx\n"
    "    ret\n");

static volatile bool trapped;

/* Ends the stub as its RET would. */
static void on_fpe(int number, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)number, (void)info;
    trapped = true;
    memcpy(&regs[REG_RIP], (void *)regs[REG_RSP], 8);
    regs[REG_RSP] += 8;
}

/* --- instructions ----------------------------------------------------------------------------------------- */

enum result { RESULT_XMM, RESULT_MMX, RESULT_EAX, RESULT_EFLAGS, RESULT_APPROXIMATE };
enum operand { OPERAND_SINGLE, OPERAND_DOUBLE, OPERAND_INT };

struct instruction {
    const char *name;
    void (*stub)(void);
    sse_float *ours;
    u8 imm;
    u8 operand;                 /* enum operand */
    u8 result;                  /* enum result */
};

#define XMM(X, type, name) X(name, name, #name " %xmm1, %xmm0", 0, type, RESULT_XMM)
#define CMP(X, type, name, n) X(name##n, name, #name " $" #n ", %xmm1, %xmm0", n, type, RESULT_XMM)
#define CMPS(X, type, name) \
    CMP(X, type, name, 0) CMP(X, type, name, 1) CMP(X, type, name, 2) CMP(X, type, name, 3) \
    CMP(X, type, name, 4) CMP(X, type, name, 5) CMP(X, type, name, 6) CMP(X, type, name, 7)
#define COMIS(X, type, name) X(name, name, #name " %xmm1, %xmm0; pushfq; pop %rax", 0, type, RESULT_EFLAGS)
#define TO_EAX(X, type, name) X(name, name, #name " %xmm1, %eax", 0, type, RESULT_EAX)
#define TO_MMX(X, type, name) X(name, name, #name " %xmm1, %mm0", 0, type, RESULT_MMX)
#define FOUR(X, name) \
    XMM(X, OPERAND_SINGLE, name##ps) XMM(X, OPERAND_SINGLE, name##ss) \
    XMM(X, OPERAND_DOUBLE, name##pd) XMM(X, OPERAND_DOUBLE, name##sd)
#define APPROXIMATE(X, name) X(name, name, #name " %xmm1, %xmm0", 0, OPERAND_SINGLE, RESULT_APPROXIMATE)

#define INSTRUCTIONS(X) \
    FOUR(X, add) FOUR(X, sub) FOUR(X, mul) FOUR(X, div) FOUR(X, sqrt) FOUR(X, min) FOUR(X, max) \
    CMPS(X, OPERAND_SINGLE, cmpps) CMPS(X, OPERAND_SINGLE, cmpss) \
    CMPS(X, OPERAND_DOUBLE, cmppd) CMPS(X, OPERAND_DOUBLE, cmpsd) \
    COMIS(X, OPERAND_SINGLE, comiss) COMIS(X, OPERAND_SINGLE, ucomiss) \
    COMIS(X, OPERAND_DOUBLE, comisd) COMIS(X, OPERAND_DOUBLE, ucomisd) \
    TO_EAX(X, OPERAND_SINGLE, cvtss2si) TO_EAX(X, OPERAND_SINGLE, cvttss2si) \
    TO_EAX(X, OPERAND_DOUBLE, cvtsd2si) TO_EAX(X, OPERAND_DOUBLE, cvttsd2si) \
    TO_MMX(X, OPERAND_SINGLE, cvtps2pi) TO_MMX(X, OPERAND_SINGLE, cvttps2pi) \
    TO_MMX(X, OPERAND_DOUBLE, cvtpd2pi) TO_MMX(X, OPERAND_DOUBLE, cvttpd2pi) \
    XMM(X, OPERAND_SINGLE, cvtps2dq) XMM(X, OPERAND_SINGLE, cvttps2dq) \
    XMM(X, OPERAND_DOUBLE, cvtpd2dq) XMM(X, OPERAND_DOUBLE, cvttpd2dq) \
    XMM(X, OPERAND_INT, cvtdq2ps) XMM(X, OPERAND_INT, cvtdq2pd) \
    X(cvtsi2ss, cvtsi2ss, "cvtsi2ssl %ecx, %xmm0", 0, OPERAND_INT, RESULT_XMM) \
    X(cvtsi2sd, cvtsi2sd, "cvtsi2sdl %ecx, %xmm0", 0, OPERAND_INT, RESULT_XMM) \
    X(cvtpi2ps, cvtpi2ps, "cvtpi2ps %mm1, %xmm0", 0, OPERAND_INT, RESULT_XMM) \
    X(cvtpi2pd, cvtpi2pd, "cvtpi2pd %mm1, %xmm0", 0, OPERAND_INT, RESULT_XMM) \
    XMM(X, OPERAND_SINGLE, cvtss2sd) XMM(X, OPERAND_DOUBLE, cvtsd2ss) \
    XMM(X, OPERAND_SINGLE, cvtps2pd) XMM(X, OPERAND_DOUBLE, cvtpd2ps) \
    APPROXIMATE(X, rcpps) APPROXIMATE(X, rcpss) APPROXIMATE(X, rsqrtps) APPROXIMATE(X, rsqrtss)

#define STUB(name, ours, text, imm, operand, result) \
    void stub_##name(void); \
    __asm__("stub_" #name ": " text "; ret\n");
INSTRUCTIONS(STUB)
#define ROW(name, ours, text, imm, operand, result) {#name, stub_##name, float_##ours, imm, operand, result},
static const struct instruction instructions[] = {INSTRUCTIONS(ROW)};
#define COUNT_OF(a) (sizeof(a) / sizeof *(a))

/* --- operands --------------------------------------------------------------------------------------------- */

static const u32 singles[] = {
    0, 1, 2, 0x3FFFFF, 0x400000, 0x7FFFFE, 0x7FFFFF, 0x800000, 0x800001, 0xFFFFFF, 0x1000000, 0x0C000000, 0x33800000,
    0x33800001, 0x34000000, 0x3EFFFFFF, 0x3F000000, 0x3F000001, 0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3FC00000,
    0x40000000, 0x40200000, 0x40490FDB, 0x4AFFFFFF, 0x4B000001, 0x4EFFFFFF, 0x4F000000, 0x4F000001, 0x5F000000,
    0x7E7FFFFF, 0x7E800000, 0x7EFF0000, 0x7EFFA000, 0x7EFFFFFF, 0x7F000000, 0x7F000C01, 0x7F7FFFFE, 0x7F7FFFFF,
    0x7F800000, 0x7F800001, 0x7FA55555, 0x7FBFFFFF, 0x7FC00000, 0x7FC00001, 0x7FFFFFFF,
};
static const u64 doubles[] = {
    0, 1, 2, 0x7FFFFFFFFFFFF, 0x8000000000000, 0xFFFFFFFFFFFFE, 0xFFFFFFFFFFFFF, 0x10000000000000, 0x10000000000001,
    0x1FFFFFFFFFFFFF, 0x20000000000000, 0x3690000000000000, 0x369FFFFFFFFFFFFF, 0x36A0000000000000, 0x36A8000000000000,
    0x380FFFFFC0000000, 0x380FFFFFE0000000, 0x380FFFFFF0000000, 0x3810000000000000, 0x3CA0000000000000,
    0x3CA0000000000001, 0x3CB0000000000000, 0x3FDFFFFFFFFFFFFF, 0x3FE0000000000000, 0x3FE0000000000001,
    0x3FEFFFFFFFFFFFFF, 0x3FF0000000000000, 0x3FF0000000000001, 0x3FF0000010000000, 0x3FF0000030000000,
    0x3FF8000000000000, 0x4000000000000000, 0x4004000000000000, 0x400921FB54442D18, 0x41DFFFFFFFC00000,
    0x41DFFFFFFFDFFFFF, 0x41DFFFFFFFE00000, 0x41E0000000000000, 0x41E0000000100000, 0x41E0000000200000,
    0x4330000000000001, 0x43E0000000000000, 0x47EFFFFFE0000000, 0x47EFFFFFEFFFFFFF, 0x47EFFFFFF0000000,
    0x47F0000000000000, 0x7FDFFFFFFFFFFFFF, 0x7FE0000000000000, 0x7FEFFFFFFFFFFFFE, 0x7FEFFFFFFFFFFFFF,
    0x7FF0000000000000, 0x7FF0000000000001, 0x7FF5555555555555, 0x7FF7FFFFFFFFFFFF, 0x7FF8000000000000,
    0x7FF8000000000001, 0x7FFFFFFFFFFFFFFF,
};
static const u32 ints[] = {
    0, 1, 2, 0x7FFFFF, 0x800000, 0xFFFFFF, 0x1000000, 0x1000001, 0x1000002, 0x1000003, 0x1FFFFFF, 0x2000002, 0x2000006,
    0x3FFFFFFF, 0x40000000, 0x7FFFFFBF, 0x7FFFFFC0, 0x7FFFFFFF,
};

static u64 seed;

/* SplitMix64. */
static u64 noise(void)
{
    u64 z = seed += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

static unsigned values(unsigned operand)
{
    return 2 * (unsigned)(operand == OPERAND_SINGLE ? COUNT_OF(singles) : operand == OPERAND_DOUBLE ? COUNT_OF(doubles) :
                          COUNT_OF(ints));
}

static u64 value(unsigned operand, unsigned i)
{
    u64 sign = i & 1;
    i >>= 1;
    if (operand == OPERAND_SINGLE)
        return singles[i] | sign << 31;
    if (operand == OPERAND_DOUBLE)
        return doubles[i] | sign << 63;
    return sign ? -ints[i] : ints[i];
}

static void put(union lanes *lanes, unsigned operand, unsigned i, u64 v)
{
    if (operand == OPERAND_DOUBLE)
        lanes->q[i & 1] = v;
    else
        lanes->d[i & 3] = (u32)v;
}

/* An edge value, any bits, or an exponent about one with a significand of few bits or long runs. */
static u64 random_value(unsigned operand)
{
    unsigned frac = operand == OPERAND_DOUBLE ? 52 : 23, bias = operand == OPERAND_DOUBLE ? 1023 : 127;
    u64 how = noise() % 8, mant = noise();
    if (how == 0)
        return value(operand, noise() % values(operand));
    if (how == 1 || operand == OPERAND_INT)
        return operand == OPERAND_INT ? (u64)(s64)((s32)noise() >> noise() % 32) : noise();
    if (how < 4)
        mant = 1ull << noise() % 64 | 1ull << noise() % 64;
    else if (how == 4)
        mant = (1ull << noise() % 64) - (1ull << noise() % 64);
    u64 exponent = how == 5 ? noise() % (2 * bias + 2) : how == 6 ? noise() % (2 * frac) : bias - frac + noise() % (2 * frac);
    return (mant & ((1ull << frac) - 1)) | exponent << frac | noise() % 2 << (operand == OPERAND_DOUBLE ? 63 : 31);
}

/* --- comparison ------------------------------------------------------------------------------------------- */

static unsigned long differing;

/* Within 1.5 * 2^-12 of the exact result, or zero where that may be tiny (SDM vol. 2, RCPPS, RSQRTPS). */
static bool near(u32 result, float x, double exact)
{
    float f;
    memcpy(&f, &result, 4);
    if (f == 0 && fabsf(x) > 0x1.FFDp125f)
        return !signbit(f) == !signbit(exact);
    return fabs((double)f / exact - 1) <= 1.5 * 0x1p-12;
}

static bool approximates(const char *name, u32 source, u32 ours, u32 theirs)
{
    bool root = name[1] == 's';
    float x;
    memcpy(&x, &source, 4);
    if (ours == theirs)
        return true;
    if (!isnormal(x) || (root && x < 0))
        return false;
    double exact = root ? 1 / sqrt((double)x) : 1 / (double)x;
    return near(ours, x, exact) && near(theirs, x, exact);
}

static bool same(const struct instruction *in, const struct state *before, const union lanes *ours,
                 const struct state *cpu)
{
    switch (in->result) {
    case RESULT_XMM:
        return !memcmp(ours, &cpu->d, 16);
    case RESULT_MMX:
        return ours->q[0] == cpu->mmx;
    case RESULT_EAX:
        return ours->d[0] == cpu->eax;
    case RESULT_EFLAGS:
        return ours->d[0] == (cpu->eax & (EFLAGS_CF | EFLAGS_PF | EFLAGS_AF | EFLAGS_ZF | EFLAGS_SF | EFLAGS_OF));
    }
    for (int i = 0; i < 4; i++) {
        bool touched = i == 0 || in->name[strlen(in->name) - 2] == 'p';
        if (touched ? !approximates(in->name, before->s.d[i], ours->d[i], cpu->d.d[i]) : ours->d[i] != cpu->d.d[i])
            return false;
    }
    return true;
}

static void compare(const struct instruction *in, const union lanes *d, const union lanes *s, u32 mxcsr)
{
    struct state before = {.d = *d, .s = *s, .mxcsr = mxcsr}, cpu = before;
    union lanes ours = *d;
    trapped = false;
    invoke(in->stub, &cpu);
    unsigned raised = in->ours(&ours, s, in->imm, mxcsr), flags = cpu.mxcsr & MXCSR_FLAGS;
    bool traps = raised & ~MXCSR_MASKS(mxcsr);
    if (raised == flags && traps == trapped && (traps || same(in, &before, &ours, &cpu)))
        return;
    if (differing++ < 5)
        printf("%s mxcsr %04x d %016llx%016llx s %016llx%016llx: %016llx%016llx flags %02x%s, CPU %016llx%016llx mmx %016llx "
               "eax %08x flags %02x%s\n", in->name, mxcsr, (unsigned long long)d->q[1], (unsigned long long)d->q[0],
               (unsigned long long)s->q[1], (unsigned long long)s->q[0], (unsigned long long)ours.q[1],
               (unsigned long long)ours.q[0], raised, traps ? " trap" : "", (unsigned long long)cpu.d.q[1],
               (unsigned long long)cpu.d.q[0], (unsigned long long)cpu.mmx, cpu.eax, flags, trapped ? " trap" : "");
}

static u32 control(unsigned round, bool daz, bool ftz, unsigned masks)
{
    return round << 13 | (daz ? MXCSR_DAZ : 0) | (ftz ? MXCSR_FTZ : 0) | masks << 7;
}

static void edges(const struct instruction *in)
{
    unsigned n = values(in->operand), lane = 0;
    union lanes d = {{0x3F8000003F800000, 0x3FF0000000000000}}, s = d;
    for (unsigned i = 0; i < n; i++)
        for (unsigned j = 0; j < n; j++)
            for (unsigned mode = 0; mode < 16; mode++, lane++) {
                /* Scalars see every pair in their lane; of packed elements each takes its turn. */
                unsigned at = strchr(in->name, 'p') ? lane / 16 : 0;
                put(&d, in->operand, at, value(in->operand, i));
                put(&s, in->operand, at, value(in->operand, j));
                compare(in, &d, &s, control(mode & 3, mode & 4, mode & 8, 0x3F));
            }
}

static void random_cases(const struct instruction *in, unsigned long count)
{
    for (unsigned long k = 0; k < count; k++) {
        union lanes d, s;
        for (unsigned i = 0; i < 4; i++) {
            put(&d, in->operand, i, random_value(in->operand));
            put(&s, in->operand, i, random_value(in->operand));
        }
        /* A trap takes a signal: one case in eight may have one. */
        unsigned masks = noise() % 8 ? 0x3F : noise() % 2 ? 0x3F ^ 1u << noise() % 6 : noise() & 0x3F;
        compare(in, &d, &s, control(noise() & 3, noise() & 1, noise() & 1, masks));
    }
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO};
    sigaction(SIGFPE, &action, NULL);
    if (argc == 1)
        for (unsigned i = 0; i < COUNT_OF(instructions); i++)
            puts(instructions[i].name);
    if (argc != 4)
        return argc != 1;
    for (unsigned i = 0; i < COUNT_OF(instructions); i++)
        if (!strcmp(argv[1], instructions[i].name)) {
            seed = strtoull(argv[2], NULL, 10);
            edges(&instructions[i]);
            random_cases(&instructions[i], strtoul(argv[3], NULL, 10));
            printf("%lu differ\n", differing);
            return differing != 0;
        }
    return 2;
}
