# Recursive quicksort of signed words with stack frames, then a check by adjacent compares.
        .text
        .globl  _start, done
_start:
        mov     $numbers, %edi
        mov     $40, %ecx
        mov     $12345, %eax
1:      imul    $1103515245, %eax, %eax
        add     $12345, %eax
        mov     %eax, (%edi)
        sarl    $7, (%edi)
        add     $4, %edi
        loop    1b
        pushl   $39
        pushl   $0
        call    sort
        add     $8, %esp
        mov     $39, %ecx
        xor     %ebx, %ebx
2:      mov     numbers - 4(, %ecx, 4), %eax
        cmp     numbers(, %ecx, 4), %eax
        setg    %dl
        movzx   %dl, %edx
        add     %edx, %ebx
        dec     %ecx
        jg      2b
        jmp     done

sort:   push    %ebp
        mov     %esp, %ebp
        push    %esi
        push    %edi
        push    %ebx
        mov     8(%ebp), %esi
        mov     12(%ebp), %edi
        cmp     %edi, %esi
        jge     6f
        lea     (%esi, %edi), %eax
        sar     $1, %eax
        mov     numbers(, %eax, 4), %ebx
3:      cmp     %ebx, numbers(, %esi, 4)
        jge     4f
        inc     %esi
        jmp     3b
4:      cmp     %ebx, numbers(, %edi, 4)
        jle     5f
        dec     %edi
        jmp     4b
5:      cmp     %edi, %esi
        jg      7f
        mov     numbers(, %esi, 4), %eax
        mov     numbers(, %edi, 4), %edx
        mov     %eax, numbers(, %edi, 4)
        mov     %edx, numbers(, %esi, 4)
        inc     %esi
        dec     %edi
        cmp     %edi, %esi
        jle     3b
7:      push    %edi
        pushl   8(%ebp)
        call    sort
        push    12(%ebp)
        push    %esi
        call    sort
        add     $16, %esp
6:      pop     %ebx
        pop     %edi
        pop     %esi
        leave
        ret
done:   nop
        .section .note.GNU-stack, "", @progbits
        .bss
        .balign 4
numbers: .fill  40, 4, 0
