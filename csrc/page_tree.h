/*
 * page_tree.h: immutable memory, shared by snapshots and machines.
 *
 * The 2^20 frames of 4 GiB are the leaves of a tree of four levels with 32
 * children each. Nodes and page contents are counted and shared: a tree that
 * differs in a page has its own nodes on the way to that page and no others,
 * and comparing two trees skips what is one node in both. Counts are atomic
 * because machines of several threads share trees.
 */
#ifndef PYK_PAGE_TREE_H
#define PYK_PAGE_TREE_H

#include <stdatomic.h>

#include "tunables.h"
#include "types.h"

#define FRAME_COUNT (1u << (32 - PAGE_SHIFT))
#define NODE_BITS 5
#define NODE_SIZE (1u << NODE_BITS)
#define TREE_LEVELS 4

/* The bytes of one page. Whoever is the only holder may write them. */
struct contents {
    u8 bytes[PAGE_SIZE];
    atomic_uint refs;
};

struct page_node {
    atomic_uint refs;
    u32 rom;                    /* lowest level: bit i: child i is ROM */
    void *child[NODE_SIZE];     /* nodes; on the lowest level contents. NULL: no RAM */
};

/* A page of zeros, which is never freed and counts nobody. */
struct contents *contents_zero(void);
/* Bytes to be filled, with one holder. NULL: out of host memory. */
struct contents *contents_create(void);
struct contents *contents_hold(struct contents *c);
void contents_drop(struct contents *c);     /* NULL is nothing to drop */

/* A tree is its topmost node, NULL for no RAM at all. tree_zeros: frames [0, count) are zeros; false: out of memory. */
bool tree_zeros(u32 count, struct page_node **ret);
struct page_node *tree_hold(struct page_node *root);
void tree_drop(struct page_node *root);
/* The contents of a frame, NULL without RAM. */
struct contents *tree_get(const struct page_node *root, u32 frame, bool *ret_rom);
/* Is there RAM in the 1024 frames from first on, a multiple of 1024? */
bool tree_has(const struct page_node *root, u32 first);
/* In a tree under construction, which shares what it does not change: the frame has these contents, held anew. False:
 * out of host memory, with nothing lost. */
bool tree_set(struct page_node **root, u32 frame, struct contents *c, bool rom);

/* Tell visit of every frame that is different in two trees, in ascending order, with what it is in `to`. */
typedef void tree_visit(void *context, u32 frame, struct contents *c, bool rom);
void tree_diff(const struct page_node *from, const struct page_node *to, tree_visit *visit, void *context);

#endif
