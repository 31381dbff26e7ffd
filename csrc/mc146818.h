/*
 * mc146818.h: the real-time clock with 128 bytes of CMOS memory (Motorola
 * MC146818 data sheet).
 *
 * Time comes from outside, in nanoseconds since the machine was made.
 */
#ifndef PYK_MC146818_H
#define PYK_MC146818_H

#include "types.h"

#define RTC_NEVER UINT64_MAX

struct mc146818 {
    u8 ram[128];                /* 0-9: time and alarm as last set or settled; 10-13: registers A to D */
    s64 base;                   /* what the clock says at `since`, in seconds since 1970 */
    u64 since;                  /* ns */
    u64 looked;                 /* up to when flags are in register C, ns */
};

/* The clock starts at `seconds` since 1970. */
void rtc_init(struct mc146818 *r, s64 seconds);
u8 rtc_read(struct mc146818 *r, unsigned index, u64 now);
void rtc_write(struct mc146818 *r, unsigned index, u8 value, u64 now);
/* The interrupt output. */
bool rtc_interrupt(struct mc146818 *r, u64 now);
/* When it may rise next, or RTC_NEVER. */
u64 rtc_next(const struct mc146818 *r, u64 now);

#endif
