"""DR0-DR7 against the tables of the manual's chapter 17.2: I/O breakpoints, lengths, RF, DR4 and DR5."""

from __future__ import annotations

import pytest

from pykprobes import StopReason
from tests.guest_code import CODE, DATA, STACKS, Guest, imm, interrupt, to_control, to_debug

DEBUG, ILLOP, DONE = 1, 6, 0x7F
DR6_FIXED, DE, RF = 0xFFFF0FF0, 8, 0x10000
NOP = b"\x90"


@pytest.fixture
def g() -> Guest:
    return Guest()


def set_up(g: Guest, address: int, kind: int, length: int, which: int = 0, enable: int = 1) -> None:
    setattr(g.m.regs, f"dr{which}", address)
    g.m.regs.dr7 = enable << 2 * which | (length << 2 | kind) << (16 + 4 * which)
    g.m.regs.dr6 = 0
    g.m.regs.esp = STACKS[0]


@pytest.mark.parametrize("code", [b"\xec", b"\xee"])
@pytest.mark.parametrize("which", range(4))
def test_io_breakpoints_trap_behind_the_access(g: Guest, code: bytes, which: int) -> None:
    g.m.regs.cr4 = DE
    for port, hit in ((0x18F, False), (0x190, True), (0x191, True), (0x192, False)):
        set_up(g, 0x190, 2, 1, which)
        g.m.regs.edx = port
        g.run(code, NOP, interrupt(DONE))
        assert (g.vector(), g.m.regs.dr6) == ((DEBUG, DR6_FIXED | 1 << which) if hit else (DONE, DR6_FIXED))
        assert g.frame().eip == CODE + (1 if hit else 4)


@pytest.mark.parametrize(("length", "size"), [(0, 1), (1, 2), (3, 4)])
def test_io_breakpoints_have_lengths_and_are_aligned(g: Guest, length: int, size: int) -> None:
    g.m.regs.cr4 = DE
    for address in range(0x190, 0x194):
        first = address & -size
        for port in range(0x18C, 0x198):
            for code, width in ((b"\xec", 1), (b"\x66\xed", 2), (b"\xed", 4)):
                set_up(g, address, 2, length)
                g.m.regs.edx = port
                g.run(code, NOP, interrupt(DONE))
                assert (g.vector() == DEBUG) == (port < first + size and first < port + width)


def test_io_breakpoints_need_de(g: Guest) -> None:
    set_up(g, 0x190, 2, 0)
    g.m.regs.edx = 0x190
    g.run(b"\xec", NOP, interrupt(DONE))
    assert g.vector() == DONE
    set_up(g, 0x190, 2, 0, enable=0)
    g.m.regs.cr4 = DE
    g.run(b"\xec", NOP, interrupt(DONE))
    assert g.vector() == DONE
    set_up(g, DATA, 2, 3)  # a port, not memory
    g.run(b"\xa0" + imm(DATA), NOP, interrupt(DONE))
    assert g.vector() == DONE


def test_an_io_breakpoint_traps_behind_each_iteration(g: Guest) -> None:
    """SDM vol. 3, 17.3.1.1: the image has RF set except behind the last iteration."""
    g.m.regs.cr4 = DE
    set_up(g, 0x190, 2, 0)
    g.m.regs.edx, g.m.regs.ecx, g.m.regs.edi, g.m.regs.eflags = 0x190, 3, DATA, 2
    g.m.memory.write(CODE, b"\xf3\x6c" + NOP)
    g.m.regs.eip = CODE
    for left in (2, 1, 0):
        assert g.m.run(max_instructions=2).reason is not None
        frame = g.frame()
        assert (frame.vector, frame.eip, g.m.regs.ecx) == (DEBUG, CODE if left else CODE + 2, left)
        assert bool(frame.eflags & RF) == bool(left)
        g.m.memory.write(g.handler(DEBUG), b"\xcf")
        g.m.regs.eip = g.handler(DEBUG)
        g.m.step()
        g.m.memory.write(g.handler(DEBUG), b"\xf4")


def test_a_code_breakpoint_on_a_repeated_instruction_comes_once(g: Guest) -> None:
    """RF is set between iterations; the handler sets it for the first."""
    g.m.memory.write(g.handler(DEBUG), b"\xff\x05" + imm(DATA) + b"\x81\x4c\x24\x08" + imm(RF) + b"\xcf")
    set_up(g, CODE, 0, 0)
    g.m.regs.ecx, g.m.regs.edi, g.m.regs.eflags = 100, DATA + 0x100, 2
    g.run(b"\xf3\xaa", NOP, interrupt(DONE))
    assert (g.vector(), g.m.memory.u32(DATA), g.m.regs.ecx) == (DONE, 1, 0)
    assert g.frame().eflags & RF == 0


@pytest.mark.parametrize("enable", [1, 2, 3])
@pytest.mark.parametrize("exact", [0, 0x100, 0x200, 0x300])
def test_either_enable_will_do_and_le_and_ge_mean_nothing(g: Guest, enable: int, exact: int) -> None:
    set_up(g, DATA, 1, 3, 2, enable)
    g.m.regs.dr7 |= exact
    g.run(b"\xa2" + imm(DATA + 3), NOP, interrupt(DONE))
    assert (g.vector(), g.m.regs.dr6) == (DEBUG, DR6_FIXED | 4)


@pytest.mark.parametrize(("length", "size"), [(0, 1), (1, 2), (3, 4)])
def test_data_breakpoints_are_aligned_to_their_length(g: Guest, length: int, size: int) -> None:
    """SDM vol. 3, 17.2.5: the low address bits that the length covers do not count; any byte of an access hits."""
    for at in range(DATA + 8, DATA + 12):
        first = at & -size
        for address in range(DATA + 4, DATA + 16):
            for code, width in ((b"\xa2", 1), (b"\x66\xa3", 2), (b"\xa3", 4)):
                set_up(g, at, 1, length)
                g.run(code + imm(address), NOP, interrupt(DONE))
                assert (g.vector() == DEBUG) == (address < first + size and first < address + width)


def test_all_that_hit_are_reported(g: Guest) -> None:
    regs = g.m.regs
    for i, at in enumerate((DATA, DATA + 1, DATA + 2, DATA + 7)):
        setattr(regs, f"dr{i}", at)
    regs.dr7 = 0x55 | 0x1111 << 16
    g.run(b"\xa3" + imm(DATA), NOP, interrupt(DONE))
    assert (g.vector(), regs.dr6) == (DEBUG, DR6_FIXED | 7)


@pytest.mark.parametrize("n", [4, 5])
@pytest.mark.parametrize("ring", [0, 3])
def test_dr4_and_dr5_are_undefined_with_de(g: Guest, n: int, ring: int) -> None:
    g.m.regs.cr4 = DE
    g.m.regs.dr7 = 0x2000  # not even GD comes first
    assert g.fault(to_debug(n), vector=ILLOP, ring=ring).eip == CODE


def test_de_is_announced_and_can_be_set(g: Guest) -> None:
    g.passes(b"\xb8" + imm(1), b"\x0f\xa2")
    assert g.m.regs.edx & 4
    g.m.regs.eax = DE
    g.passes(b"\xb8" + imm(DE), to_control(4))
    assert g.m.regs.cr4 == DE


def test_a_watch_and_a_breakpoint_on_one_access(g: Guest) -> None:
    """The watch is told with the CPU in the handler of the guest's #DB, which is not lost."""
    seen: list[tuple[int, int]] = []
    g.m.watch(DATA, 4, "w", lambda w, regs, access: seen.append((regs.eip, access.eip)))
    set_up(g, DATA, 1, 3)
    stop = g.run(b"\xa3" + imm(DATA), NOP, interrupt(DONE))
    assert stop.reason is StopReason.HALT
    assert g.vector() == DEBUG
    assert seen == [(g.handler(DEBUG), CODE)]
