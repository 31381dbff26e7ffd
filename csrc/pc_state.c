/* pc_state.c: a PC's board as plain numbers, for files and hashes. */
#include "api.h"
#include "pc.h"

#include <string.h>

/* Fields by device: name in struct pc_state after the device's, name in the device. */
#define PIT_FIELDS(F) \
    F(start) F(count) F(reload) F(latch) F(mode) F(access) F(low) F(latched) F(status)
#define PIT_FLAGS(F) \
    F(status_latched, 0) F(bcd, 1) F(high_next_write, 2) F(high_next_read, 3) F(gate, 4) F(halted, 5) F(triggered, 6)
#define PIC_FIELDS(F) F(irr) F(isr) F(imr) F(lines) F(base) F(lowest) F(next_icw)
#define PIC_FLAGS(F) \
    F(single, 0) F(wants_icw4, 1) F(level, 2) F(auto_eoi, 3) F(rotate_auto, 4) F(fully_nested, 5) F(special_mask, 6) \
    F(read_isr, 7) F(poll, 8)
#define UART_FIELDS(F) \
    F(ier) F(lcr) F(mcr) F(scratch) F(fcr) F(msr_delta) F(divisor) F(fifo_first) F(fifo_count)
#define UART_FLAGS(F) F(overrun, 0) F(thre, 1)

void pc_state_of(const struct pc *pc, struct pc_state *ret)
{
    *ret = (struct pc_state){
        .skipped = pc->skipped, .pit_seen = pc->pit_seen, .rtc_base = (u64)pc->rtc.base, .rtc_since = pc->rtc.since,
        .rtc_looked = pc->rtc.looked, .rtc_index = pc->rtc_index, .typed = pc->uart.in.count, .speaker = pc->speaker,
        .refresh = pc->refresh, .keyboard_command = pc->keyboard_command};
    memcpy(ret->rtc_ram, pc->rtc.ram, sizeof(ret->rtc_ram));
    memcpy(ret->uart_fifo, pc->uart.fifo, sizeof(ret->uart_fifo));
    for (unsigned i = 0; i < 3; i++) {
        const struct i8254_counter *c = &pc->pit.counter[i];
#define GET(name) ret->pit_##name[i] = c->name;
#define FLAG(name, bit) ret->pit_flags[i] |= (u8)(c->name << bit);
        PIT_FIELDS(GET)
        PIT_FLAGS(FLAG)
#undef GET
#undef FLAG
    }
    for (unsigned i = 0; i < 2; i++) {
        const struct i8259 *p = &pc->pic[i];
#define GET(name) ret->pic_##name[i] = p->name;
#define FLAG(name, bit) ret->pic_flags[i] |= (u16)(p->name << bit);
        PIC_FIELDS(GET)
        PIC_FLAGS(FLAG)
#undef GET
#undef FLAG
    }
#define GET(name) ret->uart_##name = pc->uart.name;
#define FLAG(name, bit) ret->uart_flags |= (u8)(pc->uart.name << bit);
    UART_FIELDS(GET)
    UART_FLAGS(FLAG)
#undef GET
#undef FLAG
}

void pc_set_state(struct pc *pc, const struct pc_state *s)
{
    pc->skipped = s->skipped;
    pc->pit_seen = s->pit_seen;
    pc->rtc.base = (s64)s->rtc_base;
    pc->rtc.since = s->rtc_since;
    pc->rtc.looked = s->rtc_looked;
    pc->rtc_index = s->rtc_index;
    pc->uart.in = (struct uart_queue){.count = s->typed};
    pc->speaker = s->speaker;
    pc->refresh = s->refresh;
    pc->keyboard_command = s->keyboard_command;
    pc->event = 0;              /* the first look finds the next one */
    memcpy(pc->rtc.ram, s->rtc_ram, sizeof(s->rtc_ram));
    memcpy(pc->uart.fifo, s->uart_fifo, sizeof(s->uart_fifo));
    for (unsigned i = 0; i < 3; i++) {
        struct i8254_counter *c = &pc->pit.counter[i];
#define SET(name) c->name = s->pit_##name[i];
#define FLAG(name, bit) c->name = s->pit_flags[i] >> bit & 1;
        PIT_FIELDS(SET)
        PIT_FLAGS(FLAG)
#undef SET
#undef FLAG
    }
    for (unsigned i = 0; i < 2; i++) {
        struct i8259 *p = &pc->pic[i];
#define SET(name) p->name = s->pic_##name[i];
#define FLAG(name, bit) p->name = s->pic_flags[i] >> bit & 1;
        PIC_FIELDS(SET)
        PIC_FLAGS(FLAG)
#undef SET
#undef FLAG
    }
#define SET(name) pc->uart.name = s->uart_##name;
#define FLAG(name, bit) pc->uart.name = s->uart_flags >> bit & 1;
    UART_FIELDS(SET)
    UART_FLAGS(FLAG)
#undef SET
#undef FLAG
}

int pc_state_valid(const struct pc_state *s)
{
    bool good = s->typed <= UART_QUEUE && s->uart_fifo_first < UART_FIFO && s->uart_fifo_count <= UART_FIFO &&
                s->rtc_index < 128 && s->rtc_since <= s->rtc_looked && !(s->skipped >> 63) && !(s->pit_seen >> 63);
    for (unsigned i = 0; i < 3; i++)
        good = good && s->pit_mode[i] <= 5 && s->pit_access[i] >= 1 && s->pit_access[i] <= 3 && s->pit_count[i] <= 0x10000 &&
               s->pit_reload[i] <= 0x10000 && s->pit_latched[i] <= 2 && !(s->pit_start[i] >> 63);
    for (unsigned i = 0; i < 2; i++)
        good = good && s->pic_lowest[i] < 8 && s->pic_next_icw[i] <= 4 && s->pic_next_icw[i] != 1;
    return good;
}
