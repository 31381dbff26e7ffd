#include "uart16550.h"

#include <stdlib.h>

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

#define IER_RX 0x01u
#define IER_THRE 0x02u
#define IER_LINE 0x04u
#define IER_MODEM 0x08u
#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RX 0x02u
#define LCR_DLAB 0x80u
#define MCR_DTR 0x01u
#define MCR_RTS 0x02u
#define MCR_OUT1 0x04u
#define MCR_OUT2 0x08u
#define MCR_LOOP 0x10u
#define LSR_READY 0x01u
#define LSR_OVERRUN 0x02u
#define LSR_EMPTY 0x60u         /* THRE and TEMT: sending takes no time */
#define MSR_CTS 0x10u
#define MSR_DSR 0x20u
#define MSR_RI 0x40u
#define MSR_DCD 0x80u
#define MSR_TERI 0x04u
#define IIR_NONE 0x01u
#define IIR_FIFOS 0xC0u

bool uart_init(struct uart16550 *u)
{
    *u = (struct uart16550){.in.bytes = malloc(UART_QUEUE), .out.bytes = malloc(UART_QUEUE)};
    uart_reset(u);
    return u->in.bytes && u->out.bytes;
}

void uart_deinit(struct uart16550 *u)
{
    free(u->in.bytes);
    free(u->out.bytes);
}

void uart_reset(struct uart16550 *u)
{
    *u = (struct uart16550){.divisor = 12, .in = u->in, .out = u->out, .lost = u->lost};
}

static void queue_put(struct uart_queue *q, u8 byte)
{
    q->bytes[(q->first + q->count++) % UART_QUEUE] = byte;
}

static u8 queue_get(struct uart_queue *q)
{
    u8 byte = q->bytes[q->first];
    q->first = (q->first + 1) % UART_QUEUE;
    q->count--;
    return byte;
}

/* --- the receiver ----------------------------------------------------------------------------------------- */

static unsigned room(const struct uart16550 *u)
{
    return (u->fcr & FCR_ENABLE ? UART_FIFO : 1) - u->fifo_count;
}

static void receive(struct uart16550 *u, u8 byte)
{
    if (!room(u)) {
        u->overrun = true;
        return;
    }
    u->fifo[(u->fifo_first + u->fifo_count++) % UART_FIFO] = byte;
}

static void refill(struct uart16550 *u)
{
    while (u->in.count && !(u->mcr & MCR_LOOP) && room(u))
        receive(u, queue_get(&u->in));
}

static u8 take(struct uart16550 *u)
{
    if (!u->fifo_count)
        return 0;
    u8 byte = u->fifo[u->fifo_first];
    u->fifo_first = (u->fifo_first + 1) % UART_FIFO;
    u->fifo_count--;
    refill(u);
    return byte;
}

u32 uart_feed(struct uart16550 *u, const u8 *bytes, u32 size)
{
    u32 n = size < UART_QUEUE - u->in.count ? size : UART_QUEUE - u->in.count;
    for (u32 i = 0; i < n; i++)
        queue_put(&u->in, bytes[i]);
    refill(u);
    return n;
}

/* --- the transmitter -------------------------------------------------------------------------------------- */

static void transmit(struct uart16550 *u, u8 byte)
{
    if (u->mcr & MCR_LOOP)
        receive(u, byte);
    else if (u->out.count < UART_QUEUE)
        queue_put(&u->out, byte);
    else
        u->lost++;
    u->thre = true;
}

u32 uart_fetch(struct uart16550 *u, u8 *bytes, u32 size)
{
    u32 n = size < u->out.count ? size : u->out.count;
    for (u32 i = 0; i < n; i++)
        bytes[i] = queue_get(&u->out);
    return n;
}

/* --- registers -------------------------------------------------------------------------------------------- */

/* Modem inputs: a terminal that is there and ready, or the outputs when looped back. */
static u8 modem(const struct uart16550 *u)
{
    if (!(u->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (u8)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) | (u->mcr & MCR_OUT1 ? MSR_RI : 0) |
                (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

/* IIR without the FIFO bits, by priority. A character's time-out is at once, so that the trigger level never waits. */
static u8 identify(const struct uart16550 *u)
{
    if (u->ier & IER_LINE && u->overrun)
        return 0x06;
    if (u->ier & IER_RX && u->fifo_count)
        return 0x04;
    if (u->ier & IER_THRE && u->thre)
        return 0x02;
    if (u->ier & IER_MODEM && u->msr_delta)
        return 0x00;
    return IIR_NONE;
}

bool uart_interrupt(const struct uart16550 *u)
{
    return u->mcr & MCR_OUT2 && !(u->mcr & MCR_LOOP) && identify(u) != IIR_NONE;
}

static u8 read_iir(struct uart16550 *u)
{
    u8 iir = identify(u);
    if (iir == 0x02)
        u->thre = false;
    return iir | (u->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static u8 read_lsr(struct uart16550 *u)
{
    u8 lsr = (u8)(LSR_EMPTY | (u->fifo_count ? LSR_READY : 0) | (u->overrun ? LSR_OVERRUN : 0));
    u->overrun = false;
    return lsr;
}

static u8 read_msr(struct uart16550 *u)
{
    u8 msr = modem(u) | u->msr_delta;
    u->msr_delta = 0;
    return msr;
}

u8 uart_read(struct uart16550 *u, unsigned a)
{
    bool dlab = u->lcr & LCR_DLAB;
    switch (a) {
    case RBR_THR: return dlab ? (u8)u->divisor : take(u);
    case IER: return dlab ? (u8)(u->divisor >> 8) : u->ier;
    case IIR_FCR: return read_iir(u);
    case LCR: return u->lcr;
    case MCR: return u->mcr;
    case LSR: return read_lsr(u);
    case MSR: return read_msr(u);
    default: return u->scratch;
    }
}

static void write_ier(struct uart16550 *u, u8 value)
{
    value &= IER_RX | IER_THRE | IER_LINE | IER_MODEM;
    if (value & IER_THRE && !(u->ier & IER_THRE))
        u->thre = true;         /* the transmitter is empty: enabling its interrupt raises it */
    u->ier = value;
}

static void write_fcr(struct uart16550 *u, u8 value)
{
    if ((value ^ u->fcr) & FCR_ENABLE || value & FCR_CLEAR_RX)
        u->fifo_count = 0;
    u->fcr = value & FCR_ENABLE ? value : 0;
    refill(u);
}

static void write_mcr(struct uart16550 *u, u8 value)
{
    u8 before = modem(u);
    u->mcr = value & 0x1F;
    u8 changed = before ^ modem(u);
    u->msr_delta |= (u8)((changed >> 4 & 0x0B) | (before & ~modem(u) & MSR_RI ? MSR_TERI : 0));
    refill(u);
}

void uart_write(struct uart16550 *u, unsigned a, u8 value)
{
    bool dlab = u->lcr & LCR_DLAB;
    switch (a) {
    case RBR_THR:
        if (dlab)
            u->divisor = (u16)((u->divisor & 0xFF00) | value);
        else
            transmit(u, value);
        break;
    case IER:
        if (dlab)
            u->divisor = (u16)((u->divisor & 0xFF) | value << 8);
        else
            write_ier(u, value);
        break;
    case IIR_FCR: write_fcr(u, value); break;
    case LCR: u->lcr = value; break;
    case MCR: write_mcr(u, value); break;
    case SCR: u->scratch = value; break;
    default: break;             /* LSR and MSR are read only */
    }
}
