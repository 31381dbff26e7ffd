"""The SSE arithmetic of csrc against the CPU's own instructions, without a machine around it: native/simd.c."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from . import native
from .case import HERE

CSRC = HERE.parent.parent / "csrc"
PROGRAM = HERE / "native" / "simd.c"
SOURCES = [PROGRAM, *(CSRC / f"{name}.c" for name in ("float_core", "float_simd", "float_simd_convert"))]
HEADERS = [CSRC / f"{name}.h" for name in ("float_core", "float_simd", "float_element", "flags", "types")]


def why_not() -> str:
    """Why the comparison cannot be made here; empty if it can."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return "the host has no SSE to compare with"
    return "" if shutil.which("gcc") else "the comparison with SSE needs gcc"


def declared() -> list[str]:
    """The operations of float_simd.h; each predicate of a comparison is one."""
    text = (CSRC / "float_simd.h").read_text()
    names = re.findall(r"\bfloat_(\w+)", " ".join(re.findall(r"^sse_float ([^;]+);", text, re.MULTILINE)))
    return [f"{name}{n}" for name in names for n in (range(8) if name.startswith("cmp") else ("",))]


@cache
def _program() -> Path:
    command = ["gcc", "-std=gnu11", "-O2", "-iquote", str(CSRC), *map(str, SOURCES), "-lm"]
    return native.build("simd", command, [*SOURCES, *HEADERS])


def run(*arguments: object) -> str:
    """What the program prints; with an operation, a seed and a number of random cases: the differences."""
    command = [str(_program()), *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=native.environment()).stdout


def differences(name: str, seed: int, count: int) -> str:
    """The first differences of an operation over pairs of edge values and random cases; empty if there are none."""
    text = run(name, seed, count)
    return "" if text == "0 differ\n" else f"{name}: {text or 'the program died'}"
