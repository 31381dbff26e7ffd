"""The CPU whose answers are demanded of the machine: the host's, or the one whose answers were recorded.

PYK_SILICON chooses: native, recorded, record (native, and keeps the answers), both (recorded, after a check that the
host's CPU says the same, where it is of the same model). Otherwise it is native where that works.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cache

from . import native
from .case import Case, Result
from .vectors import Recorder, Store, host_cpu

store = Store()
recorder = Recorder()


@cache
def _why_not_native() -> str:
    return native.why_not()


@cache
def mode() -> str:
    """Where answers come from."""
    chosen = os.environ.get("PYK_SILICON", "")
    if chosen not in ("", "native", "recorded", "record", "both"):
        raise ValueError(f"PYK_SILICON={chosen} is none of native, recorded, record, both")
    return chosen or ("recorded" if _why_not_native() else "native")


def why_not_native() -> str:
    """Why tests that need the host's CPU cannot run; empty if they can."""
    return f"the answers are {mode()}" if mode() in ("recorded", "record", "both") else _why_not_native()


def vendor() -> str:
    """The vendor of the CPU."""
    return (store.cpu if mode() in ("recorded", "both") else host_cpu()).vendor


def _module() -> str:
    """The stem of the running test's file, which pytest tells."""
    return os.environ["PYTEST_CURRENT_TEST"].partition("::")[0].rpartition("/")[2].removesuffix(".py")


def run(cases: Iterable[Case]) -> list[Result]:
    """The CPU's answers to some cases."""
    cases = list(cases)
    if mode() in ("native", "record"):
        results = native.run(cases)
        if mode() == "record":
            recorder.add(_module(), cases, results)
        return results
    results = store.run(cases)
    if mode() == "both" and host_cpu() == store.cpu:
        for case, recorded, now in zip(cases, results, native.run(cases), strict=True):
            if recorded != now:
                raise AssertionError(f"{case}: recorded {recorded}, the CPU says {now}")
    return results


def run_batches(cases: Iterable[Case], size: int = 1000) -> Iterator[tuple[Case, Result]]:
    """Run cases a batch at a time, so that traces need not all be held."""
    return native.run_batches(cases, size, run)
