"""A bare machine: the state after reset, hidden parts of segments, ROM, Multiboot kernels."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from pykprobes import Machine, MemoryFault, Segment, StopReason
from pykprobes.multiboot import HEADER_MAGIC, find_header

RAM, MIB = 2 << 20, 1 << 20


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(memory=RAM, kernel=None, kprobes=None) as machine:
        yield machine


def rom(code: bytes, size: int = 4096, at: int = 0) -> bytes:
    """A ROM with code at an offset and, where the CPU starts, a jump to F000:offset."""
    offset = 0x10000 - size + at
    image = bytearray(b"\xf4" * size)
    image[at : at + len(code)] = code
    image[size - 16 : size - 11] = b"\xea" + struct.pack("<HH", offset, 0xF000)
    return bytes(image)


# Reset, SDM vol. 3, table 9-1


def test_registers_after_reset(m: Machine) -> None:
    regs = dict(m.regs)
    assert regs.pop("edx") >> 8 == 15  # a Pentium 4
    expected = {
        "eip": 0xFFF0, "eflags": 2, "cs": 0xF000, "cr0": 0x60000010, "dr6": 0xFFFF0FF0, "dr7": 0x400,
        "gdtr_limit": 0xFFFF, "idtr_limit": 0xFFFF,
    }  # fmt: skip
    assert regs == {name: expected.get(name, 0) for name in regs}
    assert m.regs.segment("cs") == Segment(0xF000, 0xFFFF0000, 0xFFFF, 0x93)
    for name in ("es", "ss", "ds", "fs", "gs"):
        assert m.regs.segment(name) == Segment(0, 0, 0xFFFF, 0x93)
    assert m.regs.segment("ldtr") == Segment(0, 0, 0xFFFF, 0x82)
    assert m.regs.segment("tr") == Segment(0, 0, 0xFFFF, 0x8B)


def test_the_first_fetch_is_at_the_top_of_memory(m: Machine) -> None:
    m.load_rom(rom(b"\x8c\xc8\xb9\x34\x12\xf4"))  # mov ax, cs; mov cx, 0x1234; hlt
    assert m.step().eip == 0xF000
    assert m.regs.segment("cs") == Segment(0xF000, 0xF0000, 0xFFFF, 0x93)
    assert m.run(max_instructions=10).reason is StopReason.HALT
    assert (m.regs.ax, m.regs.cx) == (0xF000, 0x1234)


def test_without_a_rom_the_bus_floats(m: Machine) -> None:
    """FFh FFh is group 5 with the field 7: #UD, through a vector table of zeros to 0000:0000, where the step ends."""
    m.step()
    assert (m.regs.cs, m.regs.eip) == (0, 2)


def test_from_reset_to_protected_mode_and_unreal(m: Machine) -> None:
    """The way of every boot block: lgdt, PE, a big data segment, back to real mode, a store at 1 MiB + 64 KiB."""
    gdt = struct.pack("<QQ", 0, 0x008F93000000FFFF)
    code = bytes.fromhex(
        "2e660f0116 00f1"  # o32 lgdt cs:[f100]
        "0f20c0 0c01 0f22c0"  # mov eax, cr0; or al, 1; mov cr0, eax
        "bb0800 8edb"  # mov bx, 8; mov ds, bx
        "24fe 0f22c0"  # and al, 0xfe; mov cr0, eax
        "31db 8edb"  # xor bx, bx; mov ds, bx
        "66bf00001100 67c6075a"  # mov edi, 0x110000; mov byte [edi], 0x5a
        "f4"
    )
    image = bytearray(rom(code))
    image[0x100:0x106] = struct.pack("<HI", 15, 0xFF110)
    image[0x110:0x120] = gdt
    m.load_rom(bytes(image))
    stop = m.run(max_instructions=100)
    assert stop.reason is StopReason.HALT, stop
    assert m.memory.u8(0x110000) == 0x5A
    assert m.regs.segment("ds") == Segment(0, 0, 0xFFFFFFFF, 0x8093)
    assert m.regs.cr0 & 1 == 0


# ROM


def test_stores_to_rom_are_ignored(m: Machine) -> None:
    image = rom(bytes.fromhex("b800f0 8ed8 8ec0 c60600f0aa fe0600f0 bf00f0 b90400 b0cc f3aa a100f0 f4"))
    m.load_rom(image)
    assert m.run(max_instructions=100).reason is StopReason.HALT
    assert m.regs.ax == int.from_bytes(image[:2], "little")
    assert m.memory.read(0xFF000, 4096) == m.memory.read(0xFFFFF000, 4096) == image


@pytest.mark.parametrize(("size", "alias"), [(16, 4096), (4096, 4096), (65536, 65536), (256 << 10, 128 << 10)])
def test_where_a_rom_lies(m: Machine, size: int, alias: int) -> None:
    image = bytes(range(1, 256)) * (size // 255 + 1)
    image = image[-size:]
    m.memory.write(MIB - alias - 1, b"\x77")
    m.load_rom(image)
    assert m.memory.read((1 << 32) - size, size) == image
    shown = min(size, alias)
    assert m.memory.read(MIB - shown, shown) == image[-shown:]
    assert m.memory.u8(MIB - alias - 1) == 0x77
    if size < 4096:
        assert m.memory.read(MIB - 4096, 4096 - size) == b"\xff" * (4096 - size)
    m.memory.write(MIB, b"RAM")


def test_a_debugger_writes_rom_and_drops_its_code(m: Machine) -> None:
    m.load_rom(rom(b"\x40\xf4"))  # inc ax; hlt
    m.run(max_instructions=10)
    assert m.regs.ax == 1
    m.memory.write(0xFF000, b"\x48")  # dec ax
    m.regs.eip = 0xF000
    m.run(max_instructions=10)
    assert m.regs.ax == 0


def test_bad_roms(m: Machine) -> None:
    for data in (b"", bytes((16 << 20) + 1)):
        with pytest.raises(ValueError, match="a ROM has 1 to"):
            m.load_rom(data)
    with pytest.raises(TypeError):
        m.load_rom("code")  # type: ignore[arg-type]
    m.load_rom(b"\xf4")
    with pytest.raises(ValueError, match="overlaps the ROM"):
        m.load_rom(b"\xf4")
    with pytest.raises(ValueError, match="overlaps the ROM"):
        m.map(0xFF000, 4096)
    with pytest.raises(ValueError, match="only mapped memory goes away"):
        m.unmap(0xFFFFF000, 4096)
    with Machine(memory=1 << 20) as kernel, pytest.raises(ValueError, match="kernel=None"):
        kernel.load_rom(b"\xf4")


def test_a_rom_on_a_machine_with_little_ram() -> None:
    with Machine(memory=4096, kernel=None) as m:
        m.load_rom(rom(b"\x40\xf4"))
        assert m.run(max_instructions=10).reason is StopReason.HALT
        assert m.regs.ax == 1


# Hidden parts


def test_a_hidden_base_and_limit_count(m: Machine) -> None:
    m.memory.write(0x5000, b"\xa1\x10\x00\xa1\xfe\x00\xf4")  # mov ax, [0x10]; mov ax, [0xfe]; hlt
    m.memory.write(0x12355, b"\xcd\xab")
    m.regs.set_segment("cs", Segment(0x1234, 0x5000, 0xFFFF, 0x9B))
    m.regs.set_segment("ds", Segment(0xFFFF, 0x12345, 0xFE, 0x93))
    m.regs.eip = 0
    m.regs.sp = 0x1000
    m.step()
    assert m.regs.ax == 0xABCD
    m.step()  # beyond the limit: #GP, vector 13 leads to 0000:0000, where the step ends
    assert (m.regs.cs, m.regs.eip) == (0, 2)
    assert m.memory.u16(0x0FFA) == 3


def test_protected_mode_without_tables(m: Machine) -> None:
    m.regs.cr0 = 0x11
    m.regs.set_segment("cs", Segment(0x1B, 0, 0xFFFFFFFF, 0xC0FB))
    for name in ("ss", "ds"):
        m.regs.set_segment(name, Segment(0x23, 0, 0xFFFFFFFF, 0xC0F3))
    assert m.regs.cpl == 3
    m.memory.write(0x4000, bytes.fromhex("8cc8 50 58 890500500000"))  # mov eax, cs; push; pop; mov [0x5000], eax
    m.regs.eip, m.regs.esp = 0x4000, 0x8000
    m.step(4)
    assert m.memory.u32(0x5000) == 0x1B


def test_records_are_copies(m: Machine) -> None:
    record = m.regs.segment("ds")
    record.base = 0x100
    assert m.regs.segment("ds").base == 0
    m.regs.set_segment("ds", record)
    record.base = 0x200
    assert m.regs.segment("ds").base == 0x100


@pytest.mark.parametrize(
    ("name", "record", "why"),
    [
        ("cs", Segment(0, 0, 0xFFFF, 0x2093), "bits other than"),
        ("cs", Segment(0, 0, 0xFFFF, 0x0193), "bits other than"),
        ("ds", Segment(0, 0, 0x100000, 0x93), "does not go with G=0"),
        ("ds", Segment(0, 0, 0xFFFF, 0x8093), None),
        ("ds", Segment(0, 0, 0xFFFE, 0x8093), "does not go with G=1"),
        ("ds", Segment(0, 0, 0xFFFF, 0x83), "S bit or type"),
        ("cs", Segment(0, 0, 0xFFFF, 0x13), "lack P"),
        ("ss", Segment(0, 0, 0xFFFF, 0x00), "lack P"),
        ("ds", Segment(0, 0, 0, 0), None),
        ("tr", Segment(0, 0, 0x67, 0x89), "S bit or type"),
        ("tr", Segment(8, 0, 0x67, 0x83), None),
        ("ldtr", Segment(8, 0, 0x67, 0x92), "S bit or type"),
        ("ldtr", Segment(0, 0, 0, 0), None),
        ("ds", Segment(0x10000, 0, 0, 0), "16 bits"),
        ("ds", Segment(0, -1, 0, 0), "32 bits"),
        ("ds", Segment(0, 0, 1 << 32, 0), "32 bits"),
    ],
)
def test_what_a_record_must_be(m: Machine, name: str, record: Segment, why: str | None) -> None:
    before = m.regs.segment(name)
    if why is None:
        m.regs.set_segment(name, record)
        assert m.regs.segment(name) == record
    else:
        with pytest.raises(ValueError, match=why):
            m.regs.set_segment(name, record)
        assert m.regs.segment(name) == before


@pytest.mark.parametrize(
    ("name", "attributes", "good"),
    [
        ("cs", 0x93, True), ("cs", 0x91, False), ("cs", 0x9B, True), ("cs", 0x99, True), ("cs", 0x9F, True),
        ("ss", 0x93, True), ("ss", 0x91, False), ("ss", 0x97, True), ("ss", 0x9B, False),
        ("ds", 0x91, True), ("ds", 0x9B, True), ("ds", 0x99, False),
    ],
)  # fmt: skip
def test_types_in_protected_mode(m: Machine, name: str, attributes: int, good: bool) -> None:
    m.regs.cr0 = 0x11
    record = Segment(8, 0, 0xFFFF, attributes)
    if good:
        m.regs.set_segment(name, record)
        assert m.regs.segment(name) == record
    else:
        with pytest.raises(ValueError, match="type"):
            m.regs.set_segment(name, record)


def test_records_in_virtual_8086_mode(m: Machine) -> None:
    m.regs.cr0 = 0x11
    m.regs.eflags = 0x20002
    good = Segment(0x1234, 0x12340, 0xFFFF, 0xF3)
    m.regs.set_segment("es", good)
    for bad in (Segment(0x1234, 0x12341, 0xFFFF, 0xF3), Segment(0x1234, 0x12340, 0xFFFE, 0xF3)):
        with pytest.raises(ValueError, match="virtual-8086"):
            m.regs.set_segment("es", bad)
    assert m.regs.segment("es") == good


def test_records_of_other_types(m: Machine) -> None:
    with pytest.raises(ValueError, match="no segment register"):
        m.regs.segment("eax")
    with pytest.raises(TypeError, match="takes a Segment"):
        m.regs.set_segment("cs", 8)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        m.regs.set_segment("ds", Segment(0, "0", 0, 0))  # type: ignore[arg-type]


# Multiboot

ENTRY = 0x100000 + 0x40


def flat_kernel(code: bytes, flags: int = 0x10002, bss: int = 0) -> bytes:
    header = struct.pack("<III", HEADER_MAGIC, flags, -(HEADER_MAGIC + flags) & 0xFFFFFFFF)
    size = 0x40 + len(code)
    header += struct.pack("<5I", 0x100000, 0x100000, 0x100000 + size, 0x100000 + size + bss, ENTRY)
    return header.ljust(0x40, b"\0") + code


def check_start(m: Machine) -> None:
    """Multiboot specification, 3.2 and 3.3."""
    assert m.regs.eax == 0x2BADB002
    assert m.regs.cr0 & 0x80000001 == 1
    assert m.regs.eflags & 0x20200 == 0
    assert (m.regs.segment("cs").base, m.regs.segment("cs").limit) == (0, 0xFFFFFFFF)
    assert m.regs.segment("cs").attributes & 0xC0FA == 0xC09A
    for name in ("ds", "es", "fs", "gs", "ss"):
        assert (m.regs.segment(name).base, m.regs.segment(name).limit) == (0, 0xFFFFFFFF)
        assert m.regs.segment(name).attributes & 0xC0FA == 0xC092
    info = m.regs.ebx
    assert m.memory.u32(info) & 0x245 == 0x245
    assert (m.memory.u32(info + 4), m.memory.u32(info + 8)) == (640, 1024)
    assert m.memory.string(m.memory.u32(info + 16)) == b"kernel.1"
    assert m.memory.string(m.memory.u32(info + 64)) == b"pykprobes"
    length, at = m.memory.u32(info + 44), m.memory.u32(info + 48)
    ranges = []
    end = at + length
    while at < end:
        base, size, kind = struct.unpack("<QQI", m.memory.read(at + 4, 20))
        ranges.append((base, size, kind))
        at += 4 + m.memory.u32(at)
    assert ranges == [(0, 0xFF000, 1), (0xFF000, 0x1000, 2), (0x100000, 0x100000, 1), (0xFFFFF000, 0x1000, 2)]


def test_a_flat_multiboot_kernel(m: Machine) -> None:
    m.load_rom(b"\xf4")
    m.memory.fill(0x100000, 0x1000, 0xEE)
    image = m.load(flat_kernel(b"\x8b\x4b\x08\xf4", bss=16), name="kernel.1")  # mov ecx, [ebx+8]; hlt
    assert (image.entry, m.regs.eip) == (ENTRY, ENTRY)
    check_start(m)
    assert m.memory.read(0x100044, 17) == bytes(16) + b"\xee"
    assert m.run(max_instructions=10).reason is StopReason.HALT
    assert m.regs.ecx == 1024


def test_an_elf_multiboot_kernel(m: Machine) -> None:
    """Linked for 3 GiB and up, loaded at its physical addresses, as kernels are."""
    m.load_rom(b"\xf4")
    body = struct.pack("<III", HEADER_MAGIC, 2, -(HEADER_MAGIC + 2) & 0xFFFFFFFF) + b"\x40\xf4"
    elf = bytearray(52 + 32)
    elf[:16] = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    struct.pack_into("<HHIIIIIHHHHHH", elf, 16, 2, 3, 1, 0xC010000C, 52, 0, 0, 52, 32, 1, 40, 0, 0)
    struct.pack_into("<8I", elf, 52, 1, 84, 0xC0100000, 0x100000, len(body), len(body) + 100, 7, 4)
    image = m.load(bytes(elf) + body, name="kernel.1")
    assert (image.entry, m.regs.eip) == (0x10000C, 0x10000C)
    check_start(m)
    assert m.run(max_instructions=10).reason is StopReason.HALT
    assert m.regs.eax == 0x2BADB003


def test_find_header_follows_the_specification() -> None:
    header = flat_kernel(b"")[:32]
    for offset in (0, 4, 8188 - 28):
        found = find_header(bytes(offset) + header)
        assert found is not None and found.offset == offset
    assert find_header(bytes(2) + header) is None  # not at a multiple of 4
    assert find_header(bytes(8192) + header) is None  # too late
    assert find_header(header[:8] + b"\0\0\0\0" + header[12:]) is None  # checksum
    assert find_header(header[:30]) is None  # cut off


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda k: flat_kernel(b"\xf4", 0x10004), "cannot give"),
        (lambda k: k[:12] + struct.pack("<I", 0x50) + k[16:], "not in the file"),
        (lambda k: k[:20] + struct.pack("<I", 0x100000 + 4096) + k[24:], "do not go with"),
        (lambda k: k[:24] + struct.pack("<I", 0x100001) + k[28:], "do not go with"),
        (lambda k: k[:28] + struct.pack("<I", 0x90000) + k[32:], "none of its segments"),
        (lambda k: k[:24] + struct.pack("<I", 0x100000 + RAM) + k[28:], "not all RAM"),
        (lambda k: k[:4] + struct.pack("<II", 2, -(HEADER_MAGIC + 2) & 0xFFFFFFFF) + k[12:], "not ELF"),
    ],
)
def test_bad_multiboot_kernels(m: Machine, change: object, why: str) -> None:
    before = list(m.regs), m.memory.read(0, RAM)
    with pytest.raises(ValueError, match=why):
        m.load(change(flat_kernel(b"\xf4")))  # type: ignore[operator]
    assert (list(m.regs), m.memory.read(0, RAM)) == before
    assert not m.images


def test_the_information_keeps_off_the_kernel(m: Machine) -> None:
    kernel = bytearray(flat_kernel(b"\xf4"))
    struct.pack_into("<5I", kernel, 12, 0x1000, 0x1000, 0x1041, 0x3001, 0x1040)
    m.load(bytes(kernel))
    assert m.regs.ebx == 0x4000


def test_flat_images_load_as_before(m: Machine) -> None:
    image = m.load(b"\x40\xf4", at=0x7C00)
    assert (image.base, m.memory.read(0x7C00, 2)) == (0x7C00, b"\x40\xf4")
    with pytest.raises(MemoryFault):
        m.memory.read(RAM, 1)


def test_memory_is_seen_through_the_guests_page_tables():
    with Machine(kernel=None, memory=1 << 20) as m:
        m.memory.write_u32(0x1000 + 4 * 0x300, 0x2003)  # linear C0000000h: table at 2000h
        m.memory.write_u32(0x1000, 0x3003)
        m.memory.write_u32(0x2000, 0x5003)
        m.memory.write_u32(0x3000 + 4 * 5, 0x5003)
        m.memory.write(0x5000, b"page five")
        m.regs.cr3 = 0x1000
        m.regs.cr0 = 0x80000011
        assert m.memory.read(0xC0000000, 9) == b"page five" == m.memory.read(0x5000, 9)
        assert m.memory.is_mapped(0xC0000000, 0x1000) and not m.memory.is_mapped(0xC0001000)
        assert not m.memory.is_mapped(0x6000)
