/*
 * mmu.h: from linear to physical addresses, and every access that is not a
 * TLB hit inside a hot handler.
 *
 * Functions that can fault return false with cpu->fault filled (#PF, with the
 * error code of SDM vol. 3, 4.7); nothing was accessed then.
 */
#ifndef PYK_MMU_H
#define PYK_MMU_H

#include "cpu.h"

enum access {
    ACCESS_READ = 0,
    ACCESS_WRITE = 1,           /* also means: readable is not enough */
    ACCESS_SYSTEM = 2,          /* supervisor access whatever CPL is: descriptor tables, TSS, inner stacks */
    ACCESS_FETCH = 4,
    ACCESS_DATA = 8,            /* with ACCESS_SYSTEM: and yet data breakpoints see it: inner stacks */
};

/* Has the access user rights? Virtual-8086 code runs at CPL 3. */
ALWAYS_INLINE bool mmu_user(const struct cpu *cpu, unsigned access)
{
    return cpu->cpl == 3 && !(access & ACCESS_SYSTEM);
}
/* The TLB entry that may serve an access. */
ALWAYS_INLINE struct tlb_entry *tlb_slot(struct cpu *cpu, u32 lin, unsigned access)
{
    struct tlb_entry *tlb = access & ACCESS_SYSTEM ? cpu->tlbs[TLB_SUPERVISOR] : cpu->tlb;
    return &tlb[lin >> PAGE_SHIFT & (TLB_SIZE - 1)];
}
/* SDM vol. 3, 6.15, interrupt 17: CR0.AM, EFLAGS.AC and CPL 3, as mode_update() found them. */
ALWAYS_INLINE bool mmu_aligns(const struct cpu *cpu)
{
    return cpu->tlb == cpu->tlbs[TLB_ALIGNED];
}
/* Host address of an access that the TLB serves now, or NULL. */
ALWAYS_INLINE u8 *tlb_host(struct cpu *cpu, u32 lin, u32 size, unsigned access)
{
    const struct tlb_entry *e = tlb_slot(cpu, lin, access);
    u32 tag = access & ACCESS_WRITE ? e->write_tag : e->read_tag;
    return likely(lin - tag <= PAGE_SIZE - size) ? e->host + lin : NULL;
}

/* Physical address of a linear one; sets accessed and dirty bits. */
bool mmu_translate(struct cpu *cpu, u32 lin, unsigned access, u32 *ret);
/* The same without side effects or faults, as supervisor: for debuggers. False: not mapped. */
bool mmu_probe(struct cpu *cpu, u32 lin, u32 *ret);

/* Linear accesses, 1, 2 or 4 bytes (lin_check_write: up to PAGE_SIZE), any alignment. access: ACCESS_SYSTEM, for
 * lin_write perhaps with ACCESS_DATA, or 0 for the current privilege. */
bool lin_read(struct cpu *cpu, u32 lin, unsigned size, unsigned access, u32 *ret);
bool lin_write(struct cpu *cpu, u32 lin, u32 value, unsigned size, unsigned access);
/* Would a write of size bytes fault? Faults if so; touches nothing but A and D bits. */
bool lin_check_write(struct cpu *cpu, u32 lin, unsigned size, unsigned access);

/* The same for any even number of bytes up to PAGE_SIZE, in words of four bytes. A write stores all of them or none. */
bool lin_read_bytes(struct cpu *cpu, u32 lin, void *buf, unsigned size);
bool lin_write_bytes(struct cpu *cpu, u32 lin, const void *buf, unsigned size);

/* Do limit and type allow the access? No fault, any size. */
bool seg_allows(const struct cpu *cpu, unsigned seg, u32 off, u32 size, unsigned access);
/* Segment check (limit, type, null; #GP(0) or #SS(0)) and then alignment check (#AC) giving the linear address. */
bool seg_linear(struct cpu *cpu, unsigned seg, u32 off, unsigned size, unsigned access, u32 *ret);
/* Both together: what an instruction's explicit memory operand does. */
bool mem_read(struct cpu *cpu, unsigned seg, u32 off, unsigned size, u32 *ret);
bool mem_write(struct cpu *cpu, unsigned seg, u32 off, u32 value, unsigned size);
/* Fault now if a following mem_write to the same place would: for read-modify-write and multi-part stores. */
bool mem_check_write(struct cpu *cpu, unsigned seg, u32 off, unsigned size);

/* For hot handlers' slow twins: value, or MEM_FAULT with cpu->fault set. */
#define MEM_FAULT (1ull << 32)

void tlb_init(struct cpu *cpu);
void tlb_flush(struct cpu *cpu);                /* MOV CR3, mode changes of paging; global pages too */
void tlb_flush_page(struct cpu *cpu, u32 lin);  /* INVLPG */
void tlb_flush_all(struct machine *m);          /* of every CPU: memory changed from outside */
/* Drop the write permission cached for a physical page, in all CPUs' TLBs: it now holds code or is watched. */
void tlb_protect(struct machine *m, u32 frame);
/* Drop all write permissions: no page is dirty any more. */
void tlb_clean(struct machine *m);

/* Drop what all CPUs' TLBs cache of a page whose data is about to move. */
void tlb_forget(struct machine *m, const u8 *data);

/* Debug access by linear address through supervisor eyes, no faults, no A/D bits, ignores write protection.
 * Returns the number of bytes done before the first unmapped page. Writes keep decoded code coherent. */
u32 mmu_peek(struct cpu *cpu, u32 lin, void *buf, u32 size);
u32 mmu_poke(struct cpu *cpu, u32 lin, const void *buf, u32 size);

#endif
