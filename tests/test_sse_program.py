"""A C program of integer vectors gives the same bytes natively and in the machine, whatever the compiler may use."""

import subprocess
from pathlib import Path

import pytest

from pykprobes import Machine, StopReason

from .oracle import native
from .oracle.checks import need_native

SOURCE = Path(__file__).parent / "programs" / "simd.c"
FLAGS = ["-m32", "-ffreestanding", "-fno-pic", "-fno-stack-protector", "-nostdlib", "-static", "-no-pie", "-w"]
FLAGS += ["-Wl,--build-id=none", "-fno-strict-aliasing", "-fwrapv", "-mstackrealign"]
SETS = {"p4": ["-march=pentium4"], "p3": ["-march=pentium3"], "ppro": ["-march=pentiumpro"], "mmx": ["-march=pentium2"]}


@pytest.mark.parametrize("level", ["-O1", "-O2", "-O3", "-Os"])
@pytest.mark.parametrize("which", SETS)
def test_same_results(which: str, level: str) -> None:
    pytest.importorskip("elftools")
    need_native()
    command = ["gcc", *FLAGS, *SETS[which], level, str(SOURCE)]
    path = native.build(f"simd-{which}{level}", command, [SOURCE])
    wanted = subprocess.run([str(path)], capture_output=True, check=True).stdout
    assert len(wanted) > 4000
    with Machine(cpu="p3" if which == "mmx" else which) as m:
        m.load(path)
        stop = m.run(until="done", max_instructions=20_000_000)
        assert stop.reason is StopReason.UNTIL, stop
        assert m.memory.read(m.symbols["results"], len(wanted)) == wanted
