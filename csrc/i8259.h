/*
 * i8259.h: one 8259A interrupt controller (Intel 8259A data sheet).
 *
 * Pure state and functions: what its INT pin says follows from i8259_request,
 * which the board looks at after each change.
 */
#ifndef PYK_I8259_H
#define PYK_I8259_H

#include "types.h"

#define I8259_NONE 0xFFu        /* no request */
#define I8259_SPURIOUS 7u       /* what an acknowledge finds when the request has gone */

struct i8259 {
    u8 irr, isr, imr;           /* requested, in service, masked: one bit an input */
    u8 lines;                   /* the inputs' levels */
    u8 base;                    /* vector of input 0 */
    u8 lowest;                  /* the input with the lowest priority */
    u8 next_icw;                /* 2-4: initialisation goes on with that word; 0: done */
    bool single;                /* ICW1.SNGL: no ICW3 */
    bool wants_icw4;            /* ICW1.IC4 */
    bool level;                 /* ICW1.LTIM: inputs ask for as long as they are high, not when they rise */
    bool auto_eoi;              /* ICW4.AEOI */
    bool rotate_auto;           /* OCW2: rotate at automatic ends of interrupt */
    bool fully_nested;          /* ICW4.SFNM: an input in service may ask again */
    bool special_mask;          /* OCW3: masked inputs in service hold nothing back */
    bool read_isr;              /* OCW3: reads give ISR, not IRR */
    bool poll;                  /* OCW3: the next read acknowledges */
};

void i8259_reset(struct i8259 *p);
void i8259_line(struct i8259 *p, unsigned irq, bool level);
/* The input that the INT pin is raised for, or I8259_NONE. */
unsigned i8259_request(const struct i8259 *p);
/* The CPU takes the interrupt: its input, or I8259_SPURIOUS. */
unsigned i8259_acknowledge(struct i8259 *p);
u8 i8259_read(struct i8259 *p, unsigned a0);
void i8259_write(struct i8259 *p, unsigned a0, u8 value);

#endif
