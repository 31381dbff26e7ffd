/* fetch.c: field programs: fetch arguments of probe events, and filters on them. */
#include <string.h>

#include "action.h"
#include "kretprobe.h"

u32 field_read(struct machine *m, u32 lin, void *buf, u32 size)
{
    const u8 *host = tlb_host(m->cpu, lin, size, ACCESS_SYSTEM);

    if (likely(size <= PAGE_SIZE && host)) {
        memcpy(buf, host, size);
        return size;
    }
    return mmu_peek(m->cpu, lin, buf, size);
}

static bool load(struct machine *m, u32 lin, u32 size, u64 *ret)
{
    *ret = 0;
    return field_read(m, lin, ret, size) == size;
}

/* Words that the CPU holds otherwise than a frame does; eip is behind the breakpoint, as in a trap's frame, or that of
 * the trampoline. */
static COLD u32 live_word(struct machine *m, unsigned word)
{
    const struct cpu *cpu = m->cpu;

    switch (4 * word) {
    case offsetof(struct pt_regs, ds):
        return cpu->seg[DS].selector;
    case offsetof(struct pt_regs, es):
        return cpu->seg[ES].selector;
    case offsetof(struct pt_regs, cs):
        return cpu->seg[CS].selector;
    case offsetof(struct pt_regs, orig_eax):
        return cpu->gpr[EAX];
    case offsetof(struct pt_regs, eflags):
        return cpu_eflags(cpu) & ~EFLAGS_RF;
    default:
        return cpu->eip + !kretprobe_returning(m);
    }
}

static u64 word_value(struct machine *m, const struct frame *f, unsigned word)
{
    if (f || word < FRAME_GPRS)
        return hit_gpr(m, f, word);
    return live_word(m, word);
}

static u64 sign_extend(u64 value, unsigned bits)
{
    return (u64)((s64)(value << (64 - bits)) >> (64 - bits));
}

/* Two operands; false: division by zero. What does not fit into 64 bits wraps. */
static bool combine(unsigned code, u64 x, u64 y, u64 *ret)
{
    switch (code) {
    case FIELD_ADD: *ret = x + y; return true;
    case FIELD_SUB: *ret = x - y; return true;
    case FIELD_MUL: *ret = x * y; return true;
    case FIELD_AND: *ret = x & y; return true;
    case FIELD_OR: *ret = x | y; return true;
    case FIELD_XOR: *ret = x ^ y; return true;
    case FIELD_DIVS: *ret = y + 1 < 2 ? 0 - x : (u64)((s64)x / (s64)y); return y;
    case FIELD_MODS: *ret = y + 1 < 2 ? 0 : (u64)((s64)x % (s64)y); return y;
    case FIELD_DIVU: *ret = y ? x / y : 0; return y;
    case FIELD_MODU: *ret = y ? x % y : 0; return y;
    case FIELD_SHL: *ret = y < 64 ? x << y : 0; return true;
    case FIELD_SHRU: *ret = y < 64 ? x >> y : 0; return true;
    case FIELD_SHRS: *ret = (u64)((s64)x >> (y < 64 ? y : 63)); return true;
    case FIELD_EQ: *ret = x == y; return true;
    case FIELD_NE: *ret = x != y; return true;
    case FIELD_LTS: *ret = (s64)x < (s64)y; return true;
    case FIELD_LES: *ret = (s64)x <= (s64)y; return true;
    case FIELD_LTU: *ret = x < y; return true;
    default: *ret = x <= y; return true;
    }
}

bool field_run(struct machine *m, const struct field_op *program, const struct frame *f, u64 *ret)
{
    u64 stack[FIELD_DEPTH + 1], *top = stack;

    for (const struct field_op *op = program; op->code != FIELD_END; op++) {
        switch (op->code) {
        case FIELD_WORD:
            *++top = word_value(m, f, op->arg);
            break;
        case FIELD_SP:
            *++top = hit_sp(m, f);
            break;
        case FIELD_KEPT:
            if (!kretprobe_kept(m, op->arg, ++top))
                return false;
            break;
        case FIELD_LATENCY:
            *++top = kretprobe_latency(m);
            break;
        case FIELD_IMM:
            *++top = op->imm;
            break;
        case FIELD_HIGH:
            *top |= (u64)op->imm << 32;
            break;
        case FIELD_STACK:
            if (!load(m, hit_sp(m, f) + op->imm, op->arg, ++top))
                return false;
            break;
        case FIELD_LOAD:
            if (!load(m, (u32)*top + op->imm, op->arg, top))
                return false;
            break;
        case FIELD_BITS:
            *top = *top >> op->arg << (64 - op->to) >> (64 - op->to);
            break;
        case FIELD_SIGN:
            *top = sign_extend(*top, op->arg);
            break;
        case FIELD_NEG:
            *top = 0 - *top;
            break;
        case FIELD_INVERT:
            *top = ~*top;
            break;
        case FIELD_NOT:
            *top = !*top;
            break;
        case FIELD_BOOL:
            *top = !!*top;
            break;
        case FIELD_AND_ELSE:
        case FIELD_OR_ELSE:
            if (!*top == (op->code == FIELD_AND_ELSE))
                op = program + op->to - 1;
            else
                top--;
            break;
        default:
            top--;
            if (!combine(op->code, top[0], top[1], top))
                return false;
            break;
        }
    }
    *ret = *top;
    return true;
}

/* How an instruction moves the stack's top, and how many values it needs there. */
static bool stack_effect(const struct field_op *op, int *ret_needs, int *ret_moves)
{
    switch (op->code) {
    case FIELD_WORD: case FIELD_SP: case FIELD_KEPT: case FIELD_LATENCY: case FIELD_IMM: case FIELD_STACK:
        *ret_needs = 0;
        *ret_moves = 1;
        return true;
    case FIELD_END: case FIELD_HIGH: case FIELD_LOAD: case FIELD_BITS: case FIELD_SIGN: case FIELD_NEG:
    case FIELD_INVERT: case FIELD_NOT: case FIELD_BOOL:
        *ret_needs = 1;
        *ret_moves = 0;
        return true;
    case FIELD_AND_ELSE: case FIELD_OR_ELSE:
        *ret_needs = 1;
        *ret_moves = -1;        /* of the way that falls through; a jump keeps it */
        return true;
    default:
        *ret_needs = 2;
        *ret_moves = -1;
        return op->code < FIELD_CODES;
    }
}

static bool operands_good(const struct field_op *op)
{
    switch (op->code) {
    case FIELD_WORD:
        return op->arg < FRAME_WORDS;
    case FIELD_KEPT:
        return op->arg < FIELD_KEPT_MAX;
    case FIELD_STACK: case FIELD_LOAD:
        return op->arg == 1 || op->arg == 2 || op->arg == 4 || op->arg == 8;
    case FIELD_BITS:
        return op->to && op->to + op->arg <= 64;
    case FIELD_SIGN:
        return op->arg && op->arg <= 64;
    default:
        return true;
    }
}

int field_check(const struct field_op *program, uint32_t n)
{
    s8 depth[FIELD_STEPS_MAX + 1];      /* before each instruction; -1: not known yet */
    int now = 0, needs, moves;

    if (!n || n > FIELD_STEPS_MAX || program[n - 1].code != FIELD_END)
        return -1;
    memset(depth, -1, sizeof depth);
    for (u32 i = 0; i < n; i++) {
        const struct field_op *op = &program[i];

        if (depth[i] >= 0 && depth[i] != now)
            return -1;          /* a jump and the way here disagree */
        if (!stack_effect(op, &needs, &moves) || !operands_good(op) || now < needs || now + moves > FIELD_DEPTH)
            return -1;
        if (op->code == FIELD_AND_ELSE || op->code == FIELD_OR_ELSE) {
            if (op->to <= i || op->to >= n || (depth[op->to] >= 0 && depth[op->to] != now))
                return -1;
            depth[op->to] = (s8)now;
        }
        if (op->code == FIELD_END && i + 1 < n)
            return -1;
        now += moves;
    }
    return now == 1 ? 0 : -1;
}

int machine_fetch(machine *m, const struct field_op *program, uint64_t *ret)
{
    const struct frame *frame = machine_frame(m);
    return frame && field_run(m, program, frame, ret) ? 0 : -1;
}
