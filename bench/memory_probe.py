"""Prints the resident bytes that each of COUNT idle machines adds: `memory_probe.py machine|unicorn COUNT`.

A process of its own, so that nothing that other benchmarks left in the heap is reused.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def maker(kind: str) -> Callable[[], object]:
    if kind == "machine":
        from pykprobes import Machine

        return Machine
    from peers import unicorn_peer

    return unicorn_peer.bare


def main() -> None:
    make, count = maker(sys.argv[1]), int(sys.argv[2])
    machines = [make()]
    gc.collect()
    before = resident()
    machines += [make() for _ in range(count)]
    gc.collect()
    print((resident() - before) // count)


if __name__ == "__main__":
    main()
