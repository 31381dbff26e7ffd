#include "i8254.h"

#define FULL_COUNT 0x10000u
#define FULL_COUNT_BCD 10000u

void i8254_reset(struct i8254 *p)
{
    *p = (struct i8254){0};
    for (unsigned i = 0; i < 3; i++) {
        p->counter[i].gate = true;
        p->counter[i].access = 3;
    }
}

static bool periodic(const struct i8254_counter *c)
{
    return c->mode == 2 || c->mode == 3;
}

/* Does a rising gate start it, instead of a count? */
static bool gate_starts(const struct i8254_counter *c)
{
    return c->mode == 1 || c->mode == 5;
}

/* Cycles since counting began. */
static u64 elapsed(const struct i8254_counter *c, u64 now)
{
    if (c->halted)
        return c->start;
    return now > c->start ? now - c->start : 0;
}

/* A count written in the middle of a period waits for its end. */
static void settle(struct i8254_counter *c, u64 now)
{
    if (!c->reload || c->halted || elapsed(c, now) < c->count)
        return;
    c->start += c->count;
    c->count = c->reload;
    c->reload = 0;
}

static bool output(const struct i8254_counter *c, u64 now)
{
    u64 e = elapsed(c, now);
    if (!c->count || (gate_starts(c) && !c->triggered))
        return c->mode != 0;
    switch (c->mode) {
    case 0:
    case 1: return e >= c->count;
    case 2: return c->halted || e % c->count != c->count - 1;
    case 3: return c->halted || e % c->count < (c->count + 1) / 2;
    default: return e != c->count;
    }
}

static u16 to_bcd(u32 value)
{
    return (u16)(value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 | value / 1000 % 10 << 12);
}

static u32 from_bcd(u32 value)
{
    return (value & 15) + (value >> 4 & 15) * 10 + (value >> 8 & 15) * 100 + (value >> 12 & 15) * 1000;
}

static u16 counted(const struct i8254_counter *c, u64 now)
{
    u64 e = elapsed(c, now);
    u32 full = c->bcd ? FULL_COUNT_BCD : FULL_COUNT, value;
    if (!c->count) {
        value = 0;
    } else if (c->mode == 3) {
        u32 at = (u32)(e % c->count), half = (c->count + 1) / 2;
        value = (c->count & ~1u) - 2 * (at < half ? at : at - half);
    } else if (c->mode == 2) {
        value = c->count - (u32)(e % c->count);
    } else {
        value = gate_starts(c) && !c->triggered ? c->count : (c->count + full - (u32)(e % full)) % full;
    }
    return c->bcd ? to_bcd(value) : (u16)value;
}

/* --- what is written -------------------------------------------------------------------------------------- */

static void load(struct i8254_counter *c, u32 value, u64 now)
{
    u32 count = c->bcd ? from_bcd(value) : value;
    if (!count)
        count = c->bcd ? FULL_COUNT_BCD : FULL_COUNT;
    settle(c, now);
    if (c->count && periodic(c) && !c->halted) {
        c->reload = count;
        return;
    }
    c->count = count;
    c->triggered = false;
    c->halted = !gate_starts(c) && !c->gate;
    c->start = c->halted ? 0 : now;
}

static void write_count(struct i8254_counter *c, u8 value, u64 now)
{
    if (c->access == 1) {
        load(c, value, now);
    } else if (c->access == 2) {
        load(c, (u32)value << 8, now);
    } else if (!c->high_next_write) {
        c->low = value;
        c->high_next_write = true;
    } else {
        c->high_next_write = false;
        load(c, c->low | (u32)value << 8, now);
    }
}

static void latch_count(struct i8254_counter *c, u64 now)
{
    if (c->latched)
        return;
    settle(c, now);
    c->latch = counted(c, now);
    c->latched = c->access == 3 ? 2 : 1;
}

static void latch_status(struct i8254_counter *c, u64 now)
{
    if (c->status_latched)
        return;
    settle(c, now);
    bool null_count = !c->count || c->reload;
    c->status = (u8)(output(c, now) << 7 | null_count << 6 | c->access << 4 | c->mode << 1 | c->bcd);
    c->status_latched = true;
}

static void control(struct i8254 *p, u8 value, u64 now)
{
    unsigned which = value >> 6;
    if (which == 3) {           /* read-back */
        for (unsigned i = 0; i < 3; i++) {
            if (value >> (i + 1) & 1 && !(value & 0x20))
                latch_count(&p->counter[i], now);
            if (value >> (i + 1) & 1 && !(value & 0x10))
                latch_status(&p->counter[i], now);
        }
        return;
    }
    struct i8254_counter *c = &p->counter[which];
    if (!(value >> 4 & 3)) {
        latch_count(c, now);
        return;
    }
    unsigned mode = value >> 1 & 7;
    *c = (struct i8254_counter){
        .mode = (u8)(mode > 5 ? mode - 4 : mode), .access = value >> 4 & 3, .bcd = value & 1, .gate = c->gate};
}

void i8254_write(struct i8254 *p, unsigned a, u8 value, u64 now)
{
    if (a == 3)
        control(p, value, now);
    else
        write_count(&p->counter[a], value, now);
}

u8 i8254_read(struct i8254 *p, unsigned a, u64 now)
{
    if (a == 3)
        return 0xFF;            /* the control word cannot be read */
    struct i8254_counter *c = &p->counter[a];
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    settle(c, now);
    u16 value = c->latched ? c->latch : counted(c, now);
    bool high = c->access == 2 || (c->access == 3 && c->high_next_read);
    c->high_next_read = c->access == 3 && !high;
    if (c->latched)
        c->latched--;
    return high ? (u8)(value >> 8) : (u8)value;
}

/* --- gates and outputs ------------------------------------------------------------------------------------ */

void i8254_gate(struct i8254 *p, unsigned which, bool level, u64 now)
{
    struct i8254_counter *c = &p->counter[which];
    bool rises = level && !c->gate;
    settle(c, now);
    if (!rises && !level && c->gate && !gate_starts(c) && !c->halted) {
        c->start = elapsed(c, now);
        c->halted = true;
    }
    c->gate = level;
    if (!rises)
        return;
    if (gate_starts(c)) {
        c->triggered = c->count;
        c->start = now;
    } else if (c->halted) {
        c->start = periodic(c) ? now : now - c->start;
        c->halted = false;
        c->count = periodic(c) && c->reload ? c->reload : c->count;
        c->reload = periodic(c) ? 0 : c->reload;
    }
}

bool i8254_output(const struct i8254 *p, unsigned which, u64 now)
{
    struct i8254_counter c = p->counter[which];
    settle(&c, now);
    return output(&c, now);
}

u64 i8254_next_rise(const struct i8254 *p, unsigned which, u64 now)
{
    struct i8254_counter c = p->counter[which];
    settle(&c, now);
    if (!c.count || c.halted || (gate_starts(&c) && !c.triggered))
        return I8254_NEVER;
    u64 e = elapsed(&c, now);
    if (periodic(&c))
        return c.reload ? c.start + c.count : c.start + (e / c.count + 1) * c.count;
    u64 rise = c.mode >= 4 ? (u64)c.count + 1 : c.count;
    return e < rise ? c.start + rise : I8254_NEVER;
}
