"""Disassembly with names, by capstone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

INSN_MAX = 15
TARGET = re.compile(r"(?:^|(?<= ))0x[0-9a-f]+$")


class Line(NamedTuple):
    """One instruction; data that is none has the text ``.byte``."""

    address: int
    code: bytes
    text: str


@cache
def _capstone() -> Any:
    import capstone

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)


def disassemble(
    code: bytes, address: int, count: int = 0, describe: Callable[[int], str] | None = None
) -> Iterator[Line]:
    """Instructions of some bytes, at most `count` unless 0; `describe` names the targets of jumps.

    >>> for line in disassemble(b"\\x55\\x89\\xe5\\xc3", 0x1000): print(f"{line.address:x} {line.text}")
    1000 push ebp
    1001 mov ebp, esp
    1003 ret
    """
    at, done = 0, 0
    while at < len(code) and (not count or done < count):
        progress = False
        for start, size, mnemonic, operands in _capstone().disasm_lite(code[at:], address + at, count and count - done):
            progress = True
            text = f"{mnemonic} {operands}".rstrip()
            if describe and (mnemonic[0] == "j" or mnemonic in ("call", "loop")):
                text = TARGET.sub(lambda found: describe(int(found.group(), 16)), text)
            yield Line(start, code[at : at + size], text)
            at += size
            done += 1
        if not progress or (at < len(code) and (not count or done < count)):
            if at < len(code):
                yield Line(address + at, code[at : at + 1], f".byte {code[at]:#04x}")
            at += 1
            done += 1


def boundaries(code: bytes, address: int) -> set[int] | None:
    """Addresses at which instructions begin when code is decoded from its start; None when bytes are none.

    >>> sorted(boundaries(b"\\x55\\x89\\xe5\\xc3", 0x1000))
    [4096, 4097, 4099]
    """
    starts, end = set(), address
    for start, size, _, _ in _capstone().disasm_lite(code, address):
        starts.add(start)
        end = start + size
    return starts if end == address + len(code) else None
