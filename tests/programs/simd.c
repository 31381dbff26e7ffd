/* simd.c: what a compiler makes of integer vectors with -msse2 or -mmmx; results in results[], written out natively. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u8 bytes __attribute__((vector_size(16)));
typedef signed char sbytes __attribute__((vector_size(16)));
typedef u16 words __attribute__((vector_size(16)));
typedef short swords __attribute__((vector_size(16)));
typedef u32 longs __attribute__((vector_size(16)));
typedef int slongs __attribute__((vector_size(16)));
typedef u64 quads __attribute__((vector_size(16)));
typedef u16 four_words __attribute__((vector_size(8)));

enum { N = 256 };
struct {
    u8 blended[N];
    u16 products[N];
    u32 sums[N];
    int sorted[N];
    u64 wide[N];
    bytes b[N / 16];
    words w[N / 16];
    longs l[N / 16];
    quads q[N / 16];
    four_words small[N / 16];
    u32 digest;
} results;

static u32 seed = 20020814;
static u32 next(void)
{
    seed = seed * 1664525 + 1013904223;
    return seed >> 7;
}

static u8 above[N], below[N];
static short left[N], right[N];
static int numbers[N];

__attribute__((noinline)) static void fill(void)
{
    for (int i = 0; i < N; i++) {
        above[i] = (u8)next();
        below[i] = (u8)next();
        left[i] = (short)next();
        right[i] = (short)next();
        numbers[i] = (int)(next() * 613u);
    }
}

static void loops(void)
{
    for (int i = 0; i < N; i++) {
        int v = above[i] + below[i];
        results.blended[i] = (u8)(v > 255 ? 255 : v);
        results.products[i] = (u16)(left[i] * right[i] >> 16);
        results.sums[i] = (u32)(left[i] * right[i]) + (u32)(above[i] > below[i] ? above[i] - below[i] : below[i] - above[i]);
        results.wide[i] = (u64)(u32)numbers[i] * 2654435761u + (u64)(numbers[i] < 0);
        results.sorted[i] = numbers[i];
    }
    for (int k = 1; k < N; k++)
        for (int i = 0; i + 1 < N; i++) {
            int a = results.sorted[i], b = results.sorted[i + 1];
            results.sorted[i] = a < b ? a : b;
            results.sorted[i + 1] = a < b ? b : a;
        }
}

static void vectors(void)
{
    for (int i = 0; i < N / 16; i++) {
        bytes x = *(bytes *)&above[16 * i], y = *(bytes *)&below[16 * i];
        words v = *(words *)&left[8 * i], w = *(words *)&right[8 * i];
        longs m = *(longs *)&numbers[4 * i];
        results.b[i] = (bytes)((sbytes)x > (sbytes)y) ^ (x + y) ^ ((bytes)((words)(x - y) >> 3));
        results.w[i] = (words)((swords)v >> 5) + (v * w) - (words)((swords)v < (swords)w);
        results.l[i] = (m << 7 | m >> 25) ^ (longs)((slongs)m >> 31) ^ __builtin_shuffle(m, (longs){3, 0, 2, 1});
        results.q[i] = ((quads)m << 13) + ((quads)m >> 9) - (quads)v;
        results.small[i] = *(four_words *)&left[4 * i] * *(four_words *)&right[4 * i] + *(four_words *)&above[8 * i];
    }
}

static void compute(void)
{
    fill();
    loops();
    vectors();
    for (u32 i = 0; i < sizeof results - 16; i++)
        results.digest = results.digest * 31 + ((u8 *)&results)[i];
}

void _start(void)
{
    compute();
    __asm__ volatile(".globl done\ndone:\n\t"
                     "movl $4, %%eax\n\tmovl $1, %%ebx\n\tmovl $results, %%ecx\n\tmovl %0, %%edx\n\tint $0x80\n\t"
                     "movl $1, %%eax\n\txorl %%ebx, %%ebx\n\tint $0x80" ::"i"(sizeof results));
    __builtin_unreachable();
}
