/* hook.c: what a C program does as cheaply as can be in a Unicorn hook. */
#include <stdint.h>

static uint64_t n;

void count(void *uc, uint64_t address, uint32_t size, void *data)
{
    (void)uc, (void)address, (void)size, (void)data;
    n++;
}

uint64_t hits(void)
{
    return n;
}
