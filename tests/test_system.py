"""Control and debug registers, CPUID, what is undefined and what is not done yet."""

from __future__ import annotations

import pytest

from pykprobes import Machine, StopReason

from .guest_code import *

PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG = (1 << n for n in (0, 1, 2, 3, 4, 5, 16, 18, 29, 30, 31))
BS, BD, GD = 0x4000, 0x2000, 0x2000
DR6_FIXED, DR7_FIXED = 0xFFFF0FF0, 0x400
LMSW, SMSW, CLTS = b"\x0f\x01\xf0", b"\x0f\x01\xe0", b"\x0f\x06"
WAIT, FLD1 = b"\x9b", b"\xd9\xe8"


@pytest.fixture
def g() -> Guest:
    return Guest()


# CR0 to CR4


@pytest.mark.parametrize("value", [PG | ET, PE | NW, PG | PE | NW, PG])
def test_bad_combinations_in_cr0(g: Guest, value: int) -> None:
    before = g.m.regs.cr0
    g.fault(mov("eax", value), to_control(0), vector=PROTECTION, error=0)
    assert g.m.regs.cr0 == before


@pytest.mark.parametrize("value", [PE | PG | CD | NW, PE | PG | CD, PE | PG | WP | AM | NE | MP | EM | TS])
def test_good_values_of_cr0(g: Guest, value: int) -> None:
    g.passes(mov("eax", value), to_control(0), from_control(0, "ecx"))
    assert g.m.regs.cr0 == g.m.regs.ecx == value | ET  # ET cannot be cleared


def test_undefined_bits_of_cr0_do_not_stick(g: Guest) -> None:
    before = g.m.regs.cr0
    g.passes(mov("eax", before | 0x1FFAFFC0 & ~WP & ~AM), to_control(0))
    assert g.m.regs.cr0 == before


@pytest.mark.parametrize("bit", range(32))
def test_reserved_bits_of_cr4(g: Guest, bit: int) -> None:
    """TSD, DE, PSE, PAE, PGE, PCE, OSFXSR and OSXMMEXCPT; PAE finds no pointers here (see test_pae.py)."""
    before = g.m.regs.cr4
    parts = (mov("eax", 1 << bit), to_control(4))
    if bit in (2, 3, 4, 7, 8, 9, 10):
        g.passes(*parts, from_control(4, "ecx"))
        assert g.m.regs.ecx == 1 << bit
    else:
        g.fault(*parts, vector=PROTECTION, error=0)
        assert g.m.regs.cr4 == before


@pytest.mark.parametrize("n", [1, 5, 6, 7])
@pytest.mark.parametrize("ring", [0, 3])
def test_control_registers_that_are_not_there(g: Guest, n: int, ring: int) -> None:
    g.fault(to_control(n), vector=INVALID, ring=ring)
    g.enter(0)
    g = Guest()
    g.fault(from_control(n), vector=INVALID, ring=ring)


def test_mod_is_ignored_for_control_and_debug_registers(g: Guest) -> None:
    g.passes(mov("eax", 0x1234), b"\x0f\x22\x10", b"\x0f\x20\x11", O16 + b"\x0f\x20\x12")
    assert g.m.regs.cr2 == g.m.regs.ecx == g.m.regs.edx == 0x1234


@pytest.mark.parametrize("old", [0, MP | TS])
@pytest.mark.parametrize("value", [0, 1, 0xE, 0xF, 0xFFFFFFF0, 0xFFFF])
def test_lmsw(g: Guest, old: int, value: int) -> None:
    start = g.m.regs.cr0 & ~0xF | PE | old
    g.m.regs.cr0 = start
    g.passes(mov("eax", value), LMSW)
    assert g.m.regs.cr0 == start & ~0xE | value & 0xF  # and PE stays


def test_clts(g: Guest) -> None:
    g.m.regs.cr0 |= TS
    g.passes(CLTS)
    assert not g.m.regs.cr0 & TS


def test_cr3_keeps_the_bits_that_it_ignores(g: Guest) -> None:
    """SDM vol. 3, table 4-3; with PAE some of them are part of the address."""
    directory = g.m.regs.cr3
    g.passes(mov("eax", directory | 0xFFF), to_control(3), from_control(3, "ecx"))
    assert g.m.regs.ecx == directory | 0xFFF


def test_paging_can_be_switched_off_and_protected_mode_left(g: Guest) -> None:
    """16-bit code segment, then real mode, and back by LMSW."""
    g.descriptor(SPARE, 0, 0xFFFF, CODE_RX, 0)
    g.descriptor(SPARE2, 0, 0xFFFF, DATA_RW, 0)
    g.m.memory.write(
        0x7000, mov("eax", PE | ET)[0:1] + imm(PE | ET, 2) + to_control(0) + b"\xea" + imm(0x7100, 2) + imm(SPARE, 2)
    )
    leave = b"\x66\x25" + imm(0xFFFFFFFE) + to_control(0) + b"\xea" + imm(0x200, 2) + imm(0x700, 2)
    real = b"\xb8" + imm(0x5000, 2) + b"\x8e\xd8" + b"\xa1" + imm(0x10, 2) + b"\x0f\x01\xe3" + b"\x0c\x01" + HLT
    g.m.memory.write(0x7100, b"\x0f\x20\xc0" + leave)
    g.m.memory.write(0x7200, real)
    g.m.memory.write(DATA + 0x10, imm(0xBEEF, 2))
    stop = g.run(mov("eax", PE | ET), to_control(0), far_jmp(SPARE, 0x7100))
    assert (stop.reason, g.m.regs.cs, g.m.regs.ds) == (StopReason.HALT, 0x700, 0x5000)
    assert (g.m.regs.ax, g.m.regs.bx & PE, g.m.regs.cr0) == (0xBEEF, 0, ET)


# Debug registers


def test_fixed_bits_of_dr6_and_dr7(g: Guest) -> None:
    g.passes(mov("eax", 0), to_debug(6), from_debug(6, "ecx"), mov("eax", 0), to_debug(7), from_debug(7, "edx"))
    assert (g.m.regs.ecx, g.m.regs.edx) == (DR6_FIXED, DR7_FIXED)
    g.m.regs.esp = STACKS[0]
    g.passes(mov("eax", -1), to_debug(6), from_debug(6, "ecx"))
    assert g.m.regs.ecx == 0xFFFFEFFF  # bit 12 is 0
    g.m.regs.esp = STACKS[0]
    g.passes(mov("eax", 0xFFFFDF00), to_debug(7), from_debug(7, "ecx"))
    assert g.m.regs.ecx == 0xFFFF0700


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_addresses(g: Guest, n: int) -> None:
    g.passes(mov("eax", 0x12345678 + n), to_debug(n), from_debug(n, "ecx"))
    assert g.m.regs.ecx == 0x12345678 + n


@pytest.mark.parametrize("alias", [4, 5])
def test_dr4_and_dr5_are_aliases(g: Guest, alias: int) -> None:
    fixed = DR6_FIXED if alias == 4 else DR7_FIXED
    g.passes(
        mov("eax", 3 << (0 if alias == 4 else 8)),
        to_debug(alias),
        from_debug(alias + 2, "ecx"),
        from_debug(alias, "edx"),
    )
    assert g.m.regs.ecx == g.m.regs.edx == fixed | (3 << (0 if alias == 4 else 8))


@pytest.mark.parametrize("code", [from_debug(0), to_debug(3), from_debug(6), to_debug(7), from_debug(4)])
def test_general_detect(g: Guest, code: bytes) -> None:
    frame = g.fault(mov("eax", GD), to_debug(7), code, vector=DEBUG)
    assert g.m.regs.dr6 == DR6_FIXED | BD
    assert g.m.regs.dr7 == DR7_FIXED  # so that the handler may use them
    assert g.m.regs.eax == GD and frame.eip == CODE + 8


def test_general_detect_asks_for_privilege_first(g: Guest) -> None:
    g.m.regs.dr7 = GD
    g.fault(from_debug(0), vector=PROTECTION, error=0, ring=3)
    assert g.m.regs.dr7 == DR7_FIXED | GD


def test_a_code_breakpoint(g: Guest) -> None:
    """It comes before the instruction, once: the IRET restores RF."""
    g.m.memory.write(g.handler(DEBUG), b"\xff\x05" + imm(DATA) + b"\x81\x4c\x24\x08" + imm(RF) + IRET)
    g.m.regs.dr0, g.m.regs.dr7 = CODE + 2, 1
    frame = g.passes(NOP, NOP, NOP, NOP)
    assert (frame.eip, g.m.memory.u32(DATA)) == (CODE + 6, 1)
    assert g.m.regs.dr6 == DR6_FIXED | 1


def test_a_code_breakpoints_frame_has_no_rf(g: Guest) -> None:
    """SDM vol. 3, 17.3.1.1: the handler has to set it."""
    g.m.regs.dr1, g.m.regs.dr7 = CODE + 1, 4
    frame = g.fault(NOP, NOP, vector=DEBUG)
    assert frame.eflags == FIXED
    assert g.m.regs.dr6 == DR6_FIXED | 2


def test_no_code_breakpoint_behind_a_load_of_ss(g: Guest) -> None:
    """SDM vol. 3, 17.3.1.1: suppressed as if RF were set."""
    g.m.regs.dr0, g.m.regs.dr7 = CODE + 7, 1
    assert g.passes(set_sreg("ss", K_DS), NOP, NOP).eip == CODE + 11


@pytest.mark.parametrize(("kind", "reads", "writes"), [(1, False, True), (3, True, True)])
@pytest.mark.parametrize(("length", "size"), [(0, 1), (1, 2), (3, 4)])
def test_data_breakpoints_trap_behind_the_access(
    g: Guest, kind: int, reads: bool, writes: bool, length: int, size: int
) -> None:
    for code, trapped in ((b"\xa0", reads), (b"\xa2", writes)):
        for offset in (-1, 0, size - 1, size):
            g.m.regs.esp = STACKS[0]
            g.m.regs.dr0, g.m.regs.dr7, g.m.regs.dr6 = DATA, 1 | (length << 2 | kind) << 16, 0
            g.run(code + imm(DATA + offset), NOP, interrupt(DONE))
            hit = trapped and 0 <= offset < size
            assert g.frame().eip == CODE + (5 if hit else 8)
            assert (g.vector(), g.m.regs.dr6) == ((DEBUG, DR6_FIXED | 1) if hit else (DONE, DR6_FIXED))


def test_a_data_breakpoint_of_mov_ss_waits_for_the_next_instruction(g: Guest) -> None:
    """SDM vol. 3, 6.8.3: debug exceptions are inhibited until behind the instruction after it."""
    g.m.memory.write(DATA, imm(K_DS))
    g.m.regs.dr0, g.m.regs.dr7 = DATA, 1 | 0xF << 16
    g.run(b"\x8e\x15" + imm(DATA), NOP, NOP, interrupt(DONE))
    assert (g.vector(), g.frame().eip) == (DEBUG, CODE + 7)


# What the processor is


def test_cpuid(g: Guest) -> None:
    for leaf, expected in ((0, "Genu ineI ntel"), (1, None), (2, None), (0x7FFFFFFF, None)):
        g.m.regs.esp = STACKS[0]
        g.passes(mov("eax", leaf), b"\x0f\xa2", ring=0)
        regs = g.m.regs
        if leaf == 0:
            assert regs.eax == 2
            name = b"".join(imm(value) for value in (regs.ebx, regs.edx, regs.ecx))
            assert name == (expected or "").replace(" ", "").encode()
        elif leaf == 1:
            assert regs.eax >> 8 & 0xF == 15
            # FPU DE PSE TSC MSR PAE CX8 SEP PGE CMOV PAT CLFSH MMX FXSR SSE SSE2
            features = (0, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 19, 23, 24, 25, 26)
            assert regs.edx == sum(1 << n for n in features)
            assert (regs.ebx, regs.ecx) == (0x800, 0)
        else:
            assert regs.eax & 0xFF == 1


def test_cpuid_can_be_used_in_ring_3_and_id_be_toggled(g: Guest) -> None:
    frame = g.passes(b"\x0f\xa2", push(FIXED | ID), POPF, ring=3)
    assert frame.eflags & ID


# Undefined and not done

UNDEFINED = [
    "0f0b", "0fff00", "0fb900", "f30f12c0", "f20ff000", "660fd0c0", "660f7cc0", "0fae20", "0f05", "0f04", "0f0ac0",
    "0f0fc0", "0fa6c0", "0f3800", "0f7100", "f00fefc0", "c5c0", "c4c0", "8dc0", "0fc7c8", "0fc700", "0fba00",
    "0fbac000",
    "fe10", "fed0", "ffd8", "ffe8", "fff8", "ff38", "8f08", "c608", "c7c8", "0f0030", "0f0038", "0f0128", "0f01c0",
    "0f01d0", "0f01f8", "62c0", "0fb2c0", "8ec8", "8ef0", "8cf0",
    "f090", "f089c8", "f08b00", "f0a1", "f03b00", "f08500", "f0c3", "f0cc", "f0cd80", "f0fa", "f00fba2000", "f00fa300",
    "f0d100", "f0f720", "f0ff30", "f00fc1c0", "f00fb1c1", "f001c0", "f00fc7c8", "f08700"[:4] + "c0", "f0e8",
]  # fmt: skip


@pytest.mark.parametrize("code", UNDEFINED)
def test_undefined(g: Guest, code: str) -> None:
    g.m.regs.eax = g.m.regs.ecx = DATA
    g.m.memory.write(CODE + 1 + len(code) // 2, bytes(14))
    g.fault(NOP, bytes.fromhex(code), vector=INVALID)


@pytest.mark.parametrize(
    "code", ["f00100", "f08700", "8700", "f0ff00", "f00fc708", "f00fba2800", "f00fc100", "f0f710", "f08000ff"]
)
def test_lock_where_it_is_allowed(g: Guest, code: str) -> None:
    g.m.regs.eax = DATA
    g.passes(bytes.fromhex(code))


@pytest.mark.parametrize(("length", "fine"), [(15, True), (16, False)])
def test_an_instruction_has_at_most_15_bytes(g: Guest, length: int, fine: bool) -> None:
    code = b"\x2e" * (length - 1) + NOP
    if fine:
        g.passes(code)
    else:
        g.fault(code, vector=PROTECTION, error=0)


@pytest.mark.parametrize("flag", [TS, EM, TS | EM])
def test_x87_with_ts_or_em(g: Guest, flag: int) -> None:
    g.m.regs.cr0 = g.m.regs.cr0 & ~(TS | EM) | flag
    g.fault(FLD1, vector=DEVICE)


@pytest.mark.parametrize("flags", [0, MP, TS, EM, MP | EM, MP | TS])
def test_wait(g: Guest, flags: int) -> None:
    g.m.regs.cr0 = g.m.regs.cr0 & ~(TS | EM | MP) | flags
    if flags == MP | TS:
        g.fault(WAIT, vector=DEVICE)
    else:
        g.passes(WAIT)


@pytest.mark.parametrize("code", ["0f32", "0f30", "0f33"])
def test_msrs_are_privileged(g: Guest, code: str) -> None:
    g.fault(bytes.fromhex(code), vector=PROTECTION, error=0, ring=3)


def test_the_built_in_kernel_reports_undefined_code() -> None:
    with Machine(memory=MEMORY) as m:
        m.memory.write(CODE, b"\x0f\x0b")
        m.regs.eip = CODE
        stop = m.run()
        assert (stop.reason, stop.vector, stop.eip) == (StopReason.TRAP, INVALID, CODE)
