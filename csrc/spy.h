/*
 * spy.h: seeing, and falsifying, each access and instruction of a machine.
 *
 * While a spy is there TLBs stay empty, so that all accesses take the slow
 * functions of mmu.c, and instructions run alone.
 */
#ifndef PYK_SPY_H
#define PYK_SPY_H

#include "api.h"
#include "cpu.h"
#include "op.h"

struct spy {
    struct trace_event *events; /* where they go, NULL: nowhere */
    u64 count, room;            /* all of them; how many have room */
    u64 zero;                   /* the icount that is time 0 */
    u64 now;                    /* time of the instruction that runs */
    u32 eip;                    /* its address */
    const struct inject_fault *tamper;  /* RVAL to WADDR: what to do to an access of the instruction that runs, or NULL */
    u32 reads, writes;          /* accesses that the instruction has made */
    bool done;                  /* tamper has been applied */
    u64 before, after;          /* the value or address that it changed */
    u32 wanted;                 /* TRACE_READ, TRACE_WRITE, TRACE_EXECUTE or TRACE_EXCEPTION: count these at where */
    u32 where;
    u64 seen;
};

/* From here on, and until NULL is given. */
void spy_set(struct machine *m, struct spy *spy);

/* Called where things happen, with a spy. */
void spy_execute(struct machine *m, const struct block *b);
void spy_exception(struct machine *m, u8 vector);
u32 spy_address(struct machine *m, u32 lin, bool write, unsigned access);
u32 spy_read(struct machine *m, u32 lin, u32 phys, unsigned size, unsigned access, u32 value);
u32 spy_write(struct machine *m, u32 lin, unsigned size, unsigned access, u32 value);
void spy_wrote(struct machine *m, u32 lin, u32 phys, unsigned size, unsigned access);

#endif
