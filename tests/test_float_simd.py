"""SSE floating point in integers against the CPU's own SSE instructions: results, flags and traps, bit for bit."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .oracle import native

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests" / "oracle" / "native" / "simd.c"
SOURCES = [PROGRAM, *(ROOT / "csrc" / name for name in ("float_core.c", "float_simd.c", "float_simd_convert.c"))]
HEADERS = [ROOT / "csrc" / name for name in ("float_core.h", "float_simd.h", "float_element.h", "flags.h", "types.h")]
RANDOM_CASES = 100_000


def declared() -> list[str]:
    """The operations of float_simd.h; each predicate of a comparison is one."""
    text = (ROOT / "csrc" / "float_simd.h").read_text()
    names = re.findall(r"\bfloat_(\w+)", " ".join(re.findall(r"^sse_float ([^;]+);", text, re.MULTILINE)))
    return [f"{name}{n}" for name in names for n in (range(8) if name.startswith("cmp") else ("",))]


def run(program: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output."""
    command = [str(program), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=native.environment())
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def program() -> Path:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("the host has no SSE to compare with")
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    command = ["gcc", "-std=gnu11", "-O2", "-iquote", str(ROOT / "csrc"), *map(str, SOURCES), "-lm"]
    return native.build("simd", command, [*SOURCES, *HEADERS])


def test_program_has_every_operation(program):
    assert sorted(run(program)[1].split()) == sorted(declared())


@pytest.mark.parametrize("name", declared())
def test_like_the_cpu(program, name):
    """Every pair of edge values in all rounding modes, with and without DAZ and FTZ; random values and masks."""
    assert run(program, name, "1", str(RANDOM_CASES)) == (0, "0 differ\n")
