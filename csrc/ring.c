/* ring.c: records. One writer, the machine's thread, and one reader, without a lock between them. */
#include <string.h>

#include "action.h"

#define STRING_CHUNK 64

/* The string at lin, padded with zeros to size bytes; false if its first byte is not readable. It is cut where it does
 * not fit, or where memory ends. */
static bool read_string(struct machine *m, u32 lin, u8 *out, u32 size)
{
    u32 done = 0;

    while (done < size) {
        u32 page = PAGE_SIZE - ((lin + done) & PAGE_MASK), wanted = size - done;
        if (wanted > STRING_CHUNK)
            wanted = STRING_CHUNK;
        if (wanted > page)
            wanted = page;
        if (field_read(m, lin + done, out + done, wanted) != wanted)
            break;
        const u8 *end = memchr(out + done, 0, wanted);
        if (end) {
            done = (u32)(end - out);
            memset(out + done, 0, size - done);
            return true;
        }
        done += wanted;
    }
    memset(out + done, 0, size - done);
    return done;
}

int machine_fetch_string(machine *m, uint32_t lin, char *buf, uint32_t max)
{
    if (!read_string(m, lin, (u8 *)buf, max))
        return -1;
    const char *end = memchr(buf, 0, max);
    return (int)(end ? end - buf : (long)max);
}

static bool read_strings(struct machine *m, const struct record_field *field, u32 lin, u8 *out)
{
    u32 pointers[64] = {0};
    u32 bytes = 4u * field->count;

    if (field->count == 1)
        return read_string(m, lin, out, field->size);
    if (bytes > sizeof pointers || field_read(m, lin, pointers, bytes) != bytes)
        return false;
    bool good = true;
    for (u32 i = 0; i < field->count; i++)
        good &= read_string(m, pointers[i], out + i * field->size, field->size);
    return good;
}

static bool fill_field(struct machine *m, const struct record_field *field, const struct frame *f, u8 *out)
{
    u64 value;

    if (!field_value(m, field->program, f, &value))
        return false;
    if (likely(field->kind == RECORD_VALUE)) {
        if (likely(field->size == 4))
            *(u32 *)out = (u32)value;
        else
            memcpy(out, &value, field->size);
        return true;
    }
    if (field->kind == RECORD_STRING)
        return read_strings(m, field, (u32)value, out);
    u32 bytes = (u32)field->size * field->count;
    return field_read(m, (u32)value, out, bytes) == bytes;
}

static void fill_head(const struct machine *m, struct action *a, u32 probe, u64 faults, u8 *out)
{
    struct record_head *head = (struct record_head *)(void *)out;

    a->faults += faults != 0;
    head->icount = machine_now(m);
    head->cpu = hit_cpu(m);
    head->reserved = 0;
    head->probe = probe;
    head->faults = faults;
}

static void fill(struct machine *m, struct action *a, const struct frame *f, u32 probe, u8 *out)
{
    u64 faults = 0;

    for (u32 i = 0; i < a->nfields; i++) {
        const struct record_field *field = &a->fields[i];
        if (unlikely(!fill_field(m, field, f, out + field->offset))) {
            faults |= 1ull << i;
            if (field->kind != RECORD_STRING || field->count == 1)
                memset(out + field->offset, 0, (size_t)field->size * field->count);
        }
    }
    fill_head(m, a, probe, faults, out);
}

/* The same where all fields are words of the frame or the stack; what the TLB does not serve is done by the other one. */
static void fill_words(struct machine *m, struct action *a, const struct frame *f, u32 probe, u8 *out)
{
    u32 *word = (u32 *)(void *)(out + sizeof(struct record_head)), sp = hit_sp(m, f);

    for (u32 i = 0; i < a->nfields; i++) {
        const struct field_op *op = a->fields[i].program;
        if (op->code == FIELD_WORD) {
            word[i] = hit_gpr(m, f, op->arg);
        } else {
            const u8 *host = tlb_host(m->cpu, sp + op->imm, 4, ACCESS_SYSTEM);
            if (unlikely(!host)) {
                fill(m, a, f, probe, out);
                return;
            }
            word[i] = *(const u32 *)(const void *)host;
        }
    }
    fill_head(m, a, probe, 0, out);
}

static bool is_word(const struct record_field *field)
{
    return field->kind == RECORD_VALUE && field->size == 4 && field_is_word(field->program);
}

bool record_of_words(const struct action *a)
{
    u32 i = 0;
    while (i < a->nfields && is_word(&a->fields[i]))
        i++;
    return i == a->nfields;
}

/* The reader looks at `written` first and at `begun` last: what it copied from slots that were begun anew meanwhile does
 * not count. The host stores in the order of the fences. */
ALWAYS_INLINE int record(struct machine *m, struct action *a, struct frame *f, u32 probe, bool words)
{
    struct ring *r = a->ring;
    u64 written = r->written, left = ~0ull;

    a->count++;
    if (r->full != RING_DROP_OLDEST) {
        left = r->capacity - (written - __atomic_load_n(&r->drained, __ATOMIC_ACQUIRE));
        if (unlikely(!left)) {
            __atomic_store_n(&r->dropped, r->dropped + 1, __ATOMIC_RELAXED);
            return r->full == RING_STOP ? ACTION_STOPS : ACTION_NEXT;
        }
    }
    __atomic_store_n(&r->begun, written + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    (words ? fill_words : fill)(m, a, f, probe, r->data + r->slot * r->stride);
    r->slot = r->slot + 1 == r->capacity ? 0 : r->slot + 1;
    __atomic_store_n(&r->written, written + 1, __ATOMIC_RELEASE);
    return unlikely(left == 1) && r->full == RING_STOP ? ACTION_STOPS : ACTION_NEXT;
}

int record_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    return record(m, a, f, probe, false);
}

int record_words_run(struct machine *m, struct action *a, struct frame *f, u32 probe)
{
    return record(m, a, f, probe, true);
}

uint64_t ring_copy(struct ring *r, uint64_t first, uint64_t end, void *out)
{
    u64 at = first % r->capacity, n = end - first, before = r->capacity - at < n ? r->capacity - at : n, begun;

    memcpy(out, r->data + at * r->stride, before * r->stride);
    memcpy((u8 *)out + before * r->stride, r->data, (n - before) * r->stride);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    begun = __atomic_load_n(&r->begun, __ATOMIC_RELAXED);
    __atomic_store_n(&r->drained, end, __ATOMIC_RELEASE);
    if (begun <= r->capacity || begun - r->capacity <= first)
        return 0;
    return begun - r->capacity < end ? begun - r->capacity - first : n;
}

void ring_give(struct ring *r, uint8_t *data)
{
    r->data = data;
    r->slot = r->begun = r->written = r->drained = 0;
}
