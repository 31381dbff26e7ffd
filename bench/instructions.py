"""Host instructions per guest instruction and per hit, counted by callgrind: a gate that noise cannot move.

`python bench/instructions.py` compares with instructions.json and fails when a count has grown by more than 2 %.
Counts of another compiler, other flags or another valgrind are refused, not compared. `--update` writes the file.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from pykprobes import Count, Machine
from pykprobes.binding import ffi, lib

STORED = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.02
INSTRUCTIONS = 1_000_000


def run(image: str, symbol: str | None = None, optimize: bool = True) -> None:
    machine = Machine(optimize=optimize)
    machine.load(str(files("pykprobes") / "images" / f"{image}.elf"))
    if symbol:
        machine.kprobe(symbol, action=Count())
    machine.run(max_instructions=INSTRUCTIONS)


WORKS: dict[str, Callable[[], None]] = {
    "checksum": lambda: run("checksum"),
    "sorting": lambda: run("sorting"),
    "hashtable": lambda: run("hashtable"),
    "sorting, hits optimized": lambda: run("sorting", "sift_down"),
    "sorting, hits by traps": lambda: run("sorting", "sift_down", optimize=False),
}
"""The same bytes of code and the same number of instructions everywhere."""


def conditions(valgrind: str) -> dict[str, str]:
    """What a count depends on besides the sources."""
    version = subprocess.run([valgrind, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {"build": ffi.string(lib.machine_build()).decode(), "valgrind": version.strip()}


def counted(valgrind: str, work: str) -> int:
    """Instructions that the C code executes for a work."""
    with tempfile.TemporaryDirectory() as out:
        command = [valgrind, "--tool=callgrind", f"--callgrind-out-file={out}/out", "--toggle-collect=machine_run"]
        child = subprocess.run([*command, sys.executable, __file__, "--child", work], capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", child.stderr)
    if child.returncode or not found:
        raise RuntimeError(f"callgrind of {work!r} failed: {child.stderr[-1000:]}")
    return int(found.group(1))


def grown(before: dict[str, int], now: dict[str, int]) -> list[str]:
    """What a comparison has to complain about.

    >>> grown({"a": 1000, "b": 1000}, {"a": 1019, "b": 1021})
    ['b: 1,021 instructions, 2.1 % more than 1,000']
    >>> grown({}, {"c": 1})
    ['c: no count is stored, run with --update']
    """
    missing = [f"{work}: no count is stored, run with --update" for work in now if work not in before]
    return missing + [
        f"{work}: {count:,} instructions, {100 * (count / before[work] - 1):.1f} % more than {before[work]:,}"
        for work, count in now.items()
        if work in before and count > before[work] * (1 + TOLERANCE)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="store what is counted now")
    parser.add_argument("--child", choices=WORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        WORKS[arguments.child]()
        return 0
    valgrind = shutil.which("valgrind")
    if not valgrind:
        print("instruction counts: skipped, there is no valgrind")
        return 0
    here = conditions(valgrind)
    stored = json.loads(STORED.read_text()) if STORED.exists() else {"conditions": "nothing", "counts": {}}
    if stored["conditions"] != here and not arguments.update:
        print(f"instruction counts: not compared, they were made with {stored['conditions']}, here is {here}")
        return 0
    counts = {work: counted(valgrind, work) for work in WORKS}
    for work, count in counts.items():
        print(f"{work:28} {count / INSTRUCTIONS:6.2f} host instructions for one of the guest's")
    if arguments.update:
        STORED.write_text(json.dumps({"conditions": here, "counts": counts}, indent=1) + "\n")
        return 0
    complaints = grown(stored["counts"], counts)
    print("\n".join(complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
