/* kernel.c: what the built-in kernel side lays in guest memory, and the CPU state to start with. */
#include "kernel.h"

#include <stdlib.h>
#include <string.h>

#include "kprobe.h"
#include "mmu.h"
#include "trap.h"

#define PAGES(n) ((n) << PAGE_SHIFT)
#define WINDOW 0xFF000000u
#define IMPORT_PAGES 16u
#define TRAP_STACK_PAGES 16u
#define STACK_END 0xC0000000u
#define STACK_PAGES 256u
#define STACK_STRIDE PAGES(STACK_PAGES + 1)   /* from a CPU's stack to the next one's, below; a page stays unmapped */
#define TRAP_STACK_STRIDE PAGES(TRAP_STACK_PAGES + 1)
#define TSS_BYTES 128u
#define STACK_MARGIN 16u        /* bytes above the first esp: the esp and ss words of a frame there can be read */

/* Pages of the window; imports and the trap stack are several, with an unmapped page between. */
enum window_page { PAGE_GDT, PAGE_IDT, PAGE_TSS, PAGE_LDT, PAGE_ENTRY, PAGE_RETURN, PAGE_IMPORTS,
                   PAGE_GUARD = PAGE_IMPORTS + IMPORT_PAGES, PAGE_STACK, PAGE_END = PAGE_STACK + TRAP_STACK_PAGES };

static u32 window(unsigned page)
{
    return WINDOW + PAGES(page);
}

static const struct kernel_layout layout = {
    .gdt = WINDOW + PAGES(PAGE_GDT), .idt = WINDOW + PAGES(PAGE_IDT), .tss = WINDOW + PAGES(PAGE_TSS),
    .entry = WINDOW + PAGES(PAGE_ENTRY), .entry_size = 256 * ENTRY_STRIDE,
    .imports = WINDOW + PAGES(PAGE_IMPORTS), .import_stride = ENTRY_STRIDE,
    .import_max = PAGES(IMPORT_PAGES) / ENTRY_STRIDE,
    .call_return = WINDOW + PAGES(PAGE_RETURN), .trampoline = WINDOW + PAGES(PAGE_RETURN) + ENTRY_STRIDE,
    .park_return = WINDOW + PAGES(PAGE_RETURN) + 2 * ENTRY_STRIDE,
    .stack_top = STACK_END - STACK_MARGIN, .stack_bottom = STACK_END - PAGES(STACK_PAGES),
    .stack_stride = STACK_STRIDE,
    .window = WINDOW, .window_end = WINDOW + PAGES(PAGE_END) - 1,
};

_Static_assert(CPUS_MAX * TSS_BYTES <= PAGE_SIZE, "all TSSs lie in one page");

static void put(struct machine *m, u32 lin, const u32 words[2])
{
    mmu_poke(m->cpu, lin, words, 8);
}

/* A descriptor in the GDT (SDM vol. 3, 3.4.5): attr has descriptor bits 40-55, limit is in units of G. */
static void put_descriptor(struct machine *m, u16 selector, u32 base, u32 limit, u32 attr)
{
    const u32 desc[2] = {(base << 16) | (limit & 0xFFFF),
                         (base & 0xFF000000) | (limit & 0xF0000) | attr << 8 | (base >> 16 & 0xFF)};
    put(m, layout.gdt + (selector & 0xFFF8), desc);
}

#define FLAT_CODE 0xC09Bu       /* G, D, present, DPL 0, execute and read, accessed */
#define FLAT_DATA 0xC093u       /* G, B, present, DPL 0, read and write, accessed */
#define FLAT_LIMIT 0xFFFFFu
#define DPL3 0x60u
#define TSS_BUSY 0x8Bu          /* present, 32-bit TSS, busy: loaded in TR */
#define TSS_LIMIT 0x67u         /* no I/O bitmap: its base lies beyond the limit */
#define LDT_PRESENT 0x82u

static void lay_gdt(struct machine *m)
{
    put_descriptor(m, KERNEL_CS, 0, FLAT_LIMIT, FLAT_CODE);
    put_descriptor(m, KERNEL_DS, 0, FLAT_LIMIT, FLAT_DATA);
    put_descriptor(m, USER_CS, 0, FLAT_LIMIT, FLAT_CODE | DPL3);
    put_descriptor(m, USER_DS, 0, FLAT_LIMIT, FLAT_DATA | DPL3);
    for (u32 i = 0; i < m->cpu_count; i++) {
        put_descriptor(m, kernel_selector(KERNEL_TSS, i), layout.tss + i * TSS_BYTES, TSS_LIMIT, TSS_BUSY);
        put_descriptor(m, kernel_selector(KERNEL_LDT, i), window(PAGE_LDT), PAGE_MASK, LDT_PRESENT);
    }
}

/* esp0 and ss0: where traps from ring 3 arrive (SDM vol. 3, 7.2.1). */
static void lay_tss(struct machine *m, u32 cpu)
{
    const u32 top = window(PAGE_END) + cpu * TRAP_STACK_STRIDE, tss = layout.tss + cpu * TSS_BYTES;
    const u32 esp0[2] = {top - STACK_MARGIN, KERNEL_DS}, bitmap[2] = {0, 0x8000u << 16};
    put(m, tss + 4, esp0);
    put(m, tss + 0x60, bitmap);
}

enum gate_type { INTERRUPT_GATE = 14, TRAP_GATE = 15 };

struct gate {
    u8 type;                    /* enum gate_type */
    u8 dpl;
};

/* trap_init of 2.5.26; vectors 1 and 3 are set_gates_1_3's, all others are interrupt gates of DPL 0. */
static const struct gate traps[20] = {
    [0] = {TRAP_GATE, 0}, [2] = {INTERRUPT_GATE, 0}, [4] = {TRAP_GATE, 3}, [5] = {TRAP_GATE, 3},
    [6] = {TRAP_GATE, 0}, [7] = {TRAP_GATE, 0}, [8] = {TRAP_GATE, 0}, [9] = {TRAP_GATE, 0}, [10] = {TRAP_GATE, 0},
    [11] = {TRAP_GATE, 0}, [12] = {TRAP_GATE, 0}, [13] = {TRAP_GATE, 0}, [14] = {INTERRUPT_GATE, 0},
    [15] = {TRAP_GATE, 0}, [16] = {TRAP_GATE, 0}, [17] = {TRAP_GATE, 0}, [18] = {TRAP_GATE, 0}, [19] = {TRAP_GATE, 0},
};

/* The patch makes 1 and 3 interrupt gates that ring 3 may call; mended, ring 3 may not call 1. */
static struct gate gate_of(const struct machine *m, unsigned vector)
{
    const struct kprobe_semantics *mends = kprobe_semantics(m->config.kprobes);

    if (vector == T_DEBUG)
        return mends ? (struct gate){INTERRUPT_GATE, mends->int1_kernel_only ? 0 : 3} : (struct gate){TRAP_GATE, 0};
    if (vector == T_BRKPT)
        return (struct gate){mends ? INTERRUPT_GATE : TRAP_GATE, 3};
    if (vector == 0x80)
        return (struct gate){TRAP_GATE, 3};
    return vector < 20 ? traps[vector] : (struct gate){INTERRUPT_GATE, 0};
}

/* Gate descriptors (SDM vol. 3, figure 6-2). */
static void lay_idt(struct machine *m)
{
    for (unsigned vector = 0; vector < 256; vector++) {
        struct gate gate = gate_of(m, vector);
        u32 entry = layout.entry + vector * ENTRY_STRIDE;
        const u32 words[2] = {KERNEL_CS << 16 | (entry & 0xFFFF),
                              (entry & 0xFFFF0000) | 0x8000u | (u32)gate.dpl << 13 | (u32)gate.type << 8};
        put(m, layout.idt + vector * 8, words);
    }
}

static struct segment flat(u16 selector, u16 attr)
{
    return (struct segment){.limit = 0xFFFFFFFF, .selector = selector, .attr = attr};
}

static void set_cpu(struct machine *m, struct cpu *cpu)
{
    struct kernel *k = m->kernel;

    /* TS is set as after a task switch: the first x87 instruction comes to math_state_restore. What is there then is
     * what init_fpu gives a task that had not used the x87. */
    fpu_init(&cpu->fpu);
    cpu->cr3 = k->directory;
    cpu->cr0 = (CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_TS | CR0_MP | CR0_PE) & cpu->model->cr0;
    cpu->cr4 = (CR4_OSFXSR | CR4_OSXMMEXCPT) & cpu->model->cr4;
    tlb_flush(cpu);
    k->code = cpu->seg[CS] = flat(KERNEL_CS, FLAT_CODE);
    k->data = cpu->seg[DS] = cpu->seg[ES] = cpu->seg[SS] = flat(KERNEL_DS, FLAT_DATA);
    cpu->seg[FS] = cpu->seg[GS] = (struct segment){0};
    cpu->seg[TR] = (struct segment){layout.tss + cpu->index * TSS_BYTES, TSS_LIMIT, kernel_selector(KERNEL_TSS, cpu->index),
                                    TSS_BUSY};
    cpu->seg[LDTR] = (struct segment){window(PAGE_LDT), PAGE_MASK, kernel_selector(KERNEL_LDT, cpu->index), LDT_PRESENT};
    cpu->gdtr = (struct dtable){layout.gdt, PAGE_MASK};
    cpu->idtr = (struct dtable){layout.idt, 256 * 8 - 1};
    memset(cpu->gpr, 0, sizeof cpu->gpr);
    cpu->gpr[ESP] = layout.stack_top - cpu->index * STACK_STRIDE;
    cpu->eip = 0;
    cpu_set_eflags(cpu, EFLAGS_IF);
    mode_update(cpu);
}

/* Descriptor tables and entries are the kernel's; what code returns to and calls, any ring's. */
static bool map_window(struct machine *m)
{
    return kernel_map(m, window(PAGE_GDT), PAGE_RETURN - PAGE_GDT, MAP_WRITE) == 0 &&
           kernel_map(m, window(PAGE_RETURN), PAGE_GUARD - PAGE_RETURN, MAP_USER) == 0;
}

/* A CPU's stacks: for traps from ring 3, and the one it starts with. */
static bool map_stacks(struct machine *m, u32 cpu)
{
    const u32 trap = window(PAGE_STACK) + cpu * TRAP_STACK_STRIDE, stack = layout.stack_bottom - cpu * STACK_STRIDE;
    return kernel_map(m, trap, TRAP_STACK_PAGES, MAP_WRITE) == 0 &&
           kernel_map(m, stack, STACK_PAGES, MAP_WRITE | MAP_USER) == 0;
}

bool kernel_create(struct machine *m)
{
    struct kernel *k = m->kernel = calloc(1, sizeof *k);
    u32 frame;

    if (!k)
        return false;
    k->layout = layout;
    k->layout.stack_bottom -= (m->cpu_count - 1) * STACK_STRIDE;
    k->layout.window_end += (m->cpu_count - 1) * TRAP_STACK_STRIDE;
    if (m->config.memory_pages >= k->layout.stack_bottom >> PAGE_SHIFT || !kernel_frame(m, &frame))
        return false;
    k->directory = frame << PAGE_SHIFT;
    if (!kernel_map_ram(m, m->config.memory_pages) || !map_window(m))
        return false;
    for (u32 i = 0; i < m->cpu_count; i++) {
        if (!map_stacks(m, i))
            return false;
        set_cpu(m, m->cpus[i]);
        lay_tss(m, i);
    }
    lay_gdt(m);
    lay_idt(m);
    mmu_peek(m->cpu, layout.idt + 8 * T_DEBUG, k->gate[0], 8);
    mmu_peek(m->cpu, layout.idt + 8 * T_BRKPT, k->gate[1], 8);
    mmu_peek(m->cpu, layout.gdt + KERNEL_CS, k->cs, 8);
    return !m->mem.exhausted;
}

void kernel_destroy(struct machine *m)
{
    if (m->kernel)
        free(m->kernel->pool);
    free(m->kernel);
    m->kernel = NULL;
}

u32 kernel_entry(const struct machine *m, unsigned vector)
{
    return m->kernel->layout.entry + vector * ENTRY_STRIDE;
}

bool kernel_serves(const struct machine *m, u32 lin)
{
    const struct kernel *k = m->kernel;

    return k && lin - window(PAGE_ENTRY) < PAGES(PAGE_GUARD - PAGE_ENTRY) && m->cpu->cr3 == k->directory &&
           (m->cpu->cr0 & CR0_PG);
}

bool kernel_owns_traps(const struct machine *m)
{
    const struct cpu *cpu = m->cpu;
    return m->kernel && cpu->idtr.base == layout.idt && cpu->cr3 == m->kernel->directory && (cpu->cr0 & CR0_PG);
}

const struct kernel_layout *machine_kernel_layout(machine *m)
{
    return m->kernel ? &m->kernel->layout : NULL;
}

void machine_claim_trap(machine *m, uint8_t vector, int on)
{
    u64 bit = 1ull << (vector & 63);

    if (on)
        m->trap_claimed[vector >> 6] |= bit;
    else
        m->trap_claimed[vector >> 6] &= ~bit;
}
