"""A fault while a trap is delivered: one after the other, a double fault, or shutdown (SDM vol. 3, table 6-5)."""

from __future__ import annotations

import pytest

from pykprobes import Machine, StopReason

from .guest_code import *

UNMAPPED = 0x7000000
DIV0 = b"\x31\xc9\xf7\xf1"  # xor ecx, ecx; div ecx
FAULT_PAGE = b"\xa1" + imm(UNMAPPED)
TO_PROTECTION = 0x1234


@pytest.fixture
def g() -> Guest:
    return Guest()


def absent(g: Guest, *vectors: int) -> None:
    for vector in vectors:
        g.gate(vector, present=False)


def code_of(vector: int, ext: int = 1) -> int:
    return vector * 8 | 2 | ext


def pages(g: Guest, missing: set[int]) -> None:
    """The guest's own page tables without some pages."""
    entries = [0 if n << 12 in missing else n << 12 | 7 for n in range(1024)]
    g.m.memory.write(TABLES, imm((TABLES + 0x1000) | 7) + bytes(4092))
    g.m.memory.write(TABLES + 0x1000, b"".join(imm(e) for e in entries))
    g.m.regs.cr3 = TABLES


def paged_out_gate(g: Guest, vector: int, handler: int | None = None) -> int:
    """An IDT of which the gate of `vector` lies on a missing page, others being where they were; its address."""
    at = DATA + 0x1000 - 8 * vector
    g.m.memory.write(at, g.m.memory.read(IDT, 8 * vector))
    g.m.regs.idtr_base = at
    pages(g, {DATA + 0x1000})
    return DATA + 0x1000


# In series


@pytest.mark.parametrize("code", [UD2, interrupt(0x40), interrupt(PROTECTION), INT3], ids=bytes.hex)
def test_after_a_benign_one_any_fault_is_served_itself(g: Guest, code: bytes) -> None:
    vector = {UD2: INVALID, INT3: BREAK}.get(code, code[-1])
    absent(g, vector)
    g.fault(code, vector=ABSENT, error=code_of(vector, code == UD2))


def test_benign_then_page_fault(g: Guest) -> None:
    hole = paged_out_gate(g, 15)
    g.m.regs.idtr_limit = 0x7FF
    g.fault(interrupt(16), vector=PAGE, error=0)
    assert g.m.regs.cr2 == hole + 8


def test_contributory_then_page_fault(g: Guest) -> None:
    """A divide error whose handler's stack page is not there: served as #PF, with the DIV to be restarted."""
    g.gate(DIVIDE, dpl=0)
    g.gate(PAGE, selector=R1_CS, offset=OUTER_HANDLERS + 16 * PAGE)
    pages(g, {STACKS[0] - 0x1000})
    g.enter(3)
    g.run(DIV0, limit=5)
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip, frame.cs) == (PAGE, 2, CODE + 2, U_CS)
    assert g.m.regs.cr2 == STACKS[0] - 4


def test_two_in_series_and_then_good(g: Guest) -> None:
    """#UD absent gives #NP, absent too: that is contributory after contributory."""
    absent(g, INVALID, ABSENT)
    g.fault(UD2, vector=DOUBLE, error=0)


# Double faults


@pytest.mark.parametrize(
    ("code", "vector"),
    [(DIV0[2:], DIVIDE), (set_sreg("ds", TO_PROTECTION)[5:], PROTECTION), (b"\x36\xa1" + imm(0), STACK)],
)
def test_contributory_twice(g: Guest, code: bytes, vector: int) -> None:
    g.descriptor(SPARE, 0, 0xFFF00, DOWN_RW, 0x4)  # offsets above 0xFFF00
    absent(g, vector)
    setup = set_sreg("ss", SPARE) if vector == STACK else b""
    if vector == STACK:
        g.m.regs.esp = 0xFFFF0
    g.put(setup, mov("eax", TO_PROTECTION), mov("ecx", 0), code)
    g.m.regs.eip = CODE
    g.m.run(max_instructions=100)
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip) == (DOUBLE, 0, g.code_end - len(code))
    assert frame.eflags & RF


def test_page_fault_then_contributory(g: Guest) -> None:
    absent(g, PAGE)
    g.fault(FAULT_PAGE, vector=DOUBLE, error=0)
    assert g.m.regs.cr2 == UNMAPPED


def test_page_fault_twice_keeps_the_second_address(g: Guest) -> None:
    """The gate of #PF is on the missing page itself; #DF's is not."""
    hole = paged_out_gate(g, PAGE)
    g.fault(FAULT_PAGE, vector=DOUBLE, error=0)
    assert g.m.regs.cr2 == hole


def test_a_double_fault_shows_the_interrupted_instruction(g: Guest) -> None:
    absent(g, PROTECTION)
    frame = g.fault(NOP, HLT, vector=DOUBLE, error=0, ring=3)
    assert (frame.esp, frame.ss, frame.cs) == (STACKS[3], U_DS, U_CS)


# Shutdown


@pytest.mark.parametrize("how", ["absent", "outside", "paged out"])
def test_a_fault_in_the_delivery_of_a_double_fault(g: Guest, how: str) -> None:
    last = ABSENT
    if how == "absent":
        absent(g, PAGE, DOUBLE)
    elif how == "outside":
        g.m.regs.idtr_limit, last = 8 * DOUBLE + 6, PROTECTION
    else:
        paged_out_gate(g, DOUBLE)
        last = PAGE
    g.put(NOP, FAULT_PAGE)
    g.m.regs.eip = CODE
    for name, value in (("eax", 1), ("ebx", 0x1000), ("edi", 7)):
        setattr(g.m.regs, name, value)
    g.m.regs.eflags = FIXED | CF | IF | DF
    before = dict(g.m.regs)
    start = g.m.icount
    stop = g.m.run(max_instructions=10)
    assert (stop.reason, stop.eip, stop.vector) == (StopReason.SHUTDOWN, CODE + 1, last)
    assert stop.icount == g.m.icount == start + 1
    assert stop.address == g.m.regs.cr2 == (DATA + 0x1000 if how == "paged out" else UNMAPPED)
    after = dict(g.m.regs)
    assert {name for name in before if before[name] != after[name]} == {"eip", "cr2"}


def test_a_shutdown_in_ring_3_leaves_it_there(g: Guest) -> None:
    g.m.regs.idtr_limit = 0
    g.enter(3)
    stop = g.run(interrupt(DONE))
    assert (stop.reason, stop.vector, stop.eip) == (StopReason.SHUTDOWN, PROTECTION, CODE)
    assert (g.m.regs.cs, g.m.regs.ss, g.m.regs.cpl, g.m.regs.esp) == (U_CS, U_DS, 3, STACKS[3])


def test_the_machine_can_go_on_after_a_shutdown(g: Guest) -> None:
    g.m.regs.idtr_limit = 0
    assert g.run(UD2).reason is StopReason.SHUTDOWN
    assert g.m.run(max_instructions=1).reason is StopReason.SHUTDOWN
    g.m.regs.idtr_limit = 0x7FF
    assert g.m.run(max_instructions=1).eip == g.handler(INVALID) + 1


def test_an_interrupt_that_cannot_be_delivered(g: Guest) -> None:
    g.m.regs.idtr_limit = 0
    g.m.regs.eflags = FIXED | IF
    g.m.interrupt(0x40)
    stop = g.run(NOP, NOP)
    assert (stop.reason, stop.eip) == (StopReason.SHUTDOWN, CODE)


# The built-in kernel side's own tables


@pytest.mark.parametrize(
    ("code", "vector", "error", "eip"),
    [(UD2, INVALID, 0, 0), (FAULT_PAGE, PAGE, 0, 0), (INT3, BREAK, 0, 1), (interrupt(0x90), 0x90, 0, 2),
     (set_sreg("fs", 0x1238), PROTECTION, 0x1238, 5)],
)  # fmt: skip
def test_an_unclaimed_trap_of_the_built_in_kernel(code: bytes, vector: int, error: int, eip: int) -> None:
    with Machine(memory=MEMORY) as m:
        m.memory.write(CODE, NOP + code)
        m.regs.eip = CODE
        before = dict(m.regs)
        stop = m.run(max_instructions=100)
        assert (stop.reason, stop.vector, stop.error_code, stop.eip) == (StopReason.TRAP, vector, error, CODE + 1 + eip)
        assert stop.address == (UNMAPPED if vector == PAGE else 0)
        retired = 2 if vector in (BREAK, 0x90, PROTECTION) else 1
        assert stop.icount == retired
        changed = {name for name, value in m.regs if before[name] != value}
        assert changed <= {"eip", "cr2", "eax"}


def test_a_lost_stack_of_the_built_in_kernel_is_a_shutdown() -> None:
    with Machine(memory=MEMORY) as m:
        m.memory.write(CODE, mov("esp", 0x100) + NOP + UD2)
        m.regs.eip = CODE
        stop = m.run(max_instructions=100)
        assert (stop.reason, stop.vector, stop.eip, stop.icount) == (StopReason.SHUTDOWN, PAGE, CODE + 6, 2)
        assert m.regs.esp == 0x100
