"""PAE paging: pointers, 8-byte entries, 2 MiB pages, reserved bits (SDM vol. 3, 4.4); global pages (4.10.2.4), PAT."""

from __future__ import annotations

import pytest

from .guest_code import *

POINTERS, DIRECTORY, TABLE, TABLE2 = TABLES + 0x20, TABLES + 0x1000, TABLES + 0x2000, TABLES + 0x3000
DIRECTORY3 = TABLES + 0x4000
P, W, U, A, D, PS, G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
PG, WP = 1 << 31, 0x10000
PSE, PAE, PGE, PCE = 0x10, 0x20, 0x80, 0x100
PAGE_A, PAGE_B = DATA, DATA + 0x1000
FAR = 0x200000  # linear: the second table
READ, WRITE = b"\xa1", b"\xa3"
RDMSR, WRMSR, PAT = b"\x0f\x32", b"\x0f\x30", 0x277
LINKS = {POINTERS: DIRECTORY | P, POINTERS + 24: DIRECTORY3 | P, DIRECTORY: TABLE | 7, DIRECTORY + 8: TABLE2 | 7}


def quad(g: Guest, at: int, value: int) -> None:
    g.m.memory.write(at, imm(value, 8))


def read_quad(g: Guest, at: int) -> int:
    return int.from_bytes(g.m.memory.read(at, 8), "little")


def slot(linear: int) -> int:
    return (TABLE2 if linear >> 21 & 1 else TABLE) + (linear >> 12 & 511) * 8


@pytest.fixture
def g() -> Guest:
    """PAE tables for the first MiB, entered as software does: paging off, CR4.PAE, CR3, paging on."""
    guest = Guest()
    for n in range(MEMORY >> 12):
        quad(guest, slot(n << 12), n << 12 | P | W | U)
    for at, value in LINKS.items():
        quad(guest, at, value)
    cr0 = guest.m.regs.cr0
    guest.passes(
        mov("eax", cr0 & ~PG), to_control(0), mov("ecx", PAE), to_control(4, "ecx"),
        mov("ecx", POINTERS), to_control(3, "ecx"), mov("eax", cr0), to_control(0),
    )  # fmt: skip
    assert (guest.m.regs.cr4, guest.m.regs.cr3, guest.m.regs.cr0 & PG) == (PAE, POINTERS, PG)
    guest.m.regs.esp = STACKS[0]
    return guest


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("wp", [0, WP])
@pytest.mark.parametrize("pde", [W | U, U, W, 0])
@pytest.mark.parametrize("bits", [None, 0, U, W, W | U])
@pytest.mark.parametrize("code", [READ, WRITE])
def test_rights_and_a_and_d(g: Guest, ring: int, wp: int, pde: int, bits: int | None, code: bytes) -> None:
    quad(g, slot(FAR), 0 if bits is None else PAGE_A | P | bits)
    quad(g, DIRECTORY + 8, TABLE2 | P | pde)
    g.m.regs.cr0 = g.m.regs.cr0 & ~WP | wp
    rights, user, write = (bits or 0) & pde, ring == 3, code == WRITE
    allowed = bits is not None and (not user or rights & U) and (not write or rights & W or not (user or wp))
    if allowed:
        g.passes(code + imm(FAR), ring=ring)
        assert read_quad(g, slot(FAR)) == PAGE_A | P | (bits or 0) | A | (D if write else 0)
        assert read_quad(g, DIRECTORY + 8) == TABLE2 | P | pde | A
        assert read_quad(g, POINTERS) == DIRECTORY | P  # pointers have no A bit
    else:
        g.fault(code + imm(FAR), vector=PAGE, error=(bits is not None) | write << 1 | user << 2, ring=ring)
        assert (g.m.regs.cr2, read_quad(g, slot(FAR))) == (FAR, 0 if bits is None else PAGE_A | P | bits)


@pytest.mark.parametrize("pse", [0, PSE])
@pytest.mark.parametrize("code", [READ, WRITE])
def test_2_mib_pages_whatever_cr4_pse(g: Guest, pse: int, code: bytes) -> None:
    g.m.regs.cr4 = PAE | pse
    quad(g, DIRECTORY + 8, P | W | PS | 0x1000)  # bit 12 is PAT
    g.m.memory.write(PAGE_A + 0x234, imm(0xCAFE))
    g.passes(mov("eax", 0xBEEF), code + imm(FAR + PAGE_A + 0x234))
    assert g.m.regs.eax == (0xCAFE if code == READ else 0xBEEF)
    assert g.m.memory.u32(PAGE_A + 0x234) == (0xCAFE if code == READ else 0xBEEF)
    assert read_quad(g, DIRECTORY + 8) == P | W | PS | A | 0x1000 | (D if code == WRITE else 0)


def test_the_topmost_pointer_and_index(g: Guest) -> None:
    """Bits 31-30 choose the pointer, 29-21 the directory's entry."""
    quad(g, DIRECTORY3 + 8 * 511, P | W | PS)
    g.m.memory.write(PAGE_B + 4, imm(0x1357))
    g.passes(load("ebx", 0xFFE00000 + PAGE_B + 4))
    assert g.m.regs.ebx == 0x1357
    for linear in (0x40000000, 0x80000000, 0xC0000000):
        g.m.regs.esp = STACKS[0]
        g.fault(READ + imm(linear), vector=PAGE, error=0)
        assert g.m.regs.cr2 == linear


@pytest.mark.parametrize("bit", range(32, 64))
@pytest.mark.parametrize("level", ["directory", "table", "large"])
def test_the_upper_half_of_entries_is_reserved(g: Guest, bit: int, level: str) -> None:
    """Physical addresses have 32 bits (CPUID 80000008h), no execute-disable bit (tables 4-9 to 4-11)."""
    at = {"directory": DIRECTORY + 8, "table": slot(FAR), "large": DIRECTORY + 8}[level]
    value = {"directory": TABLE2 | P | W | U, "table": PAGE_A | P | W, "large": P | W | PS}[level]
    quad(g, at, value | 1 << bit)
    for code, error in ((READ, 9), (WRITE, 11)):
        g.m.regs.esp = STACKS[0]
        g.fault(code + imm(FAR), vector=PAGE, error=error)
        assert (g.m.regs.cr2, read_quad(g, at)) == (FAR, value | 1 << bit)
    quad(g, at, value & ~P | 1 << bit)  # not present: no bit is reserved
    g.m.regs.esp = STACKS[0]
    g.fault(READ + imm(FAR), vector=PAGE, error=0)


@pytest.mark.parametrize("bit", range(13, 21))
def test_reserved_bits_of_a_2_mib_page(g: Guest, bit: int) -> None:
    quad(g, DIRECTORY + 8, P | W | U | PS | 1 << bit)
    g.enter(3)
    g.run(READ + imm(FAR))
    assert (g.vector(), g.frame(True).error) == (PAGE, 13)


# Pointers (4.4.1)

RESERVED = [1, 2, 5, 6, 7, 8, 32, 35, 36, 52, 63]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("bit", RESERVED)
def test_a_reserved_bit_of_a_present_pointer(g: Guest, index: int, bit: int) -> None:
    """#GP(0), and the old pointers stay: code goes on running."""
    other = TABLES + 0x100
    for n in range(4):
        quad(g, other + 8 * n, DIRECTORY | P)
    quad(g, other + 8 * index, DIRECTORY | P | 1 << bit)
    g.fault(mov("eax", other), to_control(3), vector=PROTECTION, error=0)
    assert g.m.regs.cr3 == POINTERS
    quad(g, other + 8 * index, 1 << bit)  # not present
    quad(g, other + (0 if index else 8), DIRECTORY | P)
    if index:
        g.m.regs.esp = STACKS[0]
        g.passes(mov("eax", other), to_control(3))
        assert g.m.regs.cr3 == other


@pytest.mark.parametrize("bits", [0x18, 0xE00])
def test_bits_that_pointers_may_have(g: Guest, bits: int) -> None:
    quad(g, POINTERS, DIRECTORY | P | bits)
    g.passes(from_control(3), to_control(3))


def test_pointers_are_read_when_cr3_is_written_and_not_before(g: Guest) -> None:
    change = store_imm(POINTERS + 24, 0) + invlpg(0xFFE00000)
    quad(g, DIRECTORY3 + 8 * 511, P | W | PS)
    g.passes(load("ebx", 0xFFE00000), change, load("ecx", 0xFFE00000))
    g.m.regs.esp = STACKS[0]
    g.fault(from_control(3), to_control(3), READ + imm(0xFFE00000), vector=PAGE, error=0)


@pytest.mark.parametrize(("register", "bit"), [(0, 1 << 30), (4, PGE), (4, PSE)])
def test_other_writes_that_read_pointers(g: Guest, register: int, bit: int) -> None:
    """MOV CR0 that changes CD, NW or PG; MOV CR4 that changes PAE, PGE or PSE."""
    flip = from_control(register) + b"\x35" + imm(bit)
    quad(g, POINTERS + 24, DIRECTORY3 | P | W)
    g.fault(flip, to_control(register), vector=PROTECTION, error=0)
    assert not (g.m.regs.cr4 if register else g.m.regs.cr0) & bit
    quad(g, POINTERS + 24, 0)
    g.m.regs.esp = STACKS[0]
    g.fault(flip, to_control(register), READ + imm(0xC0000000), vector=PAGE, error=0)


@pytest.mark.parametrize(("register", "bit"), [(0, WP), (0, 8), (4, 4), (4, PCE)])
def test_writes_that_do_not(g: Guest, register: int, bit: int) -> None:
    quad(g, POINTERS + 24, DIRECTORY3 | P | W)
    g.passes(from_control(register) + b"\x35" + imm(bit), to_control(register))


def test_pae_cannot_be_switched_on_over_tables_of_the_other_kind() -> None:
    guest = Guest()
    guest.m.memory.write(TABLES, imm((TABLES + 0x1000) | 7) + bytes(4092))
    guest.m.memory.write(TABLES + 0x1000, b"".join(imm(n << 12 | 7) for n in range(1024)))
    guest.m.regs.cr3 = TABLES
    guest.fault(mov("eax", PAE), to_control(4), vector=PROTECTION, error=0)
    assert not guest.m.regs.cr4 & PAE


def test_pointers_without_ram(g: Guest) -> None:
    """They read as ones: reserved bits."""
    g.fault(mov("eax", 0xFFF00000 & ~0x1F), to_control(3), vector=PROTECTION, error=0)


def test_a_task_switch_with_bad_pointers(g: Guest) -> None:
    """#GP(0) in the new task, whose CR3 was not loaded."""
    bad = TABLES + 0x100
    quad(g, bad, DIRECTORY | P | W)
    g.descriptor(SPARE, DATA, 0x67, TSS32, 0)
    fields = [bad, CODE + 0x500, FIXED, *range(4), STACKS[0], *range(3), K_DS, K_CS, K_DS, K_DS, 0, 0, 0, 0]
    g.m.memory.write(DATA + 0x1C, b"".join(imm(n) for n in fields))
    g.run(far_jmp(SPARE), limit=1)
    assert (g.m.regs.tr, g.m.regs.cr3, g.m.regs.eip) == (SPARE, POINTERS, CODE + 0x500)


# Global pages and the page attribute table


def test_global_pages_may_be_enabled(g: Guest) -> None:
    """A change of CR4.PGE drops all translations, global ones too; INVLPG drops one (4.10.4.1)."""
    quad(g, slot(FAR), PAGE_A | P | W | G)
    g.m.memory.write(PAGE_A, imm(0xAAAA))
    g.m.memory.write(PAGE_B, imm(0xBBBB))
    toggle = from_control(4) + b"\x35" + imm(PGE) + to_control(4)
    g.passes(toggle, load("ebx", FAR), store_imm(slot(FAR), PAGE_B | P | W | G), toggle, load("ecx", FAR))
    assert (g.m.regs.ebx, g.m.regs.ecx) == (0xAAAA, 0xBBBB)
    g.m.regs.esp = STACKS[0]
    g.passes(store_imm(slot(FAR), PAGE_A | P | W | G), invlpg(FAR), load("ecx", FAR))
    assert g.m.regs.ecx == 0xAAAA


def test_the_pat(g: Guest) -> None:
    """SDM vol. 3, 11.12.4: its value after reset; 11.12.2: types 2, 3 and above 7 are reserved."""
    g.passes(mov("ecx", PAT), RDMSR)
    assert (g.m.regs.edx, g.m.regs.eax) == (0x00070406, 0x00070406)
    g.m.regs.esp = STACKS[0]
    g.passes(mov("ecx", PAT), mov("edx", 0x01040507), mov("eax", 0x06000001), WRMSR, mov("eax", 0), RDMSR)
    assert (g.m.regs.edx, g.m.regs.eax) == (0x01040507, 0x06000001)


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("kind", [2, 3, 8, 0x10, 0x80])
def test_reserved_memory_types(g: Guest, place: int, kind: int) -> None:
    value = kind << 8 * place
    parts = mov("ecx", PAT), mov("eax", value), mov("edx", value >> 32), WRMSR
    g.fault(*parts, vector=PROTECTION, error=0)


def test_address_widths(g: Guest) -> None:
    """SDM vol. 2, CPUID 80000008h: 32 physical and 32 linear bits."""
    g.passes(mov("eax", 0x80000000), b"\x0f\xa2", b"\x89\xc6", mov("eax", 0x80000008), b"\x0f\xa2")
    assert (g.m.regs.esi, g.m.regs.eax, g.m.regs.edx) == (0x80000008, 0x2020, 0)
