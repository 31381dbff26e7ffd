/*
 * device.h: ranges of ports and of physical addresses that handlers outside of
 * the engine serve.
 *
 * Pages with a device in them are never in a TLB: every access comes here. A
 * handler may do with the machine whatever code outside of runs may, so that
 * after a call nothing that was known of memory before holds; the block is
 * left behind the instruction. A handler that fails makes a fault (struct
 * fault, stop), so that its instruction has not been executed.
 */
#ifndef PYK_DEVICE_H
#define PYK_DEVICE_H

#include "api.h"
#include "tunables.h"
#include "types.h"

struct machine;

struct device {
    u32 first, last;            /* ports or physical addresses */
    s32 id;                     /* what the callback is told */
};

struct device_space {
    struct device *devices;     /* by address, none overlaps another */
    u32 count, room;
};

/* Does a device lie in [first, last]? */
bool device_search(const struct device_space *s, u32 first, u32 last);
ALWAYS_INLINE bool device_touches(const struct device_space *s, u32 first, u32 last)
{
    return unlikely(s->count) && device_search(s, first, last);
}
ALWAYS_INLINE bool device_in_page(const struct device_space *s, u32 phys)
{
    return device_touches(s, phys & ~PAGE_MASK, phys | PAGE_MASK);
}

/* Move up to 4 bytes, which for memory lie in one page: each device's part in one call of 1, 2 or 4 bytes (3: first
 * 2, then 1), the rest from and to RAM. Bytes that nobody has stay as they are in buf. False: cpu->fault is set. */
bool device_transfer(struct machine *m, enum device_kind kind, u32 address, u32 size, u8 *buf, bool write);

#endif
