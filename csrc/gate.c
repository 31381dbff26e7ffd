/* gate.c: stacks of inner rings and the frames that gates push there. */
#include "gate.h"

#include <string.h>

#include "mmu.h"
#include "trap.h"

void stack_current(const struct cpu *cpu, u32 ext, struct stack *ret)
{
    ret->ss = &cpu->seg[SS];
    ret->esp = cpu->gpr[ESP];
    ret->access = 0;
    ret->error = ext;
}

/* SDM vol. 3, figures 7-2 and 7-10: where a TSS keeps the stack pointers. */
static bool tss_stack(struct cpu *cpu, unsigned cpl, u32 ext, u16 *ss, u32 *esp)
{
    const struct segment *tr = &cpu->seg[TR];
    unsigned size = SEG_TYPE(tr->attr) & TYPE_WIDE ? 4 : 2;
    u32 at = size == 4 ? cpl * 8 + 4 : cpl * 4 + 2, selector;
    if (at + size + 1 > tr->limit) {
        fault_selector(cpu, T_TSS, tr->selector, ext);
        return false;
    }
    if (!lin_read(cpu, tr->base + at, size, ACCESS_SYSTEM, esp) ||
        !lin_read(cpu, tr->base + at + size, 2, ACCESS_SYSTEM, &selector))
        return false;
    *ss = (u16)selector;
    return true;
}

bool stack_inner(struct cpu *cpu, unsigned cpl, u32 ext, struct stack *ret)
{
    u32 desc[2];
    u16 selector;
    if (!tss_stack(cpu, cpl, ext, &selector, &ret->esp) ||
        !segment_check_stack(cpu, selector, cpl, T_TSS, ext, desc) || !descriptor_touch(cpu, selector, desc))
        return false;
    segment_from_descriptor(&ret->inner, selector, desc);
    ret->ss = &ret->inner;
    ret->access = ACCESS_SYSTEM | ACCESS_DATA;
    ret->error = (selector & 0xFFFCu) | ext;
    return true;
}

static bool place(struct cpu *cpu, const struct stack *s, u32 off, unsigned size, u32 *ret)
{
    if (!segment_contains(s->ss, off, size)) {
        cpu_fault_code(cpu, T_STACK, s->error);
        return false;
    }
    *ret = s->ss->base + off;
    return true;
}

/* Host address of a whole frame that ends at offset top, when nothing stands in its way. */
static u8 *frame_host(struct cpu *cpu, const struct stack *s, u32 top, u32 bytes)
{
    if (top < bytes || !segment_contains(s->ss, top - bytes, bytes))
        return NULL;
    return tlb_host(cpu, s->ss->base + top - bytes, bytes, s->access | ACCESS_WRITE);
}

static void store(u8 *top, const u32 *words, unsigned count, unsigned size)
{
    for (unsigned i = 0; i < count; i++)
        memcpy(top -= size, &words[i], size == 4 ? 4 : 2);
}

/* The frame word by word: it may wrap in a 16-bit stack, lie in two pages, or hit decoded code. */
static COLD bool write_words(struct cpu *cpu, const struct stack *s, const u32 *words, unsigned count, unsigned size)
{
    u32 lin[FRAME_MAX], mask = stack_mask(s->ss), sp = s->esp;
    for (unsigned i = 0; i < count; i++) {
        sp -= size;
        if (!place(cpu, s, sp & mask, size, &lin[i]) || !lin_check_write(cpu, lin[i], size, s->access))
            return false;
    }
    for (unsigned i = 0; i < count; i++)
        if (!lin_write(cpu, lin[i], words[i], size, s->access))
            return false;
    return true;
}

bool stack_write(struct cpu *cpu, struct stack *s, const u32 *words, unsigned count, unsigned size)
{
    u32 mask = stack_mask(s->ss), bytes = count * size;
    u8 *host = frame_host(cpu, s, s->esp & mask, bytes);
    if (likely(host))
        store(host + bytes, words, count, size);
    else if (!write_words(cpu, s, words, count, size))
        return false;
    s->esp = (s->esp & ~mask) | ((s->esp - bytes) & mask);
    return true;
}

void stack_commit(struct cpu *cpu, const struct stack *s)
{
    if (s->ss == &s->inner)
        cpu->seg[SS] = s->inner;
    cpu->gpr[ESP] = s->esp;
}
