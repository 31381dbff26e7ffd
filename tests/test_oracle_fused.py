"""Compare and branch as one op, with memory operands: every condition, operand and width, within and across pages."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from .oracle.case import ARITH, DATA, IF, STACK_TOP, Case
from .oracle.checks import assert_same
from .oracle.operands import EDGES
from .oracle.ours import Ours

COMPARES = {
    # bytes before ModRM, ModRM's reg field (2 is edx or dl), bytes of immediate
    "cmp r32, m": ("3b", 2, 0), "cmp m, r32": ("39", 2, 0), "cmp m32, imm8": ("83", 7, 1),
    "cmp m32, imm32": ("81", 7, 4),
    "cmp r8, m": ("3a", 2, 0), "cmp m, r8": ("38", 2, 0), "cmp m8, imm": ("80", 7, 1), "test m8, imm": ("f6", 0, 1),
    "test m32, imm": ("f7", 0, 4), "test m, r32": ("85", 2, 0), "test m, r8": ("84", 2, 0),
    "cmp r16, m": ("663b", 2, 0), "cmp m16, imm": ("6683", 7, 1),
}  # fmt: skip
PLACES = (DATA + 0x400, DATA + 0xFFE, DATA + 0x1FFE)
"""Within a page, across two, and across the end of what is mapped."""


def _cases(name: str) -> Iterator[Case]:
    opcode, reg, immediate = COMPARES[name]
    rng = random.Random(name)
    for condition in range(16):
        for indexed in (False, True):
            for place in (PLACES[0], *PLACES):
                for segment in (b"", b"\x64"):
                    # [esi + 8] or [ebx + ecx*4 + 8]
                    rm = bytes([0x44 | reg << 3, 0x8B, 8]) if indexed else bytes([0x46 | reg << 3, 8])
                    imm = rng.choice(EDGES).to_bytes(4, "little")[:immediate]
                    compare = segment + bytes.fromhex(opcode) + rm + imm
                    code = compare + bytes([0x70 | condition, 1, 0x47])  # jcc over inc edi
                    regs = [0, 3, rng.choice(EDGES), place - 20, STACK_TOP, 0, place - 8, 0]
                    left = min(4, DATA + 0x2000 - place)
                    data = rng.choice((regs[2], *EDGES)).to_bytes(4, "little")[:left]
                    yield Case(code, regs, IF | 2 | rng.getrandbits(12) & ARITH, patches=[(place, data)])


@pytest.mark.parametrize("name", COMPARES)
def test_compare_and_branch(name):
    assert_same(_cases(name), Ours())
