"""Multiboot (version 0.6.96) kernels: their header, and the state in which a boot loader starts them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from .elf import MAGIC, Elf
from .image import Image
from .memory import PAGE, TOP
from .segments import Segment
from .symbols import Symbol, named_symbols

if TYPE_CHECKING:
    from .machine import Machine

HEADER_MAGIC, LOADER_MAGIC = 0x1BADB002, 0x2BADB002
SEARCHED = 8192
ALIGN_MODULES, MEMORY_INFO, ADDRESSES = 1 << 0, 1 << 1, 1 << 16
HAS_MEMORY, HAS_COMMAND, HAS_MAP, HAS_LOADER = 1 << 0, 1 << 2, 1 << 6, 1 << 9
INFO_SIZE = 116
LOADER = b"pykprobes\0"
KIB, CONVENTIONAL, MIB = 1 << 10, 640 << 10, 1 << 20
FLAT_CODE = Segment(0x08, 0, 0xFFFFFFFF, 0xC09B)  # SDM vol. 3, 3.4.5: present, readable code, accessed; D, G
FLAT_DATA = Segment(0x10, 0, 0xFFFFFFFF, 0xC093)
PE, PG = 1, 1 << 31


class Header(NamedTuple):
    """A Multiboot header, and where in the file it is; the addresses count when flags bit 16 is set."""

    offset: int
    flags: int
    header_address: int
    load_address: int
    load_end: int
    bss_end: int
    entry: int


class Piece(NamedTuple):
    """Bytes that go to a physical address, and zeros up to `size`."""

    address: int
    data: bytes
    size: int


def find_header(data: bytes) -> Header | None:
    """The header in the first 8 KiB: at a multiple of 4, magic, flags and checksum with the sum 0.

    >>> find_header(b"\\0" * 4 + struct.pack("<III", HEADER_MAGIC, 0, -HEADER_MAGIC & 0xFFFFFFFF)).offset
    4
    """
    for offset in range(0, min(len(data), SEARCHED) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", data, offset)
        if magic == HEADER_MAGIC and (magic + flags + checksum) & 0xFFFFFFFF == 0:
            found = data[offset + 12 : min(offset + 32, SEARCHED)]
            if flags & ADDRESSES and len(found) < 20:
                return None
            addresses = struct.unpack("<5I", found) if flags & ADDRESSES else (0,) * 5
            return Header(offset, flags, *addresses)
    return None


def _flat_pieces(data: bytes, header: Header, name: str) -> tuple[list[Piece], int]:
    """Where the header's own addresses say that the file goes."""
    start = header.offset - (header.header_address - header.load_address)
    size = header.load_end - header.load_address if header.load_end else len(data) - start
    total = header.bss_end - header.load_address if header.bss_end else size
    if not (0 <= start <= header.offset and header.load_address <= header.header_address):
        raise ValueError(f"{name}: its Multiboot header has a load address that is not in the file")
    if size <= 0 or start + size > len(data) or total < size:
        raise ValueError(f"{name}: its Multiboot header has addresses that do not go with its {len(data):#x} bytes")
    return [Piece(header.load_address, data[start : start + size], total)], header.entry


def _elf_pieces(elf: Elf) -> tuple[list[Piece], int]:
    """An ELF kernel goes to its physical addresses; the entry, where it is virtual, is translated like its segment."""
    pieces = [Piece(segment.physical, bytes(segment.data), segment.size) for segment in elf.segments]
    segment = elf.segment_at(elf.entry)
    entry = elf.entry if segment is None else segment.physical + elf.entry - segment.address
    return pieces, entry


def _check_places(machine: Machine, pieces: list[Piece], entry: int, name: str) -> None:
    pieces.sort()
    at = 0
    for piece in pieces:
        end = piece.address + piece.size
        if piece.address < at:
            raise ValueError(f"{name}: its segments overlap at {piece.address:#x}")
        at = end
        where = machine.regions.overlap(piece.address, piece.address + 1) if piece.address < TOP else None
        if where is None or where.kind not in ("RAM", "mapped") or end > where.end:
            raise ValueError(f"{name} cannot be placed: [{piece.address:#x}, {end:#x}) is not all RAM")
    if not any(piece.address <= entry < piece.address + piece.size for piece in pieces):
        raise ValueError(f"{name}: its entry {entry:#x} is in none of its segments")


def _info(machine: Machine, at: int, name: str) -> bytes:
    """The information structure, and behind it the command line, the loader's name and the memory map."""
    command = name.encode() + b"\0"
    regions = list(machine.regions)
    ranges = b"".join(
        struct.pack("<IQQI", 20, start, end - start, 1 if kind in ("RAM", "mapped") else 2)
        for start, end, kind in regions
    )
    ram = [r for r in regions if r.kind == "RAM"]
    lower = min(next((r.end for r in ram if r.start == 0), 0), CONVENTIONAL)
    upper = next((r.end - MIB for r in ram if r.start <= MIB < r.end), 0)
    flags = HAS_MEMORY | HAS_COMMAND | HAS_MAP | HAS_LOADER
    command_at = at + INFO_SIZE
    loader_at = command_at + len(command)
    map_at = loader_at + len(LOADER)
    info = bytearray(INFO_SIZE)
    struct.pack_into("<III", info, 0, flags, lower // KIB, upper // KIB)
    struct.pack_into("<I", info, 16, command_at)
    struct.pack_into("<II", info, 44, len(ranges), map_at)
    struct.pack_into("<I", info, 64, loader_at)
    return bytes(info) + command + LOADER + ranges


def _free_place(machine: Machine, pieces: list[Piece], size: int, name: str) -> int:
    """Low RAM that the kernel does not fill, page 0 left out."""
    at = PAGE
    for piece in pieces:
        if piece.address < at + size:
            at = max(at, -(-(piece.address + piece.size) // PAGE) * PAGE)
    where = machine.regions.overlap(at, at + 1) if at < TOP else None
    if where is None or where.kind != "RAM" or at + size > where.end:
        raise ValueError(f"{name}: no RAM is left for the Multiboot information")
    return at


def load_multiboot(machine: Machine, data: bytes, header: Header, name: str) -> Image:
    """Place a kernel and set the CPU as the specification says (3.2); ValueError, with nothing changed, when that
    cannot be."""
    unknown = header.flags & 0xFFFF & ~(ALIGN_MODULES | MEMORY_INFO)
    if unknown:
        raise ValueError(f"{name}: its Multiboot header asks for what the machine cannot give (flags {unknown:#x})")
    symbols: list[Symbol] = []
    if header.flags & ADDRESSES:
        pieces, entry = _flat_pieces(data, header, name)
    elif data[:4] == MAGIC:
        elf = Elf(data, name)
        pieces, entry = _elf_pieces(elf)
        symbols = named_symbols(elf)
    else:
        raise ValueError(f"{name}: a Multiboot header without addresses in a file that is not ELF")
    _check_places(machine, pieces, entry, name)
    at = _free_place(machine, pieces, len(_info(machine, 0, name)), name)
    for piece in pieces:
        machine.memory.write(piece.address, piece.data)
        machine.memory.fill(piece.address + len(piece.data), piece.size - len(piece.data))
    machine.memory.write(at, _info(machine, at, name))
    _set_registers(machine, entry, at)
    machine.symbols.add(symbols)
    start, end = pieces[0].address, max(piece.address + piece.size for piece in pieces)
    return Image(name, start, end - start, entry, {symbol.name: symbol.address for symbol in symbols})


def _set_registers(machine: Machine, entry: int, info: int) -> None:
    regs = machine.regs
    regs.cr0 = regs.cr0 & ~PG
    regs.cr4 = 0
    regs.eflags = 2
    regs.cr0 = regs.cr0 | PE
    regs.set_segment("cs", FLAT_CODE)
    for name in ("ss", "ds", "es", "fs", "gs"):
        regs.set_segment(name, FLAT_DATA)
    regs.eax, regs.ebx, regs.eip = LOADER_MAGIC, info, entry
