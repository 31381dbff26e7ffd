/* fpu_memory.c: x87 instructions that load or store: numbers, words and whole environments. */
#include <string.h>

#include "callout.h"
#include "gate.h"

bool fpu_read(struct cpu *cpu, const struct op *op, void *buf, unsigned size)
{
    u32 lin;
    return seg_linear(cpu, op->seg, op_offset(cpu, op), size, ACCESS_READ, &lin) && lin_read_bytes(cpu, lin, buf, size);
}

bool fpu_writable(struct cpu *cpu, const struct op *op, unsigned size)
{
    return mem_check_write(cpu, op->seg, op_offset(cpu, op), size);
}

bool fpu_write(struct cpu *cpu, const struct op *op, const void *buf, unsigned size)
{
    u32 lin;
    return seg_linear(cpu, op->seg, op_offset(cpu, op), size, ACCESS_WRITE, &lin) && lin_write_bytes(cpu, lin, buf, size);
}

/* --- numbers ---------------------------------------------------------------------------------------------- */

static const u8 sizes[] = {[FPU_SINGLE] = 4, [FPU_DOUBLE] = 8, [FPU_EXTENDED] = 10, [FPU_INT16] = 2, [FPU_INT32] = 4,
                           [FPU_INT64] = 8, [FPU_BCD] = 10};

static s64 as_int(u64 raw, unsigned size)
{
    return size == FPU_INT16 ? (s16)raw : size == FPU_INT32 ? (s32)raw : (s64)raw;
}

bool fpu_operand(struct cpu *cpu, const struct op *op, unsigned size, struct float_env *env, struct float80 *ret)
{
    u64 raw = 0;
    if (!fpu_read(cpu, op, &raw, sizes[size]))
        return false;
    *ret = size == FPU_SINGLE ? float80_widen_single((u32)raw, env) :
           size == FPU_DOUBLE ? float80_widen_double(raw, env) : float80_from_int(as_int(raw, size));
    return true;
}

int fpu_fld_m(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    struct float80 value;
    u8 raw[16] = {0};
    u64 low;
    if (!fpu_read(cpu, op, raw, sizes[arg]))
        return STATUS_FAULT;
    memcpy(&low, raw, 8);
    if (arg == FPU_EXTENDED)
        memcpy(&value, raw, 10);
    else if (arg == FPU_BCD)
        value = float80_from_bcd(raw);
    else if (arg == FPU_SINGLE)
        value = float80_from_single((u32)low, &env);
    else if (arg == FPU_DOUBLE)
        value = float80_from_double(low, &env);
    else
        value = float80_from_int(as_int(low, arg));
    if (!fpu_empty(f, 7)) {
        if (fpu_overflow(f))
            fpu_push(f, FLOAT80_INDEFINITE);
    } else {
        /* A denormal is loaded even if its exception is not masked. */
        fpu_raise(f, &env);
        if (!(env.flags & ~env.masks & FLOAT_IE))
            fpu_push(f, value);
    }
    return STATUS_NEXT;
}

static void convert(struct float80 value, unsigned size, struct float_env *env, u8 raw[10])
{
    u64 low = size == FPU_SINGLE ? float80_to_single(value, env) : size == FPU_DOUBLE ? float80_to_double(value, env) :
              size >= FPU_INT16 && size <= FPU_INT64 ? (u64)float80_to_int(value, 8u * sizes[size], env) : 0;
    memcpy(raw, &low, 8);
    if (size == FPU_EXTENDED)
        memcpy(raw, &value, 10);
    else if (size == FPU_BCD)
        float80_to_bcd(value, env, raw);
}

/* FST, FSTP, FIST, FISTP, FBSTP. Over- and underflow that are not masked store nothing either (SDM vol. 1, 8.5.4). */
int fpu_fst_m(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = f->env;
    unsigned size = arg & 15;
    u8 raw[10];
    if (!fpu_writable(cpu, op, sizes[size]))
        return STATUS_FAULT;
    struct float80 value = *fpu_st(f, 0);
    bool stored;
    if (fpu_empty(f, 0)) {
        stored = fpu_underflow(f);
        env = f->env;
        convert(FLOAT80_INDEFINITE, size, &env, raw);
    } else {
        convert(value, size, &env, raw);
        stored = !(env.flags & ~env.masks & (FLOAT_IE | FLOAT_OE | FLOAT_UE));
        if (!stored) {
            env.flags &= ~FLOAT_PE;
            env.up = false;
        }
        fpu_raise(f, &env);
    }
    if (stored) {
        if (!fpu_write(cpu, op, raw, sizes[size]))
            return STATUS_FAULT;
        fpu_pops(f, arg >> 4);
    }
    return STATUS_NEXT;
}

/* --- words ------------------------------------------------------------------------------------------------ */

int fpu_fldcw(struct cpu *cpu, const struct op *op, unsigned arg)
{
    u16 value;
    (void)arg;
    if (!fpu_read(cpu, op, &value, 2))
        return STATUS_FAULT;
    fpu_set_control(&cpu->fpu, value);
    return STATUS_NEXT;
}

int fpu_fnstcw(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)arg;
    return fpu_write(cpu, op, &cpu->fpu.control, 2) ? STATUS_NEXT : STATUS_FAULT;
}

int fpu_fnstsw_m(struct cpu *cpu, const struct op *op, unsigned arg)
{
    (void)arg;
    return fpu_write(cpu, op, &cpu->fpu.status, 2) ? STATUS_NEXT : STATUS_FAULT;
}

/* --- environments (SDM vol. 1, 8.1.10, figures 8-9 to 8-12) ------------------------------------------------ */

#define ENV_WORDS 7
#define OPCODE_MASK 0x07FFu

/* The seven fields, as wide as the operand size makes them. */
static void environment_get(const struct cpu *cpu, u32 env[ENV_WORDS])
{
    const struct fpu *f = &cpu->fpu;
    u32 fields[ENV_WORDS] = {f->control, f->status, fpu_tag_word(f), f->ip, f->cs | (u32)f->opcode << 16, f->dp, f->ds};
    if (!(cpu->mode & MODE_PROTECTED)) {
        /* Real and virtual-8086 mode: linear addresses in two parts. */
        u32 ip = ((u32)f->cs << 4) + f->ip, dp = ((u32)f->ds << 4) + f->dp;
        fields[3] = ip & 0xFFFF;
        fields[4] = ip >> 16 << 12 | f->opcode;
        fields[5] = dp & 0xFFFF;
        fields[6] = dp >> 16 << 12;
    }
    memcpy(env, fields, sizeof fields);
}

/* The upper halves of 16-bit fields are ones in memory. */
static unsigned environment_pack(const struct cpu *cpu, unsigned size, u8 *buf)
{
    u32 fields[ENV_WORDS];
    environment_get(cpu, fields);
    bool real = !(cpu->mode & MODE_PROTECTED);
    for (unsigned i = 0; i < ENV_WORDS; i++) {
        bool half = i < 3 || (real ? i == 3 || i == 5 : i == 6);
        u32 value = fields[i] | (half ? 0xFFFF0000 : 0);
        memcpy(buf + i * size, &value, size);
    }
    return ENV_WORDS * size;
}

static void environment_unpack(struct cpu *cpu, unsigned size, const u8 *buf)
{
    struct fpu *f = &cpu->fpu;
    u32 fields[ENV_WORDS] = {0};
    for (unsigned i = 0; i < ENV_WORDS; i++)
        memcpy(&fields[i], buf + i * size, size);
    fpu_set_control(f, (u16)fields[0]);
    fpu_set_status(f, (u16)fields[1]);
    fpu_set_tag_word(f, (u16)fields[2]);
    if (cpu->mode & MODE_PROTECTED) {
        f->ip = fields[3];
        f->cs = (u16)fields[4];
        f->opcode = fields[4] >> 16 & OPCODE_MASK;
        f->dp = fields[5];
        f->ds = (u16)fields[6];
    } else {
        f->ip = (fields[3] & 0xFFFF) | fields[4] >> 12 << 16;
        f->dp = (fields[5] & 0xFFFF) | fields[6] >> 12 << 16;
        f->opcode = fields[4] & OPCODE_MASK;
        f->cs = f->ds = 0;
    }
}

int fpu_fldenv(struct cpu *cpu, const struct op *op, unsigned arg)
{
    u8 buf[28];
    (void)arg;
    if (!fpu_read(cpu, op, buf, ENV_WORDS * op->size))
        return STATUS_FAULT;
    environment_unpack(cpu, op->size, buf);
    return STATUS_NEXT;
}

int fpu_fnstenv(struct cpu *cpu, const struct op *op, unsigned arg)
{
    u8 buf[28];
    (void)arg;
    if (!fpu_write(cpu, op, buf, environment_pack(cpu, op->size, buf)))
        return STATUS_FAULT;
    fpu_set_control(&cpu->fpu, cpu->fpu.control | FPU_EXCEPTIONS);
    return STATUS_NEXT;
}

int fpu_frstor(struct cpu *cpu, const struct op *op, unsigned arg)
{
    u8 buf[108];
    unsigned head = ENV_WORDS * op->size;
    (void)arg;
    if (!fpu_read(cpu, op, buf, head + 80))
        return STATUS_FAULT;
    environment_unpack(cpu, op->size, buf);
    for (unsigned i = 0; i < 8; i++)
        memcpy(fpu_st(&cpu->fpu, i), buf + head + 10 * i, 10);
    return STATUS_NEXT;
}

int fpu_fnsave(struct cpu *cpu, const struct op *op, unsigned arg)
{
    u8 buf[108];
    unsigned head = environment_pack(cpu, op->size, buf);
    (void)arg;
    for (unsigned i = 0; i < 8; i++)
        memcpy(buf + head + 10 * i, fpu_st(&cpu->fpu, i), 10);
    if (!fpu_write(cpu, op, buf, head + 80))
        return STATUS_FAULT;
    fpu_init(&cpu->fpu);
    return STATUS_NEXT;
}
