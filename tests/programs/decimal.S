# BCD: packed addition and subtraction, unpacked multiplication and division, bit strings and byte swaps.
        .text
        .globl  _start, done
_start:
        mov     $4, %ecx                # 9 digits packed: x + y, then - y again
        xor     %esi, %esi
        clc
1:      mov     x(%esi), %al
        adc     y(%esi), %al
        daa
        mov     %al, z(%esi)
        inc     %esi
        loop    1b
        mov     $4, %ecx
        xor     %esi, %esi
        clc
2:      mov     z(%esi), %al
        sbb     y(%esi), %al
        das
        mov     %al, z(%esi)
        inc     %esi
        loop    2b

        mov     $7, %al                 # 7 * 8 in unpacked digits, and back
        mov     $8, %bl
        mul     %bl
        aam
        mov     %ax, %dx
        aad
        movzbw  %al, %ax
        div     %bl
        mov     $0x0105, %ax
        add     $8, %al
        aaa
        sub     $9, %al
        aas

        mov     $100, %eax              # a sieve in a bit string, offsets beyond the first word
        mov     $2, %edi
3:      mov     %edi, %ebx
        add     %edi, %ebx
4:      cmp     %eax, %ebx
        jae     5f
        bts     %ebx, sieve
        add     %edi, %ebx
        jmp     4b
5:      inc     %edi
        cmp     $10, %edi
        jbe     3b
        xor     %edx, %edx
        mov     $2, %ecx
6:      bt      %ecx, sieve
        cmc
        adc     $0, %edx
        inc     %ecx
        cmp     %eax, %ecx
        jb      6b
        btc     $4, sieve + 4
        mov     $-3, %ecx
        btr     %ecx, sieve + 4
        mov     sieve, %eax
        bswap   %eax
        xchg    %al, %ah
        xchg    %eax, z
        mov     $5, %ecx
        xadd    %ecx, z
        cmpxchg %ecx, z
        mov     $1, %ebx
        lock cmpxchg8b x
        arpl    %cx, %bx
done:   nop
        .data
        .balign 8
x:      .byte   0x99, 0x45, 0x23, 0x01, 0, 0, 0, 0
y:      .byte   0x02, 0x66, 0x77, 0x08
z:      .long   0
        .section .note.GNU-stack, "", @progbits
        .bss
        .balign 4
sieve:  .fill   4, 4, 0
