/*
 * core.c: the mix of work that embedded processors are measured with: linked
 * lists that are searched, reversed and merge-sorted, small matrices of 16-bit
 * numbers, a state machine that classifies numbers in a text, and a bitwise
 * CRC-16 over all results. Short loops, many calls, loads of 8, 16 and 32 bits.
 * One round is about 0.9 million instructions.
 */
#include "guest.h"

typedef signed short s16;
typedef signed int s32;

#define NODES 96
#define SIDE 12
#define TEXT 640
#define PASSES 12

struct node {
    struct node *next;
    s16 key;
    u16 value;
};

enum state { START, SIGN, INTEGER, POINT, FRACTION, EXPONENT, EXPONENT_SIGN, SCIENTIFIC, INVALID, STATES };

static struct node nodes[NODES];
static s16 left[SIDE * SIDE], right[SIDE * SIDE];
static s32 product[SIDE * SIDE];
static char text[TEXT];
static u32 seen[STATES], moved[STATES];

static u16 crc16_byte(u8 byte, u16 crc)
{
    for (u32 i = 0; i < 8; i++) {
        u32 carry = (byte ^ crc) & 1;
        crc >>= 1;
        byte >>= 1;
        if (carry)
            crc ^= 0xA001;
    }
    return crc;
}

PROBEABLE u16 crc16(u32 word, u16 crc)
{
    crc = crc16_byte((u8)word, crc);
    crc = crc16_byte((u8)(word >> 8), crc);
    crc = crc16_byte((u8)(word >> 16), crc);
    return crc16_byte((u8)(word >> 24), crc);
}

/* --- lists ---------------------------------------------------------------------------------------------------- */

static int by_key(const struct node *a, const struct node *b)
{
    return a->key - b->key;
}

static int by_value(const struct node *a, const struct node *b)
{
    return (a->value & 0xFF) - (b->value & 0xFF);
}

PROBEABLE struct node *list_fill(u32 *state)
{
    for (u32 i = 0; i < NODES; i++) {
        u32 r = random_next(state);
        nodes[i] = (struct node){i + 1 < NODES ? &nodes[i + 1] : 0, (s16)(r & 0x3FF), (u16)(r >> 16)};
    }
    return nodes;
}

PROBEABLE const struct node *list_find(const struct node *list, s16 key)
{
    while (list && list->key != key)
        list = list->next;
    return list;
}

PROBEABLE struct node *list_reverse(struct node *list)
{
    struct node *before = 0;
    while (list) {
        struct node *next = list->next;
        list->next = before;
        before = list;
        list = next;
    }
    return before;
}

PROBEABLE struct node *list_merge(struct node *a, struct node *b, int (*compare)(const struct node *, const struct node *))
{
    struct node *head = 0, **tail = &head;
    while (a && b) {
        struct node **smaller = compare(a, b) <= 0 ? &a : &b;
        *tail = *smaller;
        tail = &(*tail)->next;
        *smaller = (*smaller)->next;
    }
    *tail = a ? a : b;
    return head;
}

PROBEABLE struct node *list_sort(struct node *list, u32 n, int (*compare)(const struct node *, const struct node *))
{
    if (n < 2) {
        if (list)
            list->next = 0;
        return list;
    }
    struct node *second = list;
    for (u32 i = 0; i < n / 2; i++)
        second = second->next;
    struct node *sorted = list_sort(second, n - n / 2, compare);
    return list_merge(list_sort(list, n / 2, compare), sorted, compare);
}

PROBEABLE u16 list_work(u32 *state, u16 crc)
{
    struct node *list = list_fill(state);
    for (s16 key = 0; key < 64; key++) {
        const struct node *found = list_find(list, (s16)(key * 16));
        crc = crc16(found ? found->value : 0u, crc);
        list = list_reverse(list);
    }
    list = list_sort(list, NODES, by_key);
    crc = crc16(list->value, crc);
    list = list_sort(list, NODES, by_value);
    for (const struct node *n = list; n; n = n->next)
        crc = crc16((u32)n->key << 16 | n->value, crc);
    return crc;
}

/* --- matrices ------------------------------------------------------------------------------------------------- */

PROBEABLE void matrix_fill(u32 *state)
{
    for (u32 i = 0; i < SIDE * SIDE; i++) {
        u32 r = random_next(state);
        left[i] = (s16)(r & 0xFFF);
        right[i] = (s16)(r >> 20);
    }
}

PROBEABLE void matrix_scale(s16 *m, s16 factor)
{
    for (u32 i = 0; i < SIDE * SIDE; i++)
        m[i] = (s16)(m[i] * factor + 3);
}

PROBEABLE void matrix_multiply(const s16 *a, const s16 *b, s32 *ret)
{
    for (u32 i = 0; i < SIDE; i++)
        for (u32 j = 0; j < SIDE; j++) {
            s32 sum = 0;
            for (u32 k = 0; k < SIDE; k++)
                sum += a[i * SIDE + k] * b[k * SIDE + j];
            ret[i * SIDE + j] = sum;
        }
}

PROBEABLE u32 matrix_bits(const s32 *m)
{
    u32 sum = 0;
    for (u32 i = 0; i < SIDE * SIDE; i++) {
        s32 v = m[i];
        sum += (u32)(((v >> 2) & 0xF) * ((v >> 5) & 0x7F));
        if (v > 0x4000)
            sum += 10;
    }
    return sum;
}

PROBEABLE u16 matrix_work(u32 *state, u16 crc)
{
    matrix_fill(state);
    for (s16 i = 1; i < 5; i++) {
        matrix_multiply(left, right, product);
        crc = crc16(matrix_bits(product), crc);
        matrix_scale(left, i);
    }
    return crc;
}

/* --- the state machine ---------------------------------------------------------------------------------------- */

PROBEABLE void text_fill(u32 *state)
{
    static const char alphabet[] = "0123456789012345,,+-.eEx";
    for (u32 i = 0; i < TEXT - 1; i++)
        text[i] = alphabet[(random_next(state) >> 8) % (sizeof alphabet - 1)];
    text[TEXT - 1] = 0;
}

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

PROBEABLE enum state next_state(enum state s, char c)
{
    switch (s) {
    case START:
        return is_digit(c) ? INTEGER : c == '+' || c == '-' ? SIGN : c == '.' ? POINT : INVALID;
    case SIGN:
        return is_digit(c) ? INTEGER : c == '.' ? POINT : INVALID;
    case INTEGER:
        return is_digit(c) ? INTEGER : c == '.' ? POINT : c == 'e' || c == 'E' ? EXPONENT : INVALID;
    case POINT:
    case FRACTION:
        return is_digit(c) ? FRACTION : c == 'e' || c == 'E' ? EXPONENT : INVALID;
    case EXPONENT:
        return is_digit(c) ? SCIENTIFIC : c == '+' || c == '-' ? EXPONENT_SIGN : INVALID;
    case EXPONENT_SIGN:
    case SCIENTIFIC:
        return is_digit(c) ? SCIENTIFIC : INVALID;
    default:
        return INVALID;
    }
}

PROBEABLE u16 text_work(u32 *state, u16 crc)
{
    text_fill(state);
    for (u32 pass = 0; pass < 4; pass++) {
        enum state s = START;
        for (const char *p = text; *p; p++) {
            if (*p == ',') {
                seen[s]++;
                s = START;
                continue;
            }
            enum state next = next_state(s, *p);
            moved[next] += next != s;
            s = next;
        }
        for (u32 i = 0; i < STATES; i++)
            crc = crc16(seen[i] + moved[i], crc);
    }
    return crc;
}

PROBEABLE u32 core_work(u32 rounds)
{
    u32 state = 0x1A2B3C4Du, sum = 0;
    while (rounds--) {
        u16 crc = (u16)sum;
        for (u32 pass = 0; pass < PASSES; pass++) {
            crc = list_work(&state, crc);
            crc = matrix_work(&state, crc);
            crc = text_work(&state, crc);
        }
        sum = sum * 31 + crc;
    }
    return sum;
}
