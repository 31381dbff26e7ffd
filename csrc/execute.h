/*
 * execute.h: how handlers are written.
 *
 * A handler may use its parameters cpu, op, tlb, assign the flags res, a,
 * kind, and ends with NEXT, with one of the op_exit functions, or with a leave_
 * function. It must not take the address of a local that outlives an inlined
 * call, or the compiler cannot turn the last call into a jump.
 *
 * Handlers that access memory are compiled twice from one text: fast, for TLB
 * hits of flat segments, and as slow twins (SLOW_TWINS) that do every access
 * with all checks. A fast handler whose access misses jumps to its twin.
 */
#ifndef PYK_EXECUTE_H
#define PYK_EXECUTE_H

#include <string.h>

#include "alu.h"
#include "decode.h"
#include "callout.h"
#include "handlers.def"
#include "mmu.h"
#include "op.h"

/* Sanitizer and debug builds cannot rely on tail calls: a handler then stores where to go on and returns. */
#ifdef LOOP_DISPATCH
#define DISPATCH(o, r, x, k) do { (void)tlb; cpu->next = (o); cpu->fl = (struct lazy_flags){r, x, k}; return; } while (0)
#else
#define DISPATCH(o, r, x, k) return (o)->fn(cpu, (o), tlb, r, x, k)
#endif

enum handler_id {
#define NUMBER(name) ID_##name,
    MEMORY_HANDLERS(NUMBER)
#undef NUMBER
    HANDLER_COUNT
};
struct twins {
    op_handler *fast, *slow;
};
extern const struct twins handler_twins[HANDLER_COUNT];

#define DECLARE(name) op_handler name, name##_slow;
MEMORY_HANDLERS(DECLARE)
#undef DECLARE
#define DECLARE(name) op_handler name;
REGISTER_HANDLERS(DECLARE)
#undef DECLARE

/* execute_fpu.c: the handler of an x87 instruction with flat memory if any, or NULL. Arguments as of fpu_defined. */
op_handler *fpu_hot(unsigned escape, bool mem, unsigned reg, unsigned rm);

/* execute_combined.c: the handler that does both, or NULL; last may be a combined one. */
op_handler *combined(op_handler *first, op_handler *last);

/* Run decoded code from op until something needs the run loop: cpu->leave says what. */
void execute(struct cpu *cpu, const struct op *op);

/* execute.c: ways back to the run loop. */
void leave(struct cpu *cpu, enum leave why, u32 res, u32 a, u32 kind);
op_handler leave_next, leave_taken, leave_fall, leave_indirect, leave_fault;
op_handler go_slow;

#define STACK_TOP REG32(cpu, 4 * ESP)
#define CF flags_cf(res, a, kind)
#define SET_LAZY(l) (res = (l).res, a = (l).a, kind = (l).kind)
#define SET_FLAGS(f) SET_LAZY((f).fl)

/* New CF and OF, the other flags as they were. */
ALWAYS_INLINE struct lazy_flags flags_merge(u32 res, u32 a, u32 kind, u32 cf, u32 of)
{
    if (KIND_CLASS(kind) == FC_EFLAGS) {
        a = (a & ~(EFLAGS_CF | EFLAGS_OF)) | cf | of << 11;
        return (struct lazy_flags){res, a, kind};
    }
    a = cf | of << 1 | (u32)flags_af(res, a, kind) << 2;
    return (struct lazy_flags){res, a, KIND(FC_SHIFT, KIND_SHIFT(kind))};
}

#define BITS8 u8
#define BITS16 u16
#define BITS32 u32
#define REG(W, off) REG##W(cpu, off)

ALWAYS_INLINE struct tlb_entry *tlb_entry_of(struct tlb_entry *tlb, u32 lin)
{
    return (struct tlb_entry *)((u8 *)tlb + ((lin >> (PAGE_SHIFT - 4)) & ((TLB_SIZE - 1) << 4)));
}

/* Effective addresses of flat operands. */
#define EA_bd (REG32(cpu, op->rm) + op->disp)
#define EA_bis (REG32(cpu, op->rm) + (REG32(cpu, op->index) << op->scale) + op->disp)

#ifndef SLOW_TWINS

/* In execute_combined.c a handler is a text that goes on with another one, next, if there is one. */
#ifdef COMBINED
#define H(name) ALWAYS_INLINE void name##_then(OP_PARAMS, op_handler *next __attribute__((unused)))
#define NEXT \
    do { \
        if (next) \
            return next(cpu, op + 1, tlb, res, a, kind); \
        DISPATCH(op + 1, res, a, kind); \
    } while (0)
#else
#define H(name) void name(OP_PARAMS)
#define NEXT DISPATCH(op + 1, res, a, kind)
#endif
#define MUST_LEAVE false
#define GO_SLOW return go_slow(OP_ARGS)

/* Declare var, read from linear address ea. */
#define LOAD(W, var, ea) \
    BITS##W var; \
    do { \
        u32 lin_ = (ea); \
        struct tlb_entry *entry_ = tlb_entry_of(tlb, lin_); \
        if (unlikely(lin_ - entry_->read_tag > PAGE_SIZE - sizeof(var))) \
            GO_SLOW; \
        memcpy(&var, entry_->host + lin_, sizeof(var)); \
    } while (0)

/* Store value at linear address ea. */
#define STORE(W, value, ea) \
    do { \
        u32 lin_ = (ea); \
        struct tlb_entry *entry_ = tlb_entry_of(tlb, lin_); \
        if (unlikely(lin_ - entry_->write_tag > PAGE_SIZE - sizeof(BITS##W))) \
            GO_SLOW; \
        BITS##W value_ = (BITS##W)(value); \
        memcpy(entry_->host + lin_, &value_, sizeof(value_)); \
    } while (0)

/* Declare var, read from an address that can be written; MODIFIED then writes there. */
#define MODIFY(W, var, ea) \
    BITS##W var; \
    u8 *host_; \
    do { \
        u32 lin_ = (ea); \
        struct tlb_entry *entry_ = tlb_entry_of(tlb, lin_); \
        if (unlikely(lin_ - entry_->write_tag > PAGE_SIZE - sizeof(var))) \
            GO_SLOW; \
        host_ = entry_->host + lin_; \
        memcpy(&var, host_, sizeof(var)); \
    } while (0)
#define MODIFIED(W, value) \
    do { \
        BITS##W value_ = (BITS##W)(value); \
        memcpy(host_, &value_, sizeof(value_)); \
    } while (0)

#define PUSH(value) \
    do { \
        u32 value32_ = (value), esp_ = STACK_TOP - 4; \
        STORE(32, value32_, esp_); \
        STACK_TOP = esp_; \
    } while (0)
#define POP(var) \
    LOAD(32, var, STACK_TOP); \
    STACK_TOP += 4
#define LEAVE_LOAD(var) LOAD(32, var, REG32(cpu, 4 * EBP))

#else

#define H(name) COLD void name##_slow(OP_PARAMS)
#define MUST_LEAVE cpu->code_changed
#define NEXT \
    do { \
        if (unlikely(MUST_LEAVE)) \
            return leave_next(OP_ARGS); \
        DISPATCH(op + 1, res, a, kind); \
    } while (0)

#define LOAD(W, var, ea) \
    BITS##W var; \
    do { \
        u64 value_ = slow_load(cpu, op, FLAGS_NOW, sizeof(var)); \
        if (value_ & MEM_FAULT) \
            return leave_fault(OP_ARGS); \
        var = (BITS##W)value_; \
    } while (0)
#define STORE(W, value, ea) \
    do { \
        if (!slow_store(cpu, op, FLAGS_NOW, (BITS##W)(value), sizeof(BITS##W))) \
            return leave_fault(OP_ARGS); \
    } while (0)
#define MODIFY(W, var, ea) \
    BITS##W var; \
    do { \
        u64 value_ = slow_modify(cpu, op, FLAGS_NOW, sizeof(var)); \
        if (value_ & MEM_FAULT) \
            return leave_fault(OP_ARGS); \
        var = (BITS##W)value_; \
    } while (0)
#define MODIFIED(W, value) \
    do { \
        if (!slow_store(cpu, op, FLAGS_NOW, (BITS##W)(value), sizeof(BITS##W))) \
            return leave_fault(OP_ARGS); \
    } while (0)
#define PUSH(value) \
    do { \
        if (!slow_push(cpu, op, FLAGS_NOW, value)) \
            return leave_fault(OP_ARGS); \
    } while (0)
#define POP(var) \
    u32 var; \
    do { \
        u64 value_ = slow_pop(cpu, op, FLAGS_NOW); \
        if (value_ & MEM_FAULT) \
            return leave_fault(OP_ARGS); \
        var = (u32)value_; \
    } while (0)
#define LEAVE_LOAD(var) \
    u32 var; \
    do { \
        u64 value_ = slow_stack_load(cpu, op, FLAGS_NOW, REG32(cpu, 4 * EBP)); \
        if (value_ & MEM_FAULT) \
            return leave_fault(OP_ARGS); \
        var = (u32)value_; \
    } while (0)

#endif

/* execute.c: the slow twins' accesses. A device's handler may run in them and sees the CPU before the instruction. */
#define FLAGS_NOW ((struct lazy_flags){res, a, kind})
u64 slow_load(struct cpu *cpu, const struct op *op, struct lazy_flags fl, unsigned size);
u64 slow_modify(struct cpu *cpu, const struct op *op, struct lazy_flags fl, unsigned size);
bool slow_store(struct cpu *cpu, const struct op *op, struct lazy_flags fl, u32 value, unsigned size);
bool slow_push(struct cpu *cpu, const struct op *op, struct lazy_flags fl, u32 value);
u64 slow_pop(struct cpu *cpu, const struct op *op, struct lazy_flags fl);
u64 slow_stack_load(struct cpu *cpu, const struct op *op, struct lazy_flags fl, u32 off);

/* End of a block: go to the fall-through (0) or taken (1) block if it is known and the budget allows. */
#define EXIT(taken) \
    do { \
        struct block_exit *exit_ = OP_EXIT(op); \
        const struct op *to_ = exit_->link[taken]; \
        if (unlikely((cpu->budget -= exit_->count) < 0) || unlikely(!to_) || MUST_LEAVE) { \
            if (taken) \
                return leave_taken(OP_ARGS); \
            return leave_fall(OP_ARGS); \
        } \
        DISPATCH(to_, res, a, kind); \
    } while (0)
/* Select by a run-time condition; the odd condition codes have their links swapped. */
#define EXIT_IF(cond) \
    do { \
        if (cond) \
            EXIT(1); \
        EXIT(0); \
    } while (0)

#define JUMP_SLOT(cpu, eip) (&(cpu)->jump[((eip) ^ (eip) >> JUMP_CACHE_BITS) & (JUMP_CACHE_SIZE - 1)])
/* End of a block at an address known only now. */
#define EXIT_INDIRECT(address) \
    do { \
        u32 to_ = (address); \
        const struct jump_entry *slot_ = JUMP_SLOT(cpu, to_); \
        cpu->budget -= OP_EXIT(op)->count; \
        if (unlikely(cpu->budget < 0 || slot_->key != ((u64)cpu->mode << 32 | to_)) || MUST_LEAVE) { \
            cpu->eip = to_; \
            return leave_indirect(OP_ARGS); \
        } \
        const struct op *first_ = slot_->ops; \
        DISPATCH(first_, res, a, kind); \
    } while (0)

#endif
