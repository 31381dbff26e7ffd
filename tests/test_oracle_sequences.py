"""Random programs against the real CPU, stepped and run; `make fuzz` does more of them."""

import os

import pytest

from .oracle.case import UNTIL
from .oracle.checks import assert_same, need_native
from .oracle.ours import Ours
from .oracle.sequences import sequence

# a sanitizer is several times slower, and there for other errors
CHUNKS, CHUNK = (6 if "libasan" in os.environ.get("LD_PRELOAD", "") else 20), 1000


RECORDED = 2
"""So many chunks do not need the host's CPU."""


@pytest.fixture(scope="module")
def engine():
    return Ours()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_sequences(engine, chunk):
    if chunk >= RECORDED:
        need_native()
    assert_same((sequence(chunk * CHUNK + i) for i in range(CHUNK)), engine, smaller=True)


def test_sequences_in_ring_0():
    cases = (sequence(f"ring 0 {i}", tame=True) for i in range(2000))
    assert_same(cases, Ours(ring=0), wanted=lambda case, result: result.outcome == UNTIL)
