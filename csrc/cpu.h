/*
 * cpu.h: the state of one i386 processor, plain data.
 *
 * Arithmetic flags are lazy (flags.h): inside a block they travel in handler
 * arguments, outside they are in cpu->fl; cpu->eflags never holds them.
 */
#ifndef PYK_CPU_H
#define PYK_CPU_H

#include "flags.h"
#include "fpu.h"
#include "model.h"
#include "sse.h"
#include "tunables.h"
#include "types.h"

enum gpr { EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI };
enum sreg { ES, CS, SS, DS, FS, GS, LDTR, TR, SREG_COUNT };

/* CR0, CR4 (SDM vol. 3, 2.5) */
#define CR0_PE 0x00000001u
#define CR0_MP 0x00000002u
#define CR0_EM 0x00000004u
#define CR0_TS 0x00000008u
#define CR0_ET 0x00000010u
#define CR0_NE 0x00000020u
#define CR0_WP 0x00010000u
#define CR0_AM 0x00040000u
#define CR0_NW 0x20000000u
#define CR0_CD 0x40000000u
#define CR0_PG 0x80000000u
#define CR4_TSD 0x00000004u
#define CR4_DE 0x00000008u
#define CR4_PSE 0x00000010u
#define CR4_PAE 0x00000020u
#define CR4_PGE 0x00000080u
#define CR4_PCE 0x00000100u
#define CR4_OSFXSR 0x00000200u
#define CR4_OSXMMEXCPT 0x00000400u

/* DR6, DR7 (SDM vol. 3, 17.2) */
#define DR6_FIXED 0xFFFF0FF0u
#define DR6_BREAKS 0x0000000Fu
#define DR6_BD 0x00002000u
#define DR6_BS 0x00004000u
#define DR6_BT 0x00008000u
#define DR7_FIXED 0x00000400u
#define DR7_ENABLES 0xFFu       /* L0 G0 ... L3 G3 */
#define DR7_GD 0x00002000u

/* Exception vectors (SDM vol. 3, table 6-1) */
enum vector {
    T_DIVIDE = 0, T_DEBUG = 1, T_NMI = 2, T_BRKPT = 3, T_OFLOW = 4, T_BOUND = 5, T_ILLOP = 6, T_DEVICE = 7,
    T_DBLFLT = 8, T_TSS = 10, T_SEGNP = 11, T_STACK = 12, T_GPFLT = 13, T_PGFLT = 14, T_FPERR = 16, T_ALIGN = 17, T_SIMD = 19
};

/* A segment register with its hidden part. attr has the layout of descriptor bits 40-55 with the limit
 * nibble cleared: type 0-3, S 4, DPL 5-6, P 7, AVL 12, D/B 14, G 15. limit is in bytes, G applied. */
struct segment {
    u32 base;
    u32 limit;
    u16 selector;
    u16 attr;
};
#define SEG_TYPE(attr) ((attr) & 0x0F)
#define SEG_DPL(attr) (((attr) >> 5) & 3)
#define SEG_S 0x0010u
#define SEG_P 0x0080u
#define SEG_DB 0x4000u
#define SEG_G 0x8000u

struct dtable {                 /* GDTR, IDTR */
    u32 base;
    u16 limit;
};

/* One entry serves the accesses for which (u32)(addr - tag) <= PAGE_SIZE - size. An invalid tag is a page
 * that cannot index this entry. A page whose stores somebody must see has no write tag. */
struct tlb_entry {
    u32 read_tag;               /* linear address of the page, or invalid */
    u32 write_tag;
    u8 *host;                   /* host address of the byte at linear address 0, i.e. page data - page address */
};
_Static_assert(sizeof(struct tlb_entry) == 16, "handlers index the TLB by shifts");

/* With alignment checks on, every access has to be looked at: the TLB in use is one that never holds anything. */
enum tlb_id { TLB_SUPERVISOR, TLB_USER, TLB_ALIGNED };

struct jump_entry {             /* indirect-branch cache */
    u64 key;                    /* mode << 32 | eip; ~0 when empty */
    const struct op *ops;
};

struct fetch_entry {            /* translation of a page that code was fetched from */
    u32 tag;                    /* linear page address | privilege (1 user) | 2; 0 when empty */
    u32 phys;                   /* physical page address */
    struct page *page;          /* NULL: no RAM there */
};

/* What decoded code depends on besides its bytes: part of every block's key. */
enum mode {
    MODE_CODE32 = 1 << 0,       /* CS.D */
    MODE_STACK32 = 1 << 1,      /* SS.B */
    MODE_FLAT = 1 << 2,         /* DS, ES and SS: base 0, limit 4 GiB, readable and writable */
    MODE_FLAT_CS = 1 << 3,      /* CS: base 0, limit 4 GiB */
    MODE_PROTECTED = 1 << 4,    /* CR0.PE and not virtual-8086 */
    MODE_V86 = 1 << 5,
    MODE_CPL3 = 1 << 6,         /* user privilege for pages */
    MODE_ONE = 1 << 7,          /* blocks of one instruction: single step, exact stops */
};

/* A pending exception; what a handler that faults leaves behind. */
struct fault {
    u8 vector;
    bool has_error;
    bool software;              /* int n, int3, into: gate DPL is checked, eip already behind it */
    u8 length;                  /* bytes that eip is behind int n, int3, into or int1: if delivery faults, it goes back */
    bool retired;               /* and that instruction is in the count: if delivery faults, it is taken out */
    bool probe;                 /* #BP of a probe's breakpoint, not of an INT 3 in the code */
    u8 stop;                    /* no exception: enum stop_reason with which the run ends before the instruction */
    u32 error_code;
    u32 address;                /* linear address for #PF: becomes CR2 at delivery */
};

/* A CPU stood at an address when so many instructions had retired there: one execution of the instruction. */
struct moment {
    bool set;
    u32 lin;
    u64 icount;
};

/* External interrupts that wait for a CPU: a ring of different vectors. */
struct irq_queue {
    u8 vector[256];
    u8 first;                   /* the oldest one's place */
    u32 count;
    u64 pending[4];             /* bitmap of them */
};

/* Why control came back from decoded code to the run loop. */
enum leave {
    LEAVE_LOOKUP,               /* go on at cpu->eip */
    LEAVE_FAULT,                /* cpu->fault is to be delivered, cpu->eip is what the frame shows */
    LEAVE_STOP,                 /* cpu->stop says why */
};

struct cpu {
    u32 gpr[8];                 /* first: handlers address registers by byte offset, AH is offset 1 */
    u32 zero;                   /* always 0: the base or index of operands that have none */
    u32 eip;                    /* valid outside blocks */
    s64 budget;                 /* instructions until the run loop must look; checked at block exits */
    struct tlb_entry *tlb;      /* the one of the current privilege */
    struct lazy_flags fl;       /* arithmetic flags, valid outside blocks */
    u32 eflags;                 /* the other flags: TF IF DF IOPL NT RF VM AC ID, bit 1 set */
    u32 eflags_defined;         /* the bits of eflags that this model has */
    u32 mode;                   /* enum mode bits; mode_update() keeps it */
    u8 leave;                   /* enum leave */
    u8 stop;                    /* enum stop_reason when leave is LEAVE_STOP */
    u8 cpl;                     /* current privilege level */
    u8 shadow;                  /* 1: no interrupt before the next instruction (sti, mov ss); 2: no #DB either */
    bool plain_hits;            /* an optimised hit needs no more checks, see kprobe_paths.c */
    bool inline_hit;            /* the trap being served is that of an optimised hit */
    bool step_over;             /* the next instruction runs alone, its probe having been seen */
    bool one;                   /* executing a MODE_ONE block */
    bool code_changed;          /* a store changed decoded code: leave the block after this instruction */
    bool halted;                /* in HLT */
    bool parked;                /* waits to be started, as after INIT */
    bool waits;                 /* spins until kprobe_lock is free */
    bool trapped;               /* it does so before cpu->fault is delivered */
    bool nmi_blocked;           /* from an NMI's delivery to the next IRET */
    bool code_breaks;           /* DR7 enables a code breakpoint: the run loop looks before each block */
    bool boosted;               /* a probed instruction runs alone now, without a step */
    u32 boosted_at;             /* its linear address */
    struct fault fault;
    u32 db_pending;             /* DR6 bits of data breakpoints hit by the current instruction */

    struct segment seg[SREG_COUNT];
    struct dtable gdtr, idtr;
    u32 cr0, cr2, cr3, cr4;
    u32 pdpte[4];               /* with PAE: the page-directory pointers that the last load of CR3 read */
    u32 dr[8];                  /* DR0-3, 6, 7 (4 and 5 unused) */
    u64 tsc_offset;             /* TSC = the machine's time + tsc_offset */
    u32 sysenter[3];            /* MSRs SYSENTER_CS, ESP, EIP */
    u64 pat;                    /* MSR PAT; memory has no types here, so that it is only kept */
    struct fpu fpu;
    struct sse sse;

    u64 icount;                 /* instructions retired up to the last entry of the block loop */
    s64 budget_start;           /* budget at that entry; retired now = icount + budget_start - budget */

    struct block_exit *exit_from; /* the exit that left the blocks for an address not yet linked, or NULL */
    u8 exit_taken;              /* which of its links */
    struct block *stale_from;   /* the stale block that was entered, or NULL */
    const struct op *next;      /* LOOP_DISPATCH: where to go on, NULL to leave */
    struct machine *machine;
    u32 index;                  /* its number */
    bool until_fresh;           /* it stood at the until address when that was set: the instruction has to run once */
    bool nmi;                   /* an NMI is pending */
    struct irq_queue irqs;
    u64 spins;                  /* turns in which it waited for kprobe_lock */
    bool clock_read;            /* the guest has looked at the time-stamp counter */
    struct moment watch_passed; /* this execution has been told to those who watch it */
    struct moment probe_resume; /* a run stopped at this hit's probe point: going on there is the same hit */
    struct moment probe_missed; /* counted already */
    const struct cpu_model *model;
    u32 cross_count;
    struct block_exit **cross;  /* exits linked into another page: undone by a TLB flush */
    struct block **blocks;      /* BLOCK_HASH_SIZE buckets by physical address */
    struct jump_entry jump[JUMP_CACHE_SIZE];
    struct fetch_entry fetch[FETCH_TLB_SIZE];
    struct tlb_entry tlbs[3][TLB_SIZE]; /* enum tlb_id */
    u32 grants;                 /* how many entries were given write tags; beyond TLB_GRANTS granted is not complete */
    u16 granted[TLB_GRANTS];    /* which: indices into both TLBs as one array */
};
_Static_assert(offsetof(struct cpu, gpr) == 0, "register byte offsets start at the structure");

#define REG32(cpu, off) (*(u32 *)((u8 *)(cpu) + (off)))
#define REG16(cpu, off) (*(u16 *)((u8 *)(cpu) + (off)))
#define REG8(cpu, off) (*((u8 *)(cpu) + (off)))
#define ZERO_REG ((u8)offsetof(struct cpu, zero))

/* Instructions retired so far, exact at every fault, callout and stop (not inside hot handlers). */
ALWAYS_INLINE u64 cpu_icount(const struct cpu *cpu)
{
    return cpu->icount + (u64)(cpu->budget_start - cpu->budget);
}

/* All 32 bits as PUSHF would see them, RF and VM included; and the reverse (no privilege filter). */
ALWAYS_INLINE u32 cpu_eflags(const struct cpu *cpu)
{
    return cpu->eflags | flags_get(cpu->fl.res, cpu->fl.a, cpu->fl.kind);
}
ALWAYS_INLINE void cpu_set_eflags(struct cpu *cpu, u32 v)
{
    cpu->eflags = (v & cpu->eflags_defined) | EFLAGS_FIXED;
    cpu->fl = flags_set(v);
}

/* Raise a fault from a callout: fills cpu->fault and is the callout's return value (STATUS_FAULT, see op.h). */
int cpu_fault(struct cpu *cpu, enum vector vector);                    /* no error code */
int cpu_fault_code(struct cpu *cpu, enum vector vector, u32 error_code);
/* The same for something that ends the run with nothing of the instruction done: delivery then returns STATUS_STOP. */
int cpu_fault_stop(struct cpu *cpu, int stop_reason);
/* Stop the machine at the current instruction, e.g. UNIMPLEMENTED. Returns STATUS_STOP. */
int cpu_stop(struct cpu *cpu, int stop_reason);

/* The state after RESET (SDM vol. 3, table 9-1); links to the machine and the instruction count stay. */
void cpu_reset(struct cpu *cpu);
/* MOV CRn with the register's own rules; n is 0, 2, 3 or 4. False: #GP(0), nothing changed. */
bool cpu_write_control(struct cpu *cpu, unsigned n, u32 value);
/* MOV DRn without privilege checks; n is 0-3, 6 or 7. */
void cpu_write_debug(struct cpu *cpu, unsigned n, u32 value);

/* Recompute cpu->mode, cpu->cpl's TLB from segments, CR0 and EFLAGS. Call after any change of those. */
void mode_update(struct cpu *cpu);

#endif
