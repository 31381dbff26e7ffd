/*
 * kernel.h: the built-in kernel side. It lays GDT, IDT, TSS, page tables and
 * a stack in guest memory as trap_init of the patch does, and serves the entry
 * points that the gates lead to.
 *
 * kernel.c lays it out, kernel_map.c maps memory, kernel_traps.c serves.
 */
#ifndef PYK_KERNEL_H
#define PYK_KERNEL_H

#include "machine.h"

/* Selectors of Linux 2.4 and 2.5 (asm-i386/segment.h, desc.h). */
#define KERNEL_CS 0x10
#define KERNEL_DS 0x18
#define USER_CS 0x23
#define USER_DS 0x2B
#define KERNEL_TSS 0x60
#define KERNEL_LDT 0x68

/* A CPU's own TSS or LDT descriptor, as desc.h of 2.5.26 numbers them. */
ALWAYS_INLINE u16 kernel_selector(u16 selector, u32 cpu)
{
    return (u16)(selector + 32 * cpu);
}

#define ENTRY_STRIDE 16u        /* bytes from one entry point or import stub to the next */

struct kernel {
    struct kernel_layout layout;
    struct segment code, data;  /* hidden parts of KERNEL_CS and KERNEL_DS */
    u32 gate[2][2], cs[2];      /* descriptors as they were laid: gates of vectors 1 and 3, KERNEL_CS */
    u32 directory;              /* physical address of the page directory */
    u32 *pool;                  /* frames of memory that was unmapped */
    u32 pool_used, pool_size;
};

/* RAM must be there already. False: out of host memory, or RAM reaches into the kernel side's stack. Sets the CPU to
 * ring 0, paging on, flat segments, interrupts on. */
bool kernel_create(struct machine *m);
void kernel_destroy(struct machine *m);

/* Is this linear address served by C instead of being decoded? */
bool kernel_serves(const struct machine *m, u32 lin);
/* Serve the entry point, import stub or call return at cpu->eip. STATUS_JUMP: go on at cpu->eip; STATUS_STOP. */
int kernel_enter(struct machine *m);
/* cpu->fault, delivered and served at once if it is a probe's trap in kernel code through a gate as it was laid. The
 * outcome is that of trap_deliver and kernel_enter; STATUS_FAULT: another case, nothing was done. */
int kernel_trap(struct machine *m);
/* Does the CPU use the built-in side's IDT? */
bool kernel_owns_traps(const struct machine *m);
/* Would vectors 1 and 3 go through unchanged tables from kernel code on a kernel stack? cpu->plain_hits is cleared when
 * that changes: the tables' pages are marked for it. */
bool kernel_plain_traps(struct machine *m);
/* The linear address of a vector's entry point. */
u32 kernel_entry(const struct machine *m, unsigned vector);

/* Map fresh RAM, rights as machine_map, only where nothing is mapped; results as machine_map. */
int kernel_map(struct machine *m, u32 lin, u32 pages, int rights);
/* Is there RAM in the physical addresses [first, last] other than the RAM from 0: page tables, mapped memory? */
bool kernel_owns_frames(const struct machine *m, u32 first, u32 last);
/* Map physical addresses [first, last] at their own linear ones where nothing is mapped. False: out of memory. */
bool kernel_map_device(struct machine *m, u32 first, u32 last);
/* Map RAM frames [0, pages) at their own addresses but for page 0. */
bool kernel_map_ram(struct machine *m, u32 pages);
/* A free frame with RAM. False: none left. */
bool kernel_frame(struct machine *m, u32 *ret);

#endif
