"""Plots of records and histograms; each takes a matplotlib Axes, or makes one, and returns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from .hist import Hist

LABELS_MAX = 40
LINES_MAX = 8


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'pykprobes[plot]'") from error
    return pyplot.figure(figsize=(8, 4.5), layout="constrained").add_subplot()


def _window(rows: NDArray[Any], windows: int) -> int:
    span = int(rows["icount"].max() - rows["icount"].min()) if len(rows) else 0
    return max(1, -(-(span + 1) // windows))


def plot_timeline(
    rows: NDArray[Any], window: int | None = None, ax: Axes | None = None, names: Mapping[int, str] | None = None
) -> Axes:
    """Hits for each thousand instructions over time, a line for each probe; those with the most hits have a label.

    ``window`` is in instructions, a hundredth of the whole where it is not given; ``names`` are labels by probe number.
    """
    from .analysis import rates

    ax = _axes(ax)
    found = rates(rows, window or _window(rows, 100))
    order = numpy.argsort(-found.counts.sum(axis=1), kind="stable")
    for place, k in enumerate(order):
        key = int(found.keys[k])
        label = (names or {}).get(key, f"probe {key}") if place < LINES_MAX else None
        ax.stairs(found.rates[k], found.edges.astype(float), label=label, linewidth=1.5 if label else 0.8)
    ax.set_xlabel("instructions")
    ax.set_ylabel("hits per 1,000 instructions")
    ax.set_ylim(bottom=0)
    ax.margins(x=0)
    if len(order):
        ax.legend(loc="upper right", fontsize="small")
    return ax


def plot_histogram(hist: Hist, ax: Axes | None = None) -> Axes:
    """A histogram as bars, without the empty bins at both ends; by key, the commonest values.

    Bins of powers of two are equally wide. What lies outside of the bins is in the title.
    """
    from .histogram import interval_labels, trim

    ax = _axes(ax)
    if hist.kind == "key":
        top = hist.top(LABELS_MAX)
        labels, counts = [hist.field.format(value) for value, _ in top], [count for _, count in top]
    else:
        first, last = trim(hist.counts.tolist())
        labels, counts = interval_labels(hist.edges[first : last + 1].tolist()), hist.counts[first:last].tolist()
    places = numpy.arange(len(counts))
    ax.bar(places, counts, width=0.9)
    shown = places[:: -(-len(labels) // LABELS_MAX) or 1]
    ax.set_xticks(
        shown,
        [labels[i] for i in shown],
        rotation=45 if len(shown) > 6 else 0,
        ha="right" if len(shown) > 6 else "center",
    )
    ax.set_xlabel(f"{hist.name} = {hist.field.text}")
    ax.set_ylabel("hits")
    outside = [
        f"{what}: {n:,}" for what, n in (("below", hist.under), ("above", hist.over), ("unreadable", hist.faults)) if n
    ]
    ax.set_title(", ".join([f"{hist.count:,} values", *outside]), fontsize="medium")
    return ax


def plot_heatmap(
    rows: NDArray[Any],
    addresses: Mapping[int, int],
    ax: Axes | None = None,
    windows: int = 100,
    names: Mapping[int, str] | None = None,
) -> Axes:
    """Hits by address and time: a row for each address, a column for each of `windows` stretches of time.

    ``addresses`` are those of the probes by number, ``names`` labels by address. Colours are logarithmic.
    """
    from .analysis import rates

    ax = _axes(ax)
    found = rates(rows, _window(rows, windows))
    where = numpy.array([addresses[int(key)] for key in found.keys], dtype=numpy.uint32)
    places, line = numpy.unique(where, return_inverse=True)
    grid = numpy.zeros((len(places), found.counts.shape[1]))
    numpy.add.at(grid, line, found.counts)
    from matplotlib.colors import LogNorm

    shown = numpy.ma.masked_equal(grid, 0)
    norm = LogNorm(vmin=1, vmax=max(2.0, float(grid.max()) if grid.size else 2.0))
    if not grid.size:
        return ax
    image = ax.pcolormesh(found.edges.astype(float), numpy.arange(len(places) + 1), shown, norm=norm, cmap="viridis")
    ax.figure.colorbar(image, ax=ax, label="hits")
    every = -(-len(places) // LABELS_MAX)
    ticks = numpy.arange(0, len(places), every)
    ax.set_yticks(
        ticks + 0.5, [(names or {}).get(int(places[i]), f"{int(places[i]):#x}") for i in ticks], fontsize="small"
    )
    ax.set_xlabel("instructions")
    ax.set_ylabel("address")
    return ax
