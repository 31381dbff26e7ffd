"""Every x87 form against the real CPU: results, status, tags, memory, bit for bit."""

import pytest

from .oracle.checks import need_native
from .oracle.ours import Ours
from .oracle.x87 import FORMS, differences

CASES = 60


@pytest.fixture(scope="module")
def engine():
    need_native()
    return Ours()


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f.name}-{f.prefix.hex()}{f.escape:x}{f.modrm:02x}")
def test_form(engine, form):
    found = differences(form, CASES, engine)
    assert not found, f"{len(found)} cases differ\n" + "\n".join(found[:4])
