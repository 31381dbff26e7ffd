/* paging.c: 32-bit page tables with 4 KiB and 4 MiB pages (SDM vol. 3, 4.3), PAE's with 4 KiB and 2 MiB (4.4).
 * Physical addresses have 32 bits, as CPUID says, so that all of a PAE entry's upper half is reserved. */
#include "paging.h"

#include <string.h>

#include "machine.h"
#include "mmu.h"

/* Entries, SDM vol. 3, tables 4-4 to 4-6 and 4-8 to 4-11 */
#define PTE_P 0x001u
#define PTE_RW 0x002u
#define PTE_US 0x004u
#define PTE_A 0x020u
#define PTE_D 0x040u
#define PDE_PS 0x080u
#define LARGE_FRAME 0x1FFFu         /* below these bits lie a large page's flags, PAT included */
#define POINTER_RESERVED 0x000001E6u

/* #PF error code, SDM vol. 3, 4.7 */
#define PF_P 0x01u
#define PF_W 0x02u
#define PF_U 0x04u
#define PF_RSVD 0x08u

struct walk {
    u32 addr[2];                /* physical addresses of the PDE and PTE */
    u32 entry[2];               /* what they hold, the lower half with PAE */
    unsigned last;              /* index of the entry that maps the page: 0 for a large one */
    u32 rights;                 /* RW and US: the AND of the levels */
    u32 phys;
    u32 error;                  /* P and RSVD bits when the walk failed */
};

/* Read an entry. False: the walk ends at it. */
static bool entry_read(const struct cpu *cpu, struct walk *w, unsigned level, u32 addr)
{
    bool pae = cpu->cr4 & CR4_PAE;
    addr &= cpu->machine->a20_mask;
    u32 entry = phys_read(cpu->machine, addr, 4);
    struct page *page = memory_page(&cpu->machine->mem, addr >> PAGE_SHIFT);
    if (page)
        page->walked = true;
    w->addr[level] = addr;
    w->last = level;
    w->entry[level] = entry;
    w->rights &= entry;
    if (!(entry & PTE_P))
        return false;
    if (pae && phys_read(cpu->machine, addr + 4, 4))
        w->error = PF_P | PF_RSVD;
    return !w->error;
}

static bool walk_tables(const struct cpu *cpu, u32 lin, struct walk *w)
{
    bool pae = cpu->cr4 & CR4_PAE;
    u32 large = pae ? 0x1FFFFF : 0x3FFFFF, size = pae ? 8 : 4, index = PAGE_SIZE / size - 1;
    u32 directory = pae ? cpu->pdpte[lin >> 30] : cpu->cr3 | PTE_P;

    w->error = 0;
    w->rights = PTE_RW | PTE_US;
    if (!(directory & PTE_P) ||
        !entry_read(cpu, w, 0, (directory & ~PAGE_MASK) + (lin >> (pae ? 21 : 22) & index) * size))
        return false;
    u32 pde = w->entry[0];
    if (pde & PDE_PS && cpu->cr4 & (CR4_PSE | CR4_PAE)) {
        w->phys = (pde & ~large) | (lin & large);
        w->error = PF_P | PF_RSVD;
        return !(pde & large & ~LARGE_FRAME);
    }
    if (!entry_read(cpu, w, 1, (pde & ~PAGE_MASK) + (lin >> PAGE_SHIFT & index) * size))
        return false;
    w->phys = (w->entry[1] & ~PAGE_MASK) | (lin & PAGE_MASK);
    return true;
}

bool paging_load_pointers(struct cpu *cpu, u32 cr3)
{
    u32 pointers[4], at = cr3 & ~0x1Fu;
    for (unsigned i = 0; i < 4; i++) {
        pointers[i] = phys_read(cpu->machine, at + 8 * i, 4);
        bool reserved = (pointers[i] & POINTER_RESERVED) || phys_read(cpu->machine, at + 8 * i + 4, 4);
        if (pointers[i] & PTE_P && reserved)
            return false;
    }
    memcpy(cpu->pdpte, pointers, sizeof(pointers));
    return true;
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
        *ret = (struct translation){lin & cpu->machine->a20_mask, true};
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
    *ret = (struct translation){w.phys & cpu->machine->a20_mask, writable && w.entry[w.last] & PTE_D};
    return true;
}

bool paging_probe(const struct cpu *cpu, u32 lin, u32 *ret)
{
    struct walk w = {.phys = lin};
    bool mapped = !(cpu->cr0 & CR0_PG) || walk_tables(cpu, lin, &w);
    *ret = w.phys & cpu->machine->a20_mask;
    return mapped;
}
