"""Sequences of instructions that are one handler, every one of csrc/combined.def, against the real CPU."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .oracle.case import ARITH, DATA, IF, STACK_TOP, Case
from .oracle.checks import assert_same, need_native
from .oracle.operands import EDGES
from .oracle.ours import Ours

LISTS = Path(__file__).parents[1] / "csrc" / "combined.def"
CONDITION = {"o": 0, "b": 2, "z": 4, "be": 6, "s": 8, "p": 10, "l": 12, "le": 14}
STRAIGHT = {
    # an encoding with eax, ecx, edx; memory at [esi + 8] or [ebx + edi*4 + 8]
    "mov_r_r32": "89d0", "mov_r_i32": "b844332211", "mov_r_m32_bd": "8b4608", "mov_r_m32_bis": "8b44bb08",
    "mov_m_r32_bd": "894608", "mov_m_r32_bis": "8944bb08", "mov_m_i32_bd": "c7460878563412", "mov_m_i8_bd": "c64608a5",
    "movzx8_r_m_bd": "0fb64608", "movzx8_r_m_bis": "0fb644bb08", "movzx8_r_r": "0fb6c6", "movsx16_r_m_bd": "0fbf4608",
    "lea_bd": "8d4608", "lea_bis": "8d44bb08", "add_r_r32": "01d0", "add_r_i32": "83c0ff", "sub_r_r32": "29d0",
    "sub_r_i32": "83e801", "and_r_i32": "83e07f", "xor_r_r32": "31d0", "inc_r32": "40", "dec_r32": "48",
    "shl_r_i32": "c1e003", "shr_r_i32": "d1e8", "imul_r_r": "0fafc2", "push_r": "50", "pop_r": "58",
    "xor_r_m32_bis": "3344bb08",
}  # fmt: skip
COMPARES = {"jcmp32_r_r": "39d0", "jcmp32_r_i": "83f801", "jcmp8_r_i": "3c80", "jtest32_r_r": "85c0",
            "jtest8_r_r": "84e4", "jtest8_r_i": "a801", "jdec32_r": "48"}  # fmt: skip
JUMPS = {"jmp": "eb01", "call": "e801000000", "ret": "c3"}
PLACES = (DATA + 0x400, DATA + 0xFFE, DATA + 0x1FFE)
"""Within a page, across two, and across the end of what is mapped."""


def names(macro: str) -> list[str]:
    """The last name in each X(...) of a list, nested lists behind it."""
    text = LISTS.read_text().replace("\\\n", " ")
    body = re.search(rf"#define {macro}\(.*?\)(.*)", text)
    assert body
    found = re.findall(r"\bX\((?:\w+, )*(\w+)\)", body.group(1))
    return found + (names("LAST_BRANCH") if macro == "LAST" else [])


def encode(name: str, negated: bool) -> bytes:
    """An instruction, or a compare and branch over the `inc edi` that follows the sequence."""
    if name in STRAIGHT or name in JUMPS:
        return bytes.fromhex(STRAIGHT.get(name) or JUMPS[name])
    compare, condition = name.rsplit("_", 1)
    return bytes.fromhex(COMPARES[compare]) + bytes([0x70 | CONDITION[condition] | negated, 1])


def case(sequence: tuple[str, ...], place: int, rng: random.Random) -> Case:
    eip = Case.eip
    code = b"".join(encode(name, rng.random() < 0.5) for name in sequence)
    behind = (eip + len(code) + 1).to_bytes(4, "little")
    code += b"\x47" * 2  # inc edi, jumped over or not
    first = rng.choice((*EDGES, rng.getrandbits(32)))
    regs = [first, 0, rng.choice(EDGES), place - 20, STACK_TOP - 64, 0, place - 8, 3]
    data = rng.choice((regs[2], *EDGES)).to_bytes(4, "little")[: min(4, DATA + 0x2000 - place)]
    patches = [(place, data), (STACK_TOP - 72, behind * 8)]
    return Case(code, regs, IF | 2 | rng.getrandbits(12) & ARITH, patches=patches)


def cases(first: str, triples: bool) -> Iterator[Case]:
    rng = random.Random(first)
    sequences: list[tuple[str, ...]] = [(first, last) for last in names("LAST")]
    if triples:
        sequences += [(first, step, branch) for step in names("LOOP_STEP") for branch in names("LOOP_BRANCH")]
    for sequence in sequences:
        for place in (PLACES[0], *PLACES):
            yield case(sequence, place, rng)


@pytest.mark.parametrize("first", names("FIRST"))
def test_sequences_that_are_one_handler(first):
    need_native()
    assert_same(cases(first, first in names("LOOP_FIRST")), Ours())


def test_the_lists_are_consistent():
    assert len(names("FIRST")) > 20 and len(names("LAST_BRANCH")) > 15
    assert set(names("LOOP_FIRST") + names("LOOP_STEP")) <= set(names("FIRST"))
    assert set(names("LOOP_BRANCH")) <= set(names("LAST_BRANCH"))
