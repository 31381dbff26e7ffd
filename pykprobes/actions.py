"""Actions: handlers that run in C at a hit, at a few nanoseconds each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from operator import index
from typing import TYPE_CHECKING

import numpy

from .binding_actions import CoreAction
from .fetchargs import FetchArg, parse_fetch
from .histogram import bars, interval_labels, trim

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .symbols import SymbolTable

LOG2_BINS = 65
BINS_MAX = 1 << 20


class Action:
    """What C does at every hit of the probes that have it; one action may serve many probes of one machine."""

    def __init__(self, core: CoreAction) -> None:
        self._core = core
        self._following: Action | None = None
        self._users = 0
        self._owner: object = None

    @property
    def count(self) -> int:
        """Hits seen."""
        return self._core.c.count

    @property
    def faults(self) -> int:
        """Hits whose value could not be read from memory."""
        return self._core.c.faults

    def reset(self) -> None:
        """Forget what was counted."""
        self._core.reset()

    def _resolve(self, symbols: SymbolTable) -> None:
        """Look up symbols that a field names."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.count:,} hits>"


class Count(Action):
    """Counts hits.

    >>> Count()
    <Count 0 hits>
    """

    def __init__(self) -> None:
        super().__init__(CoreAction("count"))


class Stop(Action):
    """Stops the run at the hit, with the reason STOPPED. The package exports it as StopRun."""

    def __init__(self) -> None:
        super().__init__(CoreAction("stop"))


class Hist(Action):
    """A histogram of a fetch argument: powers of two, or `bins` equal bins over ``range=(low, high)``.

    ``counts`` and ``edges`` are as numpy.histogram has them: bin i holds edges[i] <= value < edges[i + 1].
    Linear histograms count what lies outside in ``under`` and ``over``.

    >>> hist = Hist("len", "+12(%sp):u32", bins="log2")
    >>> len(hist.counts), hist.edges[:5].tolist()
    (33, [0, 1, 2, 4, 8])
    >>> Hist("n", "%ax:u8", bins=4, range=(0, 256)).edges.tolist()
    [0, 64, 128, 192, 256]
    """

    def __init__(
        self, name: str, fetch: str | FetchArg, bins: str | int = "log2", range: tuple[int, int] | None = None
    ) -> None:
        self.name = name
        self.field = fetch if isinstance(fetch, FetchArg) else parse_fetch(fetch, name)
        if isinstance(bins, str):
            self._bins = self._log2(bins, range)
            super().__init__(CoreAction("log2", self._bins))
        else:
            self._bins, low, width = self._linear(bins, range)
            super().__init__(CoreAction("linear", self._bins, low, width))
        if self.field.symbol is None:
            self._core.set_field(self.field, 0)

    def _log2(self, bins: str, range: tuple[int, int] | None) -> NDArray[numpy.uint64]:
        if bins != "log2":
            raise ValueError(f"bins is a number or 'log2', not {bins!r}")
        if range is not None:
            raise ValueError("log2 bins have no range")
        if self.field.signed:
            raise ValueError(f"log2 bins need an unsigned field: {self.field} is signed")
        used = self.field.bits + 1
        self.edges = numpy.array([0, *(min(1 << k, (1 << 64) - 1) for k in _upto(used))], dtype=numpy.uint64)
        self._shown = slice(0, used)
        return numpy.zeros(LOG2_BINS, dtype=numpy.uint64)

    def _linear(self, bins: int, range: tuple[int, int] | None) -> tuple[NDArray[numpy.uint64], int, int]:
        bins = index(bins)
        if not 0 < bins <= BINS_MAX:
            raise ValueError(f"bins is 1 to {BINS_MAX}, not {bins}")
        if range is None:
            raise ValueError("linear bins need range=(low, high)")
        low, high = map(index, range)
        if not -(1 << 63) <= low < high <= (1 << 63) - 1:
            raise ValueError(f"range=(low, high) needs low < high within 64 bits, not {range}")
        width = -(-(high - low) // bins)
        if low + width * bins > (1 << 63) - 1:
            raise ValueError(f"range {range} in {bins} bins goes beyond 64 bits")
        self.edges = numpy.array([low + width * i for i in _upto(bins + 1)], dtype=numpy.int64)
        self._shown = slice(1, -1)
        return numpy.zeros(bins + 2, dtype=numpy.uint64), low, width

    @property
    def counts(self) -> NDArray[numpy.uint64]:
        """Hits per bin: a live view that cannot be written."""
        view = self._bins[self._shown]
        view.flags.writeable = False
        return view

    @property
    def under(self) -> int:
        """Values below the range."""
        return int(self._bins[0]) if self._shown.start else 0

    @property
    def over(self) -> int:
        """Values at or above the range's end."""
        return int(self._bins[-1]) if self._shown.start else 0

    def reset(self) -> None:
        """Forget what was counted."""
        super().reset()
        self._bins[:] = 0

    def text(self, width: int = 50) -> list[str]:
        """Lines of text bars, without the empty bins at both ends."""
        counts = [int(count) for count in self.counts]
        first, last = trim(counts)
        labels = interval_labels([int(edge) for edge in self.edges[first : last + 1]])
        lines = bars(labels, counts[first:last], width)
        for name, value in (("below", self.under), ("above", self.over), ("unreadable", self.faults)):
            if value:
                lines.append(f"{name}: {value:,}")
        return lines

    def _resolve(self, symbols: SymbolTable) -> None:
        if self.field.symbol is not None:
            try:
                address = symbols[self.field.symbol]
            except KeyError as error:
                raise ValueError(f"field {self.field}: {symbols.missing(self.field.symbol)}") from error
            self._core.set_field(self.field, address)

    def __repr__(self) -> str:
        return f"<Hist {self.field} {self.count:,} hits>"


def _upto(n: int) -> range:
    """range, which a parameter's name hides above."""
    return range(n)


def chain(actions: Action | Sequence[Action] | None) -> list[Action]:
    """Check what was given as action= and return it as a list; TypeError or ValueError."""
    if actions is None:
        return []
    listed = [actions] if isinstance(actions, Action) else list(actions)
    for action in listed:
        if not isinstance(action, Action):
            raise TypeError(f"an action is Count, Hist or StopRun, not {type(action).__name__}")
    if len(set(map(id, listed))) < len(listed):
        raise ValueError("an action stands twice in one chain")
    return listed


def attach(actions: list[Action], owner: object, symbols: SymbolTable) -> CoreAction | None:
    """Link a chain for a probe of the machine `owner`; ValueError before anything changed."""
    links = list(zip_longest(actions, actions[1:]))
    for action, following in links:
        if action._users and action._owner is not owner:
            raise ValueError(f"{action!r} is in use by another machine")
        if action._users and action._following is not following:
            raise ValueError(f"{action!r} is part of another probe's chain: chains can share only their tail")
        if not action._users:
            action._resolve(symbols)
    for action, following in links:
        action._following = following
        action._core.set_next(following._core if following else None)
        action._users += 1
        action._owner = owner
    return actions[0]._core if actions else None


def detach(actions: list[Action]) -> None:
    """Undo attach for one probe."""
    for action in actions:
        action._users -= 1
        if not action._users:
            action._owner = None
