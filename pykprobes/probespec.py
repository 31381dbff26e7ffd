"""Probes as text, in the kernel's probe-event syntax.

::

    p[:[GROUP/]NAME] place {[NAME=]fetch[:TYPE]}      place := [IMAGE:]SYM[+OFFSET] | ADDRESS
    r[MAXACTIVE][:[GROUP/]NAME] function {...}        the same: p[:...] function%return {...}
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .fetchargs import FetchArg, parse_fetch

MAX_FIELDS = 128
HEAD = re.compile(
    r"(?P<kind>p|r(?P<maxactive>[0-9]+)?)(?::(?:(?P<group>[A-Za-z_]\w*)/)?(?P<name>[A-Za-z_]\w*)?)?", re.ASCII
)
PLACE = re.compile(r"(?P<symbol>(?:[\w.\-]+:)?[A-Za-z_.][\w.$@]*)(?:\+(?P<offset>0[xX][0-9a-fA-F]+|[0-9]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """One parsed probe line.

    >>> spec = parse_probe("p:size crc32+4 len=+12(%sp):u32 %ax")
    >>> spec.name, spec.place, spec.offset, [field.name for field in spec.fields]
    ('size', 'crc32', 4, ['len', 'arg2'])
    >>> parse_probe("r16:out crc32 $retval").maxactive, parse_probe("p crc32%return").returns
    (16, True)
    """

    name: str
    group: str
    place: str | int
    offset: int
    fields: tuple[FetchArg, ...]
    returns: bool = False
    maxactive: int | None = None

    def field(self, name: str) -> FetchArg:
        """The field of a name; ValueError lists what there is."""
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        known = ", ".join(candidate.name for candidate in self.fields) or "none"
        raise ValueError(f"probe {self.name} has no field {name!r}; its fields are: {known}")


def number(text: str) -> int:
    """A number, decimal or 0x hexadecimal, also negative."""
    return int(text, 0)


def parse_place(text: str) -> tuple[str | int, int]:
    """``symbol[+offset]`` or an address, as (symbol or address, offset).

    >>> parse_place("inflate+0x10"), parse_place("0x8048000")
    (('inflate', 16), (134512640, 0))
    """
    if re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", text, re.ASCII):
        address = int(text, 16 if text[:2] in ("0x", "0X") else 10)
        if address > 0xFFFFFFFF:
            raise ValueError(f"address {text} is beyond 4 GiB")
        return address, 0
    found = PLACE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no place for a probe: give symbol, symbol+offset or an address")
    return found["symbol"], int(found["offset"] or "0", 16 if "x" in (found["offset"] or "").lower() else 10)


def parse_probe(text: str) -> ProbeSpec:
    """Parse one probe line; ValueError says what is wrong with it."""
    words = text.split()
    if not words:
        raise ValueError("an empty probe: give 'p[:name] symbol+offset [field=fetch:type]'")
    head = HEAD.fullmatch(words[0])
    if not head:
        raise ValueError(f"bad probe {text!r}: a probe begins with p or p:name, a return probe with r or r:name")
    if len(words) < 2:
        raise ValueError(f"bad probe {text!r}: behind {words[0]} goes a symbol or an address")
    returns = head["kind"] != "p" or words[1].endswith("%return")
    place, offset = parse_place(words[1].removesuffix("%return"))
    if returns and offset:
        raise ValueError(f"bad probe {text!r}: return probes go to the first instruction of a function")
    if len(words) - 2 > MAX_FIELDS:
        raise ValueError(f"bad probe: {len(words) - 2} fields, the most is {MAX_FIELDS}")
    fields = tuple(_field(word, f"arg{i}") for i, word in enumerate(words[2:], 1))
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"bad probe {text!r}: two fields are called {name}")
    letter = "r" if returns else "p"
    default = f"{letter}_{place}_{offset}" if isinstance(place, str) else f"{letter}_{place:#x}"
    maxactive = int(head["maxactive"] or 0) or None
    return ProbeSpec(head["name"] or default, head["group"] or "kprobes", place, offset, fields, returns, maxactive)


def _field(word: str, default: str) -> FetchArg:
    return parse_fetch(word, default)
