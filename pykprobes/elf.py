"""ELF32 files for i386 as pyelftools reads them, out of bytes that may be hostile.

pyelftools believes what a file says of itself. Here what is loaded is checked against the file's size, everything that
pyelftools stumbles over is a ValueError, and the number of its reads is bounded by the file's size.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection

MAGIC = b"\x7fELF"
EXEC, DYN = "ET_EXEC", "ET_DYN"
TYPES = {"ET_REL": "a relocatable object: link it first", "ET_CORE": "a core dump"}
PF_X, PF_W = 1, 2
SHF_EXECINSTR = 4
IFUNC = "STT_LOOS"
"""How pyelftools calls the number of STT_GNU_IFUNC."""
FUNCTIONS = ("STT_FUNC", IFUNC)
NAMED_TYPES = ("STT_NOTYPE", "STT_OBJECT", "STT_TLS", *FUNCTIONS)
R_386_RELATIVE = 8
VERSION_HIDDEN = 0x8000
SPAN_MAX = 1 << 30
READS = 1 << 20
READS_PER_BYTE = 1
"""A symbol or relocation takes about 40 reads; in real libraries they are a small part of the file."""


class _Metered(io.BytesIO):
    """A file that ends the reading of what promises more than it holds."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.left = READS + READS_PER_BYTE * len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError("its tables refer to more than there is")
        return super().read(size)


class Segment(NamedTuple):
    """A PT_LOAD segment; `size` bytes in memory, beginning with `data`."""

    address: int
    data: memoryview
    size: int
    flags: int
    physical: int

    @property
    def end(self) -> int:
        return self.address + self.size


class TlsSegment(NamedTuple):
    """A PT_TLS segment: what `size` bytes of each thread begin with lies at `address`."""

    address: int
    filled: int
    size: int
    align: int


class ElfSymbol(NamedTuple):
    """An entry of a symbol table; type, binding and special sections by their names in the ELF specification.

    ``version`` is "" where symbols have none; a hidden one serves only those who ask for that version.
    """

    name: str
    value: int
    size: int
    type: str | int
    binding: str | int
    section: str | int
    version: str = ""
    hidden: bool = False

    @property
    def defined(self) -> bool:
        return self.section != "SHN_UNDEF"

    @property
    def absolute(self) -> bool:
        return self.section == "SHN_ABS"


class Relocation(NamedTuple):
    """A REL entry; `symbol` is an index into the dynamic symbols."""

    offset: int
    type: int
    symbol: int


def _symbol(found: Any) -> ElfSymbol:
    entry = found.entry
    info = entry["st_info"]
    return ElfSymbol(found.name, entry["st_value"], entry["st_size"], info["type"], info["bind"], entry["st_shndx"])


class Elf:
    """A parsed file. Nothing outside of it is touched.

    >>> Elf(b"#!/bin/sh", "script")
    Traceback (most recent call last):
    ValueError: script is not an ELF file; flat code needs at=address
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.data = memoryview(data)
        self.align = 4096
        self.segments: list[Segment] = []
        self.tls: TlsSegment | None = None
        self.dynamic: dict[str | int, int] = {}
        self.dynamic_symbols: list[ElfSymbol] = []
        self.table: DynamicSegment | None = None
        if data[:4] != MAGIC:
            raise ValueError(f"{name} is not an ELF file; flat code needs at=address")
        if len(data) < 52:
            raise self.bad("the file ends within the ELF header")
        self.file = self.open(data)
        self.read_header()
        self.read_segments()
        self.check_segments()
        with self.reading("section headers"):
            self.executable = [bool(section["sh_flags"] & SHF_EXECINSTR) for section in self.file.iter_sections()]
        self.read_dynamic()

    def bad(self, what: str) -> ValueError:
        return ValueError(f"{self.name}: {what}")

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Whatever pyelftools raises at nonsense is a ValueError that names the place."""
        try:
            yield
        except Exception as error:
            raise self.bad(f"its {what} cannot be read: {str(error) or type(error).__name__}") from error

    def open(self, data: bytes) -> ELFFile:
        """Section headers only name things: a file whose headers are stripped or damaged loads without them."""
        e_shoff, e_shentsize = slice(32, 36), slice(46, 52)
        offset = int.from_bytes(data[e_shoff], "little")
        size, count, names = (int.from_bytes(data[i : i + 2], "little") for i in (46, 48, 50))
        if not (size == 40 and count and names < count and offset + 40 * count <= len(data)):
            header = bytearray(data[:52])
            header[e_shoff], header[e_shentsize] = bytes(4), bytes(6)
            data = bytes(header) + data[52:]
        with self.reading("headers"):
            return ELFFile(_Metered(data))

    def read_header(self) -> None:
        file, header = self.file, self.file.header
        if file.elfclass != 32:
            raise self.bad("a 64-bit ELF file: the machine is an i386, build with -m32")
        if not file.little_endian or header["e_machine"] != "EM_386":
            raise self.bad(f"an ELF file for another processor ({header['e_machine']}): it must be for i386")
        self.kind = header["e_type"]
        if header["e_version"] != "EV_CURRENT" or self.kind not in (EXEC, DYN):
            raise self.bad(f"cannot be loaded: it is {TYPES.get(self.kind, f'of unknown type {self.kind}')}")
        if header["e_phnum"] and header["e_phentsize"] != 32:
            raise self.bad(f"program headers of {header['e_phentsize']} bytes instead of 32")
        self.slice(header["e_phoff"], 32 * header["e_phnum"], "program headers")
        self.entry: int = header["e_entry"]

    def slice(self, offset: int, size: int, what: str) -> memoryview:
        if offset + size > len(self.data):
            raise self.bad(f"truncated: {what} up to {offset + size:#x}, but the file ends at {len(self.data):#x}")
        return self.data[offset : offset + size]

    def read_segments(self) -> None:
        with self.reading("program headers"):
            found = list(self.file.iter_segments())
        for segment in found:
            if segment["p_type"] == "PT_LOAD" and segment["p_memsz"]:
                self.segments.append(self.segment(segment.header))
            elif segment["p_type"] == "PT_TLS" and segment["p_memsz"]:
                self.tls = self.tls_segment(segment.header)
            elif isinstance(segment, DynamicSegment) and self.table is None:
                self.slice(segment["p_offset"], segment["p_filesz"], "dynamic section")
                # which pyelftools would find anew for each symbol
                vars(segment)["get_table_offset"] = cache(segment.get_table_offset)
                self.table = segment

    def segment(self, header: Any) -> Segment:
        vaddr, filesz, memsz, align = (header[name] for name in ("p_vaddr", "p_filesz", "p_memsz", "p_align"))
        data = self.slice(header["p_offset"], filesz, f"segment at {vaddr:#x}")
        if filesz > memsz:
            raise self.bad(f"the segment at {vaddr:#x} has more bytes in the file ({filesz:#x}) than in memory")
        if vaddr + memsz > 1 << 32:
            raise self.bad(f"the segment at {vaddr:#x} goes beyond 4 GiB")
        if align > 1 and (align & (align - 1) or align > 1 << 22):
            raise self.bad(f"the segment at {vaddr:#x} has the alignment {align:#x}")
        self.align = max(self.align, align)
        return Segment(vaddr, data, memsz, header["p_flags"], header["p_paddr"])

    def tls_segment(self, header: Any) -> TlsSegment:
        found = TlsSegment(*(header[name] for name in ("p_vaddr", "p_filesz", "p_memsz", "p_align")))
        align = max(found.align, 1)
        if found.filled > found.size or align & (align - 1) or align > 4096:
            raise self.bad(f"its thread-local segment at {found.address:#x} has nonsensical sizes")
        return found._replace(align=align)

    def check_segments(self) -> None:
        if not self.segments:
            raise self.bad("it has no segment to load")
        self.segments.sort(key=lambda s: s.address)
        for before, after in zip(self.segments, self.segments[1:], strict=False):
            if before.end > after.address:
                raise self.bad(f"its segments at {before.address:#x} and {after.address:#x} overlap")
        if self.end - self.start > SPAN_MAX:
            raise self.bad(f"its segments span {self.end - self.start:#x} bytes, the most is {SPAN_MAX:#x}")
        at_entry = self.segment_at(self.entry) or self.segment_of_physical(self.entry)
        if self.entry and self.kind == EXEC and at_entry is None:
            raise self.bad(f"its entry {self.entry:#x} is in none of its segments")

    @property
    def start(self) -> int:
        """First address, rounded down to a page."""
        return self.segments[0].address & ~4095

    @property
    def end(self) -> int:
        """The address behind the last byte, rounded up to a page."""
        return self.segments[-1].end + 4095 & ~4095

    def segment_at(self, address: int, size: int = 1) -> Segment | None:
        """The segment that holds all of [address, address + size)."""
        return next((s for s in self.segments if s.address <= address and address + size <= s.end), None)

    def segment_of_physical(self, address: int) -> Segment | None:
        """The segment that is loaded at a physical address: the entry of a kernel that switches paging on is one."""
        return next((s for s in self.segments if s.physical <= address < s.physical + s.size), None)

    def read_dynamic(self) -> None:
        if self.table is None:
            return
        with self.reading("dynamic section"):
            for tag in self.table.iter_tags():
                self.dynamic.setdefault(tag["d_tag"], tag["d_val"])
        if "DT_SYMTAB" in self.dynamic:
            with self.reading("dynamic symbols"):
                self.dynamic_symbols = [_symbol(found) for found in self.table.iter_symbols()]
            with self.reading("symbol versions"):
                self.read_versions()

    def read_versions(self) -> None:
        """Give the dynamic symbols their versions, which section headers lead to."""
        numbers = next(self.file.iter_sections("SHT_GNU_versym"), None)
        if numbers is None:
            return
        names: dict[int, str] = {}
        for section in self.file.iter_sections():
            if isinstance(section, GNUVerDefSection):
                for defined, auxiliaries in section.iter_versions():
                    names[defined["vd_ndx"]] = next(auxiliaries).name
            elif isinstance(section, GNUVerNeedSection):
                for _, needed in section.iter_versions():
                    names.update((auxiliary["vna_other"], auxiliary.name) for auxiliary in needed)
        words = struct.iter_unpack("<H", bytes(numbers.data())[: 2 * len(self.dynamic_symbols)])
        for i, (word,) in enumerate(words):
            name = names.get(word & ~VERSION_HIDDEN, "") if word & ~VERSION_HIDDEN > 1 else ""
            hidden = bool(word & VERSION_HIDDEN and name)
            self.dynamic_symbols[i] = self.dynamic_symbols[i]._replace(version=name, hidden=hidden)

    def symbols(self) -> list[ElfSymbol]:
        """Named addresses of the file: the full table where there is one, and the dynamic one."""
        with self.reading("symbols"):
            tables = [table for table in self.file.iter_sections("SHT_SYMTAB") if isinstance(table, SymbolTableSection)]
            return [_symbol(found) for table in tables for found in table.iter_symbols()] + self.dynamic_symbols

    def is_code(self, symbol: ElfSymbol) -> bool:
        """Is a symbol's address one of code?"""
        if symbol.type in FUNCTIONS:
            return True
        if symbol.type in ("STT_OBJECT", "STT_TLS"):
            return False
        if isinstance(symbol.section, int) and symbol.section < len(self.executable):
            return self.executable[symbol.section]
        segment = self.segment_at(symbol.value)
        return segment is not None and bool(segment.flags & PF_X)

    def relocations(self) -> list[Relocation]:
        """All dynamic relocations, in the order in which the dynamic linker applies them."""
        if "DT_RELA" in self.dynamic:
            raise self.bad("RELA relocations: i386 files have REL")
        found: list[Relocation] = []
        if self.table is None:
            return found
        with self.reading("relocations"):
            tables = self.table.get_relocation_tables()
            for name in ("RELR", "REL", "JMPREL"):
                for entry in tables[name].iter_relocations() if name in tables else ():
                    packed = name == "RELR"
                    kind, symbol = (R_386_RELATIVE, 0) if packed else (entry["r_info_type"], entry["r_info_sym"])
                    found.append(Relocation(entry["r_offset"], kind, symbol))
        return found

    def initializers(self) -> list[int]:
        """The address of DT_INIT, if there is one, before relocation."""
        return [self.dynamic["DT_INIT"]] if self.dynamic.get("DT_INIT") else []

    def init_array(self) -> tuple[int, int]:
        """Address and number of the initializer pointers."""
        return self.dynamic.get("DT_INIT_ARRAY", 0), self.dynamic.get("DT_INIT_ARRAYSZ", 0) // 4
