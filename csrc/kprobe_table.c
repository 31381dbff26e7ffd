/* kprobe_table.c: register, unregister, and the patch's table with an index beside it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "kprobe.h"
#include "mmu.h"

#define INDEX_BITS_MIN 4
#define NO_ID (-1)

static const struct kprobe_semantics seed = {0};
static const struct kprobe_semantics fixed = {
    .back_up_eip = true,
    .deliver_cd03 = true,
    .skip_user = true,
    .step_copy = true,
    .hit_of_cpu = true,
    .step_nested = true,
    .validate = true,
    .restore_interrupts = true,
    .debug_hook_first = true,
    .fpu_hook_first = true,
    .step_done = true,
    .pre_may_jump = true,
    .int1_kernel_only = true,
    .null_pre_handler = true,
    .see_prefixes = true,
    .fix_image = true,
    .share_address = true,
    .lock_irqsave = true,
    .hide = true,
};

const struct kprobe_semantics *kprobe_semantics(int mode)
{
    return mode == KPROBES_2_5_26 ? &seed : mode == KPROBES_FIXED ? &fixed : NULL;
}

/* hash_ptr() of linux/hash.h for 32 bits. */
static u32 hash(u32 addr, unsigned bits)
{
    return (addr * 0x9E370001u) >> (32 - bits);
}

uint32_t kprobe_hash(uint32_t addr)
{
    return hash(addr, KPROBE_HASH_BITS);
}

/* The index: linear probing, at most half full. */

static bool index_resize(struct kprobes *kp, u32 bits)
{
    struct kprobe **old = kp->index, **index = calloc((size_t)1 << bits, sizeof *index);
    u32 mask = (1u << bits) - 1, old_size = old ? 1u << kp->index_bits : 0;

    if (!index)
        return false;
    for (u32 i = 0; i < old_size; i++) {
        if (!old[i])
            continue;
        u32 at = hash(old[i]->addr, bits);
        while (index[at])
            at = (at + 1) & mask;
        index[at] = old[i];
    }
    free(old);
    kp->index = index;
    kp->index_bits = bits;
    return true;
}

static u32 index_slot(const struct kprobes *kp, u32 addr)
{
    u32 mask = (1u << kp->index_bits) - 1, at = hash(addr, kp->index_bits);
    while (kp->index[at] && kp->index[at]->addr != addr)
        at = (at + 1) & mask;
    return at;
}

/* Close the gap: move back every entry whose own slot does not lie behind it. */
static void index_remove(struct kprobes *kp, u32 addr)
{
    u32 mask = (1u << kp->index_bits) - 1, gap = index_slot(kp, addr);

    for (u32 at = (gap + 1) & mask; kp->index[at]; at = (at + 1) & mask) {
        u32 home = hash(kp->index[at]->addr, kp->index_bits);
        if (((at - home) & mask) < ((at - gap) & mask))
            continue;
        kp->index[gap] = kp->index[at];
        gap = at;
    }
    kp->index[gap] = NULL;
}

struct kprobe *kprobe_at(const struct machine *m, u32 lin)
{
    const struct kprobes *kp = m->kprobes;
    return kp ? kp->index[index_slot(kp, lin)] : NULL;
}

/* The patch's table: doubly linked buckets, list_add at the head. */

static void bucket_add(struct kprobes *kp, struct kprobe *p)
{
    u32 bucket = kprobe_hash(p->addr);
    p->list_prev = NO_ID;
    p->list_next = kp->bucket[bucket];
    if (p->list_next != NO_ID)
        kp->by_id[p->list_next]->list_prev = p->id;
    kp->bucket[bucket] = p->id;
    kp->occupancy[bucket]++;
}

static void bucket_remove(struct kprobes *kp, struct kprobe *p)
{
    u32 bucket = kprobe_hash(p->addr);
    if (p->list_prev != NO_ID)
        kp->by_id[p->list_prev]->list_next = p->list_next;
    else
        kp->bucket[bucket] = p->list_next;
    if (p->list_next != NO_ID)
        kp->by_id[p->list_next]->list_prev = p->list_prev;
    kp->occupancy[bucket]--;
}

void kprobe_replace(struct kprobes *kp, struct kprobe *p, struct kprobe *next)
{
    next->list_prev = p->list_prev;
    next->list_next = p->list_next;
    if (p->list_prev != NO_ID)
        kp->by_id[p->list_prev]->list_next = next->id;
    else
        kp->bucket[kprobe_hash(p->addr)] = next->id;
    if (p->list_next != NO_ID)
        kp->by_id[p->list_next]->list_prev = next->id;
    kp->index[index_slot(kp, p->addr)] = next;
    kprobe_hidden_replace(kp, p, next);
}

/* Ids. */

static bool ids_grow(struct kprobes *kp)
{
    u32 space = kp->id_space ? 2 * kp->id_space : 16;
    struct kprobe **by_id = realloc(kp->by_id, space * sizeof *by_id);
    if (!by_id)
        return false;
    kp->by_id = by_id;
    kp->id_space = space;
    return true;
}

static struct kprobe *id_take(struct kprobes *kp)
{
    struct kprobe *p;

    if (kp->free_id != NO_ID) {
        p = kp->by_id[kp->free_id];
        kp->free_id = p->list_next;
        return p;
    }
    if (kp->ids == kp->id_space && !ids_grow(kp))
        return NULL;
    p = calloc(1, sizeof *p);
    if (p) {
        p->id = (s32)kp->ids;
        kp->by_id[kp->ids++] = p;
    }
    return p;
}

static void id_give(struct kprobes *kp, struct kprobe *p)
{
    p->list_next = kp->free_id;
    kp->free_id = p->id;
}

void kprobe_pin(struct kprobe *p)
{
    p->pins++;
}

void kprobe_unpin(struct kprobes *kp, struct kprobe *p)
{
    if (--p->pins == 0 && !p->registered)
        id_give(kp, p);
}

bool kprobes_create(struct machine *m)
{
    struct kprobes *kp;
    const struct kprobe_semantics *mends = kprobe_semantics(m->config.kprobes);

    if (!mends)
        return true;
    kp = m->kprobes = calloc(1, sizeof *kp);
    if (!kp || !(kp->contexts = calloc(m->cpu_count, sizeof *kp->contexts)) || !index_resize(kp, INDEX_BITS_MIN))
        return false;
    kp->mends = mends;
    kp->lock = KPROBE_NO_CPU;
    for (u32 i = 0; i < m->cpu_count; i++)
        kp->contexts[i].cpu = KPROBE_NO_CPU;
    kp->spins = m->cpu_count > 1 && !mends->hit_of_cpu;
    kp->copies = m->cpu_count > 1 && mends->step_copy;
    kprobe_select(m);
    kp->free_id = NO_ID;
    if (m->config.board_hz && mends->hide && !kprobes_hide(kp))
        return false;
    for (u32 i = 0; i < KPROBE_TABLE_SIZE; i++)
        kp->bucket[i] = NO_ID;
    return true;
}

void kprobes_destroy(struct machine *m)
{
    struct kprobes *kp = m->kprobes;

    if (!kp)
        return;
    for (u32 i = 0; i < kp->ids; i++)
        free(kp->by_id[i]);
    free(kp->by_id);
    free(kp->index);
    free(kp->contexts);
    free(kp->pages);
    free(kp);
    m->kprobes = NULL;
}

/* What the instruction is, behind its prefixes if they are looked at (SDM vol. 2, 2.1.1). */
void kprobe_classify(struct machine *m, struct kprobe *p, u8 first)
{
    static const u8 prefixes[] = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3};
    u8 bytes[INSN_MAX] = {first};
    u32 at = 0;

    p->insn_opcode = first;
    p->insn_length = 0;
    if (!m->kprobes->mends->see_prefixes)
        return;
    mmu_peek(m->cpu, p->addr + 1, bytes + 1, sizeof bytes - 1);
    while (at < sizeof bytes - 1 && memchr(prefixes, bytes[at], sizeof prefixes))
        at++;
    p->insn_opcode = bytes[at];
    if (bytes[at] == 0xCD)
        p->insn_length = (u8)(at + 2);
    else if (bytes[at] == 0xCC || bytes[at] == 0xCE || bytes[at] == 0xF1)
        p->insn_length = (u8)(at + 1);
}

/* 2.5.26: registering waits for the lock, from inside a hit for ever. */
static int must_wait(const struct machine *m)
{
    const struct kprobes *kp = m->kprobes;

    if (kp->lock == KPROBE_NO_CPU || kp->mends->lock_irqsave)
        return 0;
    return kp->lock == (s32)m->cpu->index ? -EDEADLK : -EBUSY;
}

/* 0 or -errno: may there be a probe? */
static int check_address(struct machine *m, u32 addr, u8 *ret_byte)
{
    struct kprobes *kp = m->kprobes;

    if (must_wait(m))
        return must_wait(m);
    if (kprobe_at(m, addr))
        return kp->mends->share_address ? 0 : -EEXIST;
    if (mmu_peek(m->cpu, addr, ret_byte, 1) != 1)
        return kprobes_hidden(kp) ? 0 : -EINVAL;
    if (kp->mends->validate && !kprobes_hidden(kp) && *ret_byte == BREAKPOINT_INSTRUCTION)
        return -EINVAL;
    /* Served by C: there is no instruction to step. The trap's own entry is where the patch would hang itself. */
    if (kernel_serves(m, addr) && (kp->mends->validate || addr != kernel_entry(m, T_BRKPT)))
        return -EINVAL;
    return 0;
}

/* spin_unlock_irq enables interrupts whatever they were. */
static void unlock_irq(struct machine *m)
{
    if (!m->kprobes->mends->lock_irqsave && m->kernel)
        m->cpu->eflags |= EFLAGS_IF;
}

static int insert(struct machine *m, struct kprobe *p)
{
    struct kprobes *kp = m->kprobes;

    if (!kprobe_arm(m, p))
        return -ENOMEM;
    kp->index[index_slot(kp, p->addr)] = p;
    kp->registered++;
    p->registered = true;
    p->last_here = p;
    p->enabled = 1;
    bucket_add(kp, p);
    kprobe_hidden_add(kp, p);
    kp->on_entry += kernel_serves(m, p->addr);
    return p->id;
}

int kprobe_register(machine *m, uint32_t addr, int handlers, struct action **actions)
{
    struct kprobes *kp = m->kprobes;
    struct kprobe *p;
    struct kprobe *first;
    u8 byte = 0;
    int result;

    if (!kp)
        return -ENOSYS;
    result = check_address(m, addr, &byte);
    if (result == -EEXIST)
        unlock_irq(m);
    if (result)
        return result;
    if (2 * (kp->registered + 1) > 1u << kp->index_bits && !index_resize(kp, kp->index_bits + 1))
        return -ENOMEM;
    p = id_take(kp);
    if (!p)
        return -ENOMEM;
    *p = (struct kprobe){.addr = addr, .id = p->id, .opcode = byte, .handlers = (u8)handlers, .actions = actions};
    p->stats.number = kp->numbers++;
    first = kprobe_at(m, addr);
    if (first) {
        result = kprobe_join(m, first, p) ? p->id : -ENOMEM;
    } else {
        kprobe_classify(m, p, byte);
        result = insert(m, p);
    }
    if (result < 0)
        id_give(kp, p);
    else
        kprobe_choose_path(m, p);
    unlock_irq(m);
    return result;
}

void kprobe_write(struct machine *m, u32 lin, u8 byte)
{
    struct kprobe *p = kprobe_at(m, lin);
    if (p) {
        p->present = byte == BREAKPOINT_INSTRUCTION;
        code_write_probe(m, lin, byte);
    } else {
        mmu_poke(m->cpu, lin, &byte, 1);
    }
}

static void extract(struct machine *m, struct kprobe *p)
{
    struct kprobes *kp = m->kprobes;

    if (p->next_here || p->prev_here) {
        kprobe_part(m, p);
    } else {
        index_remove(kp, p->addr);
        kp->registered--;
        p->registered = false;
        bucket_remove(kp, p);
        kprobe_hidden_replace(kp, p, NULL);
        kp->on_entry -= kernel_serves(m, p->addr);
        kprobe_disarm(m, p);
    }
    if (!p->pins)
        id_give(kp, p);
}

int kprobe_unregister(machine *m, int id)
{
    struct kprobes *kp = m->kprobes;
    struct kprobe *p;

    if (!kp)
        return -ENOSYS;
    if (id < 0 || (u32)id >= kp->ids)
        return -ENOENT;
    p = kp->by_id[id];
    if (!p->registered && kp->mends->validate)
        return -ENOENT;
    if (must_wait(m))
        return must_wait(m);
    if (p->registered)
        extract(m, p);
    else
        kprobe_write(m, p->addr, p->opcode);    /* the patch does not notice */
    unlock_irq(m);
    return 0;
}

/* What Python asks. */

static const struct kprobe *known(const machine *m, int id)
{
    const struct kprobes *kp = m->kprobes;
    return kp && id >= 0 && (u32)id < kp->ids ? kp->by_id[id] : NULL;
}

const struct kprobe_stats *kprobe_stats(machine *m, int id)
{
    const struct kprobe *p = known(m, id);
    return p ? &p->stats : NULL;
}

int kprobe_saved_opcode(machine *m, int id)
{
    const struct kprobe *p = known(m, id);
    return p ? p->opcode : -ENOENT;
}

void kprobe_occupancy(machine *m, uint32_t counts[64])
{
    for (u32 i = 0; i < KPROBE_TABLE_SIZE; i++)
        counts[i] = m->kprobes ? m->kprobes->occupancy[i] : 0;
}

void kprobe_get_state(machine *m, struct kprobe_state *ret)
{
    const struct kprobe_context *c;

    *ret = (struct kprobe_state){.cpu = KPROBE_NO_CPU, .running = NO_ID};
    if (!m->kprobes)
        return;
    c = kprobe_context(m);
    ret->cpu = c->cpu;
    ret->locked = (m->kprobes->mends->hit_of_cpu ? c->cpu : m->kprobes->lock) != KPROBE_NO_CPU;
    if (c->cpu == KPROBE_NO_CPU)
        return;
    ret->running = c->now.running->id;
    ret->status = (s32)c->now.status;
}

bool kprobe_blocks_entry(const struct machine *m, u32 lin)
{
    return m->kprobes && m->kprobes->on_entry && kprobe_at(m, lin);
}
