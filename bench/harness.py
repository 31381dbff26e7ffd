"""What the benchmarks share: timing side by side, and the answers for the table at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Timed = Callable[[], float]  # does the work once, returns the seconds of CPU time that it took


@dataclass(frozen=True)
class Answer:
    """One line of the summary."""

    question: str
    ours: str
    peer: str = ""
    ratio: float | None = None
    target: str = ""
    ok: bool | None = None  # None: nothing was promised


@dataclass
class Answers:
    """All lines of one run."""

    lines: list[Answer] = field(default_factory=list)

    def add(
        self,
        benchmark: Any,
        question: str,
        ours: str,
        *,
        peer: str = "",
        ratio: float | None = None,
        at_least: float | None = None,
        at_most: tuple[float, float, str] | None = None,
    ) -> None:
        """Record an answer; at_least bounds the ratio, at_most is (value, bound, bound as text)."""
        target, ok = "", None
        if at_least is not None and ratio is not None:
            target, ok = f">= {at_least:g}x", ratio >= at_least
        elif at_most is not None:
            target, ok = f"<= {at_most[2]}", at_most[0] <= at_most[1]
        benchmark.extra_info.update(
            {"question": question, "ours": ours, "peer": peer, "ratio": ratio, "target": target, "ok": ok}
        )
        self.lines.append(Answer(question, ours, peer, ratio, target, ok))


def timed(function: Callable[..., object], *args: Any) -> float:
    """Seconds of CPU time that one call takes: what else the host does meanwhile does not count."""
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def side_by_side(benchmark: Any, ours: Timed, *peers: Timed, rounds: int = 5) -> list[float]:
    """Median seconds of ours and of each peer, rounds taken in turn: a slow moment of the host hits all."""
    samples: list[list[float]] = [[] for _ in (ours, *peers)]
    for run in (ours, *peers):
        run()

    def run_peers() -> None:
        for sample, peer in zip(samples[1:], peers, strict=True):
            sample.append(peer())

    def run_ours() -> None:
        samples[0].append(ours())

    benchmark.pedantic(run_ours, setup=run_peers, rounds=rounds)
    return [statistics.median(sample) for sample in samples]


def table(lines: list[Answer]) -> list[str]:
    """The answers as aligned text."""
    verdict = {True: "yes", False: "NO", None: ""}
    rows = [("question", "ours", "peer", "ratio", "target", "ok")]
    for a in lines:
        ratio = "" if a.ratio is None else f"{a.ratio:.3g}x"
        rows.append((a.question, a.ours, a.peer, ratio, a.target, verdict[a.ok]))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [text[0], "  ".join("-" * width for width in widths), *text[1:]]
