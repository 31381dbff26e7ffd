/* sse.c: the rows of MMX, SSE and SSE2, and what their instructions have in common. */
#include "sse.h"

#include <string.h>

#include "api.h"
#include "callout.h"
#include "decode.h"
#include "model.h"
#include "sse.def"

/* --- rows ------------------------------------------------------------------------------------------------- */

/* By opcode (0-FF, then groups), prefix, and whether r/m is memory. */
#define GROUPS_END 0x120
#define PREFIX(prefix) SSE_##prefix
#define KEY(opcode, prefix, mem) ((opcode) << 3 | PREFIX(prefix) << 1 | (mem))

#define P(opcode, feature, name) sse_integer name; op_handler name##_mm_r, name##_mm_m;
#define L P
#define V(opcode, prefix, feature, name) sse_integer name; op_handler name##_xmm_r, name##_xmm_m;
#define I(opcode, reg, name) sse_integer name##_i64, name##_i128; op_handler name##_i64_r, name##_i128_r;
#define R(opcode, prefix, feature, reg, rm, flags, name, handler) sse_integer name;
#define M(opcode, prefix, feature, reg, size, flags, name, handler) sse_integer name;
#define S(opcode, prefix, feature, reg, rm, mem, name) sse_special sse_##name;
SSE_INTEGER_ROWS(P, L, V, I)
SSE_MOVE_ROWS(R, M)
SSE_SPECIAL_ROWS(S)
#undef P
#undef L
#undef V
#undef I
#undef R
#undef M
#undef S
op_handler load16, load8, load4, load_low, load_high, store16, store16_aligned, store8, store4, store_high, store8_mm,
    move_low_r, merge4_r, merge8_r, movd_to_xmm, movd_from_xmm;

#define FEATURE(name) FEATURE_##name
#define AT(place) AT_##place
#define BOTH(opcode, prefix, need, at, bytes, name, handlers) \
    [KEY(opcode, prefix, 0)] = {{.integer = name}, handlers##_r, FEATURE(need), AT(at), AT(at), bytes, 0}, \
    [KEY(opcode, prefix, 1)] = {{.integer = name}, handlers##_m, FEATURE(need), AT(at), AT(at), bytes, 0},
#define P(opcode, need, name) BOTH(opcode, NP, need, MM, 8, name, name##_mm)
#define L(opcode, need, name) BOTH(opcode, NP, need, MM, 4, name, name##_mm)
#define V(opcode, prefix, need, name) BOTH(opcode, prefix, need, XMM, 16, name, name##_xmm)
#define I(opcode, reg_field, name) \
    [KEY(GROUP(opcode, reg_field), NP, 0)] = {{.integer = name##_i64}, name##_i64_r, FEATURE_MMX, AT_NONE, AT_MM, 0, \
                                              SSE_TO_RM}, \
    [KEY(GROUP(opcode, reg_field), 66, 0)] = {{.integer = name##_i128}, name##_i128_r, FEATURE_SSE2, AT_NONE, AT_XMM, \
                                              0, SSE_TO_RM},
#define R(opcode, prefix, need, at, rm_at, how, name, fast) \
    [KEY(opcode, prefix, 0)] = {{.integer = name}, fast, FEATURE(need), AT(at), AT(rm_at), 0, how},
#define M(opcode, prefix, need, at, bytes, how, name, fast) \
    [KEY(opcode, prefix, 1)] = {{.integer = name}, fast, FEATURE(need), AT(at), AT_NONE, bytes, how},
#define S(opcode, prefix, need, at, rm_at, mem, name) \
    [KEY(opcode, prefix, mem)] = {{.special = sse_##name}, NULL, FEATURE(need), AT(at), AT(rm_at), 0, SSE_SPECIAL},
#define F(opcode, prefix, need, at, rm_at, bytes, how, name) \
    [KEY(opcode, prefix, 0)] = {{.floating = name}, NULL, FEATURE(need), AT(at), AT(rm_at), bytes, SSE_FLOAT | (how)}, \
    [KEY(opcode, prefix, 1)] = {{.floating = name}, NULL, FEATURE(need), AT(at), AT(rm_at), bytes, SSE_FLOAT | (how)},

static const struct sse_row rows[KEY(GROUPS_END, NP, 0)] = {
    SSE_INTEGER_ROWS(P, L, V, I)
    SSE_MOVE_ROWS(R, M)
    SSE_SPECIAL_ROWS(S)
    SSE_FLOAT_ROWS(F)
};

static bool is_group(unsigned opcode)
{
    return (opcode >= 0x71 && opcode <= 0x73) || opcode == 0xAE;
}

/* F3 and F2 go before 66 (SDM vol. 2, 2.1.1 and table A-3). */
const struct sse_row *sse_find(const struct insn *in)
{
    unsigned opcode = in->opcode & 0xFF;
    enum sse_prefix prefix = in->rep ? SSE_F3 : in->repne ? SSE_F2 : in->size_prefix ? SSE_66 : SSE_NP;
    if (is_group(opcode))
        opcode = (unsigned)GROUP(opcode, in->reg);
    const struct sse_row *row = &rows[opcode << 3 | (unsigned)prefix << 1 | in->mem];
    return row->feature ? row : NULL;
}

unsigned sse_number(const struct sse_row *row)
{
    return (unsigned)(row - rows);
}

const struct sse_row *sse_row(unsigned number)
{
    return &rows[number];
}

void sse_reset(struct sse *s)
{
    *s = (struct sse){.mxcsr = MXCSR_RESET};
}

u32 mxcsr_defined(const struct cpu *cpu)
{
    return cpu->model->mxcsr;
}

/* --- execution -------------------------------------------------------------------------------------------- */

/* CVTPI2PD with memory leaves the x87 alone (SDM vol. 2). */
#define CVTPI2PD_M KEY(0x2A, 66, 1)

static bool uses_mmx(const struct sse_row *row)
{
    return (row->reg == AT_MM || row->rm == AT_MM) && row != &rows[CVTPI2PD_M];
}

/* SDM vol. 3, 2.5 and 23.25.3: what makes an instruction undefined or unavailable, in the order of priority. */
static int available(struct cpu *cpu, const struct sse_row *row)
{
    bool mmx = uses_mmx(row), xmm = row->reg == AT_XMM || row->rm == AT_XMM;
    if (!mmx && !xmm)
        return STATUS_NEXT;
    if (cpu->cr0 & CR0_EM || (xmm && !(cpu->cr4 & CR4_OSFXSR)))
        return cpu_fault(cpu, T_ILLOP);
    if (cpu->cr0 & CR0_TS)
        return cpu_fault(cpu, T_DEVICE);
    return mmx && cpu->fpu.status & FPU_ES ? fpu_report(cpu) : STATUS_NEXT;
}

static union lanes register_read(const struct cpu *cpu, unsigned place, u8 offset)
{
    const u8 *xmm = (const u8 *)cpu->sse.xmm + offset, *mm = (const u8 *)cpu->fpu.st + offset;
    union lanes value = {{0, 0}};
    if (place == AT_XMM)
        memcpy(&value, xmm, 16);
    else if (place == AT_MM)
        memcpy(&value, mm, 8);
    else if (place == AT_GPR)
        value.d[0] = REG32(cpu, offset);
    return value;
}

static void register_write(struct cpu *cpu, unsigned place, u8 offset, const union lanes *value)
{
    if (place == AT_XMM)
        memcpy((u8 *)cpu->sse.xmm + offset, value, 16);
    else if (place == AT_MM)
        mmx_put(&cpu->fpu, offset, value->q[0]);
    else if (place == AT_GPR)
        REG32(cpu, offset) = value->d[0];
}

bool sse_operand(struct cpu *cpu, const struct op *op, unsigned size, unsigned access, u32 align, u32 *ret)
{
    u32 off = op_offset(cpu, op), lin = cpu->seg[op->seg].base + off;
    if (unlikely(lin & (align - 1)) && seg_allows(cpu, op->seg, off, size, access)) {
        cpu_fault_code(cpu, T_GPFLT, 0);
        return false;
    }
    return seg_linear(cpu, op->seg, off, size, access, ret);
}

static bool memory_read(struct cpu *cpu, const struct op *op, const struct sse_row *row, union lanes *ret)
{
    u32 lin, align = row->size == 16 && !(row->flags & SSE_ANYWHERE) ? 16 : 1;
    *ret = (union lanes){{0, 0}};
    return sse_operand(cpu, op, row->size, ACCESS_READ, align, &lin) && lin_read_bytes(cpu, lin, ret, row->size);
}

static bool memory_write(struct cpu *cpu, const struct op *op, const struct sse_row *row, const union lanes *value)
{
    u32 lin, align = row->size == 16 && !(row->flags & SSE_ANYWHERE) ? 16 : 1;
    return sse_operand(cpu, op, row->size, ACCESS_WRITE, align, &lin) && lin_write_bytes(cpu, lin, value, row->size);
}

/* SDM vol. 1, 11.5.2: flags are set, masked or not; a result is written only if nothing unmasked happened. */
static int compute(struct cpu *cpu, const struct sse_row *row, union lanes *d, const union lanes *s, unsigned imm)
{
    if (!(row->flags & SSE_FLOAT)) {
        row->integer(d, s, imm);
        return STATUS_NEXT;
    }
    unsigned raised = row->floating(d, s, imm, cpu->sse.mxcsr);
    cpu->sse.mxcsr |= raised;
    if (likely(!(raised & ~MXCSR_MASKS(cpu->sse.mxcsr))))
        return STATUS_NEXT;
    return cpu_fault(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? T_SIMD : T_ILLOP);
}

/* op->imm: the row's number << 8 | the immediate. */
int insn_sse(struct cpu *cpu, const struct op *op)
{
    const struct sse_row *row = &rows[op->imm >> 8];
    bool mem = op->flags & OP_MEM, to_rm = row->flags & SSE_TO_RM;
    union lanes s, d;
    int status = available(cpu, row);
    if (status != STATUS_NEXT)
        return status;
    if (row->flags & SSE_SPECIAL)
        return row->special(cpu, op);
    d = register_read(cpu, row->reg, op->reg);
    if (!mem)
        s = register_read(cpu, row->rm, op->rm);
    else if (to_rm)
        s = (union lanes){{0, 0}};
    else if (!memory_read(cpu, op, row, &s))
        return STATUS_FAULT;
    if (to_rm) {
        union lanes swap = d;
        d = s;
        s = swap;
    }
    status = compute(cpu, row, &d, &s, op->imm & 0xFF);
    if (status != STATUS_NEXT) {
        /* Before #XM as on silicon, where the manual is silent. */
        if (uses_mmx(row))
            mmx_enter(&cpu->fpu);
        return status;
    }
    if (mem && to_rm && !memory_write(cpu, op, row, &d))
        return STATUS_FAULT;
    if (uses_mmx(row))
        mmx_enter(&cpu->fpu);
    if (row->flags & SSE_TO_FLAGS)
        cpu->fl = flags_set(d.d[0]);
    else if (!to_rm)
        register_write(cpu, row->reg, op->reg, &d);
    else if (!mem)
        register_write(cpu, row->rm, op->rm, &d);
    return STATUS_NEXT;
}
