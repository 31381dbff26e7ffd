/*
 * frame.h: the pt_regs that handlers see. With the built-in kernel side it is
 * the frame on the guest's stack, completed by the entry stubs (SAVE_ALL) and
 * taken down by RESTORE_ALL and IRET; with the guest's own IDT it stands for
 * the CPU's registers and nothing is pushed.
 *
 * Frames live in the machine, not on the C stack: Python may keep a pointer to
 * one after its handler has returned.
 */
#ifndef PYK_FRAME_H
#define PYK_FRAME_H

#include "api.h"
#include "tunables.h"
#include "types.h"

struct machine;

#define FRAME_LEVELS (CALL_DEPTH_MAX + 2)
#define FRAME_WORDS 15
#define FRAME_SAVED 10          /* words that the entry stub pushes or overwrites: ebx ... orig_eax */
#define FRAME_EIP 40            /* byte offsets of what the CPU pushed */
#define FRAME_ESP 52
_Static_assert(sizeof(struct pt_regs) == 4 * FRAME_WORDS, "pt_regs is 15 words");
_Static_assert(offsetof(struct pt_regs, orig_eax) == 36 && offsetof(struct pt_regs, eip) == FRAME_EIP &&
               offsetof(struct pt_regs, esp) == FRAME_ESP, "the layout of asm-i386/ptrace.h");

struct live_frame {
    struct frame frame;         /* first: handlers get its address */
    struct pt_regs seen;        /* the words as Python got them; of a virtual frame, the slots as they are in memory */
    u32 esp;                    /* the kernel's stack pointer, at the frame's lowest word */
    bool user;                  /* the trap interrupted user or virtual-8086 code: esp and ss are the CPU's, no alias */
    bool on_stack;              /* the frame is in guest memory at frame.address */
};
_Static_assert(offsetof(struct live_frame, frame) == 0, "a frame's address is its live_frame's");

struct frame_stack {
    struct live_frame level[FRAME_LEVELS];  /* handlers within runs within handlers ... */
    u32 used;
    u32 hidden;                 /* of these, how many are not those of the handler that is running */
};

/* What an entry stub does before it calls C. */
struct frame_stub {
    bool error_code;            /* the CPU pushed one */
    bool orig_eax_is_eax;       /* orig_eax is eax, else orig_eax below */
    u32 orig_eax;
};

/* The next level's frame, NULL when too deep; and back. */
struct live_frame *frame_begin(struct machine *m);
void frame_end(struct machine *m);

/* SAVE_ALL. False: cpu->fault is set and the CPU unchanged. ret_error: the error code, 0 if none was pushed. */
bool frame_save_all(struct machine *m, struct live_frame *lf, const struct frame_stub *stub, u32 *ret_error);
/* Gate delivery without error code and SAVE_ALL in one, when flat kernel code was interrupted whose stack the TLB
 * serves. False: some other case, nothing was done. The caller has checked the gate; eip and flags are its to set. */
bool frame_enter(struct machine *m, struct live_frame *lf, u32 orig_eax);
/* RESTORE_ALL and IRET: STATUS_JUMP; STATUS_FAULT of the IRET with the registers popped; STATUS_STOP. */
int frame_restore_all(struct machine *m, struct live_frame *lf);
/* Before Python runs, and after: its edits of the frame go to guest memory, edits of guest memory come into the frame. */
void frame_lend(struct machine *m, struct frame *f);
void frame_sync(struct machine *m, struct frame *f);

/* The frame stays on the guest's stack, at its stack pointer, for a while: the copy goes, and comes again. */
void frame_suspend(struct machine *m, struct live_frame *lf);
void frame_resume(struct machine *m, struct live_frame *lf);

/* The same for a trap that is taken before the guest's gate. */
void frame_capture(struct machine *m, struct live_frame *lf);
void frame_write_back(struct machine *m, struct live_frame *lf);

ALWAYS_INLINE bool frame_is_on_stack(const struct frame *f)
{
    return ((const struct live_frame *)f)->on_stack;
}

ALWAYS_INLINE bool frame_is_user(const struct frame *f)
{
    return ((const struct live_frame *)f)->user;
}

#endif
