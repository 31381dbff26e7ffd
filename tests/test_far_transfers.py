"""Far jumps, calls and returns: code segments, call gates, privilege changes, IRET."""

from __future__ import annotations

import pytest

from pykprobes import StopReason

from .guest_code import *

TARGET = CODE + 0x800
FAR = [far_jmp, far_call]


@pytest.fixture
def g() -> Guest:
    guest = Guest()
    guest.m.memory.write(TARGET, interrupt(DONE))
    return guest


def stack(g: Guest, at: int, count: int, size: int = 4) -> list[int]:
    data = g.m.memory.read(at, count * size)
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


# Direct


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize(
    ("selector", "access", "ring", "vector", "error"),
    [
        (0, None, 0, PROTECTION, 0),
        (3, None, 0, PROTECTION, 0),
        (GDT_END, None, 0, PROTECTION, GDT_END),
        (LDT_END | 4, None, 0, PROTECTION, LDT_END | 4),
        (K_DS, None, 0, PROTECTION, K_DS),
        (LDT_SELECTOR, None, 0, PROTECTION, LDT_SELECTOR),
        (SPARE, INT32 | 0x80, 0, PROTECTION, SPARE),
        (SPARE, CODE_RX, 0, None, 0),
        (SPARE, CODE_X, 0, None, 0),
        (SPARE | 1, CODE_RX, 0, PROTECTION, SPARE),
        (SPARE, CODE_RX | 0x60, 0, PROTECTION, SPARE),
        (SPARE, CODE_RX, 3, PROTECTION, SPARE),
        (SPARE, CODE_RX | 0x60, 3, None, 0),  # a smaller RPL does not matter
        (SPARE | 3, CODE_CONFORMING, 0, None, 0),
        (SPARE, CODE_CONFORMING, 3, None, 0),
        (SPARE, CODE_CONFORMING | 0x60, 0, PROTECTION, SPARE),
        (SPARE, CODE_RX & 0x7F, 0, ABSENT, SPARE),
        (SPARE, CODE_RX & 0x7F | 0x60, 0, PROTECTION, SPARE),
        (LDT_CODE, None, 0, None, 0),
    ],
)
def test_direct(
    g: Guest, far: object, selector: int, access: int | None, ring: int, vector: int | None, error: int
) -> None:
    assert callable(far)
    if access is not None:
        g.descriptor(SPARE, 0, 0xFFFFF, access)
    code = far(selector, TARGET)
    if vector is not None:
        g.fault(code, vector=vector, error=error, ring=ring)
        assert access is None or g.access_byte(SPARE) == access
        return
    g.enter(ring)
    top, old_cs = g.m.regs.esp, g.m.regs.cs
    g.run(code)
    frame = g.frame()
    assert (frame.vector, frame.eip, frame.cs) == (DONE, TARGET + 2, selector & ~3 | ring)
    called = 8 if far is far_call else 0
    assert (frame.esp if ring else frame.at + 12) == top - called
    if called:
        assert stack(g, top - 8, 2) == [CODE + 7, old_cs]
    if access is not None:
        assert g.access_byte(SPARE) == access | 1


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize("beyond", [0, 1])
def test_direct_limit(g: Guest, far: object, beyond: int) -> None:
    assert callable(far)
    g.descriptor(SPARE, 0, TARGET + 1 - beyond, CODE_RX, 0x4)
    if beyond:
        frame = g.fault(far(SPARE, TARGET + 1), vector=PROTECTION, error=0)
        assert frame.cs == K_CS
    else:
        g.m.memory.write(TARGET + 1, INT3)
        g.run(far(SPARE, TARGET + 1))
        assert g.vector() == BREAK


def test_16_bit_operands_and_memory_operands(g: Guest) -> None:
    g.descriptor(SPARE, TARGET - 0x1234, 0xFFFFF, CODE_RX)
    g.m.memory.write(DATA, imm(0x1234, 2) + imm(SPARE, 2) + imm(0x1234) + imm(SPARE, 2))
    g.m.memory.fill(STACKS[0] - 16, 16, 0xEE)
    for code, size in (
        (O16 + b"\x9a" + imm(0x1234, 2) + imm(SPARE, 2), 2),
        (O16 + b"\xff\x1d" + imm(DATA), 2),
        (b"\xff\x1d" + imm(DATA + 4), 4),
    ):
        g.m.regs.esp = STACKS[0]
        g.run(code)
        frame = g.frame()
        assert (frame.vector, frame.eip, frame.cs) == (DONE, 0x1236, SPARE)
        assert stack(g, frame.at + 12, 2, size) == [CODE + len(code) & (1 << 8 * size) - 1, K_CS]
    for code in (b"\xff\x2d" + imm(DATA + 4), O16 + b"\xff\x2d" + imm(DATA)):
        g.m.regs.esp = STACKS[0]
        g.run(code)
        assert (g.frame().cs, g.frame().at) == (SPARE, STACKS[0] - 12)


def test_a_far_call_without_room_for_its_frame_does_nothing(g: Guest) -> None:
    g.descriptor(SPARE2, 0, 0x2FFF7, DOWN_RW, 0x4)
    g.put(set_sreg("ss", SPARE2), far_call(K_CS, TARGET))
    for esp, vector in ((0x30000, DONE), (0x2FFFC, DOUBLE)):
        g.m.regs.ss, g.m.regs.esp, g.m.regs.eip = K_DS, esp, CODE
        g.gate(DONE)
        stop = g.m.run(max_instructions=3 if vector == DONE else 10)
        if vector == DONE:
            assert g.m.regs.esp == 0x2FFF8 and stop.icount
        else:
            assert (stop.reason, stop.eip) == (StopReason.SHUTDOWN, CODE + 7)  # no stack for #SS either


# Call gates


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize(
    ("ring", "rpl", "dpl", "allowed"),
    [(0, 0, 0, True), (0, 1, 0, False), (0, 3, 3, True), (3, 0, 3, True), (3, 3, 2, False), (1, 0, 0, False)],
)
def test_gate_privilege(g: Guest, far: object, ring: int, rpl: int, dpl: int, allowed: bool) -> None:
    assert callable(far)
    g.call_gate(SPARE, CONFORMING, TARGET, dpl=dpl)
    code = far(SPARE | rpl, 0xDEAD)
    if not allowed:
        g.fault(code, vector=PROTECTION, error=SPARE, ring=ring)
        return
    g.enter(ring)
    top, cs = g.m.regs.esp, g.m.regs.cs
    g.run(code)
    frame = g.frame()
    assert (frame.vector, frame.eip, frame.cs) == (DONE, TARGET + 2, CONFORMING | ring)
    if far is far_call:
        assert stack(g, top - 8, 2) == [CODE + 7, cs]


@pytest.mark.parametrize("far", FAR)
def test_an_absent_gate(g: Guest, far: object) -> None:
    assert callable(far)
    g.m.memory.write(GDT + SPARE, gate(K_CS, TARGET, CALL32, 3, present=False))
    g.fault(far(SPARE), vector=ABSENT, error=SPARE)


@pytest.mark.parametrize("far", FAR)
@pytest.mark.parametrize(
    ("target", "access", "vector", "error"),
    [
        (0, None, PROTECTION, 0),
        (GDT_END, None, PROTECTION, GDT_END),
        (K_DS, None, PROTECTION, K_DS),
        (TSS_SELECTOR, None, PROTECTION, TSS_SELECTOR),
        (U_CS, None, PROTECTION, U_CS & ~3),
        (SPARE2, CODE_RX & 0x7F, ABSENT, SPARE2),
    ],
)
def test_bad_gate_targets(g: Guest, far: object, target: int, access: int | None, vector: int, error: int) -> None:
    assert callable(far)
    if access is not None:
        g.descriptor(SPARE2, 0, 0xFFFFF, access)
    g.call_gate(SPARE, target)
    g.fault(far(SPARE), vector=vector, error=error)


def test_a_jump_through_a_gate_cannot_reach_an_inner_ring(g: Guest) -> None:
    g.call_gate(SPARE, K_CS)
    g.fault(far_jmp(SPARE | 3), vector=PROTECTION, error=K_CS, ring=3)


@pytest.mark.parametrize("params", [0, 1, 5, 31])
def test_a_call_to_an_inner_ring_copies_parameters(g: Guest, params: int) -> None:
    g.call_gate(SPARE, K_CS, TARGET, params=params)
    g.enter(3)
    words = [0x1000 + n for n in range(params)]
    g.run(push(*reversed(words)), far_call(SPARE | 3))
    frame = g.frame()
    assert (frame.vector, frame.cs, frame.esp, g.m.regs.cpl) == (DONE, K_CS, None, 0)
    esp = STACKS[3] - 4 * params
    assert stack(g, frame.at + 12, params + 4) == [g.code_end, U_CS, *words, esp, U_DS]
    assert frame.at + 12 + 4 * (params + 4) == STACKS[0]
    assert g.m.regs.ss == K_DS


def test_a_16_bit_gate_copies_words(g: Guest) -> None:
    g.call_gate(SPARE, SPARE2, 0xFFFF0000 | 0x800, kind=CALL16, params=2)
    g.descriptor(SPARE2, CODE, 0xFFFFF, CODE_RX)
    g.enter(3)
    g.m.regs.esp = 0x3F008
    g.run(O16 + b"\x68" + imm(0x2222, 2) + O16 + b"\x68" + imm(0x1111, 2), far_call(SPARE | 3))
    frame = g.frame()
    assert (frame.vector, frame.cs, frame.eip) == (DONE, SPARE2, 0x802)
    assert stack(g, STACKS[0] - 12, 6, 2) == [g.code_end & 0xFFFF, U_CS, 0x1111, 0x2222, 0xF004, U_DS]


@pytest.mark.parametrize("params", [0, 3])
def test_a_gate_frame_has_to_fit(g: Guest, params: int) -> None:
    g.gate(STACK, selector=R1_CS, offset=OUTER_HANDLERS + 16 * STACK)
    g.call_gate(SPARE, K_CS, TARGET, params=params)
    for short in (0, 1):
        g.descriptor(SPARE2, 0, STACKS[0] - 16 - 4 * params - 1 + short, DOWN_RW, 0x4)
        g.stack_of_ring(0, SPARE2)
        g.enter(3)
        g.put(far_call(SPARE | 3))
        g.m.regs.eip = CODE
        if short:
            g.m.run(max_instructions=3)
            frame = g.frame(True)
            assert (frame.vector, frame.error, frame.eip, frame.esp) == (STACK, SPARE2, CODE, STACKS[3])
        else:
            g.m.run(max_instructions=1)
            assert (g.m.regs.eip, g.m.regs.esp) == (TARGET, STACKS[0] - 16 - 4 * params)


def test_bad_inner_stacks_of_call_gates_are_ts(g: Guest) -> None:
    g.gate(BAD_TSS, selector=R1_CS, offset=OUTER_HANDLERS + 16 * BAD_TSS)
    g.call_gate(SPARE, K_CS)
    g.stack_of_ring(0, K_DS | 1)
    g.fault(far_call(SPARE), vector=BAD_TSS, error=K_DS, ring=3)


def test_a_gates_offset_has_to_lie_in_its_segment(g: Guest) -> None:
    g.descriptor(SPARE2, 0, 0xFFF, CODE_RX, 0x4)
    g.call_gate(SPARE, SPARE2, 0x1000)
    for ring in (0, 3):
        g.m.regs.esp = STACKS[ring]
        g.fault(far_call(SPARE | ring), vector=PROTECTION, error=0, ring=ring)


# Returns


def test_a_gate_call_and_back_releases_parameters_on_both_stacks(g: Guest) -> None:
    g.call_gate(SPARE, K_CS, TARGET, params=2)
    g.m.memory.write(TARGET, retf(8))
    before = g.m.icount
    g.enter(3)
    g.run(push(0x22, 0x11), far_call(SPARE | 3), NOP, interrupt(DONE))
    frame = g.frame()
    assert (frame.vector, frame.cs, frame.ss, frame.esp) == (DONE, U_CS, U_DS, STACKS[3])
    assert g.m.icount == before + 2 + 1 + 1 + 1 + 1 + 1  # the last is the handler's HLT


def outer_frame(cs: int = U_CS, ss: int = U_DS, eip: int = TARGET, esp: int = STACKS[3], params: int = 0) -> bytes:
    """Pushes what a return to ring 3 pops."""
    return push(ss, esp, *[0] * params, cs, eip)


@pytest.mark.parametrize(("code", "params"), [(RETF, 0), (retf(12), 3)])
def test_return_to_ring_3(g: Guest, code: bytes, params: int) -> None:
    g.run(outer_frame(params=params), code)
    frame = g.frame()
    assert (frame.vector, frame.cs, frame.ss, frame.esp) == (DONE, U_CS, U_DS, STACKS[3] + 4 * params)


@pytest.mark.parametrize("how", ["retf", "iret"])
def test_a_return_to_an_outer_ring_drops_inner_segments(g: Guest, how: str) -> None:
    g.descriptor(SPARE, 0, 0xFFFFF, CODE_CONFORMING)
    g.m.regs.es, g.m.regs.fs, g.m.regs.gs = U_DS, SPARE, R1_DS
    code = push(U_DS, STACKS[3]) + (push(FIXED) if how == "iret" else b"") + push(U_CS, TARGET)
    g.run(code, IRET if how == "iret" else RETF)
    assert g.frame().vector == DONE
    assert (g.m.regs.ds, g.m.regs.es, g.m.regs.fs, g.m.regs.gs) == (0, U_DS, SPARE, 0)


@pytest.mark.parametrize("how", ["retf", "iret"])
@pytest.mark.parametrize(
    ("cs", "ss", "ring", "vector", "error"),
    [
        (0, U_DS, 0, PROTECTION, 0),
        (GDT_END | 3, U_DS, 0, PROTECTION, GDT_END),
        (K_DS, U_DS, 0, PROTECTION, K_DS),
        (TSS_SELECTOR, U_DS, 0, PROTECTION, TSS_SELECTOR),
        (K_CS, U_DS, 3, PROTECTION, K_CS),  # an inner ring
        (K_CS | 3, U_DS, 0, PROTECTION, K_CS),  # RPL and DPL differ
        (U_CS & ~3, U_DS, 0, PROTECTION, U_CS & ~3),
        (SPARE | 1, U_DS, 0, PROTECTION, SPARE),  # conforming, DPL 3 beyond RPL
        (SPARE2 | 3, U_DS, 0, ABSENT, SPARE2),
        (U_CS, 0, 0, PROTECTION, 0),
        (U_CS, 3, 0, PROTECTION, 0),
        (U_CS, GDT_END | 3, 0, PROTECTION, GDT_END),
        (U_CS, U_DS & ~3, 0, PROTECTION, U_DS & ~3),
        (U_CS, K_DS | 3, 0, PROTECTION, K_DS),
        (U_CS, U_CS, 0, PROTECTION, U_CS & ~3),
        (U_CS, SPARE3 | 3, 0, STACK, SPARE3),
    ],
)
def test_bad_returns(g: Guest, how: str, cs: int, ss: int, ring: int, vector: int, error: int) -> None:
    g.descriptor(SPARE, 0, 0xFFFFF, CODE_CONFORMING | 0x60)
    g.descriptor(SPARE2, 0, 0xFFFFF, CODE_RX & 0x7F | 0x60)
    g.descriptor(SPARE3, 0, 0xFFFFF, DATA_RW & 0x7F | 0x60)
    flags = push(FIXED | CF) if how == "iret" else b""
    code = IRET if how == "iret" else RETF
    frame = g.fault(push(ss, STACKS[3]), flags, push(cs, TARGET), code, vector=vector, error=error, ring=ring)
    assert frame.eflags & ~RF == FIXED
    assert g.m.regs.ds == (U_DS if ring else K_DS)


@pytest.mark.parametrize("cs", [K_CS, U_CS])
def test_a_return_beyond_the_limit(g: Guest, cs: int) -> None:
    g.descriptor(cs, 0, 0x5FFFF, CODE_RX | (cs & 3) << 5, 0x4)
    frame = g.fault(outer_frame(cs, eip=0x60000), RETF, vector=PROTECTION, error=0)
    assert frame.cs == K_CS


def test_a_conforming_segment_is_returned_to_at_its_rpl(g: Guest) -> None:
    g.run(outer_frame(CONFORMING | 3), RETF)
    frame = g.frame()
    assert (frame.vector, frame.cs, frame.ss) == (DONE, CONFORMING | 3, U_DS)


def test_16_bit_returns(g: Guest) -> None:
    g.descriptor(SPARE, CODE, 0xFFFFF, CODE_RX)
    words = b"".join(O16 + b"\x68" + imm(value, 2) for value in (SPARE, 0x800))
    g.run(words, O16 + RETF)
    assert (g.frame().vector, g.frame().cs, g.frame().at) == (DONE, SPARE, STACKS[0] - 12)
    g.m.regs.esp = STACKS[0]
    g.m.regs.eflags = FIXED | AC
    g.run(O16 + b"\x68" + imm(CF, 2) + words, O16 + IRET)
    assert (g.frame().vector, g.frame().eflags) == (DONE, FIXED | CF | AC)
