"""Random x87 and SSE programs against the real CPU, run and stepped; `make fuzz` does more of them."""

import pytest

from .oracle.checks import need_native
from .oracle.float_sequences import failures
from .oracle.ours import Ours

CHUNKS, CHUNK = 6, 500


@pytest.fixture(scope="module")
def engine():
    need_native()
    return Ours()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_float_sequences(engine, chunk):
    found = failures(CHUNK, engine, chunk)
    assert not found, f"{len(found)} programs differ\n" + "\n".join(found[:3])
