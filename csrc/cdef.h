/* cdef.h: everything Python may see. cffi parses it, C includes it through api.h. */

typedef struct machine machine;

/* Why a run ended. Order and names are pykprobes.StopReason's. */
enum stop_reason {
    STOP_NONE,          /* the slice is used up: call machine_run again */
    STOP_UNTIL,         /* eip reached the until address, or a call returned */
    STOP_LIMIT,         /* max_instructions retired */
    STOP_TRAP,          /* an exception or int n that nothing claimed */
    STOP_HALT,          /* HLT with nothing to wake it */
    STOP_STOPPED,       /* a handler or a Stop action asked for it */
    STOP_SHUTDOWN,      /* triple fault */
    STOP_RESET,         /* the guest reset the machine */
    STOP_UNIMPLEMENTED, /* an instruction or mode not done yet; bytes name it */
    STOP_PYTHON,        /* a Python handler raised: the exception is raised from run */
    STOP_MEMORY,        /* the host is out of memory */
    STOP_LOOP,          /* the 2.5.26 probe code would loop forever: a probe on a breakpoint of the program's own */
    STOP_DEVICE,        /* the next instruction lies in a page with a memory-mapped device */
    STOP_PARKED,        /* every CPU is parked: what was started has returned */
    STOP_DEADLOCK       /* no CPU can go on, and some wait for kprobe_lock */
};

struct stop_info {
    int32_t reason;             /* enum stop_reason */
    int32_t vector;             /* TRAP: exception vector; SHUTDOWN: the last one; else -1 */
    uint32_t error_code;
    uint32_t address;           /* CR2 of a page fault */
    uint32_t eip;
    uint64_t icount;            /* retired instructions */
    uint8_t bytes[16];          /* UNIMPLEMENTED: the instruction */
    uint8_t nbytes;
    uint32_t cpu;               /* the CPU that ended the run */
};

/* The kernel's frame, on the guest's stack while a handler runs (seed: asm-i386/ptrace.h layout). */
struct pt_regs {
    uint32_t ebx, ecx, edx, esi, edi, ebp, eax, ds, es, orig_eax, eip, cs, eflags, esp, ss;
};

/* What the handler that is running sees: a copy of the frame, written back where it changed. */
struct frame {
    struct pt_regs regs;
    uint32_t address;           /* linear address of the frame; of the esp slot: address + 52 */
    uint32_t sp;                /* the interrupted stack pointer, whatever the esp slot means */
};

/* Calls into Python: int callback(tag, kind, index, arg). The return value's meaning depends on kind;
 * CALLBACK_RAISED means a Python exception is kept for run to raise. */
enum callback_kind {
    CALLBACK_PRE,               /* index: probe id */
    CALLBACK_POST,              /* arg: flags, always 0 in the patch */
    CALLBACK_FAULT,             /* arg: trapnr; returns 1 when handled */
    CALLBACK_TRAP,              /* index: vector; returns 1 when served */
    CALLBACK_IMPORT,            /* index: import number; the function was called */
    CALLBACK_DEVICE,            /* index: id of the claim; what is asked, and the answer, in machine_access */
    CALLBACK_WATCH,             /* index: id of the watch; what happened, in machine_watch_event */
    CALLBACK_RETURN,            /* index: id of the return probe; arg: number of the instance, see kretprobe_returning */
    CALLBACK_INTR               /* the CPU acknowledges INTR; the vector in machine_access, done 0 if there is none */
};
/* CALLBACK_SPIN, of an import: the function waits for kprobe_lock, and is called again when that is free. */
enum { CALLBACK_RAISED = -1, CALLBACK_SPIN = -2 };

/* Hits go through both traps; through the first; as an op of decoded code, without a trap. */
enum kprobe_path { PATH_TRAP, PATH_BOOSTED, PATH_OPTIMIZED };
enum kprobes_mode { KPROBES_OFF, KPROBES_2_5_26, KPROBES_FIXED };
enum kernel_kind { KERNEL_NONE, KERNEL_BUILTIN };
enum cpu_kind { CPU_386, CPU_486, CPU_PENTIUM, CPU_PPRO, CPU_P3, CPU_P4 };

struct machine_config {
    uint32_t memory_pages;      /* RAM from physical 0 */
    uint32_t cpus;              /* 1 to CPUS_MAX; 0 is 1 */
    int32_t kernel;             /* enum kernel_kind */
    int32_t kprobes;            /* enum kprobes_mode */
    int32_t optimize;           /* the fastest enum kprobe_path that probes may have */
    int32_t cpu;                /* enum cpu_kind */
    uint64_t board_hz;          /* a PC's board around the CPU: instructions in a second of its time; 0: no board */
    int64_t board_seconds;      /* what its clock says at the start, since 1970 */
    uint32_t tag;               /* given back in every callback */
    int (*callback)(uint32_t tag, int kind, int index, uint32_t arg);
    void (*pre)(uint32_t tag, int index);   /* CALLBACK_PRE: fewer arguments and no result make it a sixth faster */
};

machine *machine_create(const struct machine_config *config);
void machine_destroy(machine *m);

/* Run up to slice instructions (at least 1) and say why it stopped; STOP_NONE: all of the slice was used. */
int machine_run(machine *m, uint64_t slice);
const struct stop_info *machine_stop_info(machine *m);
void machine_set_until(machine *m, int set, uint32_t eip);
uint64_t machine_icount(machine *m);
/* Registers and memory are those of one CPU: of the one that executes, outside of runs the one that ended the last.
 * Make them another's; what is returned gives them back. */
enum { CPUS_MAX = 32 };     /* TSS descriptors and stacks that the built-in kernel side has room for */
int machine_focus(machine *m, int cpu);
int machine_current(machine *m);
struct cpu_info {
    uint64_t icount;            /* instructions it has retired */
    uint64_t spins;             /* turns in which it waited for kprobe_lock */
    int32_t halted;             /* in HLT */
    int32_t parked;             /* not started, or returned; setting its eip starts it */
    int32_t waits_for;          /* the CPU that holds the lock which it waits for, or -1 */
};
void machine_cpu_info(machine *m, int cpu, struct cpu_info *ret);
void machine_park(machine *m, int cpu);
/* Who executes when. A turn of steps: retired instructions, deliveries of exceptions and interrupts, entry points of
 * the built-in kernel side. CPUs that cannot go on are passed over. */
enum schedule_kind {
    SCHEDULE_QUANTUM,           /* CPUs in order, turns of value steps */
    SCHEDULE_SEED,              /* a sequence of CPUs and turns that depends on the seed, value */
    SCHEDULE_LIST               /* as listed; then each CPU until it cannot go on, in order */
};
struct schedule_turn {
    uint32_t cpu;
    uint64_t steps;             /* at least 1 */
};
/* 0, -1: out of memory. */
int machine_set_schedule(machine *m, int kind, uint64_t value, const struct schedule_turn *list, uint32_t count);
/* Note the next steps, up to room, in memory that the caller lends until room is 0. */
struct schedule_step {
    uint32_t address;           /* linear, of what is executed */
    uint32_t runnable;          /* bit n: CPU n could have made the step */
    uint32_t cpu;               /* which made it */
    uint32_t steps;             /* 1, or 2: an instruction and the delivery of the interrupt that it asks for */
    uint32_t fresh;             /* the CPU before could not go on */
};
void machine_trace_schedule(machine *m, struct schedule_step *steps, uint32_t room);
uint32_t machine_schedule_traced(machine *m);
/* Ask for an external interrupt before the next instruction that can take one, in the order of the calls. -1 if the
 * vector is pending already. */
int machine_interrupt(machine *m, int cpu, uint8_t vector);
/* The INTR pin's level, and whether CALLBACK_INTR gives vectors for it. */
void machine_set_intr(machine *m, int level, int served);
/* A non-maskable interrupt; one is kept while an NMI's handler runs, more are lost. */
void machine_nmi(machine *m, int cpu);
/* A tick of vector every period instructions; period 0: off. */
void machine_set_timer(machine *m, uint8_t vector, uint64_t period);
/* A nested run keeps the interrupted one's whole CPU state: begin, set registers, run, end. -1: too deep. */
int machine_nest_begin(machine *m);
void machine_nest_end(machine *m);

/* Snapshots: the state of a machine between two instructions. They never change, belong to no machine, and may be used
 * by several threads. Not from handlers. NULL: out of host memory. */
typedef struct snapshot snapshot;
snapshot *machine_snapshot(machine *m);
void snapshot_destroy(snapshot *s);
/* Memory, CPU, kernel side, pending interrupts, timer; and with hits, the hits that were running: without, none is, so
 * that probes can be registered. The machine must have been made with the same configuration. 0; -1: the probe of a hit
 * is not registered (all else is restored, and no hit runs); -2: out of host memory (only memory is restored). */
int machine_restore(machine *m, const snapshot *s, int hits);
/* A machine in the state of a snapshot. It shares its memory, and has none of its probes: their bytes are put back. */
machine *machine_clone(const snapshot *s, const struct machine_config *config);
/* After machine_restore: put back the bytes of the snapshot's probes that are not registered here. */
void machine_withdraw_probes(machine *m, const snapshot *s);
/* The i-th probe that was registered: the byte it replaced. The i-th hit that was running: 0. Else -1. */
int snapshot_probe(const snapshot *s, uint32_t i, uint32_t *ret_addr);
int snapshot_hit(const snapshot *s, uint32_t i, uint32_t *ret_addr);

/* What is in it. A page's flags: */
enum { SNAPSHOT_ROM = 1, SNAPSHOT_NONZERO = 2 };
/* Frames with RAM in ascending order, with flags; returns how many there are, and writes up to room of them. */
uint32_t snapshot_pages(const snapshot *s, uint32_t *frames, uint8_t *flags, uint32_t room);
/* Their bytes, 4096 for each. */
void snapshot_bytes(const snapshot *s, const uint32_t *frames, uint32_t count, uint8_t *ret);
/* A CPU by its number; equal states have equal bytes. */
struct cpu_state {
    uint64_t icount, tsc_offset, pat;
    uint64_t st_mantissa[8];        /* of the x87's physical registers */
    uint32_t gpr[8];                /* in Intel's order */
    uint32_t eip, eflags;
    uint32_t cr0, cr2, cr3, cr4, pdpte[4], dr[8], sysenter[3];
    uint32_t gdtr_base, idtr_base;
    uint32_t db_pending;            /* DR6 bits of a trap that a task switch left behind */
    uint32_t fpu_ip, fpu_dp, mxcsr;
    uint32_t seg_base[8], seg_limit[8];     /* ES CS SS DS FS GS LDTR TR */
    uint16_t seg_selector[8], seg_attributes[8];
    uint16_t gdtr_limit, idtr_limit;
    uint16_t st_exponent[8], fpu_control, fpu_status, fpu_opcode, fpu_cs, fpu_ds;
    uint8_t fpu_full;               /* bit i: physical register i is not empty */
    uint8_t cpl;
    uint8_t shadow;                 /* 1: no interrupt before the next instruction; 2: no #DB either */
    uint8_t halted, parked, nmi_blocked, nmi;
    uint8_t entry_length;           /* at an entry point of the built-in kernel side that INT n entered: its length */
    uint8_t xmm[128];               /* XMM0 to XMM7, 16 bytes each */
    uint32_t irq_count;
    uint8_t irqs[256];              /* pending external interrupts, oldest first */
};
void snapshot_cpu(const snapshot *s, uint32_t cpu, struct cpu_state *ret);
struct board_state {
    uint64_t timer_period, timer_next;  /* instructions, icount */
    uint32_t timer_vector;
    uint32_t intr;                  /* level of the pin */
    uint32_t cpu;                   /* the CPU that executes next */
    uint32_t top;                   /* the first frame that was never given to anybody */
    uint32_t pool;                  /* frames of the built-in kernel side that can be used again */
};
/* Writes up to room frames of the pool. */
void snapshot_board(const snapshot *s, struct board_state *ret, uint32_t *pool, uint32_t room);
/* A PC's board. Flags are the bools of the device's structure in csrc, in their order, the first one in bit 0. */
struct pc_state {
    uint64_t skipped;               /* instructions' time that passed in HLT */
    uint64_t pit_seen, pit_start[3];
    uint32_t pit_count[3], pit_reload[3];
    uint16_t pit_latch[3];
    uint8_t pit_mode[3], pit_access[3], pit_low[3], pit_latched[3], pit_status[3], pit_flags[3];
    uint8_t pic_irr[2], pic_isr[2], pic_imr[2], pic_lines[2], pic_base[2], pic_lowest[2], pic_next_icw[2];
    uint16_t pic_flags[2];
    uint64_t rtc_base, rtc_since, rtc_looked;   /* base: two's complement */
    uint8_t rtc_ram[128], rtc_index;
    uint8_t uart_ier, uart_lcr, uart_mcr, uart_scratch, uart_fcr, uart_msr_delta;
    uint16_t uart_divisor;
    uint8_t uart_fifo[16], uart_fifo_first, uart_fifo_count, uart_flags;
    uint32_t typed;                 /* bytes that wait for the receiver */
    uint8_t speaker, refresh, keyboard_command, a20;
};
/* Writes up to room of the typed bytes. ret is zeros without a board. */
void snapshot_pc(const snapshot *s, struct pc_state *ret, uint8_t *typed, uint32_t room);
/* Can a board be in this state? */
int pc_state_valid(const struct pc_state *state);
/* A snapshot from these parts; bytes has 4096 for each page that is SNAPSHOT_NONZERO. pc, which is valid, and typed
 * count only with a PC's board. NULL: out of host memory. */
snapshot *snapshot_load(const struct machine_config *config, const uint32_t *frames, const uint8_t *flags, uint32_t count,
                        const uint8_t *bytes, const struct cpu_state *cpus, const struct board_state *board,
                        const uint32_t *pool, const struct pc_state *pc, const uint8_t *typed);

/* Registers by number: GPRs 0-7 in Intel's order, then these. set returns 0, or -1 with nothing changed when the
 * value cannot be held (a selector that faults, a reserved bit). */
enum reg_id {
    REG_EIP = 8, REG_EFLAGS, REG_ES, REG_CS, REG_SS, REG_DS, REG_FS, REG_GS, REG_LDTR, REG_TR,
    REG_CR0, REG_CR2, REG_CR3, REG_CR4, REG_DR0, REG_DR1, REG_DR2, REG_DR3, REG_DR6, REG_DR7,
    REG_GDTR_BASE, REG_GDTR_LIMIT, REG_IDTR_BASE, REG_IDTR_LIMIT, REG_CPL, REG_COUNT
};
uint32_t machine_get_reg(machine *m, int id);
int machine_set_reg(machine *m, int id, uint32_t value);
/* A segment register with its hidden part, id REG_ES to REG_TR. limit is in bytes; attributes are descriptor bits
 * 40-55 without the limit. set takes the record as it is, as a debugger would: no descriptor table is read. */
struct segment_state {
    uint32_t base, limit;
    uint16_t selector, attributes;
};
enum segment_error { SEGMENT_GOOD, SEGMENT_RESERVED, SEGMENT_LIMIT, SEGMENT_TYPE, SEGMENT_ABSENT, SEGMENT_V86 };
void machine_get_segment(machine *m, int id, struct segment_state *ret);
/* An enum segment_error, with nothing changed unless it is SEGMENT_GOOD. */
int machine_set_segment(machine *m, int id, const struct segment_state *state);

/* The x87; machine_set_fpu drops reserved bits of control, and ES and B of status follow from flags and masks. */
struct fpu_state {
    uint8_t st[80];             /* ST(0) to ST(7), ten bytes each */
    uint16_t control, status, tag;
    uint16_t opcode, cs, ds;    /* of the last instruction and its operand */
    uint32_t ip, dp;
};
void machine_get_fpu(machine *m, struct fpu_state *ret);
void machine_set_fpu(machine *m, const struct fpu_state *state);

struct sse_state {
    uint8_t xmm[128];           /* XMM0 to XMM7, 16 bytes each */
    uint32_t mxcsr;
};
/* -1, with nothing in ret or changed: a processor without SSE, or reserved bits of MXCSR. */
int machine_get_sse(machine *m, struct sse_state *ret);
int machine_set_sse(machine *m, const struct sse_state *state);

/* Linear memory without faults and ignoring write protection; returns the bytes done before an unmapped page. */
uint32_t machine_peek(machine *m, uint32_t lin, void *buf, uint32_t size);
uint32_t machine_poke(machine *m, uint32_t lin, const void *buf, uint32_t size);
/* RAM at linear [lin, lin + size), both page-aligned. With the built-in kernel it is mapped there with rights;
 * bare, it is physical RAM. 0, -1: overlaps what is mapped, -2: out of memory or of the address space. */
enum { MAP_WRITE = 1, MAP_USER = 2 };
int machine_map(machine *m, uint32_t lin, uint32_t size, int rights);
int machine_unmap(machine *m, uint32_t lin, uint32_t size);
/* ROM in whole pages that ends at physical 4 GiB; its last 128 KiB are also there below 1 MiB, in RAM's place.
 * 0, -1: overlaps what is at the top, -2: out of memory. */
int machine_load_rom(machine *m, const void *data, uint32_t size);
/* 0: not mapped; else 1 | rights << 1 for the page of lin. */
int machine_mapping(machine *m, uint32_t lin);

/* The built-in kernel side. */
struct kernel_layout {
    uint32_t gdt, idt, tss;     /* linear addresses */
    uint32_t entry, entry_size; /* entry points, one per vector */
    uint32_t imports, import_stride, import_max; /* stubs that call CALLBACK_IMPORT */
    uint32_t call_return;       /* a function that returns here ends the run: STOP_UNTIL */
    uint32_t trampoline;        /* functions under return probes return here */
    uint32_t park_return;       /* a function that returns here parks its CPU */
    uint32_t stack_top;         /* initial esp of CPU 0 */
    uint32_t stack_bottom;      /* lowest mapped address of the last CPU's stack; a guard page lies below each */
    uint32_t stack_stride;      /* from one CPU's stack down to the next one's */
    uint32_t window, window_end;/* all of the kernel side lies in [window, window_end] */
};
const struct kernel_layout *machine_kernel_layout(machine *m);
/* Exceptions with this vector go to CALLBACK_TRAP before the run stops with TRAP. */
void machine_claim_trap(machine *m, uint8_t vector, int on);
/* The frame of the trap that is being served, NULL outside of traps (the calls of imports). */
struct frame *machine_frame(machine *m);

struct action;

/* Probes. Numbers are ids from kprobe_register, reused after kprobe_unregister. */
enum miss_cause { MISS_RECURSION, MISS_DISARMED, MISS_LOCK, MISS_FAULT_RESTART, MISS_COUNT };
struct kprobe_stats {
    uint64_t hits;              /* pre stage runs */
    uint64_t nmissed;           /* sum of misses but for fault restarts, which were hits */
    uint64_t misses[4];         /* by enum miss_cause */
    uint32_t number;            /* of the probe among all that the machine ever had: what records call it */
};
/* In a handler: end the run behind it. And: has one asked? It is told once. */
void machine_ask_stop(machine *m);
int machine_take_stop(machine *m);
enum { PROBE_PRE = 1, PROBE_POST = 2, PROBE_FAULT = 4 };   /* which Python handlers there are */
/* Returns the id >= 0 or -errno: EINVAL (unmapped), ENOSYS, ENOMEM; 2.5.26: EEXIST, EDEADLK (from a handler). actions: a
 * chain, NULL behind its last one; or NULL. */
int kprobe_register(machine *m, uint32_t addr, int handlers, struct action **actions);
/* 0 or -errno (ENOENT: not registered). With 2.5.26 from a handler: EDEADLK. */
int kprobe_unregister(machine *m, int id);
/* Its breakpoint goes, unless others at its address want it, or comes back; 0, -ENOENT, -ENOMEM, -ENOSYS (2.5.26). */
int kprobe_enable(machine *m, int id, int on);
const struct kprobe_stats *kprobe_stats(machine *m, int id);
int kprobe_saved_opcode(machine *m, int id);
/* How a registered probe is hit. */
int kprobe_path(machine *m, int id);
/* Bucket of the patch's table for an address, and how many probes each of the 64 buckets holds. */
uint32_t kprobe_hash(uint32_t addr);
void kprobe_occupancy(machine *m, uint32_t counts[64]);
/* kprobe_cpu: -1 when no hit is running ("fixed": on this CPU); kprobe_running: probe id or -1; kprobe_status: 1 active, 2 single step,
 * 4 stepping a nested probe, 8 step done (the last two with "fixed"). */
struct kprobe_state {
    int32_t cpu;
    int32_t running;
    int32_t status;
    int32_t locked;
};
void kprobe_get_state(machine *m, struct kprobe_state *ret);

/* Devices: ranges of ports or of physical addresses that CALLBACK_DEVICE serves. */
enum device_kind { DEVICE_PORT, DEVICE_MEMORY, DEVICE_KINDS };
struct device_access {
    int32_t kind;               /* enum device_kind */
    uint32_t address;           /* port or physical address */
    uint32_t size;              /* 1, 2 or 4; all of it lies in the range */
    uint32_t value;             /* written, or the answer */
    int32_t write;
    int32_t done;               /* the callback sets it when it has served: else the instruction was not executed */
};
/* 0, -1: overlaps another claim or frames of the built-in kernel side, -2: out of memory. With the built-in kernel side
 * memory is mapped at its address. */
int machine_claim(machine *m, int kind, uint32_t first, uint32_t last, int id);
void machine_release(machine *m, int kind, int id);
struct device_access *machine_access(machine *m);

/* Watchpoints on linear addresses or ports [first, last], by id. kinds are enum watch_kind bits. 0, -1: no memory. */
enum watch_kind { WATCH_READ = 1, WATCH_WRITE = 2, WATCH_EXECUTE = 4, WATCH_IN = 8, WATCH_OUT = 16 };
struct watch_event {
    int32_t id;
    int32_t kind;               /* one enum watch_kind */
    uint32_t address, size;     /* the access; an execution has size 1 */
    uint32_t value;             /* read or written */
    uint32_t eip;               /* of the instruction, or of what an exception interrupted */
};
int machine_watch(machine *m, uint32_t first, uint32_t last, int kinds, int id, int python, struct action **actions);
uint64_t machine_watch_hits(machine *m, int id);
void machine_unwatch(machine *m, int id);
const struct watch_event *machine_watch_event(machine *m);

/* The PC board's serial console: bytes for the guest (how many there was room for), and bytes from it. */
uint32_t machine_console_feed(machine *m, const uint8_t *bytes, uint32_t size);
uint32_t machine_console_fetch(machine *m, uint8_t *bytes, uint32_t size);
/* The board's time: instructions, and those that HLT skipped. */
uint64_t machine_board_time(machine *m);
/* How often the guest read or wrote each of the 65,536 ports while nobody served it. */
const uint32_t *machine_unclaimed(machine *m, int write);

const char *machine_build(void);    /* compiler, flags, dispatch kind */
