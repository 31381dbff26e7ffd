"""The probes of a machine as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar, overload

if TYPE_CHECKING:
    from .probes import Kprobe
    from .retprobes import Kretprobe

SHOWN = 20
HEAD = ("number", "kind", "place", "address", "symbol", "path", "hits", "missed", "")
RIGHT = (0, 6, 7)
T = TypeVar("T")


class ProbeList(Sequence["Kprobe | Kretprobe"]):
    """The registered probes, in the order of registration; a row for each when it is printed.

    The columns are the number (as in records), kind (p or r, as in probe events), place, address, the symbol that
    covers it, path, hits, misses and their causes.

    >>> print(ProbeList([]))
    no probes
    """

    def __init__(self, probes: Sequence[Kprobe | Kretprobe]) -> None:
        self._probes = sorted(probes, key=lambda probe: probe.number)

    def __len__(self) -> int:
        return len(self._probes)

    @overload
    def __getitem__(self, which: int) -> Kprobe | Kretprobe: ...
    @overload
    def __getitem__(self, which: slice) -> ProbeList: ...
    def __getitem__(self, which: int | slice) -> Kprobe | Kretprobe | ProbeList:
        return ProbeList(self._probes[which]) if isinstance(which, slice) else self._probes[which]

    def __iter__(self) -> Iterator[Kprobe | Kretprobe]:
        return iter(self._probes)

    def lines(self, most: int | None = None) -> list[str]:
        """The table as text, with at most so many rows."""
        shown = self._probes if most is None else self._probes[:most]
        if not shown:
            return ["no probes"]
        lines = aligned([HEAD, *map(row, shown)], RIGHT)
        more = len(self._probes) - len(shown)
        return [*lines, f"... and {more:,} more"] if more else lines

    def __repr__(self) -> str:
        return "\n".join(self.lines(SHOWN))


def aligned(rows: Sequence[tuple[str, ...]], right: Sequence[int] = ()) -> list[str]:
    """Rows of cells as lines, the columns in `right` flush right.

    >>> aligned([("a", "n"), ("long", "10")], right=[1])
    ['a      n', 'long  10']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{'>' if i in right else '<'}{widths[i]}}" for i, cell in enumerate(cells)).rstrip()
        for cells in rows
    ]


def row(probe: Kprobe | Kretprobe) -> tuple[str, ...]:
    """A probe's cells."""
    causes = ", ".join(f"{cause} {count:,}" for cause, count in probe.misses.items() if count)
    symbols = probe.machine.symbols if probe.machine is not None else None
    symbol = "" if symbols is None or probe.address is None else symbols.describe(probe.address)
    return (
        str(probe.number), "r" if hasattr(probe, "maxactive") else "p", probe.place, f"{probe.address or 0:#010x}",
        "" if symbol == f"{probe.address:#x}" else symbol, probe.path, f"{probe.hits:,}", f"{probe.nmissed:,}", causes,
    )  # fmt: skip


def all_or_none(probes: Sequence[T], register: Callable[[T], object], unregister: Callable[[T], object]) -> None:
    """Register every probe, or take back those that were."""
    done: list[T] = []
    try:
        for probe in probes:
            register(probe)
            done.append(probe)
    except BaseException:
        for probe in reversed(done):
            unregister(probe)
        raise
