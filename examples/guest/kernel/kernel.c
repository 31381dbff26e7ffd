/* kernel.c: traps, the scheduler, and the end. */
#include "kernel.h"

#define EFLAGS_START 0x202u             /* IF, and bit 1 that is always set */
#define KILLED 0x100u
#define KERNEL_STACK_SIZE 2048

struct task tasks[TASKS];
u32 ticks;
u32 switches;
u32 panic_vector = ~0u;

static u8 kernel_stacks[TASKS][KERNEL_STACK_SIZE] __attribute__((aligned(16)));
static u8 idle_stack[KERNEL_STACK_SIZE] __attribute__((aligned(16)));
static struct frame *idle_frame;
static u32 current;                     /* index in tasks; TASKS: the idle loop */

PROBEABLE void task_create(u32 n)
{
    struct frame *f = (struct frame *)(kernel_stacks[n] + KERNEL_STACK_SIZE) - 1;
    f->ds = f->es = f->ss = USER_DS;
    f->cs = USER_CS;
    f->eip = (u32)task_entries[n];
    f->esp = (u32)(user_stacks[n] + USER_STACK_SIZE);
    f->eflags = EFLAGS_START;
    tasks[n].frame = f;
}

PROBEABLE void idle_create(void)
{
    struct frame *f = (struct frame *)(idle_stack + KERNEL_STACK_SIZE) - 1;
    f->ds = f->es = KERNEL_DS;
    f->cs = KERNEL_CS;
    f->eip = (u32)idle_loop;
    f->eflags = EFLAGS_START;
    idle_frame = f;
}

/* Sleepers whose time has come are ready again. */
PROBEABLE void timer_tick(void)
{
    ticks++;
    if (current < TASKS)
        tasks[current].preemptions++;
    for (u32 i = 0; i < TASKS; i++)
        if (tasks[i].state == TASK_SLEEPING && (int)(ticks - tasks[i].wake) >= 0)
            tasks[i].state = TASK_READY;
}

PROBEABLE u32 exit_sum(void)
{
    u32 sum = 0;
    for (u32 i = 0; i < TASKS; i++)
        sum += tasks[i].exit_code;
    return sum;
}

/* The next ready task after the current one in turn; TASKS when none is ready but some sleep. */
PROBEABLE u32 schedule(void)
{
    u32 sleeping = 0;
    for (u32 i = 1; i <= TASKS; i++) {
        u32 n = (current + i) % TASKS;
        if (tasks[n].state == TASK_READY)
            return n;
        sleeping += tasks[n].state == TASK_SLEEPING;
    }
    if (!sleeping)
        halt(exit_sum());
    return TASKS;
}

PROBEABLE struct frame *switch_to(u32 next)
{
    switches += next != current;
    current = next;
    if (next == TASKS)
        return idle_frame;
    tables_set_kernel_stack((u32)(kernel_stacks[next] + KERNEL_STACK_SIZE));
    return tasks[next].frame;
}

/* A trap that is neither tick nor system call: the end of the task, or of everything. */
PROBEABLE void fault(const struct frame *f)
{
    if (current == TASKS || !(f->cs & 3)) {
        panic_vector = f->vector;
        halt(~0u);
    }
    tasks[current].state = TASK_DEAD;
    tasks[current].exit_code = KILLED + f->vector;
}

PROBEABLE struct frame *trap_handle(struct frame *f)
{
    if (current == TASKS)
        idle_frame = f;
    else
        tasks[current].frame = f;

    if (f->vector == SYSTEM_CALL_VECTOR && system_call(&tasks[current], f))
        return f;
    if (f->vector == TIMER_VECTOR)
        timer_tick();
    else if (f->vector != SYSTEM_CALL_VECTOR)
        fault(f);
    return switch_to(schedule());
}

void kernel_main(void)
{
    tables_init();
    for (u32 i = 0; i < TASKS; i++)
        task_create(i);
    idle_create();
    resume(switch_to(0));
}
