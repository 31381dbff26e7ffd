/*
 * child.S: the traced process. It maps the shared regions from descriptor 3,
 * drops everything else that the kernel gave it, and waits in int3. All that
 * is left mapped is its own page, the signal stack and the regions.
 */
#include "layout.h"

/* i386 system call numbers: the headers that define them are not where every 64-bit toolchain looks with -m32. */
#define SYS_exit 1
#define SYS_close 6
#define SYS_munmap 91
#define SYS_prctl 172
#define SYS_rt_sigaction 174
#define SYS_sigaltstack 186
#define SYS_mmap2 192

        .text
        .globl _start
_start:
        /* below and above the image: whatever the loader and the kernel mapped */
        xor     %ebx, %ebx
        mov     $CHILD_BASE, %ecx
        mov     $SYS_munmap, %eax
        int     $0x80
        mov     $SIGSTACK, %ebx
        mov     $0xFFFFE000 - SIGSTACK, %ecx
        mov     $SYS_munmap, %eax
        int     $0x80

        mov     $regions, %ebp
1:      mov     0(%ebp), %ebx           /* address */
        mov     4(%ebp), %ecx           /* size */
        test    %ecx, %ecx
        jz      2f
        mov     8(%ebp), %edx           /* protection */
        mov     $0x8011, %esi           /* MAP_SHARED | MAP_FIXED | MAP_POPULATE: faults tell absent from protected */
        mov     $3, %edi
        mov     %ebp, %esp              /* kept where no stack is needed */
        mov     12(%ebp), %ebp          /* offset in pages */
        mov     $SYS_mmap2, %eax
        int     $0x80
        cmp     %ebx, %eax
        jne     fail
        lea     16(%esp), %ebp
        jmp     1b

2:      mov     $sigstack, %ebx
        xor     %ecx, %ecx
        mov     $SYS_sigaltstack, %eax
        int     $0x80
        test    %eax, %eax
        jnz     fail
        mov     $signals, %ebp
3:      movzbl  (%ebp), %ebx
        test    %ebx, %ebx
        jz      4f
        mov     $action, %ecx
        xor     %edx, %edx
        mov     $8, %esi
        mov     $SYS_rt_sigaction, %eax
        int     $0x80
        test    %eax, %eax
        jnz     fail
        inc     %ebp
        jmp     3b

4:      mov     $SYS_close, %eax
        mov     $3, %ebx
        int     $0x80
        mov     $SYS_prctl, %eax
        mov     $22, %ebx               /* PR_SET_SECCOMP, strict: a system call by a case kills */
        mov     $1, %ecx
        int     $0x80
        test    %eax, %eax
        jnz     fail
        int3
fail:   mov     $SYS_exit, %eax
        mov     $99, %ebx
        int     $0x80
handler:
        int3

        .balign 4
#define REGION(address, pages, prot, first) .long address, (pages) * 4096, prot, first;
regions:
        REGIONS
        REGION(SIGSTACK, SIGSTACK_PAGES, 3, SIGSTACK_FIRST)
        .long   0, 0, 0, 0
sigstack:
        .long   SIGSTACK, 0, SIGSTACK_PAGES * 4096
action:
        .long   handler, 0x48000000, 0, 0, 0    /* SA_ONSTACK | SA_NODEFER */
signals:
        .byte   4, 5, 7, 8, 11, 0               /* ILL TRAP BUS FPE SEGV */
        .section .note.GNU-stack, "", @progbits
