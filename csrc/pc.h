/*
 * pc.h: the board of a PC: two 8259As, 8254, a 16550A at 3F8h, MC146818 with
 * CMOS memory, ports 61h and 92h, and of the keyboard controller what resets
 * the machine and gates A20. There is no PCI.
 *
 * The board's time is the machine's: instructions retired, and those that HLT
 * skipped, at a rate that the user sets. All devices follow from it, so that
 * nothing happens between the events that pc_left counts down to.
 */
#ifndef PYK_PC_H
#define PYK_PC_H

#include "i8254.h"
#include "i8259.h"
#include "mc146818.h"
#include "types.h"
#include "uart16550.h"

struct machine;
struct pc_state;

#define A20 (1u << 20)           /* the address line that can be held low */

struct pc {
    struct i8259 pic[2];        /* master, slave */
    struct i8254 pit;
    struct uart16550 uart;
    struct mc146818 rtc;
    u64 hz;                     /* instructions in a second */
    u64 skipped;                /* instructions' time that passed in HLT */
    u64 event;                  /* time of the next look, in instructions */
    u64 pit_seen;               /* time of the last look, in the timer's cycles */
    u8 rtc_index;
    u8 speaker;                 /* port 61h: bits 0-3 as written */
    bool refresh;               /* port 61h bit 4: turns over at each read */
    bool reset;                 /* asked for by the access that is being made */
    u8 keyboard_command;        /* waits for its byte at port 60h */
    u32 *unclaimed[2];          /* accesses that nobody serves, by port: reads, writes */
};

/* The board's state: what it has without pointers, and what waits for the receiver. What the guest has sent, and the
 * counts of unclaimed accesses, are observations. */
struct pc_capture {
    struct pc pc;
    u8 *in;                     /* uart.in.count bytes */
    u32 room;
};
bool pc_capture(const struct machine *m, struct pc_capture *ret);   /* false: out of host memory */
void pc_capture_deinit(struct pc_capture *c);
void pc_rewind(struct machine *m, const struct pc_capture *c);
/* The same in a form that does not depend on the compiler; all but A20 and the bytes that wait. state is valid. */
void pc_state_of(const struct pc *pc, struct pc_state *ret);
void pc_set_state(struct pc *pc, const struct pc_state *state);

/* False: out of host memory. seconds: what the clock says at the start, since 1970. */
bool pc_create(struct machine *m, u64 hz, s64 seconds);
void pc_destroy(struct machine *m);
/* Port accesses; buf holds ones where nobody answers. */
void pc_read(struct machine *m, u16 port, unsigned size, u8 *buf);
/* False: the guest resets the machine. */
bool pc_write(struct machine *m, u16 port, unsigned size, const u8 *buf);
/* Let the devices see what time it is; sets INTR. */
void pc_look(struct machine *m);
/* Instructions until the next event. */
u64 pc_left(const struct machine *m);
/* The CPU is in HLT: time passes at once up to the next event. False: there will be none. */
bool pc_skip(struct machine *m);
/* The interrupt acknowledge cycle: the vector. */
u8 pc_acknowledge(struct machine *m);

#endif
