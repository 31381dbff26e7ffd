# String instructions in all their forms: lengths, copies both ways and overlapping, searches, 16-bit counts.
        .text
        .globl  _start, done
_start:
        cld
        mov     $hello, %edi            # strlen
        xor     %eax, %eax
        or      $-1, %ecx
        repne   scasb
        not     %ecx
        dec     %ecx
        mov     %ecx, %ebx

        mov     $hello, %esi            # copy, then move up by one within the buffer
        mov     $buffer, %edi
        rep     movsb
        lea     -1(%edi), %esi
        std
        mov     %ebx, %ecx
        rep     movsb
        cld

        mov     $0x20202020, %eax       # fill, with byte, word and long parts
        mov     $buffer + 0x41, %edi
        mov     $13, %ecx
        shr     $2, %ecx
        rep     stosl
        stosw
        stosb

        mov     $hello, %esi            # compare with the moved copy
        mov     $buffer + 1, %edi
        mov     %ebx, %ecx
        repe    cmpsb
        seta    %al
        mov     %ecx, %edx

        mov     $buffer, %esi           # upper case by lodsb and stosb, in place
        mov     %esi, %edi
        mov     $0x30, %ecx
1:      lodsb
        cmp     $'a', %al
        jb      2f
        cmp     $'z', %al
        ja      2f
        and     $~0x20, %al
2:      stosb
        loop    1b

        mov     $buffer, %edi           # first 'O' from the end
        add     $0x30, %edi
        mov     $0x31, %ecx
        mov     $'O', %al
        std
        repne   scasb
        cld
        jecxz   3f
        inc     %edi
3:      mov     %edi, %eax

        mov     $buffer, %esi           # a count of 16 bits: the upper half of ecx stays
        mov     $buffer + 0x80, %edi
        mov     $0x00050003, %ecx
        .byte   0x66
        movsl
        mov     $buffer + 2, %esi
        mov     $buffer + 0x90, %edi
        mov     $4, %ecx
        rep     movsw
        xor     %ecx, %ecx              # nothing at all: flags stay
        cmp     $1, %ecx
        repe    cmpsl
        lahf
        mov     $buffer, %ebx
        mov     $0x0F, %al
        xlatb
done:   nop
        .data
hello:  .asciz  "Hello, hello, world of strings"
        .section .note.GNU-stack, "", @progbits
        .bss
        .balign 4
buffer: .fill   256, 1, 0
