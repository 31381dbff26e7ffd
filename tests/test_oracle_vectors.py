"""The recorded answers of a CPU: there, up to date, and as the host's CPU has them."""

from __future__ import annotations

import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .oracle.case import HERE, IF, Case
from .oracle.generate import form_cases, forms_named
from .oracle.sequences import sequence
from .oracle.vectors import FOLDER, NotRecordedError, Recorder, Store, host_cpu, key

ROOT = HERE.parent.parent
BYTES_MAX = 2 << 20
NOP = Case(b"\x90", [1, 2, 3, 4, 5, 6, 7, 8], IF | 2)


def _batches() -> list[list[Case]]:
    """Batches of the oracle's tests, as these make them."""
    return [[sequence(i) for i in range(1000)], *(list(form_cases(form)) for form in forms_named("cpuid"))]


@pytest.fixture(scope="module")
def store() -> Store:
    return Store()


def test_a_sample_of_the_tests_with_recorded_answers() -> None:
    """In a process that takes the answers from the vectors, after a look at the host's CPU if it is of their model."""
    modules = sorted(str(path) for path in HERE.parent.glob("test_oracle_*.py") if path.name != Path(__file__).name)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.oracle.sample", *modules]
    environment = {**os.environ, "PYK_SILICON": "both" if host_cpu() == Store().cpu else "recorded"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed and int(passed[1]) > 30, done.stdout[-3000:] + done.stderr[-1000:]


def test_results_survive_packing(store: Store) -> None:
    recorder = Recorder()
    for cases in _batches():
        results = store.run(cases)
        assert all(len(result.steps) == result.icount for result in results)
        recorder.add("again", cases, results)
        assert recorder.modules["again"][key(cases)] == store.packed(cases)


def test_what_was_recorded_can_be_read(store: Store, tmp_path: Path) -> None:
    recorder = Recorder()
    batches = _batches()
    for cases in batches:
        recorder.add("some", cases, store.run(cases))
    recorder.write(tmp_path)
    first = (tmp_path / "some.xz").read_bytes()
    recorder.write(tmp_path)
    assert (tmp_path / "some.xz").read_bytes() == first
    again = Store(tmp_path)
    assert again.cpu == host_cpu()
    for cases in batches:
        assert again.run(cases) == store.run(cases)


def test_cases_that_were_not_recorded(store: Store) -> None:
    cases = _batches()[0]
    for wrong in ([NOP], cases[:-1], [*cases[1:], cases[0]], [*cases[:-1], NOP]):
        with pytest.raises(NotRecordedError, match=f"the results of {len(wrong)} cases: make vectors"):
            store.run(wrong)


def test_files_that_do_not_fit_together(store: Store, tmp_path: Path) -> None:
    for name, vendor in (("one", "GenuineIntel"), ("two", "AuthenticAMD")):
        head = f'{{"format":1,"cpu":{{"vendor":"{vendor}","model":"6"}},"batches":[]}}\n'
        (tmp_path / f"{name}.xz").write_bytes(lzma.compress(head.encode()))
    with pytest.raises(ValueError, match="2 processors"):
        Store(tmp_path).run([NOP])
    (tmp_path / "one.xz").write_bytes(lzma.compress(b'{"format":0}\n'))
    with pytest.raises(ValueError, match="format 0"):
        Store(tmp_path).run([NOP])


def test_the_vectors_are_small() -> None:
    files = sorted(FOLDER.glob("*.xz"))
    assert files and sum(path.stat().st_size for path in files) <= BYTES_MAX
