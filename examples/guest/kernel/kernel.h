/*
 * kernel.h: a kernel small enough to read in one sitting. It owns its GDT,
 * IDT and TSS, runs five ring-3 tasks under a timer-tick scheduler and serves
 * their system calls by int 0x80.
 *
 * It starts in ring 0 of 32-bit protected mode with flat segments. With paging
 * off it maps itself and turns paging on, user pages apart from its own; with
 * paging on it uses the mappings that it finds, which must allow ring 3.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include "selectors.h"
#include "../guest.h"

#define TASKS 5

/* What a trap leaves on the kernel stack, lowest address first; built by entry.S. */
struct frame {
    u32 edi, esi, ebp, unused_esp, ebx, edx, ecx, eax;
    u32 ds, es;
    u32 vector;
    u32 error;                          /* 0 for vectors without an error code */
    u32 eip, cs, eflags;
    u32 esp, ss;                        /* there only when the trap came from ring 3 */
};

enum task_state { TASK_READY, TASK_SLEEPING, TASK_DEAD };

struct task {
    struct frame *frame;                /* where the task goes on */
    u32 state;                          /* enum task_state */
    u32 wake;                           /* TASK_SLEEPING: the tick at which it is ready again */
    u32 exit_code;                      /* TASK_DEAD: argument of exit, or 0x100 + the vector that killed it */
    u32 system_calls;
    u32 preemptions;                    /* ticks that found it running */
};

/* Results, read by the host when the kernel has halted. */
extern struct task tasks[TASKS];
extern u32 ticks;                       /* timer interrupts taken */
extern u32 switches;                    /* returns to another task than the one that trapped */
extern u32 panic_vector;                /* vector of a trap in the kernel itself, ~0: none */
extern char console[256];               /* what tasks wrote */
extern u32 console_length;

/* kernel.c */
struct frame *trap_handle(struct frame *f);
void kernel_main(void);
/* tables.c: fill IDT and TSS, build page tables when paging is off, and load it all. */
void tables_init(void);
void tables_set_kernel_stack(u32 top);
/* syscall.c: serve it; nonzero when the task goes on at once. */
int system_call(struct task *t, struct frame *f);
/* entry.S */
extern const u32 trap_stubs[TRAP_STUBS];
extern const u32 system_call_stub;
void load_tables(const void *gdtr, const void *idtr);
__attribute__((noreturn)) void resume(struct frame *f);
__attribute__((noreturn)) void halt(u32 result);
void idle_loop(void);
/* tasks.c: ring 3 */
extern void (*const task_entries[TASKS])(void);
extern u8 user_stacks[TASKS][USER_STACK_SIZE];
/* kernel.ld */
extern u8 image_start[], image_end[], user_start[], user_end[];

#endif
