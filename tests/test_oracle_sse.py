"""All of the opcode space of MMX, SSE and SSE2 against the real CPU: results, status, tags, memory, bit for bit."""

import pytest

from .oracle.ours import Ours
from .oracle.sse import FORMS, differences, executable, sequence_differences

CASES = 24


@pytest.fixture(scope="module")
def engine():
    return Ours()


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name.replace(" ", "-"))
def test_form(engine, form):
    found = differences(form, CASES, engine)
    assert not found, f"{len(found)} cases differ\n" + "\n".join(found[:4])


def test_sequences(engine):
    assert len(executable(engine)) > 280
    found = sequence_differences(250, 60, engine)
    assert not found, f"{len(found)} programs differ\n" + "\n".join(found[:4])
