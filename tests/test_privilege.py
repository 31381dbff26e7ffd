"""What a ring may do: flags, ports and privileged instructions."""

from __future__ import annotations

import pytest

from pykprobes import Machine, StopReason

from .guest_code import *

IOPL = 3 << 12
ALL = 0xFFFFFFFF
ARITHMETIC = CF | PF | AF | ZF | SF | OF
EXTRA = AC | ID
IN8, OUT8, IN32, OUT32 = b"\xec", b"\xee", b"\xed", b"\xef"


@pytest.fixture
def g() -> Guest:
    return Guest()


# POPF and IRET


def popped(ring: int, iopl: int, old: int, value: int, wide: bool) -> int:
    """SDM vol. 2, POPF: which flags come from the stack."""
    mask = ARITHMETIC | TF | DF | NT | (EXTRA if wide else 0)
    if ring <= iopl:
        mask |= IF
    if ring == 0:
        mask |= IOPL
    return old & ~mask | value & mask | FIXED


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("ring", [0, 1, 3])
@pytest.mark.parametrize("iopl", [0, 1, 3])
@pytest.mark.parametrize(
    ("old", "value"), [(0, ALL & ~TF), (IF | EXTRA | ARITHMETIC | DF, 0), (IF | EXTRA, IOPL | DF), (0, VM | RF)]
)
def test_popf(g: Guest, wide: bool, ring: int, iopl: int, old: int, value: int) -> None:
    old |= FIXED | iopl << 12
    g.enter(ring)
    g.m.memory.write(STACKS[ring] - 4, imm(value))
    g.m.regs.esp -= 4
    g.m.regs.eflags = old
    code = POPF if wide else O16 + POPF
    g.put(code)
    g.m.regs.eip = CODE
    assert g.m.run(max_instructions=1).eip == CODE + len(code)
    expected = popped(ring, iopl, old, value, wide)
    assert g.m.regs.eflags == expected
    assert g.m.regs.esp == STACKS[ring] - (0 if wide else 2)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("ring", [0, 1, 3])
@pytest.mark.parametrize("iopl", [0, 3])
@pytest.mark.parametrize(("old", "value"), [(0, ALL & ~(TF | VM)), (IF | EXTRA | ARITHMETIC | DF, 0)])
def test_iret_to_the_same_ring(g: Guest, wide: bool, ring: int, iopl: int, old: int, value: int) -> None:
    old |= FIXED | iopl << 12
    g.descriptor(SPARE, CODE, 0xFFFFF, CODE_RX | ring << 5)
    g.enter(ring)
    words = [0x123, SPARE | ring, value]
    size = 4 if wide else 2
    g.m.regs.esp -= 3 * size
    g.m.memory.write(g.m.regs.esp, b"".join(imm(w, size) for w in words))
    g.m.regs.eflags = old
    g.put(IRET if wide else O16 + IRET)
    g.m.regs.eip = CODE
    assert g.m.run(max_instructions=1).eip == 0x123
    expected = popped(ring, iopl, old, value, wide) | (value & RF if wide else 0)
    assert g.m.regs.eflags == expected
    assert (g.m.regs.esp, g.m.regs.cs) == (STACKS[ring], SPARE | ring)


def test_iret_to_an_outer_ring_uses_the_privilege_it_had(g: Guest) -> None:
    g.run(push(U_DS, STACKS[3], IOPL | IF | CF, U_CS, CODE + 0x100), IRET, limit=6)
    assert (g.m.regs.eflags, g.m.regs.cpl) == (FIXED | IOPL | IF | CF, 3)


@pytest.mark.parametrize("flags", [FIXED | ARITHMETIC | IF | DF | NT | EXTRA | IOPL, FIXED | RF])
def test_pushf(g: Guest, flags: int) -> None:
    for code, size in ((PUSHF, 4), (O16 + PUSHF, 2)):
        g.m.memory.fill(STACKS[0] - 8, 8, 0xEE)
        g.m.regs.esp, g.m.regs.eflags = STACKS[0], flags
        g.put(code)
        g.m.regs.eip = CODE
        g.m.run(max_instructions=1)
        assert g.m.regs.esp == STACKS[0] - size
        assert g.m.memory.read(STACKS[0] - size, size) == imm(flags & ~RF, size)


@pytest.mark.parametrize("ring", [0, 1, 3])
@pytest.mark.parametrize("iopl", [0, 1, 2, 3])
@pytest.mark.parametrize("code", [CLI, STI])
def test_cli_and_sti_ask_for_iopl(g: Guest, ring: int, iopl: int, code: bytes) -> None:
    g.m.regs.eflags = FIXED | iopl << 12 | (IF if code == CLI else 0)
    if ring <= iopl:
        assert g.passes(code, ring=ring).eflags & IF == (IF if code == STI else 0)
    else:
        g.fault(code, vector=PROTECTION, error=0, ring=ring)


# Privileged instructions

PRIVILEGED = {
    "hlt": HLT, "clts": b"\x0f\x06", "invd": b"\x0f\x08", "wbinvd": b"\x0f\x09", "lgdt": table(2, DATA),
    "lidt": table(3, DATA), "lmsw": b"\x0f\x01\xf0", "invlpg": invlpg(DATA), "lldt": system(2), "ltr": system(3),
    "to cr0": to_control(0), "from cr0": from_control(0), "to cr2": to_control(2), "to cr3": to_control(3),
    "to cr4": to_control(4), "from cr4": from_control(4), "to dr0": to_debug(0), "to dr7": to_debug(7),
    "from dr6": from_debug(6),
}  # fmt: skip


@pytest.mark.parametrize("ring", [1, 3])
@pytest.mark.parametrize("name", PRIVILEGED)
def test_privileged_instructions(g: Guest, name: str, ring: int) -> None:
    g.m.regs.eflags = FIXED | IOPL  # that is no help
    g.enter(ring)
    before = dict(g.m.regs)
    g.fault(PRIVILEGED[name], vector=PROTECTION, error=0, ring=ring)
    for register in ("cr0", "cr2", "cr3", "cr4", "dr0", "dr7", "ldtr", "tr", "gdtr_base", "idtr_base", "eax"):
        assert getattr(g.m.regs, register) == before[register]


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("disable", [False, True])
def test_rdtsc(g: Guest, ring: int, disable: bool) -> None:
    g.m.regs.cr4 = 4 if disable else 0
    if ring and disable:
        g.fault(b"\x0f\x31", vector=PROTECTION, error=0, ring=ring)
    else:
        start = g.m.icount
        g.passes(NOP, b"\x0f\x31", ring=ring)
        assert g.m.regs.edx << 32 | g.m.regs.eax == start + 1


# Ports


@pytest.mark.parametrize(("code", "size"), [(IN8, 1), (O16 + IN32, 2), (IN32, 4)])
def test_unclaimed_ports_read_as_ones(g: Guest, code: bytes, size: int) -> None:
    g.passes(mov("edx", 0x3F8), mov("eax", 0), code)
    assert g.m.regs.eax == (1 << 8 * size) - 1
    g.m.regs.esp = STACKS[0]
    g.passes(mov("edx", 0x3F8), OUT8, OUT32, O16 + OUT32)


def test_port_strings(g: Guest) -> None:
    g.m.memory.fill(DATA, 16)
    g.passes(mov("edx", 0x10), mov("edi", DATA + 1), mov("esi", DATA), mov("ecx", 5), b"\xf3\x6c", b"\x6f")
    assert g.m.memory.read(DATA, 8) == b"\0" + b"\xff" * 5 + b"\0\0"
    assert (g.m.regs.ecx, g.m.regs.edi, g.m.regs.esi) == (0, DATA + 6, DATA + 4)


PORT_CODES = {
    "in8": IN8,
    "out8": OUT8,
    "in16": O16 + IN32,
    "in32": IN32,
    "out32": OUT32,
    "insb": b"\x6c",
    "outsd": b"\x6f",
}
SIZES = {"in8": 1, "out8": 1, "in16": 2, "in32": 4, "out32": 4, "insb": 1, "outsd": 4}


def bitmap(g: Guest, data: bytes, limit: int = 0x67 + 0x21) -> None:
    """A TSS with an I/O bitmap of `data` and then ones."""
    g.descriptor(TSS_SELECTOR, TSS, limit, TSS32, 0)
    g.m.memory.write(TSS + 0x68, data + b"\xff" * (0x100 - len(data)))
    g.m.regs.tr = TSS_SELECTOR


@pytest.mark.parametrize("name", PORT_CODES)
@pytest.mark.parametrize("iopl", [0, 3])
@pytest.mark.parametrize("ring", [0, 3])
def test_iopl_allows_ports(g: Guest, name: str, iopl: int, ring: int) -> None:
    g.m.regs.eflags = FIXED | iopl << 12
    g.m.regs.esi = g.m.regs.edi = DATA
    g.m.regs.edx = 0x20
    if ring <= iopl:
        g.passes(PORT_CODES[name], ring=ring)
    else:
        g.fault(PORT_CODES[name], vector=PROTECTION, error=0, ring=ring)
        assert (g.m.regs.esi, g.m.regs.edi) == (DATA, DATA)


@pytest.mark.parametrize("name", PORT_CODES)
@pytest.mark.parametrize("port", [0, 4, 6, 7, 8, 13, 15, 16, 0x20])
def test_the_bitmap_allows_ports(g: Guest, name: str, port: int) -> None:
    """Ports 7 and 16 on are closed; all bytes of the access count."""
    bitmap(g, b"\x80\x00")
    g.m.regs.esi = g.m.regs.edi = DATA
    g.m.regs.edx = port
    if any(p == 7 or p >= 16 for p in range(port, port + SIZES[name])):
        g.fault(PORT_CODES[name], vector=PROTECTION, error=0, ring=3)
    else:
        g.passes(PORT_CODES[name], ring=3)


@pytest.mark.parametrize(("limit", "allowed"), [(0x67, False), (0x68, False), (0x69, True)])
def test_two_bytes_of_the_bitmap_are_read(g: Guest, limit: int, allowed: bool) -> None:
    bitmap(g, b"\0\0", limit)
    if allowed:
        g.passes(b"\xe4\x00", ring=3)
    else:
        g.fault(b"\xe4\x00", vector=PROTECTION, error=0, ring=3)


def test_a_16_bit_tss_has_no_bitmap(g: Guest) -> None:
    g.descriptor(TSS_SELECTOR, TSS, 0x100, TSS16, 0)
    g.m.memory.write(TSS, imm(0, 2) + imm(0x8000, 2) + imm(K_DS, 2))
    g.m.regs.tr = TSS_SELECTOR
    g.enter(3)
    g.run(b"\xe4\x00")
    assert (g.vector(), g.frame(True).error) == (PROTECTION, 0)


def test_the_top_port_wraps_nowhere(g: Guest) -> None:
    bitmap(g, b"\0" * 0x100, 0x67 + 0x2001)
    g.m.memory.write(TSS + 0x66, imm(0x68, 2))
    g.passes(mov("edx", 0xFFFF), IN32)


# The same in the built-in kernel's user mode


def test_ring_3_of_the_built_in_kernel_has_no_ports() -> None:
    with Machine(memory=MEMORY) as m:
        m.regs.cs = 0x23
        m.regs.ss = m.regs.ds = m.regs.es = 0x2B
        m.memory.write(CODE, b"\xe4\x00")
        m.regs.eip = CODE
        stop = m.run(max_instructions=5)
        assert (stop.reason, stop.vector, stop.error_code) == (StopReason.TRAP, PROTECTION, 0)
