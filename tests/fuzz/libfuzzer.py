"""python -m tests.fuzz.libfuzzer [TARGET ...] --seconds N: clang's libFuzzer on the C code, with ASan and UBSan.

The targets are decode (tests/fuzz/decode.c) and, of tests/fuzz/machine.c, code, tables, pages and cpus: random code in
every mode, random descriptor tables, random page tables, and random code on two CPUs. What they find is merged into
corpora/TARGET.txt, an input a line in hexadecimal, which tests/test_fuzz_corpora.py replays.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc"
CORPORA = HERE / "corpora"
BUILD = HERE.parents[1] / "build" / "fuzz"

TARGETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "decode": ("decode.c", ()),
    "code": ("machine.c", ("-DPATCH_FROM=CODE", "-DPATCH_SIZE=0x2000")),
    "tables": ("machine.c", ("-DPATCH_FROM=TABLES", "-DPATCH_SIZE=0x1800")),
    "cpus": ("machine.c", ("-DCPUS=2", "-DPATCH_FROM=CODE", "-DPATCH_SIZE=0x2000")),
    "pages": ("machine.c", ("-DPATCH_FROM=DIRECTORY", "-DPATCH_SIZE=0x2000")),
}
LONGEST = {"decode": 30}
COMMON = ("-std=c11", "-fno-strict-aliasing", "-UNDEBUG", "-Wall", "-Wextra", f"-iquote{SOURCES}")
SANITIZED = ("-O1", "-g", "-DLOOP_DISPATCH", "-Wno-bitwise-instead-of-logical",
             "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined")  # fmt: skip


def engine() -> list[Path]:
    """The sources that a target is linked with."""
    return sorted(SOURCES.glob("*.c"))


def command(compiler: str, target: str, flags: tuple[str, ...], *more: Path) -> list[str]:
    """The compiler's command line for a target, without its output."""
    source, defines = TARGETS[target]
    return [compiler, *COMMON, *flags, *defines, str(HERE / source), *map(str, more)]


def lines(target: str) -> list[str]:
    """The inputs kept for a target, in hexadecimal."""
    return (CORPORA / f"{target}.txt").read_text().splitlines()


def _expand(target: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(lines(target)):
        (folder / f"kept-{number}").write_bytes(bytes.fromhex(line))


def _pack(target: str, folder: Path) -> None:
    inputs = sorted({path.read_bytes().hex() for path in folder.iterdir()}, key=lambda text: (len(text), text))
    (CORPORA / f"{target}.txt").write_text("".join(text + "\n" for text in inputs))


def fuzz(target: str, seconds: int) -> bool:
    """Run a target; False: it found something, and the input is in build/fuzz."""
    program, work, merged = BUILD / target, BUILD / f"{target}-corpus", BUILD / f"{target}-merged"
    BUILD.mkdir(parents=True, exist_ok=True)
    subprocess.run([*command("clang", target, SANITIZED, *engine()), "-o", str(program)], check=True)
    _expand(target, work)
    options = [f"-max_len={LONGEST.get(target, 400)}", "-timeout=20"]
    run = [str(program), *options, f"-max_total_time={seconds}", f"-artifact_prefix={BUILD}/{target}-", str(work)]
    if subprocess.run(run, check=False).returncode:
        return False
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    subprocess.run([str(program), *options, "-merge=1", str(merged), str(work)], check=True, stderr=subprocess.DEVNULL)
    _pack(target, merged)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz.libfuzzer", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: 60)")
    args = parser.parse_args()
    if unknown := [name for name in args.targets if name not in TARGETS]:
        parser.error(f"no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    if not shutil.which("clang"):
        print("libfuzzer: needs clang with its run-time libraries", file=sys.stderr)
        return 2
    found = [name for name in args.targets or TARGETS if not fuzz(name, args.seconds)]
    if found:
        where = os.path.relpath(BUILD)
        print(f"found something: {', '.join(found)}; the inputs are {where}/TARGET-crash-*", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
