/* kernel_traps.c: the entry stubs and C entry points of traps.c, import stubs, the return address of calls. */
#include <string.h>

#include "gate.h"
#include "kernel.h"
#include "kprobe.h"
#include "kretprobe.h"
#include "mmu.h"
#include "trap.h"

/* The C entry point of a vector: >0 claimed, go on; 0 nothing claimed it; <0 the negated reason to stop. */
typedef int trap_server(struct machine *m, struct frame *f, int vector);

static int serve_int3(struct machine *m, struct frame *f, int vector)
{
    (void)vector;
    return do_int3(m, f);
}

static int serve_debug(struct machine *m, struct frame *f, int vector)
{
    (void)vector;
    return do_debug(m, f);
}

/* do_trap with its vm86 argument set, and do_general_protection: virtual-8086 code's faults are vm86.c's alone. */
static int ask_outside_vm86(struct machine *m, struct frame *f, int vector)
{
    return f->regs.eflags & EFLAGS_VM ? 0 : kprobe_fault(m, f, vector);
}

/* Behind the hook interrupts are as they were at the fault: CR2 is safe by then. */
static int do_page_fault(struct machine *m, struct frame *f, int vector)
{
    int claimed = kprobe_fault(m, f, vector);
    if (!claimed)
        m->cpu->eflags |= f->regs.eflags & EFLAGS_IF;
    return claimed;
}

/* device_not_available and math_state_restore. The one task owns the FPU: CLTS is all there is to restore. */
static int math_state_restore(struct machine *m, struct frame *f, int vector)
{
    struct cpu *cpu = m->cpu;
    const struct kprobe_semantics *mends = kprobe_semantics(m->config.kprobes);
    bool hook_first = mends && mends->fpu_hook_first;
    int claimed;

    if ((cpu->cr0 & (CR0_EM | CR0_TS)) != CR0_TS)
        return 0;
    if (!hook_first)
        cpu->cr0 &= ~CR0_TS;
    claimed = kprobe_fault(m, f, vector);
    if (claimed)
        return claimed;
    cpu->cr0 &= ~CR0_TS;
    return 1;
}

enum orig_eax { ORIG_NONE, ORIG_EAX };

struct trap_entry {
    trap_server *serve;         /* NULL: nothing looks at it */
    u8 orig;                    /* error_code leaves -1 in orig_eax, the patch's stubs, NMI and system calls eax */
    bool error_code;            /* the CPU pushes one (SDM vol. 3, table 6-1) */
};

/* Which vectors go through do_trap, and with it the fault hook: traps.c of 2.5.26. */
static const struct trap_entry entries[20] = {
    [0] = {ask_outside_vm86, ORIG_NONE, false}, [1] = {serve_debug, ORIG_EAX, false}, [2] = {NULL, ORIG_EAX, false},
    [3] = {serve_int3, ORIG_EAX, false}, [4] = {ask_outside_vm86, ORIG_NONE, false},
    [5] = {ask_outside_vm86, ORIG_NONE, false}, [6] = {kprobe_fault, ORIG_NONE, false},
    [7] = {math_state_restore, ORIG_NONE, false}, [8] = {kprobe_fault, ORIG_NONE, true},
    [9] = {kprobe_fault, ORIG_NONE, false}, [10] = {kprobe_fault, ORIG_NONE, true},
    [11] = {kprobe_fault, ORIG_NONE, true}, [12] = {kprobe_fault, ORIG_NONE, true},
    [13] = {ask_outside_vm86, ORIG_NONE, true}, [14] = {do_page_fault, ORIG_NONE, true},
    [17] = {kprobe_fault, ORIG_NONE, true},
};
#define SYSTEM_CALL 0x80
#define FIRST_IRQ 32

/* Was the vector entered by INT n, INT3, INTO or INT1 just now? The CPU pushes no error code then. */
static bool by_int(const struct cpu *cpu, unsigned vector)
{
    return cpu->fault.length && cpu->fault.vector == vector;
}

static struct frame_stub stub_of(const struct machine *m, unsigned vector)
{
    const struct trap_entry *entry;

    if (vector == SYSTEM_CALL)
        return (struct frame_stub){.orig_eax_is_eax = true};
    if (vector >= FIRST_IRQ)
        return (struct frame_stub){.orig_eax = vector - 256};
    if (vector >= sizeof entries / sizeof *entries)
        return (struct frame_stub){.orig_eax = ~0u};
    entry = &entries[vector];
    return (struct frame_stub){
        .error_code = entry->error_code && !by_int(m->cpu, vector),
        .orig_eax_is_eax = entry->orig == ORIG_EAX && (vector == T_NMI || m->kprobes),
        .orig_eax = ~0u,
    };
}

static trap_server *server_of(const struct machine *m, unsigned vector)
{
    if (vector >= sizeof entries / sizeof *entries || (vector == T_DEVICE && by_int(m->cpu, vector)))
        return NULL;
    return entries[vector].serve;
}

/* Nothing in the kernel side claimed the trap: Python may, or the run stops. */
static int offer(struct machine *m, struct frame *f, unsigned vector, u32 error_code)
{
    if (m->trap_claimed[vector >> 6] >> (vector & 63) & 1) {
        int served;

        frame_lend(m, f);
        served = machine_callback(m, CALLBACK_TRAP, (int)vector, error_code);
        frame_sync(m, f);
        if (served)
            return served == CALLBACK_RAISED ? -STOP_PYTHON : 1;
    }
    m->stop.vector = (s32)vector;
    m->stop.error_code = error_code;
    m->stop.address = vector == T_PGFLT ? m->cpu->cr2 : 0;
    return -STOP_TRAP;
}

static int serve(struct machine *m, struct frame *f, unsigned vector, u32 error_code)
{
    u32 address = m->cpu->cr2;
    trap_server *server = server_of(m, vector);
    int result = kprobe_entered(m, f, by_int(m->cpu, vector));

    if (result >= 0)
        result = server ? server(m, f, (int)vector) : 0;
    m->cpu->cr2 = address;      /* runs inside handlers may have faulted too */
    return result ? result : offer(m, f, vector, error_code);
}

/* Back to what was interrupted; a run that ends shows its state, RF dropped as if the restart had begun. */
static int leave_trap(struct machine *m, struct live_frame *lf, int result)
{
    struct cpu *cpu = m->cpu;
    int status;

    if (result < 0)
        lf->frame.regs.eflags &= ~EFLAGS_RF;
    status = frame_restore_all(m, lf);
    frame_end(m);
    if (result < 0)
        return cpu_stop(cpu, -result);
    return status == STATUS_FAULT ? trap_deliver(cpu) : status;
}

/* How far behind an entry point a CPU stands between two steps of 2.5.26 in which it holds the lock, but is not
 * kprobe_cpu: an NMI can come there. */
#define LOCKED 8u

/* spin_lock, the first thing that do_int3 does. */
static int lock(struct machine *m)
{
    if (kprobe_lock_held(m))
        return kprobe_wait(m);
    m->kprobes->lock = (s32)m->cpu->index;
    m->cpu->eip += LOCKED;
    return STATUS_JUMP;
}

/* do_debug is through but for its spin_unlock and what depends on TF. The frame waits on the guest's stack. */
static int stay_locked(struct machine *m, struct live_frame *lf)
{
    frame_suspend(m, lf);
    frame_end(m);
    m->cpu->eip = kernel_entry(m, T_DEBUG) + LOCKED;
    return STATUS_JUMP;
}

static int unlock_and_leave(struct machine *m)
{
    struct live_frame *lf = frame_begin(m);
    int result = 1;

    if (!lf)
        return cpu_stop(m->cpu, STOP_MEMORY);
    frame_resume(m, lf);
    m->kprobes->lock = KPROBE_NO_CPU;
    if (lf->frame.regs.eflags & EFLAGS_TF) {
        m->cpu->eflags |= lf->frame.regs.eflags & EFLAGS_IF;
        result = offer(m, &lf->frame, T_DEBUG, 0);
    }
    return leave_trap(m, lf, result);
}

static int enter_trap(struct machine *m, unsigned vector)
{
    struct live_frame *lf = frame_begin(m);
    struct frame_stub stub = stub_of(m, vector);
    u32 error_code;

    if (!lf)
        return cpu_stop(m->cpu, STOP_MEMORY);
    if (unlikely(!frame_save_all(m, lf, &stub, &error_code))) {
        frame_end(m);
        return trap_deliver(m->cpu);
    }
    int result = serve(m, &lf->frame, vector, error_code);
    if (vector == T_DEBUG && result >= 0 && unlikely(kprobe_holds(m)))
        return stay_locked(m, lf);
    return leave_trap(m, lf, result);
}

static bool table_holds(struct cpu *cpu, u32 lin, const u32 words[2])
{
    const u8 *host = tlb_host(cpu, lin, 8, ACCESS_SYSTEM);
    return host && memcmp(host, words, 8) == 0;
}

/* A table's page: stores to it are to be seen. */
static bool table_guard(struct machine *m, u32 lin)
{
    u32 phys;
    struct page *page = mmu_probe(m->cpu, lin, &phys) ? memory_page(&m->mem, phys >> PAGE_SHIFT) : NULL;

    if (page && !page->tables) {
        page->tables = true;
        tlb_protect(m, phys >> PAGE_SHIFT);
    }
    return page;
}

static bool same_segment(const struct segment *a, const struct segment *b)
{
    return a->selector == b->selector && a->base == b->base && a->limit == b->limit && a->attr == b->attr;
}

bool kernel_plain_traps(struct machine *m)
{
    struct cpu *cpu = m->cpu;
    const struct kernel *k = m->kernel;
    u32 word;

    if (!k || !kernel_owns_traps(m) || m->kprobes->on_entry || !same_segment(&cpu->seg[CS], &k->code) ||
        !same_segment(&cpu->seg[SS], &k->data))
        return false;
    /* The TLB forgets: what a trap would read is read again. */
    if (!lin_read(cpu, k->layout.idt, 4, ACCESS_SYSTEM, &word) || !lin_read(cpu, cpu->gdtr.base + KERNEL_CS, 4, ACCESS_SYSTEM, &word))
        return false;
    return table_holds(cpu, k->layout.idt + T_BRKPT * 8, k->gate[1]) &&
           table_holds(cpu, k->layout.idt + T_DEBUG * 8, k->gate[0]) &&
           table_holds(cpu, cpu->gdtr.base + KERNEL_CS, k->cs) && table_guard(m, k->layout.idt) &&
           table_guard(m, cpu->gdtr.base + KERNEL_CS);
}

int kernel_trap(struct machine *m)
{
    struct cpu *cpu = m->cpu;
    const struct kernel *k = m->kernel;
    u8 vector = cpu->fault.vector;
    struct live_frame *lf;

    if ((vector != T_DEBUG && vector != T_BRKPT) || !m->kprobes || m->kprobes->on_entry || m->cpu_count > 1 ||
        !kernel_owns_traps(m))
        return STATUS_FAULT;
    if (!table_holds(cpu, k->layout.idt + vector * 8, k->gate[vector == T_BRKPT]) ||
        !table_holds(cpu, cpu->gdtr.base + KERNEL_CS, k->cs) || !(lf = frame_begin(m)))
        return STATUS_FAULT;
    if (!frame_enter(m, lf, cpu->gpr[EAX])) {
        frame_end(m);
        return STATUS_FAULT;
    }
    /* What delivery through an interrupt gate does besides (SDM vol. 3, 6.12.1.2 and 17.2.4), and SAVE_ALL's CLD. */
    cpu->eflags &= ~(EFLAGS_TF | EFLAGS_NT | EFLAGS_RF | EFLAGS_IF | EFLAGS_DF);
    if (vector == T_DEBUG && !cpu->fault.software)
        cpu->dr[7] &= ~DR7_GD;
    cpu->halted = false;
    cpu->shadow = 0;
    cpu->eip = kernel_entry(m, vector);
    return leave_trap(m, lf, serve(m, &lf->frame, vector, 0));
}

/* A function that Python provides: it has set the result in eax, the stub returns to the caller. */
static int call_import(struct machine *m, u32 number)
{
    struct cpu *cpu = m->cpu;
    u32 eip, hidden = m->frames.hidden;
    int served;

    m->frames.hidden = m->frames.used;
    served = m->config.callback(m->config.tag, CALLBACK_IMPORT, (int)number, 0);
    m->frames.hidden = hidden;
    if (served == CALLBACK_RAISED)
        return cpu_stop(cpu, STOP_PYTHON);
    if (served == CALLBACK_SPIN)
        return kprobe_wait(m);
    m->stop_soon |= m->stop_asked;      /* behind the return */
    if (!mem_read(cpu, SS, cpu->gpr[ESP] & stack_mask(&cpu->seg[SS]), 4, &eip))
        return trap_deliver(cpu);
    stack_move(cpu, 4);
    cpu->eip = eip;
    return STATUS_JUMP;
}

/* A started function has returned. */
static int park(struct machine *m)
{
    m->cpu->parked = true;
    return m->cpu_count > 1 ? STATUS_JUMP : cpu_stop(m->cpu, STOP_PARKED);
}

/* There is no code here to run: not an entry, or not for this privilege. */
static int refuse(struct machine *m, u32 lin, bool user)
{
    if (user) {
        cpu_fault_code(m->cpu, T_PGFLT, 5);     /* present, user (SDM vol. 3, 4.7) */
        m->cpu->fault.address = lin;
    } else {
        cpu_fault(m->cpu, T_ILLOP);
    }
    return trap_deliver(m->cpu);
}

int kernel_enter(struct machine *m)
{
    const struct kernel_layout *l = &m->kernel->layout;
    u32 lin = m->cpu->seg[CS].base + m->cpu->eip;
    bool entry = lin - l->entry < l->entry_size, user = m->cpu->cpl == 3;

    m->schedule.steps++;
    if (lin == l->call_return)
        return cpu_stop(m->cpu, STOP_UNTIL);
    if (lin == l->trampoline && !user) {
        if (kprobe_must_lock(m) && kprobe_lock_held(m))
            return kprobe_wait(m);
        int status = kretprobe_return(m);
        if (status != STATUS_NEXT)
            return status;
    }
    if (lin == l->park_return)
        return park(m);
    if (unlikely(kprobe_holds(m))) {
        if (lin == kernel_entry(m, T_BRKPT) + LOCKED)
            return enter_trap(m, T_BRKPT);
        if (lin == kernel_entry(m, T_DEBUG) + LOCKED)
            return unlock_and_leave(m);
    }
    if (lin % ENTRY_STRIDE || (entry && user) || (!entry && lin < l->imports))
        return refuse(m, lin, entry && user);
    if (!entry)
        return call_import(m, (lin - l->imports) / ENTRY_STRIDE);
    if (unlikely(kprobe_blocks_entry(m, lin)))
        return cpu_stop(m->cpu, STOP_LOOP);
    if (lin == kernel_entry(m, T_BRKPT) && kprobe_must_lock(m))
        return lock(m);
    return enter_trap(m, (lin - l->entry) / ENTRY_STRIDE);
}
