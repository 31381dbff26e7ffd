/* entry.S: the way into the kernel and out of it. */
#include "selectors.h"

        .text
        .globl  _start
        .type   _start, @function
_start:
        cli
        cld
        mov     $boot_stack_top, %esp
        call    kernel_main
        .size   _start, . - _start

/* load_tables(gdtr, idtr): both tables, every segment register, the task register. */
        .globl  load_tables
        .type   load_tables, @function
load_tables:
        mov     4(%esp), %eax
        lgdt    (%eax)
        mov     8(%esp), %eax
        lidt    (%eax)
        ljmp    $KERNEL_CS, $1f
1:      mov     $KERNEL_DS, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        xor     %eax, %eax
        mov     %eax, %fs
        mov     %eax, %gs
        mov     $TSS_SELECTOR, %eax
        ltr     %ax
        ret
        .size   load_tables, . - load_tables

/* One stub a vector brings every frame to the same shape. 8, 10-14 and 17 come with an error code. */
        .macro  trap_stub vector
        .type   trap_\vector, @function
trap_\vector:
        .if     !((\vector == 8) || (\vector >= 10 && \vector <= 14) || (\vector == 17))
        push    $0
        .endif
        push    $\vector
        jmp     trap_common
        .size   trap_\vector, . - trap_\vector
        .section .rodata.stubs, "a", @progbits
        .long   trap_\vector
        .text
        .endm

        .section .rodata.stubs, "a", @progbits
        .globl  trap_stubs
        .type   trap_stubs, @object
trap_stubs:
        .size   trap_stubs, 4 * TRAP_STUBS
        .text
        .altmacro
        .macro  trap_stub_at n
        trap_stub \n
        .endm
        .set    vector, 0
        .rept   TRAP_STUBS
        trap_stub_at %vector
        .set    vector, vector + 1
        .endr
        .noaltmacro

        .type   trap_system_call, @function
trap_system_call:
        push    $0
        push    $SYSTEM_CALL_VECTOR
        jmp     trap_common
        .size   trap_system_call, . - trap_system_call
        .section .rodata
        .globl  system_call_stub
        .type   system_call_stub, @object
        .align  4
system_call_stub:
        .long   trap_system_call
        .size   system_call_stub, 4
        .text

        .type   trap_common, @function
trap_common:
        push    %es
        push    %ds
        pusha
        mov     $KERNEL_DS, %eax
        mov     %eax, %ds
        mov     %eax, %es
        cld
        push    %esp
        call    trap_handle
        push    %eax
        call    resume
        .size   trap_common, . - trap_common

/* resume(frame): go on where the frame was taken, on whatever stack that was. */
        .globl  resume
        .type   resume, @function
resume:
        mov     4(%esp), %esp
        popa
        pop     %ds
        pop     %es
        add     $8, %esp
        iret
        .size   resume, . - resume

/* halt(result): the end of the run. */
        .globl  halt
        .type   halt, @function
halt:
        mov     4(%esp), %eax
        cli
1:      hlt
        jmp     1b
        .size   halt, . - halt

/* What runs while every task sleeps: ring 0, interrupts on. */
        .globl  idle_loop
        .type   idle_loop, @function
idle_loop:
        hlt
        jmp     idle_loop
        .size   idle_loop, . - idle_loop

        .bss
        .align  16
        .skip   4096
boot_stack_top:

        .section .note.GNU-stack, "", @progbits
