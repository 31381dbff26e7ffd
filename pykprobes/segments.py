"""Segment registers with their hidden parts, as records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import index

from .registers import NUMBERS

SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
REFUSED: dict[int, Callable[[Segment], str]] = {
    1: lambda s: f"attributes {s.attributes:#x} have bits other than type, S, DPL, P, AVL, D/B and G",
    2: lambda s: f"the limit {s.limit:#x} does not go with G={s.attributes >> 15} (bytes to 0xfffff, or pages: ...fff)",
    3: lambda s: f"attributes {s.attributes:#x} have an S bit or type that this register cannot have",
    4: lambda s: f"attributes {s.attributes:#x} lack P: this register is always present",
    5: lambda s: "in virtual-8086 mode the base is selector * 16, the limit 0xffff, the attributes 0xf3",
}


@dataclass(slots=True)
class Segment:
    """A segment register: selector, base, limit in bytes, and attributes, which are bits 40-55 of a descriptor.

    Attributes: type 0-3, S 4, DPL 5-6, P 7, AVL 12, D/B 14, G 15 (SDM vol. 3, 3.4.5); bits 8-11 are 0.

    >>> Segment(selector=0x08, base=0, limit=0xFFFFFFFF, attributes=0xC09B)
    Segment(selector=0x8, base=0x0, limit=0xffffffff, attributes=0xc09b)
    """

    selector: int
    base: int
    limit: int
    attributes: int

    def checked(self) -> Segment:
        """The same with plain ints; TypeError or ValueError when a field is none, or has too many bits."""
        fields = []
        for name, bits in (("selector", 16), ("base", 32), ("limit", 32), ("attributes", 16)):
            value = index(getattr(self, name))
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} {value:#x} does not fit into {bits} bits")
            fields.append(value)
        return Segment(*fields)

    def __repr__(self) -> str:
        return (
            f"Segment(selector={self.selector:#x}, base={self.base:#x}, limit={self.limit:#x}, "
            f"attributes={self.attributes:#x})"
        )


def segment_number(name: str) -> int:
    """The number of a segment register in enum reg_id; ValueError when it is none."""
    if name not in SEGMENTS:
        raise ValueError(f"{name!r} is no segment register: those are {', '.join(SEGMENTS)}")
    return NUMBERS[name]
