/*
 * callout.h: what callouts share: their operands and results.
 *
 * Order of work in a callout: check, read, compute, check that writes cannot
 * fault, then change state; a fault leaves everything as it was.
 */
#ifndef PYK_CALLOUT_H
#define PYK_CALLOUT_H

#include "callouts.def"
#include "mmu.h"
#include "op.h"
#include "trap.h"

#define DECLARE(name) callout insn_##name;
CALLOUTS(DECLARE)
#undef DECLARE

enum callout_id {
#define NUMBER(name) CALLOUT_##name,
    CALLOUTS(NUMBER)
#undef NUMBER
    CALLOUT_COUNT
};

/* Offset of the memory operand in its segment. */
ALWAYS_INLINE u32 op_offset(const struct cpu *cpu, const struct op *op)
{
    u32 off = REG32(cpu, op->rm) + (REG32(cpu, op->index) << op->scale) + op->disp;
    return op->flags & OP_ADDR16 ? off & 0xFFFF : off;
}

/* A register by its byte offset, of 1, 2 or 4 bytes. */
ALWAYS_INLINE u32 reg_read(const struct cpu *cpu, u8 off, unsigned size)
{
    return size == 4 ? REG32(cpu, off) : size == 2 ? REG16(cpu, off) : REG8(cpu, off);
}
ALWAYS_INLINE void reg_write(struct cpu *cpu, u8 off, unsigned size, u32 v)
{
    if (size == 4)
        REG32(cpu, off) = v;
    else if (size == 2)
        REG16(cpu, off) = (u16)v;
    else
        REG8(cpu, off) = (u8)v;
}

/* The r/m operand, register or memory. False: cpu->fault is set. */
ALWAYS_INLINE bool rm_read(struct cpu *cpu, const struct op *op, unsigned size, u32 *ret)
{
    if (op->flags & OP_MEM)
        return mem_read(cpu, op->seg, op_offset(cpu, op), size, ret);
    *ret = reg_read(cpu, op->rm, size);
    return true;
}
ALWAYS_INLINE bool rm_write(struct cpu *cpu, const struct op *op, unsigned size, u32 v)
{
    if (op->flags & OP_MEM)
        return mem_write(cpu, op->seg, op_offset(cpu, op), v, size);
    reg_write(cpu, op->rm, size, v);
    return true;
}
/* Before a read-modify-write: faults as the write would. */
ALWAYS_INLINE bool rm_check_write(struct cpu *cpu, const struct op *op, unsigned size)
{
    return !(op->flags & OP_MEM) || mem_check_write(cpu, op->seg, op_offset(cpu, op), size);
}

/* CX or ECX, SI or ESI ... by the address size. */
ALWAYS_INLINE u32 addr_mask(const struct op *op)
{
    return op->flags & OP_ADDR16 ? 0xFFFF : 0xFFFFFFFF;
}

ALWAYS_INLINE struct lazy_flags flags_result(unsigned class, u32 res, u32 a, unsigned size)
{
    unsigned shift = 32 - 8 * size;
    return (struct lazy_flags){res << shift, class <= FC_SBB ? a << shift : a, KIND(class, shift)};
}

/* io.c. Port access with the IOPL and I/O bitmap check; returns an enum status (STATUS_NEXT when done). */
int io_read(struct cpu *cpu, u16 port, unsigned size, u32 *ret);
int io_write(struct cpu *cpu, u16 port, unsigned size, u32 value);
int io_check(struct cpu *cpu, u16 port, unsigned size);

#endif
