/* tables.c: descriptor tables, task state segment, page tables. */
#include "kernel.h"

#define GATE_INTERRUPT 0x8E00u          /* present, 32-bit interrupt gate: SDM vol. 3, 6.11 */
#define GATE_DPL3 0x6000u
#define TSS_AVAILABLE 0x89u             /* present, DPL 0, 32-bit TSS: SDM vol. 3, 7.2.2 */
#define CR0_PG 0x80000000u
#define PAGE_SIZE 4096u
#define PTE_PRESENT 1u
#define PTE_WRITE 2u
#define PTE_USER 4u

struct table_register {
    u16 limit;
    u32 base;
} __attribute__((packed));

/* The fields that a stack switch reads; the rest of the 104 bytes stays zero (SDM vol. 3, 7.2.1). */
struct tss {
    u32 link;
    u32 esp0;
    u32 ss0;
    u32 unused[22];
    u16 trap;
    u16 io_map;
};
_Static_assert(sizeof(struct tss) == 104, "a 32-bit TSS");

static struct tss tss;
static u32 idt[256][2];
static u32 gdt[6][2] = {
    { 0, 0 },
    { 0x0000FFFF, 0x00CF9A00 },         /* KERNEL_CS: base 0, 4 GiB, execute and read */
    { 0x0000FFFF, 0x00CF9200 },         /* KERNEL_DS: read and write */
    { 0x0000FFFF, 0x00CFFA00 },         /* USER_CS: DPL 3 */
    { 0x0000FFFF, 0x00CFF200 },         /* USER_DS: DPL 3 */
};
static u32 page_directory[1024] __attribute__((aligned(4096)));
static u32 page_table[1024] __attribute__((aligned(4096)));

PROBEABLE void set_gate(u32 vector, u32 address, u32 rights)
{
    idt[vector][0] = KERNEL_CS << 16 | (address & 0xFFFF);
    idt[vector][1] = (address & 0xFFFF0000u) | rights;
}

/* The image in place, all of it within one page table; only [user_start, user_end) is open to ring 3. */
PROBEABLE void paging_init(void)
{
    u32 first = (u32)image_start & ~(PAGE_SIZE - 1);
    for (u32 page = first; page < (u32)image_end; page += PAGE_SIZE) {
        u32 user = page >= (u32)user_start && page < (u32)user_end ? PTE_USER : 0;
        page_table[page / PAGE_SIZE % 1024] = page | PTE_PRESENT | PTE_WRITE | user;
    }
    page_directory[first >> 22] = (u32)page_table | PTE_PRESENT | PTE_WRITE | PTE_USER;

    u32 cr0;
    __asm__ volatile("mov %0, %%cr3" : : "r"(page_directory) : "memory");
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0 | CR0_PG) : "memory");
}

void tables_set_kernel_stack(u32 top)
{
    tss.esp0 = top;
}

void tables_init(void)
{
    struct table_register gdtr = { sizeof gdt - 1, (u32)gdt };
    struct table_register idtr = { sizeof idt - 1, (u32)idt };
    u32 cr0, base = (u32)&tss;

    for (u32 i = 0; i < TRAP_STUBS; i++)
        set_gate(i, trap_stubs[i], GATE_INTERRUPT);
    set_gate(3, trap_stubs[3], GATE_INTERRUPT | GATE_DPL3);
    set_gate(SYSTEM_CALL_VECTOR, system_call_stub, GATE_INTERRUPT | GATE_DPL3);

    tss.ss0 = KERNEL_DS;
    tss.io_map = sizeof tss;            /* beyond the limit: no port is open to ring 3 */
    gdt[TSS_SELECTOR / 8][0] = base << 16 | (sizeof tss - 1);
    gdt[TSS_SELECTOR / 8][1] = (base & 0xFF000000u) | TSS_AVAILABLE << 8 | (base >> 16 & 0xFF);

    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    if (!(cr0 & CR0_PG))
        paging_init();
    load_tables(&gdtr, &idtr);
}
