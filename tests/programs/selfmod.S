# Code that changes itself: the next instruction, a loop's own body, an opcode already run, a function it copies.
        .text
        .globl  _start, done
_start:
        movb    $0x41, 1f               # the very next instruction: inc eax becomes inc ecx
1:      inc     %eax
        movl    $0x12345678, 2f + 1
        nop
2:      mov     $0, %ebx

        mov     $6, %ecx                # a constant that grows with each turn
3:      addl    $0x11, 4f + 2
4:      add     $0x1000, %edx
        rolb    $1, 4b + 3
        loop    3b

        mov     $4, %ecx                # add and sub take turns
5:      xorb    $0x28, 6f               # add r/m32, r32 is 01, sub 29
6:      add     %esi, %edi
        lea     3(%edi), %edi
        dec     %ecx
        jnz     5b

        mov     $template, %esi         # a copy of a function, patched and called, three times
        mov     $3, %ebp
7:      mov     $template, %esi
        mov     $arena, %edi
        mov     $template_end - template, %ecx
        cld
        rep     movsb
        mov     %ebp, arena + 1
        mov     $arena, %eax
        call    *%eax
        add     %eax, total
        dec     %ebp
        jnz     7b

        movb    $0xEB, 8f               # jnz into jmp, ahead in the same block
        xor     %eax, %eax
8:      jnz     9f
        mov     $0xBAD, %eax
9:      movw    $0x9090, 8b
        mov     total, %edx
        jmp     done
template:
        mov     $0, %eax
        imul    %eax, %eax
        ret
template_end:
        .balign 16
arena:  .fill   32, 1, 0xCC
done:   nop
        .data
total:  .long   0
        .section .note.GNU-stack, "", @progbits
