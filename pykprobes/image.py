"""What a load puts into a machine, and the pages for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .memory import PAGE

if TYPE_CHECKING:
    from .machine import Machine


@dataclass(frozen=True, slots=True)
class Image:
    """What a load put into the machine.

    ``initializers`` are its constructors. Nobody has called them, so that probes can be put first: ``initialize`` does.
    """

    name: str
    base: int
    size: int
    entry: int | None
    symbols: dict[str, int] = field(repr=False)
    imports: tuple[str, ...] = ()
    initializers: tuple[int, ...] = ()

    def initialize(self, machine: Machine) -> None:
        """Call the constructors in order, with neither arguments nor environment."""
        if self.initializers:
            nothing = machine.alloc(4)
            for address in self.initializers:
                machine.call(address, 0, nothing, nothing)

    def __repr__(self) -> str:
        entry = f", entry {self.entry:#x}" if self.entry is not None else ""
        text = f"<Image {self.name} at [{self.base:#x}, {self.base + self.size:#x}){entry}, {len(self.symbols)} symbols"
        return f"{text}, {len(self.imports)} imports>" if self.imports else f"{text}>"


def place(machine: Machine, pages: dict[int, int], name: str) -> list[tuple[int, int]]:
    """Map runs of pages of equal rights, and return them; pages of RAM stay as they are. All or nothing."""
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
    return mapped
