/*
 * floats.c: a matrix product, and bodies that attract each other (division and
 * square root), scalable by its argument. Compiled three times: WORK names the
 * function, REAL the type.
 */
#include "guest.h"

#define ORDER 32
#define BODIES 8
#define STEPS 40

struct body {
    REAL at[3], speed[3], mass;
};
static REAL left[ORDER][ORDER], right[ORDER][ORDER], product[ORDER][ORDER];
static struct body bodies[BODIES];

static void prepare(void)
{
    for (int i = 0; i < ORDER; i++)
        for (int k = 0; k < ORDER; k++) {
            left[i][k] = (REAL)(i * 7 + k * 3 - 100) / 64;
            right[i][k] = (REAL)(i - k * 5 + 11) / 32;
            product[i][k] = 0;
        }
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++) {
            bodies[i].at[k] = (REAL)((i * 37 + k * 11) % 23);
            bodies[i].speed[k] = (REAL)((i * 5 + k) % 7 - 3) / 16;
            bodies[i].mass = (REAL)(i + 1);
        }
}

static void multiply(void)
{
    for (int i = 0; i < ORDER; i++)
        for (int k = 0; k < ORDER; k++) {
            REAL factor = left[i][k];
            for (int j = 0; j < ORDER; j++)
                product[i][j] += factor * right[k][j];
        }
}

static REAL root(REAL x)
{
    return sizeof x == sizeof(float) ? (REAL)__builtin_sqrtf((float)x) : (REAL)__builtin_sqrt(x);
}

static void attract(struct body *a, struct body *b)
{
    REAL d[3], square = (REAL)0.01;
    for (int k = 0; k < 3; k++) {
        d[k] = a->at[k] - b->at[k];
        square += d[k] * d[k];
    }
    REAL pull = (REAL)0.001 / (square * root(square));
    for (int k = 0; k < 3; k++) {
        a->speed[k] -= d[k] * b->mass * pull;
        b->speed[k] += d[k] * a->mass * pull;
    }
}

static void step(void)
{
    for (int i = 0; i < BODIES; i++)
        for (int k = i + 1; k < BODIES; k++)
            attract(&bodies[i], &bodies[k]);
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++)
            bodies[i].at[k] += bodies[i].speed[k] * (REAL)0.01;
}

/* All bits of the results, mixed. */
static u32 digest(void)
{
    u32 sum = 0;
    for (u32 i = 0; i < sizeof product / (sizeof(u32)); i++)
        sum = sum * 31 + ((const u32 *)(const void *)product)[i];
    for (u32 i = 0; i < sizeof bodies / (sizeof(u32)); i++)
        sum = sum * 31 + ((const u32 *)(const void *)bodies)[i];
    return sum;
}

PROBEABLE u32 WORK(u32 rounds)
{
    prepare();
    while (rounds--) {
        multiply();
        for (int i = 0; i < STEPS; i++)
            step();
    }
    return digest();
}
