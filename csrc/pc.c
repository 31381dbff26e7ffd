#include "pc.h"

#include <stdlib.h>
#include <string.h>

#include "machine.h"
#include "mmu.h"

#define PORTS 0x10000u
#define SECOND 1000000000u      /* ns */
#define IRQ_TIMER 0u
#define IRQ_CASCADE 2u
#define IRQ_UART 4u
#define IRQ_RTC 8u
#define SPEAKER_GATE 0x01u      /* port 61h: gate of counter 2 */
#define OUTPUT_RESET 0x01u      /* the keyboard controller's output port: 0 resets */
#define OUTPUT_A20 0x02u
#define FAST_RESET 0x01u        /* port 92h */
#define FAST_A20 0x02u

static u64 scale(u64 value, u64 by, u64 over)
{
    return (u64)((unsigned __int128)value * by / over);
}

/* The first instruction at which a device's clock of `hz` shows `value`. */
static u64 unscale(u64 value, u64 hz, u64 machine_hz)
{
    unsigned __int128 at = ((unsigned __int128)value * machine_hz + hz - 1) / hz;
    return at > UINT64_MAX ? UINT64_MAX : (u64)at;
}

static u64 now(const struct machine *m)
{
    return machine_now(m) + m->pc->skipped;
}

static u64 pit_now(const struct machine *m)
{
    return scale(now(m), I8254_HZ, m->pc->hz);
}

static u64 ns_now(const struct machine *m)
{
    return scale(now(m), SECOND, m->pc->hz);
}

/* --- interrupts and time ---------------------------------------------------------------------------------- */

static void irq(struct pc *pc, unsigned number, bool level)
{
    i8259_line(&pc->pic[number >> 3], number & 7, level);
}

static void cascade(struct machine *m)
{
    struct pc *pc = m->pc;
    irq(pc, IRQ_CASCADE, i8259_request(&pc->pic[1]) != I8259_NONE);
    m->intr = i8259_request(&pc->pic[0]) != I8259_NONE;
}

static void timer_line(struct machine *m)
{
    struct pc *pc = m->pc;
    u64 cycles = pit_now(m);
    if (i8254_next_rise(&pc->pit, 0, pc->pit_seen) <= cycles) {
        irq(pc, IRQ_TIMER, false);
        irq(pc, IRQ_TIMER, true);
    }
    irq(pc, IRQ_TIMER, i8254_output(&pc->pit, 0, cycles));
    pc->pit_seen = cycles;
}

static u64 next_event(const struct machine *m)
{
    const struct pc *pc = m->pc;
    u64 rise = i8254_next_rise(&pc->pit, 0, pc->pit_seen), alarm = rtc_next(&pc->rtc, ns_now(m));
    u64 timer = rise == I8254_NEVER ? UINT64_MAX : unscale(rise, I8254_HZ, pc->hz);
    u64 clock = alarm == RTC_NEVER ? UINT64_MAX : unscale(alarm, SECOND, pc->hz);
    return timer < clock ? timer : clock;
}

/* Lines, INTR and the next event, after anything has changed. */
static void settle(struct machine *m)
{
    struct pc *pc = m->pc;
    timer_line(m);
    irq(pc, IRQ_UART, uart_interrupt(&pc->uart));
    irq(pc, IRQ_RTC, rtc_interrupt(&pc->rtc, ns_now(m)));
    cascade(m);
    pc->event = next_event(m);
}

void pc_look(struct machine *m)
{
    if (now(m) >= m->pc->event)
        settle(m);
}

u64 pc_left(const struct machine *m)
{
    u64 time = now(m);
    return m->pc->event > time ? m->pc->event - time : 1;
}

bool pc_skip(struct machine *m)
{
    u64 left = pc_left(m);
    if (m->pc->event == UINT64_MAX)
        return false;
    m->pc->skipped += left;
    m->cpu->tsc_offset += left;
    settle(m);
    return true;
}

u8 pc_acknowledge(struct machine *m)
{
    struct pc *pc = m->pc;
    unsigned number = i8259_acknowledge(&pc->pic[0]);
    u8 vector = (u8)(pc->pic[0].base | number);
    if (number == IRQ_CASCADE)
        vector = (u8)(pc->pic[1].base | i8259_acknowledge(&pc->pic[1]));
    cascade(m);
    return vector;
}

/* --- ports ------------------------------------------------------------------------------------------------ */

static void reset(struct machine *m)
{
    m->pc->reset = true;
}

static void set_a20(struct machine *m, bool on)
{
    u32 mask = on ? ~0u : ~A20;
    if (m->a20_mask == mask)
        return;
    m->a20_mask = mask;
    tlb_flush(m->cpu);
    m->cpu->code_changed = true;
}

static u8 pic_read(struct machine *m, u16 port)
{
    return i8259_read(&m->pc->pic[port >> 7 & 1], port & 1);
}

static void pic_write(struct machine *m, u16 port, u8 value)
{
    i8259_write(&m->pc->pic[port >> 7 & 1], port & 1, value);
}

static u8 pit_read(struct machine *m, u16 port)
{
    return i8254_read(&m->pc->pit, port & 3, pit_now(m));
}

static void pit_write(struct machine *m, u16 port, u8 value)
{
    i8254_write(&m->pc->pit, port & 3, value, pit_now(m));
}

static u8 speaker_read(struct machine *m, u16 port)
{
    struct pc *pc = m->pc;
    (void)port;
    pc->refresh = !pc->refresh;
    return (u8)(pc->speaker | pc->refresh << 4 | i8254_output(&pc->pit, 2, pit_now(m)) << 5);
}

static void speaker_write(struct machine *m, u16 port, u8 value)
{
    (void)port;
    m->pc->speaker = value & 0x0F;
    i8254_gate(&m->pc->pit, 2, value & SPEAKER_GATE, pit_now(m));
}

/* No keyboard: nothing is ever in the output buffer, and the input buffer is always free. */
static u8 keyboard_read(struct machine *m, u16 port)
{
    (void)m, (void)port;
    return 0;
}

static void output_port(struct machine *m, u8 value)
{
    set_a20(m, value & OUTPUT_A20);
    if (!(value & OUTPUT_RESET))
        reset(m);
}

static void keyboard_write(struct machine *m, u16 port, u8 value)
{
    struct pc *pc = m->pc;
    if (port == 0x64) {
        pc->keyboard_command = value;
        if (value >= 0xF0 && !(value & OUTPUT_RESET))   /* pulse the lines whose bits are clear */
            reset(m);
    } else if (pc->keyboard_command == 0xD1) {
        pc->keyboard_command = 0;
        output_port(m, value);
    }
}

static u8 rtc_port_read(struct machine *m, u16 port)
{
    struct pc *pc = m->pc;
    return port & 1 ? rtc_read(&pc->rtc, pc->rtc_index, ns_now(m)) : 0xFF;
}

static void rtc_port_write(struct machine *m, u16 port, u8 value)
{
    struct pc *pc = m->pc;
    if (port & 1)
        rtc_write(&pc->rtc, pc->rtc_index, value, ns_now(m));
    else
        pc->rtc_index = value & 0x7F;
}

static u8 fast_read(struct machine *m, u16 port)
{
    (void)port;
    return m->a20_mask == ~0u ? FAST_A20 : 0;
}

static void fast_write(struct machine *m, u16 port, u8 value)
{
    (void)port;
    set_a20(m, value & FAST_A20);
    if (value & FAST_RESET)
        reset(m);
}

static u8 uart_port_read(struct machine *m, u16 port)
{
    return uart_read(&m->pc->uart, port & 7);
}

static void uart_port_write(struct machine *m, u16 port, u8 value)
{
    uart_write(&m->pc->uart, port & 7, value);
}

static const struct port_range {
    u16 first, last;
    u8 (*read)(struct machine *m, u16 port);
    void (*write)(struct machine *m, u16 port, u8 value);
} ranges[] = {
    {0x20, 0x21, pic_read, pic_write},
    {0xA0, 0xA1, pic_read, pic_write},
    {0x40, 0x43, pit_read, pit_write},
    {0x60, 0x60, keyboard_read, keyboard_write},
    {0x61, 0x61, speaker_read, speaker_write},
    {0x64, 0x64, keyboard_read, keyboard_write},
    {0x70, 0x71, rtc_port_read, rtc_port_write},
    {0x92, 0x92, fast_read, fast_write},
    {0x3F8, 0x3FF, uart_port_read, uart_port_write},
};

static const struct port_range *range_of(u32 port)
{
    for (unsigned i = 0; i < sizeof(ranges) / sizeof(*ranges); i++)
        if (port >= ranges[i].first && port <= ranges[i].last)
            return &ranges[i];
    return NULL;
}

/* Saturates. */
static void count_unclaimed(struct pc *pc, bool write, u16 port)
{
    u32 *counter = &pc->unclaimed[write][port];
    *counter += *counter != UINT32_MAX;
}

void pc_read(struct machine *m, u16 port, unsigned size, u8 *buf)
{
    bool served = false;
    for (unsigned i = 0; i < size; i++) {
        const struct port_range *range = range_of(port + i);
        if (range)
            buf[i] = range->read(m, (u16)(port + i));
        served |= range != NULL;
    }
    if (served)
        settle(m);
    else
        count_unclaimed(m->pc, false, port);
}

bool pc_write(struct machine *m, u16 port, unsigned size, const u8 *buf)
{
    bool served = false;
    for (unsigned i = 0; i < size; i++) {
        const struct port_range *range = range_of(port + i);
        if (range)
            range->write(m, (u16)(port + i), buf[i]);
        served |= range != NULL;
    }
    if (!served) {
        count_unclaimed(m->pc, true, port);
        return true;
    }
    settle(m);
    m->cpu->code_changed = true;        /* what is due now is looked at behind this instruction */
    bool stays = !m->pc->reset;
    m->pc->reset = false;
    return stays;
}

/* --- life ------------------------------------------------------------------------------------------------- */

bool pc_create(struct machine *m, u64 hz, s64 seconds)
{
    struct pc *pc = m->pc = calloc(1, sizeof(*pc));
    if (!pc)
        return false;
    pc->hz = hz;
    for (unsigned i = 0; i < 2; i++)
        pc->unclaimed[i] = calloc(PORTS, sizeof(u32));
    if (!pc->unclaimed[0] || !pc->unclaimed[1] || !uart_init(&pc->uart))
        return false;
    i8259_reset(&pc->pic[0]);
    i8259_reset(&pc->pic[1]);
    i8254_reset(&pc->pit);
    i8254_gate(&pc->pit, 2, false, 0);
    rtc_init(&pc->rtc, seconds);
    settle(m);
    return true;
}

void pc_destroy(struct machine *m)
{
    if (!m->pc)
        return;
    uart_deinit(&m->pc->uart);
    free(m->pc->unclaimed[0]);
    free(m->pc->unclaimed[1]);
    free(m->pc);
}

bool pc_capture(const struct machine *m, struct pc_capture *ret)
{
    const struct uart_queue *in = &m->pc->uart.in;
    if (ret->room < in->count) {
        u8 *bytes = realloc(ret->in, in->count);
        if (!bytes)
            return false;
        ret->in = bytes;
        ret->room = in->count;
    }
    memcpy(&ret->pc, m->pc, sizeof(ret->pc));
    for (u32 i = 0; i < in->count; i++)
        ret->in[i] = in->bytes[(in->first + i) % UART_QUEUE];
    ret->pc.uart.in = (struct uart_queue){.count = in->count};
    ret->pc.uart.out = (struct uart_queue){0};
    ret->pc.uart.lost = 0;
    ret->pc.unclaimed[0] = ret->pc.unclaimed[1] = NULL;
    return true;
}

void pc_capture_deinit(struct pc_capture *c)
{
    free(c->in);
}

void pc_rewind(struct machine *m, const struct pc_capture *c)
{
    struct pc own = *m->pc;
    memcpy(m->pc, &c->pc, sizeof(c->pc));
    m->pc->unclaimed[0] = own.unclaimed[0];
    m->pc->unclaimed[1] = own.unclaimed[1];
    m->pc->uart.out = own.uart.out;
    m->pc->uart.lost = own.uart.lost;
    m->pc->uart.in.bytes = own.uart.in.bytes;
    if (c->pc.uart.in.count)
        memcpy(m->pc->uart.in.bytes, c->in, c->pc.uart.in.count);
}

uint32_t machine_console_feed(machine *m, const uint8_t *bytes, uint32_t size)
{
    u32 taken = uart_feed(&m->pc->uart, bytes, size);
    settle(m);
    return taken;
}

uint32_t machine_console_fetch(machine *m, uint8_t *bytes, uint32_t size)
{
    return uart_fetch(&m->pc->uart, bytes, size);
}

uint64_t machine_board_time(machine *m)
{
    return now(m);
}

const uint32_t *machine_unclaimed(machine *m, int write)
{
    return m->pc->unclaimed[write];
}
