"""The real CPU as an oracle: cases single-stepped under ptrace (native/tracer.c)."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .case import BASE, FAULT, HERE, REGIONS, RF, Case, Result, Step

_CASE = struct.Struct("<2I10I2I2I")
_RESULT = struct.Struct("<5I10I6II")
_STEP = struct.Struct("<10I16s")
_RUN = struct.Struct("<2I")
_CFLAGS = ["-std=gnu11", "-Wall", "-Wextra", "-O2"]
_CHILD_FLAGS = ["-m32", "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0xF0000000,--build-id=none"]


def cache_dir() -> Path:
    """Where compiled helpers and downloads are kept between test runs."""
    root = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
    path = Path(root) / "pykprobes-tests"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        path = Path(tempfile.gettempdir()) / f"pykprobes-tests-{os.getuid()}"
        path.mkdir(exist_ok=True)
    return path


def environment() -> dict[str, str]:
    """Ours without a preloaded sanitizer: helpers are no part of what it watches."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def build(name: str, command: list[str], sources: list[Path]) -> Path:
    """The cached output of a compiler command (which gets -o appended), keyed by command and sources."""
    digest = hashlib.sha256(repr(command).encode())
    for source in sources:
        digest.update(source.read_bytes())
    output = cache_dir() / f"{name}-{digest.hexdigest()[:16]}"
    if not output.exists():
        partial = output.with_suffix(f".{os.getpid()}")
        command = [*command, "-o", str(partial)]
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
        partial.replace(output)
    return output


def why_not() -> str:
    """Why cases cannot run natively here; empty if they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "native runs need x86-64 Linux"
    if not shutil.which("gcc"):
        return "native runs need gcc"
    try:
        answer = run([Case(b"\x90", [0] * 8)])[0]
    except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
        text = getattr(error, "stderr", None) or str(error)
        return f"native runs do not work here (gcc -m32, ptrace?): {str(text).strip()[-200:]}"
    return "" if answer.icount == 1 else "single-stepping does not work here"


def _tools() -> tuple[Path, Path]:
    source = HERE / "native"
    header = source / "layout.h"
    tracer = build("tracer", ["gcc", *_CFLAGS, str(source / "tracer.c")], [source / "tracer.c", header])
    child = build("child", ["gcc", *_CHILD_FLAGS, str(source / "child.S")], [source / "child.S", header])
    return tracer, child


def encode(case: Case) -> bytes:
    """A case as the tracer reads it."""
    patches = case.all_patches()
    state = (*case.regs, case.eip, case.eflags, case.fs, case.gs)
    head = _CASE.pack(case.max_steps, case.until, *state, bool(case.fpu), len(patches))
    return head + case.fpu + b"".join(_RUN.pack(address, len(data)) + data for address, data in patches)


def _decode(case: Case, data: memoryview, at: int) -> tuple[Result, int]:
    values = _RESULT.unpack_from(data, at)
    at += _RESULT.size
    outcome, nsteps, vector, error, cr2 = values[:5]
    steps = []
    for _ in range(nsteps):
        row = _STEP.unpack_from(data, at)
        steps.append(Step(row[:8], row[8], row[9] & ~RF, row[10]))
        at += _STEP.size
    memory = case.memory()
    for _ in range(values[21]):
        address, length = _RUN.unpack_from(data, at)
        at += _RUN.size
        for start, size, _ in REGIONS:
            if start <= address < start + size:
                memory[start][address - start : address - start + length] = data[at : at + length]
        at += length
    fpu = bytes(data[at : at + len(case.fpu)])
    at += len(fpu)
    end = (values[5:13], values[13], values[14] & ~RF, values[15:21])
    result = Result(outcome, nsteps, *end, memory, steps=steps, fpu=fpu)
    if outcome == FAULT:
        result.vector, result.error, result.address = vector, error, cr2 if vector == 14 else 0
    return result, at


def run(cases: Iterable[Case]) -> list[Result]:
    """Run all cases on the CPU."""
    cases = list(cases)
    tracer, child = _tools()
    text = b"".join([BASE[address] for address, _, _ in REGIONS] + [encode(case) for case in cases])
    command = [str(tracer), str(child)]
    done = subprocess.run(command, input=text, capture_output=True, check=False, env=environment())
    if done.returncode:
        raise RuntimeError(f"tracer: {done.stderr.decode()}")
    data = memoryview(done.stdout)
    at = 0
    results = []
    for case in cases:
        result, at = _decode(case, data, at)
        results.append(result)
    return results


Answer = Callable[[Iterable[Case]], list[Result]]


def run_batches(cases: Iterable[Case], size: int = 1000, answer: Answer = run) -> Iterator[tuple[Case, Result]]:
    """Run cases a batch at a time, so that traces need not all be held."""
    batch: list[Case] = []
    for case in cases:
        batch.append(case)
        if len(batch) == size:
            yield from zip(batch, answer(batch), strict=True)
            batch = []
    yield from zip(batch, answer(batch), strict=True) if batch else ()
