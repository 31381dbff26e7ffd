"""Non-maskable interrupts and what blocks them (SDM vol. 3, 6.7.1 and 6.8.3)."""

from __future__ import annotations

import pytest

from pykprobes import StopReason

from .guest_code import *

NMI = 2
BODY = CODE + 0x1000


@pytest.fixture
def g() -> Guest:
    """The handler of NMIs counts in EBX and returns."""
    guest = Guest()
    guest.m.memory.write(BODY, b"\x43" + NOP + IRET)
    guest.gate(NMI, offset=BODY)
    return guest


def step(g: Guest, steps: int = 1) -> None:
    assert g.m.run(max_instructions=steps).reason is StopReason.LIMIT


def begin(g: Guest, *parts: bytes) -> None:
    g.put(*parts)
    g.m.regs.eip = CODE


@pytest.mark.parametrize("flags", [0, IF])
@pytest.mark.parametrize("ring", [0, 3])
def test_it_comes_whatever_if_is(g: Guest, flags: int, ring: int) -> None:
    g.enter(ring)
    g.m.regs.eflags = FIXED | flags
    begin(g, NOP, NOP)
    step(g)
    g.m.nmi()
    step(g)
    assert (g.m.regs.eip, g.m.regs.ebx, g.m.regs.cpl) == (BODY + 1, 1, 0)
    assert not g.m.regs.eflags & IF
    assert g.m.memory.u32(g.m.regs.esp) == CODE + 1
    step(g, 3)
    assert (g.m.regs.eip, g.m.regs.cpl) == (CODE + 2, ring)


def test_one_waits_for_the_iret_and_more_are_lost(g: Guest) -> None:
    begin(g, NOP * 8)
    g.m.nmi()
    step(g)
    g.m.nmi()
    g.m.nmi()
    step(g, 2)
    assert (g.m.regs.eip, g.m.regs.ebx) == (CODE, 1)  # back, and the second is due at once
    step(g)
    assert (g.m.regs.eip, g.m.regs.ebx) == (BODY + 1, 2)
    step(g, 4)
    assert (g.m.regs.eip, g.m.regs.ebx) == (CODE + 2, 2)


def test_any_iret_ends_the_blocking_even_one_that_faults(g: Guest) -> None:
    """SDM vol. 3, 25.3: the handler of the #GP is interrupted."""
    g.m.memory.write(BODY, b"\x43" + push(FIXED, K_DS, 0) + IRET)
    begin(g, NOP)
    g.m.nmi()
    step(g)
    g.m.nmi()
    step(g, 4)
    assert (g.m.regs.eip, g.m.regs.ebx) == (BODY + 1, 2)
    assert g.m.memory.u32(g.m.regs.esp) == g.handler(PROTECTION)


def test_exceptions_in_the_handler_do_not_end_it(g: Guest) -> None:
    g.m.memory.write(BODY, b"\x43" + UD2)
    g.m.memory.write(CODE + 0x1800, b"\x83\x04\x24\x02" + RETF + NOP)  # back without IRET
    g.gate(INVALID, offset=CODE + 0x1800)
    g.m.memory.write(BODY + 3, NOP * 4)
    begin(g, NOP)
    g.m.nmi()
    step(g)
    g.m.nmi()
    step(g, 4)
    assert (g.m.regs.eip, g.m.regs.ebx) == (BODY + 5, 1)


@pytest.mark.parametrize("code", [mov_sreg("ss", "edx"), b"\x17", STI], ids=["mov ss", "pop ss", "sti"])
def test_it_waits_behind_a_shadow(g: Guest, code: bytes) -> None:
    g.m.regs.edx = K_DS
    begin(g, push(K_DS), code, NOP, NOP)
    step(g, 2)
    g.m.nmi()
    step(g)
    assert g.m.regs.ebx == 0
    step(g)
    assert (g.m.regs.eip, g.m.regs.ebx) == (BODY + 1, 1)


def test_it_wakes_from_hlt(g: Guest) -> None:
    begin(g, HLT, NOP)
    assert g.m.run(max_instructions=10).reason is StopReason.HALT
    g.m.nmi()
    step(g)
    assert (g.m.regs.eip, g.m.memory.u32(g.m.regs.esp)) == (BODY + 1, CODE + 1)


def test_it_comes_before_a_maskable_interrupt_and_behind_a_debug_trap(g: Guest) -> None:
    """SDM vol. 3, table 6-2."""
    g.m.regs.eflags = FIXED | IF
    begin(g, NOP, NOP)
    g.m.interrupt(0x40)
    g.m.nmi()
    step(g)
    assert g.m.regs.eip == BODY + 1
    g = Guest()
    g.m.regs.eflags = FIXED | TF
    begin(g, NOP, NOP)
    step(g)
    g.m.nmi()
    step(g)
    assert (g.vector(), g.m.memory.u32(g.m.regs.esp)) == (NMI, g.handler(DEBUG))


def test_through_a_task_gate_the_task_return_ends_it(g: Guest) -> None:
    g.descriptor(SPARE, DATA, 0x67, TSS32, 0)
    g.m.memory.write(BODY + 3, b"\xeb\xfb")  # the task goes on behind its IRET
    g.m.memory.write(TSS + 0x1C, imm(g.m.regs.cr3))
    fields = [g.m.regs.cr3, BODY, FIXED, 0, 0, 0, 0, 0x48000, 0, 0, 0, K_DS, K_CS, K_DS, K_DS, 0, 0, 0, 0]
    g.m.memory.write(DATA + 0x1C, b"".join(imm(n) for n in fields))
    g.m.memory.write(IDT + 8 * NMI, gate(SPARE, 0, TASK))
    begin(g, NOP, NOP)
    g.m.nmi()
    step(g)
    g.m.nmi()
    assert (g.m.regs.tr, g.m.regs.eip) == (SPARE, BODY + 1)
    step(g)
    assert g.m.regs.eip == BODY + 2
    step(g)
    assert (g.m.regs.tr, g.m.regs.eip) == (TSS_SELECTOR, CODE)
    step(g)
    assert (g.m.regs.tr, g.m.regs.eip) == (SPARE, BODY)


def test_it_is_delivered_in_virtual_8086_mode(g: Guest) -> None:
    g.m.memory.write(0x9000, NOP * 4)
    g.run(push(1, 2, 3, 4, 0x3000, 0x100, FIXED | VM, 0x900, 0), IRET, limit=11)
    g.m.nmi()
    step(g)
    words = [g.m.memory.u32(g.m.regs.esp + 4 * n) for n in range(9)]
    assert words == [1, 0x900, FIXED | VM, 0x100, 0x3000, 4, 3, 2, 1]
    assert (g.m.regs.eip, g.m.regs.ds, g.m.regs.gs) == (BODY + 1, 0, 0)


def test_a_device_that_asks_for_it_interrupts_behind_its_instruction(g: Guest) -> None:
    g.m.on_port(range(0x70, 0x71), write=lambda port, size, value: g.m.nmi())
    g.put(NOP, b"\xe6\x70", b"\x41" * 5)
    g.m.regs.eip = CODE
    step(g, 3)
    assert (g.m.regs.eip, g.m.regs.ecx, g.m.memory.u32(g.m.regs.esp)) == (BODY + 1, 0, CODE + 3)
    step(g, 7)
    assert g.m.regs.ecx == 5
