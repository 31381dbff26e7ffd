"""Page tables in guest memory: rights, error codes, A and D bits, large pages, and what INVLPG and CR3 do."""

from __future__ import annotations

import pytest

from .guest_code import *

DIRECTORY, TABLE, TABLE2 = TABLES, TABLES + 0x1000, TABLES + 0x2000
P, W, U, A, D, PS = 1, 2, 4, 0x20, 0x40, 0x80
WP, PSE = 0x10000, 0x10
PAGE_A, PAGE_B = DATA, DATA + 0x1000  # pages that tests map
FAR = 0x400000  # linear: the second table


@pytest.fixture
def g() -> Guest:
    """Identity tables for the first MiB, built by Python and loaded by the guest; nothing else is mapped."""
    guest = Guest()
    for n in range(MEMORY >> 12):
        entry(guest, n << 12, n << 12 | P | W | U)
    guest.m.memory.write(DIRECTORY, imm(TABLE | P | W | U) + imm(TABLE2 | P | W | U))
    guest.passes(mov("eax", DIRECTORY), to_control(3))
    guest.m.regs.esp = STACKS[0]
    return guest


def entry(g: Guest, linear: int, value: int) -> None:
    """A page-table entry, through the identity map."""
    g.m.memory.write((TABLE2 if linear >> 22 else TABLE) + (linear >> 12 & 1023) * 4, imm(value))


def pte(g: Guest, linear: int) -> int:
    return g.m.memory.u32((TABLE2 if linear >> 22 else TABLE) + (linear >> 12 & 1023) * 4)


READ, WRITE, MODIFY = b"\xa1", b"\xa3", b"\xff\x05"


@pytest.mark.parametrize("ring", [0, 1, 3])
@pytest.mark.parametrize("wp", [0, WP])
@pytest.mark.parametrize("pde", [W | U, U, W, 0])
@pytest.mark.parametrize("bits", [None, 0, U, W, W | U])
@pytest.mark.parametrize("code", [READ, WRITE, MODIFY])
def test_rights(g: Guest, ring: int, wp: int, pde: int, bits: int | None, code: bytes) -> None:
    entry(g, FAR, 0 if bits is None else PAGE_A | P | bits)
    g.m.memory.write(DIRECTORY + 4, imm(TABLE2 | P | pde))
    g.m.regs.cr0 = g.m.regs.cr0 & ~WP | wp
    user = ring == 3
    rights = (bits or 0) & pde
    write = code != READ
    may_write = bool(rights & W) or (not user and not wp)
    allowed = bits is not None and (not user or rights & U) and (not write or may_write)
    parts = (mov("eax", 0x11223344), code + imm(FAR))
    if allowed:
        g.passes(*parts, ring=ring)
        assert pte(g, FAR) == PAGE_A | P | (bits or 0) | A | (D if write else 0)
        assert g.m.memory.u32(DIRECTORY + 4) == TABLE2 | P | pde | A
    else:
        error = (bits is not None) | write << 1 | user << 2
        g.fault(*parts, vector=PAGE, error=error, ring=ring)
        assert g.m.regs.cr2 == FAR
        assert pte(g, FAR) == (0 if bits is None else PAGE_A | P | bits)


def test_a_missing_table(g: Guest) -> None:
    for code, error in ((READ, 0), (WRITE, 2)):
        g.m.regs.esp = STACKS[0]
        g.fault(code + imm(0x800123), vector=PAGE, error=error)
        assert g.m.regs.cr2 == 0x800123


@pytest.mark.parametrize("ring", [0, 3])
def test_fetches(g: Guest, ring: int) -> None:
    entry(g, FAR, PAGE_A | P)
    g.m.memory.write(PAGE_A, interrupt(DONE))
    g.enter(ring)
    target = FAR if ring else FAR + 0x1000
    g.run(mov("eax", target), b"\xff\xe0")
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip, g.m.regs.cr2) == (PAGE, 5 if ring else 0, target, target)


@pytest.mark.parametrize("missing", [0, 1])
def test_an_instruction_over_two_pages(g: Guest, missing: int) -> None:
    entry(g, FAR, 0 if missing == 0 else PAGE_A | P | U | W)
    entry(g, FAR + 0x1000, 0 if missing == 1 else PAGE_B | P | U | W)
    g.m.memory.write(PAGE_B - 2, mov("eax", 7) + interrupt(DONE))
    g.run(mov("eax", FAR + 0xFFE), b"\xff\xe0")
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip) == (PAGE, 0, FAR + 0xFFE)
    assert g.m.regs.cr2 == (FAR + 0x1000 if missing else FAR + 0xFFE)


@pytest.mark.parametrize(("size", "store_code"), [(2, O16 + WRITE), (4, WRITE)])
@pytest.mark.parametrize("missing", [0, 1])
def test_a_store_over_two_pages_is_all_or_nothing(g: Guest, size: int, store_code: bytes, missing: int) -> None:
    for page, there in ((FAR, missing != 0), (FAR + 0x1000, missing != 1)):
        entry(g, page, (PAGE_A if page == FAR else PAGE_B) | P | U | (W if there else 0))
    before = g.m.memory.read(PAGE_B - 4, 8)
    address = FAR + 0x1000 - size // 2
    g.fault(mov("eax", -1), store_code + imm(address), vector=PAGE, error=3)
    assert g.m.regs.cr2 == (address if missing == 0 else FAR + 0x1000)
    assert g.m.memory.read(PAGE_B - 4, 8) == before


def test_two_pages_need_not_be_neighbours_in_memory(g: Guest) -> None:
    entry(g, FAR, PAGE_B | P | W)
    entry(g, FAR + 0x1000, PAGE_A | P | W)
    g.passes(mov("eax", 0x44332211), WRITE + imm(FAR + 0xFFE), b"\x8b\x1d" + imm(FAR + 0xFFE))
    assert g.m.regs.ebx == 0x44332211
    assert g.m.memory.read(PAGE_B + 0xFFE, 2) + g.m.memory.read(PAGE_A, 2) == b"\x11\x22\x33\x44"


def test_a_read_sets_a_and_a_later_write_d(g: Guest) -> None:
    entry(g, FAR, PAGE_A | P | W)
    g.passes(READ + imm(FAR), load("ebx", TABLE2), WRITE + imm(FAR), load("ecx", TABLE2))
    assert (g.m.regs.ebx, g.m.regs.ecx) == (PAGE_A | P | W | A, PAGE_A | P | W | A | D)


# Remapping


@pytest.mark.parametrize("flush", ["invlpg", "cr3", "cr0"])
def test_a_changed_entry_holds_after_the_flush(g: Guest, flush: str) -> None:
    entry(g, FAR, PAGE_A | P | W)
    g.m.memory.write(PAGE_A, imm(0xAAAA))
    g.m.memory.write(PAGE_B, imm(0xBBBB))
    code = {
        "invlpg": invlpg(FAR + 0x123),
        "cr3": from_control(3) + to_control(3),
        "cr0": from_control(0) + b"\x35" + imm(WP) + to_control(0),
    }[flush]
    g.passes(load("ebx", FAR), store_imm(TABLE2, PAGE_B | P | W), code, load("ecx", FAR), store_imm(FAR, 0xCCCC))
    assert (g.m.regs.ebx, g.m.regs.ecx) == (0xAAAA, 0xBBBB)
    assert (g.m.memory.u32(PAGE_A), g.m.memory.u32(PAGE_B)) == (0xAAAA, 0xCCCC)


def test_a_page_that_becomes_present_needs_no_flush(g: Guest) -> None:
    """Faults are not cached (SDM vol. 3, 4.10.2.3)."""
    g.m.memory.write(PAGE_A, imm(0xAAAA))
    fill = store_imm(TABLE2, PAGE_A | P | W) + b"\x83\xc4\x04" + IRET
    g.m.memory.write(CODE + 0x1000, fill)
    g.gate(PAGE, offset=CODE + 0x1000)
    g.passes(load("ebx", FAR))
    assert g.m.regs.ebx == 0xAAAA


def test_write_protection_that_goes_needs_no_flush(g: Guest) -> None:
    entry(g, FAR, PAGE_A | P)
    g.m.regs.cr0 |= WP
    g.m.memory.write(CODE + 0x1000, store_imm(TABLE2, PAGE_A | P | W) + b"\x83\xc4\x04" + IRET)
    g.gate(PAGE, offset=CODE + 0x1000)
    g.passes(load("ebx", FAR), store_imm(FAR, 0x77))
    assert g.m.memory.u32(PAGE_A) == 0x77


def test_cr0_wp_takes_effect_at_once(g: Guest) -> None:
    entry(g, FAR, PAGE_A | P)
    g.m.regs.cr0 &= ~WP
    g.fault(
        store_imm(FAR, 1), from_control(0) + b"\x0d" + imm(WP) + to_control(0), store_imm(FAR, 2), vector=PAGE, error=3
    )
    assert g.m.memory.u32(PAGE_A) == 1


def test_supervisor_entries_do_not_serve_ring_3(g: Guest) -> None:
    """The page has been used by ring 0 before; its translation must not be."""
    entry(g, FAR, PAGE_A | P | W)
    g.passes(load("ebx", FAR))
    g.fault(load("ebx", FAR), vector=PAGE, error=5, ring=3)


def test_tables_are_read_as_supervisor_in_ring_3(g: Guest) -> None:
    entry(g, GDT, GDT | P)
    g.m.regs.cr0 &= ~WP
    g.descriptor(SPARE, 0, 0xFFFFF, DATA_RW | 0x60)
    g.passes(set_sreg("gs", SPARE), ring=3)
    assert g.access_byte(SPARE) == DATA_RW | 0x61


def test_a_read_only_gdt_under_wp_faults_when_a_must_be_set(g: Guest) -> None:
    g.descriptor(SPARE, 0, 0xFFFFF, DATA_RW)
    entry(g, GDT, GDT | P)
    g.m.regs.cr0 |= WP
    g.m.regs.cr3 = DIRECTORY
    g.fault(mov("eax", SPARE), mov_sreg("gs"), vector=PAGE, error=3)
    assert g.m.regs.cr2 & ~0x7 == GDT + SPARE
    assert g.m.regs.gs == K_DS


# A table that maps itself


def test_a_directory_as_its_own_table(g: Guest) -> None:
    """The last entry points to the directory: all tables appear at the top of the address space."""
    g.m.memory.write(DIRECTORY + 4 * 1023, imm(DIRECTORY | P | W))
    window = 0xFFC00000
    g.m.memory.write(PAGE_A, imm(0xAAAA))
    make = store_imm(window + (FAR >> 12) * 4, PAGE_A | P | W)
    g.passes(make, load("ebx", FAR), load("ecx", 0xFFFFF000), load("edx", window + (FAR >> 12) * 4))
    assert (g.m.regs.ebx, g.m.regs.ecx) == (0xAAAA, TABLE | P | W | U | A)
    assert g.m.regs.edx == PAGE_A | P | W | A
    # As a directory entry it has A set; as the page's own entry also D, for it was written through.
    assert g.m.memory.u32(DIRECTORY + 4 * 1023) & (A | D) == A


def test_a_table_that_is_a_page_of_itself(g: Guest) -> None:
    """A store to an entry through the page it maps, while that very entry gets its A and D bits."""
    entry(g, FAR, TABLE2 | P | W)
    g.passes(mov("eax", 0x12345000), WRITE + imm(FAR + 8), load("ebx", FAR + 8), load("ecx", FAR))
    assert (g.m.regs.ebx, g.m.regs.ecx) == (0x12345000, TABLE2 | P | W | A | D)


# 4 MiB pages


def large(g: Guest, bits: int, linear: int = 0x800000) -> None:
    g.m.memory.write(DIRECTORY + (linear >> 22) * 4, imm(PS | P | bits))


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("bits", [0, U, W, W | U])
@pytest.mark.parametrize("code", [READ, WRITE])
def test_large_pages(g: Guest, ring: int, bits: int, code: bytes) -> None:
    g.m.regs.cr4 = PSE
    g.m.regs.cr0 |= WP
    large(g, bits)
    allowed = (ring == 0 or bits & U) and (code == READ or bits & W)
    parts = (mov("eax", 0x55), code + imm(0x800000 + PAGE_A))
    if allowed:
        g.m.memory.write(PAGE_A, imm(0x55))
        g.passes(*parts, ring=ring)
        assert g.m.regs.eax == 0x55
        assert g.m.memory.u32(DIRECTORY + 8) == PS | P | bits | A | (D if code == WRITE else 0)
    else:
        g.fault(*parts, vector=PAGE, error=1 | (code == WRITE) << 1 | (ring == 3) << 2, ring=ring)


def test_without_pse_the_bit_is_ignored(g: Guest) -> None:
    g.m.memory.write(DIRECTORY + 8, imm(TABLE | PS | P | W))
    g.m.memory.write(PAGE_A, imm(0x77))
    g.passes(load("ebx", 0x800000 + PAGE_A))
    assert g.m.regs.ebx == 0x77


def test_reserved_bits_of_a_large_page(g: Guest) -> None:
    g.m.regs.cr4 = PSE
    large(g, W | 1 << 13)
    g.fault(READ + imm(0x800000), vector=PAGE, error=9)


def test_invlpg_of_a_large_page_drops_all_of_it(g: Guest) -> None:
    g.m.regs.cr4 = PSE
    large(g, W)
    g.m.memory.write(PAGE_A, imm(0xAAAA))
    first = load("ebx", 0x800000 + PAGE_A) + load("ebx", 0x800000 + PAGE_B)
    g.fault(first, store_imm(DIRECTORY + 8, 0), invlpg(0x800000), READ + imm(0x800000 + PAGE_B), vector=PAGE, error=0)


def test_memory_without_ram_reads_as_ones(g: Guest) -> None:
    entry(g, FAR, 0x7FFFF000 | P | W)
    g.passes(store_imm(FAR, 0), load("ebx", FAR), load("ecx", FAR + 0x10))
    assert (g.m.regs.ebx, g.m.regs.ecx) == (0xFFFFFFFF, 0xFFFFFFFF)
