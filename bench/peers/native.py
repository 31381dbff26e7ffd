"""The real CPU: the guest program run as a static i386 Linux process."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

WORKS = ("mixed", "checksum_work", "sort_work", "sieve_work", "call_work", "core_work")
FLOAT_WORKS = ("x87_work", "sse2_work", "packed_work")


class CannotRun(Exception):
    """This host does not execute i386 programs."""


def run(path: Path, work: str, rounds: int, *emulator: str) -> tuple[int, float]:
    """Result of the work and the seconds that it took, by the program's own clock; or an emulator's, of one process."""
    command = [*emulator, str(path), str(rounds), str((WORKS + FLOAT_WORKS).index(work))]
    try:
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise CannotRun(f"i386 programs do not run here: {error}") from error
    result, sec0, nsec0, sec1, nsec1 = struct.unpack("<5I", output)
    return result, sec1 - sec0 + (nsec1 - nsec0) * 1e-9
