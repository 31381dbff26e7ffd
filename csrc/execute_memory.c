/*
 * execute_memory.c: hot handlers with a memory operand or the stack. Compiled
 * a second time by execute_memory_slow.c.
 */
#include "execute.h"

#define SHIFT_OF(W) SHIFT##W

#define ALU_R_M(op_, W, EA) \
    H(op_##_r_m##W##_##EA) \
    { \
        LOAD(W, y, EA_##EA); \
        struct alu f = alu_##op_(REG(W, op->reg), y, SHIFT##W, CF); \
        REG(W, op->reg) = (BITS##W)f.r; \
        SET_FLAGS(f); \
        NEXT; \
    }
#define ALU_M_R(op_, W, EA) \
    H(op_##_m_r##W##_##EA) \
    { \
        MODIFY(W, x, EA_##EA); \
        struct alu f = alu_##op_(x, REG(W, op->reg), SHIFT##W, CF); \
        MODIFIED(W, f.r); \
        SET_FLAGS(f); \
        NEXT; \
    }
#define ALU_M_I(op_, W, EA) \
    H(op_##_m_i##W##_##EA) \
    { \
        MODIFY(W, x, EA_##EA); \
        struct alu f = alu_##op_(x, (BITS##W)op->imm, SHIFT##W, CF); \
        MODIFIED(W, f.r); \
        SET_FLAGS(f); \
        NEXT; \
    }
#define CMP_R_M(name, op_, W, EA) \
    H(name##_r_m##W##_##EA) \
    { \
        LOAD(W, y, EA_##EA); \
        struct alu f = alu_##op_(REG(W, op->reg), y, SHIFT##W, false); \
        SET_FLAGS(f); \
        NEXT; \
    }
#define CMP_M_R(name, op_, W, EA) \
    H(name##_m_r##W##_##EA) \
    { \
        LOAD(W, x, EA_##EA); \
        struct alu f = alu_##op_(x, REG(W, op->reg), SHIFT##W, false); \
        SET_FLAGS(f); \
        NEXT; \
    }
#define CMP_M_I(name, op_, W, EA) \
    H(name##_m_i##W##_##EA) \
    { \
        LOAD(W, x, EA_##EA); \
        struct alu f = alu_##op_(x, (BITS##W)op->imm, SHIFT##W, false); \
        SET_FLAGS(f); \
        NEXT; \
    }
#define UNARY_M(op_, W, EA) \
    H(op_##_m##W##_##EA) \
    { \
        MODIFY(W, x, EA_##EA); \
        struct alu f = alu_##op_(x, SHIFT##W, CF); \
        MODIFIED(W, f.r); \
        SET_FLAGS(f); \
        NEXT; \
    }
#define NOT_M(W, EA) \
    H(not_m##W##_##EA) \
    { \
        MODIFY(W, x, EA_##EA); \
        MODIFIED(W, ~x); \
        NEXT; \
    }
#define MOV_M(W, EA) \
    H(mov_r_m##W##_##EA) \
    { \
        LOAD(W, value, EA_##EA); \
        REG(W, op->reg) = value; \
        NEXT; \
    } \
    H(mov_m_r##W##_##EA) \
    { \
        STORE(W, REG(W, op->reg), EA_##EA); \
        NEXT; \
    } \
    H(mov_m_i##W##_##EA) \
    { \
        STORE(W, op->imm, EA_##EA); \
        NEXT; \
    }
#define EXTEND_M(name, W, type, EA) \
    H(name##W##_r_m_##EA) \
    { \
        LOAD(W, value, EA_##EA); \
        REG32(cpu, op->reg) = (u32)(type)value; \
        NEXT; \
    }
#define IMUL_M(EA) \
    H(imul_r_m_##EA) \
    { \
        LOAD(32, y, EA_##EA); \
        struct alu f = alu_imul(REG32(cpu, op->reg), y); \
        REG32(cpu, op->reg) = f.r; \
        SET_FLAGS(f); \
        NEXT; \
    } \
    H(imul_r_m_i_##EA) \
    { \
        LOAD(32, x, EA_##EA); \
        struct alu f = alu_imul(x, op->imm); \
        REG32(cpu, op->reg) = f.r; \
        SET_FLAGS(f); \
        NEXT; \
    }
#define PUSH_M(EA) \
    H(push_m_##EA) \
    { \
        LOAD(32, value, EA_##EA); \
        PUSH(value); \
        NEXT; \
    }
#define JUMP_M(EA) \
    H(jmp_m_##EA) \
    { \
        LOAD(32, to, EA_##EA); \
        EXIT_INDIRECT(to); \
    } \
    H(call_m_##EA) \
    { \
        LOAD(32, to, EA_##EA); \
        PUSH(op->imm); \
        EXIT_INDIRECT(to); \
    }

/* Compare and branch in one op. */
#define JCMP_R_M(cc, CC, W, EA) \
    H(jcmp##W##_r_m_##EA##_##cc) \
    { \
        LOAD(W, y, EA_##EA); \
        struct alu f = alu_sub(REG(W, op->reg), y, SHIFT##W, false); \
        SET_FLAGS(f); \
        EXIT_IF(cond_sub(CC, res, a, SHIFT##W)); \
    }
#define JCMP_M_R(cc, CC, W, EA) \
    H(jcmp##W##_m_r_##EA##_##cc) \
    { \
        LOAD(W, x, EA_##EA); \
        struct alu f = alu_sub(x, REG(W, op->reg), SHIFT##W, false); \
        SET_FLAGS(f); \
        EXIT_IF(cond_sub(CC, res, a, SHIFT##W)); \
    }
#define JCMP_M_I(cc, CC, W, EA) \
    H(jcmp##W##_m_i_##EA##_##cc) \
    { \
        LOAD(W, x, EA_##EA); \
        struct alu f = alu_sub(x, (BITS##W)op->imm, SHIFT##W, false); \
        SET_FLAGS(f); \
        EXIT_IF(cond_sub(CC, res, a, SHIFT##W)); \
    }
#define JTEST_M_I(cc, CC, W, EA) \
    H(jtest##W##_m_i_##EA##_##cc) \
    { \
        LOAD(W, x, EA_##EA); \
        struct alu f = alu_and(x, (BITS##W)op->imm, SHIFT##W, false); \
        SET_FLAGS(f); \
        EXIT_IF(cond_flags(CC, res, a, KIND(FC_LOGIC, SHIFT##W))); \
    }

#define PER_EA(M, ...) M(__VA_ARGS__, bd) M(__VA_ARGS__, bis)
#define PER_WIDTH(M, ...) PER_EA(M, __VA_ARGS__, 8) PER_EA(M, __VA_ARGS__, 16) PER_EA(M, __VA_ARGS__, 32)
#define ALU_ALL(op_) PER_WIDTH(ALU_R_M, op_) PER_WIDTH(ALU_M_R, op_) PER_WIDTH(ALU_M_I, op_)
#define PER_COND(M, W, EA) \
    M(o, CC_O, W, EA) M(b, CC_B, W, EA) M(z, CC_Z, W, EA) M(be, CC_BE, W, EA) \
    M(s, CC_S, W, EA) M(p, CC_P, W, EA) M(l, CC_L, W, EA) M(le, CC_LE, W, EA)

ALU_NAMES(ALU_ALL)
PER_WIDTH(CMP_R_M, cmp, sub)
PER_WIDTH(CMP_M_R, cmp, sub)
PER_WIDTH(CMP_M_I, cmp, sub)
PER_WIDTH(CMP_M_R, test, and)
PER_WIDTH(CMP_M_I, test, and)
PER_WIDTH(UNARY_M, inc)
PER_WIDTH(UNARY_M, dec)
PER_WIDTH(UNARY_M, neg)
PER_EA(NOT_M, 8)
PER_EA(NOT_M, 16)
PER_EA(NOT_M, 32)
PER_EA(MOV_M, 8)
PER_EA(MOV_M, 16)
PER_EA(MOV_M, 32)
PER_EA(EXTEND_M, movzx, 8, u8)
PER_EA(EXTEND_M, movzx, 16, u16)
PER_EA(EXTEND_M, movsx, 8, s8)
PER_EA(EXTEND_M, movsx, 16, s16)
IMUL_M(bd)
IMUL_M(bis)
PUSH_M(bd)
PUSH_M(bis)
JUMP_M(bd)
JUMP_M(bis)
PER_COND(JCMP_R_M, 32, bd)
PER_COND(JCMP_R_M, 32, bis)
PER_COND(JCMP_M_R, 32, bd)
PER_COND(JCMP_M_R, 32, bis)
PER_COND(JCMP_M_I, 32, bd)
PER_COND(JCMP_M_I, 32, bis)
PER_COND(JCMP_R_M, 8, bd)
PER_COND(JCMP_R_M, 8, bis)
PER_COND(JCMP_M_I, 8, bd)
PER_COND(JCMP_M_I, 8, bis)
PER_COND(JTEST_M_I, 8, bd)
PER_COND(JTEST_M_I, 8, bis)

H(push_r)
{
    PUSH(REG32(cpu, op->reg));
    NEXT;
}

H(push_i)
{
    PUSH(op->imm);
    NEXT;
}

H(pop_r)
{
    POP(value);
    REG32(cpu, op->reg) = value;
    NEXT;
}

H(leave32)
{
    LEAVE_LOAD(value);
    STACK_TOP = REG32(cpu, 4 * EBP) + 4;
    REG32(cpu, 4 * EBP) = value;
    NEXT;
}

H(call)
{
    PUSH(op->imm);
    EXIT(1);
}

H(call_r)
{
    u32 to = REG32(cpu, op->rm);
    PUSH(op->imm);
    EXIT_INDIRECT(to);
}

H(ret)
{
    POP(to);
    STACK_TOP += op->imm;
    EXIT_INDIRECT(to);
}
