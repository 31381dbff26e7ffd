"""`make vectors [ARGS=modules]`: run the oracle's tests on the host's CPU, and keep its answers."""

from __future__ import annotations

import os
import sys

import pytest

from .case import HERE


def main(arguments: list[str]) -> int:
    """Record what the tests of some modules, or all, ask for that can do without the host's CPU; pytest's exit code."""
    os.environ["PYK_SILICON"] = "record"
    from . import silicon

    every = sorted(path for path in HERE.parent.glob("test_oracle_*.py") if path.stem != "test_oracle_vectors")
    code = pytest.main(["-q", "-p", "no:cacheprovider", *(arguments or map(str, every))])
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        silicon.recorder.write()
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
