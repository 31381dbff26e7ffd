"""The coverage report's counts, and that it fails where too little was reached."""

from __future__ import annotations

from typing import Any

import pytest

from .coverage_report import report


def file(name: str, reached: int, total: int, **functions: int) -> dict[str, Any]:
    lines = [{"count": int(i < reached), "branches": [{"count": 1}, {"count": 0}]} for i in range(total)]
    made = [{"name": name, "execution_count": count} for name, count in functions.items()]
    made.append({"name": "<unknown function 3>", "lineno": 3, "gcovr/excluded": True})
    return {"file": f"csrc/{name}", "lines": lines, "functions": made}


@pytest.mark.parametrize(("reached", "good"), [(100, True), (95, True), (94, False)])
def test_the_bound_holds_for_each_part(reached: int, good: bool) -> None:
    for name in ("decode.c", "execute_memory.c", "execute.h", "mmu.c", "trap.c", "gate.c"):
        text, enough = report([file(name, reached, 100), file("other.c", 1, 100, lost=0, found=2)])
        assert enough == good
        assert f"{name:24} {reached:6} of    100" in text
        assert "     1 of    100    1.0 %      100 of    200   50.0 %" in text
        assert text.count("lost") == 1 and "found" not in text and "unknown" not in text
