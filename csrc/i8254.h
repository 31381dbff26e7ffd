/*
 * i8254.h: the 8254 programmable interval timer (Intel 8254 data sheet).
 *
 * Counters are not counted down: what they hold follows from the time, in
 * cycles of their 1.193182 MHz clock, that every function is given.
 */
#ifndef PYK_I8254_H
#define PYK_I8254_H

#include "types.h"

#define I8254_HZ 1193182u
#define I8254_NEVER UINT64_MAX

struct i8254_counter {
    u64 start;                  /* when counting began; halted: the cycles counted before that */
    u32 count;                  /* what was loaded, 1 to 10000h; 0: nothing yet */
    u32 reload;                 /* loads at the end of the period (modes 2 and 3); 0: nothing */
    u16 latch;                  /* a latched count, being read */
    u8 mode;                    /* 0-5 */
    u8 access;                  /* RW: 1 low byte, 2 high byte, 3 both */
    u8 low;                     /* the low byte of a count of two, written first */
    u8 latched;                 /* bytes of latch still to be read */
    u8 status;                  /* a latched status */
    bool status_latched;
    bool bcd;
    bool high_next_write, high_next_read;
    bool gate;
    bool halted;                /* by its gate */
    bool triggered;             /* modes 1 and 5: the gate has risen since the count came */
};

struct i8254 {
    struct i8254_counter counter[3];
};

void i8254_reset(struct i8254 *p);
/* The three counters at 0-2 and the control word at 3. */
u8 i8254_read(struct i8254 *p, unsigned a, u64 now);
void i8254_write(struct i8254 *p, unsigned a, u8 value, u64 now);
void i8254_gate(struct i8254 *p, unsigned which, bool level, u64 now);
bool i8254_output(const struct i8254 *p, unsigned which, u64 now);
/* The first time after `now` at which an output rises, or I8254_NEVER. */
u64 i8254_next_rise(const struct i8254 *p, unsigned which, u64 now);

#endif
