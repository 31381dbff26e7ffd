/*
 * paging.h: the page-table walk. No cache: mmu.h has the TLB.
 */
#ifndef PYK_PAGING_H
#define PYK_PAGING_H

#include "cpu.h"

struct translation {
    u32 phys;                   /* physical address */
    bool writable;              /* a store of the same privilege is allowed and D is already set */
};

/* Translate with the rights of the access, set A, and D for a write. False: cpu->fault is the #PF, no bit was set. */
bool paging_walk(struct cpu *cpu, u32 lin, unsigned access, struct translation *ret);
/* Load the four page-directory pointers of PAE. False: one that is present has a reserved bit; nothing changed. */
bool paging_load_pointers(struct cpu *cpu, u32 cr3);
/* Translate without rights, faults and A and D bits. False: not mapped. */
bool paging_probe(const struct cpu *cpu, u32 lin, u32 *ret);

#endif
