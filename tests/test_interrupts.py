"""External interrupts, the timer, HLT, and the exact instruction count at every stop."""

from __future__ import annotations

import pytest

from pykprobes import Machine, StopReason

from .guest_code import *

COUNTER = DATA
TICK = b"\xff\x05" + imm(COUNTER) + IRET  # inc dword [COUNTER]; iret
SPIN = b"\x40\xeb\xfd"  # inc eax; jmp back


@pytest.fixture
def g() -> Guest:
    return Guest()


# Masking


def test_a_masked_interrupt_stays_pending(g: Guest) -> None:
    assert g.m.interrupt(0x40)
    assert not g.m.interrupt(0x40)  # each vector once
    assert g.passes(NOP).vector == DONE
    g.m.regs.esp = STACKS[0]
    g.run(STI, NOP, NOP)
    frame = g.frame()
    assert (frame.vector, frame.eip, frame.eflags) == (0x40, CODE + 2, FIXED | IF)
    assert g.m.interrupt(0x41)


def test_sti_holds_interrupts_back_only_if_they_were_off(g: Guest) -> None:
    g.m.regs.eflags = FIXED | IF
    g.put(STI, NOP, NOP)
    g.m.regs.eip = CODE
    g.m.run(max_instructions=1)
    g.m.interrupt(0x40)
    g.m.run(max_instructions=5)
    assert (g.vector(), g.frame().eip) == (0x40, CODE + 1)


@pytest.mark.parametrize(
    ("code", "at"),
    [
        (STI + CLI + NOP, None),
        (STI + STI + NOP, 2),
        (STI + PUSHF + POPF + NOP, 2),
        (push(FIXED | IF) + POPF + NOP, 6),
        (STI + mov_sreg("ss", "ebx") + NOP + NOP, 4),
    ],
)
def test_when_interrupts_come_on(g: Guest, code: bytes, at: int | None) -> None:
    g.m.regs.ebx = K_DS
    g.m.interrupt(0x40)
    g.run(code, interrupt(DONE))
    assert (g.vector(), g.frame().eip - CODE) == ((DONE, len(code) + 2) if at is None else (0x40, at))


@pytest.mark.parametrize(
    ("code", "shadow"),
    [
        (mov_sreg("ss", "ebx"), True),
        (b"\x17", True),
        (b"\x0f\xb2\x0d" + imm(DATA), False),
        (mov_sreg("es", "ebx"), False),
        (b"\x07", False),
    ],
    ids=["mov ss", "pop ss", "lss", "mov es", "pop es"],
)
def test_a_load_of_ss_holds_interrupts_back(g: Guest, code: bytes, shadow: bool) -> None:
    g.m.memory.write(DATA, imm(0x1234) + imm(K_DS, 2))
    g.m.memory.write(STACKS[0] - 4, imm(K_DS))
    g.m.regs.ebx, g.m.regs.esp, g.m.regs.eflags = K_DS, STACKS[0] - 4, FIXED | IF
    g.put(code, NOP, NOP)
    g.m.regs.eip = CODE
    g.m.run(max_instructions=1)
    g.m.interrupt(0x40)
    g.m.run(max_instructions=5)
    assert (g.vector(), g.frame().eip) == (0x40, CODE + len(code) + shadow)


def test_iret_brings_them_on_at_its_target(g: Guest) -> None:
    g.m.interrupt(0x40)
    g.m.memory.write(CODE + 0x100, NOP)
    g.run(push(FIXED | IF, K_CS, CODE + 0x100), IRET)
    assert (g.vector(), g.frame().eip) == (0x40, CODE + 0x100)


def test_a_handler_behind_a_trap_gate_can_be_interrupted(g: Guest) -> None:
    g.gate(0x50, TRAP32)
    g.m.memory.write(g.handler(0x50), NOP + NOP + HLT)
    g.m.regs.eflags = FIXED | IF
    g.put(interrupt(0x50))
    g.m.regs.eip = CODE
    g.m.run(max_instructions=2)
    g.m.interrupt(0x40)
    g.m.run(max_instructions=5)
    assert (g.vector(), g.frame().eip) == (0x40, g.handler(0x50) + 1)


def test_an_interrupt_between_iterations(g: Guest) -> None:
    """A repeated instruction is resumed where it was: its eip and counter are in the frame and the registers."""
    g.m.memory.write(g.handler(0x40), TICK)
    g.m.timer(0x40, 7)
    g.m.regs.eflags = FIXED | IF
    g.m.memory.write(DATA + 0x100, bytes(range(200)))
    g.passes(mov("esi", DATA + 0x100), mov("edi", DATA + 0x400), mov("ecx", 200), b"\xf3\xa4", CLI)
    assert g.m.memory.read(DATA + 0x400, 200) == bytes(range(200))
    assert g.m.regs.ecx == 0


# HLT


def test_hlt_without_a_waker(g: Guest) -> None:
    stop = g.run(NOP, HLT, NOP)
    assert (stop.reason, stop.eip) == (StopReason.HALT, CODE + 2)
    start = g.m.icount
    stop = g.m.run()
    assert (stop.reason, stop.eip, stop.icount) == (StopReason.HALT, CODE + 2, start)


def test_hlt_is_left_by_an_interrupt(g: Guest) -> None:
    g.m.memory.write(g.handler(0x40), TICK)
    g.m.regs.eflags = FIXED | IF
    g.run(HLT, interrupt(DONE))
    g.m.interrupt(0x40)
    g.m.run(max_instructions=10)
    assert (g.vector(), g.m.memory.u32(COUNTER)) == (DONE, 1)


def test_hlt_with_interrupts_off_is_not_left(g: Guest) -> None:
    g.m.timer(0x40, 10)
    assert g.run(HLT).reason is StopReason.HALT
    g.m.interrupt(0x41)
    assert g.m.run().reason is StopReason.HALT


def test_sti_hlt_does_not_lose_the_interrupt(g: Guest) -> None:
    g.m.interrupt(0x40)
    g.run(STI, HLT, NOP)
    assert (g.vector(), g.frame().eip) == (0x40, CODE + 2)


def test_hlt_waits_for_the_timer_without_using_instructions(g: Guest) -> None:
    g.m.memory.write(g.handler(0x40), TICK)
    g.m.timer(0x40, 1000)
    g.m.regs.eflags = FIXED | IF
    start = g.m.icount
    tsc = b"\x0f\x31\x89\xc3"  # rdtsc; mov ebx, eax
    stop = g.run(tsc, HLT, HLT, b"\x0f\x31", interrupt(DONE))
    assert g.vector() == DONE
    assert stop.icount - start == 2 + 1 + 2 + 1 + 2 + 1 + 1 + 1
    assert g.m.memory.u32(COUNTER) == 2
    assert 1990 <= g.m.regs.eax - g.m.regs.ebx <= 2010  # time passed all the same


# The timer


@pytest.mark.parametrize("period", [1, 2, 3, 7, 64, 65, 100, 1000])
def test_ticks_come_every_period(g: Guest, period: int) -> None:
    """The handler reads the time: each tick is taken at an exact instruction count."""
    g.m.memory.write(g.handler(0x40), HLT)
    g.put(SPIN)
    g.m.regs.eip, g.m.regs.eflags = CODE, FIXED | IF
    start = g.m.icount
    g.m.timer(0x40, period)
    for n in range(1, 4):
        stop = g.m.run(until=g.handler(0x40), max_instructions=10000)
        assert (stop.reason, stop.icount) == (StopReason.UNTIL, start + n * period)
        frame = g.frame()
        assert frame.eip == CODE + n * period % 2
        g.m.regs.eip, g.m.regs.eflags = frame.eip, frame.eflags


def test_the_timer_can_be_switched_off(g: Guest) -> None:
    g.m.memory.write(g.handler(0x40), TICK)
    g.m.timer(0x40, 5)
    g.m.regs.eflags = FIXED | IF
    g.run(SPIN, limit=50)
    ticks = g.m.memory.u32(COUNTER)
    assert 5 <= ticks <= 10
    g.m.timer(0x40, 0)
    g.m.run(max_instructions=100)
    assert g.m.memory.u32(COUNTER) <= ticks + 1


def test_a_masked_tick_comes_once(g: Guest) -> None:
    g.m.memory.write(g.handler(0x40), TICK)
    g.m.timer(0x40, 10)
    g.run(mov("ecx", 100), b"\xe2\xfe", b"\xb8" + imm(0), STI, NOP, NOP, CLI, interrupt(DONE))
    assert (g.vector(), g.m.memory.u32(COUNTER)) == (DONE, 1)


def test_the_timer_of_the_built_in_kernel() -> None:
    with Machine(memory=MEMORY) as m:
        ticks: list[int] = []
        m.on_trap(0x40, lambda machine, regs: ticks.append(regs.eip) or True)
        m.memory.write(CODE, SPIN)
        m.regs.eip = CODE
        m.timer(0x40, 100)
        stop = m.run(max_instructions=1000)
        assert (stop.reason, stop.icount, m.regs.eax) == (StopReason.LIMIT, 1000, 500)
        assert len(ticks) in (9, 10) and set(ticks) <= {CODE, CODE + 1}


# Exact stops

MIX = (
    mov("ecx", 40) + b"\x01\xc8" + b"\x50\x5b" + b"\x83\xf8\x05" + b"\x75\x00" + b"\xa3" + imm(DATA + 0x40)
    + interrupt(0x50)
    + b"\xe2\xee" + b"\xeb\xfe"
)  # fmt: skip


def trace(g: Guest, steps: int) -> list[tuple[int, int, int]]:
    g.gate(0x50)
    g.m.memory.write(g.handler(0x50), b"\x9c\x9d" + IRET)
    g.put(MIX)
    g.m.regs.eip, g.m.regs.eflags = CODE, FIXED | IF
    out = []
    for _ in range(steps):
        stop = g.m.step()
        assert stop.reason is StopReason.LIMIT
        out.append((g.m.icount, g.m.regs.eip, g.m.regs.eax))
    return out


@pytest.mark.parametrize("timer", [0, 17])
@pytest.mark.parametrize("chunk", [2, 3, 5, 63, 64, 65, 66, 130, 400])
def test_any_limit_stops_where_single_steps_would(timer: int, chunk: int) -> None:
    single, other = Guest(), Guest()
    for g in (single, other):
        g.m.memory.write(g.handler(0x40), TICK)
        g.m.timer(0x40, timer)
    expected = trace(single, 400)
    start = other.m.icount
    trace(other, 0)
    done = 0
    while done + chunk <= 400:
        done += chunk
        stop = other.m.run(max_instructions=chunk)
        assert (stop.reason, stop.icount) == (StopReason.LIMIT, start + done)
        assert (other.m.icount, other.m.regs.eip, other.m.regs.eax) == expected[done - 1]


@pytest.mark.parametrize("n", [1, 2, 5, 39, 40])
def test_until_stops_each_time_it_comes_by(g: Guest, n: int) -> None:
    trace(g, 0)
    start = g.m.icount
    where = CODE + 5
    for turn in range(n):
        stop = g.m.run(until=where, max_instructions=10000)
        assert (stop.reason, stop.eip, stop.icount - start) == (StopReason.UNTIL, where, 1 + 11 * turn)


def test_until_and_limit_at_once(g: Guest) -> None:
    g.put(NOP, NOP, NOP)
    g.m.regs.eip = CODE
    assert g.m.run(until=CODE + 2, max_instructions=2).reason is StopReason.UNTIL
    g.m.regs.eip = CODE
    assert g.m.run(until=CODE + 2, max_instructions=1).reason is StopReason.LIMIT
    assert g.m.run(until=CODE + 2, max_instructions=1).reason is StopReason.UNTIL


def test_until_at_a_handler_of_a_fault(g: Guest) -> None:
    g.put(NOP, UD2)
    g.m.regs.eip = CODE
    start = g.m.icount
    stop = g.m.run(until=g.handler(INVALID), max_instructions=10)
    assert (stop.reason, stop.icount - start) == (StopReason.UNTIL, 1)


def test_repeats_count_as_the_limit_sees_them(g: Guest) -> None:
    """A stop in the middle of a repeated instruction can be resumed, whatever the limit."""
    data = bytes(range(100))
    ends = set()
    for chunk in (1, 3, 7, 1000):
        g = Guest()
        g.m.memory.write(DATA + 0x100, data)
        g.put(mov("esi", DATA + 0x100), mov("edi", DATA + 0x200), mov("ecx", 100), b"\xf3\xa4", HLT)
        g.m.regs.eip = CODE
        start = g.m.icount
        while (stop := g.m.run(max_instructions=chunk)).reason is StopReason.LIMIT:
            assert g.m.icount - start <= 200
        assert (stop.reason, g.m.memory.read(DATA + 0x200, 100)) == (StopReason.HALT, data)
        ends.add(stop.icount - start)
    assert len(ends) == 1
