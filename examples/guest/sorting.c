/*
 * sorting.c: quicksort, heapsort and insertion sort over pseudo-random words.
 * The sorted arrays are the results; eax is a hash over all three.
 */
#include "guest.h"

#define QUICK_COUNT 4096
#define HEAP_COUNT 4096
#define INSERTION_COUNT 512
#define SEED 0x9E3779B9u
#define SMALL 12                        /* quicksort leaves runs this short to insertion sort */

u32 quick_data[QUICK_COUNT];
u32 heap_data[HEAP_COUNT];
u32 insertion_data[INSERTION_COUNT];
u32 quick_calls;                        /* calls of quick_sort, the recursive ones too */
u32 quick_depth;                        /* deepest nesting of them */

static u32 depth;

PROBEABLE void insertion_sort(u32 *a, u32 n)
{
    for (u32 i = 1; i < n; i++) {
        u32 x = a[i], j = i;
        for (; j > 0 && a[j - 1] > x; j--)
            a[j] = a[j - 1];
        a[j] = x;
    }
}

/* Hoare's partition around the middle element: a[0..ret] <= a[ret+1..n-1], both not empty. n >= 2. */
PROBEABLE u32 partition(u32 *a, u32 n)
{
    u32 pivot = a[(n - 1) / 2], i = 0, j = n - 1;
    for (;; i++, j--) {
        while (a[i] < pivot)
            i++;
        while (a[j] > pivot)
            j--;
        if (i >= j)
            return j;
        u32 t = a[i];
        a[i] = a[j];
        a[j] = t;
    }
}

PROBEABLE void quick_sort(u32 *a, u32 n)
{
    quick_calls++;
    if (++depth > quick_depth)
        quick_depth = depth;
    if (n <= SMALL) {
        insertion_sort(a, n);
    } else {
        u32 left = partition(a, n) + 1;
        quick_sort(a, left);
        quick_sort(a + left, n - left);
    }
    depth--;
}

PROBEABLE void sift_down(u32 *a, u32 root, u32 n)
{
    u32 x = a[root];
    for (u32 child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && a[child + 1] > a[child])
            child++;
        if (x >= a[child])
            break;
        a[root] = a[child];
    }
    a[root] = x;
}

PROBEABLE void heap_sort(u32 *a, u32 n)
{
    for (u32 i = n / 2; i-- > 0;)
        sift_down(a, i, n);
    for (u32 end = n; end-- > 1;) {
        u32 t = a[0];
        a[0] = a[end];
        a[end] = t;
        sift_down(a, 0, end);
    }
}

PROBEABLE void fill_words(u32 *a, u32 n, u32 *state)
{
    for (u32 i = 0; i < n; i++)
        a[i] = random_next(state);
}

PROBEABLE u32 hash_words(u32 hash, const u32 *a, u32 n)
{
    for (u32 i = 0; i < n; i++)
        hash = hash * 31 + a[i];
    return hash;
}

u32 guest_main(void)
{
    u32 state = SEED;

    fill_words(quick_data, QUICK_COUNT, &state);
    fill_words(heap_data, HEAP_COUNT, &state);
    fill_words(insertion_data, INSERTION_COUNT, &state);
    quick_sort(quick_data, QUICK_COUNT);
    heap_sort(heap_data, HEAP_COUNT);
    insertion_sort(insertion_data, INSERTION_COUNT);

    u32 hash = hash_words(0, quick_data, QUICK_COUNT);
    hash = hash_words(hash, heap_data, HEAP_COUNT);
    return hash_words(hash, insertion_data, INSERTION_COUNT);
}
