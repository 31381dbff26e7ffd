/* tasks.c: what runs in ring 3. All code and data here lie in pages of their own (kernel.ld). */
#include "kernel.h"

#define PRIME_LIMIT 4000
#define FIBONACCI 20
#define NAPS 4

u8 user_stacks[TASKS][USER_STACK_SIZE] __attribute__((aligned(16)));

static char greeting[] = "hello from ring 3\n";

PROBEABLE u32 invoke(u32 number, u32 a, u32 b)
{
    u32 result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b) : "memory");
    return result;
}

PROBEABLE void leave(u32 code)
{
    for (;;)
        invoke(SYS_EXIT, code, 0);
}

PROBEABLE int is_prime(u32 n)
{
    u32 d = 2;
    while (d * d <= n && n % d)
        d++;
    return n > 1 && d * d > n;
}

/* Exit code: how many primes there are below PRIME_LIMIT. */
PROBEABLE void task_primes(void)
{
    u32 count = 0;
    for (u32 n = 0; n < PRIME_LIMIT; n++)
        count += (u32)is_prime(n);
    leave(count);
}

PROBEABLE u32 fibonacci(u32 n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

PROBEABLE void task_fibonacci(void)
{
    leave(fibonacci(FIBONACCI));
}

/* Writes letter by letter and lets the others run between; a write of kernel memory must be refused.
 * Exit code: the bytes written. */
PROBEABLE void task_writer(void)
{
    u32 written = 0;
    for (u32 i = 0; i < sizeof greeting - 1; i++) {
        written += invoke(SYS_WRITE, (u32)&greeting[i], 1);
        invoke(SYS_YIELD, 0, 0);
    }
    if (invoke(SYS_WRITE, (u32)image_start, 1) != ~0u)
        written = 0;
    leave(written);
}

/* Sleeps again and again. Exit code: the naps that were long enough. */
PROBEABLE void task_sleeper(void)
{
    u32 good = 0;
    for (u32 n = 1; n <= NAPS; n++) {
        u32 before = invoke(SYS_TICKS, 0, 0);
        invoke(SYS_SLEEP, n, 0);
        good += invoke(SYS_TICKS, 0, 0) - before >= n;
    }
    leave(good);
}

/* CLI is not for ring 3: #GP, vector 13, ends the task. */
PROBEABLE void task_rogue(void)
{
    __asm__ volatile("cli");
    leave(0);
}
