"""DR0-DR7 against the tables of the manual's chapter 17.2: I/O breakpoints, lengths, RF, DR4 and DR5."""

from __future__ import annotations

import pytest

from pykprobes import StopReason
from tests.guest_code import (
    CODE,
    DATA,
    IRET,
    K_CS,
    K_DS,
    O16,
    SPARE,
    STACKS,
    Guest,
    far_call,
    imm,
    interrupt,
    to_control,
    to_debug,
)

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


# Every DR7 encoding over every alignment


@pytest.mark.parametrize("kind", [1, 3])
@pytest.mark.parametrize(("length", "size"), [(0, 1), (1, 2), (3, 4)])
def test_data_breakpoints_by_the_table(g: Guest, kind: int, length: int, size: int) -> None:
    """SDM vol. 3, table 17-1 and 17.2.5: reads or writes of all sizes around the range, also over a page's end."""
    for base in (DATA + 0x100, DATA + 0xFFC):
        for first in range(base, base + 4):
            low = first & -size
            for at in range(low - 4, low + 5):
                for width, prefix, move in ((1, b"", b"\x8a"), (2, O16, b"\x8b"), (4, b"", b"\x8b")):
                    for write in (False, True):
                        set_up(g, first, kind, length, 1, 4)
                        g.m.regs.dr7 = 4 | (length << 2 | kind) << 20
                        code = prefix + bytes([move[0] - 2 * write]) + b"\x0d" + imm(at)
                        g.run(code, NOP, interrupt(DONE))
                        hit = at < low + size and low < at + width and (write or kind == 3)
                        assert g.vector() == (DEBUG if hit else DONE), (hex(first), hex(at), width, write)
                        assert g.frame().eip == CODE + len(code) + (0 if hit else 3)
                        assert g.m.regs.dr6 == DR6_FIXED | (2 if hit else 0)


STRINGS = {"movs to": b"\xf3\xa5", "movs from": b"\xf3\xa5", "stos": b"\xf3\xab", "lods": b"\xf3\xad",
           "scas": b"\xf2\xaf", "cmps": b"\xf3\xa7", "ins": b"\xf3\x6d", "outs": b"\xf3\x6f"}  # fmt: skip


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize("element", [0, 2, 4])
def test_data_breakpoints_on_string_iterations(g: Guest, name: str, element: int) -> None:
    """The trap comes behind the iteration, with RF set but behind the last (SDM vol. 3, 17.3.1.1)."""
    source = name in ("movs from", "lods", "cmps", "outs")
    set_up(g, (DATA if source else DATA + 0x800) + 4 * element, 3, 3)
    regs = g.m.regs
    regs.esi, regs.edi, regs.ecx, regs.eax, regs.edx = DATA, DATA + 0x800, 5, 0x12345678, 0x80
    g.run(STRINGS[name], NOP, interrupt(DONE))
    frame = g.frame()
    last = element == 4
    assert (frame.vector, frame.eip) == (DEBUG, CODE + 2 if last else CODE)
    assert (regs.ecx, bool(frame.eflags & RF)) == (4 - element, not last)
    g.m.memory.write(g.handler(DEBUG), IRET)
    regs.eip = g.handler(DEBUG)
    assert g.m.run(max_instructions=100).reason is StopReason.HALT
    assert (g.vector(), regs.ecx) == (DONE, 0)


PUSHING = {"push": (b"\x50", 0), "call": (b"\xe8\0\0\0\0", 0), "pusha": (b"\x60", 5), "pushf": (b"\x9c", 0),
           "enter": (b"\xc8\x04\0\0", 0)}  # fmt: skip


@pytest.mark.parametrize("name", PUSHING)
def test_data_breakpoints_on_pushes(g: Guest, name: str) -> None:
    code, word = PUSHING[name]
    set_up(g, STACKS[0] - 4 - 4 * word, 1, 3)
    g.run(code, NOP, interrupt(DONE))
    assert (g.vector(), g.frame().eip, g.m.regs.dr6) == (DEBUG, CODE + len(code), DR6_FIXED | 1)


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("word", range(3))
@pytest.mark.parametrize("how", ["int", "fault", "interrupt"])
def test_data_breakpoints_on_the_frame_of_a_delivery(g: Guest, ring: int, word: int, how: str) -> None:
    """The trap comes before the handler's first instruction, on the handler's stack."""
    set_up(g, STACKS[0] - 4 - 4 * word, 1, 3)
    vector = {"int": 0x7E, "fault": ILLOP, "interrupt": 0x7E}[how]
    g.gate(0x7E, dpl=3)
    g.enter(ring)
    g.m.regs.eflags |= 0x200
    if how == "interrupt":
        g.m.interrupt(0x7E)
    g.run({"int": interrupt(0x7E), "fault": b"\x0f\x0b", "interrupt": NOP}[how], NOP)
    assert (g.vector(), g.frame().eip, g.frame().cs) == (DEBUG, g.handler(vector), 8)
    assert g.m.regs.dr6 == DR6_FIXED | 1


@pytest.mark.parametrize("word", range(4))
def test_data_breakpoints_on_the_frame_of_a_call_gate(g: Guest, word: int) -> None:
    g.call_gate(SPARE, K_CS, CODE + 0x800)
    set_up(g, STACKS[0] - 4 - 4 * word, 1, 3)
    g.enter(3)
    g.run(far_call(SPARE | 3))
    assert (g.vector(), g.frame().eip, g.m.regs.dr6) == (DEBUG, CODE + 0x800, DR6_FIXED | 1)


# Behind a load of SS (SDM vol. 3, 6.8.3)

LOADS_SS = {"mov": b"\x8e\x15" + imm(DATA), "pop": b"\x17"}


def load_ss(g: Guest, name: str) -> bytes:
    """A load of SS that hits a data breakpoint."""
    at = DATA if name == "mov" else STACKS[0] - 4
    set_up(g, at, 3, 1 if name == "mov" else 3)
    g.m.memory.write(at, imm(K_DS))
    if name == "pop":
        g.m.regs.esp = at
    return LOADS_SS[name]


@pytest.mark.parametrize("name", LOADS_SS)
@pytest.mark.parametrize("tf", [0, 0x100])
def test_a_breakpoint_hit_by_a_load_of_ss_waits_for_the_next_instruction(g: Guest, name: str, tf: int) -> None:
    code = load_ss(g, name)
    g.m.regs.eflags |= tf
    g.run(code, b"\xbc" + imm(STACKS[1]), NOP, interrupt(DONE))  # mov esp
    assert (g.vector(), g.frame().eip) == (DEBUG, CODE + len(code) + 5)
    assert g.m.regs.dr6 == DR6_FIXED | 1 | (0x4000 if tf else 0)


@pytest.mark.parametrize("name", LOADS_SS)
@pytest.mark.parametrize(
    ("next_one", "vector"), [(interrupt(0x7E), 0x7E), (b"\xcc", 3), (b"\x0f\x0b", 6), (b"\xa1" + imm(0x7FFFFFFC), 14)]
)
def test_and_comes_in_the_handler_if_that_one_traps(g: Guest, name: str, next_one: bytes, vector: int) -> None:
    """The inhibition ends with the delivery of an exception (SDM vol. 2, MOV)."""
    code = load_ss(g, name)
    g.run(code, next_one, NOP)
    assert (g.vector(), g.frame().eip, g.m.regs.dr6) == (DEBUG, g.handler(vector), DR6_FIXED | 1)


def test_loads_of_ss_in_a_row_keep_it(g: Guest) -> None:
    code = load_ss(g, "mov")
    g.m.regs.ebx = K_DS
    g.run(code, b"\x8e\xd3", b"\x8e\xd3", NOP, NOP, interrupt(DONE))
    assert (g.vector(), g.frame().eip, g.m.regs.dr6) == (DEBUG, CODE + len(code) + 5, DR6_FIXED | 1)


def test_a_faulting_instruction_loses_its_own_breakpoint(g: Guest) -> None:
    """It is restarted, and hits it then: MOVS whose destination is not mapped."""
    set_up(g, DATA, 3, 3)
    g.m.regs.esi, g.m.regs.edi = DATA, 0x7FFFFFFC
    g.run(b"\xa5", NOP)
    assert (g.vector(), g.m.regs.dr6) == (14, DR6_FIXED)
    g.m.memory.write(g.handler(14), b"\x83\xc4\x04" + b"\xbf" + imm(DATA + 0x800) + IRET)
    g.m.regs.eip = g.handler(14)
    g.m.run(max_instructions=10)
    assert (g.vector(), g.frame().eip, g.m.regs.dr6) == (DEBUG, CODE + 1, DR6_FIXED | 1)


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
