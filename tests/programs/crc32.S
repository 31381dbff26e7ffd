# CRC-32 with a table that the program makes itself, over its own text, bytewise and by a shift register.
        .text
        .globl  _start, done
_start:
        mov     $table, %edi
        xor     %ecx, %ecx
1:      mov     %ecx, %eax
        mov     $8, %edx
2:      shr     $1, %eax
        jnc     3f
        xor     $0xEDB88320, %eax
3:      dec     %edx
        jnz     2b
        cld
        stosl
        inc     %cl
        jnz     1b

        mov     $text, %esi
        mov     $text_end - text, %ecx
        or      $-1, %edx
4:      lodsb
        xor     %dl, %al
        movzbl  %al, %eax
        shr     $8, %edx
        xor     table(, %eax, 4), %edx
        loop    4b
        not     %edx
        mov     %edx, result

        mov     $text, %esi
        mov     $0xFFFFFFFF, %eax
5:      movzbl  (%esi), %ebx
        inc     %esi
        xor     %ebx, %eax
        mov     $8, %ecx
6:      shr     %eax
        sbb     %edx, %edx
        and     $0xEDB88320, %edx
        xor     %edx, %eax
        sub     $1, %ecx
        ja      6b
        cmp     $text_end, %esi
        jb      5b
        notl    %eax
        cmp     result, %eax
        sete    same
        mov     result, %edx
        bswap   %edx
done:   nop

        .data
text:   .ascii  "The quick brown fox jumps over the lazy dog"
text_end:
same:   .byte   0
        .balign 4
result: .long   0
        .section .note.GNU-stack, "", @progbits
        .bss
        .balign 4
table:  .fill   256, 4, 0
