/*
 * action.h: what C does at a hit.
 *
 * fetch.c runs field programs, action.c counters, filters and histograms,
 * ring.c records. A hit's frame is that of its trap, or NULL: the registers are
 * then the CPU's, which is at the probe point, between two instructions.
 */
#ifndef PYK_ACTION_H
#define PYK_ACTION_H

#include <string.h>

#include "cpu.h"
#include "machine.h"
#include "mmu.h"

/* Run a chain, NULL behind its last action. True: it asks for the run to stop. probe: what records call the prober. */
ALWAYS_INLINE bool action_run(struct machine *m, struct action **chain, struct frame *f, u32 probe)
{
    struct action *a;
    int stop = 0;

    while ((a = *chain++)) {
        int result = a->run(m, a, f, probe);
        stop |= result;
        if (unlikely(result & ACTION_END))
            break;
    }
    return stop & ACTION_STOPS;
}

/* The CPU that executes. */
ALWAYS_INLINE u16 hit_cpu(const struct machine *m)
{
    return (u16)m->cpu->index;
}

/* A program's value, sign-extended where it is signed; false if it has none. */
bool field_run(struct machine *m, const struct field_op *op, const struct frame *f, u64 *ret);
/* Kernel memory as handlers may read it: no faults, no accessed bits. Bytes up to where none is mapped. */
u32 field_read(struct machine *m, u32 lin, void *buf, u32 size);

/* Registers EBX ECX EDX ESI EDI EBP EAX: words 0 to 6 of pt_regs. */
#define FRAME_GPRS 7
ALWAYS_INLINE u32 hit_gpr(const struct machine *m, const struct frame *f, unsigned word)
{
    static const u8 gpr[FRAME_GPRS] = {EBX, ECX, EDX, ESI, EDI, EBP, EAX};
    return f ? ((const u32 *)&f->regs)[word] : m->cpu->gpr[gpr[word]];
}

ALWAYS_INLINE u32 hit_sp(const struct machine *m, const struct frame *f)
{
    return f ? f->sp : m->cpu->gpr[ESP];
}

/* Is a program one register or one word of the stack? */
ALWAYS_INLINE bool field_is_word(const struct field_op *op)
{
    return op[1].code == FIELD_END &&
           ((op->code == FIELD_WORD && op->arg < FRAME_GPRS) || (op->code == FIELD_STACK && op->arg == 4));
}

/* field_run; the two commonest programs, one register or one word of the stack, need no call. */
ALWAYS_INLINE bool field_value(struct machine *m, const struct field_op *op, const struct frame *f, u64 *ret)
{
    if (op[1].code == FIELD_END) {
        if (op->code == FIELD_WORD && op->arg < FRAME_GPRS) {
            *ret = hit_gpr(m, f, op->arg);
            return true;
        }
        if (op->code == FIELD_STACK && op->arg == 4) {
            const u8 *host = tlb_host(m->cpu, hit_sp(m, f) + op->imm, 4, ACCESS_SYSTEM);
            if (likely(host)) {
                u32 word;
                memcpy(&word, host, sizeof word);
                *ret = word;
                return true;
            }
        }
    }
    return field_run(m, op, f, ret);
}

/* ring.c's actions: for any fields, and for records of words only. */
int record_run(struct machine *m, struct action *a, struct frame *f, u32 probe);
int record_words_run(struct machine *m, struct action *a, struct frame *f, u32 probe);
bool record_of_words(const struct action *a);

#endif
