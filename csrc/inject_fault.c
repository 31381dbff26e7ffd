/* inject_fault.c: where a fault strikes, and what it changes. */
#include <string.h>

#include "decode.h"
#include "inject.h"
#include "mmu.h"

u64 fault_value(const struct inject_fault *f, u64 value)
{
    switch (f->model) {
    case MODEL_FLIP: return value ^ f->mask;
    case MODEL_SET0: return value & ~f->mask;
    case MODEL_SET1: return value | f->mask;
    default: return (value & ~f->mask) | (f->value & f->mask);
    }
}

/* --- registers -------------------------------------------------------------------------------------------- */

static u64 *xmm_half(struct cpu *cpu, u32 target)
{
    return (u64 *)(void *)((u8 *)&cpu->sse.xmm[(target - TARGET_XMM) / 2] + 8 * (target & 1));
}

static u64 register_get(struct machine *m, u32 target)
{
    struct cpu *cpu = m->cpu;
    if (target < REG_COUNT)
        return machine_get_reg(m, (int)target);
    if (target >= TARGET_XMM)
        return *xmm_half(cpu, target);
    if (target < TARGET_SE)
        return fpu_st(&cpu->fpu, target - TARGET_ST)->mant;
    if (target < TARGET_FCW)
        return fpu_st(&cpu->fpu, target - TARGET_SE)->se;
    switch (target) {
    case TARGET_FCW: return cpu->fpu.control;
    case TARGET_FSW: return cpu->fpu.status;
    case TARGET_FTW: return fpu_tag_word(&cpu->fpu);
    default: return cpu->sse.mxcsr;
    }
}

/* Bits that cannot be held stay as they are, as in the hardware registers. */
static void register_set(struct machine *m, u32 target, u64 value)
{
    struct cpu *cpu = m->cpu;
    if (target < REG_COUNT)
        machine_set_reg(m, (int)target, (u32)value);
    else if (target >= TARGET_XMM)
        *xmm_half(cpu, target) = value;
    else if (target < TARGET_SE)
        fpu_st(&cpu->fpu, target - TARGET_ST)->mant = value;
    else if (target < TARGET_FCW)
        fpu_st(&cpu->fpu, target - TARGET_SE)->se = (u16)value;
    else if (target == TARGET_FCW)
        fpu_set_control(&cpu->fpu, (u16)value);
    else if (target == TARGET_FSW)
        fpu_set_status(&cpu->fpu, (u16)value);
    else if (target == TARGET_FTW)
        fpu_set_tag_word(&cpu->fpu, (u16)value);
    else
        cpu->sse.mxcsr = (u32)value & cpu->model->mxcsr;
}

/* --- memory ----------------------------------------------------------------------------------------------- */

/* Zero-extended; bytes that are not mapped read as zeros. */
static u64 memory_get(struct machine *m, u32 address, u32 size)
{
    u64 value = 0;
    mmu_peek(m->cpu, address, &value, size);
    return value;
}

static void memory_set(struct machine *m, u32 address, u32 size, u64 value)
{
    mmu_poke(m->cpu, address, &value, size);
}

static u32 code_address(const struct machine *m, const struct inject_fault *f)
{
    return m->cpu->seg[CS].base + m->cpu->eip + f->target;
}

/* --- control flow ----------------------------------------------------------------------------------------- */

/* Where the next instruction but n begins; behind what cannot be decoded, one byte on. */
static u32 skip(const struct machine *m, u32 eip, u64 n)
{
    for (u64 i = 0; i < n; i++) {
        u8 bytes[INSN_MAX] = {0};
        struct insn in;
        u32 got = mmu_peek(m->cpu, m->cpu->seg[CS].base + eip, bytes, INSN_MAX);
        bool good = got && decode(bytes, got, m->cpu->mode & MODE_CODE32, &in) == DECODE_OK;
        eip += good ? in.len : 1;
    }
    return eip;
}

static void set_eip(struct machine *m, u32 eip)
{
    machine_set_reg(m, REG_EIP, eip);
}

/* The function that was entered returns at once: regs_set_return_value and override_function_with_return. */
static bool return_now(struct machine *m, const struct inject_fault *f)
{
    u32 esp = m->cpu->gpr[ESP], eip;
    if (mmu_peek(m->cpu, m->cpu->seg[SS].base + esp, &eip, 4) != 4)
        return false;
    m->cpu->gpr[EAX] = (u32)f->value;
    m->cpu->gpr[ESP] = esp + 4;
    set_eip(m, eip);
    return true;
}

/* --- striking --------------------------------------------------------------------------------------------- */

static enum stop_reason one_instruction(struct machine *m, u64 zero)
{
    return inject_run_to(m, zero, inject_time(m, zero) + 1);
}

static enum stop_reason strike_access(struct machine *m, u64 zero, const struct inject_fault *f, struct evidence *ret,
                                      bool *ret_fired)
{
    struct spy spy = {.tamper = f};
    spy_set(m, &spy);
    enum stop_reason reason = one_instruction(m, zero);
    spy_set(m, NULL);
    *ret_fired = spy.done;
    *ret = (struct evidence){spy.before, spy.after};
    return reason;
}

/* The bytes are others for this one fetch, or from now on. */
static enum stop_reason strike_text(struct machine *m, u64 zero, const struct inject_fault *f, struct evidence *ret)
{
    u32 address = code_address(m, f);
    u64 was = memory_get(m, address, f->size);
    memory_set(m, address, f->size, fault_value(f, was));
    *ret = (struct evidence){was, memory_get(m, address, f->size)};
    if (f->lifespan != LIFE_ONCE)
        return STOP_NONE;
    enum stop_reason reason = one_instruction(m, zero);
    if (memory_get(m, address, f->size) == ret->after)
        memory_set(m, address, f->size, was);
    return reason;
}

static enum stop_reason strike_flow(struct machine *m, u64 zero, const struct inject_fault *f, struct evidence *ret)
{
    enum stop_reason reason = STOP_NONE;

    ret->before = m->cpu->eip;
    if (f->model == MODEL_SKIP) {
        set_eip(m, skip(m, m->cpu->eip, f->span));
    } else if (f->model == MODEL_JUMP) {
        set_eip(m, (u32)f->value);
    } else {
        reason = one_instruction(m, zero);
        ret->before = m->cpu->eip;
        if (reason == STOP_NONE)
            set_eip(m, (u32)fault_value(f, m->cpu->eip));
    }
    ret->after = m->cpu->eip;
    return reason;
}

static void strike_register(struct machine *m, const struct inject_fault *f, struct evidence *ret)
{
    ret->before = register_get(m, f->target);
    register_set(m, f->target, fault_value(f, ret->before));
    ret->after = register_get(m, f->target);
}

enum stop_reason fault_strike(struct machine *m, u64 zero, const struct inject_fault *f, struct evidence *ret, bool *ret_fired)
{
    enum stop_reason reason = STOP_NONE;

    *ret_fired = true;
    switch (f->kind) {
    case FAULT_REGISTER:
    case FAULT_RREG:
        strike_register(m, f, ret);
        break;
    case FAULT_WREG:
        reason = one_instruction(m, zero);
        *ret_fired = reason == STOP_NONE;
        if (*ret_fired)
            strike_register(m, f, ret);
        break;
    case FAULT_MEMORY:
        ret->before = memory_get(m, f->target, f->size);
        memory_set(m, f->target, f->size, fault_value(f, ret->before));
        ret->after = memory_get(m, f->target, f->size);
        break;
    case FAULT_TXT:
        return strike_text(m, zero, f, ret);
    case FAULT_CF:
        reason = strike_flow(m, zero, f, ret);
        *ret_fired = reason == STOP_NONE;
        break;
    case FAULT_RETURN:
        ret->before = m->cpu->gpr[EAX];
        *ret_fired = return_now(m, f);
        ret->after = m->cpu->gpr[EAX];
        break;
    default:
        return strike_access(m, zero, f, ret, ret_fired);
    }
    return reason;
}

void fault_hold(struct machine *m, const struct inject_fault *f, u64 value)
{
    if (f->kind == FAULT_MEMORY)
        memory_set(m, f->target, f->size, value);
    else
        register_set(m, f->target, value);
}
