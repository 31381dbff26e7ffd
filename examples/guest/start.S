/* start.S: entry of the ring-0 programs. The result of guest_main is in eax when the machine halts. */
        .text
        .globl  _start
        .type   _start, @function
_start:
        cld
        call    guest_main
1:      hlt
        jmp     1b
        .size   _start, . - _start

        .section .note.GNU-stack, "", @progbits
