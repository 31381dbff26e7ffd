/* syscall.c: int 0x80, number in eax, arguments in ebx and ecx, result in eax. */
#include "kernel.h"

#define ERROR 0xFFFFFFFFu

char console[256];
u32 console_length;

/* All of what a task names must be its to read: no reading the kernel through a system call. */
PROBEABLE u32 sys_write(u32 address, u32 length)
{
    u32 start = (u32)user_start, end = (u32)user_end;
    if (address < start || address > end || length > end - address || length > sizeof console - console_length)
        return ERROR;
    for (u32 i = 0; i < length; i++)
        console[console_length++] = ((const char *)address)[i];
    return length;
}

PROBEABLE void sys_exit(struct task *t, u32 code)
{
    t->state = TASK_DEAD;
    t->exit_code = code;
}

PROBEABLE void sys_sleep(struct task *t, u32 count)
{
    t->state = TASK_SLEEPING;
    t->wake = ticks + count;
}

PROBEABLE int system_call(struct task *t, struct frame *f)
{
    t->system_calls++;
    switch (f->eax) {
    case SYS_EXIT:
        sys_exit(t, f->ebx);
        return 0;
    case SYS_WRITE:
        f->eax = sys_write(f->ebx, f->ecx);
        return 1;
    case SYS_YIELD:
        f->eax = 0;
        return 0;
    case SYS_SLEEP:
        f->eax = 0;
        sys_sleep(t, f->ebx);
        return 0;
    case SYS_TICKS:
        f->eax = ticks;
        return 1;
    default:
        f->eax = ERROR;
        return 1;
    }
}
