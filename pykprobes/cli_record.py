"""The commands stat, record and report: counts, records in a file, and what is in such a file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from .actions import Count
from .binding_actions import FULL
from .histogram import bars, interval_labels, trim
from .probelist import aligned
from .probespec import ProbeSpec, parse_probe
from .record import Record
from .recording import RecordedProbe, Recording
from .report import Report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .fetchargs import FetchArg
    from .machine import Machine

DEFAULT_FILE = "pykprobes.npz"
VALUES_SHOWN = 10
FEW = 12
TIMES = 8


def probes_of(args: argparse.Namespace) -> list[ProbeSpec]:
    """The probes of a command line; a bare place is a probe there."""
    if not args.probe:
        raise ValueError("no probe: give --probe PLACE, or --probe 'p:name PLACE field=+4(%sp):u32'")
    return [parse_probe(text if " " in text.strip() else f"p {text}") for text in args.probe]


def stat_lines(report: Report) -> Iterator[str]:
    """Hits in all and for each thousand instructions, most first."""
    yield report.outcome()
    yield f"{report.icount:,} instructions in {report.seconds:.3f} s, {report.rate / 1e6:,.0f} million a second"
    yield ""
    rows = [("hits", "per 1,000 instructions", "missed", "probe", "place")]
    counted = [(probe._actions[-1].count, name, probe) for name, probe in report.probes]
    for count, name, probe in sorted(counted, key=lambda line: -line[0]):
        causes = ", ".join(f"{cause} {count:,}" for cause, count in probe.misses.items() if count)
        share = f"{count * 1000 / report.icount:.3f}" if report.icount else ""
        missed = f"{probe.nmissed:,}" + (f" ({causes})" if causes else "")
        rows.append((f"{count:,}", share, missed, name, f"{probe.place} ({probe.address or 0:#x})"))
    yield from aligned(rows, right=(0, 1, 2))


def stat(machine: Machine, args: argparse.Namespace, implant: Callable[..., Any]) -> Report:
    """Put counters in place."""
    report = Report(Path(args.image).name)
    for spec in probes_of(args):
        report.probes.append((spec.name, implant(machine, spec, [Count()], args.filter)))
    return report


def record(machine: Machine, args: argparse.Namespace, implant: Callable[..., Any]) -> tuple[Report, list[Record]]:
    """Put rings in place."""
    report, rings = Report(Path(args.image).name), []
    for spec in probes_of(args):
        ring = Record(*spec.fields, capacity=args.capacity, full=args.full, string=args.string)
        report.probes.append((spec.name, implant(machine, spec, [ring], args.filter)))
        rings.append(ring)
    return report, rings


def recording(report: Report, rings: Sequence[Record]) -> Recording:
    """What the rings hold."""
    made = Recording(report.image, report.outcome(), report.icount, report.seconds)
    for (name, probe), ring in zip(report.probes, rings, strict=True):
        fields = {column: field.text for column, field in ring.fields.items()}
        made.probes.append(
            RecordedProbe(
                name, probe.place, probe.address or 0, probe.number, hasattr(probe, "maxactive"), probe.hits,
                probe.nmissed, ring.dropped, probe.misses, fields,
            )
        )  # fmt: skip
        made.rows.append(ring.drain())
    return made


def report_lines(found: Recording, probe: str | None, field: str | None) -> Iterator[str]:
    """The probes of a recording, and every field's values as bars."""
    yield found.outcome
    yield f"{found.icount:,} instructions in {found.seconds:.3f} s"
    yield ""
    table = [("probe", "place", "records", "hits", "missed", "dropped")]
    for p, rows in zip(found.probes, found.rows, strict=True):
        records, hits, missed, dropped = (f"{n:,}" for n in (len(rows), p.hits, p.nmissed, p.dropped))
        table.append((p.name, f"{p.place} ({p.address:#x})", records, hits, missed, dropped))
    yield from aligned(table, right=(2, 3, 4, 5))
    chosen = [(p, rows) for p, rows in zip(found.probes, found.rows, strict=True) if probe in (None, p.name)]
    if not chosen:
        raise ValueError(f"no probe {probe!r}; there are: {', '.join(p.name for p in found.probes)}")
    fields = sorted({name for p, _ in chosen for name in p.fields})
    if field is not None and field not in fields:
        raise ValueError(f"no field {field!r}; there are: {', '.join(fields) or 'none'}")
    for p, rows in chosen:
        if len(rows):
            yield from ("", f"{p.name}: hits over time (instructions)", *time_bars(rows))
        for i, (name, arg) in enumerate(p.parsed().items()):
            if field in (None, name) and len(rows):
                yield from ("", f"{p.name}: {name} = {arg.text}", *field_bars(rows, name, arg, i))


def time_bars(rows: NDArray[Any]) -> list[str]:
    """Hits in equal stretches of time."""
    counts, edges = numpy.histogram(rows["icount"].astype(numpy.float64), bins=TIMES)
    labels = [f"{low:,.0f} - {high:,.0f}" for low, high in pairwise(edges)]
    return bars(labels, counts.tolist())


def field_bars(rows: NDArray[Any], name: str, arg: FetchArg, place: int) -> list[str]:
    """A column's values: few different ones each for itself, many numbers in powers of two, the commonest texts."""
    bad = (rows["faults"] >> numpy.uint64(place) & numpy.uint64(1)).astype(bool)
    values = rows[name][~bad]
    lines: list[str] = []
    if len(values) and arg.scalar and arg.kind != "char" and values.dtype.kind in "ui":
        lines = number_bars(values, arg)
    elif len(values):
        unique, counts = numpy.unique(values, axis=0, return_counts=True)
        lines = commonest([text_of(value) for value in unique], counts)
    return [*lines, *([f"unreadable: {int(bad.sum()):,}"] if bad.any() else [])]


def number_bars(values: NDArray[Any], arg: FetchArg) -> list[str]:
    """Bars of numbers, and what they are like in one line."""
    unique, counts = numpy.unique(values, return_counts=True)
    middle, most = numpy.quantile(values.astype(numpy.float64), [0.5, 0.99])
    line = f"{len(values):,} values from {arg.format(int(unique[0]))} to {arg.format(int(unique[-1]))}"
    if not arg.hexadecimal:
        line += f", median {middle:,.0f}, 99 % up to {most:,.0f}"
    if len(unique) <= FEW:
        return [line, *bars([arg.format(int(v)) for v in unique], counts.tolist())]
    if arg.hexadecimal or unique[0] < 0:
        return [line, *commonest([arg.format(int(v)) for v in unique], counts)]
    exponents = numpy.frexp(values.astype(numpy.float64))[1]
    bins = numpy.bincount(numpy.where(values == 0, 0, exponents)).tolist()
    first, last = trim(bins)
    edges = [0, *(1 << k for k in range(len(bins)))]
    return [line, *bars(interval_labels(edges[first : last + 1]), bins[first:last])]


def commonest(labels: Sequence[str], counts: NDArray[Any]) -> list[str]:
    """The labels with the greatest counts, and how many there are besides."""
    order = numpy.argsort(-counts, kind="stable")[:VALUES_SHOWN]
    lines = bars([labels[i] for i in order], [int(counts[i]) for i in order])
    rest = len(labels) - len(order)
    return [*lines, f"and {rest:,} other values: {int(counts.sum() - counts[order].sum()):,}"] if rest else lines


def text_of(value: Any) -> str:
    """A string or array for a person."""
    return repr(value.decode("latin-1")) if isinstance(value, bytes) else str(numpy.asarray(value).tolist())


def add_commands(
    commands: Any, add_run: Callable[[argparse.ArgumentParser], None], execute: dict[str, Callable[..., int]]
) -> None:
    """The arguments of the three commands."""
    texts = {
        "stat": "count hits of probes while an image runs",
        "record": "keep the fields of every hit in a file while an image runs",
    }
    for name, text in texts.items():
        command = commands.add_parser(name, help=text)
        add_run(command)
        command.add_argument("--filter", metavar="EXPR", help="only hits for which it holds: 'len > 4096 && %%ax == 3'")
        command.set_defaults(execute=execute[name])
        if name == "record":
            command.add_argument("-o", "--output", default=DEFAULT_FILE, help=f"the file (default: {DEFAULT_FILE})")
            command.add_argument("--capacity", type=int, default=1 << 20, metavar="N", help="records kept for a probe")
            command.add_argument("--full", default="drop-oldest", choices=list(FULL), help="when there are more")
            command.add_argument("--string", type=int, default=64, metavar="N", help="strings are cut at N bytes")
    command = commands.add_parser("report", help="show what a file of record holds")
    command.add_argument("file", nargs="?", default=DEFAULT_FILE, metavar="FILE", help=f"default: {DEFAULT_FILE}")
    command.add_argument("--probe", metavar="NAME", help="only this probe")
    command.add_argument("--field", metavar="FIELD", help="only this field")
    command.set_defaults(execute=execute["report"])
