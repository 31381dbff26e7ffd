/* page_tree.c: trees of page contents. */
#include "page_tree.h"

#include <stdlib.h>
#include <string.h>

#define TOP_LEVEL (TREE_LEVELS - 1)

static const struct contents zero;

/* --- contents --------------------------------------------------------------------------------------------- */

struct contents *contents_zero(void)
{
    return (struct contents *)(uintptr_t)&zero;
}

struct contents *contents_create(void)
{
    struct contents *c = malloc(sizeof(*c));
    if (c)
        atomic_init(&c->refs, 1);
    return c;
}

struct contents *contents_hold(struct contents *c)
{
    if (c && c != &zero)
        atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

/* The last holder sees what all others did before they let go. */
static bool last(atomic_uint *refs)
{
    return atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel) == 1;
}

void contents_drop(struct contents *c)
{
    if (c && c != &zero && last(&c->refs))
        free(c);
}

/* --- nodes ------------------------------------------------------------------------------------------------ */

static struct page_node *node_create(void)
{
    struct page_node *node = calloc(1, sizeof(*node));
    if (node)
        atomic_init(&node->refs, 1);
    return node;
}

struct page_node *tree_hold(struct page_node *root)
{
    if (root)
        atomic_fetch_add_explicit(&root->refs, 1, memory_order_relaxed);
    return root;
}

static void child_hold(void *child, unsigned level)
{
    if (level)
        tree_hold(child);
    else
        contents_hold(child);
}

static void node_drop(struct page_node *node, unsigned level)
{
    if (!node || !last(&node->refs))
        return;
    for (unsigned i = 0; i < NODE_SIZE; i++) {
        if (level)
            node_drop(node->child[i], level - 1);
        else
            contents_drop(node->child[i]);
    }
    free(node);
}

void tree_drop(struct page_node *root)
{
    node_drop(root, TOP_LEVEL);
}

static unsigned slot(u32 frame, unsigned level)
{
    return frame >> (level * NODE_BITS) & (NODE_SIZE - 1);
}

/* --- making ----------------------------------------------------------------------------------------------- */

/* Frames [0, count) of a node, which shares one full node among its children. count is more than 0. */
static struct page_node *zeros(u32 count, unsigned level)
{
    u32 each = 1u << (level * NODE_BITS), full = count / each;
    struct page_node *node = node_create(), *shared = NULL;

    if (node && level && full)
        shared = zeros(each, level - 1);
    if (!node || (level && full && !shared))
        goto failed;
    for (u32 i = 0; i < full; i++)
        node->child[i] = level ? (void *)tree_hold(shared) : contents_zero();
    if (full)
        node_drop(shared, level - 1);
    if (count % each) {
        node->child[full] = zeros(count % each, level - 1);
        if (!node->child[full])
            goto failed;
    }
    return node;
failed:
    node_drop(node, level);
    return NULL;
}

bool tree_zeros(u32 count, struct page_node **ret)
{
    *ret = count ? zeros(count, TOP_LEVEL) : NULL;
    return *ret || !count;
}

/* The node of a slot as one that only this tree has. */
static struct page_node *make_own(struct page_node **at, unsigned level)
{
    struct page_node *old = *at, *node = old;

    if (old && atomic_load_explicit(&old->refs, memory_order_acquire) == 1)
        return old;
    node = node_create();
    if (!node)
        return NULL;
    if (old) {
        node->rom = old->rom;
        memcpy(node->child, old->child, sizeof(node->child));
        for (unsigned i = 0; i < NODE_SIZE; i++)
            child_hold(node->child[i], level);
        node_drop(old, level);
    }
    *at = node;
    return node;
}

bool tree_set(struct page_node **root, u32 frame, struct contents *c, bool rom)
{
    struct page_node **at = root, *node = NULL;

    for (unsigned level = TOP_LEVEL;; level--) {
        node = make_own(at, level);
        if (!node)
            return false;
        if (!level)
            break;
        at = (struct page_node **)&node->child[slot(frame, level)];
    }
    unsigned i = slot(frame, 0);
    contents_hold(c);
    contents_drop(node->child[i]);
    node->child[i] = c;
    node->rom = (node->rom & ~(1u << i)) | (u32)rom << i;
    return true;
}

/* --- looking ---------------------------------------------------------------------------------------------- */

struct contents *tree_get(const struct page_node *root, u32 frame, bool *ret_rom)
{
    const struct page_node *node = root;

    *ret_rom = false;
    for (unsigned level = TOP_LEVEL; node && level; level--)
        node = node->child[slot(frame, level)];
    if (!node)
        return NULL;
    *ret_rom = node->rom >> slot(frame, 0) & 1;
    return node->child[slot(frame, 0)];
}

bool tree_has(const struct page_node *root, u32 first)
{
    const struct page_node *node = root ? root->child[slot(first, TOP_LEVEL)] : NULL;
    return node && node->child[slot(first, TOP_LEVEL - 1)];
}

static void diff(const struct page_node *from, const struct page_node *to, unsigned level, u32 frame,
                 tree_visit *visit, void *context)
{
    if (from == to)
        return;
    for (u32 i = 0; i < NODE_SIZE; i++) {
        void *old = from ? from->child[i] : NULL, *new = to ? to->child[i] : NULL;
        u32 at = frame + (i << (level * NODE_BITS));
        bool rom = !level && to && to->rom >> i & 1, was_rom = !level && from && from->rom >> i & 1;
        if (old == new && rom == was_rom)
            continue;
        if (level)
            diff(old, new, level - 1, at, visit, context);
        else
            visit(context, at, new, rom);
    }
}

void tree_diff(const struct page_node *from, const struct page_node *to, tree_visit *visit, void *context)
{
    diff(from, to, TOP_LEVEL, 0, visit, context);
}
