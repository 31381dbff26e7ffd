"""What does a machine cost before it does anything?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import Answers, side_by_side, timed
from peers import unicorn_peer

import pykprobes
from pykprobes import Machine

MACHINES = 50
IDLE_LIMIT = 2 << 20


def test_creation(benchmark: Any, answers: Answers) -> None:
    ours, theirs = side_by_side(
        benchmark,
        lambda: timed(Machine),
        lambda: timed(unicorn_peer.bare),
        rounds=50,
    )
    answers.add(
        benchmark,
        "creating a machine",
        f"{ours * 1e6:.0f} us",
        peer=f"{theirs * 1e6:.0f} us Unicorn",
        ratio=theirs / ours,
    )


def idle_bytes(kind: str) -> int:
    script = Path(__file__).with_name("memory_probe.py")
    command = [sys.executable, str(script), kind, str(MACHINES)]
    found = {**os.environ, "PYTHONPATH": str(Path(pykprobes.__file__).parents[1])}
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=found).stdout)


def test_idle_memory(benchmark: Any, answers: Answers) -> None:
    ours = benchmark.pedantic(idle_bytes, args=("machine",), rounds=1)
    theirs = idle_bytes("unicorn")
    answers.add(
        benchmark,
        f"memory of an idle machine ({MACHINES} of them)",
        f"{ours / 1024:.0f} KiB",
        peer=f"{theirs / 1024:.0f} KiB Unicorn",
        ratio=theirs / ours,
        at_most=(ours, IDLE_LIMIT, "2048 KiB"),
    )
