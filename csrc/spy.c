/* spy.c: traces, counts of accesses, and accesses that are falsified. */
#include "spy.h"

#include "inject.h"
#include "machine.h"
#include "mmu.h"

void spy_set(struct machine *m, struct spy *spy)
{
    m->spy = spy;
    tlb_flush_all(m);
}

static void note(struct machine *m, enum trace_kind kind, u32 address, u32 phys, unsigned size, unsigned access)
{
    struct spy *spy = m->spy;

    if (spy->wanted & kind && spy->where - address < (kind == TRACE_EXECUTE || kind == TRACE_EXCEPTION ? 1 : size))
        spy->seen++;
    if (spy->events && spy->count < spy->room)
        spy->events[spy->count] = (struct trace_event){spy->now, address, phys, spy->eip, (u16)size, (u8)kind,
                                                       access & ACCESS_SYSTEM ? 1 : 0};
    spy->count++;
}

void spy_execute(struct machine *m, const struct block *b)
{
    struct spy *spy = m->spy;

    spy->now = machine_now(m) - spy->zero;
    spy->eip = b->eip;
    spy->reads = spy->writes = 0;
    note(m, TRACE_EXECUTE, b->cs_base + b->eip, b->phys, b->bytes, 0);
}

void spy_exception(struct machine *m, u8 vector)
{
    note(m, TRACE_EXCEPTION, vector, 0, 0, 0);
}

/* Is this the access that is to be falsified, and how? */
static bool tampers(const struct spy *spy, enum fault_kind kind, u32 number, unsigned access)
{
    return spy->tamper && !spy->done && spy->tamper->kind == kind && !(access & ACCESS_SYSTEM) &&
           spy->tamper->target == number;
}

static u32 falsify(struct spy *spy, u32 value, u32 mask)
{
    spy->done = true;
    spy->before = value;
    spy->after = (u32)fault_value(spy->tamper, value) & mask;
    return (u32)spy->after;
}

u32 spy_address(struct machine *m, u32 lin, bool write, unsigned access)
{
    struct spy *spy = m->spy;
    bool hit = write ? tampers(spy, FAULT_WADDR, spy->writes, access) : tampers(spy, FAULT_RADDR, spy->reads, access);
    return hit ? falsify(spy, lin, ~0u) : lin;
}

static u32 value_mask(unsigned size)
{
    return size >= 4 ? ~0u : (1u << 8 * size) - 1;
}

u32 spy_read(struct machine *m, u32 lin, u32 phys, unsigned size, unsigned access, u32 value)
{
    struct spy *spy = m->spy;
    bool hit = tampers(spy, FAULT_RVAL, spy->reads, access);

    note(m, TRACE_READ, lin, phys, size, access);
    spy->reads += !(access & ACCESS_SYSTEM);
    return hit ? falsify(spy, value, value_mask(size)) : value;
}

u32 spy_write(struct machine *m, u32 lin, unsigned size, unsigned access, u32 value)
{
    (void)lin;
    struct spy *spy = m->spy;
    return tampers(spy, FAULT_WVAL, spy->writes, access) ? falsify(spy, value, value_mask(size)) : value;
}

void spy_wrote(struct machine *m, u32 lin, u32 phys, unsigned size, unsigned access)
{
    note(m, TRACE_WRITE, lin, phys, size, access);
    m->spy->writes += !(access & ACCESS_SYSTEM);
}
