/*
 * uart16550.h: a 16550A serial port (National PC16550D data sheet).
 *
 * Sending takes no time: a byte written is at once with the listener. Bytes
 * that come in wait until there is room in the receiver's FIFO.
 */
#ifndef PYK_UART16550_H
#define PYK_UART16550_H

#include "types.h"

#define UART_FIFO 16u
#define UART_QUEUE (1u << 20)   /* bytes kept for the receiver, and those sent but not yet fetched: more than a run of the
                                 * loop between two fetches can send */

struct uart_queue {             /* a ring */
    u8 *bytes;                  /* UART_QUEUE of them */
    u32 first, count;
};

struct uart16550 {
    u8 ier, lcr, mcr, scratch, fcr;
    u16 divisor;
    u8 msr_delta;               /* modem status bits 0-3 */
    u8 fifo[UART_FIFO];
    u8 fifo_first, fifo_count;
    bool overrun;
    bool thre;                  /* the transmitter-empty interrupt is pending */
    struct uart_queue in, out;
    u64 lost;                   /* bytes sent while nobody fetched them */
};

bool uart_init(struct uart16550 *u);
void uart_deinit(struct uart16550 *u);
void uart_reset(struct uart16550 *u);
u8 uart_read(struct uart16550 *u, unsigned a);
void uart_write(struct uart16550 *u, unsigned a, u8 value);
/* The interrupt output, as it reaches the bus: OUT2 lets it through. */
bool uart_interrupt(const struct uart16550 *u);
/* Bytes for the guest; how many of them there was room for. */
u32 uart_feed(struct uart16550 *u, const u8 *bytes, u32 size);
/* Bytes from the guest; how many there were. */
u32 uart_fetch(struct uart16550 *u, u8 *bytes, u32 size);

#endif
