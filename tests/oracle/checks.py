"""Running many cases through the CPU and an engine, and telling the first failures well."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from . import silicon
from .case import Case, Result
from .compare import Difference, Engine, compare_run, compare_steps, compare_stops
from .shrink import describe, shrink

COMPARISONS = (compare_steps, compare_run, compare_stops)
SHOWN = 5


def need_native() -> None:
    """Skip the calling test where cases cannot run natively. Tests without this call can use recorded answers."""
    if silicon.why_not_native():
        pytest.skip(silicon.why_not_native())


Filter = Callable[[Case, Result], bool]


def _all(case: Case, result: Result) -> bool:
    return True


def failures(cases: Iterable[Case], engine: Engine, wanted: Filter = _all) -> list[tuple[Case, Difference, str]]:
    """Cases whose results differ, stepped or run, each told once."""
    found = []
    for case, result in silicon.run_batches(cases):
        if not wanted(case, result):
            continue
        for comparison in COMPARISONS:
            difference = comparison(case, result, engine)
            if difference:
                found.append((case, difference, comparison.__name__))
                break
    return found


def assert_same(cases: Iterable[Case], engine: Engine, smaller: bool = False, wanted: Filter = _all) -> None:
    """Fail with the first few differing cases; smaller: shrunk."""
    found = failures(cases, engine, wanted)
    texts = []
    for case, difference, name in found[:SHOWN]:
        if smaller and not silicon.why_not_native():
            comparison = next(c for c in COMPARISONS if c.__name__ == name)
            case, difference = shrink(case, engine, comparison)
        texts.append(f"{name}: {describe(case, difference)}")
    assert not found, f"{len(found)} cases differ from the CPU\n" + "\n".join(texts)
