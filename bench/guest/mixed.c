/*
 * mixed.c: integer work of several kinds, scalable by its argument: a
 * table-driven CRC-32, a recursive quicksort, the sieve of Eratosthenes and
 * recursive calls. The same object code runs on the real CPU, in pykprobes and
 * in Unicorn. One round is about 3.8 million instructions.
 */
#include "guest.h"

#define BYTES 65536
#define WORDS 8192
#define NUMBERS 65536
#define FIBONACCI 23
#define TAK 10, 6, 2

/* examples/guest/checksum.c */
void crc32_init(void);
u32 crc32(u32 crc, const u8 *buf, u32 len);

static u8 bytes[BYTES];
static u32 words[WORDS];
static u8 composite[NUMBERS];

PROBEABLE void quicksort(u32 *low, u32 *high)
{
    u32 *i = low, *j = high, pivot = low[(high - low) / 2];
    while (i <= j) {
        while (*i < pivot)
            i++;
        while (*j > pivot)
            j--;
        if (i <= j) {
            u32 t = *i;
            *i++ = *j;
            *j-- = t;
        }
    }
    if (low < j)
        quicksort(low, j);
    if (i < high)
        quicksort(i, high);
}

PROBEABLE u32 sieve(void)
{
    u32 primes = 0;
    for (u32 i = 0; i < NUMBERS; i++)
        composite[i] = 0;
    for (u32 i = 2; i < NUMBERS; i++) {
        if (composite[i])
            continue;
        primes++;
        for (u32 k = 2 * i; k < NUMBERS; k += i)
            composite[k] = 1;
    }
    return primes;
}

PROBEABLE u32 fibonacci(u32 n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

PROBEABLE int tak(int x, int y, int z)
{
    return y < x ? tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y)) : z;
}

PROBEABLE u32 fill(u32 state)
{
    for (u32 i = 0; i < WORDS; i++)
        words[i] = random_next(&state);
    return state;
}

/* The four kinds of work alone. */
PROBEABLE u32 checksum_work(u32 rounds)
{
    u32 sum = 0;
    crc32_init();
    for (u32 i = 0; i < BYTES; i++)
        bytes[i] = (u8)(i * 31);
    while (rounds--)
        sum = crc32(sum, bytes, BYTES);
    return sum;
}

PROBEABLE u32 sort_work(u32 rounds)
{
    u32 state = 0x2002072Fu, sum = 0;
    while (rounds--) {
        state = fill(state);
        quicksort(words, words + WORDS - 1);
        sum = sum * 31 + words[WORDS / 2];
    }
    return sum;
}

PROBEABLE u32 sieve_work(u32 rounds)
{
    u32 sum = 0;
    while (rounds--)
        sum += sieve();
    return sum;
}

PROBEABLE u32 call_work(u32 rounds)
{
    u32 sum = 0;
    while (rounds--)
        sum += fibonacci(FIBONACCI) + (u32)tak(TAK);
    return sum;
}

/* All of it in turn; the result depends on every part. */
PROBEABLE u32 mixed(u32 rounds)
{
    return checksum_work(rounds) + sort_work(rounds) + sieve_work(rounds) + call_work(rounds);
}
