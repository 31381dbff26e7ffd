"""Histograms as text bars."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(value: float, largest: float, width: int) -> str:
    """A bar of at most `width` characters, in eighths of one.

    >>> bar(3, 4, 8)
    '██████'
    """
    if largest <= 0:
        return ""
    eighths = round(8 * width * value / largest)
    if value and not eighths:
        eighths = 1
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def bars(labels: Sequence[str], counts: Sequence[int], width: int = 50) -> list[str]:
    """One line per label, its count and a bar in proportion.

    >>> print(*bars(["even", "odd"], [4, 2], width=8), sep="\\n")
    even        4 ████████
    odd         2 ████
    """
    if not labels:
        return []
    column = max(len(label) for label in labels)
    digits = max(8, *(len(f"{count:,}") for count in counts))
    largest = max(counts)
    return [
        f"{label:<{column}} {count:>{digits},} {bar(count, largest, width)}".rstrip()
        for label, count in zip(labels, counts, strict=True)
    ]


def interval_labels(edges: Sequence[int], integral: bool = True) -> list[str]:
    """Names of the bins between edges, as [low, high) or the single value.

    >>> interval_labels([0, 1, 2, 4, 8])
    ['0', '1', '[2, 4)', '[4, 8)']
    """
    pairs = pairwise(edges)
    return [f"{low}" if integral and high - low == 1 else f"[{short(low)}, {short(high)})" for low, high in pairs]


def short(value: int) -> str:
    """A number with K, M, G where it is a multiple of 1024 and so on.

    >>> short(4096), short(1000), short(1 << 31)
    ('4K', '1000', '2G')
    """
    for shift, unit in ((60, "E"), (50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if value and value % (1 << shift) == 0:
            return f"{value >> shift}{unit}"
    return str(value)


def trim(counts: Sequence[int]) -> tuple[int, int]:
    """First and last-but-one index of what is left without empty bins at both ends.

    >>> trim([0, 0, 3, 0, 1, 0])
    (2, 5)
    """
    filled = [i for i, count in enumerate(counts) if count]
    return (filled[0], filled[-1] + 1) if filled else (0, 0)


def occupancy_bars(counts: Sequence[int], columns: int = 4, width: int = 10) -> list[str]:
    """The buckets of a hash table, several to a line.

    >>> print(*occupancy_bars([1, 0, 2, 1], columns=2, width=4), sep="\\n")
    00    1 ██    01    0
    02    2 ████  03    1 ██
    """
    largest = max(counts, default=0)
    cells = [f"{i:02} {count:4} {bar(count, largest, width):<{width}}" for i, count in enumerate(counts)]
    return ["  ".join(cells[i : i + columns]).rstrip() for i in range(0, len(cells), columns)]
