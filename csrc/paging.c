/* paging.c: two-level page tables, 4 KiB and 4 MiB pages (SDM vol. 3, 4.3). */
#include "paging.h"

#include "machine.h"
#include "mmu.h"

/* Entries, SDM vol. 3, tables 4-4 to 4-6 */
#define PTE_P 0x001u
#define PTE_RW 0x002u
#define PTE_US 0x004u
#define PTE_A 0x020u
#define PTE_D 0x040u
#define PDE_PS 0x080u
#define PDE_RESERVED 0x003FE000u    /* of a 4 MiB page, without PSE-36 */
#define LARGE_MASK 0x003FFFFFu

/* #PF error code, SDM vol. 3, 4.7 */
#define PF_P 0x01u
#define PF_W 0x02u
#define PF_U 0x04u
#define PF_RSVD 0x08u

struct walk {
    u32 addr[2];                /* physical addresses of the PDE and PTE */
    u32 entry[2];               /* what they hold */
    unsigned last;              /* index of the entry that maps the page: 0 for 4 MiB */
    u32 rights;                 /* RW and US: the AND of the levels */
    u32 phys;
    u32 error;                  /* P and RSVD bits when the walk failed */
};

static u32 entry_read(const struct cpu *cpu, struct walk *w, unsigned level, u32 addr)
{
    w->addr[level] = addr;
    w->last = level;
    return w->entry[level] = phys_read(cpu->machine, addr, 4);
}

static bool walk_tables(const struct cpu *cpu, u32 lin, struct walk *w)
{
    u32 pde = entry_read(cpu, w, 0, (cpu->cr3 & ~PAGE_MASK) + (lin >> 22) * 4);

    w->error = 0;
    w->rights = pde;
    if (!(pde & PTE_P))
        return false;
    if (pde & PDE_PS && cpu->cr4 & CR4_PSE) {
        w->error = PF_P | PF_RSVD;
        w->phys = (pde & ~LARGE_MASK) | (lin & LARGE_MASK);
        return !(pde & PDE_RESERVED);
    }

    u32 pte = entry_read(cpu, w, 1, (pde & ~PAGE_MASK) + (lin >> PAGE_SHIFT & 1023) * 4);
    w->rights &= pte;
    w->phys = (pte & ~PAGE_MASK) | (lin & PAGE_MASK);
    return pte & PTE_P;
}

/* SDM vol. 3, 4.6: supervisor code may write read-only pages unless CR0.WP. */
static bool may_read(const struct walk *w, bool user)
{
    return !user || w->rights & PTE_US;
}
static bool may_write(const struct cpu *cpu, const struct walk *w, bool user)
{
    return may_read(w, user) && (w->rights & PTE_RW || (!user && !(cpu->cr0 & CR0_WP)));
}

static void set_bits(struct cpu *cpu, struct walk *w, unsigned level, u32 bits)
{
    if (~w->entry[level] & bits)
        phys_write(cpu->machine, w->addr[level], w->entry[level] |= bits, 4);
}

static COLD bool page_fault(struct cpu *cpu, u32 lin, unsigned access, bool user, u32 error)
{
    cpu_fault_code(cpu, T_PGFLT, error | (access & ACCESS_WRITE ? PF_W : 0) | (user ? PF_U : 0));
    cpu->fault.address = lin;
    return false;
}

bool paging_walk(struct cpu *cpu, u32 lin, unsigned access, struct translation *ret)
{
    if (!(cpu->cr0 & CR0_PG)) {
        *ret = (struct translation){lin, true};
        return true;
    }

    struct walk w;
    bool user = mmu_user(cpu, access);
    if (!walk_tables(cpu, lin, &w))
        return page_fault(cpu, lin, access, user, w.error);
    bool writable = may_write(cpu, &w, user);
    if (access & ACCESS_WRITE ? !writable : !may_read(&w, user))
        return page_fault(cpu, lin, access, user, PF_P);

    if (w.last)
        set_bits(cpu, &w, 0, PTE_A);
    set_bits(cpu, &w, w.last, access & ACCESS_WRITE ? PTE_A | PTE_D : PTE_A);
    *ret = (struct translation){w.phys, writable && w.entry[w.last] & PTE_D};
    return true;
}

bool paging_probe(const struct cpu *cpu, u32 lin, u32 *ret)
{
    struct walk w = {.phys = lin};
    bool mapped = !(cpu->cr0 & CR0_PG) || walk_tables(cpu, lin, &w);
    *ret = w.phys;
    return mapped;
}
