#include "debug.h"

#include "block.h"
#include "machine.h"
#include "mmu.h"

enum { BREAK_CODE = 0, BREAK_WRITE = 1, BREAK_IO = 2, BREAK_READ_WRITE = 3 };

static bool enabled(u32 dr7, unsigned i)
{
    return dr7 >> (2 * i) & 3;
}

static unsigned kind(u32 dr7, unsigned i)
{
    return dr7 >> (16 + 4 * i) & 3;
}

/* Bytes watched less one: 0, 1, 3; the length code 2 is undefined there and taken as 4 bytes. */
static u32 length_mask(u32 dr7, unsigned i)
{
    static const u8 masks[4] = {0, 1, 3, 3};
    return masks[dr7 >> (18 + 4 * i) & 3];
}

static bool is_data(u32 dr7, unsigned i)
{
    return enabled(dr7, i) && (kind(dr7, i) == BREAK_WRITE || kind(dr7, i) == BREAK_READ_WRITE);
}

static bool is_code(u32 dr7, unsigned i)
{
    return enabled(dr7, i) && kind(dr7, i) == BREAK_CODE;
}

static void drop_code(struct cpu *cpu, const u32 dr[8])
{
    for (unsigned i = 0; i < 4; i++)
        if (is_code(dr[7], i))
            code_invalidate_lin(cpu, dr[i], 1);
}

void debug_changed(struct cpu *cpu, const u32 old[8])
{
    bool any = false;
    drop_code(cpu, old);
    drop_code(cpu, cpu->dr);
    for (unsigned i = 0; i < 4; i++)
        any |= is_data(old[7], i) || is_data(cpu->dr[7], i);
    debug_update(cpu);
    if (any)
        tlb_flush(cpu);
}

void debug_update(struct cpu *cpu)
{
    cpu->code_breaks = cpu->machine->watches.kinds & WATCH_EXECUTE;
    for (unsigned i = 0; i < 4; i++)
        cpu->code_breaks |= is_code(cpu->dr[7], i);
}

u32 debug_code(const struct cpu *cpu, u32 lin)
{
    u32 bits = 0;
    for (unsigned i = 0; i < 4; i++)
        if (is_code(cpu->dr[7], i) && cpu->dr[i] == lin)
            bits |= 1u << i;
    return bits;
}

bool debug_page(const struct cpu *cpu, u32 lin)
{
    if (likely(!(cpu->dr[7] & DR7_ENABLES)))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if (is_data(cpu->dr[7], i) && ((cpu->dr[i] ^ lin) & ~PAGE_MASK) == 0)
            return true;
    return false;
}

static bool covers(const struct cpu *cpu, unsigned i, u32 address, u32 size)
{
    u32 mask = length_mask(cpu->dr[7], i), start = cpu->dr[i] & ~mask;
    return address - start <= mask || start - address < size;
}

void debug_data(struct cpu *cpu, u32 lin, u32 size, bool write)
{
    u32 dr7 = cpu->dr[7];
    if (likely(!(dr7 & DR7_ENABLES)))
        return;
    for (unsigned i = 0; i < 4; i++)
        if (is_data(dr7, i) && covers(cpu, i, lin, size) && (write || kind(dr7, i) == BREAK_READ_WRITE))
            cpu->db_pending |= 1u << i;
    /* The block is left behind this instruction, and the run loop raises the trap. */
    cpu->code_changed |= cpu->db_pending != 0;
}

void debug_io(struct cpu *cpu, u16 port, u32 size)
{
    if (likely(!(cpu->dr[7] & DR7_ENABLES)) || !(cpu->cr4 & CR4_DE))
        return;
    for (unsigned i = 0; i < 4; i++)
        if (enabled(cpu->dr[7], i) && kind(cpu->dr[7], i) == BREAK_IO && covers(cpu, i, port, size))
            cpu->db_pending |= 1u << i;
    cpu->code_changed |= cpu->db_pending != 0;
}
