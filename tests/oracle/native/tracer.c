/*
 * tracer.c: runs cases on the real CPU, one instruction at a time.
 *
 * usage: tracer CHILD < cases > results
 * The input is the base contents of all regions, then cases; the output is one
 * result per case (struct formats below, little-endian; native.py has the
 * other end). A 32-bit child is single-stepped by ptrace; its memory is shared
 * with this process, so that resetting and comparing it are plain copies.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "layout.h"

#define PAGE 4096u
#define ALL_BYTES (REGION_PAGES * PAGE)
#define EFLAGS_TF 0x100u
#define EFLAGS_ID 0x200000u

struct region {
    uint32_t address, size, prot, offset;
};
static const struct region regions[] = {
#define REGION(address, pages, prot, first) {address, (pages) * PAGE, prot, (first) * PAGE},
    REGIONS
#undef REGION
};

struct state {
    uint32_t gpr[8];            /* Intel's order */
    uint32_t eip;
    uint32_t eflags;
};

struct case_header {
    uint32_t max_steps;
    uint32_t until;             /* eip at which the case is done */
    struct state start;
    uint32_t fs, gs;
    uint32_t has_fpu;           /* struct user_fpregs_struct follows, and the result has one */
    uint32_t patches;           /* that follow: u32 address, u32 length, bytes */
};

enum outcome { UNTIL, LIMIT, FAULT, DIED };

struct result_header {
    uint32_t outcome;           /* enum outcome */
    uint32_t steps;             /* retired instructions; iterations count singly */
    uint32_t vector, error, cr2;    /* FAULT */
    struct state end;
    uint32_t sreg[6];           /* es cs ss ds fs gs */
    uint32_t runs;              /* of changed memory, behind the steps: u32 address, u32 length, bytes */
};

struct step {
    struct state after;
    uint8_t insn[16];           /* bytes at eip before the step; zeros beyond the regions */
};

struct tracer {
    const char *child_path;
    pid_t pid;                  /* 0: no child */
    int fd;                     /* shared memory */
    uint8_t *memory;            /* regions, then the signal stack */
    uint8_t base[ALL_BYTES];
    bool fpu_used;              /* by a case before this one */
    struct user_fpregs_struct idle_fpu, fpu;
    struct user_regs_struct idle;   /* registers that cases do not set */
    struct step *steps;
    size_t steps_max;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void read_all(void *buf, size_t size)
{
    if (fread(buf, 1, size, stdin) != size)
        die("tracer: short input");
}

static void write_all(const void *buf, size_t size)
{
    if (fwrite(buf, 1, size, stdout) != size)
        die("tracer: output");
}

/* Bytes that are mapped from address on, and where they are. */
static uint8_t *find(struct tracer *t, uint32_t address, uint32_t *left)
{
    for (size_t i = 0; i < REGION_COUNT; i++) {
        uint32_t off = address - regions[i].address;
        if (off < regions[i].size) {
            *left = regions[i].size - off;
            return t->memory + regions[i].offset + off;
        }
    }
    *left = 0;
    return NULL;
}

static void child_start(struct tracer *t)
{
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        personality(ADDR_NO_RANDOMIZE);
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        if (t->fd != 3 && dup2(t->fd, 3) < 0)
            _exit(98);
        execl(t->child_path, t->child_path, NULL);
        _exit(97);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
        die("tracer: child did not start");
    ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)(long)PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, pid, NULL, NULL);
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) {
        fprintf(stderr, "tracer: the child could not set itself up (status %x)\n", status);
        exit(2);
    }
    ptrace(PTRACE_GETREGS, pid, NULL, &t->idle);
    ptrace(PTRACE_GETFPREGS, pid, NULL, &t->idle_fpu);
    t->fpu_used = false;
    t->pid = pid;
}

static void child_stop(struct tracer *t)
{
    kill(t->pid, SIGKILL);
    waitpid(t->pid, NULL, 0);
    t->pid = 0;
}

static void state_get(const struct user_regs_struct *r, struct state *ret)
{
    *ret = (struct state){{(uint32_t)r->rax, (uint32_t)r->rcx, (uint32_t)r->rdx, (uint32_t)r->rbx, (uint32_t)r->rsp,
                           (uint32_t)r->rbp, (uint32_t)r->rsi, (uint32_t)r->rdi},
                          (uint32_t)r->rip, (uint32_t)r->eflags};
}

static void state_set(struct tracer *t, const struct case_header *c)
{
    struct user_regs_struct r = t->idle;
    const uint32_t *g = c->start.gpr;
    r.rax = g[0], r.rcx = g[1], r.rdx = g[2], r.rbx = g[3];
    r.rsp = g[4], r.rbp = g[5], r.rsi = g[6], r.rdi = g[7];
    r.rip = c->start.eip;
    r.eflags = c->start.eflags;
    r.cs = 0x23, r.ss = r.ds = r.es = 0x2b;
    r.fs = c->fs, r.gs = c->gs;
    r.fs_base = r.gs_base = 0;
    r.orig_rax = (unsigned long long)-1;
    if (ptrace(PTRACE_SETREGS, t->pid, NULL, &r))
        die("tracer: PTRACE_SETREGS");
}

static void fpu_set(struct tracer *t, const struct case_header *c)
{
    if ((c->has_fpu || t->fpu_used) && ptrace(PTRACE_SETFPREGS, t->pid, NULL, c->has_fpu ? &t->fpu : &t->idle_fpu))
        die("tracer: PTRACE_SETFPREGS");
    t->fpu_used = c->has_fpu;
}

static const uint8_t *skip_prefixes(const uint8_t *insn)
{
    for (int i = 0; i < 15; i++)
        switch (insn[i]) {
        case 0x66: case 0x67: case 0x2E: case 0x36: case 0x3E: case 0x26: case 0x64: case 0x65:
        case 0xF0: case 0xF2: case 0xF3:
            continue;
        default:
            return insn + i;
        }
    return insn + 14;
}

/* INT3, INT 3 and INT1: their SIGTRAP is their own. */
static bool is_breakpoint(const uint8_t *insn)
{
    const uint8_t *p = skip_prefixes(insn);
    return p[0] == 0xCC || p[0] == 0xF1 || (p[0] == 0xCD && p[1] == 3);
}

/*
 * The TF that does the stepping must not show: not in the image that PUSHF
 * stores, nor in the registers (ptrace hides it only until a POPF or IRET has
 * been stepped). The TF right behind a POPF or IRET is the case's own.
 */
static void hide_tf(struct tracer *t, struct step *s)
{
    uint8_t opcode = *skip_prefixes(s->insn);
    if (opcode == 0x9D || opcode == 0xCF)
        return;
    s->after.eflags &= ~EFLAGS_TF;
    uint32_t left;
    uint8_t *p = find(t, s->after.gpr[4] + 1, &left);
    if (opcode == 0x9C && left)
        *p &= (uint8_t)~(EFLAGS_TF >> 8);
}

/* Let the kernel build the signal frame: only there are vector and error code to be had. */
static bool fault_details(struct tracer *t, int sig, struct result_header *res)
{
    int status;
    if (ptrace(PTRACE_SINGLESTEP, t->pid, NULL, (void *)(long)sig) || waitpid(t->pid, &status, 0) != t->pid ||
        !WIFSTOPPED(status))
        return false;
    struct user_regs_struct r;
    ptrace(PTRACE_GETREGS, t->pid, NULL, &r);
    uint32_t off = (uint32_t)r.rsp - SIGSTACK;
    if (off > SIGSTACK_PAGES * PAGE - 96)
        return false;
    /* return address, signal number, then struct sigcontext_32 */
    const uint8_t *sc = t->memory + SIGSTACK_FIRST * PAGE + off + 8;
    memcpy(&res->vector, sc + 48, 4);
    memcpy(&res->error, sc + 52, 4);
    memcpy(&res->cr2, sc + 84, 4);
    return true;
}

static void step_insn(struct tracer *t, uint32_t eip, uint8_t insn[16])
{
    uint32_t done = 0;
    memset(insn, 0, 16);
    while (done < 16) {
        uint32_t left;
        uint8_t *p = find(t, eip + done, &left);
        if (!left)
            return;
        uint32_t n = left < 16 - done ? left : 16 - done;
        memcpy(insn + done, p, n);
        done += n;
    }
}

static void run_steps(struct tracer *t, const struct case_header *c, struct result_header *res,
                      struct user_regs_struct *r)
{
    res->outcome = LIMIT;
    state_get(r, &res->end);
    while (res->steps < c->max_steps) {
        if (res->end.eip == c->until) {
            res->outcome = UNTIL;
            return;
        }
        struct step *s = &t->steps[res->steps];
        int status;
        step_insn(t, res->end.eip, s->insn);
        if (ptrace(PTRACE_SINGLESTEP, t->pid, NULL, NULL) || waitpid(t->pid, &status, 0) != t->pid ||
            !WIFSTOPPED(status)) {
            res->outcome = DIED;
            return;
        }
        ptrace(PTRACE_GETREGS, t->pid, NULL, r);
        state_get(r, &res->end);
        int sig = WSTOPSIG(status);
        if (sig != SIGTRAP || is_breakpoint(s->insn)) {
            res->end.eflags &= ~EFLAGS_TF;
            /* Now, for the signal frame resets the FPU. */
            if (c->has_fpu)
                ptrace(PTRACE_GETFPREGS, t->pid, NULL, &t->fpu);
            res->outcome = fault_details(t, sig, res) ? FAULT : DIED;
            return;
        }
        s->after = res->end;
        hide_tf(t, s);
        res->end.eflags = s->after.eflags;
        res->steps++;
        if (res->end.eflags & EFLAGS_TF)
            return;
    }
    if (res->end.eip == c->until)
        res->outcome = UNTIL;
}

static void write_runs(struct tracer *t, struct result_header *res, const uint8_t *before)
{
    static uint8_t out[ALL_BYTES * 10];
    size_t n = 0;
    for (size_t k = 0; k < REGION_COUNT; k++) {
        const struct region *g = &regions[k];
        const uint8_t *new = t->memory + g->offset, *old = before + g->offset;
        if (!memcmp(new, old, g->size))
            continue;
        for (uint32_t i = 0; i < g->size; i++) {
            if (new[i] == old[i])
                continue;
            uint32_t end = i + 1;
            while (end < g->size && new[end] != old[end])
                end++;
            uint32_t head[2] = {g->address + i, end - i};
            memcpy(out + n, head, 8);
            memcpy(out + n + 8, new + i, end - i);
            n += 8 + end - i;
            res->runs++;
            i = end;
        }
    }
    write_all(res, sizeof *res);
    write_all(t->steps, res->steps * sizeof *t->steps);
    write_all(out, n);
}

static void read_patches(struct tracer *t, uint32_t count)
{
    while (count--) {
        uint32_t head[2], left;
        read_all(head, sizeof head);
        uint8_t *p = find(t, head[0], &left);
        if (head[1] > left) {
            fprintf(stderr, "tracer: patch outside the regions: %x\n", head[0]);
            exit(2);
        }
        read_all(p, head[1]);
    }
}

static void run_case(struct tracer *t, const struct case_header *c)
{
    static uint8_t before[ALL_BYTES];
    struct result_header res = {0};
    struct user_regs_struct r;
    if (c->max_steps > t->steps_max) {
        t->steps_max = c->max_steps;
        t->steps = realloc(t->steps, t->steps_max * sizeof *t->steps);
        if (!t->steps)
            die("tracer: memory");
    }
    memcpy(t->memory, t->base, ALL_BYTES);
    if (c->has_fpu)
        read_all(&t->fpu, sizeof t->fpu);
    read_patches(t, c->patches);
    memcpy(before, t->memory, ALL_BYTES);
    if (!t->pid)
        child_start(t);
    state_set(t, c);
    fpu_set(t, c);
    ptrace(PTRACE_GETREGS, t->pid, NULL, &r);
    run_steps(t, c, &res, &r);
    if (c->has_fpu && res.outcome != FAULT && res.outcome != DIED)
        ptrace(PTRACE_GETFPREGS, t->pid, NULL, &t->fpu);
    uint32_t sreg[6] = {(uint32_t)r.es, (uint32_t)r.cs, (uint32_t)r.ss, (uint32_t)r.ds, (uint32_t)r.fs, (uint32_t)r.gs};
    memcpy(res.sreg, sreg, sizeof sreg);
    /* ptrace cannot clear EFLAGS.ID again */
    if (res.outcome == DIED || res.end.eflags & EFLAGS_ID)
        child_stop(t);
    write_runs(t, &res, before);
    if (c->has_fpu)
        write_all(&t->fpu, sizeof t->fpu);
}

int main(int argc, char **argv)
{
    static struct tracer t;
    struct case_header c;
    if (argc != 2) {
        fprintf(stderr, "usage: tracer CHILD < cases > results\n");
        return 2;
    }
    t.child_path = argv[1];
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    t.fd = memfd_create("oracle", 0);
    size_t size = (REGION_PAGES + SIGSTACK_PAGES) * PAGE;
    if (t.fd < 0 || ftruncate(t.fd, (off_t)size))
        die("memfd_create");
    t.memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, t.fd, 0);
    if (t.memory == MAP_FAILED)
        die("mmap");
    read_all(t.base, ALL_BYTES);
    while (fread(&c, sizeof c, 1, stdin) == 1)
        run_case(&t, &c);
    if (t.pid)
        child_stop(&t);
    return fflush(stdout) ? 1 : 0;
}
