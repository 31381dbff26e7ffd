/* guest.h: what the freestanding example programs share. */
#ifndef GUEST_H
#define GUEST_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

/* A function that stays a function: called by name with its arguments on the stack, never inlined, cloned or
 * folded, so that a probe on its symbol sees every call. */
#define PROBEABLE __attribute__((noipa))

/* Marsaglia's 32-bit xorshift; the state is never 0. */
static inline u32 random_next(u32 *state)
{
    u32 x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

#endif
