/* kprobe_intercept.c: probes in front of a guest's own IDT. Nothing is pushed: the frame stands for the registers. */
#include "kernel.h"
#include "kprobe.h"
#include "mmu.h"

/* The probe of a breakpoint trap. The patch compares with eip, whatever the code segment's base is. */
static const struct kprobe *probe_of_trap(const struct machine *m)
{
    const struct cpu *cpu = m->cpu;
    if (kprobes_hidden(m->kprobes) && !cpu->fault.probe)
        return NULL;            /* the guest's own INT 3 */
    return kprobe_at(m, (m->kprobes->mends->skip_user ? cpu->seg[CS].base : 0) + cpu->eip - 1);
}

/* Is there anything that the exception could mean to a probe? waited: it did when it came. */
static bool concerns(const struct machine *m, bool waited)
{
    const struct cpu *cpu = m->cpu;

    if (!m->kprobes || kernel_owns_traps(m))
        return false;
    if (kprobe_running(m) || waited)
        return true;
    return cpu->fault.vector == T_BRKPT && probe_of_trap(m);
}

static int hook(struct machine *m, struct frame *f, const struct fault *fault, bool waited)
{
    struct cpu *cpu = m->cpu;
    int result = kprobe_entered(m, f, fault->length);

    if (result < 0)
        return result;
    switch (fault->vector) {
    case T_BRKPT:
        return waited || probe_of_trap(m) ? kprobe_handler(m, f) : 0;
    case T_DEBUG:
        if (fault->software || !(cpu->dr[6] & DR6_BS) || !kprobe_stepping(m))
            return 0;
        cpu->dr[6] &= ~DR6_BS;
        return post_kprobe_handler(m, f);
    default:
        return fault->software ? 0 : kprobe_fault(m, f, fault->vector);
    }
}

int kprobe_intercept(struct machine *m)
{
    struct cpu *cpu = m->cpu;
    const struct fault fault = cpu->fault;
    bool waited = cpu->trapped;
    struct live_frame *lf;
    int result;

    cpu->trapped = false;
    if (likely(!concerns(m, waited)))
        return 0;
    if (fault.vector == T_BRKPT && kprobe_must_lock(m) && kprobe_lock_held(m)) {
        cpu->trapped = true;
        kprobe_wait(m);
        return 1;
    }
    lf = frame_begin(m);
    if (!lf) {
        cpu_stop(cpu, STOP_MEMORY);
        return -1;
    }
    frame_capture(m, lf);
    cpu->eflags &= ~(EFLAGS_TF | EFLAGS_IF);
    result = hook(m, &lf->frame, &fault, waited);
    frame_write_back(m, lf);
    frame_end(m);
    cpu->fault = fault;
    if (result < 0)
        cpu_stop(cpu, -result);
    return result < 0 ? -1 : result;
}
