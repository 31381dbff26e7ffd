#include "debug.h"

#include "block.h"
#include "machine.h"
#include "mmu.h"

#define DR7_ENABLES 0xFFu       /* L0 G0 ... L3 G3 */

enum { BREAK_CODE = 0, BREAK_WRITE = 1, BREAK_READ_WRITE = 3 };

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
            code_invalidate_lin(cpu->machine, dr[i], 1);
}

void debug_changed(struct cpu *cpu, const u32 old[8])
{
    bool any = false;
    drop_code(cpu, old);
    drop_code(cpu, cpu->dr);
    cpu->code_breaks = false;
    for (unsigned i = 0; i < 4; i++) {
        any |= is_data(old[7], i) || is_data(cpu->dr[7], i);
        cpu->code_breaks |= is_code(cpu->dr[7], i);
    }
    if (any)
        tlb_flush(cpu);
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

void debug_data(struct cpu *cpu, u32 lin, u32 size, bool write)
{
    u32 dr7 = cpu->dr[7];
    if (likely(!(dr7 & DR7_ENABLES)))
        return;
    for (unsigned i = 0; i < 4; i++) {
        u32 mask = length_mask(dr7, i), start = cpu->dr[i] & ~mask;
        bool overlaps = lin - start <= mask || start - lin < size;
        if (is_data(dr7, i) && overlaps && (write || kind(dr7, i) == BREAK_READ_WRITE))
            cpu->db_pending |= 1u << i;
    }
    /* The block is left behind this instruction, and the run loop raises the trap. */
    cpu->code_changed |= cpu->db_pending != 0;
}
