"""Reading of ELF32 files for i386: headers, segments, symbols and relocations, out of bytes that may be hostile.

Every table is checked against the file's size before it is read, work is linear in that size, and what is wrong is
a ValueError. (pyelftools, the oracle of the tests, follows such files into long loops.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"\x7fELF"
EXEC, DYN = 2, 3
PT_LOAD, PT_DYNAMIC = 1, 2
SHT_SYMTAB, SHT_STRTAB, SHT_DYNSYM = 2, 3, 11
SHF_EXECINSTR = 4
PF_X, PF_W = 1, 2
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STB_LOCAL, STB_WEAK = 0, 2
STT_OBJECT, STT_FUNC, STT_TLS, STT_IFUNC = 1, 2, 6, 10
NAMED_TYPES = (0, STT_OBJECT, STT_FUNC, STT_IFUNC)
DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_STRSZ, DT_INIT = 4, 5, 6, 7, 10, 12
DT_REL, DT_RELSZ, DT_JMPREL, DT_PLTRELSZ = 17, 18, 23, 2
DT_INIT_ARRAY, DT_INIT_ARRAYSZ = 25, 27
DT_RELRSZ, DT_RELR = 35, 36
R_386_RELATIVE = 8
NAME_MAX = 4096
SPAN_MAX = 1 << 30
TYPES = {1: "a relocatable object: link it first", 4: "a core dump"}


class Segment(NamedTuple):
    """A PT_LOAD segment; `size` bytes in memory, beginning with `data`."""

    address: int
    data: memoryview
    size: int
    flags: int

    @property
    def end(self) -> int:
        return self.address + self.size


class ElfSymbol(NamedTuple):
    """An entry of a symbol table."""

    name: str
    value: int
    size: int
    type: int
    binding: int
    section: int

    @property
    def defined(self) -> bool:
        return self.section != SHN_UNDEF


class Relocation(NamedTuple):
    """A REL entry; `symbol` is an index into the dynamic symbols."""

    offset: int
    type: int
    symbol: int


class Elf:
    """A parsed file. Nothing outside of it is touched.

    >>> Elf(b"#!/bin/sh", "script")
    Traceback (most recent call last):
    ValueError: script is not an ELF file; flat code needs at=address
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        self.data = memoryview(data)
        self.header(data)
        self.segments: list[Segment] = []
        self.dynamic: dict[int, int] = {}
        for kind, offset, vaddr, _, filesz, memsz, flags, align in self.program_headers:
            if kind == PT_LOAD and memsz:
                self.segments.append(self.segment(offset, vaddr, filesz, memsz, flags, align))
            elif kind == PT_DYNAMIC and not self.dynamic:
                self.dynamic = self.read_dynamic(self.slice(offset, filesz, "dynamic section"))
        self.check_segments()
        self.code_sections: set[int] = {i for i, s in enumerate(self.sections) if s[2] & SHF_EXECINSTR}
        self.dynamic_symbols = self.read_dynamic_symbols()

    def bad(self, what: str) -> ValueError:
        return ValueError(f"{self.name}: {what}")

    def header(self, data: bytes) -> None:
        if data[:4] != MAGIC:
            raise ValueError(f"{self.name} is not an ELF file; flat code needs at=address")
        if len(data) < 52:
            raise self.bad("the file ends within the ELF header")
        if data[4] != 1:
            raise self.bad("a 64-bit ELF file: the machine is an i386, build with -m32")
        kind, machine, version = struct.unpack_from("<HHI", data, 16)
        if data[5] != 1 or machine != 3:
            raise self.bad(f"an ELF file for another processor (machine {machine}): it must be for i386")
        if version != 1 or kind not in (EXEC, DYN):
            raise self.bad(f"cannot be loaded: it is {TYPES.get(kind, f'of unknown type {kind}')}")
        self.kind: int = kind
        self.entry, phoff, shoff, _, _, phsize, phnum, shsize, shnum, _ = struct.unpack_from("<IIIIHHHHHH", data, 24)
        if phnum and phsize != 32:
            raise self.bad(f"program headers of {phsize} bytes instead of 32")
        self.program_headers = self.table("<8I", phoff, 32 * phnum, "program headers")
        # Section headers only name things: a file whose headers are stripped or damaged loads without them.
        usable = shsize == 40 and shoff + 40 * shnum <= len(data)
        self.sections = self.table("<10I", shoff, 40 * shnum, "section headers") if usable else []

    def slice(self, offset: int, size: int, what: str) -> memoryview:
        if offset + size > len(self.data):
            raise self.bad(f"truncated: {what} up to {offset + size:#x}, but the file ends at {len(self.data):#x}")
        return self.data[offset : offset + size]

    def table(self, layout: str, offset: int, size: int, what: str) -> list[tuple[int, ...]]:
        size -= size % struct.calcsize(layout)
        return list(struct.iter_unpack(layout, self.slice(offset, size, what)))

    def segment(self, offset: int, vaddr: int, filesz: int, memsz: int, flags: int, align: int) -> Segment:
        data = self.slice(offset, filesz, f"segment at {vaddr:#x}")
        if filesz > memsz:
            raise self.bad(f"the segment at {vaddr:#x} has more bytes in the file ({filesz:#x}) than in memory")
        if vaddr + memsz > 1 << 32:
            raise self.bad(f"the segment at {vaddr:#x} goes beyond 4 GiB")
        if align > 1 and (align & (align - 1) or align > 1 << 20):
            raise self.bad(f"the segment at {vaddr:#x} has the alignment {align:#x}")
        self.align = max(getattr(self, "align", 4096), align)
        return Segment(vaddr, data, memsz, flags)

    def check_segments(self) -> None:
        if not self.segments:
            raise self.bad("it has no segment to load")
        self.segments.sort(key=lambda s: s.address)
        for before, after in zip(self.segments, self.segments[1:], strict=False):
            if before.end > after.address:
                raise self.bad(f"its segments at {before.address:#x} and {after.address:#x} overlap")
        if self.end - self.start > SPAN_MAX:
            raise self.bad(f"its segments span {self.end - self.start:#x} bytes, the most is {SPAN_MAX:#x}")
        if self.entry and self.kind == EXEC and self.segment_at(self.entry) is None:
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

    def at(self, address: int, size: int, what: str) -> memoryview:
        """The file's bytes at a virtual address."""
        segment = self.segment_at(address)
        offset = address - segment.address if segment else 0
        if segment is None or offset + size > len(segment.data):
            raise self.bad(f"its {what} at {address:#x} ({size:#x} bytes) are not in the file")
        return segment.data[offset : offset + size]

    @staticmethod
    def read_dynamic(data: memoryview) -> dict[int, int]:
        tags: dict[int, int] = {}
        for tag, value in struct.iter_unpack("<II", data[: len(data) & ~7]):
            if tag == 0:
                break
            tags.setdefault(tag, value)
        return tags

    def read_symbols(self, table: memoryview, strings: bytes) -> list[ElfSymbol]:
        symbols = []
        for name, value, size, info, _, section in struct.iter_unpack("<IIIBBH", table[: len(table) & ~15]):
            symbols.append(ElfSymbol(self.string(strings, name), value, size, info & 15, info >> 4, section))
        return symbols

    @staticmethod
    def string(strings: bytes, offset: int) -> str:
        end = strings.find(b"\0", offset, offset + NAME_MAX)
        return strings[offset : end if end >= 0 else offset].decode("utf-8", "replace")

    def read_dynamic_symbols(self) -> list[ElfSymbol]:
        if DT_SYMTAB not in self.dynamic:
            return []
        strings = bytes(self.at(self.dynamic.get(DT_STRTAB, 0), self.dynamic.get(DT_STRSZ, 0), "dynamic strings"))
        table = self.dynamic[DT_SYMTAB]
        return self.read_symbols(self.at(table, 16 * self.dynamic_symbol_count(table), "dynamic symbols"), strings)

    def dynamic_symbol_count(self, table: int) -> int:
        """How many there are: the hash table or the section says; else up to the strings, where linkers end them."""
        for section in self.sections:
            if section[1] == SHT_DYNSYM and section[3] == table:
                return section[5] // 16
        if DT_HASH in self.dynamic:
            return int(struct.unpack("<I", self.at(self.dynamic[DT_HASH] + 4, 4, "hash table"))[0])
        strings = self.dynamic.get(DT_STRTAB, 0)
        return (strings - table) // 16 if strings > table else 0

    def symbols(self) -> Iterator[ElfSymbol]:
        """Named addresses of the file: the full table where there is one, and the dynamic one."""
        for section in self.sections:
            if section[1] == SHT_SYMTAB and section[6] < len(self.sections):
                strings = self.sections[section[6]]
                table = self.slice(section[4], section[5], "symbols")
                yield from self.read_symbols(table, bytes(self.slice(strings[4], strings[5], "strings")))
                break
        yield from self.dynamic_symbols

    def is_code(self, symbol: ElfSymbol) -> bool:
        """Is a symbol's address one of code?"""
        if symbol.type in (STT_FUNC, STT_IFUNC):
            return True
        if symbol.type == STT_OBJECT:
            return False
        if symbol.section < len(self.sections):
            return symbol.section in self.code_sections
        segment = self.segment_at(symbol.value)
        return segment is not None and bool(segment.flags & PF_X)

    def relocations(self) -> Iterator[Relocation]:
        """All dynamic relocations, in the order in which the dynamic linker applies them."""
        if DT_RELA in self.dynamic:
            raise self.bad("RELA relocations: i386 files have REL")
        yield from self.packed_relocations()
        for start, size in ((DT_REL, DT_RELSZ), (DT_JMPREL, DT_PLTRELSZ)):
            if start in self.dynamic and self.dynamic.get(size):
                length = self.dynamic[size] & ~7
                table = self.at(self.dynamic[start], length, "relocations")
                for offset, info in struct.iter_unpack("<II", table):
                    yield Relocation(offset, info & 255, info >> 8)

    def packed_relocations(self) -> Iterator[Relocation]:
        """RELR: an even word is an address, an odd one a bitmap of the 31 words that follow the last."""
        if DT_RELR not in self.dynamic:
            return
        where = 0
        table = self.at(self.dynamic[DT_RELR], self.dynamic.get(DT_RELRSZ, 0) & ~3, "packed relocations")
        for (word,) in struct.iter_unpack("<I", table):
            if word & 1 == 0:
                yield Relocation(word, R_386_RELATIVE, 0)
                where = word + 4
            else:
                for bit in range(31):
                    if word >> (bit + 1) & 1:
                        yield Relocation(where + 4 * bit, R_386_RELATIVE, 0)
                where += 31 * 4

    def initializers(self) -> list[int]:
        """The address of DT_INIT, if there is one, before relocation."""
        return [self.dynamic[DT_INIT]] if self.dynamic.get(DT_INIT) else []

    def init_array(self) -> tuple[int, int]:
        """Address and number of the initializer pointers."""
        return self.dynamic.get(DT_INIT_ARRAY, 0), self.dynamic.get(DT_INIT_ARRAYSZ, 0) // 4
