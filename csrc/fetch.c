/* fetch.c: fetch arguments of probe events: a register or address, memory followed, a type. */
#include <string.h>

#include "action.h"
#include "mmu.h"

#define DEREFS_MAX (sizeof((struct fetch *)0)->offset / sizeof(s32))

/* Kernel memory as the handler may read it: no faults, no accessed bits. */
static bool read_memory(struct machine *m, u32 lin, u32 size, u64 *ret)
{
    const u8 *host = tlb_host(m->cpu, lin, size, ACCESS_SYSTEM);

    *ret = 0;
    if (likely(host)) {
        memcpy(ret, host, size);
        return true;
    }
    return mmu_peek(m->cpu, lin, ret, size) == size;
}

static bool base_value(const struct fetch *arg, const struct frame *f, u64 *ret)
{
    switch (arg->base) {
    case FETCH_REG:
        if (arg->reg >= FRAME_WORDS)
            return false;
        *ret = ((const u32 *)&f->regs)[arg->reg];
        return true;
    case FETCH_SP:
        *ret = f->sp;
        return true;
    default:
        *ret = arg->imm;
        return true;
    }
}

static u64 truncate_bits(u64 value, unsigned bits, bool is_signed)
{
    unsigned shift = 64 - bits;
    return is_signed ? (u64)((s64)(value << shift) >> shift) : value << shift >> shift;
}

bool fetch_value(struct machine *m, const struct fetch *arg, const struct frame *f, u64 *ret)
{
    u32 size = arg->size == 1 || arg->size == 2 || arg->size == 8 ? arg->size : 4;
    unsigned bits = size * 8, shift = arg->bit_offset & 63;
    u64 value;

    if (arg->derefs > DEREFS_MAX || !base_value(arg, f, &value))
        return false;
    for (unsigned i = 0; i < arg->derefs; i++)
        if (!read_memory(m, (u32)value + (u32)arg->offset[i], i + 1 < arg->derefs ? 4 : size, &value))
            return false;
    if (arg->bit_width) {
        value = truncate_bits(value, bits, false) >> shift;
        bits = arg->bit_width < bits ? arg->bit_width : bits;
    }
    *ret = truncate_bits(value, bits, arg->is_signed);
    return true;
}

int machine_fetch(machine *m, const struct fetch *f, uint64_t *ret)
{
    const struct frame *frame = machine_frame(m);
    return frame && fetch_value(m, f, frame, ret) ? 0 : -1;
}
