"""The symbol table that a Linux kernel carries in itself, and its textual forms.

scripts/kallsyms.c of the kernel writes it: names as sequences of tokens, and addresses,
absolute (before 4.6) or relative to a base. The image says nowhere where that is; the table of tokens has a shape that
nothing else has, and the rest is found from there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..symbols import Symbol

TOKENS = 256
DIGITS = b"".join(b"%d\0" % digit for digit in range(10))  # tokens of one character each: digits are in many names
BIG = 0x80  # a length of two bytes (6.1 and later)
COUNT_MAX = 1 << 22
SEARCHED = 1 << 24  # bytes before the tokens in which the count is looked for
TRIED = 100  # names that must make sense before all are read
TYPES = {b"%c" % letter for letter in b"AaBbCcDdGgNnRrSsTtUuVvWw?"}
IMAGE = "vmlinux"
LINE = re.compile(r"^([0-9a-fA-F]{8}|[0-9a-fA-F]{16}) (\S) (\S+)(?:\s+\[(\S+)\])?\s*$")
Words = NDArray[np.uint32]


class Tokens(NamedTuple):
    """The table of tokens: where it begins and, with its index, ends."""

    start: int
    end: int
    text: list[bytes]


def from_image(data: bytes) -> list[Symbol]:
    """The symbols of an unpacked kernel, in the order of addresses; none where there is no such table.

    ``data`` is all of a vmlinux file or of the kernel's memory.
    """
    start = 0
    while (digits := data.find(DIGITS, start)) >= 0:
        tokens = _tokens(data, digits)
        found = _read(data, tokens) if tokens else None
        if found:
            return found
        start = digits + 1
    return []


def from_text(text: str, image: str = IMAGE) -> list[Symbol]:
    """The symbols of a System.map, or of /proc/kallsyms, where modules' symbols have the module's name.

    >>> from_text("c1000000 T _text\\nd0800000 t init_module\\t[loop]\\n")[0]
    Symbol(name='init_module', address=3498049536, size=0, image='loop', is_code=True, is_global=False)
    """
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        matched = LINE.match(line)
        if matched is None:
            if line.strip():
                raise ValueError(f"line {number} is none of a symbol table (address, type, name): {line[:60]!r}")
            continue
        address, kind, name, module = matched.groups()
        rows.append((int(address, 16), kind, name, module or image))
    if rows and not any(address for address, *_ in rows):
        raise ValueError("all addresses are 0: the table was read without the right to see them")
    if any(address >> 32 for address, *_ in rows):
        raise ValueError("the addresses are those of a 64-bit kernel")
    return _symbols(rows)


def _tokens(data: bytes, digits: int) -> Tokens | None:
    """The token table whose tokens 48 to 57 are the digits, or None if it is none."""
    start = digits
    for _ in range(ord("0")):
        start = data.rfind(b"\0", 0, start - 1) + 1
        if start <= 0:
            return None
    text, at = [], start
    for _ in range(TOKENS):
        end = data.find(b"\0", at, at + 64)
        if end < 0:
            return None
        text.append(data[at:end])
        at = end + 1
    offsets = np.cumsum([0, *(len(token) + 1 for token in text[:-1])], dtype=np.uint32)
    for index in range(at, at + 8):  # aligned to a word
        if np.array_equal(np.frombuffer(data, "<u2", TOKENS, index), offsets):
            return Tokens(start, index + 2 * TOKENS, text)
    return None


def _read(data: bytes, tokens: Tokens) -> list[Symbol] | None:
    """The table whose names are counted somewhere before the tokens."""
    for start in _candidates(data, tokens):
        count = int.from_bytes(data[start : start + 4], "little")
        if _names(data, start + 4, min(count, TRIED), tokens) is None:
            continue
        names = _names(data, start + 4, count, tokens)
        addresses = _addresses(data, start, tokens.end, count)
        if names is not None and addresses is not None:
            return _symbols([(a, n[0], n[1:], IMAGE) for a, n in zip(addresses.tolist(), names, strict=True)])
    return None


def _candidates(data: bytes, tokens: Tokens) -> list[int]:
    """Where a count of names may stand: the first names behind it begin with letters of types."""
    first = max(0, tokens.start - SEARCHED) & ~3
    words = np.frombuffer(data, "<u4", (tokens.start - first) // 4, first)
    octets = np.frombuffer(data, "u1", tokens.start - first, first)
    is_type = np.array([token[:1] in TYPES for token in tokens.text])
    starts = np.flatnonzero((words > 0) & (words < COUNT_MAX)) * 4
    at = starts + 4
    for _ in range(4):
        inside = at < len(octets) - BIG
        starts, at = starts[inside], at[inside]
        length = octets[at]
        good = (length > 0) & ((length >= BIG) | is_type[octets[at + 1]])
        starts, at = starts[good], np.where(length < BIG, at + 1 + length, at)[good]
    return [first + start for start in starts[::-1].tolist()]


def _names(data: bytes, start: int, count: int, tokens: Tokens) -> list[str] | None:
    """`count` names from there on, type letter first; None where there are none."""
    names, at, end = [], start, tokens.start
    for _ in range(count):
        length = data[at]
        at += 1
        if length & BIG:
            length = length & ~BIG | data[at] << 7
            at += 1
        if not length or at + length > end:
            return None
        name = b"".join([tokens.text[code] for code in data[at : at + length]])
        if name[:1] not in TYPES or len(name) < 2:
            return None
        names.append(name.decode("latin-1"))
        at += length
    return names


def _addresses(data: bytes, counter: int, tokens_end: int, count: int) -> Words | None:
    """The addresses, before the names' count or (6.4 and later) behind the tokens; the right ones ascend."""
    size = 4 * count
    base_before = int.from_bytes(data[counter - 4 : counter], "little")
    behind = -(-tokens_end // 4) * 4
    base_behind = int.from_bytes(data[behind + size : behind + size + 4], "little")
    for start, base in ((counter - 4 - size, base_before), (behind, base_behind), (counter - size, 0)):
        if start < 0 or start + size > len(data):
            continue
        words = np.frombuffer(data, "<u4", count, start) + np.uint32(base)
        if np.all(words[1:] >= words[:-1]) and words[-1] > words[0]:
            return words
    return None


def _symbols(rows: list[tuple[int, str, str, str]]) -> list[Symbol]:
    """Symbols by address. Each reaches to the next one of its image: the tables have no sizes."""
    rows = sorted(rows, key=lambda row: (row[3], row[0]))
    found = []
    for index, (address, kind, name, image) in enumerate(rows):
        following = index + 1
        while following < len(rows) and rows[following][3] == image and rows[following][0] == address:
            following += 1
        ends = following < len(rows) and rows[following][3] == image
        size = rows[following][0] - address if ends else 0
        found.append(Symbol(name, address, size, image, kind in "tTwW", kind.isupper() or kind in "wv"))
    return found
