/* x87.c: what a compiler makes of floating point with -mfpmath=387; results in results[], written out natively. */
typedef long double real;

enum { N = 64 };
struct {
    real extended[N];
    double doubles[N];
    float floats[N];
    long long integers[N];
    int order[N];
} results;

static double square_root(double x)
{
    __asm__("fsqrt" : "+t"(x));
    return x;
}

static double series(double x)
{
    double sum = 1, term = 1;
    for (int n = 1; n < 40; n++) {
        term *= x / n;
        sum += term;
    }
    return sum;
}

static real root(real x)
{
    real y = x;
    for (int i = 0; i < 30; i++)
        y = (y + x / y) / 2;
    return y;
}

static float horner(float x, int n)
{
    float sum = 0;
    while (n--)
        sum = sum * x + 1.0f / (float)(n + 1);
    return sum;
}

static void compute(void)
{
    double grid[N];
    for (int i = 0; i < N; i++)
        grid[i] = (i - 20) * 0.37 + 1e-3 * i * i;
    for (int i = 0; i < N; i++) {
        double x = grid[i];
        results.extended[i] = root(x < 0 ? -x : x + 1) * (real)x;
        results.doubles[i] = series(x) + square_root(x < 0 ? -x : x) + __builtin_fabs(x);
        results.floats[i] = horner((float)x / 30, 20);
        results.integers[i] = (long long)(x * 1e12) + (int)x + (short)x;
        for (int k = 0; k < N; k++)
            results.order[i] += (grid[k] < x) + 2 * (grid[k] == x) + 4 * !(grid[k] >= -x);
    }
}

void _start(void)
{
    compute();
    __asm__ volatile(".globl done\ndone:\n\t"
                     "movl $4, %%eax\n\tmovl $1, %%ebx\n\tmovl $results, %%ecx\n\tmovl %0, %%edx\n\tint $0x80\n\t"
                     "movl $1, %%eax\n\txorl %%ebx, %%ebx\n\tint $0x80" ::"i"(sizeof results));
    __builtin_unreachable();
}
