"""ELF32 files made byte by byte, for tests of the loader."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

EXEC, DYN = 2, 3
R, W, X = 4, 2, 1
DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_REL, DT_RELSZ, DT_RELENT, DT_HASH = 5, 6, 10, 17, 18, 19, 4
HEADER, PROGRAM_HEADER = 52, 32


@dataclass
class Symbol:
    name: str
    value: int = 0
    size: int = 0
    info: int = 0x12  # global function
    section: int = 1  # 0: undefined


@dataclass
class ElfBuilder:
    """A file with one text segment at `base` and, for a library, one data segment behind it with its tables."""

    kind: int = EXEC
    base: int = 0x08048000
    text: bytes = b"\xf4"
    flags: int = R | X
    symbols: list[Symbol] = field(default_factory=list)
    relocations: list[tuple[int, int, int]] = field(default_factory=list)  # offset, type, symbol number from 1
    words: list[int] = field(default_factory=list)  # the data segment begins with these
    bss: int = 0

    TEXT_AT = 0x1000  # of the file and of the image
    DATA_AT = 0x2000

    @property
    def entry(self) -> int:
        return self.base + self.TEXT_AT

    def word_at(self, i: int) -> int:
        """Virtual address of a word of the data segment."""
        return self.base + self.DATA_AT + 4 * i

    def data(self) -> tuple[bytes, list[tuple[int, int]]]:
        strings = b"\0"
        table = bytes(16)
        for s in self.symbols:
            table += struct.pack("<IIIBBH", len(strings), s.value, s.size, s.info, 0, s.section)
            strings += s.name.encode() + b"\0"
        relocations = b"".join(struct.pack("<II", at, symbol << 8 | kind) for at, kind, symbol in self.relocations)
        count = len(self.symbols) + 1
        parts = {
            0: struct.pack(f"<{len(self.words)}I", *self.words),
            DT_SYMTAB: table,
            DT_HASH: struct.pack("<II", 1, count) + bytes(4 + 4 * count),
            DT_STRTAB: strings + bytes(-len(strings) % 4),
            DT_REL: relocations,
        }
        data, tags = b"", []
        for tag, part in parts.items():
            if tag:
                tags.append((tag, self.base + self.DATA_AT + len(data)))
            data += part
        return data, [*tags, (DT_STRSZ, len(strings)), (DT_RELSZ, len(relocations)), (DT_RELENT, 8)]

    def build(self) -> bytes:
        data, tags = self.data()
        dynamic = b"".join(struct.pack("<II", *tag) for tag in [*tags, (0, 0)])
        size = len(data) + len(dynamic)
        headers = [(1, self.TEXT_AT, self.entry, self.entry, len(self.text), len(self.text), self.flags, 4096)]
        at = self.base + self.DATA_AT
        headers.append((1, self.DATA_AT, at, at, size, size + self.bss, R | W, 4096))
        if self.symbols or self.relocations:
            start = self.DATA_AT + len(data)
            headers.append((2, start, self.base + start, self.base + start, len(dynamic), len(dynamic), R | W, 4))
        ident = b"\x7fELF\1\1\1" + bytes(9)
        entry = self.entry if self.kind == EXEC else 0
        header = ident + struct.pack(
            "<HHIIIIIHHHHHH", self.kind, 3, 1, entry, HEADER, 0, 0, HEADER, PROGRAM_HEADER, len(headers), 0, 0, 0
        )
        body = header + b"".join(struct.pack("<8I", *h) for h in headers)
        return body.ljust(self.TEXT_AT, b"\0") + self.text.ljust(self.DATA_AT - self.TEXT_AT, b"\0") + data + dynamic
