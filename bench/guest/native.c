/*
 * native.c: the work on the real CPU, as a static i386 Linux program without a
 * C library: `bench.elf ROUNDS [WORK]`, WORK an index into works, default 0. It
 * writes five words to standard output: the result, then the seconds and
 * nanoseconds of CPU time before and after the work. Only this file makes
 * system calls; an emulator calls the work functions directly.
 */
#include "guest.h"

#define SYS_EXIT 1
#define SYS_WRITE 4
#define SYS_CLOCK_GETTIME 265
#define CLOCK_PROCESS_CPUTIME_ID 2

typedef u32 work(u32 rounds);
work mixed, checksum_work, sort_work, sieve_work, call_work, core_work, x87_work, sse2_work, packed_work;
static work *const works[] = {
    mixed, checksum_work, sort_work, sieve_work, call_work, core_work, x87_work, sse2_work, packed_work,
};

static u32 system_call(u32 number, u32 a, const void *b, u32 c)
{
    u32 result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

static u32 number(const char *s)
{
    u32 n = 0;
    for (; *s >= '0' && *s <= '9'; s++)
        n = n * 10 + (u32)(*s - '0');
    return n;
}

/* argc lies at the initial stack pointer, argv behind it. */
__attribute__((used)) void start(u32 argc, char **argv)
{
    u32 report[5];
    u32 rounds = argc > 1 ? number(argv[1]) : 1;
    u32 which = argc > 2 ? number(argv[2]) % (sizeof works / sizeof works[0]) : 0;

    system_call(SYS_CLOCK_GETTIME, CLOCK_PROCESS_CPUTIME_ID, &report[1], 0);
    report[0] = works[which](rounds);
    system_call(SYS_CLOCK_GETTIME, CLOCK_PROCESS_CPUTIME_ID, &report[3], 0);
    system_call(SYS_WRITE, 1, report, sizeof report);
    system_call(SYS_EXIT, 0, 0, 0);
}

__asm__(".globl _start\n"
        "_start:\n"
        "    mov (%esp), %eax\n"
        "    lea 4(%esp), %edx\n"
        "    push %edx\n"
        "    push %eax\n"
        "    call start\n");
