"""Delivery to an inner ring: the stack that the TSS names, and what is wrong with it."""

from __future__ import annotations

import pytest

from pykprobes import StopReason

from .guest_code import *

SOFT, HARD = interrupt(0x40), UD2
EXT = 1


@pytest.fixture
def g() -> Guest:
    guest = Guest()
    guest.gate(0x40, dpl=3)
    return guest


def to_ring_1(g: Guest, vector: int) -> None:
    g.gate(vector, dpl=3, selector=R1_CS, offset=OUTER_HANDLERS + 16 * vector)


# Good stacks


def test_from_ring_3_to_0(g: Guest) -> None:
    g.enter(3)
    g.m.regs.eflags = FIXED | IF | CF
    g.run(NOP, SOFT)
    frame = g.frame()
    assert frame == Frame(0x40, None, CODE + 3, U_CS, FIXED | IF | CF, STACKS[3], U_DS, STACKS[0] - 20)
    assert (g.m.regs.cpl, g.m.regs.cs, g.m.regs.ss) == (0, K_CS, K_DS)
    assert (g.m.regs.ds, g.m.regs.es) == (U_DS, U_DS)
    assert g.access_byte(K_DS) == DATA_RW | 1


def test_error_code_on_the_new_stack(g: Guest) -> None:
    frame = g.fault(HLT, vector=PROTECTION, error=0, ring=3)
    assert frame == Frame(PROTECTION, 0, CODE, U_CS, FIXED | RF, STACKS[3], U_DS, STACKS[0] - 24)


@pytest.mark.parametrize("code", [SOFT, HARD])
def test_from_ring_3_to_1(g: Guest, code: bytes) -> None:
    vector = 0x40 if code == SOFT else INVALID
    to_ring_1(g, vector)
    g.enter(3)
    g.run(code, limit=5)
    frame = g.frame()
    assert (frame.vector, frame.cs, frame.esp, frame.ss, frame.at) == (vector, U_CS, STACKS[3], U_DS, STACKS[1] - 20)
    assert (g.m.regs.cpl, g.m.regs.cs, g.m.regs.ss) == (1, R1_CS, R1_DS)


def test_from_ring_1_to_1_there_is_no_switch(g: Guest) -> None:
    to_ring_1(g, 0x40)
    g.enter(1)
    g.run(SOFT, limit=5)
    frame = g.frame()
    assert (frame.esp, frame.at, g.m.regs.ss) == (None, STACKS[1] - 12, R1_DS)


def test_to_an_outer_ring_is_refused(g: Guest) -> None:
    g.gate(0x40, selector=U_CS)
    g.fault(SOFT, vector=PROTECTION, error=U_CS & ~3)


def test_a_16_bit_gate_switches_stacks_too(g: Guest) -> None:
    g.descriptor(SPARE3, HANDLERS, 0xFFFF, CODE_RX, 0x4)
    g.gate(0x40, INT16, 3, SPARE3, 16 * 0x40)
    g.enter(3)
    g.put(SOFT)
    g.m.regs.eip = CODE
    g.m.regs.esp = 0x3F000
    assert g.m.run(until=16 * 0x40, max_instructions=10).reason is StopReason.UNTIL
    assert g.m.regs.esp == STACKS[0] - 10
    words = (CODE + 2, U_CS, FIXED, 0x3F000, U_DS)
    assert g.m.memory.read(STACKS[0] - 10, 10) == b"".join(imm(w, 2) for w in words)


def test_a_16_bit_tss(g: Guest) -> None:
    g.descriptor(TSS_SELECTOR, TSS, 0x2B, TSS16, 0)
    g.m.memory.write(TSS, imm(0, 2) + imm(0x8000, 2) + imm(K_DS, 2) + imm(0x9000, 2) + imm(R1_DS, 2))
    g.m.regs.tr = TSS_SELECTOR
    g.enter(3)
    g.run(SOFT)
    frame = g.frame()
    assert (frame.at, frame.esp, frame.ss) == (0x8000 - 20, STACKS[3], U_DS)


def test_a_16_bit_stack_wraps_and_keeps_the_upper_half(g: Guest) -> None:
    g.descriptor(SPARE, DATA, 0xFFFF, DATA_RW, 0)
    g.stack_of_ring(0, SPARE, 0x12340008)
    g.enter(3)
    g.run(SOFT)
    assert g.m.regs.esp == 0x1234FFF4  # SP 8 less 20
    words = [g.m.memory.u32(DATA + (0xFFF4 + 4 * i & 0xFFFF)) for i in range(5)]
    assert words == [CODE + 2, U_CS, FIXED, STACKS[3], U_DS]


# What the TSS and the stack's descriptor get wrong


@pytest.mark.parametrize(("code", "ext"), [(SOFT, 0), (HARD, EXT)])
@pytest.mark.parametrize(
    ("selector", "access", "vector", "error"),
    [
        (0, None, BAD_TSS, 0),
        (2, None, BAD_TSS, 0),
        (GDT_END, None, BAD_TSS, GDT_END),
        (LDT_END | 4, None, BAD_TSS, LDT_END | 4),
        (K_DS | 1, None, BAD_TSS, K_DS),
        (K_DS | 3, None, BAD_TSS, K_DS),
        (R1_DS & ~3, None, BAD_TSS, R1_DS & ~3),
        (K_CS, None, BAD_TSS, K_CS),
        (SPARE, DATA_RO, BAD_TSS, SPARE),
        (SPARE, DATA_RW & ~0x10, BAD_TSS, SPARE),
        (SPARE, 0x12, STACK, SPARE),
        (SPARE, 0x10, BAD_TSS, SPARE),
    ],
)
def test_bad_stacks(
    g: Guest, code: bytes, ext: int, selector: int, access: int | None, vector: int, error: int
) -> None:
    """The exception meets the same stack, so its handlers run in ring 1, which has a good one."""
    if access is not None:
        g.descriptor(SPARE, 0, 0xFFFFF, access)
    g.stack_of_ring(0, selector)
    for exception in (BAD_TSS, STACK):
        to_ring_1(g, exception)
    g.fault(code, vector=vector, error=error | ext, ring=3)
    assert g.m.regs.esp == STACKS[1] - 24


@pytest.mark.parametrize(("code", "ext"), [(SOFT, 0), (HARD, EXT)])
@pytest.mark.parametrize("limit", [0, 3, 4, 8, 9])
def test_tss_limit(g: Guest, code: bytes, ext: int, limit: int) -> None:
    g.descriptor(TSS_SELECTOR, TSS, limit, TSS32, 0)
    g.m.regs.tr = TSS_SELECTOR
    g.enter(3)
    if limit < 9:
        g.put(code)
        g.m.regs.eip = CODE
        stop = g.m.run(max_instructions=10)
        # No other ring has a stack there either: #TS, then #DF, then nothing.
        assert (stop.reason, stop.vector, stop.eip) == (StopReason.SHUTDOWN, BAD_TSS, CODE)
    else:
        g.run(code)
        assert g.frame().at == STACKS[0] - 20


def test_tss_limit_between_the_rings(g: Guest) -> None:
    """Ring 0's stack lies within the limit, ring 1's beyond."""
    g.descriptor(TSS_SELECTOR, TSS, 0x10, TSS32, 0)
    g.m.regs.tr = TSS_SELECTOR
    to_ring_1(g, 0x40)
    g.fault(SOFT, vector=BAD_TSS, error=TSS_SELECTOR, ring=3)


def test_16_bit_tss_limit(g: Guest) -> None:
    g.descriptor(TSS_SELECTOR, TSS, 8, TSS16, 0)
    g.m.memory.write(TSS, imm(0, 2) + imm(0x8000, 2) + imm(K_DS, 2) + imm(0x9000, 2) + imm(R1_DS, 2))
    g.m.regs.tr = TSS_SELECTOR
    to_ring_1(g, 0x40)
    g.enter(3)
    g.run(SOFT)
    assert (g.vector(), g.frame(True).error) == (BAD_TSS, TSS_SELECTOR)


# Room on the stack


@pytest.mark.parametrize(("code", "ext"), [(SOFT, 0), (HARD, EXT)])
@pytest.mark.parametrize("size", [20, 19])
def test_an_inner_stack_that_just_fits_or_not(g: Guest, code: bytes, ext: int, size: int) -> None:
    """An expand-down segment: valid offsets begin behind the limit."""
    vector = 0x40 if code == SOFT else INVALID
    g.descriptor(SPARE, 0, STACKS[0] - size - 1, DOWN_RW, 0x4)
    g.stack_of_ring(0, SPARE)
    to_ring_1(g, STACK)
    g.enter(3)
    g.run(code, limit=5)
    if size == 20:
        assert (g.vector(), g.m.regs.esp) == (vector, STACKS[0] - 20)
    else:
        frame = g.frame(True)
        assert (frame.vector, frame.error, frame.eip) == (STACK, SPARE | ext, CODE)
        assert frame.at == STACKS[1] - 24


def test_the_error_code_has_to_fit_as_well(g: Guest) -> None:
    g.descriptor(SPARE, 0, STACKS[0] - 20 - 1, DOWN_RW, 0x4)
    g.stack_of_ring(0, SPARE)
    to_ring_1(g, STACK)
    to_ring_1(g, DOUBLE)
    frame = g.fault(HLT, vector=DOUBLE, error=0, ring=3)  # #GP and then #SS: contributory twice
    assert frame.at == STACKS[1] - 24


@pytest.mark.parametrize("size", [12, 11])
def test_the_current_stack_just_fits_or_not(g: Guest, size: int) -> None:
    to_conforming = 0x40
    g.descriptor(SPARE, 0, STACKS[3] - size - 1, DOWN_RW | 0x60, 0x4)
    g.gate(to_conforming, dpl=3, selector=CONFORMING, offset=OUTER_HANDLERS + 0x400)
    g.enter(3)
    g.m.regs.ss = SPARE | 3
    g.run(SOFT, limit=5)
    if size == 12:
        assert (g.vector(), g.m.regs.esp) == (0x40, STACKS[3] - 12)
    else:
        frame = g.frame(True)
        assert (frame.vector, frame.error, frame.eip, frame.ss) == (STACK, 0, CODE, SPARE | 3)


# Pages


def with_pages(g: Guest, bits: dict[int, int]) -> None:
    """Identity page tables of the guest's own; the pages of `bits` get those bits."""
    entries = [n << 12 | bits.get(n << 12, 7) for n in range(1024)]
    g.m.memory.write(TABLES, imm((TABLES + 0x1000) | 7) + bytes(4092))
    g.m.memory.write(TABLES + 0x1000, b"".join(imm(e) for e in entries))
    g.m.regs.cr3 = TABLES


@pytest.mark.parametrize(("code", "saved", "ext"), [(SOFT, 20, 0), (HLT, 24, 0)])
@pytest.mark.parametrize("bits", [0, 5], ids=["unmapped", "read-only"])
@pytest.mark.parametrize("hole", ["lower", "upper"])
def test_a_frame_over_two_pages_is_pushed_whole_or_not_at_all(
    g: Guest, code: bytes, saved: int, ext: int, bits: int, hole: str
) -> None:
    middle = 0x2F000
    page = middle - 0x1000 if hole == "lower" else middle
    g.stack_of_ring(0, K_DS, middle + 8)
    g.m.memory.fill(middle - 32, 64, 0xEE)
    with_pages(g, {page: bits})
    to_ring_1(g, PAGE)
    g.enter(3)
    g.run(code, limit=5)
    frame = g.frame(True)
    first = middle + 4 if hole == "upper" else middle - 4
    assert (frame.vector, frame.error, frame.eip) == (PAGE, 2 | bits & 1, CODE)  # a supervisor's write
    assert g.m.regs.cr2 == first
    assert (frame.esp, frame.ss, frame.cs) == (STACKS[3], U_DS, U_CS)
    with_pages(g, {})
    assert g.m.memory.read(middle - 32, 64) == b"\xee" * 64


def test_without_wp_a_read_only_stack_is_written(g: Guest) -> None:
    with_pages(g, {STACKS[0] - 0x1000: 5})
    g.m.regs.cr0 &= ~0x10000
    g.enter(3)
    g.run(SOFT)
    assert (g.vector(), g.frame().at) == (0x40, STACKS[0] - 20)


def test_the_inner_stack_is_written_as_supervisor(g: Guest) -> None:
    with_pages(g, {STACKS[0] - 0x1000: 3, IDT: 3, GDT: 3, TSS: 3, HANDLERS: 3})
    g.enter(3)
    g.run(SOFT)
    assert g.frame() == Frame(0x40, None, CODE + 2, U_CS, FIXED, STACKS[3], U_DS, STACKS[0] - 20)
