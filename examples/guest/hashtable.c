/*
 * hashtable.c: a chained hash table under a random mix of insert, lookup and
 * delete, with keys of 1 to 48 bytes. The counters and the table itself are
 * the results; eax is the sum of the values that lookups found.
 */
#include "guest.h"

#define OPERATIONS 6000
#define KEYS 512                        /* different keys that may be in the table */
#define KEY_MAX 48
#define BUCKETS 128                     /* a power of two */
#define SEED 0xC0FFEE01u

struct node {
    struct node *next;
    u32 hash;
    u32 value;
    u32 length;                         /* bytes of key in use, 1 to KEY_MAX */
    u8 key[KEY_MAX];
};

struct node *buckets[BUCKETS];
struct node nodes[KEYS];
struct node *free_nodes;

u32 inserted, updated;                  /* insert: the key was new, was there */
u32 found, missed;                      /* lookup */
u32 deleted, absent;                    /* delete */
u32 live;                               /* keys in the table */

/* FNV-1a */
PROBEABLE u32 hash_bytes(const u8 *key, u32 length)
{
    u32 hash = 2166136261u;
    for (u32 i = 0; i < length; i++)
        hash = (hash ^ key[i]) * 16777619u;
    return hash;
}

PROBEABLE int same_bytes(const u8 *a, const u8 *b, u32 length)
{
    u32 i = 0;
    while (i < length && a[i] == b[i])
        i++;
    return i == length;
}

/* The link that points at the key's node, or at the end of its chain. */
PROBEABLE struct node **table_find(const u8 *key, u32 length, u32 hash)
{
    struct node **link = &buckets[hash & (BUCKETS - 1)];
    for (; *link; link = &(*link)->next)
        if ((*link)->hash == hash && (*link)->length == length && same_bytes((*link)->key, key, length))
            break;
    return link;
}

PROBEABLE void table_insert(const u8 *key, u32 length, u32 value)
{
    u32 hash = hash_bytes(key, length);
    struct node **link = table_find(key, length, hash), *node = *link;

    if (node) {
        updated++;
    } else {
        node = free_nodes;
        free_nodes = node->next;
        node->next = 0;
        node->hash = hash;
        node->length = length;
        for (u32 i = 0; i < length; i++)
            node->key[i] = key[i];
        *link = node;
        inserted++;
        live++;
    }
    node->value = value;
}

PROBEABLE struct node *table_lookup(const u8 *key, u32 length)
{
    struct node *node = *table_find(key, length, hash_bytes(key, length));
    if (node)
        found++;
    else
        missed++;
    return node;
}

PROBEABLE void table_delete(const u8 *key, u32 length)
{
    struct node **link = table_find(key, length, hash_bytes(key, length)), *node = *link;

    if (!node) {
        absent++;
        return;
    }
    *link = node->next;
    node->next = free_nodes;
    free_nodes = node;
    deleted++;
    live--;
}

/* Key number n: always the same 1 to KEY_MAX small letters. Returns the length. */
PROBEABLE u32 make_key(u32 n, u8 *key)
{
    u32 state = SEED ^ (n + 1) * 2654435761u;
    u32 length = random_next(&state) % KEY_MAX + 1;
    for (u32 i = 0; i < length; i++)
        key[i] = (u8)('a' + random_next(&state) % 26);
    return length;
}

u32 guest_main(void)
{
    u32 state = SEED, sum = 0;
    u8 key[KEY_MAX];

    for (u32 i = KEYS; i-- > 0;) {
        nodes[i].next = free_nodes;
        free_nodes = &nodes[i];
    }
    for (u32 i = 0; i < OPERATIONS; i++) {
        u32 length = make_key(random_next(&state) % KEYS, key);
        u32 choice = random_next(&state) % 8;
        if (choice < 4) {
            table_insert(key, length, i);
        } else if (choice < 6) {
            struct node *node = table_lookup(key, length);
            sum += node ? node->value : 0;
        } else {
            table_delete(key, length);
        }
    }
    return sum;
}
