"""Putting images into a machine: ELF programs, ELF shared libraries and flat code."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .binding import RIGHT_USER, RIGHT_WRITE
from .elf import EXEC, MAGIC, PF_W, Elf, ElfSymbol, Relocation
from .memory import PAGE, TOP, address_range
from .multiboot import find_header, load_multiboot
from .symbols import Symbol, named_symbols

if TYPE_CHECKING:
    from .machine import Machine

FILE_MAX = 1 << 29
START_BLOCK = 64  # zero bytes above a program's first esp: argc, argv, envp and auxv of a program without arguments
THREAD_BLOCK = 4096
THREAD_ENTRY = 33  # of the GDT
CANARY_AT, CANARY = 0x14, 0xFF0A0D00
NONE, WORD, PC32, COPY, GLOB_DAT, JMP_SLOT, RELATIVE, IRELATIVE = 0, 1, 2, 5, 6, 7, 8, 42
TLS_TYPES = {14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 35, 36, 37, 40, 41}
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]


@dataclass(frozen=True, slots=True)
class Image:
    """What a load put into the machine. ``initializers`` are constructors, which nobody has called."""

    name: str
    base: int
    size: int
    entry: int | None
    symbols: dict[str, int] = field(repr=False)
    imports: tuple[str, ...] = ()
    initializers: tuple[int, ...] = ()

    def __repr__(self) -> str:
        entry = f", entry {self.entry:#x}" if self.entry is not None else ""
        text = f"<Image {self.name} at [{self.base:#x}, {self.base + self.size:#x}){entry}, {len(self.symbols)} symbols"
        return f"{text}, {len(self.imports)} imports>" if self.imports else f"{text}>"


def read_source(source: Source, name: str | None) -> tuple[bytes, str]:
    """The bytes and the name of what was given: path, bytes or binary file."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, default = bytes(source), "image"
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_file() and path.stat().st_size > FILE_MAX:
            raise ValueError(f"{path} is larger than {FILE_MAX >> 20} MiB")
        with path.open("rb") as file:
            data, default = file.read(FILE_MAX + 1), path.name
    elif hasattr(source, "read"):
        data, default = source.read(FILE_MAX + 1), Path(str(getattr(source, "name", "image"))).name
        if not isinstance(data, bytes):
            raise TypeError("the file must be open in binary mode")
    else:
        raise TypeError(f"an image is a path, bytes or a binary file, not {type(source).__name__}")
    if len(data) > FILE_MAX:
        raise ValueError(f"{default} is larger than {FILE_MAX >> 20} MiB")
    return data, name or default


def load(machine: Machine, source: Source, at: int | None, name: str | None) -> Image:
    """Load an image; ValueError, with nothing changed, when that cannot be."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"an image's name is text, not {type(name).__name__}")
    data, name = read_source(source, name)
    names = {image.name for image in machine.images}
    if name in names:
        name = next(numbered for n in count(2) if (numbered := f"{name}.{n}") not in names)
    multiboot = find_header(data) if at is None and machine._core.layout is None else None
    if multiboot is not None:
        image = load_multiboot(machine, data, multiboot, name)
    elif data[:4] != MAGIC and at is not None:
        image = _load_flat(machine, data, at, name)
    else:
        image, symbols = _ElfLoader(machine, Elf(data, name), at).load()
        machine.symbols.add(symbols)
    machine.images.append(image)
    return image


def _load_flat(machine: Machine, data: bytes, at: int, name: str) -> Image:
    at, size = address_range(at, len(data))
    if not size:
        raise ValueError(f"{name} is empty")
    _place(machine, dict.fromkeys(range(at // PAGE, (at + size - 1) // PAGE + 1), RIGHT_WRITE | RIGHT_USER), name)
    machine.memory.write(at, data)
    return Image(name, at, size, at, {})


def _place(machine: Machine, pages: dict[int, int], name: str) -> None:
    """Map runs of pages of equal rights; pages of RAM stay as they are. All or nothing."""
    mapped: list[tuple[int, int]] = []
    runs: list[tuple[int, int, int]] = []
    for page, rights in sorted(pages.items()):
        taken = machine.regions.overlap(page * PAGE, (page + 1) * PAGE)
        if taken is not None and taken.kind in ("RAM", "mapped"):
            continue
        if runs and runs[-1][1] == page and runs[-1][2] == rights:
            runs[-1] = (runs[-1][0], page + 1, rights)
        else:
            runs.append((page, page + 1, rights))
    try:
        for first, end, rights in runs:
            machine.regions.map(first * PAGE, (end - first) * PAGE, rights)
            mapped.append((first * PAGE, (end - first) * PAGE))
    except (ValueError, MemoryError) as error:
        for address, size in mapped:
            machine.regions.unmap(address, size)
        raise ValueError(f"{name} cannot be placed: {error}") from error


def _give_thread_block(machine: Machine) -> None:
    """Point GS to a thread control block, as the C library of an ELF program would have.

    Compiled code finds the stack protector's canary in it. The descriptor is SDM vol. 3, 3.4.5: a flat 4 GiB
    writable data segment of DPL 3 that begins at the block and wraps round.
    """
    layout = machine._core.layout
    if layout is None or machine.regs.gs:
        return
    base = machine.alloc(THREAD_BLOCK) + THREAD_BLOCK // 2
    machine.memory.write_u32(base, base)
    machine.memory.write_u32(base + CANARY_AT, CANARY)
    low, high = base << 16 & 0xFFFF0000 | 0xFFFF, base & 0xFF000000 | 0x00CFF300 | base >> 16 & 0xFF
    machine.memory.write(layout.gdt + 8 * THREAD_ENTRY, struct.pack("<II", low, high))
    machine.regs.gs = 8 * THREAD_ENTRY | 3


class _ElfLoader:
    """One load of an ELF file: everything is computed on copies, then placed and written at once."""

    def __init__(self, machine: Machine, elf: Elf, at: int | None) -> None:
        self.machine = machine
        self.elf = elf
        self.size = elf.end - elf.start
        self.bias = self.find_place(at) - elf.start
        self.contents = [bytearray(segment.data) for segment in elf.segments]
        self.patches: list[tuple[int, bytes]] = []
        self.imports: dict[str, int] = {}

    def find_place(self, at: int | None) -> int:
        elf = self.elf
        if elf.kind == EXEC:
            if at is not None:
                raise elf.bad(f"a program linked for {elf.start:#x}: it cannot be loaded at={at:#x}")
            return elf.start
        if at is None:
            try:
                return self.machine.regions.free(self.size, elf.align)
            except MemoryError as error:
                raise elf.bad(str(error)) from error
        address_range(at, self.size)
        if at % elf.align:
            raise elf.bad(f"at={at:#x} is not a multiple of its alignment, {elf.align:#x}")
        return at

    def load(self) -> tuple[Image, list[Symbol]]:
        machine, elf = self.machine, self.elf
        pages = self.pages()
        self.check_free(pages)
        for relocation in elf.relocations():
            self.relocate(relocation)
        symbols = named_symbols(elf, self.bias)
        initializers = self.initializers()
        if self.imports and not machine.imports.room_for(set(self.imports)):
            raise elf.bad(f"it has {len(self.imports)} imports, which is more than this machine can serve")
        _place(machine, pages, elf.name)
        for segment, content in zip(elf.segments, self.contents, strict=True):
            start = segment.address + self.bias
            machine.memory.write(start, bytes(content))
            # Beyond RAM the pages are fresh: zero already, and free until they are touched.
            zeroes = min(start + segment.size, machine.memory_size) - (start + len(content))
            if zeroes > 0:
                machine.memory.fill(start + len(content), zeroes)
        for address, data in self.patches:
            machine.memory.write(address, data)
        _give_thread_block(machine)
        entry = elf.entry + self.bias & 0xFFFFFFFF if elf.entry else None
        if elf.kind == EXEC and entry is not None:
            self.set_registers(entry)
        named = {symbol.name: symbol.address for symbol in symbols}
        image = Image(elf.name, elf.start + self.bias, self.size, entry, named, tuple(self.imports), initializers)
        return image, symbols

    def pages(self) -> dict[int, int]:
        """Rights by page. Where segments share a page, it has the rights of both."""
        pages: dict[int, int] = {}
        for segment in self.elf.segments:
            rights = RIGHT_USER | (RIGHT_WRITE if segment.flags & PF_W else 0)
            start, end = segment.address + self.bias, segment.end + self.bias
            if end > TOP:
                raise self.elf.bad(f"at {start:#x} it goes beyond 4 GiB")
            for page in range(start // PAGE, (end - 1) // PAGE + 1):
                pages[page] = pages.get(page, 0) | rights
        return pages

    def check_free(self, pages: dict[int, int]) -> None:
        for segment in self.elf.segments:
            start, end = segment.address + self.bias, segment.end + self.bias
            taken = self.machine.regions.overlap(start & ~(PAGE - 1), end + PAGE - 1 & ~(PAGE - 1))
            if taken is not None and taken.kind != "RAM":
                raise self.elf.bad(
                    f"its segment [{start:#x}, {end:#x}) overlaps what is at [{taken.start:#x}, {taken.end:#x})"
                )

    def set_registers(self, entry: int) -> None:
        machine = self.machine
        top = machine._core.layout.stack_top if machine._core.layout else machine.memory_size
        esp = (top & ~15) - START_BLOCK
        machine.memory.fill(esp, START_BLOCK)
        machine.regs.esp = esp
        machine.regs.eip = entry

    def initializers(self) -> tuple[int, ...]:
        found = [address + self.bias & 0xFFFFFFFF for address in self.elf.initializers()]
        table, count = self.elf.init_array()
        if self.elf.segment_at(table, 4 * count) is not None:
            pointers = (self.word(table + 4 * i) for i in range(count))
            found += [pointer for pointer in pointers if pointer not in (0, 0xFFFFFFFF)]
        return tuple(found)

    # Relocation, on virtual addresses of the file

    def content(self, address: int) -> tuple[bytearray, int]:
        """The copy of the file's bytes that holds the word at an address, and where in it."""
        for segment, content in zip(self.elf.segments, self.contents, strict=True):
            if segment.address <= address and address + 4 <= segment.end:
                return content, address - segment.address
        raise self.elf.bad(f"a relocation at {address:#x}, outside of its segments")

    def word(self, address: int) -> int:
        content, at = self.content(address)
        return int.from_bytes(content[at : at + 4].ljust(4, b"\0"), "little")

    def store(self, address: int, value: int) -> None:
        content, at = self.content(address)
        if at + 4 > len(content):
            self.patches.append((address + self.bias, struct.pack("<I", value & 0xFFFFFFFF)))
        else:
            struct.pack_into("<I", content, at, value & 0xFFFFFFFF)

    def symbol(self, number: int) -> ElfSymbol:
        if number >= len(self.elf.dynamic_symbols):
            raise self.elf.bad(f"a relocation names symbol {number} of {len(self.elf.dynamic_symbols)}")
        return self.elf.dynamic_symbols[number]

    def value(self, symbol: ElfSymbol) -> int:
        """The address that a symbol of a relocation has at run time."""
        if symbol.defined:
            return symbol.value if symbol.absolute else symbol.value + self.bias
        machine = self.machine
        if not symbol.name:
            return 0
        if not machine.imports.is_bound(symbol.name):
            provided = machine.provided(symbol.name)
            if provided is not None:
                return provided.address
            if symbol.binding == "STB_WEAK":
                return 0
        if symbol.name not in self.imports:
            self.imports[symbol.name] = machine.imports.stub(symbol.name)
        return self.imports[symbol.name]

    def relocate(self, relocation: Relocation) -> None:
        at, kind = relocation.offset, relocation.type
        compute = _COMPUTE.get(kind)
        if kind == NONE:
            return
        if kind == RELATIVE:
            self.store(at, self.word(at) + self.bias)
        elif compute is not None:
            self.store(at, compute(self, at, self.value(self.symbol(relocation.symbol))))
        elif kind == COPY:
            self.copy(at, self.symbol(relocation.symbol))
        elif kind in TLS_TYPES:
            name = self.symbol(relocation.symbol).name if relocation.symbol else "its own data"
            raise self.elf.bad(f"it needs thread-local storage for {name}, which the machine does not have")
        elif kind == IRELATIVE:
            raise self.elf.bad("it chooses functions by CPU at load time (R_386_IRELATIVE): build it without ifuncs")
        else:
            raise self.elf.bad(f"it has relocations of type {kind}, which are not known")

    def copy(self, at: int, symbol: ElfSymbol) -> None:
        provided = self.machine.provided(symbol.name)
        if provided is None:
            raise self.elf.bad(f"it copies the variable {symbol.name}: load the library that has it first")
        size = min(symbol.size, provided.size or symbol.size)
        if self.elf.segment_at(at, size) is None:
            raise self.elf.bad(f"its copy of {symbol.name} at {at:#x} lies outside of its segments")
        self.patches.append((at + self.bias, self.machine.memory.read(provided.address, size)))


_COMPUTE: dict[int, Callable[[_ElfLoader, int, int], int]] = {
    WORD: lambda loader, at, value: value + loader.word(at),
    PC32: lambda loader, at, value: value + loader.word(at) - (at + loader.bias),
    GLOB_DAT: lambda loader, at, value: value,
    JMP_SLOT: lambda loader, at, value: value,
}
