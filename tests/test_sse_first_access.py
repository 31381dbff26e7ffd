"""Packed operations whose memory operand no TLB knows yet: the same results as from registers."""

from __future__ import annotations

import random

import pytest

from pykprobes import Machine

CODE, PAGES = 0x10000, 0x100000
# Rows of the opcode map behind 0F; with 66 they are on XMM registers.
PACKED = [*range(0x60, 0x6C), *range(0x74, 0x77), *range(0xD1, 0xD6), *range(0xD8, 0xE6), *range(0xE8, 0xF0)]
PACKED += [*range(0xF1, 0xF7), *range(0xF8, 0xFF)]
WIDE_ONLY = [0x6C, 0x6D, 0xC6]  # punpcklqdq, punpckhqdq, shufpd
WITH_IMMEDIATE = [0xC6, 0x70]
FORMS = [(prefix, opcode) for prefix in ("", "66") for opcode in [*PACKED, 0x70] if opcode != 0xE6]
FORMS += [("66", opcode) for opcode in WIDE_ONLY] + [("", 0xC6), ("f2", 0x70), ("f3", 0x70)]  # shufps, pshuflw, pshufhw


@pytest.mark.parametrize(("prefix", "opcode"), FORMS, ids=lambda v: v if isinstance(v, str) else f"{v:02X}")
def test_register_and_memory(prefix: str, opcode: int) -> None:
    wide = bool(prefix) or opcode == 0xC6
    size, random_ = 16 if wide else 8, random.Random(opcode)
    immediate = bytes([0x1B + opcode]) if opcode in WITH_IMMEDIATE else b""
    code = bytes.fromhex(prefix) + bytes([0x0F, opcode])
    with Machine(memory=4 << 20) as m:
        m.memory.write(CODE, code + b"\xc1" + immediate + code + b"\x16" + immediate)  # r: 0, 1; then m: 2, [esi]
        for page in range(8):
            a, b = random_.randbytes(size), random_.randbytes(size)
            if page % 4 == 1:
                b = bytes([random_.randrange(9)]) + bytes(size - 1)  # counts of shifts
            at = PAGES + 0x1000 * page + 0x20
            m.memory.write(at, b)
            for register, value in ((0, a), (1, b), (2, a)):
                put(m, wide, register, value)
            m.regs.esi, m.regs.eip = at, CODE
            m.step(2)
            assert m.regs.eip == CODE + 2 * len(code + b"." + immediate)
            assert get(m, wide, 0) == get(m, wide, 2)


def put(m: Machine, wide: bool, register: int, value: bytes) -> None:
    """Through memory, as programs do."""
    m.memory.write(CODE - 0x100, value)
    load = b"\xf3\x0f\x6f" if wide else b"\x0f\x6f"
    m.memory.write(CODE - 0x80, load + bytes([0x05 | register << 3]) + (CODE - 0x100).to_bytes(4, "little"))
    m.regs.eip = CODE - 0x80
    m.step()


def get(m: Machine, wide: bool, register: int) -> bytes:
    store = b"\xf3\x0f\x7f" if wide else b"\x0f\x7f"
    m.memory.write(CODE - 0x80, store + bytes([0x05 | register << 3]) + (CODE - 0x100).to_bytes(4, "little"))
    m.regs.eip = CODE - 0x80
    m.step()
    return m.memory.read(CODE - 0x100, 16 if wide else 8)
