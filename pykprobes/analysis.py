"""What records and histograms tell: merging, rates, quantiles, tables, latencies, stacks. All in numpy.

``rows`` are structured arrays as `Record.drain` gives them: with the columns icount, cpu and probe. Plots take and
return a matplotlib Axes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from .plots import plot_heatmap, plot_histogram, plot_timeline

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .hist import Hist
    from .symbols import SymbolTable

    Rows = NDArray[Any]

__all__ = [
    "Windows",
    "folded",
    "frame_fields",
    "latencies",
    "merge",
    "merge_histograms",
    "per_address",
    "per_function",
    "plot_heatmap",
    "plot_histogram",
    "plot_timeline",
    "quantiles",
    "rates",
    "stacks",
]
FRAMES_MAX = 8
WINDOWS_MAX = 1 << 24


def merge(*rows: Rows) -> Rows:
    """Records of several drains or rings as one array in the order of time: those of one ring keep their order.

    Of unlike records the columns are kept that all of them have; ValueError when they have none in common.

    >>> import numpy
    >>> a = numpy.array([(5, 0), (9, 0)], dtype=[("icount", "u8"), ("probe", "u4")])
    >>> b = numpy.array([(7, 1, 3)], dtype=[("icount", "u8"), ("probe", "u4"), ("len", "u4")])
    >>> merge(a, b).tolist()
    [(5, 0), (7, 1), (9, 0)]
    """
    if not rows:
        raise ValueError("there is nothing to merge")
    if all(part.dtype == rows[0].dtype for part in rows):
        together = numpy.concatenate(rows)
    else:
        names = [name for name in rows[0].dtype.names or () if all(name in (part.dtype.names or ()) for part in rows)]
        if "icount" not in names:
            raise ValueError("records can be merged when all have the column icount")
        kinds = [(name, numpy.result_type(*(part.dtype[name].base for part in rows))) for name in names]
        shapes = [rows[0].dtype[name].shape for name in names]
        dtype = [(name, kind, shape) for (name, kind), shape in zip(kinds, shapes, strict=True)]
        together = numpy.empty(sum(map(len, rows)), dtype=dtype)
        for name in names:
            together[name] = numpy.concatenate([part[name] for part in rows])
    return together[numpy.argsort(together["icount"], kind="stable")]


def merge_histograms(*hists: Hist) -> tuple[NDArray[numpy.uint64], NDArray[Any]]:
    """The sum of histograms with the same bins, as (counts, edges); of those by key, as (counts, keys).

    ValueError when their bins differ.
    """
    if not hists or len({hist.kind == "key" for hist in hists}) > 1:
        raise ValueError("histograms can be merged when there are some, all of them by key or none")
    if hists[0].kind == "key":
        keys, where = numpy.unique(numpy.concatenate([hist.keys for hist in hists]), return_inverse=True)
        counts = numpy.zeros(len(keys), dtype=numpy.uint64)
        numpy.add.at(counts, where, numpy.concatenate([hist.counts for hist in hists]))
        return counts, keys
    if any(not numpy.array_equal(hist.edges, hists[0].edges) for hist in hists):
        raise ValueError("histograms with different bins cannot be merged")
    return numpy.sum([hist.counts for hist in hists], axis=0, dtype=numpy.uint64), hists[0].edges


class Windows(NamedTuple):
    """Counts by window of time: counts[k, i] are the hits of keys[k] with edges[i] <= icount < edges[i + 1]."""

    edges: NDArray[numpy.uint64]
    keys: NDArray[Any]
    counts: NDArray[numpy.int64]

    @property
    def rates(self) -> NDArray[numpy.float64]:
        """Hits for each thousand instructions."""
        per = 1000.0 / float(self.edges[1] - self.edges[0])
        return self.counts.astype(numpy.float64) * per


def rates(rows: Rows, window: int, *, by: str = "probe", start: int | None = None, end: int | None = None) -> Windows:
    """Hits in windows of `window` instructions, for each value of the column `by`.

    The first window begins at `start`, the last one holds `end`; what lies outside does not count. Without them: the
    first and the last record.

    >>> import numpy
    >>> rows = numpy.array([(5, 0), (9, 0), (12, 1)], dtype=[("icount", "u8"), ("probe", "u4")])
    >>> found = rates(rows, 5)
    >>> found.edges.tolist(), found.keys.tolist(), found.counts.tolist()
    ([5, 10, 15], [0, 1], [[2, 0], [0, 1]])
    """
    if window < 1:
        raise ValueError(f"a window of {window} instructions")
    times = rows["icount"]
    first = int(times.min()) if start is None and len(rows) else start or 0
    last = int(times.max()) if end is None and len(rows) else end if end is not None else first
    n = max(0, last - first) // window + 1
    keys, which = numpy.unique(rows[by], return_inverse=True)
    if n * max(1, len(keys)) > WINDOWS_MAX:
        raise ValueError(f"{n:,} windows for each of {len(keys)} keys: give a longer window than {window}")
    inside = (times >= first) & (times <= last)
    places = ((times[inside] - numpy.uint64(first)) // numpy.uint64(window)).astype(numpy.int64)
    counts = numpy.bincount(which[inside] * n + places, minlength=len(keys) * n).reshape(len(keys), n)
    return Windows(numpy.uint64(first) + numpy.arange(n + 1, dtype=numpy.uint64) * numpy.uint64(window), keys, counts)


def quantiles(hist: Hist | ArrayLike, q: ArrayLike, edges: ArrayLike | None = None) -> NDArray[numpy.float64]:
    """Quantiles of a histogram, or of counts and edges: linear within a bin, exact in bins of one value.

    NaN for an empty histogram. What lies outside of the bins is not seen.

    >>> quantiles([0, 0, 4, 4], [0.25, 0.5, 1.0], edges=[0, 1, 2, 4, 8]).tolist()
    [2.5, 3.0, 7.0]
    """
    counts, bounds = (numpy.asarray(hist), edges) if edges is not None else (hist.counts, hist.edges)  # type: ignore[union-attr]
    wanted = numpy.asarray(q, dtype=numpy.float64)
    if ((wanted < 0) | (wanted > 1) | numpy.isnan(wanted)).any():
        raise ValueError("quantiles are within 0 and 1")
    low = numpy.asarray(bounds)[:-1].astype(numpy.float64)
    high = numpy.asarray(bounds)[1:].astype(numpy.float64) - 1  # the greatest value of a bin
    if len(low) != len(counts):
        raise ValueError(f"{len(counts)} counts need {len(counts) + 1} edges")
    total = numpy.cumsum(counts, dtype=numpy.float64)
    if not len(total) or not total[-1]:
        return numpy.full(wanted.shape, numpy.nan)
    rank = wanted * total[-1]
    bin_ = numpy.searchsorted(total, rank, side="left")
    bin_ = numpy.where(rank == 0, numpy.flatnonzero(counts)[0], bin_)
    inside = (rank - (total[bin_] - numpy.asarray(counts, dtype=numpy.float64)[bin_])) / numpy.asarray(counts)[bin_]
    found: NDArray[numpy.float64] = low[bin_] + inside * (high[bin_] - low[bin_])
    return found


TABLE = [("address", "u4"), ("name", "U64"), ("probes", "i8"), ("hits", "u8"), ("missed", "u8")]


def per_address(probes: Iterable[Any], rows: Rows | None = None) -> NDArray[Any]:
    """A table of address, name, probes, hits and missed, one line for each address, most hits first.

    ``probes`` are those of ``m.probes``, also some that are gone. With ``rows`` the hits are the records there.
    """
    listed = list(probes)
    places = numpy.array([probe.address or 0 for probe in listed], dtype=numpy.uint32)
    names = numpy.array([probe.place for probe in listed], dtype="U64")
    return _grouped(listed, places, names, rows)


def per_function(probes: Iterable[Any], symbols: SymbolTable, rows: Rows | None = None) -> NDArray[Any]:
    """The same for each function: all probes between its first and its last instruction."""
    listed = list(probes)
    covering = [symbols.covering(probe.address or 0) for probe in listed]
    places = [found[1] if found else probe.address or 0 for found, probe in zip(covering, listed, strict=True)]
    names = [found[0].name if found else probe.place for found, probe in zip(covering, listed, strict=True)]
    return _grouped(listed, numpy.array(places, dtype=numpy.uint32), numpy.array(names, dtype="U64"), rows)


def _grouped(listed: list[Any], places: NDArray[Any], names: NDArray[Any], rows: Rows | None) -> NDArray[Any]:
    stats = numpy.array([(probe.number, probe.hits, probe.nmissed) for probe in listed], dtype=numpy.int64)
    stats = stats.reshape(len(listed), 3)
    hits = stats[:, 1]
    if rows is not None:
        numbers, counts = numpy.unique(rows["probe"], return_counts=True)
        at = numpy.searchsorted(numbers, stats[:, 0])
        known = numpy.append(numbers, -1)[numpy.minimum(at, len(numbers))] == stats[:, 0]
        hits = numpy.where(known, numpy.append(counts, 0)[numpy.minimum(at, len(numbers))], 0)
    addresses, first, which = numpy.unique(places, return_index=True, return_inverse=True)
    table = numpy.zeros(len(addresses), dtype=TABLE)
    table["address"], table["name"] = addresses, names[first]
    for column, values in (
        ("probes", numpy.ones(len(listed), dtype=numpy.int64)),
        ("hits", hits),
        ("missed", stats[:, 2]),
    ):
        numpy.add.at(table[column], which, values.astype(table[column].dtype))
    return table[numpy.argsort(-table["hits"].astype(numpy.int64), kind="stable")]


CALL = [("probe", "u4"), ("cpu", "u2"), ("entered", "u8"), ("returned", "u8"), ("latency", "u8"), ("depth", "i8")]


def latencies(entries: Rows, returns: Rows) -> NDArray[Any]:
    """Calls as pairs of an entry's and a return's record, for one function or for several that nest.

    ``entries`` are records of kprobes at functions, ``returns`` those of kretprobes at the same. The table has the
    return's probe and cpu, the times entered and returned, the latency in instructions and the depth from 0; it is in
    the order of the entries. Entries and returns without their other half are left out.

    >>> import numpy
    >>> head = [("icount", "u8"), ("cpu", "u2"), ("probe", "u4")]
    >>> entries = numpy.array([(10, 0, 0), (20, 0, 0)], dtype=head)
    >>> returns = numpy.array([(25, 0, 1), (40, 0, 1)], dtype=head)
    >>> latencies(entries, returns)[["entered", "latency", "depth"]].tolist()
    [(10, 30, 0), (20, 5, 1)]
    """
    time = numpy.concatenate([entries["icount"], returns["icount"]])
    cpu = numpy.concatenate([entries["cpu"], returns["cpu"]])
    probe = numpy.concatenate([entries["probe"], returns["probe"]])
    step = numpy.concatenate([numpy.ones(len(entries), numpy.int64), -numpy.ones(len(returns), numpy.int64)])
    order = numpy.lexsort((step, time, cpu))  # at one moment returns come first
    time, cpu, probe, step = time[order], cpu[order], probe[order], step[order]
    depth = _depths(step, cpu)
    nested = numpy.lexsort((depth, cpu))  # stable: by time within a depth, an entry and its return are neighbours
    a, b = nested[:-1], nested[1:]
    pair = (step[a] > 0) & (step[b] < 0) & (depth[a] == depth[b]) & (cpu[a] == cpu[b])
    a, b = a[pair], b[pair]
    table = numpy.zeros(len(a), dtype=CALL)
    table["probe"], table["cpu"], table["depth"] = probe[b], cpu[b], depth[a]
    table["entered"], table["returned"] = time[a], time[b]
    table["latency"] = time[b] - time[a]
    return table[numpy.argsort(table["entered"], kind="stable")]


def _depths(step: NDArray[numpy.int64], cpu: NDArray[Any]) -> NDArray[numpy.int64]:
    """How many calls are open around each event; a return without an entry is no event of any depth."""
    level = numpy.cumsum(step)
    starts = numpy.flatnonzero(numpy.diff(cpu, prepend=cpu[:1])) if len(cpu) else numpy.zeros(0, numpy.int64)
    for start in starts:
        level[start:] -= level[start - 1]
    begin = numpy.concatenate([[0], starts, [len(step)]]).astype(numpy.int64)
    for low, high in pairwise(begin.tolist()):
        part = level[low:high]
        part -= numpy.minimum(numpy.minimum.accumulate(part), 0) if len(part) else 0
    return level - (step > 0)


def frame_fields(depth: int = FRAMES_MAX, *, at_entry: bool = True) -> list[str]:
    """Fetch arguments that record a call stack by frame pointers, for `stacks`.

    ``at_entry``: the probe is at a function's first instruction, where %bp is still the caller's.

    >>> frame_fields(2)
    ['f0=%ip', 'f1=+0(%sp)', 'f2=+4(%bp)', 'f3=+4(+0(%bp))']
    """
    if not 0 <= depth <= FRAMES_MAX:
        raise ValueError(f"depth={depth}: memory is followed at most {FRAMES_MAX} times")
    fetches = ["%ip", *(["+0(%sp)"] if at_entry else [])]
    fetches += ["+4(" + "+0(" * i + "%bp" + ")" * (i + 1) for i in range(depth)]
    return [f"f{i}={fetch}" for i, fetch in enumerate(fetches)]


def stacks(rows: Rows, symbols: SymbolTable) -> Counter[tuple[str, ...]]:
    """How often each call stack came, outermost function first, from records with the fields of frame_fields.

    A stack ends where memory could not be read, or at an address without a symbol.
    """
    names = sorted((n for n in rows.dtype.names or () if n[:1] == "f" and n[1:].isdigit()), key=lambda n: int(n[1:]))
    if not names:
        raise ValueError("these records have no frames: record frame_fields()")
    fields = [name for name in rows.dtype.names or () if name not in ("icount", "cpu", "probe", "faults")]
    frames = numpy.stack([rows[name].astype(numpy.uint32) for name in names], axis=1)
    for column, name in enumerate(names):
        frames[(rows["faults"] >> numpy.uint64(fields.index(name)) & numpy.uint64(1)).astype(bool), column:] = 0
    # A return address is behind the call, %ip behind the breakpoint: the byte before is in the function.
    unique, counts = numpy.unique(frames, axis=0, return_counts=True)
    addresses, where = numpy.unique(unique, return_inverse=True)
    known = [symbols.covering(int(address) - 1) if address else None for address in addresses]
    labels = [found[0].name if found else "" for found in known]
    totals: Counter[tuple[str, ...]] = Counter()
    lines: Any = where.reshape(unique.shape)
    for line, count in zip(lines.tolist(), counts.tolist(), strict=True):
        path = [labels[i] for i in line]
        totals[tuple(reversed(path[: path.index("")] if "" in path else path))] += count
    return totals


def folded(found: Mapping[tuple[str, ...], int] | Sequence[tuple[tuple[str, ...], int]]) -> list[str]:
    """Stacks as lines for flame-graph programs.

    >>> folded({("main", "f"): 3})
    ['main;f 3']
    """
    pairs = found.items() if isinstance(found, Mapping) else found
    return [f"{';'.join(path) or '?'} {count}" for path, count in sorted(pairs)]
