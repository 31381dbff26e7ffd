"""What a run leaves to tell: tables of probes, and the same as plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .hist import Hist
from .histogram import occupancy_bars

if TYPE_CHECKING:
    from .probes import Kprobe
    from .stop import Stop


@dataclass(slots=True)
class Report:
    """The outcome of one run. Probes are (name, probe) in the order in which they were given."""

    image: str
    probes: list[tuple[str, Kprobe]] = field(default_factory=list)
    stop: Stop | None = None
    result: int | None = None
    interrupted: bool = False
    icount: int = 0
    seconds: float = 0.0
    occupancy: list[int] | None = None

    @property
    def rate(self) -> float:
        """Instructions per second."""
        return self.icount / self.seconds if self.seconds else 0.0

    def histograms(self) -> list[tuple[str, Hist]]:
        """Histograms with the names of their probes."""
        return [(name, action) for name, probe in self.probes for action in probe._actions if isinstance(action, Hist)]

    def lines(self) -> list[str]:
        """The report as text."""
        lines = [self.outcome(), f"{self.icount:,} instructions, {self.rate / 1e6:,.0f} million a second"]
        if self.probes:
            lines += ["", *probe_table(self.probes)]
        for name, hist in self.histograms():
            lines += ["", f"{name}: {hist.name} = {hist.field.text}, {hist.count:,} values", *hist.text()]
        if self.occupancy is not None:
            lines += [
                "",
                f"{sum(self.occupancy)} probes in the patch's table of 64 buckets",
                *occupancy(self.occupancy),
            ]
        return lines

    def outcome(self) -> str:
        """How it ended, in one line."""
        if self.interrupted:
            return f"{self.image}: interrupted, this is what there is"
        if self.result is not None:
            return f"{self.image}: returned {self.result} ({self.result:#x})"
        return f"{self.image}: {self.stop}"

    def data(self) -> dict[str, Any]:
        """The report as numbers, strings, lists and dicts."""
        return {
            "version": 1,
            "image": self.image,
            "interrupted": self.interrupted,
            "result": self.result,
            "stop": stop_data(self.stop),
            "icount": self.icount,
            "seconds": round(self.seconds, 6),
            "probes": [probe_data(name, probe) for name, probe in self.probes],
            "occupancy": self.occupancy,
        }


def stop_data(stop: Stop | None) -> dict[str, Any] | None:
    """A Stop as plain data."""
    if stop is None:
        return None
    names = ("eip", "vector", "error_code", "address", "icount")
    return {"reason": stop.reason.name, "text": str(stop), **{name: getattr(stop, name) for name in names}}


def probe_data(name: str, probe: Kprobe) -> dict[str, Any]:
    """A probe's place and counters as plain data."""
    histograms = {
        action.name: {
            "fetch": action.field.text,
            "edges": action.edges.tolist(),
            "counts": action.counts.tolist(),
            "under": action.under,
            "over": action.over,
            "faults": action.faults,
        }
        for action in probe._actions
        if isinstance(action, Hist)
    }
    stats = probe.stats
    return {
        "name": name,
        "place": probe.place,
        "address": probe.address,
        "hits": stats.hits,
        "nmissed": stats.nmissed,
        "misses": probe.misses,
        "histograms": histograms,
    }


def probe_table(probes: Sequence[tuple[str, Kprobe]]) -> list[str]:
    """A table of probes with hits and misses, causes named where there are any."""
    rows = [("probe", "address", "hits", "missed", "")]
    for name, probe in probes:
        causes = ", ".join(f"{cause} {count:,}" for cause, count in probe.misses.items() if count)
        rows.append((name, f"{probe.address or 0:#010x}", f"{probe.hits:,}", f"{probe.nmissed:,}", causes))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]


def occupancy(counts: Sequence[int]) -> list[str]:
    """The buckets of the patch's table as bars."""
    return occupancy_bars(counts)
