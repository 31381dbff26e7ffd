/* flags.c: the six arithmetic flags from their lazy form. */
#include "flags.h"

u32 flags_get(u32 res, u32 a, u32 kind)
{
    if (KIND_CLASS(kind) == FC_EFLAGS)
        return a & EFLAGS_ARITH;
    return (flags_cf(res, a, kind) ? EFLAGS_CF : 0) | (flags_pf(res, a, kind) ? EFLAGS_PF : 0) |
           (flags_af(res, a, kind) ? EFLAGS_AF : 0) | (flags_zf(res, a, kind) ? EFLAGS_ZF : 0) |
           (flags_sf(res, a, kind) ? EFLAGS_SF : 0) | (flags_of(res, a, kind) ? EFLAGS_OF : 0);
}
