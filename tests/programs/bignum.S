# Numbers of 256 bits: Fibonacci by adc, factorial by mul, division by 10 to decimal digits, shifts by shld.
        .text
        .globl  _start, done
        .equ    WORDS, 8
_start:
        movl    $1, a
        mov     $180, %ecx              # fibonacci
1:      push    %ecx
        mov     $WORDS, %ecx
        xor     %esi, %esi
        clc
2:      mov     a(, %esi, 4), %eax
        mov     %eax, %edx
        adc     b(, %esi, 4), %eax
        mov     %eax, a(, %esi, 4)
        mov     %edx, b(, %esi, 4)
        inc     %esi
        loop    2b
        pop     %ecx
        loop    1b

        mov     $digits_end, %edi       # to decimal
3:      mov     $WORDS - 1, %esi
        xor     %edx, %edx
        mov     $10, %ebx
        xor     %ebp, %ebp
4:      mov     a(, %esi, 4), %eax
        div     %ebx
        mov     %eax, a(, %esi, 4)
        or      %eax, %ebp
        dec     %esi
        jns     4b
        add     $'0', %dl
        dec     %edi
        mov     %dl, (%edi)
        test    %ebp, %ebp
        jnz     3b

        movl    $1, b                   # 25 factorial
        lea     b + 4, %edi
        mov     $WORDS - 1, %ecx
        xor     %eax, %eax
        rep     stosl
        mov     $25, %ebx
5:      xor     %ebp, %ebp
        xor     %esi, %esi
6:      mov     b(, %esi, 4), %eax
        mul     %ebx
        add     %ebp, %eax
        adc     $0, %edx
        mov     %eax, b(, %esi, 4)
        mov     %edx, %ebp
        add     $1, %esi
        cmp     $WORDS, %esi
        jne     6b
        dec     %ebx
        jnz     5b

        mov     $WORDS - 1, %esi        # shift left by 5, then right by 1 with rcr
7:      mov     b - 4(, %esi, 4), %eax
        shld    $5, %eax, b(, %esi, 4)
        dec     %esi
        jnz     7b
        shll    $5, b
        mov     $WORDS, %esi
        clc
8:      rcrl    $1, b - 4(, %esi, 4)
        dec     %esi
        jnz     8b

        mov     b + 8, %eax             # signed division, and its remainder
        or      $1, %eax
        cltd
        mov     $-37, %ecx
        idiv    %ecx
        imul    %ecx, %edx
        bsr     b + 8, %ecx
        bsf     b, %ebx
done:   nop
        .section .note.GNU-stack, "", @progbits
        .bss
        .balign 4
a:      .fill   WORDS, 4, 0
b:      .fill   WORDS, 4, 0
digits: .fill   80, 1, 0
digits_end:
