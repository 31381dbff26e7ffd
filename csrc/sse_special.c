/* sse_special.c: FXSAVE and FXRSTOR, MXCSR, masked stores, EMMS, fences and cache hints. */
#include <string.h>

#include "callout.h"
#include "gate.h"
#include "sse.h"

/* --- state ------------------------------------------------------------------------------------------------ */

/* SDM vol. 1, table 10-2. XMM8 to XMM15 belong to 64-bit mode, and the last 48 bytes to software: not written. */
struct fxsave {
    u16 control, status;
    u8 full;                    /* bit i: physical register i is not empty */
    u8 reserved;
    u16 opcode;
    u32 ip;
    u16 cs, reserved_cs;
    u32 dp;
    u16 ds, reserved_ds;
    u32 mxcsr, mxcsr_mask;
    u8 st[8][16];               /* ST(0) first */
    union lanes xmm[8];
    u8 rest[224];
};
_Static_assert(sizeof(struct fxsave) == 512 && offsetof(struct fxsave, xmm) == 160, "the layout is the manual's");

/* Without CR4.OSFXSR whether XMM registers take part is left to the implementation; Intel's leave them out. */
static bool with_xmm(const struct cpu *cpu)
{
    return cpu->cr4 & CR4_OSFXSR;
}

static int fx_operand(struct cpu *cpu, const struct op *op, unsigned access, u32 *lin)
{
    if (cpu->cr0 & CR0_EM)
        return cpu_fault(cpu, T_ILLOP);
    if (cpu->cr0 & CR0_TS)
        return cpu_fault(cpu, T_DEVICE);
    return sse_operand(cpu, op, sizeof(struct fxsave), access, 16, lin) ? STATUS_NEXT : STATUS_FAULT;
}

int sse_fxsave(struct cpu *cpu, const struct op *op)
{
    struct fpu *f = &cpu->fpu;
    struct fxsave image = {.control = f->control, .status = f->status, .full = f->full, .opcode = f->opcode, .ip = f->ip,
                           .cs = f->cs, .dp = f->dp, .ds = f->ds, .mxcsr = cpu->sse.mxcsr,
                           .mxcsr_mask = mxcsr_defined(cpu)};
    u32 lin;
    int status = fx_operand(cpu, op, ACCESS_WRITE, &lin);
    if (status != STATUS_NEXT)
        return status;
    for (unsigned i = 0; i < 8; i++)
        memcpy(image.st[i], fpu_st(f, i), 10);
    memcpy(image.xmm, cpu->sse.xmm, sizeof(image.xmm));
    unsigned size = with_xmm(cpu) ? offsetof(struct fxsave, rest) : offsetof(struct fxsave, xmm);
    return lin_write_bytes(cpu, lin, &image, size) ? STATUS_NEXT : STATUS_FAULT;
}

int sse_fxrstor(struct cpu *cpu, const struct op *op)
{
    struct fpu *f = &cpu->fpu;
    struct fxsave image;
    u32 lin;
    int status = fx_operand(cpu, op, ACCESS_READ, &lin);
    if (status != STATUS_NEXT)
        return status;
    if (!lin_read_bytes(cpu, lin, &image, sizeof(image)))
        return STATUS_FAULT;
    if (image.mxcsr & ~mxcsr_defined(cpu))
        return cpu_fault_code(cpu, T_GPFLT, 0);
    fpu_set_control(f, image.control);
    fpu_set_status(f, image.status);
    f->full = image.full;
    f->opcode = image.opcode & 0x7FF;
    f->ip = image.ip;
    f->cs = image.cs;
    f->dp = image.dp;
    f->ds = image.ds;
    for (unsigned i = 0; i < 8; i++)
        memcpy(fpu_st(f, i), image.st[i], 10);
    cpu->sse.mxcsr = image.mxcsr;
    if (with_xmm(cpu))
        memcpy(cpu->sse.xmm, image.xmm, sizeof(image.xmm));
    return STATUS_NEXT;
}

int sse_ldmxcsr(struct cpu *cpu, const struct op *op)
{
    u32 value;
    if (!mem_read(cpu, op->seg, op_offset(cpu, op), 4, &value))
        return STATUS_FAULT;
    if (value & ~mxcsr_defined(cpu))
        return cpu_fault_code(cpu, T_GPFLT, 0);
    cpu->sse.mxcsr = value;
    return STATUS_NEXT;
}

int sse_stmxcsr(struct cpu *cpu, const struct op *op)
{
    return mem_write(cpu, op->seg, op_offset(cpu, op), cpu->sse.mxcsr, 4) ? STATUS_NEXT : STATUS_FAULT;
}

int sse_emms(struct cpu *cpu, const struct op *op)
{
    (void)op;
    mmx_enter(&cpu->fpu);
    cpu->fpu.full = 0;
    return STATUS_NEXT;
}

/* --- memory ----------------------------------------------------------------------------------------------- */

/* MASKMOVQ, MASKMOVDQU: bytes of reg whose mask in r/m has its top bit set, to [EDI]. Whether bytes that are not
 * selected can fault is left to the implementation (SDM vol. 2); here the whole operand is checked as for a store. */
int sse_maskmov(struct cpu *cpu, const struct op *op)
{
    const struct sse_row *row = sse_row(op->imm >> 8);
    bool mmx = row->reg == AT_MM;
    unsigned n = mmx ? 8 : 16;
    const u8 *registers = mmx ? (const u8 *)cpu->fpu.st : (const u8 *)cpu->sse.xmm;
    u8 value[16], mask[16];
    u32 lin;
    memcpy(value, registers + op->reg, n);
    memcpy(mask, registers + op->rm, n);
    if (!seg_linear(cpu, op->seg, cpu->gpr[EDI] & addr_mask(op), n, ACCESS_WRITE, &lin) ||
        !lin_check_write(cpu, lin, n, 0))
        return STATUS_FAULT;
    for (unsigned i = 0; i < n; i++)
        if (mask[i] & 0x80 && !lin_write(cpu, lin + i, value[i], 1, 0))
            return STATUS_FAULT;
    if (mmx)
        mmx_enter(&cpu->fpu);
    return STATUS_NEXT;
}

int sse_movnti(struct cpu *cpu, const struct op *op)
{
    return mem_write(cpu, op->seg, op_offset(cpu, op), REG32(cpu, op->reg), 4) ? STATUS_NEXT : STATUS_FAULT;
}

/* Memory is in order here, and has no caches. */
int sse_fence(struct cpu *cpu, const struct op *op)
{
    (void)cpu, (void)op;
    return STATUS_NEXT;
}

/* SDM vol. 2, CLFLUSH: checked like a load of one byte. */
int sse_clflush(struct cpu *cpu, const struct op *op)
{
    u32 lin, phys;
    bool there = sse_operand(cpu, op, 1, ACCESS_READ, 1, &lin) && mmu_translate(cpu, lin, ACCESS_READ, &phys);
    return there ? STATUS_NEXT : STATUS_FAULT;
}
