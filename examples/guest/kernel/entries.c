/* entries.c: the tasks, in the order of their numbers. */
#include "kernel.h"

void task_primes(void), task_fibonacci(void), task_writer(void), task_sleeper(void), task_rogue(void);

void (*const task_entries[TASKS])(void) = { task_primes, task_fibonacci, task_writer, task_sleeper, task_rogue };
