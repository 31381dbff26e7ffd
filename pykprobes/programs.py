"""Fetch arguments as field programs: lists of (code, arg, to, imm) for the small stack machine of csrc/fetch.c."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum

from .fetchargs import KEPT, LATENCY, SP, FetchArg

Op = tuple[int, int, int, int]
Symbols = Callable[[str], int]
Kept = Callable[[str], int]  # the slot of a value that a return probe keeps at entry, by "$name"
WORD_MASK = 0xFFFFFFFF


class Code(IntEnum):
    """enum field_code of csrc/cdef_actions.h."""

    END = 0
    WORD, SP, KEPT, LATENCY, IMM, HIGH, STACK, LOAD, BITS, SIGN = range(1, 11)
    NEG, INVERT, NOT, BOOL = range(11, 15)
    ADD, SUB, MUL, AND, OR, XOR = range(15, 21)
    DIVS, DIVU, MODS, MODU, SHL, SHRS, SHRU = range(21, 28)
    EQ, NE, LTS, LTU, LES, LEU = range(28, 34)
    AND_ELSE, OR_ELSE = range(34, 36)


def op(code: Code, arg: int = 0, to: int = 0, imm: int = 0) -> Op:
    """One instruction.

    >>> op(Code.WORD, 6)
    (1, 6, 0, 0)
    """
    return int(code), arg, to, imm & WORD_MASK


def constant(value: int) -> list[Op]:
    """Push a number of up to 64 bits.

    >>> constant(5), len(constant(1 << 40))
    ([(5, 0, 0, 5)], 2)
    """
    high = value >> 32 & WORD_MASK
    return [op(Code.IMM, imm=value), *([op(Code.HIGH, imm=high)] if high else [])]


def compile_field(arg: FetchArg, symbols: Symbols, kept: Kept | None = None) -> list[Op]:
    """A program for the value of a scalar; for arrays and strings, for the address of their first byte.

    `kept` makes it one for the returns of a return probe.

    >>> from .fetchargs import parse_fetch
    >>> compile_field(parse_fetch("+12(%sp):u32"), {}.__getitem__) == [op(Code.STACK, 4, imm=12)]
    True
    """
    offsets = list(arg.offsets)
    ops: list[Op] = []
    if arg.at_return and kept is None:
        raise ValueError(f"field {arg}: {arg.variable} is known in return probes only")
    if kept is not None and (arg.register == KEPT or arg.variable.startswith("$arg")):
        ops.append(op(Code.KEPT, kept(_kept_name(arg))))
        offsets = offsets[1:]
    elif arg.register == LATENCY:
        ops.append(op(Code.LATENCY))
    elif arg.register is None:
        ops += constant((symbols(arg.symbol) if arg.symbol else 0) + arg.value & WORD_MASK)
    elif arg.register != SP:
        ops.append(op(Code.WORD, arg.register))
    elif not offsets or (len(offsets) == 1 and not arg.scalar):
        ops.append(op(Code.SP))
    else:
        ops.append(op(Code.STACK, 4 if len(offsets) > 1 else arg.size, imm=offsets.pop(0)))
    if not arg.scalar:
        return ops + _address(arg, offsets)
    ops += [op(Code.LOAD, 4 if i + 1 < len(offsets) else arg.size, imm=offset) for i, offset in enumerate(offsets)]
    return ops + _typed(arg)


def _address(arg: FetchArg, offsets: list[int]) -> list[Op]:
    ops = [op(Code.LOAD, 4, imm=offset) for offset in offsets[:-1]]
    last = offsets[-1] & WORD_MASK
    if arg.kind == "string" and arg.count == 1:
        return [*ops, op(Code.LOAD, 4, imm=last)]
    return [*ops, *constant(last), op(Code.ADD), op(Code.BITS, 0, 32)] if last else ops


def _typed(arg: FetchArg) -> list[Op]:
    """What the type does to the bits that were fetched."""
    fetched = 8 * arg.size if arg.offsets else 64 if arg.register in (KEPT, LATENCY) else 32
    if arg.bit_width:
        return [op(Code.BITS, arg.bit_offset, arg.bit_width)]
    if arg.signed and arg.bits <= fetched and arg.bits < 64:
        return [op(Code.SIGN, arg.bits)]
    if not arg.signed and arg.bits < fetched:
        return [op(Code.BITS, 0, arg.bits)]
    return []


def _kept_name(arg: FetchArg) -> str:
    """What is kept at entry for it: of an argument, the word, or two if all of 64 bits is wanted."""
    return f"{arg.variable}:u64" if arg.size == 8 and len(arg.offsets) == 1 else arg.variable


def names_of(fields: Mapping[str, FetchArg]) -> str:
    """Names for a message.

    >>> names_of({})
    'none'
    """
    return ", ".join(fields) or "none"
