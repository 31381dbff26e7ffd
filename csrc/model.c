/* model.c: one row for each processor. */
#include "model.h"

#include "api.h"
#include "cpu.h"

#define FEATURES_486 (FEATURE_FPU | FEATURE_486)
#define FEATURES_PENTIUM (FEATURES_486 | FEATURE_CPUID | FEATURE_DE | FEATURE_PSE | FEATURE_TSC | FEATURE_MSR | FEATURE_CX8)
#define FEATURES_PPRO (FEATURES_PENTIUM | FEATURE_P6 | FEATURE_PAE | FEATURE_PGE | FEATURE_CMOV)
#define FEATURES_P3 (FEATURES_PPRO | FEATURE_SEP | FEATURE_PAT | FEATURE_MMX | FEATURE_FXSR | FEATURE_SSE)
#define FEATURES_P4 (FEATURES_P3 | FEATURE_CLFSH | FEATURE_SSE2)

#define CR0_386 (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_PG)
#define CR0_486 (CR0_386 | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD)
#define CR4_PENTIUM (CR4_TSD | CR4_DE | CR4_PSE)
#define CR4_PPRO (CR4_PENTIUM | CR4_PAE | CR4_PGE | CR4_PCE)
#define CR4_P3 (CR4_PPRO | CR4_OSFXSR | CR4_OSXMMEXCPT)
#define EFLAGS_386 (EFLAGS_ARITH | EFLAGS_TF | EFLAGS_IF | EFLAGS_DF | EFLAGS_IOPL | EFLAGS_NT | EFLAGS_RF | EFLAGS_VM)
#define EFLAGS_486 (EFLAGS_386 | EFLAGS_AC)
#define EFLAGS_PENTIUM (EFLAGS_486 | EFLAGS_ID)

/* The 486 is one of before 1993, without CPUID and CR4. The Pentium Pro had SYSENTER in no working state. */
const struct cpu_model cpu_models[] = {
    [CPU_386] = {.signature = 0x0308, .features = FEATURE_FPU, .cr0 = CR0_386, .eflags = EFLAGS_386},
    [CPU_486] = {.signature = 0x0404, .features = FEATURES_486, .cr0 = CR0_486, .eflags = EFLAGS_486},
    [CPU_PENTIUM] = {.signature = 0x0525, .features = FEATURES_PENTIUM, .max_leaf = 1,
                     .cr0 = CR0_486, .cr4 = CR4_PENTIUM, .eflags = EFLAGS_PENTIUM},
    [CPU_PPRO] = {.signature = 0x0619, .features = FEATURES_PPRO, .max_leaf = 2, .caches = {0x03020101, 0, 0x06040A42},
                  .cr0 = CR0_486, .cr4 = CR4_PPRO, .eflags = EFLAGS_PENTIUM},
    [CPU_P3] = {.signature = 0x0673, .features = FEATURES_P3, .max_leaf = 2, .caches = {0x03020101, 0, 0x0C040843},
                .mxcsr = 0xFFBF, .cr0 = CR0_486, .cr4 = CR4_P3, .eflags = EFLAGS_PENTIUM},
    [CPU_P4] = {.signature = 0x0F24, .features = FEATURES_P4, .max_leaf = 2, .caches = {0x665B5001, 0, 0x007B7040},
                .flush_line = 8 << 8, .mxcsr = 0xFFFF, .cr0 = CR0_486, .cr4 = CR4_P3, .eflags = EFLAGS_PENTIUM},
};
