"""Histograms that C keeps at hits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING, Any

import numpy

from .actions import Action, Fields, Lookup, as_field
from .binding_actions import CoreAction
from .fetchargs import FetchArg
from .histogram import bars, interval_labels, trim
from .programs import compile_field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .programs import Op

LOG2_BINS = 65
BINS_MAX = 1 << 20
KEYS_MAX = 1 << 24
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1


class Hist(Action):
    """A histogram of a fetch argument.

    ``bins`` is "log2" (powers of two); a number of equal bins over ``range=(low, high)``; a sequence of edges; or
    "key": each value for itself, up to `capacity` different ones. ``counts`` and ``edges`` are as numpy.histogram has
    them: bin i holds edges[i] <= value < edges[i + 1]; what lies outside is in ``under`` and ``over``. With keys,
    counts[i] is how often keys[i] came, exactly, and ``over`` counts the values that found no room.

    ``counts``, ``edges`` and ``keys`` are live, read-only views of memory that stays as long as one of them is held.

    >>> hist = Hist("len", "+12(%sp):u32", bins="log2")
    >>> len(hist.counts), hist.edges[:5].tolist()
    (33, [0, 1, 2, 4, 8])
    >>> Hist("n", "%ax:u8", bins=4, range=(0, 256)).edges.tolist()
    [0, 64, 128, 192, 256]
    >>> Hist("n", "%ax", bins=[0, 10, 1000]).counts.tolist(), Hist("n", "%ax", bins="key").top(3)
    ([0, 0], [])
    """

    def __init__(
        self,
        name: str,
        fetch: str | FetchArg,
        bins: str | int | Sequence[int] = "log2",
        range: tuple[int, int] | None = None,
        capacity: int | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a histogram's name is text, not {type(name).__name__}")
        self.name = name
        self.field = as_field(fetch, name)
        if not self.field.scalar:
            raise ValueError(f"{self.field} is no number: a histogram needs one")
        self.kind = _kind(bins)
        if range is not None and self.kind != "linear":
            raise ValueError(f"{self.kind} bins have no range")
        if capacity is not None and self.kind != "key":
            raise ValueError("capacity is for bins='key'")
        self._keys = numpy.zeros(0, dtype=numpy.uint64)
        if self.kind == "log2":
            core = self._log2()
        elif self.kind == "key":
            core = self._keyed(1024 if capacity is None else index(capacity))
        elif self.kind == "linear":
            core = self._linear(index(bins), range)  # type: ignore[arg-type]
        else:
            core = self._edged([index(edge) for edge in bins])  # type: ignore[union-attr,arg-type]
        super().__init__(core)

    def _log2(self) -> CoreAction:
        if self.field.signed:
            raise ValueError(f"log2 bins need an unsigned field: {self.field} is signed")
        used = self.field.bits + 1
        self.edges = numpy.array([0, *(min(1 << k, (1 << 64) - 1) for k in _upto(used))], dtype=numpy.uint64)
        self._shown = slice(0, used)
        self._bins = numpy.zeros(LOG2_BINS, dtype=numpy.uint64)
        return CoreAction("log2", bins=self._bins, nbins=LOG2_BINS)

    def _linear(self, bins: int, range: tuple[int, int] | None) -> CoreAction:
        if not 0 < bins <= BINS_MAX:
            raise ValueError(f"bins is 1 to {BINS_MAX}, not {bins}")
        if range is None:
            raise ValueError("linear bins need range=(low, high)")
        low, high = map(index, range)
        if not LOWEST <= low < high <= HIGHEST:
            raise ValueError(f"range=(low, high) needs low < high within 64 bits, not {range}")
        width = -(-(high - low) // bins)
        if low + width * bins > HIGHEST:
            raise ValueError(f"range {range} in {bins} bins goes beyond 64 bits")
        shift = width.bit_length() - 1 if width & (width - 1) == 0 else 64
        self._outer([low + width * i for i in _upto(bins + 1)])
        members = {"nbins": bins, "lo": low, "width": width, "shift": shift, "is_signed": self.field.signed}
        return CoreAction("linear", bins=self._bins, **members)

    def _edged(self, edges: list[int]) -> CoreAction:
        if not 2 <= len(edges) <= BINS_MAX:
            raise ValueError(f"bins as edges need 2 to {BINS_MAX} of them, not {len(edges)}")
        if any(a >= b for a, b in pairwise(edges)) or edges[0] < LOWEST or edges[-1] > HIGHEST:
            raise ValueError("edges must ascend, within 64 bits")
        self._outer(edges)
        members = {"nbins": len(edges) - 1, "is_signed": self.field.signed}
        return CoreAction("edges", bins=self._bins, edges=self.edges, **members)

    def _outer(self, edges: list[int]) -> None:
        """Bins with one more at each end."""
        self.edges = numpy.array(edges, dtype=numpy.int64)
        self._shown = slice(1, -1)
        self._bins = numpy.zeros(len(edges) + 1, dtype=numpy.uint64)

    def _keyed(self, capacity: int) -> CoreAction:
        if not 0 < capacity <= KEYS_MAX:
            raise ValueError(f"capacity is 1 to {KEYS_MAX} different values, not {capacity}")
        slots = 1 << (2 * capacity - 1).bit_length()
        self.edges = numpy.zeros(0, dtype=numpy.int64)
        self._keys = numpy.zeros(capacity, dtype=numpy.uint64)
        self._bins = numpy.zeros(capacity, dtype=numpy.uint64)
        self._index = numpy.zeros(slots, dtype=numpy.uint32)
        members = {"nbins": capacity, "index_mask": slots - 1}
        return CoreAction("keys", bins=self._bins, keys=self._keys, index=self._index, **members)

    @property
    def counts(self) -> NDArray[numpy.uint64]:
        """Hits per bin, or per key."""
        return _frozen(self._bins[: self._core.c.used] if self.kind == "key" else self._bins[self._shown])

    @property
    def keys(self) -> NDArray[Any]:
        """With bins="key": the values, in the order in which they came first."""
        return _frozen(self._keys.view(numpy.int64 if self.field.signed else numpy.uint64)[: self._core.c.used])

    def top(self, n: int = 10) -> list[tuple[int, int]]:
        """With bins="key": the n commonest values with their counts, commonest first."""
        if self.kind != "key":
            raise ValueError("top is for histograms with bins='key'")
        keys, counts = self.keys, self.counts
        order = numpy.argsort(counts, kind="stable")[::-1][: max(0, index(n))]
        return [(int(keys[i]), int(counts[i])) for i in order]

    @property
    def under(self) -> int:
        """Values below the range."""
        return int(self._bins[0]) if self.kind in ("linear", "edges") else 0

    @property
    def over(self) -> int:
        """Values at or above the range's end; values that found no room."""
        return int(self._bins[-1] if self.kind in ("linear", "edges") else self._core.c.others)

    def reset(self) -> None:
        """Forget what was counted. Not while another thread runs the machine."""
        super().reset()
        self._core.c.used = self._core.c.others = 0
        self._bins[:] = 0
        if self.kind == "key":
            self._index[:] = 0

    def text(self, width: int = 50) -> list[str]:
        """Lines of text bars, without the empty bins at both ends; of keys the twenty commonest."""
        if self.kind == "key":
            commonest = self.top(20)
            lines = bars([self.field.format(value) for value, _ in commonest], [n for _, n in commonest], width)
            rest = int(self.counts.sum()) - sum(n for _, n in commonest)
        else:
            counts = [int(count) for count in self.counts]
            first, last = trim(counts)
            labels = interval_labels([int(edge) for edge in self.edges[first : last + 1]])
            lines, rest = bars(labels, counts[first:last], width), 0
        outside = "no room" if self.kind == "key" else "above"
        for name, value in (
            ("other values", rest), ("below", self.under), (outside, self.over), ("unreadable", self.faults)
        ):  # fmt: skip
            if value:
                lines.append(f"{name}: {value:,}")
        return lines

    def _fields(self) -> Fields:
        return {self.name: self.field}

    def _compile(self, lookup: Lookup, names: Fields) -> list[list[Op]]:
        return [compile_field(self.field, lookup, lookup.kept)]

    def _load(self, programs: list[list[Op]]) -> None:
        self._core.set_program(programs[0])

    def __repr__(self) -> str:
        return f"<Hist {self.field} {self.count:,} hits>"


def _kind(bins: object) -> str:
    if not isinstance(bins, str):
        return "edges" if hasattr(bins, "__iter__") else "linear"
    if bins not in ("log2", "key"):
        raise ValueError(f"bins is 'log2', 'key', a number or a list of edges, not {bins!r}")
    return bins


def _frozen(view: NDArray[Any]) -> NDArray[Any]:
    view.flags.writeable = False
    return view


def _upto(n: int) -> range:
    """range, which a parameter's name hides above."""
    return range(n)
