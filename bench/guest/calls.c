/* calls.c: a function to probe, and a loop that calls it. */
#include "guest.h"

PROBEABLE u32 probed(u32 a, u32 b)
{
    return a ^ b;
}

PROBEABLE u32 call_loop(u32 n)
{
    u32 sum = 0;
    for (u32 i = 0; i < n; i++)
        sum += probed(i, sum);
    return sum;
}
