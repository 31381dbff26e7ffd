"""Alignment checks (SDM vol. 3, 6.15, interrupt 17; table 6-7): every form against the real CPU, and who is checked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .guest_code import *
from .oracle import native
from .oracle.case import DATA as ORACLE_DATA
from .oracle.case import FAULT, STACK_TOP, Case
from .oracle.checks import assert_same, need_native
from .oracle.encode import FORMS
from .oracle.generate import form_cases
from .oracle.ours import Ours

AM, CHECK = 0x40000, 17
NAMES = sorted({form.name for form in FORMS})
LOAD = load("ecx", DATA + 2)


@pytest.fixture(scope="module")
def engine() -> Ours:
    need_native()
    engine = Ours()
    engine.machine.regs.cr0 = engine.machine.regs.cr0 & ~0xC | AM
    engine.machine.regs.cr4 |= 0x600
    return engine


def with_ac(cases: Iterator[Case]) -> Iterator[Case]:
    for case in cases:
        case.eflags |= AC
        yield case


@pytest.mark.parametrize("name", NAMES)
def test_every_form(engine: Ours, name: str) -> None:
    cases = [c for f in FORMS if f.name == name for c in with_ac(form_cases(f, 0.1, "alignment "))]
    assert_same(cases, engine)


# x87 forms and what is made of several words: code with its operand at edi
OPERANDS = {
    "d9 07": 4, "dd 07": 8, "db 2f": 8, "df 2f": 8, "df 27": 8, "df 07": 2, "db 07": 4, "d9 37": 4, "66 d9 37": 2,
    "dd 37": 4, "66 dd 37": 2, "d9 27": 4, "66 d9 27": 2, "d9 3f": 2, "0f c7 0f": 8, "62 0f": 4, "66 62 0f": 2,
    "8b 0f": 4, "66 8b 0f": 2, "8a 0f": 1, "8c 1f": 2, "0f ab 0f": 4, "66 0f ab 0f": 2, "a5": 4, "66 a5": 2, "ab": 4,
    "87 0f": 4, "0f b1 0f": 4, "0f b7 0f": 2, "0f b6 0f": 1, "0f 6f 07": 8, "0f 7e 07": 4, "0f 7f 07": 8, "0f fe 07": 8,
    "0f 10 07": 16, "0f 11 07": 16, "0f 12 07": 8, "0f 17 07": 8, "f3 0f 10 07": 4, "f2 0f 11 07": 8, "66 0f d6 07": 8,
    "f3 0f 6f 07": 16, "f3 0f 7f 07": 16, "f3 0f 58 07": 4, "f2 0f 58 07": 8, "0f 5a 07": 8, "0f 2d 07": 8,
    "0f ae 17": 4, "0f ae 1f": 4, "0f c4 07 00": 2,
}  # fmt: skip


@pytest.mark.parametrize("code", OPERANDS)
def test_operands(engine: Ours, code: str) -> None:
    """The alignment that an operand needs, natively and here."""
    for offset in range(16):
        at = ORACLE_DATA + 0x100 + offset
        regs = [0, 0, 0, 0, STACK_TOP - 64, 0, ORACLE_DATA, at]
        case = Case(bytes.fromhex(code), regs, eflags=FIXED | IF | AC, patches=[(at, bytes(128))])
        result = native.run([case])[0]
        assert ((result.outcome, result.vector) == (FAULT, CHECK)) == (offset % OPERANDS[code] != 0)
        assert_same([case], engine)


@pytest.mark.parametrize("am", [False, True])
@pytest.mark.parametrize("ac", [False, True])
@pytest.mark.parametrize("ring", [0, 1, 3])
def test_who_is_checked(am: bool, ac: bool, ring: int) -> None:
    g = Guest()
    if am:
        g.m.regs.cr0 |= AM
    if ac:
        g.m.regs.eflags |= AC
    if am and ac and ring == 3:
        frame = g.fault(LOAD, vector=CHECK, error=0, ring=ring)
        assert frame.eflags & (AC | RF) == AC | RF
        assert frame.esp == STACKS[3]
        g.m.regs.eflags &= ~AC
        assert g.m.step().eip == g.handler(CHECK) + 1
    else:
        g.passes(LOAD, ring=ring)


def test_ac_comes_and_goes_within_a_block() -> None:
    g = Guest()
    g.m.regs.cr0 |= AM
    g.passes(LOAD, push(FIXED | AC), POPF, load("ecx", DATA + 4), push(FIXED), POPF, LOAD, ring=3)
    g.m.regs.eflags = FIXED
    g.fault(LOAD, push(FIXED | AC), POPF, LOAD, vector=CHECK, error=0, ring=3)


def test_an_iret_turns_it_on() -> None:
    g = Guest()
    g.m.regs.cr0 |= AM
    g.passes(LOAD, ring=3)
    g.m.regs.cs, g.m.regs.ss, g.m.regs.esp = K_CS, K_DS, STACKS[0]
    g.put(LOAD, at=CODE + 0x200)
    g.run(push(U_DS, STACKS[3], FIXED | AC, U_CS, CODE + 0x200), IRET)
    assert (g.vector(), g.frame(True).eip) == (CHECK, CODE + 0x200)


def test_cr0_turns_it_on() -> None:
    """By a call gate to ring 0 and back; the handler's own stack is not checked."""
    g = Guest()
    g.call_gate(SPARE, K_CS, CODE + 0x800)
    g.m.memory.write(CODE + 0x800, from_control(0) + b"\x0d" + imm(AM) + to_control(0) + LOAD + RETF)
    g.stack_of_ring(0, K_DS, STACKS[0] - 2)
    g.m.regs.eflags |= AC
    g.enter(3)
    g.put(LOAD, far_call(SPARE | 3), LOAD)
    g.m.regs.eip = CODE
    g.m.run(max_instructions=100)
    assert (g.vector(), g.frame(True).eip) == (CHECK, CODE + len(LOAD) + 7)


def test_virtual_8086_code_is_checked() -> None:
    g = Guest()
    g.m.regs.cr0 |= AM
    code = b"\xa1\x02\x00\xa1\x03\x00"  # mov ax, [2]; mov ax, [3]
    g.m.memory.write(0x20000, code)
    g.run(push(0, 0, 0x5000, 0, 0x2000, 0x8000, FIXED | VM | AC, 0x2000, 0), IRET, at=CODE + 0x100)
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip) == (CHECK, 0, 3)


def test_segments_come_first_and_pages_later() -> None:
    """The order of #GP and #AC is the manual's (vol. 3, table 6-2), that of #AC and #PF this processor's."""
    g = Guest()
    g.m.regs.cr0 |= AM
    g.m.regs.eflags |= AC
    g.descriptor(SPARE, 0, 0xFFF, 0xF2, 4)
    g.fault(set_sreg("ds", SPARE | 3), load("ecx", 0xFFE), vector=PROTECTION, error=0, ring=3)
    g = Guest()
    g.m.regs.cr0 |= AM
    g.m.regs.eflags |= AC
    g.fault(load("ecx", 0x7FFFFFFE), vector=CHECK, error=0, ring=3)
    g = Guest()
    g.m.regs.cr0 |= AM
    g.m.regs.eflags |= AC
    g.fault(load("ecx", 0x7FFFFFFC), vector=PAGE, error=4, ring=3)


def test_a_repeated_instruction_is_checked_at_each_element() -> None:
    g = Guest()
    g.m.regs.cr0 |= AM
    g.m.regs.eflags |= AC
    g.m.regs.esi, g.m.regs.edi, g.m.regs.ecx = DATA, DATA + 0x100, 3
    g.passes(b"\xf3\xa5", ring=3)
    assert (g.m.regs.ecx, g.m.regs.esi) == (0, DATA + 12)
    g.m.regs.eflags |= AC
    g.m.regs.esi, g.m.regs.edi, g.m.regs.ecx = DATA, DATA + 0x102, 3
    g.fault(b"\xf3\xa5", vector=CHECK, error=0, ring=3)
    assert (g.m.regs.ecx, g.m.regs.esi) == (3, DATA)
