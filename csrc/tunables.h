/* tunables.h: every tunable number of the engine in one place. */
#ifndef PYK_TUNABLES_H
#define PYK_TUNABLES_H

#define PAGE_SHIFT 12
#define PAGE_SIZE (1u << PAGE_SHIFT)
#define PAGE_MASK (PAGE_SIZE - 1)

#define TLB_BITS 8                         /* entries of one software TLB: 2^TLB_BITS */
#define TLB_SIZE (1u << TLB_BITS)
#define TLB_GRANTS 64                      /* TLB entries with write permission that a restore takes back one by one */
#define FETCH_TLB_SIZE 64                  /* pages whose code translation is remembered */
#define JUMP_CACHE_BITS 10                 /* indirect-branch targets remembered */
#define JUMP_CACHE_SIZE (1u << JUMP_CACHE_BITS)
#define BLOCK_HASH_BITS 12                 /* buckets of the decoded-block table */
#define BLOCK_HASH_SIZE (1u << BLOCK_HASH_BITS)
#define BLOCK_MAX_INSNS 64                 /* longest block, in guest instructions */
#define ARENA_CHUNK (256u << 10)           /* bytes by which block memory grows */
#define ARENA_MAX (64u << 20)              /* decoded blocks are all dropped beyond this */
#define CROSS_LINKS_MAX 4096               /* links between pages remembered until a TLB flush */
#define INSN_MAX 15                        /* longest instruction, SDM vol. 2, 2.3.11 */

#define RUN_TURNS 20000                    /* turns of the run loop (blocks, traps) between two looks at Ctrl-C */
#define SCHEDULE_STEPS 1000                /* of a CPU's turn, unless a schedule says otherwise */
#define MARKS_MAX 16                       /* addresses at which runs of fault injection end */
#define CALL_DEPTH_MAX 32                  /* runs inside handlers inside runs ... */

#define KPROBE_HASH_BITS 6                 /* the patch's table: 64 list heads */
#define KPROBE_TABLE_SIZE (1u << KPROBE_HASH_BITS)

#endif
