/*
 * decode.c: libFuzzer target for the decoder. What must hold for any bytes:
 * a length within the bytes given and within 15, the same answer every time,
 * and an answer that bytes behind the instruction do not change.
 */
#include <stdlib.h>
#include <string.h>

#include "decode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void check(const u8 *bytes, unsigned n, bool code32)
{
    struct insn whole, part;
    memset(&whole, 0, sizeof(whole));
    memset(&part, 0, sizeof(part));
    enum decode_status status = decode(bytes, n, code32, &whole);
    if (status == DECODE_OK) {
        must(whole.len > 0 && whole.len <= n && whole.len <= INSN_MAX);
        must(decode(bytes, whole.len, code32, &part) == DECODE_OK && !memcmp(&whole, &part, sizeof(part)));
        for (unsigned k = 0; k < whole.len; k++)
            must(decode(bytes, k, code32, &part) != DECODE_OK);
    } else if (status == DECODE_MORE) {
        must(n < INSN_MAX);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u8 bytes[2 * INSN_MAX];
    unsigned n = size < sizeof(bytes) ? (unsigned)size : (unsigned)sizeof(bytes);
    if (n)
        memcpy(bytes, data, n);
    check(bytes, n, true);
    check(bytes, n, false);
    return 0;
}
