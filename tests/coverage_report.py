"""python -m tests.coverage_report FILE.json: what gcovr's JSON says of the parts where everything has to be tried.

Prints lines and branches of the decoder, the handlers, the MMU, traps and gates, and of all other C code together, then
the functions that no test reached. Exit status 1 if fewer than 95 % of the lines of one of those parts were reached.
docs/coverage.md says why some functions are not.
"""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

PARTS = ("decode.c", "execute*.[ch]", "mmu.c", "trap.c", "gate.c")
LEAST = 95.0


class Counts(NamedTuple):
    """Reached and all of them."""

    lines: tuple[int, int]
    branches: tuple[int, int]

    def __add__(self, other: object) -> Counts:
        assert isinstance(other, Counts)
        pairs = ((a[0] + b[0], a[1] + b[1]) for a, b in zip(self, other, strict=True))
        return Counts(*pairs)

    def row(self, name: str) -> str:
        lines, branches = (f"{reached:6} of {total:6} {percent(reached, total):6.1f} %" for reached, total in self)
        return f"{name:24} {lines}   {branches}"


def percent(reached: int, total: int) -> float:
    return 100 * reached / total if total else 100.0


def counts(file: dict[str, Any]) -> Counts:
    """Lines and branches of a file; a macro's line counts once for each function that it makes."""
    lines = file["lines"]
    branches = [branch for line in lines for branch in line["branches"]]
    return Counts(
        (sum(line["count"] > 0 for line in lines), len(lines)),
        (sum(branch["count"] > 0 for branch in branches), len(branches)),
    )


def unreached(file: dict[str, Any]) -> list[str]:
    return [f["name"] for f in file["functions"] if f.get("execution_count") == 0 and not f.get("gcovr/excluded")]


def report(files: list[dict[str, Any]]) -> tuple[str, bool]:
    """The text, and whether every part has enough of its lines reached."""
    out = [f"{'':24} {'lines':>25}   {'branches':>25}"]
    good, rest, missing = True, Counts((0, 0), (0, 0)), []
    for file in sorted(files, key=lambda file: str(file["file"])):
        name, c = Path(file["file"]).name, counts(file)
        missing += [f"  {name}: {function}" for function in unreached(file)]
        if any(fnmatch(name, part) for part in PARTS):
            good &= percent(*c.lines) >= LEAST
            out.append(c.row(name))
        else:
            rest += c
    out += [rest.row("all other files"), f"not reached: {len(missing)} functions", *missing]
    if not good:
        out.append(f"less than {LEAST:g} % of the lines of one of {', '.join(PARTS)}")
    return "\n".join(out), good


def main() -> int:
    text, good = report(json.loads(Path(sys.argv[1]).read_text())["files"])
    print(text)
    return not good


if __name__ == "__main__":
    sys.exit(main())
