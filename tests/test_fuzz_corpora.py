"""What fuzzing has reached, replayed: sane lengths, and a machine that ends the same run in blocks or step by step."""

import shutil
import subprocess

import pytest

from .fuzz.libfuzzer import COMMON, HERE, SOURCES, TARGETS, command, engine, lines
from .oracle.native import build


@pytest.mark.parametrize("target", TARGETS)
def test_corpus(target):
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    depends = sorted([*SOURCES.glob("*.[ch]"), *SOURCES.glob("*.def"), *HERE.glob("*.c")])
    linked = ["gcc", *COMMON, "-O2", "-r", "-nostdlib", *map(str, engine())]
    objects = build("engine", linked, depends)
    program = build(f"fuzz-{target}", command("gcc", target, ("-O2",), HERE / "replay.c", objects), depends)
    inputs = lines(target)
    assert len(inputs) > 50
    text = "".join(line + "\n" for line in inputs)
    done = subprocess.run([program], input=text, capture_output=True, text=True, timeout=300, check=False)
    last = done.stderr.splitlines()[-1:]
    assert done.returncode == 0, f"{target}: {last} of corpora/{target}.txt"
    assert done.stdout == f"{len(inputs)} inputs\n"
