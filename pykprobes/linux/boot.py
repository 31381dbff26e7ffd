"""The 32-bit Linux boot protocol (Documentation/arch/x86/boot.rst of the kernel, "32-bit Boot Protocol")."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..memory import PAGE
from ..segments import Segment
from ..symbols import Symbol, named_symbols
from . import kallsyms
from .kernelimage import HEADER_AT, KernelImage

if TYPE_CHECKING:
    from ..machine import Machine

MIB = 1 << 20
GDT_AT, PARAMETERS_AT, COMMAND_LINE_AT = 0x1000, 0x10000, 0x20000
CONVENTIONAL_END, BIOS_AT = 0x9FC00, 0xF0000
PACKED_AT = MIB  # where a bzImage's protected-mode part goes
CODE = Segment(0x10, 0, 0xFFFFFFFF, 0xC09B)  # __BOOT_CS and __BOOT_DS, SDM vol. 3, 3.4.5: flat, present, accessed
DATA = Segment(0x18, 0, 0xFFFFFFFF, 0xC093)
GDT = struct.pack("<4Q", 0, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)
PE, PG, ET = 1, 1 << 31, 1 << 4
E820_COUNT, E820_TABLE, E820_RAM, E820_RESERVED = 0x1E8, 0x2D0, 1, 2
LOADER_UNKNOWN = 0xFF
UNPACK = ("host", "guest")


@dataclass(frozen=True)
class LinuxImage:
    """A loaded kernel: its name, version string, entry, command line, and how many symbols it brought."""

    name: str
    version: str
    entry: int
    cmdline: str
    symbols: int

    def __repr__(self) -> str:
        version = self.version.split(" ")[0] or "of unknown version"
        return f"<LinuxImage {self.name}, Linux {version}, entry {self.entry:#x}, {self.symbols:,} symbols>"


def load(machine: Machine, image: KernelImage, initrd: bytes, cmdline: str, unpack: str) -> LinuxImage:
    """Place a kernel and set the CPU as the protocol says; ValueError, with nothing changed, when that cannot be."""
    if unpack not in UNPACK:
        raise ValueError(f"unpack={unpack!r} must be 'host' or 'guest'")
    if machine.regs.cr0 & PG:
        raise ValueError("the machine has booted already: load a kernel into a fresh one")
    command = cmdline.encode() + b"\0"
    if len(command) - 1 > image.command_line_max:
        raise ValueError(f"the command line has {len(command) - 1} bytes; {image.name} takes {image.command_line_max}")
    pieces, entry, end = _pieces(image, unpack)
    ram = machine.memory_size
    if end > ram:
        raise ValueError(f"{image.name} needs {-(-end // MIB)} MiB of memory, the machine has {ram // MIB}")
    initrd_at = _initrd_place(image, initrd, end, ram)
    symbols = _symbols(image)
    for address, data in pieces:
        machine.memory.write(address, data)
    machine.memory.write(initrd_at, initrd)
    machine.memory.write(GDT_AT, GDT)
    machine.memory.write(COMMAND_LINE_AT, command)
    machine.memory.write(PARAMETERS_AT, _parameters(image, ram, initrd_at, len(initrd)))
    _set_registers(machine, entry)
    machine.symbols.remove_image(kallsyms.IMAGE)
    machine.symbols.add(symbols)
    return LinuxImage(image.name, image.version, entry, cmdline, len(symbols))


def _pieces(image: KernelImage, unpack: str) -> tuple[list[tuple[int, bytes]], int, int]:
    """What goes where in physical memory, the entry, and the end of what the kernel takes at first."""
    if unpack == "guest" and image.packed:
        code = image.data[image.kernel_at :]
        init_size = int.from_bytes(image.data[0x260:0x264], "little") if image.protocol >= 0x020A else 4 * len(code)
        preferred = int.from_bytes(image.data[0x258:0x25C], "little") if image.protocol >= 0x020A else PACKED_AT
        return [(PACKED_AT, code)], PACKED_AT, max(PACKED_AT + len(code), preferred + init_size)
    elf = image.elf
    pieces = [(segment.physical, bytes(segment.data)) for segment in elf.segments]
    if not pieces:
        raise ValueError(f"{image.name}: the kernel has no segments to load")
    home = elf.segment_at(elf.entry)
    entry = elf.entry if home is None else home.physical + elf.entry - home.address
    return pieces, entry, max(segment.physical + segment.size for segment in elf.segments)


def _initrd_place(image: KernelImage, initrd: bytes, kernel_end: int, ram: int) -> int:
    top = min(ram, image.initrd_max + 1)
    at = (top - len(initrd)) // PAGE * PAGE
    if at < kernel_end:
        needed = -(-(kernel_end + len(initrd) + PAGE) // MIB)
        raise ValueError(f"the initrd of {len(initrd):,} bytes does not fit behind the kernel: it takes {needed} MiB")
    return at


def _symbols(image: KernelImage) -> list[Symbol]:
    """From the ELF file's own table, else from the kernel's. A kernel that only the guest can unpack has none."""
    try:
        elf = image.elf
    except ValueError:
        return []
    return named_symbols(elf) or kallsyms.from_image(image.vmlinux)


def _parameters(image: KernelImage, ram: int, initrd_at: int, initrd_size: int) -> bytes:
    """struct boot_params: the header with what a loader fills in, and the memory map."""
    page = bytearray(PAGE)
    page[HEADER_AT : HEADER_AT + len(image.header)] = image.header
    page[0x210] = LOADER_UNKNOWN
    struct.pack_into("<II", page, 0x218, initrd_at if initrd_size else 0, initrd_size)
    struct.pack_into("<I", page, 0x228, COMMAND_LINE_AT)
    ranges = [(0, CONVENTIONAL_END, E820_RAM), (BIOS_AT, MIB, E820_RESERVED), (MIB, ram, E820_RAM)]
    page[E820_COUNT] = len(ranges)
    for index, (start, end, kind) in enumerate(ranges):
        struct.pack_into("<QQI", page, E820_TABLE + 20 * index, start, end - start, kind)
    return bytes(page)


def _set_registers(machine: Machine, entry: int) -> None:
    regs = machine.regs
    regs.cr4 = 0
    regs.cr0 = PE | ET
    regs.gdtr_base, regs.gdtr_limit = GDT_AT, len(GDT) - 1
    regs.set_segment("cs", CODE)
    for name in ("ss", "ds", "es", "fs", "gs"):
        regs.set_segment(name, DATA)
    regs.eflags = 2
    regs.ebp = regs.edi = regs.ebx = 0
    regs.esi, regs.eip = PARAMETERS_AT, entry
