"""What random programs are made of: forms with weights, the registers they may use, flags they may leave undefined."""

from __future__ import annotations

from .encode import CONDITIONS, FORMS, Form
from .undefined import DEST, UNDEFINED

_PLAIN = (
    "add or adc sbb and sub xor cmp test inc dec not neg mul imul mov movzx movsx lea xchg xadd cmpxchg cmpxchg8b "
    "bswap rol ror rcl rcr shl shr sar shld shrd bt bts btr btc bsf bsr cbw cwd cmc clc stc sahf lahf "
    "daa das aaa aas aam aad salc nop"
).split() + [prefix + cc for prefix in ("set", "cmov") for cc in CONDITIONS]
_HEAVY = frozenset("add sub cmp mov and or xor test inc dec lea shl shr adc sbb".split())
PLAIN_FORMS = [f for f in FORMS if f.name in _PLAIN and f.rm[:1] not in ("R",)]
WEIGHTS = [8 if f.name in _HEAVY else 2 if f.name[:3] not in ("set", "cmo") else 1 for f in PLAIN_FORMS]
FREE = (0, 1, 2, 3, 6, 7)
MAYBE = {name: 0 for names, *_ in UNDEFINED for name in names.split()}
for _names, _condition, _flags, _reason in UNDEFINED:
    for _name in _names.split():
        MAYBE[_name] |= _flags & ~DEST
SOMETIMES = frozenset("rol ror rcl rcr shl shr sar shld shrd".split())


def one(name: str, *operands: str) -> Form:
    """The first form of a mnemonic with these operand codes."""
    return next(f for f in FORMS if f.name == name and f.operands == operands)


MOV_IMM = one("mov", "Zv", "Iv")
MOV_MEM8_IMM = one("mov", "Eb", "Ib")
MOV_MEM_IMM = one("mov", "Ev", "Iv")
MOVZX = one("movzx", "Gv", "Eb")
DEC = one("dec", "Zv")
INC = one("inc", "Zv")
PUSH_IMM = one("push", "Iv")
JMP_SHORT, JMP_NEAR, JMP_RM = one("jmp", "Jb"), one("jmp", "Jv"), one("jmp", "Ev")
CALL_NEAR, CALL_RM, RET = one("call", "Jv"), one("call", "Ev"), one("ret")
