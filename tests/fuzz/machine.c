/*
 * machine.c: libFuzzer target for whole machines. An input is
 *
 *     mode, 8 registers, count, count x (offset, length, bytes), code
 *
 * The patches go into the area that PATCH_FROM and PATCH_SIZE name: the code's own page and its data, the descriptor
 * tables, or the page tables. The same start is run twice, as fast as it goes and one instruction at a time; besides
 * what sanitizers see, both must end in the same state: decoded blocks, single steps and stops are one machine. With
 * CPUS of 2 the second one starts a little behind the first with other registers, in turns that the mode's high bits give.
 */
#include <stdlib.h>
#include <string.h>

#include "machine.h"

#ifndef PATCH_FROM
#error "the build names the area that patches go to: PATCH_FROM, PATCH_SIZE"
#endif
#ifndef CPUS
#define CPUS 1
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FRAMES = 64, LIMIT = 300, TABLES = 0x1000, GDT = 0x1000, IDT = 0x1800, TSS = 0x2000, DIRECTORY = 0x4000, TABLE = 0x5000,
       HANDLER = 0x3000, CODE = 0x8000, STACK = 0x1F000 };
enum { K_CS = 0x08, K_DS = 0x10, U_CS = 0x1B, U_DS = 0x23, TASK = 0x28, K_CS16 = 0x30, K_DS16 = 0x38, TASK_2 = 0x40 };
enum mode_bits { REAL = 0, FLAT = 1, CODE16 = 2, V86 = 3, MODE_KIND = 3, USER = 4, PAGING = 8, TRACE = 16, INTERRUPTS = 32,
                 ALIGNED = 64, BREAKPOINTS = 128 };

static const u32 gdt[][2] = {
    {0, 0}, {0x0000FFFF, 0x00CF9B00}, {0x0000FFFF, 0x00CF9300}, {0x0000FFFF, 0x00CFFB00}, {0x0000FFFF, 0x00CFF300},
    {TSS << 16 | 0x200, 0x00008900}, {0x0000FFFF, 0x00009B00}, {0x0000FFFF, 0x00009300},
    {(TSS + 0x400) << 16 | 0x67, 0x00008900},
};

static void must(bool holds)
{
    if (!holds)
        abort();
}

static int callback(u32 tag, int kind, int index, u32 arg)
{
    (void)tag, (void)kind, (void)index, (void)arg;
    return 0;
}

static void pre(u32 tag, int index)
{
    (void)tag, (void)index;
}

struct reader {
    const u8 *at;
    size_t left;
};

static u32 take(struct reader *r, unsigned size)
{
    u32 value = 0;
    size_t n = r->left < size ? r->left : size;
    if (n)
        memcpy(&value, r->at, n);
    r->at += n;
    r->left -= n;
    return value;
}

static void segment(struct cpu *cpu, unsigned seg, u16 selector, u32 base, u32 limit, u16 attr)
{
    cpu->seg[seg] = (struct segment){base, limit, selector, attr};
}

/* Four bytes of data, an instruction and a port, at what registers hold. */
static void set_breakpoints(struct cpu *cpu)
{
    must(cpu_write_control(cpu, 4, cpu->cr4 | (CR4_DE & cpu->model->cr4)));
    cpu_write_debug(cpu, 0, cpu->gpr[EBX]);
    cpu_write_debug(cpu, 1, CODE + (cpu->gpr[ESI] & 63));
    cpu_write_debug(cpu, 2, cpu->gpr[EDX]);
    cpu_write_debug(cpu, 7, 0x020F0015);
}

static void set_mode(struct cpu *cpu, u32 mode)
{
    unsigned kind = mode & MODE_KIND, ring = kind == V86 || (kind != REAL && (mode & USER)) ? 3 : 0;
    bool flat = kind == FLAT;
    cpu->gdtr = (struct dtable){GDT, sizeof(gdt) + 0x100};
    cpu->idtr = (struct dtable){kind == REAL ? 0 : IDT, 0x7FF};
    cpu->cr3 = DIRECTORY;
    cpu->cr0 = CR0_ET | (kind == REAL ? 0 : CR0_PE | (mode & PAGING ? CR0_PG : 0)) | (mode & ALIGNED ? CR0_AM | CR0_NE : 0);
    cpu->cr0 &= cpu->model->cr0 | CR0_ET;
    cpu->cpl = (u8)ring;
    segment(cpu, TR, TASK, TSS, 0x200, 0x008B);
    segment(cpu, CS, flat ? ring ? U_CS : K_CS : K_CS16, 0, flat ? 0xFFFFFFFF : 0xFFFF, flat ? ring ? 0xC0FB : 0xC09B : 0x009B);
    for (unsigned i = ES; i <= GS; i++)
        if (i != CS)
            segment(cpu, i, flat ? ring ? U_DS : K_DS : K_DS16, 0, flat ? 0xFFFFFFFF : 0xFFFF, flat ? ring ? 0xC0F3 : 0xC093 : 0x0093);
    if (kind == REAL || kind == V86)
        for (unsigned i = ES; i <= GS; i++)
            segment(cpu, i, 0, 0, 0xFFFF, kind == V86 ? 0x00F3 : 0x0093);
    u32 ac = mode & ALIGNED ? EFLAGS_AC & cpu->model->eflags : 0;
    cpu_set_eflags(cpu, EFLAGS_FIXED | ac | (kind == V86 ? EFLAGS_VM | EFLAGS_IOPL : 0) | (mode & TRACE ? EFLAGS_TF : 0) |
                            (mode & INTERRUPTS ? EFLAGS_IF : 0));
    mode_update(cpu);
    must(cpu_write_control(cpu, 4, (CR4_OSFXSR | CR4_OSXMMEXCPT) & cpu->model->cr4));
    if (mode & BREAKPOINTS)
        set_breakpoints(cpu);
}

static void set_memory(struct machine *m)
{
    for (u32 i = 0; i < 2 * sizeof(gdt) / sizeof(gdt[0]); i++)
        phys_write(m, GDT + 4 * i, gdt[i / 2][i % 2], 4);
    for (u32 vector = 0; vector < 64; vector++) {
        phys_write(m, IDT + 8 * vector, K_CS << 16 | (HANDLER + 4 * vector), 4);
        phys_write(m, IDT + 8 * vector + 4, 0xEE00 | (vector & 1) << 8, 4);
        phys_write(m, HANDLER + 4 * vector, 0xCF909090, 4);     /* iret */
        phys_write(m, 4 * vector, HANDLER + 4 * vector, 4);     /* real mode's vectors */
    }
    phys_write(m, TSS + 4, STACK, 4);
    phys_write(m, TSS + 8, K_DS, 4);
    phys_write(m, TSS + 102, 0x68, 2);
    phys_write(m, DIRECTORY, TABLE | 7, 4);
    for (u32 i = 0; i < FRAMES; i++)
        phys_write(m, TABLE + 4 * i, i << PAGE_SHIFT | 7, 4);
}

/* Mostly the processor with all features; the count of patches leaves three bits of its byte for this. */
static int cpu_of(struct reader r)
{
    static const u8 kinds[8] = {CPU_P4, CPU_P4, CPU_P4, CPU_P3, CPU_PPRO, CPU_PENTIUM, CPU_486, CPU_386};
    return kinds[r.left > 33 ? r.at[33] >> 5 : 0];
}

static struct machine *start(struct reader r)
{
    struct machine_config config = {.memory_pages = FRAMES, .cpus = CPUS, .kernel = KERNEL_NONE, .kprobes = KPROBES_OFF,
                                    .cpu = cpu_of(r), .callback = callback, .pre = pre};
    struct machine *m = machine_create(&config);
    must(m);
    u32 mode = take(&r, 1);
    for (unsigned i = 0; i < 8; i++)
        m->cpu->gpr[i] = take(&r, 4);
    set_memory(m);
    for (u32 count = take(&r, 1) & 31; count; count--) {
        u32 offset = take(&r, 2), length = take(&r, 1);
        for (u32 i = 0; i < length; i++)
            phys_write(m, PATCH_FROM + (offset + i) % PATCH_SIZE, take(&r, 1), 1);
    }
    for (u32 i = 0; r.left && i < 0x800; i++)
        phys_write(m, CODE + i, take(&r, 1), 1);
    for (u32 i = 0; i < CPUS; i++) {
        for (unsigned reg = 0; i && reg < 8; reg++)
            m->cpus[i]->gpr[reg] = m->cpu->gpr[reg] + 0x1004 * i;
        set_mode(m->cpus[i], mode);
        m->cpus[i]->eip = CODE + 8 * i;
        m->cpus[i]->parked = false;
    }
    must(machine_set_schedule(m, SCHEDULE_QUANTUM, 1 + 33 * (mode >> 6), NULL, 0) == 0);
    return m;
}

static void same_cpu(struct machine *a, struct machine *b)
{
    for (int id = 0; id < REG_COUNT; id++)
        must(machine_get_reg(a, id) == machine_get_reg(b, id));
    must(!memcmp(a->cpu->seg, b->cpu->seg, sizeof(a->cpu->seg)));
    must(!memcmp(a->cpu->sse.xmm, b->cpu->sse.xmm, sizeof(a->cpu->sse.xmm)) && a->cpu->sse.mxcsr == b->cpu->sse.mxcsr);
    must(a->cpu->fpu.control == b->cpu->fpu.control && a->cpu->fpu.status == b->cpu->fpu.status);
    for (unsigned i = 0; i < 8; i++)
        must(a->cpu->fpu.st[i].mant == b->cpu->fpu.st[i].mant && a->cpu->fpu.st[i].se == b->cpu->fpu.st[i].se);
    must(cpu_icount(a->cpu) == cpu_icount(b->cpu));
}

static void same(struct machine *a, struct machine *b)
{
    must(machine_current(a) == machine_current(b));
    for (int cpu = 0; cpu < CPUS; cpu++) {
        machine_focus(a, cpu);
        machine_focus(b, cpu);
        same_cpu(a, b);
    }
    for (u32 frame = 0; frame < FRAMES; frame++)
        must(!memcmp(memory_page(&a->mem, frame)->data, memory_page(&b->mem, frame)->data, PAGE_SIZE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = {data, size};
    struct machine *fast = start(r), *slow = start(r);
    int reason = machine_run(fast, LIMIT), each = STOP_NONE;
    u64 icount = machine_icount(fast);
    must(icount <= LIMIT);
    bool moving = reason != STOP_NONE || icount == LIMIT;   /* else traps follow each other and nothing retires */
    while (moving && each == STOP_NONE && machine_icount(slow) < LIMIT)
        each = machine_run(slow, 1);
    if (moving) {
        must(reason == each && icount == machine_icount(slow));
        same(fast, slow);
    }
    machine_destroy(fast);
    machine_destroy(slow);
    return 0;
}
