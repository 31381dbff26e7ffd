/*
 * checksum.c: CRC-32, Adler-32 and Fletcher-32 over buffers of many lengths.
 *
 * Every round fills the buffer with pseudo-random bytes and takes the three
 * sums of its first lengths[round] bytes. The lengths spread over the powers
 * of two, so that a log2 histogram of an argument has something to show.
 */
#include "guest.h"

#define ROUNDS 256
#define BUFFER_SIZE 8192
#define SEED 0x12345678u
#define CRC_POLYNOMIAL 0xEDB88320u      /* CRC-32 of IEEE 802.3, bits reversed */
#define ADLER_BASE 65521u               /* largest prime below 2^16 */
#define ADLER_CHUNK 5552u               /* bytes until the sums could overflow 32 bits */
#define FLETCHER_CHUNK 359u             /* 16-bit words until the sums could */

u8 buffer[BUFFER_SIZE];
u32 lengths[ROUNDS];
u32 crc_results[ROUNDS];
u32 adler_results[ROUNDS];
u32 fletcher_results[ROUNDS];

static u32 crc_table[256];

PROBEABLE void crc32_init(void)
{
    for (u32 n = 0; n < 256; n++) {
        u32 c = n;
        for (u32 bit = 0; bit < 8; bit++)
            c = c & 1 ? CRC_POLYNOMIAL ^ (c >> 1) : c >> 1;
        crc_table[n] = c;
    }
}

PROBEABLE u32 crc32(u32 crc, const u8 *buf, u32 len)
{
    crc = ~crc;
    for (const u8 *end = buf + len; buf < end; buf++)
        crc = crc_table[(crc ^ *buf) & 0xFF] ^ (crc >> 8);
    return ~crc;
}

PROBEABLE u32 adler32(u32 adler, const u8 *buf, u32 len)
{
    u32 a = adler & 0xFFFF, b = adler >> 16;
    while (len) {
        u32 chunk = len < ADLER_CHUNK ? len : ADLER_CHUNK;
        len -= chunk;
        for (const u8 *end = buf + chunk; buf < end; buf++) {
            a += *buf;
            b += a;
        }
        a %= ADLER_BASE;
        b %= ADLER_BASE;
    }
    return b << 16 | a;
}

/* Words are little endian; an odd last byte counts as a word with a zero high byte. */
PROBEABLE u32 fletcher32(const u8 *buf, u32 len)
{
    u32 a = 0, b = 0, words = (len + 1) / 2;
    while (words) {
        u32 chunk = words < FLETCHER_CHUNK ? words : FLETCHER_CHUNK;
        words -= chunk;
        for (; chunk; chunk--, len -= 2, buf += 2) {
            a += len > 1 ? (u32)(buf[0] | buf[1] << 8) : buf[0];
            b += a;
        }
        a %= 65535;
        b %= 65535;
    }
    return b << 16 | a;
}

PROBEABLE void fill_buffer(u8 *buf, u32 len, u32 *state)
{
    for (u32 i = 0; i < len; i++)
        buf[i] = (u8)(random_next(state) >> 24);
}

PROBEABLE u32 pick_length(u32 *state)
{
    u32 x = random_next(state);
    return x % BUFFER_SIZE >> (x >> 28);
}

u32 guest_main(void)
{
    u32 state = SEED, all = 0;

    crc32_init();
    for (u32 i = 0; i < ROUNDS; i++) {
        u32 len = lengths[i] = pick_length(&state);
        fill_buffer(buffer, len, &state);
        crc_results[i] = crc32(0, buffer, len);
        adler_results[i] = adler32(1, buffer, len);
        fletcher_results[i] = fletcher32(buffer, len);
        all ^= crc_results[i] ^ adler_results[i] ^ fletcher_results[i];
    }
    return all;
}
