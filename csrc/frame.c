/* frame.c: pt_regs on the guest's stack, or in place of the CPU's registers. */
#include "frame.h"

#include <string.h>

#include "gate.h"
#include "kernel.h"
#include "mmu.h"
#include "trap.h"

struct live_frame *frame_begin(struct machine *m)
{
    return m->frames.used < FRAME_LEVELS ? &m->frames.level[m->frames.used++] : NULL;
}

void frame_end(struct machine *m)
{
    m->frames.used--;
}

struct frame *machine_frame(machine *m)
{
    return m->frames.used > m->frames.hidden ? &m->frames.level[m->frames.used - 1].frame : NULL;
}

/* The general registers in frame order, ebx to eax. */
static const u8 frame_gpr[] = {EBX, ECX, EDX, ESI, EDI, EBP, EAX};

/* Words of the frame in guest memory, one by one: the CPU has just pushed some as words, and a wider load would have
 * to wait for them to leave the host's store buffer. */
struct __attribute__((packed)) guest_word {
    u32 value;
};
ALWAYS_INLINE u32 word_load(const u8 *host, u32 offset)
{
    return ((const volatile struct guest_word *)(host + offset))->value;
}
ALWAYS_INLINE void word_store(u8 *host, u32 offset, u32 value)
{
    ((volatile struct guest_word *)(host + offset))->value = value;
}

static void load_registers(struct cpu *cpu, const struct pt_regs *regs)
{
    const u32 *word = (const u32 *)regs;
    for (unsigned i = 0; i < sizeof frame_gpr; i++)
        cpu->gpr[frame_gpr[i]] = word[i];
}

static bool same_segment(const struct segment *a, const struct segment *b)
{
    return a->selector == b->selector && a->base == b->base && a->limit == b->limit && a->attr == b->attr;
}

static void load_kernel_data(struct cpu *cpu, const struct segment *data)
{
    if (likely(same_segment(&cpu->seg[DS], data) && same_segment(&cpu->seg[ES], data)))
        return;
    cpu->seg[DS] = cpu->seg[ES] = *data;
    mode_update(cpu);
}

/* Words above the CPU's part may lie beyond the stack's end; they read as 0 then. */
static void peek_above(struct cpu *cpu, u32 lin, struct pt_regs *regs)
{
    regs->esp = regs->ss = 0;
    mmu_peek(cpu, lin + FRAME_ESP, &regs->esp, 8);
}

/* What the stub pushes, into the copy. */
ALWAYS_INLINE void fill(const struct cpu *cpu, struct pt_regs *regs, u32 orig_eax)
{
    u32 *word = (u32 *)regs;
    for (unsigned i = 0; i < sizeof frame_gpr; i++)
        word[i] = cpu->gpr[frame_gpr[i]];
    regs->ds = cpu->seg[DS].selector;
    regs->es = cpu->seg[ES].selector;
    regs->orig_eax = orig_eax;
}

static void push_fast(const struct cpu *cpu, u8 *host, struct pt_regs *regs, u32 orig_eax, u32 *ret_error)
{
    *ret_error = word_load(host, FRAME_EIP - 4);
    for (unsigned i = 0; i < sizeof frame_gpr; i++)
        word_store(host, 4 * i, cpu->gpr[frame_gpr[i]]);
    word_store(host, offsetof(struct pt_regs, ds), cpu->seg[DS].selector);
    word_store(host, offsetof(struct pt_regs, es), cpu->seg[ES].selector);
    word_store(host, FRAME_EIP - 4, orig_eax);
    fill(cpu, regs, orig_eax);
    for (u32 at = FRAME_EIP; at < sizeof *regs; at += 4)
        *(u32 *)((u8 *)regs + at) = word_load(host, at);
}

/* A frame that is not within one writable page of the TLB. */
static COLD bool push_slow(struct cpu *cpu, u32 lin, struct pt_regs *regs, u32 orig_eax, u32 *ret_error)
{
    u32 *word = (u32 *)regs;
    if (!lin_check_write(cpu, lin, 4 * FRAME_SAVED, 0))
        return false;
    for (unsigned i = FRAME_SAVED - 1; i < FRAME_ESP / 4; i++)
        if (!lin_read(cpu, lin + 4 * i, 4, 0, &word[i]))
            return false;
    peek_above(cpu, lin, regs);
    *ret_error = regs->orig_eax;
    fill(cpu, regs, orig_eax);
    mmu_poke(cpu, lin, regs, 4 * FRAME_SAVED);
    return true;
}

bool frame_save_all(struct machine *m, struct live_frame *lf, const struct frame_stub *stub, u32 *ret_error)
{
    struct cpu *cpu = m->cpu;
    u32 mask = stack_mask(&cpu->seg[SS]), pushed = FRAME_EIP - (stub->error_code ? 4 : 0);
    u32 low = (cpu->gpr[ESP] & mask) - pushed, lin;
    u32 orig_eax = stub->orig_eax_is_eax ? cpu->gpr[EAX] : stub->orig_eax;
    struct pt_regs *regs = &lf->frame.regs;

    if (low > mask || !seg_linear(cpu, SS, low, FRAME_ESP, ACCESS_WRITE, &lin)) {
        cpu_fault_code(cpu, T_STACK, 0);
        return false;
    }
    u8 *host = tlb_host(cpu, lin, sizeof *regs, ACCESS_WRITE);
    if (likely(host))
        push_fast(cpu, host, regs, orig_eax, ret_error);
    else if (!push_slow(cpu, lin, regs, orig_eax, ret_error))
        return false;
    if (!stub->error_code)
        *ret_error = 0;
    lf->on_stack = true;
    lf->frame.address = lin;
    lf->user = (regs->cs & 3) || (regs->eflags & EFLAGS_VM);
    lf->frame.sp = lf->user ? regs->esp : low + FRAME_ESP;
    stack_move(cpu, 0 - pushed);
    lf->esp = cpu->gpr[ESP];
    cpu->eflags &= ~EFLAGS_DF;
    load_kernel_data(cpu, &m->kernel->data);
    return true;
}

bool frame_enter(struct machine *m, struct live_frame *lf, u32 orig_eax)
{
    struct cpu *cpu = m->cpu;
    const struct segment *ss = &cpu->seg[SS], *data = &m->kernel->data;
    struct pt_regs *regs = &lf->frame.regs;
    u32 low = cpu->gpr[ESP] - FRAME_ESP, unused;
    u8 *host = tlb_host(cpu, low, sizeof *regs, ACCESS_WRITE);

    if (unlikely(!host || !same_segment(&cpu->seg[CS], &m->kernel->code) || !same_segment(ss, data)))
        return false;
    word_store(host, FRAME_EIP, cpu->eip);
    word_store(host, offsetof(struct pt_regs, cs), cpu->seg[CS].selector);
    word_store(host, offsetof(struct pt_regs, eflags), cpu_eflags(cpu) & ~EFLAGS_RF);
    push_fast(cpu, host, regs, orig_eax, &unused);
    lf->on_stack = true;
    lf->user = false;
    lf->frame.address = lf->esp = low;
    lf->frame.sp = low + FRAME_ESP;
    cpu->gpr[ESP] = low;
    load_kernel_data(cpu, data);
    return true;
}

/* The words of a frame that C itself may change. */
static const u8 changed_by_c[] = {FRAME_EIP, offsetof(struct pt_regs, eflags), FRAME_ESP};

static u8 *frame_host(struct cpu *cpu, const struct live_frame *lf)
{
    return tlb_host(cpu, lf->frame.address, sizeof lf->seen, ACCESS_WRITE | ACCESS_SYSTEM);
}

/* Bring guest memory up to what C made of the copy. */
static void commit(struct cpu *cpu, struct live_frame *lf)
{
    u8 *host = frame_host(cpu, lf);

    for (unsigned i = 0; i < sizeof changed_by_c; i++) {
        u32 at = changed_by_c[i], value = *(const u32 *)((const u8 *)&lf->frame.regs + at);
        if (unlikely(!host))
            mmu_poke(cpu, lf->frame.address + at, &value, 4);
        else if (word_load(host, at) != value)
            word_store(host, at, value);
    }
}

/* Both ways between the copy and guest memory; the copy's changes win. */
static void exchange(struct cpu *cpu, struct live_frame *lf)
{
    u32 *word = (u32 *)&lf->frame.regs, *seen = (u32 *)&lf->seen;
    u8 *host = frame_host(cpu, lf);

    for (unsigned i = 0; i < FRAME_WORDS; i++) {
        u32 lin = lf->frame.address + 4 * i;
        if (word[i] == seen[i]) {
            if (likely(host))
                word[i] = word_load(host, 4 * i);
            else
                mmu_peek(cpu, lin, &word[i], 4);
        } else if (likely(host)) {
            word_store(host, 4 * i, word[i]);
        } else {
            mmu_poke(cpu, lin, &word[i], 4);
        }
    }
}

/* Without a frame in memory there are still the words on top of the interrupted stack. */
static void exchange_slots(struct cpu *cpu, struct live_frame *lf)
{
    struct pt_regs *regs = &lf->frame.regs, *seen = &lf->seen;

    if (regs->esp != seen->esp || regs->ss != seen->ss)
        mmu_poke(cpu, lf->frame.address + FRAME_ESP, &regs->esp, 8);
    peek_above(cpu, lf->frame.address, regs);
    seen->esp = regs->esp;
    seen->ss = regs->ss;
}

void frame_lend(struct machine *m, struct frame *f)
{
    struct live_frame *lf = (struct live_frame *)f;
    if (lf->on_stack)
        commit(m->cpu, lf);
    else if (!lf->user)
        exchange_slots(m->cpu, lf);
    lf->seen = f->regs;
}

void frame_sync(struct machine *m, struct frame *f)
{
    struct live_frame *lf = (struct live_frame *)f;
    if (lf->on_stack)
        exchange(m->cpu, lf);
    else if (!lf->user)
        exchange_slots(m->cpu, lf);
}

/* IRET to the code segment that is loaded, at the same privilege (SDM vol. 2, IRET): its descriptor was checked when
 * it was loaded, and CPL 0 may load every flag but VM. */
static void return_within(struct cpu *cpu, const struct pt_regs *regs, u32 low)
{
    load_registers(cpu, regs);
    cpu->gpr[ESP] = low + FRAME_ESP;
    cpu->eip = regs->eip;
    cpu_set_eflags(cpu, regs->eflags & ~EFLAGS_VM);
}

/* RESTORE_ALL's fix-up table: a selector that cannot be loaded becomes null. */
static void pop_segment(struct cpu *cpu, unsigned seg, u32 selector)
{
    if (cpu->seg[seg].selector != (u16)selector && segment_load(cpu, seg, (u16)selector) == STATUS_FAULT)
        segment_load(cpu, seg, 0);
}

int frame_restore_all(struct machine *m, struct live_frame *lf)
{
    struct cpu *cpu = m->cpu;
    const struct pt_regs *regs = &lf->frame.regs;
    const struct kernel *k = m->kernel;

    commit(cpu, lf);
    cpu->nmi_blocked = false;
    if (likely(regs->cs == k->code.selector && !(regs->eflags & EFLAGS_VM) && same_segment(&cpu->seg[CS], &k->code) &&
               regs->ds == k->data.selector && regs->es == k->data.selector && cpu->seg[SS].attr & SEG_DB)) {
        return_within(cpu, regs, lf->esp);
        return STATUS_JUMP;
    }
    load_registers(cpu, regs);
    pop_segment(cpu, DS, regs->ds);
    pop_segment(cpu, ES, regs->es);
    mode_update(cpu);
    cpu->gpr[ESP] = lf->esp;
    stack_move(cpu, FRAME_EIP);
    return trap_return(cpu, 4);
}

void frame_suspend(struct machine *m, struct live_frame *lf)
{
    commit(m->cpu, lf);
}

void frame_resume(struct machine *m, struct live_frame *lf)
{
    struct cpu *cpu = m->cpu;
    struct pt_regs *regs = &lf->frame.regs;
    u32 low = cpu->gpr[ESP] & stack_mask(&cpu->seg[SS]);

    *regs = (struct pt_regs){0};
    lf->frame.address = cpu->seg[SS].base + low;
    mmu_peek(cpu, lf->frame.address, regs, sizeof *regs);
    lf->on_stack = true;
    lf->user = (regs->cs & 3) || (regs->eflags & EFLAGS_VM);
    lf->frame.sp = lf->user ? regs->esp : low + FRAME_ESP;
    lf->esp = cpu->gpr[ESP];
}

void frame_capture(struct machine *m, struct live_frame *lf)
{
    struct cpu *cpu = m->cpu;
    struct pt_regs *regs = &lf->frame.regs;

    fill(cpu, regs, cpu->gpr[EAX]);
    regs->eip = cpu->eip;
    regs->cs = cpu->seg[CS].selector;
    regs->eflags = cpu_eflags(cpu);
    regs->esp = cpu->gpr[ESP];
    regs->ss = cpu->seg[SS].selector;
    lf->frame.sp = cpu->gpr[ESP];
    lf->frame.address = cpu->seg[SS].base + (cpu->gpr[ESP] & stack_mask(&cpu->seg[SS])) - FRAME_ESP;
    lf->user = cpu->cpl == 3;
    if (!lf->user)
        peek_above(cpu, lf->frame.address, regs);
    lf->seen = *regs;
    lf->on_stack = false;
}

void frame_write_back(struct machine *m, struct live_frame *lf)
{
    struct cpu *cpu = m->cpu;
    const struct pt_regs *regs = &lf->frame.regs;
    u32 vm = cpu->eflags & EFLAGS_VM;

    load_registers(cpu, regs);
    cpu->eip = regs->eip;
    cpu_set_eflags(cpu, (regs->eflags & ~EFLAGS_VM) | vm);
    if (lf->user)
        cpu->gpr[ESP] = regs->esp;
    else
        exchange_slots(cpu, lf);
    pop_segment(cpu, DS, regs->ds);
    pop_segment(cpu, ES, regs->es);
    mode_update(cpu);
}
