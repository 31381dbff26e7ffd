"""Every x87 form against the real CPU: results, status, tags, memory, bit for bit."""

import pytest

from .oracle.ours import Ours
from .oracle.x87 import FORMS, class_differences, differences

CASES = 60


@pytest.fixture(scope="module")
def engine():
    return Ours()


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f.name}-{f.prefix.hex()}{f.escape:x}{f.modrm:02x}")
def test_form(engine, form):
    found = differences(form, CASES, engine)
    assert not found, f"{len(found)} cases differ\n" + "\n".join(found[:4])


PAIRS = "fyl2x fyl2xp1 fpatan fscale fprem fprem1 fsqrt fxtract f2xm1 fptan fsin fcos fsincos frndint".split()


@pytest.mark.parametrize("form", [form for form in FORMS if form.name in PAIRS], ids=lambda form: form.name)
def test_kinds_of_numbers(engine, form):
    found = class_differences(form, engine)
    assert not found, f"{len(found)} cases differ\n" + "\n".join(found[:4])
