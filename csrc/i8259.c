#include "i8259.h"

#define ICW1 0x10u
#define ICW1_IC4 0x01u
#define ICW1_SNGL 0x02u
#define ICW1_LTIM 0x08u
#define ICW4_AEOI 0x02u
#define ICW4_SFNM 0x10u
#define OCW3 0x08u

void i8259_reset(struct i8259 *p)
{
    *p = (struct i8259){.lowest = 7, .lines = p->lines};
}

void i8259_line(struct i8259 *p, unsigned irq, bool level)
{
    u8 bit = (u8)(1u << irq);
    if (!level)
        p->irr &= (u8)~bit;     /* a request must last until it is acknowledged */
    else if (p->level || !(p->lines & bit))
        p->irr |= bit;
    p->lines = level ? p->lines | bit : p->lines & (u8)~bit;
}

/* The first input in the order of priority with a bit of the set, or I8259_NONE. */
static unsigned highest(const struct i8259 *p, u8 set)
{
    for (unsigned i = 1; i <= 8; i++)
        if (set >> ((p->lowest + i) & 7) & 1)
            return (p->lowest + i) & 7;
    return I8259_NONE;
}

static unsigned rank(const struct i8259 *p, unsigned irq)
{
    return (irq - p->lowest - 1) & 7;
}

unsigned i8259_request(const struct i8259 *p)
{
    unsigned wants = highest(p, p->irr & (u8)~p->imr);
    unsigned busy = highest(p, p->special_mask ? p->isr & (u8)~p->imr : p->isr);
    if (wants == I8259_NONE || busy == I8259_NONE)
        return wants;
    bool passes = p->fully_nested ? rank(p, wants) <= rank(p, busy) : rank(p, wants) < rank(p, busy);
    return passes ? wants : I8259_NONE;
}

/* OCW2: end of interrupt of one input. */
static void end(struct i8259 *p, unsigned irq, bool rotate)
{
    if (irq == I8259_NONE)
        return;
    p->isr &= (u8) ~(1u << irq);
    if (rotate)
        p->lowest = (u8)irq;
}

unsigned i8259_acknowledge(struct i8259 *p)
{
    unsigned irq = i8259_request(p);
    if (irq == I8259_NONE)
        return I8259_SPURIOUS;
    if (!p->level)
        p->irr &= (u8) ~(1u << irq);
    p->isr |= (u8)(1u << irq);
    if (p->auto_eoi)
        end(p, irq, p->rotate_auto);
    return irq;
}

u8 i8259_read(struct i8259 *p, unsigned a0)
{
    if (p->poll) {
        p->poll = false;
        return i8259_request(p) == I8259_NONE ? 0 : (u8)(0x80 | i8259_acknowledge(p));
    }
    if (a0)
        return p->imr;
    return p->read_isr ? p->isr : p->irr;
}

static void begin(struct i8259 *p, u8 icw1)
{
    i8259_reset(p);
    p->level = icw1 & ICW1_LTIM;
    p->single = icw1 & ICW1_SNGL;
    p->wants_icw4 = icw1 & ICW1_IC4;
    p->irr = p->level ? p->lines : 0;
    p->next_icw = 2;
}

static void initialise(struct i8259 *p, u8 value)
{
    if (p->next_icw == 2) {
        p->base = value & 0xF8;
        p->next_icw = !p->single ? 3 : p->wants_icw4 ? 4 : 0;
    } else if (p->next_icw == 3) {
        p->next_icw = p->wants_icw4 ? 4 : 0;    /* which input the other one is at is wired on the board */
    } else {
        p->auto_eoi = value & ICW4_AEOI;
        p->fully_nested = value & ICW4_SFNM;
        p->next_icw = 0;
    }
}

static void ocw2(struct i8259 *p, u8 value)
{
    unsigned irq = value & 7;
    switch (value >> 5) {
    case 0: p->rotate_auto = false; break;
    case 1: end(p, highest(p, p->isr), false); break;
    case 3: end(p, irq, false); break;
    case 4: p->rotate_auto = true; break;
    case 5: end(p, highest(p, p->isr), true); break;
    case 6: p->lowest = (u8)irq; break;
    case 7: end(p, irq, true); break;
    default: break;             /* 2: no operation */
    }
}

static void ocw3(struct i8259 *p, u8 value)
{
    if (value & 0x40)
        p->special_mask = value & 0x20;
    if (value & 0x02)
        p->read_isr = value & 0x01;
    p->poll = value & 0x04;
}

void i8259_write(struct i8259 *p, unsigned a0, u8 value)
{
    if (!a0 && value & ICW1)
        begin(p, value);
    else if (a0 && p->next_icw)
        initialise(p, value);
    else if (a0)
        p->imr = value;
    else if (value & OCW3)
        ocw3(p, value);
    else
        ocw2(p, value);
}
