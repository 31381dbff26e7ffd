"""SSE floating point in integers against the CPU's own SSE instructions: results, flags and traps, bit for bit."""

import pytest

from .oracle import simd

RANDOM_CASES = 100_000


@pytest.fixture(scope="module", autouse=True)
def need_sse():
    if simd.why_not():
        pytest.skip(simd.why_not())


def test_program_has_every_operation():
    assert sorted(simd.run().split()) == sorted(simd.declared())


@pytest.mark.parametrize("name", simd.declared())
def test_like_the_cpu(name):
    """Every pair of edge values in all rounding modes, with and without DAZ and FTZ; random values and masks."""
    assert simd.differences(name, 1, RANDOM_CASES) == ""
