/* float_simd.c: SSE and SSE2 arithmetic and comparisons. What is common, normal numbers in and out, goes a short way, all
 * else through unpacked parts. */
#include "float_element.h"
#include "flags.h"

#define NOINLINE __attribute__((noinline))

/* --- arithmetic ------------------------------------------------------------------------------------------- */

ALWAYS_INLINE u64 by_parts(float_operation *operation, u64 a, u64 b, bool negate, struct float_env *env,
                           struct layout l)
{
    struct float_parts pa = element_unpack(a, env, l), pb = element_unpack(b, env, l), result;
    if (!element_nan(&pa, &pb, env, &result)) {
        pb.sign ^= negate;
        result = operation(pa, pb, element_format(l), env);
    }
    return element_pack(result, l);
}

NOINLINE static u64 single_by_parts(float_operation *operation, u64 a, u64 b, bool negate, struct float_env *env)
{
    return by_parts(operation, a, b, negate, env, SINGLE);
}

NOINLINE static u64 double_by_parts(float_operation *operation, u64 a, u64 b, bool negate, struct float_env *env)
{
    return by_parts(operation, a, b, negate, env, DOUBLE);
}

ALWAYS_INLINE u64 general(float_operation *operation, u64 a, u64 b, bool negate, struct float_env *env, struct layout l)
{
    return l.frac == 23 ? single_by_parts(operation, a, b, negate, env) :
                          double_by_parts(operation, a, b, negate, env);
}

ALWAYS_INLINE u64 shift_jam(u64 a, s32 count)
{
    return count > 63 ? 1 : a >> count | ((a & ((1ull << count) - 1)) != 0);
}

ALWAYS_INLINE u64 add_or_sub(u64 a, u64 b, bool negate, struct float_env *env, struct layout l)
{
    s32 ea = element_exponent(a, l), eb = element_exponent(b, l);
    u64 ret, x = element_mant(a, l) >> 1, y = element_mant(b, l) >> 1;
    bool sign = a & element_sign(l), differ = sign ^ !!(b & element_sign(l)) ^ negate;
    if (unlikely(!element_normal(ea, l) || !element_normal(eb, l)))
        return general(float_add, a, b, negate, env, l);
    if (ea < eb || (ea == eb && x < y)) {
        u64 mant = x;
        s32 exponent = ea;
        x = y;
        y = mant;
        ea = eb;
        eb = exponent;
        sign ^= differ;
    }
    y = shift_jam(y, ea - eb);
    u64 sum = differ ? x - y : x + y;
    if (unlikely(sum == 0))
        return env->round == ROUND_DOWN ? element_sign(l) : 0;
    unsigned shift = (unsigned)__builtin_clzll(sum);
    if (likely(element_round(sign, ea + 1 - (s32)shift, sum << shift, env, l, &ret)))
        return ret;
    return general(float_add, a, b, negate, env, l);
}

ALWAYS_INLINE u64 add(u64 a, u64 b, struct float_env *env, struct layout l)
{
    return add_or_sub(a, b, false, env, l);
}

ALWAYS_INLINE u64 sub(u64 a, u64 b, struct float_env *env, struct layout l)
{
    return add_or_sub(a, b, true, env, l);
}

ALWAYS_INLINE u64 mul(u64 a, u64 b, struct float_env *env, struct layout l)
{
    s32 ea = element_exponent(a, l), eb = element_exponent(b, l);
    u64 ret;
    if (likely(element_normal(ea, l) && element_normal(eb, l))) {
        u128 product = (u128)element_mant(a, l) * element_mant(b, l);
        u64 high = (u64)(product >> 64), jam = (u64)product != 0;
        bool carry = high & FLOAT_TOP;
        if (element_round((a ^ b) & element_sign(l), ea + eb - l.bias + carry, (carry ? high : high << 1) | jam, env, l,
                          &ret))
            return ret;
    }
    return general(float_mul, a, b, false, env, l);
}

/* x / y with bits 63 set, and up again if x is less, to at least 26 places and a sticky one. */
ALWAYS_INLINE u64 quotient(u64 x, u64 y, bool less, struct layout l)
{
    if (l.frac == 23) {
        u64 dividend = x >> !less, divisor = y >> 40, q = dividend / divisor;
        return q << 24 | (dividend != q * divisor);
    }
    u128 dividend = (u128)x << (63 + less);
    u64 q = (u64)(dividend / y);
    return q | ((u64)dividend != q * y);
}

ALWAYS_INLINE u64 div(u64 a, u64 b, struct float_env *env, struct layout l)
{
    s32 ea = element_exponent(a, l), eb = element_exponent(b, l);
    u64 ret;
    if (likely(element_normal(ea, l) && element_normal(eb, l))) {
        u64 x = element_mant(a, l), y = element_mant(b, l);
        bool less = x < y;
        if (element_round((a ^ b) & element_sign(l), ea - eb + l.bias - less, quotient(x, y, less, l), env, l, &ret))
            return ret;
    }
    return general(float_div, a, b, false, env, l);
}

/* Its one operand is the source. */
ALWAYS_INLINE u64 root(u64 a, u64 b, struct float_env *env, struct layout l)
{
    s32 exponent = element_exponent(b, l);
    u64 ret, sig;
    (void)a;
    if (likely(element_normal(exponent, l) && !(b & element_sign(l)))) {
        bool odd = !(exponent & 1);
        u64 mant = element_mant(b, l) >> !odd;
        if (l.frac == 23) {
            u64 rest;
            sig = (u64)float_root64(mant, &rest) << 32 | (rest != 0);
        } else {
            u128 rest;
            sig = float_root128((u128)mant << 64, &rest) | (rest != 0);
        }
        if (element_round(false, (exponent + l.bias) >> 1, sig, env, l, &ret))
            return ret;
    }
    return general(float_sqrt, b, b, false, env, l);
}

/* --- comparison ------------------------------------------------------------------------------------------- */

ALWAYS_INLINE u64 magnitude(u64 a, struct layout l)
{
    return a & (element_sign(l) - 1);
}

ALWAYS_INLINE bool is_nan(u64 a, struct layout l)
{
    return magnitude(a, l) > element_infinity(l);
}

ALWAYS_INLINE bool signalling(u64 a, struct layout l)
{
    return is_nan(a, l) && !(a >> (l.frac - 1) & 1);
}

ALWAYS_INLINE bool denormal(u64 a, struct layout l)
{
    return magnitude(a, l) - 1 < (1ull << l.frac) - 1;
}

/* Two operands: denormals count as zeros, or are noted where no NaN is; true: neither is a NaN. */
ALWAYS_INLINE bool comparable(u64 *a, u64 *b, struct float_env *env, struct layout l)
{
    bool numbers = !is_nan(*a, l) && !is_nan(*b, l);
    if (unlikely(denormal(*a, l) || denormal(*b, l))) {
        if (env->zeros) {
            *a = denormal(*a, l) ? *a & element_sign(l) : *a;
            *b = denormal(*b, l) ? *b & element_sign(l) : *b;
        } else if (numbers) {
            env->flags |= FLOAT_DE;
        }
    }
    return numbers;
}

/* Numbers as integers in the same order; both zeros are 0. */
ALWAYS_INLINE s64 rank(u64 a, struct layout l)
{
    s64 size = (s64)magnitude(a, l);
    return a & element_sign(l) ? -size : size;
}

/* SDM vol. 2, MINPS: the source if a NaN is among the operands or both are zeros. */
ALWAYS_INLINE u64 least(u64 a, u64 b, struct float_env *env, struct layout l)
{
    if (likely(comparable(&a, &b, env, l)))
        return rank(a, l) < rank(b, l) ? a : b;
    env->flags |= FLOAT_IE;
    return b;
}

ALWAYS_INLINE u64 greatest(u64 a, u64 b, struct float_env *env, struct layout l)
{
    if (likely(comparable(&a, &b, env, l)))
        return rank(a, l) > rank(b, l) ? a : b;
    env->flags |= FLOAT_IE;
    return b;
}

/* quiet: only signalling NaNs are invalid. */
ALWAYS_INLINE enum float_order order(u64 a, u64 b, bool quiet, struct float_env *env, struct layout l)
{
    if (unlikely(!comparable(&a, &b, env, l))) {
        if (!quiet || signalling(a, l) || signalling(b, l))
            env->flags |= FLOAT_IE;
        return ORDER_UNORDERED;
    }
    s64 x = rank(a, l), y = rank(b, l);
    return x < y ? ORDER_LESS : x > y ? ORDER_GREATER : ORDER_EQUAL;
}

/* Predicates 0-7: the orders for which they hold, and whether quiet NaNs are no exception (SDM vol. 2, CMPPS). */
static const struct predicate {
    u8 orders;                  /* bit: enum float_order */
    bool quiet;
} predicates[8] = {
    {1 << ORDER_EQUAL, true},                                               /* EQ */
    {1 << ORDER_LESS, false},                                               /* LT */
    {1 << ORDER_LESS | 1 << ORDER_EQUAL, false},                            /* LE */
    {1 << ORDER_UNORDERED, true},                                           /* UNORD */
    {1 << ORDER_LESS | 1 << ORDER_GREATER | 1 << ORDER_UNORDERED, true},    /* NEQ */
    {1 << ORDER_EQUAL | 1 << ORDER_GREATER | 1 << ORDER_UNORDERED, false},  /* NLT */
    {1 << ORDER_GREATER | 1 << ORDER_UNORDERED, false},                     /* NLE */
    {1 << ORDER_LESS | 1 << ORDER_EQUAL | 1 << ORDER_GREATER, true},        /* ORD */
};

/* --- instructions ----------------------------------------------------------------------------------------- */

typedef u64 element(u64 a, u64 b, struct float_env *env, struct layout l);

ALWAYS_INLINE unsigned singles(element *operation, union lanes *d, const union lanes *s, unsigned n, u32 mxcsr)
{
    struct float_env env;
    element_begin(&env, mxcsr);
    for (unsigned i = 0; i < n; i++)
        d->d[i] = (u32)operation(d->d[i], s->d[i], &env, SINGLE);
    return element_flags(&env);
}

ALWAYS_INLINE unsigned doubles(element *operation, union lanes *d, const union lanes *s, unsigned n, u32 mxcsr)
{
    struct float_env env;
    element_begin(&env, mxcsr);
    for (unsigned i = 0; i < n; i++)
        d->q[i] = operation(d->q[i], s->q[i], &env, DOUBLE);
    return element_flags(&env);
}

#define INSTRUCTION(name) unsigned float_##name(union lanes *d, const union lanes *s, unsigned imm, u32 mxcsr)
#define FOUR_FORMS(name, operation) \
    INSTRUCTION(name##ps) { (void)imm; return singles(operation, d, s, 4, mxcsr); } \
    INSTRUCTION(name##ss) { (void)imm; return singles(operation, d, s, 1, mxcsr); } \
    INSTRUCTION(name##pd) { (void)imm; return doubles(operation, d, s, 2, mxcsr); } \
    INSTRUCTION(name##sd) { (void)imm; return doubles(operation, d, s, 1, mxcsr); }

FOUR_FORMS(add, add)
FOUR_FORMS(sub, sub)
FOUR_FORMS(mul, mul)
FOUR_FORMS(div, div)
FOUR_FORMS(sqrt, root)
FOUR_FORMS(min, least)
FOUR_FORMS(max, greatest)

ALWAYS_INLINE unsigned compare_singles(union lanes *d, const union lanes *s, unsigned n, unsigned imm, u32 mxcsr)
{
    struct float_env env;
    element_begin(&env, mxcsr);
    const struct predicate *p = &predicates[imm & 7];
    for (unsigned i = 0; i < n; i++)
        d->d[i] = p->orders >> order(d->d[i], s->d[i], p->quiet, &env, SINGLE) & 1 ? ~0u : 0;
    return element_flags(&env);
}

ALWAYS_INLINE unsigned compare_doubles(union lanes *d, const union lanes *s, unsigned n, unsigned imm, u32 mxcsr)
{
    struct float_env env;
    element_begin(&env, mxcsr);
    const struct predicate *p = &predicates[imm & 7];
    for (unsigned i = 0; i < n; i++)
        d->q[i] = p->orders >> order(d->q[i], s->q[i], p->quiet, &env, DOUBLE) & 1 ? ~0ull : 0;
    return element_flags(&env);
}

INSTRUCTION(cmpps)
{
    return compare_singles(d, s, 4, imm, mxcsr);
}

INSTRUCTION(cmpss)
{
    return compare_singles(d, s, 1, imm, mxcsr);
}

INSTRUCTION(cmppd)
{
    return compare_doubles(d, s, 2, imm, mxcsr);
}

INSTRUCTION(cmpsd)
{
    return compare_doubles(d, s, 1, imm, mxcsr);
}

ALWAYS_INLINE unsigned compare_flags(union lanes *d, const union lanes *s, bool quiet, u32 mxcsr, struct layout l)
{
    static const u32 eflags[] = {[ORDER_GREATER] = 0, [ORDER_LESS] = EFLAGS_CF, [ORDER_EQUAL] = EFLAGS_ZF,
                                 [ORDER_UNORDERED] = EFLAGS_ZF | EFLAGS_PF | EFLAGS_CF};
    struct float_env env;
    element_begin(&env, mxcsr);
    d->d[0] = eflags[l.frac == 23 ? order(d->d[0], s->d[0], quiet, &env, l) : order(d->q[0], s->q[0], quiet, &env, l)];
    return element_flags(&env);
}

INSTRUCTION(comiss)
{
    (void)imm;
    return compare_flags(d, s, false, mxcsr, SINGLE);
}

INSTRUCTION(comisd)
{
    (void)imm;
    return compare_flags(d, s, false, mxcsr, DOUBLE);
}

INSTRUCTION(ucomiss)
{
    (void)imm;
    return compare_flags(d, s, true, mxcsr, SINGLE);
}

INSTRUCTION(ucomisd)
{
    (void)imm;
    return compare_flags(d, s, true, mxcsr, DOUBLE);
}
