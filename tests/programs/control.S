# Control flow: jump tables, nested frames by enter, far calls and returns, flags through the stack, setcc and cmov.
        .text
        .globl  _start, done
_start:
        xor     %ebx, %ebx
        mov     $7, %ecx
1:      mov     %ecx, %eax
        and     $3, %eax
        jmp     *table(, %eax, 4)
case0:  add     $1, %ebx
        jmp     2f
case1:  call    *functions + 4
        jmp     2f
case2:  push    $2f
        jmp     *functions
case3:  lcall   $0x23, $far
2:      loop    1b

        pushl   $5
        call    ackermann
        pop     %edx
        call    nested
        stc
        pushf
        xorl    $0x8C5, (%esp)          # of, sf, zf, pf, cf; af stays
        popf
        seto    %al
        sets    %ah
        cmovc   %eax, %edx
        cmovnz  %esp, %esi
        pushf
        popl    %edi
        and     $0x8D5, %edi
        pusha
        pushw   $0x1234
        popw    %ax
        popa
        cmp     %eax, %ebx
        lahf
        sahf
        push    $0x77
        pushl   $0
        mov     %cs, (%esp)
        push    $done
        push    $3f
        ret
3:      lret    $4

plus:   add     $0x100, %ebx
        ret
minus:  sub     $3, %ebx
        ret
far:    add     $0x10000, %ebx
        lret
ackermann:                              # not quite: f(n) = n ? f(n - 1) + n : 1
        push    %ebp
        mov     %esp, %ebp
        mov     8(%ebp), %eax
        test    %eax, %eax
        jnz     4f
        inc     %eax
        jmp     5f
4:      dec     %eax
        push    %eax
        call    ackermann
        add     8(%ebp), %eax
5:      leave
        ret
nested: enter   $8, $0
        mov     %eax, -4(%ebp)
        enter   $4, $1
        enter   $16, $2
        mov     %eax, -16(%ebp)
        leave
        leave
        mov     -4(%ebp), %ecx
        leave
        ret
done:   nop
        .data
        .balign 4
table:  .long   case0, case1, case2, case3
functions: .long plus, minus
        .section .note.GNU-stack, "", @progbits
