/* replay.c: runs a libFuzzer target on the inputs of a corpus, one a line in hexadecimal, without libFuzzer. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int digit(int c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int main(void)
{
    static uint8_t input[1 << 16];
    unsigned line = 0;
    int c = getchar();
    while (c != EOF) {
        size_t size = 0;
        for (; digit(c) >= 0; c = getchar()) {
            int low = getchar();
            if (digit(low) < 0 || size == sizeof(input))
                return 2;
            input[size++] = (uint8_t)(digit(c) << 4 | digit(low));
        }
        if (c != '\n')
            return 2;
        fprintf(stderr, "line %u\n", ++line);
        LLVMFuzzerTestOneInput(input, size);
        c = getchar();
    }
    printf("%u inputs\n", line);
    return 0;
}
