"""Single stepping by TF: after which instructions the trap comes, with which eip and flags, and DR6.BS."""

from __future__ import annotations

import pytest

from pykprobes import Machine

from .guest_code import *

ARITH = CF | PF | AF | ZF | SF | 0x800
BS = 0x4000
DR6_INIT = 0xFFFF0FF0


@pytest.fixture
def g() -> Guest:
    return Guest()


def stepped(g: Guest, *parts: bytes, at: int | None = None, flags: int = FIXED | TF, error: bool = False) -> Frame:
    """Run the code with TF set from the start; the frame of the first trap, which must be a single step at `at`."""
    g.put(*parts)
    g.m.regs.eip, g.m.regs.eflags, g.m.regs.dr6 = CODE, flags, 0
    g.m.run(max_instructions=100)
    frame = g.frame(error)
    if at is not None:
        assert (frame.vector, frame.eip) == (DEBUG, at), g.describe(frame)
        assert g.m.regs.dr6 == DR6_INIT | BS
        assert frame.eflags & TF or POPF in parts
        assert not g.m.regs.eflags & TF
    return frame


@pytest.mark.parametrize(
    ("code", "to"),
    [
        (NOP, 1),
        (mov("ecx", 1), 5),
        (load("ecx", DATA), 6),
        (b"\xeb\x10", 0x12),  # jmp
        (b"\x74\x10", 2),  # je, not taken
        (b"\x75\x10", 0x12),  # jne, taken
        (b"\xe8" + imm(0x20), 0x25),  # call
        (b"\xff\xe0", 0x40),  # jmp eax
        (b"\xe2\xfe", 0),  # loop to itself
        (far_jmp(K_CS, CODE + 0x30), 0x30),
        (PUSHF, 1),
        (CLI, 1),
        (STI, 1),
        (b"\x0f\xa2", 2),
        (b"\xe4\x10", 2),
        (b"\xa5", 1),
        (b"\xf3\xa5", 2),  # ecx 0: nothing to do
        (to_control(3, "ebx"), 3),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
def test_after_one_instruction(g: Guest, code: bytes, to: int) -> None:
    g.m.regs.eax, g.m.regs.ebx = CODE + 0x40, g.m.regs.cr3
    g.m.regs.esi = g.m.regs.edi = DATA
    start = g.m.icount
    stepped(g, code, at=CODE + to)
    assert g.m.icount == start + 2  # and the handler's HLT


def test_pushf_shows_tf(g: Guest) -> None:
    frame = stepped(g, PUSHF, at=CODE + 1)
    assert g.m.memory.u32(frame.at + 12) == FIXED | TF


def test_every_iteration_of_a_repeat(g: Guest) -> None:
    g.m.memory.write(DATA, bytes(range(8)))
    g.m.regs.esi, g.m.regs.edi, g.m.regs.ecx = DATA, DATA + 0x100, 3
    g.put(b"\xf3\xa4", NOP)
    g.m.regs.eip, g.m.regs.eflags = CODE, FIXED | TF
    seen = []
    handler = g.handler(DEBUG)
    g.m.memory.write(handler, IRET)
    for _ in range(4):
        g.m.run(until=handler, max_instructions=100)
        seen.append((g.frame().eip - CODE, g.m.regs.ecx, g.m.regs.edi - DATA - 0x100))
    assert seen == [(0, 2, 1), (0, 1, 2), (2, 0, 3), (3, 0, 3)]


@pytest.mark.parametrize("byte", [3, 9])
def test_a_repeated_compare_ends_early(g: Guest, byte: int) -> None:
    g.m.memory.write(DATA, bytes([3, 3, 4]))
    g.m.regs.edi, g.m.regs.ecx, g.m.regs.eax = DATA, 3, byte
    frame = stepped(g, b"\xf3\xae", at=CODE + (2 if byte == 9 else 0))  # repe scasb
    assert g.m.regs.ecx == 2
    # EFLAGS change with the last iteration (SDM vol. 2, REP): 9 - 3 ends it here, 3 - 3 does not
    assert frame.eflags & ARITH == (PF if byte == 9 else 0)


def test_the_last_iteration_of_a_compare_sets_the_flags(g: Guest) -> None:
    g.m.memory.write(DATA, bytes([3]))
    g.m.regs.edi, g.m.regs.ecx, g.m.regs.eax = DATA, 1, 3
    assert stepped(g, b"\xf3\xae", at=CODE + 2).eflags & ARITH == ZF | PF


@pytest.mark.parametrize("code", [mov_sreg("ss"), b"\x17"], ids=["mov", "pop"])
def test_no_trap_behind_a_load_of_ss(g: Guest, code: bytes) -> None:
    g.m.regs.eax = K_DS
    g.m.memory.write(STACKS[0] - 8, imm(K_DS))
    g.m.regs.esp = STACKS[0] - 8
    stepped(g, code, NOP, NOP, at=CODE + len(code) + 1)


def test_two_loads_of_ss_hold_the_trap_back_once_more(g: Guest) -> None:
    """The second one still has its own shadow; the SDM guarantees that of the first only."""
    g.m.regs.eax = K_DS
    frame = stepped(g, mov_sreg("ss"), mov_sreg("ss"), NOP, NOP)
    assert (frame.vector, frame.eip - CODE) in ((DEBUG, 4), (DEBUG, 5))


@pytest.mark.parametrize("code", [b"\x0f\xb2\x0d" + imm(DATA), mov_sreg("ds")], ids=["lss", "mov ds"])
def test_lss_and_other_segments_have_no_shadow(g: Guest, code: bytes) -> None:
    g.m.regs.eax = K_DS
    g.m.memory.write(DATA, imm(STACKS[0]) + imm(K_DS, 2))
    stepped(g, code, NOP, at=CODE + len(code))


@pytest.mark.parametrize(("code", "vector"), [(interrupt(0x40), 0x40), (INT3, BREAK), (INTO, OVERFLOW)])
def test_an_int_clears_tf_and_is_not_trapped(g: Guest, code: bytes, vector: int) -> None:
    frame = stepped(g, code, flags=FIXED | TF | OF)
    assert (frame.vector, frame.eip, frame.eflags) == (vector, CODE + len(code), FIXED | TF | OF)
    assert not g.m.regs.eflags & TF
    assert g.m.regs.dr6 == DR6_INIT


def test_int1_is_no_single_step(g: Guest) -> None:
    frame = stepped(g, INT1)
    assert (frame.vector, frame.eip, g.m.regs.dr6) == (DEBUG, CODE + 1, DR6_INIT)


def test_into_that_does_nothing_is_an_ordinary_instruction(g: Guest) -> None:
    stepped(g, INTO, at=CODE + 1)


def test_popf_that_clears_tf_is_trapped_itself(g: Guest) -> None:
    g.m.memory.write(STACKS[0] - 4, imm(FIXED | CF))
    g.m.regs.esp -= 4
    frame = stepped(g, POPF, NOP, at=CODE + 1)
    assert frame.eflags == FIXED | CF


def test_popf_that_sets_tf_is_not_trapped_but_the_next_is(g: Guest) -> None:
    frame = stepped(g, push(FIXED | TF), POPF, NOP, NOP, flags=FIXED)
    assert (frame.vector, frame.eip) == (DEBUG, CODE + 7)


@pytest.mark.parametrize("ring", [0, 3])
def test_iret_that_sets_tf(g: Guest, ring: int) -> None:
    """One instruction of what it returns to runs."""
    frame_words = push(U_DS, STACKS[3]) if ring else b""
    target = CODE + 0x100
    g.m.memory.write(target, NOP + NOP)
    frame = stepped(g, frame_words + push(FIXED | TF, U_CS if ring else K_CS, target), IRET, flags=FIXED)
    assert (frame.vector, frame.eip, frame.cs & 3) == (DEBUG, target + 1, ring)
    assert g.m.regs.dr6 == DR6_INIT | BS


def test_iret_that_clears_tf_is_trapped_at_its_target(g: Guest) -> None:
    target = CODE + 0x100
    g.m.regs.esp -= 12
    g.m.memory.write(g.m.regs.esp, imm(target) + imm(K_CS) + imm(FIXED))
    frame = stepped(g, IRET)
    assert (frame.vector, frame.eip, frame.eflags) == (DEBUG, target, FIXED)


def test_hlt_is_trapped_and_left(g: Guest) -> None:
    stepped(g, HLT, NOP, at=CODE + 1)


def test_sti_does_not_hold_the_trap_back(g: Guest) -> None:
    stepped(g, STI, NOP, at=CODE + 1)


@pytest.mark.parametrize(
    ("code", "vector", "error"),
    [
        (UD2, INVALID, None),
        (b"\xf7\xf1", DIVIDE, None),
        (load("ecx", 0x7000000), PAGE, 0),
        (mov_sreg("ds", "edx"), 13, 0x70),
    ],
)
def test_a_faulting_instruction_is_not_trapped(g: Guest, code: bytes, vector: int, error: int | None) -> None:
    g.m.regs.edx = GDT_END
    frame = stepped(g, code, error=error is not None)
    assert (frame.vector, frame.error, frame.eip, frame.eflags) == (vector, error, CODE, FIXED | TF | RF)
    assert g.m.regs.dr6 == DR6_INIT


def test_a_restarted_fault_is_trapped_once(g: Guest) -> None:
    """The handler maps nothing; it skips the instruction by its frame and returns with TF."""
    g.m.memory.write(g.handler(INVALID), b"\x83\x04\x24\x02" + IRET)  # add dword [esp], 2
    frame = stepped(g, UD2, NOP, NOP)
    assert (frame.vector, frame.eip) == (DEBUG, CODE + 3)


def test_in_ring_3_the_trap_switches_stacks(g: Guest) -> None:
    g.enter(3)
    frame = stepped(g, NOP, at=CODE + 1)
    assert (frame.cs, frame.esp, frame.ss) == (U_CS, STACKS[3], U_DS)


def test_stepping_a_whole_program_changes_nothing_but_dr6(g: Guest) -> None:
    body = (
        mov("ecx", 5) + mov("eax", 0) + b"\x01\xc8" + b"\x50\x58" + b"\xe2\xfa" + b"\xe8" + imm(3) + interrupt(DONE)
        + NOP
        + b"\x40" + RET
    )  # fmt: skip
    for name in ("plain", "stepped"):
        g = Guest()
        g.m.memory.write(g.handler(DEBUG), b"\xff\x05" + imm(DATA) + IRET)
        g.m.regs.eflags = FIXED | (TF if name == "stepped" else 0)
        g.run(body)
        frame = g.frame()
        assert (frame.vector, frame.eip, g.m.regs.eax, g.m.regs.ecx) == (DONE, CODE + 23, 16, 0)
        steps = g.m.memory.u32(DATA)
        assert steps == (2 + 4 * 5 + 3 if name == "stepped" else 0)


def test_an_interrupt_comes_behind_the_step_trap(g: Guest) -> None:
    """The trap's own gate has cleared IF; it is taken when the handler has returned."""
    g.m.memory.write(g.handler(DEBUG), NOP + IRET)
    g.m.regs.eflags = FIXED | IF
    g.put(push(FIXED | IF | TF), POPF, NOP, NOP, NOP)
    g.m.regs.eip = CODE
    g.m.run(max_instructions=2)
    assert g.m.interrupt(0x40)
    g.m.run(max_instructions=100)
    frame = g.frame()
    assert frame.vector == 0x40


def through_a_call_gate(g: Guest) -> tuple[bytes, int, int]:
    g.call_gate(SPARE, K_CS, CODE + 0x800, params=2)
    g.enter(3)
    return far_call(SPARE | 3), CODE + 0x800, K_CS


def to_an_outer_ring(g: Guest) -> tuple[bytes, int, int]:
    g.m.memory.write(STACKS[0] - 16, imm(CODE + 0x800) + imm(U_CS) + imm(STACKS[3]) + imm(U_DS))
    g.m.regs.esp = STACKS[0] - 16
    return RETF, CODE + 0x800, U_CS


def to_virtual_8086_mode(g: Guest) -> tuple[bytes, int, int]:
    words = [0x800, 0x2000, FIXED | VM, 0x1000, 0x3000, 0, 0, 0, 0]
    g.m.regs.esp -= 36
    g.m.memory.write(g.m.regs.esp, b"".join(map(imm, words)))
    return IRET, 0x800, 0x2000


def sysenter(g: Guest) -> tuple[bytes, int, int]:
    wrmsr = b"".join(mov("ecx", 0x174 + i) + mov("eax", v) + mov("edx", 0) + b"\x0f\x30"
                     for i, v in enumerate((K_CS, STACKS[0], CODE + 0x800)))  # fmt: skip
    g.run(wrmsr + interrupt(DONE))
    g.enter(3)
    return b"\x0f\x34", CODE + 0x800, K_CS


def sysexit(g: Guest) -> tuple[bytes, int, int]:
    sysenter(g)
    g.m.regs.cs, g.m.regs.ss, g.m.regs.esp = K_CS, K_DS, STACKS[0]
    g.m.regs.edx, g.m.regs.ecx = CODE + 0x800, STACKS[3]
    return b"\x0f\x35", CODE + 0x800, U_CS


TRANSFERS = [through_a_call_gate, to_an_outer_ring, to_virtual_8086_mode, sysenter, sysexit]


@pytest.mark.parametrize("prepare", TRANSFERS)
def test_through_every_kind_of_far_transfer(g: Guest, prepare: object) -> None:
    """The trap comes at the target, whatever the mode and ring there."""
    code, target, cs = prepare(g)  # type: ignore[operator]
    g.put(code, NOP)
    g.m.regs.eip, g.m.regs.eflags, g.m.regs.dr6 = CODE, FIXED | TF, 0
    g.m.run(max_instructions=20)
    frame = g.frame()
    assert (frame.vector, frame.eip, frame.cs, g.m.regs.dr6) == (DEBUG, target, cs, DR6_INIT | BS)


@pytest.mark.parametrize("code", [b"\x9a\x10\x00\x00\x02", b"\xea\x10\x00\x00\x02"], ids=["call", "jmp"])
def test_in_real_mode(code: bytes) -> None:
    with Machine(memory=1 << 20, kernel=None) as m:
        m.memory.write(4, b"\x00\x40\x00\x00")  # vector 1: 0000:4000
        m.memory.write(0x4000, HLT)
        m.memory.write(0x1000, code)
        m.regs.cs, m.regs.ss, m.regs.eip, m.regs.esp, m.regs.eflags = 0, 0, 0x1000, 0x8000, FIXED | TF
        m.run(max_instructions=5)
        words = [m.memory.u16(m.regs.esp + 2 * i) for i in range(3)]
        assert (m.regs.eip, words) == (0x4001, [0x10, 0x200, FIXED | TF])


def test_a_run_ends_before_an_undefined_instruction_behind_its_last() -> None:
    with Machine() as m:
        m.memory.write(0x10000, b"\x90\x90\xff\xff")  # nop; nop; undefined
        for steps in ((1, 1), (2,)):
            m.regs.eip = 0x10000
            for n in steps:
                stop = m.run(max_instructions=n)
                assert stop.reason is StopReason.LIMIT
            assert m.regs.eip == 0x10002
            assert m.step().reason is StopReason.TRAP
