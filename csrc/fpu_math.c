/* fpu_math.c: x87 constants and transcendental instructions. */
#include "callout.h"

/* 96 bits of each, chopped, the leading one on top: more than rounding by RC looks at (SDM vol. 2, FLD1...). */
static const struct {
    s16 exp;
    u64 hi;
    u64 lo;
} constants[] = {
    {0, 1ull << 63, 0},
    {1, 0xD49A784BCD1B8AFE, 0x492BF6FF4DAFDB4D},    /* log2 10 */
    {0, 0xB8AA3B295C17F0BB, 0xBE87FED0691D3E88},    /* log2 e */
    {1, 0xC90FDAA22168C234, 0xC4C6628B80DC1CD1},    /* pi */
    {-2, 0x9A209A84FBCFF798, 0x8F8959AC0B7C9178},   /* log10 2 */
    {-1, 0xB17217F7D1CF79AB, 0xC9E3B39803F2F6AF},   /* ln 2 */
};
#define CONSTANT_ZERO 6         /* the rm of FLDZ */

/* Full precision, no exception (SDM vol. 2, FLD1). */
int fpu_constant(struct cpu *cpu, const struct op *op, unsigned arg)
{
    struct fpu *f = &cpu->fpu;
    struct float_env env = fpu_env(f);
    env.bits = 64;
    (void)op;
    fpu_load(f, arg == CONSTANT_ZERO ? float80_zero(false) :
             float80_round(false, constants[arg].exp, constants[arg].hi, constants[arg].lo, &env));
    return STATUS_NEXT;
}
