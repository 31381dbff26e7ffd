"""A C program compiled for the x87 gives the same bytes natively and in the machine, at every optimisation."""

import subprocess
from pathlib import Path

import pytest

from pykprobes import Machine, StopReason

from .oracle import native
from .oracle.checks import need_native

SOURCE = Path(__file__).parent / "programs" / "x87.c"
FLAGS = ["-m32", "-march=i686", "-mfpmath=387", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-nostdlib"]
FLAGS += ["-static", "-no-pie", "-Wl,--build-id=none", "-fno-strict-aliasing"]


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3", "-Os"])
def test_same_results(level: str) -> None:
    pytest.importorskip("elftools")
    need_native()
    program = native.build(f"x87{level}", ["gcc", *FLAGS, level, str(SOURCE)], [SOURCE])
    wanted = subprocess.run([str(program)], capture_output=True, check=True).stdout
    with Machine() as m:
        m.load(program)
        stop = m.run(until="done", max_instructions=10_000_000)
        assert stop.reason is StopReason.UNTIL
        assert len(wanted) > 2000
        assert m.memory.read(m.symbols["results"], len(wanted)) == wanted
