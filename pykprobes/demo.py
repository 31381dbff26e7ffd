"""The demonstration: a shipped image under probes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .actions import Count
from .hist import Hist
from .report import Report

if TYPE_CHECKING:
    from .machine import Machine

FUNCTIONS = ("crc32", "adler32", "fletcher32")
SHOWN = 10


def every_instruction(machine: Machine, name: str) -> list[tuple[str, int]]:
    """Names and addresses of the instructions of a function."""
    covering = machine.symbols.covering(machine.symbols[name])
    assert covering is not None
    _, start, end = covering
    addresses = [line.address for line in machine.disasm(start, end - start) if line.address < end]
    return [(f"{name}+{address - start:#x}" if address > start else name, address) for address in addresses]


def demo(machine: Machine, image: Path, progress: Callable[[int], object] | None) -> list[str]:
    """Probe every instruction of three checksum functions and the length of every call; the report's lines."""
    machine.load(image)
    report = Report(image.name)
    for function in FUNCTIONS:
        for name, address in every_instruction(machine, function):
            hist = Hist("length", "+12(%sp):u32") if name == "crc32" else None
            report.probes.append((name, machine.kprobe(address, action=hist or Count())))
    total = len(report.probes)
    begin = time.perf_counter()
    report.stop = machine.run(progress=progress)
    report.seconds, report.icount = time.perf_counter() - begin, machine.icount
    report.occupancy = machine.occupancy()
    hits = sum(probe.hits for _, probe in report.probes)
    report.probes = sorted(report.probes, key=lambda pair: -pair[1].hits)[:SHOWN] + [
        pair for pair in report.probes if pair[0] in FUNCTIONS
    ]
    return [
        f"{image.name}: {', '.join(FUNCTIONS)} over 256 buffers, a kernel probe at each of their {total} instructions",
        f"{hits:,} hits in {report.seconds:.2f} s; the {SHOWN} busiest probes, and those at the functions' entries:",
        "",
        *report.lines(),
    ]
