#include "decode.h"

#include <string.h>

#include "callout.h"
#include "opcodes.def"

static const struct opcode opcode_table[512] = {
#define ROW(code, enc, fam, argument, props) [code] = {ENC_##enc, F_##fam, argument, props},
#define BYTE P_BYTE
#define WORD P_WORD
#define RM_BYTE P_RM_BYTE
#define LOCKABLE P_LOCKABLE
#define MEM_ONLY P_MEM_ONLY
#define ENDS P_ENDS
    OPCODES(ROW)
};

static const struct opcode group_table[GROUP_COUNT][8] = {
#define SUBROW(group, field, fam, argument, props) [group][field] = {0, F_##fam, argument, props},
    GROUPS(SUBROW)
};

static const u32 opcode_features[512] = {
#define NEEDS(code, feature) [code] = FEATURE_##feature,
    OPCODE_FEATURES(NEEDS)
};

struct reader {
    const u8 *bytes;
    unsigned n;             /* bytes there */
    unsigned at;
    enum decode_status status;
};

static u32 take(struct reader *r, unsigned size)
{
    if (r->at + size > r->n) {
        if (r->status == DECODE_OK)
            r->status = r->n == INSN_MAX ? DECODE_TOO_LONG : DECODE_MORE;
        return 0;
    }
    u32 v = 0;
    memcpy(&v, r->bytes + r->at, size);
    r->at += size;
    return v;
}

static u32 take_signed8(struct reader *r)
{
    return (u32)(s32)(s8)take(r, 1);
}

static void modrm16(struct reader *r, struct insn *in, unsigned mod)
{
    static const u8 bases[8] = {EBX, EBX, EBP, EBP, ESI, EDI, EBP, EBX};
    static const u8 indexes[8] = {ESI, EDI, ESI, EDI, NO_REG, NO_REG, NO_REG, NO_REG};
    in->base = bases[in->rm];
    in->index = indexes[in->rm];
    if (mod == 0 && in->rm == 6) {
        in->base = NO_REG;
        in->disp = take(r, 2);
    } else if (mod == 1) {
        in->disp = take_signed8(r);
    } else if (mod == 2) {
        in->disp = take(r, 2);
    }
}

static void modrm32(struct reader *r, struct insn *in, unsigned mod)
{
    in->base = in->rm;
    if (in->rm == ESP) {
        u8 sib = (u8)take(r, 1);
        in->base = sib & 7;
        in->index = (sib >> 3) & 7;
        in->scale = sib >> 6;
        if (in->index == ESP) {
            in->index = NO_REG;
            in->scale = 0;
        }
    }
    if (mod == 0 && in->base == EBP) {
        in->base = NO_REG;
        in->disp = take(r, 4);
    } else if (mod == 1) {
        in->disp = take_signed8(r);
    } else if (mod == 2) {
        in->disp = take(r, 4);
    }
}

static void modrm(struct reader *r, struct insn *in, bool register_only)
{
    u8 byte = (u8)take(r, 1);
    unsigned mod = byte >> 6;
    in->has_modrm = true;
    in->modrm = byte;
    in->reg = (byte >> 3) & 7;
    in->rm = byte & 7;
    in->mem = mod != 3 && !register_only;
    if (!in->mem)
        return;
    if (in->addr16)
        modrm16(r, in, mod);
    else
        modrm32(r, in, mod);
    if (!in->has_seg && (in->base == EBP || in->base == ESP))
        in->seg = SS;
}

static void take_immediates(struct reader *r, struct insn *in, unsigned operands)
{
    switch (operands) {
    case ENC_MODRM_IB: case ENC_IB: case ENC_REL8:
        in->imm = take_signed8(r);
        break;
    case ENC_IB_ZERO:
        in->imm = take(r, 1);
        break;
    case ENC_IW:
        in->imm = take(r, 2);
        break;
    case ENC_IW_IB:
        in->imm = take(r, 2);
        in->imm2 = take(r, 1);
        break;
    case ENC_MODRM_IZ: case ENC_IZ:
        in->imm = take(r, in->size);
        break;
    case ENC_RELZ:
        in->imm = take(r, in->size);
        if (in->size == 2)
            in->imm = (u32)(s32)(s16)in->imm;
        break;
    case ENC_MODRM_GROUP3:
        if (in->reg < 2)
            in->imm = take(r, in->size);
        break;
    case ENC_FAR:
        in->imm = take(r, in->size);
        in->imm2 = take(r, 2);
        break;
    case ENC_MOFFS:
        in->mem = true;
        in->disp = take(r, in->addr16 ? 2 : 4);
        break;
    }
}

/* Prefixes in any order; the last of a group wins (SDM vol. 2, 2.1.1). */
static u8 take_prefixes(struct reader *r, struct insn *in, bool code32)
{
    bool size16 = !code32;
    in->addr16 = !code32;
    for (;;) {
        u8 byte = (u8)take(r, 1);
        if (r->status != DECODE_OK)
            return 0;
        switch (byte) {
        case 0x26: in->seg = ES; in->has_seg = true; break;
        case 0x2E: in->seg = CS; in->has_seg = true; break;
        case 0x36: in->seg = SS; in->has_seg = true; break;
        case 0x3E: in->seg = DS; in->has_seg = true; break;
        case 0x64: in->seg = FS; in->has_seg = true; break;
        case 0x65: in->seg = GS; in->has_seg = true; break;
        case 0x66: size16 = code32; in->size_prefix = true; break;
        case 0x67: in->addr16 = code32; break;
        case 0xF0: in->lock = true; break;
        case 0xF2: in->repne = true; in->rep = false; break;
        case 0xF3: in->rep = true; in->repne = false; break;
        default:
            in->size = size16 ? 2 : 4;
            return byte;
        }
    }
}

enum decode_status decode(const u8 *bytes, unsigned n, bool code32, struct insn *ret)
{
    struct reader reader = {bytes, n < INSN_MAX ? n : INSN_MAX, 0, DECODE_OK}, *r = &reader;
    struct insn *in = ret;
    *in = (struct insn){.seg = DS, .base = NO_REG, .index = NO_REG};

    in->opcode = take_prefixes(r, in, code32);
    if (in->opcode == 0x0F)
        in->opcode = 0x100 | (u16)take(r, 1);
    if (r->status != DECODE_OK)
        goto out;
    in->row = opcode_table[in->opcode];
    unsigned operands = in->row.operands;
    if (operands >= ENC_MODRM && operands <= ENC_MODRM_REG)
        modrm(r, in, operands == ENC_MODRM_REG);
    if (in->row.family == F_GROUP) {
        struct opcode sub = group_table[in->row.arg][in->reg];
        sub.properties |= in->row.properties;
        in->row = sub;
    }
    in->feature = opcode_features[in->opcode];
    if (in->row.family == F_CALLOUT_FPU)
        in->feature = fpu_feature(in->row.arg, in->mem, in->reg, in->rm);
    if (in->row.family == F_SSE) {
        in->sse = sse_find(in);
        in->feature = in->sse ? in->sse->feature : 0;
    }
    if (in->row.properties & P_BYTE)
        in->size = 1;
    else if (in->row.properties & P_WORD)
        in->size = 2;
    take_immediates(r, in, operands);
    if (r->status != DECODE_OK)
        goto out;
    in->len = (u8)r->at;
    if (in->row.family == F_UNDEFINED || (in->row.family == F_SSE && !in->sse) || ((in->row.properties & P_MEM_ONLY) && !in->mem))
        return DECODE_UNDEFINED;
    if (in->lock && !((in->row.properties & P_LOCKABLE) && in->mem))
        return DECODE_UNDEFINED;
    return DECODE_OK;
out:
    in->len = (u8)r->at;
    return r->status;
}
