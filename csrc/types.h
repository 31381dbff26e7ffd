/* types.h: short names for fixed-width integers, and the compiler's hints. */
#ifndef PYK_TYPES_H
#define PYK_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define COLD __attribute__((cold, noinline))

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "guest registers and memory are accessed in host byte order: a little-endian host is needed"
#endif

#endif
