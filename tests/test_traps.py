"""Delivery through interrupt and trap gates: what is checked, what is pushed, what becomes of the flags."""

from __future__ import annotations

import pytest

from pykprobes import StopReason

from .guest_code import *

DIV0 = b"\xf7\xf1"  # div ecx, with ecx 0
ABSENT_CODE, BIT_EXT, BIT_IDT = 0x1A, 1, 2
FLAGS = CF | PF | AF | ZF | SF | IF | DF | OF | AC | ID  # none of them does anything by itself here


@pytest.fixture
def g() -> Guest:
    return Guest()


# Flags and frames


@pytest.mark.parametrize("kind", [INT32, TRAP32])
def test_only_an_interrupt_gate_clears_if(g: Guest, kind: int) -> None:
    g.gate(0x40, kind)
    g.m.regs.eflags = FLAGS | FIXED
    g.run(interrupt(0x40))
    frame = g.frame()
    assert (frame.vector, frame.eflags, frame.eip, frame.cs) == (0x40, FLAGS | FIXED, CODE + 2, K_CS)
    left = FLAGS | FIXED if kind == TRAP32 else (FLAGS | FIXED) & ~IF
    assert g.m.regs.eflags == left


@pytest.mark.parametrize("kind", [INT32, TRAP32])
def test_tf_nt_and_rf_are_cleared_and_pushed(g: Guest, kind: int) -> None:
    g.gate(0x40, kind)
    g.m.regs.eflags = FIXED | TF | NT | RF
    g.run(interrupt(0x40))
    assert g.frame().eflags == FIXED | TF | NT  # RF lasts for one instruction, the INT itself
    assert g.m.regs.eflags == FIXED


@pytest.mark.parametrize(("kind", "cleared"), [(INT16, IF), (TRAP16, 0)])
def test_16_bit_gates_push_words(g: Guest, kind: int, cleared: int) -> None:
    g.code16()
    g.gate(0x40, kind, 0, SPARE3, 0xFFFF0000 | 16 * 0x40)  # the upper half of the offset is not looked at
    g.m.regs.eflags = FIXED | IF | CF
    g.put(interrupt(0x40))
    g.m.regs.eip = CODE
    assert g.m.run(until=16 * 0x40, max_instructions=10).reason is StopReason.UNTIL
    assert g.m.regs.esp == STACKS[0] - 6
    assert g.m.memory.read(STACKS[0] - 6, 6) == imm(CODE + 2, 2) + imm(K_CS, 2) + imm(FIXED | IF | CF, 2)
    assert g.m.regs.eflags == (FIXED | IF | CF) & ~cleared


def test_error_code_is_pushed_in_the_gates_size(g: Guest) -> None:
    g.code16()
    g.put(set_sreg("ds", GDT_END))
    g.m.regs.eip = CODE
    assert g.m.run(until=16 * PROTECTION, max_instructions=10).reason is StopReason.UNTIL
    assert g.m.regs.esp == STACKS[0] - 8
    words = g.m.memory.read(STACKS[0] - 8, 8)
    assert words == imm(GDT_END, 2) + imm(CODE + 5, 2) + imm(K_CS, 2) + imm(FIXED, 2)  # no room for RF


def test_int_n_pushes_no_error_code_whatever_the_vector(g: Guest) -> None:
    for vector in (DOUBLE, PROTECTION, PAGE):
        g.run(interrupt(vector))
        assert g.frame().eip == CODE + 2
        g.m.regs.esp = STACKS[0]


def test_only_faults_show_rf(g: Guest) -> None:
    assert g.fault(UD2, vector=INVALID).eflags == FIXED | RF
    for code, vector in ((INT3, BREAK), (INT1, DEBUG), (interrupt(INVALID), INVALID), (interrupt(0x90), 0x90)):
        g.m.regs.esp = STACKS[0]
        g.run(code)
        assert (g.vector(), g.frame().eflags) == (vector, FIXED)


@pytest.mark.parametrize(
    ("code", "vector", "error"),
    [(DIV0, DIVIDE, None), (UD2, INVALID, None), (set_sreg("ds", GDT_END)[5:], PROTECTION, 0x1230),
     (b"\xa1" + imm(0x7000000), PAGE, 0)],
)  # fmt: skip
def test_fault_class_and_its_error_code(g: Guest, code: bytes, vector: int, error: int | None) -> None:
    frame = g.fault(mov("eax", 0x1233), mov("ecx", 0), code, vector=vector, error=error)
    assert frame.eflags & RF and not g.m.regs.eflags & RF


# The checks of the gate


def with_limit(g: Guest, limit: int) -> None:
    g.m.regs.idtr_limit = limit


@pytest.mark.parametrize("short", [0, 1])
def test_idt_limit(g: Guest, short: int) -> None:
    with_limit(g, 0x90 * 8 + 7 - short)
    if short:
        g.fault(interrupt(0x90), vector=PROTECTION, error=0x90 * 8 | BIT_IDT)
    else:
        g.run(interrupt(0x90))
        assert g.vector() == 0x90


@pytest.mark.parametrize("kind", [k for k in range(32) if k not in (TASK, INT16, TRAP16, INT32, TRAP32)])
def test_a_gate_of_another_type(g: Guest, kind: int) -> None:
    g.gate(0x40, kind)
    g.fault(interrupt(0x40), vector=PROTECTION, error=0x40 * 8 | BIT_IDT)


def test_an_absent_gate(g: Guest) -> None:
    g.gate(0x40, present=False)
    g.fault(interrupt(0x40), vector=ABSENT, error=0x40 * 8 | BIT_IDT)


def test_a_wrong_type_comes_before_absence(g: Guest) -> None:
    g.gate(0x40, CALL32, present=False)
    g.fault(interrupt(0x40), vector=PROTECTION, error=0x40 * 8 | BIT_IDT)


def test_a_hardware_exception_sets_ext(g: Guest) -> None:
    g.gate(INVALID, present=False)
    g.fault(UD2, vector=ABSENT, error=INVALID * 8 | BIT_IDT | BIT_EXT)
    g.m.regs.esp = STACKS[0]
    g.gate(INVALID, CALL32)
    g.fault(UD2, vector=PROTECTION, error=INVALID * 8 | BIT_IDT | BIT_EXT)


def test_an_external_interrupt_sets_ext(g: Guest) -> None:
    g.gate(0x40, present=False)
    g.m.regs.eflags = FIXED | IF
    assert g.m.interrupt(0x40)
    g.run(NOP)
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip) == (ABSENT, 0x40 * 8 | BIT_IDT | BIT_EXT, CODE)


def test_icebp_sets_ext_and_asks_for_no_privilege(g: Guest) -> None:
    g.enter(3)
    g.run(INT1)
    assert (g.vector(), g.frame().eip) == (DEBUG, CODE + 1)
    g = Guest()
    g.gate(DEBUG, present=False)
    g.fault(INT1, vector=ABSENT, error=DEBUG * 8 | BIT_IDT | BIT_EXT)


@pytest.mark.parametrize(("code", "vector"), [(interrupt(0x40), 0x40), (INT3, BREAK), (INTO, OVERFLOW)])
@pytest.mark.parametrize("ring", [1, 3])
def test_gate_privilege_is_asked_of_software_interrupts(g: Guest, code: bytes, vector: int, ring: int) -> None:
    g.m.regs.eflags = FIXED | OF
    g.gate(vector, dpl=ring - 1)
    g.fault(code, vector=PROTECTION, error=vector * 8 | BIT_IDT, ring=ring)
    g = Guest()
    g.m.regs.eflags = FIXED | OF
    g.gate(vector, dpl=ring)
    g.enter(ring)
    g.run(code)
    assert g.vector() == vector


def test_gate_privilege_is_not_asked_of_exceptions(g: Guest) -> None:
    g.fault(mov("ecx", 0), DIV0, vector=DIVIDE, ring=3)


def test_gate_privilege_is_not_asked_of_external_interrupts(g: Guest) -> None:
    g.enter(3)
    g.m.regs.eflags = FIXED | IF
    g.m.interrupt(0x40)
    g.run(NOP)
    assert g.vector() == 0x40


# The handler's code segment


@pytest.mark.parametrize(
    ("selector", "access", "vector", "error"),
    [
        (0, None, PROTECTION, 0),
        (3, None, PROTECTION, 0),
        (GDT_END, None, PROTECTION, GDT_END),
        (GDT_END | 3, None, PROTECTION, GDT_END),
        (LDT_END | 4, None, PROTECTION, LDT_END | 4),
        (K_DS, None, PROTECTION, K_DS),
        (TSS_SELECTOR, None, PROTECTION, TSS_SELECTOR),
        (R1_CS, None, PROTECTION, R1_CS & ~3),
        (SPARE, ABSENT_CODE, ABSENT, SPARE),
        (SPARE, ABSENT_CODE | 0x60, PROTECTION, SPARE),
    ],
)
def test_bad_handler_segments(g: Guest, selector: int, access: int | None, vector: int, error: int) -> None:
    if access is not None:
        g.descriptor(SPARE, 0, 0xFFFFF, access)
    g.gate(0x40, selector=selector)
    g.fault(interrupt(0x40), vector=vector, error=error)
    g.m.regs.esp = STACKS[0]
    g.gate(INVALID, selector=selector)
    g.fault(UD2, vector=vector, error=error | BIT_EXT)


def test_the_handler_may_lie_in_the_ldt_and_its_rpl_is_ignored(g: Guest) -> None:
    g.gate(0x40, selector=LDT_CODE | 3)
    g.run(interrupt(0x40))
    assert (g.vector(), g.m.regs.cs) == (0x40, LDT_CODE)
    assert g.access_byte(LDT_CODE) == CODE_RX | 1


def test_a_conforming_handler_keeps_the_privilege(g: Guest) -> None:
    g.gate(0x40, selector=CONFORMING, dpl=3, offset=OUTER_HANDLERS + 0x400)
    g.enter(3)
    g.run(interrupt(0x40), limit=5)
    frame = g.frame()
    assert (g.m.regs.cs, frame.at, frame.cs) == (CONFORMING | 3, STACKS[3] - 12, U_CS)
    assert g.m.regs.ss == U_DS


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_handlers_offset_and_its_limit(g: Guest, beyond: int) -> None:
    g.descriptor(SPARE, 0, HANDLERS + 0x400 - beyond, CODE_RX, 0x4)
    g.gate(0x40, selector=SPARE)
    if beyond:
        g.fault(interrupt(0x40), vector=PROTECTION, error=0)
    else:
        g.put(interrupt(0x40))
        g.m.regs.eip = CODE
        g.m.run(max_instructions=2)  # the HLT there is the only byte within
        assert (g.vector(), g.m.regs.eip) == (0x40, g.handler(0x40) + 1)


# What was not delivered did not happen


@pytest.mark.parametrize("code", [interrupt(0x40), INT3, INTO, INT1])
def test_an_undelivered_int_is_not_retired(g: Guest, code: bytes) -> None:
    for vector in (0x40, BREAK, OVERFLOW, DEBUG):
        g.gate(vector, present=False)
    g.m.regs.eflags = FIXED | OF
    frame = g.fault(NOP, NOP, code, vector=ABSENT, error=g_error(code))
    assert frame.eflags == FIXED | OF | RF


def g_error(code: bytes) -> int:
    vector = {INT3: BREAK, INTO: OVERFLOW, INT1: DEBUG}.get(code, 0x40)
    return vector * 8 | BIT_IDT | (code == INT1)


def test_a_delivered_int_is_retired_once(g: Guest) -> None:
    before = g.m.icount
    stop = g.run(NOP, interrupt(0x40))
    assert stop.icount == g.m.icount == before + 3


def test_into_without_overflow_goes_on(g: Guest) -> None:
    assert g.passes(INTO).eip == CODE + 3


@pytest.mark.parametrize("kprobes", ["fixed", "2.5.26"])
def test_the_probe_layer_leaves_the_guests_traps_alone(kprobes: str) -> None:
    g = Guest(kprobes)
    for code, vector in ((INT3, BREAK), (INT1, DEBUG), (interrupt(DEBUG), DEBUG), (interrupt(BREAK), BREAK)):
        g.m.regs.esp = STACKS[0]
        g.run(code)
        frame = g.frame()
        assert (frame.vector, frame.eip, frame.eflags) == (vector, CODE + len(code), FIXED)
