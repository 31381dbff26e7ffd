/*
 * string.c: MOVS CMPS STOS LODS SCAS INS OUTS, alone and repeated.
 *
 * Each kind has a step, one iteration with all checks, and perhaps a bulk:
 * as many iterations as lie in one page on each side, without any check that
 * the TLB has not made already. A bulk that does nothing leaves the work to
 * the step, which also fills the TLB.
 */
#include <string.h>

#include "callout.h"

typedef int step_fn(struct cpu *cpu, const struct op *op);
typedef u32 bulk_fn(struct cpu *cpu, const struct op *op, u32 max);

struct kind {
    step_fn *step;              /* STATUS_NEXT, or why the iteration did not happen */
    bulk_fn *bulk;              /* iterations done, at most max, or 0; NULL: there is none */
    bool compares;              /* REPE and REPNE look at ZF */
};

/* Pointers. */

static u32 pointer(const struct cpu *cpu, const struct op *op, unsigned reg)
{
    return cpu->gpr[reg] & addr_mask(op);
}
static void pointer_set(struct cpu *cpu, const struct op *op, unsigned reg, u32 v)
{
    u32 mask = addr_mask(op);
    cpu->gpr[reg] = (cpu->gpr[reg] & ~mask) | (v & mask);
}
static void pointer_move(struct cpu *cpu, const struct op *op, unsigned reg, u32 count)
{
    u32 bytes = count * op->size;
    pointer_set(cpu, op, reg, cpu->gpr[reg] + (cpu->eflags & EFLAGS_DF ? 0 - bytes : bytes));
}
static bool source_read(struct cpu *cpu, const struct op *op, u32 *ret)
{
    return mem_read(cpu, op->seg, pointer(cpu, op, ESI), op->size, ret);
}
static bool dest_read(struct cpu *cpu, const struct op *op, u32 *ret)
{
    return mem_read(cpu, ES, pointer(cpu, op, EDI), op->size, ret);
}

/* Runs of elements on the host. */

struct run {
    u8 *host;                   /* the first element's address */
    u32 count;                  /* elements of the run */
};

/* Elements from a pointer register on that lie in its page, in its segment and in the TLB. */
static bool run_find(struct cpu *cpu, const struct op *op, unsigned seg, unsigned reg, unsigned access, struct run *ret)
{
    u32 off = pointer(cpu, op, reg), lin = cpu->seg[seg].base + off;
    u32 in_page = lin & PAGE_MASK, size = op->size, room = PAGE_SIZE - in_page, wrap = addr_mask(op) - off;
    bool down = cpu->eflags & EFLAGS_DF;

    ret->host = tlb_host(cpu, lin, size, access);
    if (!ret->host)
        return false;
    if (down)
        room = (in_page < off ? in_page : off) + size;
    else if (wrap < room)
        room = wrap + 1;
    ret->count = ret->count < room / size ? ret->count : room / size;

    u32 bytes = ret->count * size;
    return ret->count && seg_allows(cpu, seg, down ? off + size - bytes : off, bytes, access);
}

static bool source_run(struct cpu *cpu, const struct op *op, struct run *ret)
{
    return run_find(cpu, op, op->seg, ESI, ACCESS_READ, ret);
}
static bool dest_run(struct cpu *cpu, const struct op *op, unsigned access, struct run *ret)
{
    return run_find(cpu, op, ES, EDI, access, ret);
}
static ptrdiff_t run_stride(const struct cpu *cpu, const struct op *op)
{
    return cpu->eflags & EFLAGS_DF ? -(ptrdiff_t)op->size : op->size;
}

ALWAYS_INLINE u32 element(const u8 *host, unsigned size)
{
    u32 v = 0;
    memcpy(&v, host, size);
    return v;
}

/* MOVS */

static int movs_step(struct cpu *cpu, const struct op *op)
{
    u32 v;

    if (!source_read(cpu, op, &v) || !mem_write(cpu, ES, pointer(cpu, op, EDI), v, op->size))
        return STATUS_FAULT;
    pointer_move(cpu, op, ESI, 1);
    pointer_move(cpu, op, EDI, 1);
    return STATUS_NEXT;
}

/* One element after the other: what an overlapping copy shows. */
ALWAYS_INLINE void copy_elements(u8 *dst, const u8 *src, u32 count, unsigned size, ptrdiff_t stride)
{
    for (u32 i = 0; i < count; i++, dst += stride, src += stride) {
        u32 v = element(src, size);
        memcpy(dst, &v, size);
    }
}

static u32 movs_bulk(struct cpu *cpu, const struct op *op, u32 max)
{
    struct run src = {.count = max}, dst;
    ptrdiff_t stride = run_stride(cpu, op);

    if (!source_run(cpu, op, &src))
        return 0;
    dst.count = src.count;
    if (!dest_run(cpu, op, ACCESS_WRITE, &dst))
        return 0;

    u32 count = dst.count, bytes = count * op->size;
    /* Distance by which the destination runs ahead of the source; a negative one is a huge one. */
    uintptr_t ahead = stride > 0 ? (uintptr_t)dst.host - (uintptr_t)src.host : (uintptr_t)src.host - (uintptr_t)dst.host;
    u32 back = stride > 0 ? 0 : bytes - op->size;

    if (ahead >= bytes)
        memmove(dst.host - back, src.host - back, bytes);
    else if (op->size == 1)
        copy_elements(dst.host, src.host, count, 1, stride);
    else if (op->size == 2)
        copy_elements(dst.host, src.host, count, 2, stride);
    else
        copy_elements(dst.host, src.host, count, 4, stride);
    pointer_move(cpu, op, ESI, count);
    pointer_move(cpu, op, EDI, count);
    return count;
}

/* STOS */

static int stos_step(struct cpu *cpu, const struct op *op)
{
    if (!mem_write(cpu, ES, pointer(cpu, op, EDI), reg_read(cpu, EAX * 4, op->size), op->size))
        return STATUS_FAULT;
    pointer_move(cpu, op, EDI, 1);
    return STATUS_NEXT;
}

static u32 stos_bulk(struct cpu *cpu, const struct op *op, u32 max)
{
    struct run dst = {.count = max};
    u32 v = cpu->gpr[EAX];

    if (!dest_run(cpu, op, ACCESS_WRITE, &dst))
        return 0;

    u8 *low = cpu->eflags & EFLAGS_DF ? dst.host - (dst.count - 1) * op->size : dst.host;
    if (op->size == 1)
        memset(low, (u8)v, dst.count);
    else if (op->size == 2)
        for (u32 i = 0; i < dst.count; i++)
            memcpy(low + 2 * i, &v, 2);
    else
        for (u32 i = 0; i < dst.count; i++)
            memcpy(low + 4 * i, &v, 4);
    pointer_move(cpu, op, EDI, dst.count);
    return dst.count;
}

/* LODS */

static int lods_step(struct cpu *cpu, const struct op *op)
{
    u32 v;

    if (!source_read(cpu, op, &v))
        return STATUS_FAULT;
    reg_write(cpu, EAX * 4, op->size, v);
    pointer_move(cpu, op, ESI, 1);
    return STATUS_NEXT;
}

static u32 lods_bulk(struct cpu *cpu, const struct op *op, u32 max)
{
    struct run src = {.count = max};

    if (!source_run(cpu, op, &src))
        return 0;
    reg_write(cpu, EAX * 4, op->size, element(src.host + run_stride(cpu, op) * (ptrdiff_t)(src.count - 1), op->size));
    pointer_move(cpu, op, ESI, src.count);
    return src.count;
}

/* SCAS */

static int scas_step(struct cpu *cpu, const struct op *op)
{
    u32 acc = reg_read(cpu, EAX * 4, op->size), v;

    if (!dest_read(cpu, op, &v))
        return STATUS_FAULT;
    cpu->fl = flags_result(FC_SUB, acc - v, acc, op->size);
    pointer_move(cpu, op, EDI, 1);
    return STATUS_NEXT;
}

ALWAYS_INLINE u32 scan(const u8 *host, u32 count, u32 acc, unsigned size, ptrdiff_t stride, bool while_equal)
{
    u32 i = 0;
    while (i < count && (element(host + (ptrdiff_t)i * stride, size) == acc) == while_equal)
        i++;
    return i < count ? i + 1 : count;
}

static u32 scas_bulk(struct cpu *cpu, const struct op *op, u32 max)
{
    struct run dst = {.count = max};
    u32 acc = reg_read(cpu, EAX * 4, op->size), n;
    ptrdiff_t stride = run_stride(cpu, op);
    bool while_equal = op->flags & OP_REP;

    if (!dest_run(cpu, op, ACCESS_READ, &dst))
        return 0;
    if (op->size == 1)
        n = scan(dst.host, dst.count, acc, 1, stride, while_equal);
    else if (op->size == 2)
        n = scan(dst.host, dst.count, acc, 2, stride, while_equal);
    else
        n = scan(dst.host, dst.count, acc, 4, stride, while_equal);

    u32 last = element(dst.host + (ptrdiff_t)(n - 1) * stride, op->size);
    cpu->fl = flags_result(FC_SUB, acc - last, acc, op->size);
    pointer_move(cpu, op, EDI, n);
    return n;
}

/* CMPS. The destination is read first: of two faults CPUs report that one. */

static int cmps_step(struct cpu *cpu, const struct op *op)
{
    u32 a, b;

    if (!dest_read(cpu, op, &b) || !source_read(cpu, op, &a))
        return STATUS_FAULT;
    cpu->fl = flags_result(FC_SUB, a - b, a, op->size);
    pointer_move(cpu, op, ESI, 1);
    pointer_move(cpu, op, EDI, 1);
    return STATUS_NEXT;
}

ALWAYS_INLINE u32 compare(const u8 *x, const u8 *y, u32 count, unsigned size, ptrdiff_t stride, bool while_equal)
{
    u32 i = 0;
    for (; i < count; i++, x += stride, y += stride)
        if ((element(x, size) == element(y, size)) != while_equal)
            return i + 1;
    return count;
}

static u32 cmps_bulk(struct cpu *cpu, const struct op *op, u32 max)
{
    struct run src = {.count = max}, dst;
    ptrdiff_t stride = run_stride(cpu, op);
    bool while_equal = op->flags & OP_REP;
    u32 n;

    if (!source_run(cpu, op, &src))
        return 0;
    dst.count = src.count;
    if (!dest_run(cpu, op, ACCESS_READ, &dst))
        return 0;
    if (op->size == 1)
        n = compare(src.host, dst.host, dst.count, 1, stride, while_equal);
    else if (op->size == 2)
        n = compare(src.host, dst.host, dst.count, 2, stride, while_equal);
    else
        n = compare(src.host, dst.host, dst.count, 4, stride, while_equal);

    ptrdiff_t last = (ptrdiff_t)(n - 1) * stride;
    u32 a = element(src.host + last, op->size);
    cpu->fl = flags_result(FC_SUB, a - element(dst.host + last, op->size), a, op->size);
    pointer_move(cpu, op, ESI, n);
    pointer_move(cpu, op, EDI, n);
    return n;
}

/* INS and OUTS. Whatever can fault comes before the port, which cannot be taken back. */

static int ins_step(struct cpu *cpu, const struct op *op)
{
    u16 port = REG16(cpu, EDX * 4);
    u32 off = pointer(cpu, op, EDI), v;
    int status = io_check(cpu, port, op->size);

    if (status != STATUS_NEXT)
        return status;
    if (!mem_check_write(cpu, ES, off, op->size))
        return STATUS_FAULT;
    status = io_read(cpu, port, op->size, &v);
    if (status != STATUS_NEXT)
        return status;
    if (!mem_write(cpu, ES, off, v, op->size))
        return STATUS_FAULT;
    pointer_move(cpu, op, EDI, 1);
    return STATUS_NEXT;
}

static int outs_step(struct cpu *cpu, const struct op *op)
{
    u16 port = REG16(cpu, EDX * 4);
    u32 v;
    int status = io_check(cpu, port, op->size);

    if (status != STATUS_NEXT)
        return status;
    if (!source_read(cpu, op, &v))
        return STATUS_FAULT;
    status = io_write(cpu, port, op->size, v);
    if (status == STATUS_NEXT)
        pointer_move(cpu, op, ESI, 1);
    return status;
}

/* Repetition. */

/* How many iterations this call may retire. */
static u32 allowance(const struct cpu *cpu, u32 count)
{
    if (cpu->one || cpu->budget < 1)
        return 1;
    return cpu->budget < count ? (u32)cpu->budget : count;
}

/* REPE goes on while ZF is set, REPNE while it is clear. */
static bool compare_ends(const struct cpu *cpu, const struct op *op)
{
    return flags_zf(cpu->fl.res, cpu->fl.a, cpu->fl.kind) != !!(op->flags & OP_REP);
}

/* Until the last iteration EFLAGS stay as before the first, also at a fault (SDM vol. 2, REP: CMPS and SCAS). */
static int repeat(struct cpu *cpu, const struct op *op, const struct kind *kind)
{
    u32 count = pointer(cpu, op, ECX), max = allowance(cpu, count), done = 0;
    struct lazy_flags before = cpu->fl;
    bool ends = !count;

    while (!ends && done < max && !(done && cpu->code_changed)) {
        u32 n = kind->bulk ? kind->bulk(cpu, op, max - done) : 0;
        if (!n) {
            int status = kind->step(cpu, op);
            if (status != STATUS_NEXT) {
                cpu->budget -= done;
                cpu->fl = before;
                return status;
            }
            n = 1;
        }
        done += n;
        pointer_set(cpu, op, ECX, count - done);
        ends = done == count || (kind->compares && compare_ends(cpu, op));
    }
    if (ends) {
        cpu->budget -= done > 1 ? done - 1 : 0;
        return STATUS_NEXT;
    }
    cpu->budget -= done;
    cpu->fl = before;
    cpu->eflags |= EFLAGS_RF;   /* an iteration but the first meets no code breakpoint (SDM vol. 3, 17.3.1.1) */
    return STATUS_REPEAT;
}

static int string_run(struct cpu *cpu, const struct op *op, const struct kind *kind)
{
    return op->flags & (OP_REP | OP_REPNE) ? repeat(cpu, op, kind) : kind->step(cpu, op);
}

int insn_movs(struct cpu *cpu, const struct op *op)
{
    static const struct kind kind = {movs_step, movs_bulk, false};
    return string_run(cpu, op, &kind);
}
int insn_stos(struct cpu *cpu, const struct op *op)
{
    static const struct kind kind = {stos_step, stos_bulk, false};
    return string_run(cpu, op, &kind);
}
int insn_lods(struct cpu *cpu, const struct op *op)
{
    static const struct kind kind = {lods_step, lods_bulk, false};
    return string_run(cpu, op, &kind);
}
int insn_scas(struct cpu *cpu, const struct op *op)
{
    static const struct kind kind = {scas_step, scas_bulk, true};
    return string_run(cpu, op, &kind);
}
int insn_cmps(struct cpu *cpu, const struct op *op)
{
    static const struct kind kind = {cmps_step, cmps_bulk, true};
    return string_run(cpu, op, &kind);
}
int insn_ins(struct cpu *cpu, const struct op *op)
{
    static const struct kind kind = {ins_step, NULL, false};
    return string_run(cpu, op, &kind);
}
int insn_outs(struct cpu *cpu, const struct op *op)
{
    static const struct kind kind = {outs_step, NULL, false};
    return string_run(cpu, op, &kind);
}
