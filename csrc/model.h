/* model.h: the processors that a machine can be, and what each of them has. */
#ifndef PYK_MODEL_H
#define PYK_MODEL_H

#include "types.h"

/* Bits of CPUID leaf 1 in EDX (SDM vol. 2, CPUID, table 3-11); those that CPUID keeps reserved stand here for what it
 * does not tell. */
enum feature {
    FEATURE_FPU = 1 << 0,
    FEATURE_DE = 1 << 2,
    FEATURE_PSE = 1 << 3,
    FEATURE_TSC = 1 << 4,
    FEATURE_MSR = 1 << 5,
    FEATURE_PAE = 1 << 6,
    FEATURE_CX8 = 1 << 8,
    FEATURE_486 = 1 << 10,          /* BSWAP, XADD, CMPXCHG, INVLPG, INVD, WBINVD; CR0.NE, WP, AM, NW, CD; EFLAGS.AC */
    FEATURE_SEP = 1 << 11,
    FEATURE_PGE = 1 << 13,
    FEATURE_CMOV = 1 << 15,         /* FCMOV and FCOMI, too */
    FEATURE_PAT = 1 << 16,
    FEATURE_CLFSH = 1 << 19,
    FEATURE_CPUID = 1 << 20,        /* CPUID, EFLAGS.ID, CR4 */
    FEATURE_MMX = 1 << 23,
    FEATURE_FXSR = 1 << 24,
    FEATURE_SSE = 1 << 25,
    FEATURE_SSE2 = 1 << 26,
    FEATURE_P6 = 1 << 30,           /* RDPMC, CR4.PCE; the NOPs with an operand */
};
#define FEATURES_UNTOLD (FEATURE_486 | FEATURE_CPUID | FEATURE_P6)

struct cpu_model {
    u32 signature;                  /* EDX after reset, EAX of CPUID leaf 1 */
    u32 features;                   /* enum feature */
    u32 max_leaf;                   /* of CPUID */
    u32 caches[4];                  /* CPUID leaf 2: EAX ECX EDX EBX, the order of enum gpr */
    u32 flush_line;                 /* EBX of CPUID leaf 1: the line that CLFLUSH flushes, in units of 8 bytes, in 8-15 */
    u32 mxcsr;                      /* bits of MXCSR that exist */
    u32 cr0, cr4, eflags;           /* bits that can be set; CR4 0: there is no such register */
};

extern const struct cpu_model cpu_models[];     /* by enum cpu_kind */

#endif
