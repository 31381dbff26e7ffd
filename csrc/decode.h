/*
 * decode.h: bytes -> struct insn, by the table in opcodes.def. No side
 * effects and no state, so that it can be fuzzed alone.
 */
#ifndef PYK_DECODE_H
#define PYK_DECODE_H

#include "cpu.h"

enum operands {             /* what follows the opcode */
    ENC_NONE, ENC_MODRM, ENC_MODRM_IB, ENC_MODRM_IZ,
    ENC_MODRM_GROUP3,       /* an immediate for reg field 0 and 1 only */
    ENC_MODRM_REG,          /* mod is ignored: always a register (control and debug register moves) */
    ENC_IB,                 /* sign-extended */
    ENC_IB_ZERO, ENC_IW, ENC_IZ, ENC_IW_IB, ENC_FAR, ENC_MOFFS, ENC_REL8, ENC_RELZ,
};

enum family {               /* how translate.c makes ops of it */
    F_UNDEFINED, F_GROUP, F_CALLOUT, F_CALLOUT_FPU, F_ALU_RM_R, F_ALU_R_RM, F_ALU_A_I, F_ALU_RM_I, F_TEST_RM_R,
    F_TEST_A_I, F_TEST_RM_I, F_INC_R, F_DEC_R, F_INC_RM, F_DEC_RM, F_NOT, F_NEG, F_MUL_DIV, F_IMUL, F_SHIFT,
    F_DOUBLE_SHIFT, F_BIT_TEST_R, F_BIT_TEST_I, F_BIT_SCAN, F_MOV_RM_R, F_MOV_R_RM, F_MOV_A_M, F_MOV_M_A, F_MOV_R_I,
    F_MOV_RM_I, F_LEA, F_EXTEND, F_CONVERT, F_XCHG, F_XCHG_A, F_NOP, F_BSWAP, F_SETCC, F_CMOV, F_CARRY, F_DIRECTION,
    F_PUSH_R, F_PUSH_I, F_PUSH_RM, F_POP_R, F_POP_RM, F_LEAVE, F_PUSH_SREG, F_POP_SREG, F_MOV_RM_SREG, F_MOV_SREG_RM,
    F_LOAD_FAR, F_STRING, F_IN_OUT, F_CONTROL, F_JCC, F_LOOP, F_JMP, F_CALL, F_RET, F_JMP_RM, F_CALL_RM,
    F_SSE,
    FAMILY_COUNT
};

enum { ALU_ADD, ALU_OR, ALU_ADC, ALU_SBB, ALU_AND, ALU_SUB, ALU_XOR, ALU_CMP };
enum { SHIFT_BY_IMM, SHIFT_BY_1, SHIFT_BY_CL };
enum { LOOP_NE, LOOP_E, LOOP_ALWAYS, LOOP_CXZ };
enum { CARRY_CLEAR, CARRY_SET, CARRY_COMPLEMENT };
enum { EXTEND_ZERO, EXTEND_SIGN };
enum { NEAR_JMP = 16, NEAR_CALL, NEAR_RET, NEAR_JMP_RM, NEAR_CALL_RM, NEAR_LOOP };  /* below: condition codes */
enum { PUSH_IMM, PUSH_RM };
enum { GROUP_1, GROUP_1A, GROUP_3, GROUP_4, GROUP_5, GROUP_6, GROUP_7, GROUP_8, GROUP_9, GROUP_11, GROUP_COUNT };

enum properties {
    P_BYTE = 1 << 0,        /* operand size 1 */
    P_WORD = 1 << 1,        /* operand size 2 whatever the prefix */
    P_RM_BYTE = 1 << 2,     /* the r/m operand alone has size 1 */
    P_LOCKABLE = 1 << 3,    /* LOCK is allowed with a memory destination */
    P_MEM_ONLY = 1 << 4,    /* the register form is undefined */
    P_ENDS = 1 << 5,        /* ends a block */
};

struct opcode {
    u8 operands;            /* enum operands */
    u8 family;              /* enum family */
    u8 arg;                 /* the family's own */
    u8 properties;
};

#define NO_REG 8

struct insn {
    struct opcode row;      /* with the group row merged in */
    u16 opcode;             /* 0-FF, 100-1FF behind 0F */
    u8 len;
    u8 size;                /* operand size: 1, 2, 4 */
    bool addr16;
    bool lock, rep, repne;
    bool size_prefix;       /* 66 */
    bool has_modrm, mem;
    bool has_seg;
    u8 seg;                 /* segment of the memory operand, override applied */
    u8 modrm;               /* the byte */
    u8 reg, rm;             /* its fields; rm is a register number when !mem */
    u8 base, index;         /* registers of the memory operand or NO_REG */
    u8 scale;               /* 0-3 */
    u32 disp;
    u32 imm, imm2;
    const struct sse_row *sse;  /* of family F_SSE */
    u32 feature;            /* enum feature that the processor must have */
};

enum decode_status {
    DECODE_OK,
    DECODE_MORE,            /* the instruction goes on behind the bytes given */
    DECODE_TOO_LONG,        /* over 15 bytes: #GP(0) */
    DECODE_UNDEFINED,       /* #UD */
};

/* code32: default operand and address size. n: bytes there, of which at most 15 are looked at. */
enum decode_status decode(const u8 *bytes, unsigned n, bool code32, struct insn *ret);

#endif
