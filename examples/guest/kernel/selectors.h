/* selectors.h: numbers that assembly and C share. */
#ifndef SELECTORS_H
#define SELECTORS_H

#define KERNEL_CS 0x08
#define KERNEL_DS 0x10
#define USER_CS 0x1B                    /* with RPL 3 */
#define USER_DS 0x23
#define TSS_SELECTOR 0x28

#define TRAP_STUBS 33                   /* vectors 0-31 and the timer's */
#define TIMER_VECTOR 0x20
#define SYSTEM_CALL_VECTOR 0x80
#define USER_STACK_SIZE 1024

#define SYS_EXIT 0                      /* ebx: exit code */
#define SYS_WRITE 1                     /* ebx: address, ecx: bytes; returns the bytes written or -1 */
#define SYS_YIELD 2
#define SYS_SLEEP 3                     /* ebx: ticks */
#define SYS_TICKS 4                     /* returns the tick count */

#endif
