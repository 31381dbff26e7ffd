"""Edge values, and memory operands that point where we want."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .case import ARITH, CF, DATA, DF, IF, LOW, READONLY, STACK, STACK_TOP
from .encode import ADSIZE, LOCK, PAIRS16, Form, Mem

EDGES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0x80000001,
    0xFFFFFFFF,
)
SELECTORS = (0x2B, 0x2B, 0x2B, 0, 0x23, 0xFFFF)
SIZES = {"b": 1, "w": 2, "v": 4, "p": 6, "q": 8, "a": 8, "": 4}


def value(rng: random.Random) -> int:
    """A 32-bit number, more often than not an edge case."""
    pick = rng.random()
    if pick < 0.5:
        return rng.choice(EDGES)
    if pick < 0.6:
        return rng.randrange(64)
    if pick < 0.7:
        return -rng.randrange(1, 64) & 0xFFFFFFFF
    return rng.getrandbits(32)


def flags(rng: random.Random) -> int:
    """EFLAGS with random arithmetic flags."""
    mask = rng.choice((0, ARITH, CF, rng.getrandbits(12)))
    return mask & ARITH | IF | 2 | (DF if rng.random() < 0.15 else 0)


def operand_size(form: Form, size16: bool) -> int:
    """Bytes of the r/m operand."""
    size = SIZES[form.rm[1:]]
    if size16 and form.rm[1:] in ("v", "p", "a"):
        size -= size // 2 if form.rm[1:] != "p" else 2
    return size


def target(rng: random.Random, size: int, aligned: bool) -> int:
    """A linear address for an operand: mostly in the data pages, also across pages and where it faults."""
    pick = rng.random()
    if pick < 0.70 or (aligned and pick < 0.94):
        address = DATA + rng.randrange(0x40, 0x1F80)
        return address & ~(size - 1 if size != 6 else 7) if aligned or rng.random() < 0.5 else address
    if pick < 0.78:
        return DATA + 0x1000 - rng.randrange(size + 1)
    if pick < 0.84:
        return STACK_TOP + rng.randrange(-0x100, 0x100)
    if pick < 0.90 and not aligned:
        return READONLY + rng.choice((rng.randrange(0xFF0), 0x1000 - rng.randrange(size + 1)))
    if pick < 0.94 and not aligned:
        return rng.choice((DATA + 0x2000, STACK + 0x2000, DATA, READONLY)) - rng.randrange(size + 1)
    return rng.choice((0, 0x40000000, 0xA0000000, 0x21000000, DATA + 0x3000))


def point(rng: random.Random, regs: list[int], address: int, fixed: Sequence[int] = (4,)) -> Mem:
    """A random 32-bit addressing mode that reaches an address; sets registers, but for the fixed, to make it so."""
    base = rng.choice((None, 0, 1, 2, 3, 4, 5, 6, 7))
    index = rng.choice((None, None, 0, 1, 2, 3, 5, 6, 7))
    scale = rng.randrange(4) if index is not None else 0
    offset = (regs[index] << scale) if index is not None else 0
    size = rng.choice((0, 1, 4))
    if base is None:
        return Mem(None, index, scale, address - offset, 4, force_sib=rng.random() < 0.2)
    if size == 0 and base == 5:
        size = 1
    if base == index or base in fixed:
        size = 4
    if size == 4:
        disp = address - offset - regs[base]
    else:
        disp = rng.randrange(-128, 128) if size == 1 else 0
        regs[base] = (address - offset - disp) & 0xFFFFFFFF
    return Mem(base, index, scale, disp, size, force_sib=rng.random() < 0.1)


def point16(rng: random.Random, regs: list[int], address: int) -> Mem:
    """The same with the 16-bit modes."""
    pair = rng.choice((*PAIRS16, (None, None)))
    base, index = pair
    if base is None:
        return Mem(disp=address, disp_size=2, addr16=True)
    size = rng.choice((0, 1, 2))
    if size == 0 and pair == (5, None):
        size = 1
    offset = regs[index] if index is not None else 0
    if size == 2:
        disp = address - offset - regs[base]
    else:
        disp = rng.randrange(-128, 128) if size == 1 else 0
        regs[base] = regs[base] & 0xFFFF0000 | (address - offset - disp) & 0xFFFF
    return Mem(base, index, 0, disp, size, addr16=True)


def memory_operand(
    rng: random.Random, regs: list[int], form: Form, prefixes: bytes, fixed: Sequence[int] = (4,)
) -> tuple[Mem, int]:
    """A memory operand for a form, and the linear address that it reaches."""
    size = operand_size(form, 0x66 in prefixes)
    aligned = LOCK in prefixes or form.name == "xchg"
    if ADSIZE in prefixes:
        address = LOW + rng.randrange(0x40, 0x1F80)
        if aligned:
            address &= -8
        elif rng.random() < 0.1:
            address = rng.choice((LOW + 0x2000, LOW, LOW + 0x1000, 0x10000)) - rng.randrange(size + 1)
        return point16(rng, regs, address & 0xFFFF), address & 0xFFFF
    address = target(rng, size, aligned)
    return point(rng, regs, address, fixed), address
