"""Compare and branch as one op: each condition of each form, served by the TLB, slowly, and with registers only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pykprobes import Machine, StopReason

CODE, DATA = 0x10000, 0x20000
CF, PF, ZF, SF, OF = 0x1, 0x4, 0x40, 0x80, 0x800
CONDITIONS = [
    lambda f: bool(f & OF), lambda f: bool(f & CF), lambda f: bool(f & ZF), lambda f: bool(f & (CF | ZF)),
    lambda f: bool(f & SF), lambda f: bool(f & PF), lambda f: bool(f & SF) != bool(f & OF),
    lambda f: bool(f & ZF) or bool(f & SF) != bool(f & OF),
]  # fmt: skip
VALUES = [(0, 0), (1, 2), (2, 1), (0x80, 1), (0x7F, 0xFF), (0x80000000, 1), (0x7FFFFFFF, 0xFFFFFFFF), (0x44, 0x45)]
# opcode, reg field of ModRM (2 is edx or dl; else of a group), bytes of immediate
FORMS = {
    "cmp r32": ("3b", 2, 0), "cmp m32": ("39", 2, 0), "cmp imm8": ("83", 7, 1), "cmp imm32": ("81", 7, 4),
    "cmp r8": ("3a", 2, 0), "cmp m8": ("38", 2, 0), "cmp8 imm": ("80", 7, 1), "test8 imm": ("f6", 0, 1),
    "test32 imm": ("f7", 0, 4), "test16": ("6685", 2, 0), "test32": ("85", 2, 0), "test8": ("84", 2, 0),
    "cmp r16": ("663b", 2, 0), "and imm": ("83", 4, 1), "sub imm": ("83", 5, 1), "add imm": ("83", 0, 1),
    "dec": ("ff", 1, 0),
}  # fmt: skip
PLACES = {"register": b"", "[b+d]": b"", "[b+i*s]": b"", "fs:[b+d]": b"\x64", "fs:[b+i*s]": b"\x64",
          "cold [b+d]": b"", "cold [b+i*s]": b""}  # fmt: skip


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(memory=1 << 20, kprobes=None) as m:
        m.regs.fs = m.regs.ds
        yield m


def modrm(place: str, reg: int) -> bytes:
    if place == "register":
        return bytes([0xC0 | reg << 3])  # eax or al
    return bytes([0x44 | reg << 3, 0x8B, 8]) if "i*s" in place else bytes([0x46 | reg << 3, 8])


def run(m: Machine, code: bytes, left: int, right: int, flags: int, cold: bool) -> None:
    m.memory.write(CODE, code)
    if cold:
        m.regs.cr3 = m.regs.cr3  # a flush of the TLB
    m.memory.write_u32(DATA, left)
    r = m.regs
    r.eax, r.edx, r.ecx, r.ebx, r.esi, r.edi, r.eip = left, right, 3, DATA - 20, DATA - 8, 0, CODE
    r.eflags = flags
    stop = m.run(until=CODE + len(code), max_instructions=1000)  # near its limit a run goes one instruction at a time
    assert stop.reason is StopReason.UNTIL


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_branches_as_the_flags_say(machine: Machine, form: str, place: str) -> None:
    opcode, reg, immediate = FORMS[form]
    for left, right in VALUES:
        imm = right.to_bytes(4, "little")[:immediate]
        compare = PLACES[place] + bytes.fromhex(opcode) + modrm(place, reg) + imm
        cold = "cold" in place
        run(machine, compare, left, right, 2 | CF, cold)
        alone = machine.regs.eflags
        for condition in range(16):
            run(machine, compare + bytes([0x70 | condition, 1, 0x47]), left, right, 2 | CF, cold)  # jcc over inc edi
            taken = CONDITIONS[condition >> 1](alone) != bool(condition & 1)
            assert machine.regs.edi == (0 if taken else 1), (condition, hex(left), hex(right))
            if taken:
                assert machine.regs.eflags == alone
