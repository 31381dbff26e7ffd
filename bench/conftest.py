"""Fixtures of the benchmarks, and the table that answers their questions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import Answers, table

HERE = Path(__file__).parent
ANSWERS = pytest.StashKey[Answers]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--check-targets", action="store_true", help="fail when a promised number is missed")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ANSWERS] = Answers()


def pytest_sessionfinish(session: pytest.Session) -> None:
    missed = any(line.ok is False for line in session.config.stash[ANSWERS].lines)
    if missed and session.config.getoption("--check-targets"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash[ANSWERS].lines
    if not lines:
        return
    terminalreporter.section("answers")
    for line in table(lines):
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"medians; {processor()}, Python {platform.python_version()}; bench/README.md explains")


def processor() -> str:
    """Name of the host's CPU."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


@pytest.fixture
def answers(request: pytest.FixtureRequest) -> Answers:
    """Where a benchmark leaves its line of the table."""
    return request.config.stash[ANSWERS]


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest program, built by the local compiler."""
    if not shutil.which("make") or not shutil.which("gcc"):
        pytest.skip("the guest program needs make and gcc")
    out = tmp_path_factory.mktemp("guest")
    build = subprocess.run(
        ["make", "-s", "-C", str(HERE / "guest"), f"OUT={out}"], capture_output=True, text=True, check=False
    )
    if build.returncode:
        pytest.skip(f"gcc -m32 cannot build the guest program: {build.stderr.strip()[-200:]}")
    return out / "bench.elf"


@pytest.fixture(scope="session")
def hook_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """peers/hook.c as a library."""
    library = tmp_path_factory.mktemp("hook") / "hook.so"
    source = HERE / "peers" / "hook.c"
    command = [os.environ.get("CC", "cc").split()[-1], "-O2", "-shared", "-fPIC", str(source), "-o", str(library)]
    if not shutil.which(command[0]) or subprocess.run(command, check=False).returncode:
        pytest.skip("no C compiler for the peer's hook")
    return library
