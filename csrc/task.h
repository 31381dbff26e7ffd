/*
 * task.h: task switches (SDM vol. 3, chapter 7).
 */
#ifndef PYK_TASK_H
#define PYK_TASK_H

#include "cpu.h"

/* How a switch was asked for; TASK_EVENT: an exception or interrupt through a task gate. */
enum task_cause { TASK_JUMP, TASK_CALL, TASK_EVENT, TASK_RETURN };

struct task_switch {
    enum task_cause cause;
    u32 eip;                    /* where the old task goes on later */
    u32 eflags;                 /* and with which flags */
    u32 ext;                    /* EXT bit of error codes */
    bool has_error;             /* EVENT: error_code goes onto the new task's stack */
    u32 error_code;
    bool committed;             /* out: the new task is the current one, and a fault is its own */
};

/* Switch to the TSS that a selector names; the privilege to do so has been checked. STATUS_JUMP, or STATUS_FAULT: not
 * committed, nothing of the processor changed; committed, the fault comes before the new task's first instruction. */
int task_switch(struct cpu *cpu, u16 selector, struct task_switch *ts);
/* IRET with NT set: back to the task that the current TSS links to. */
int task_return(struct cpu *cpu, struct task_switch *ts);

#endif
