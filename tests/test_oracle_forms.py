"""Every form of every integer instruction, in both engine modes, against the real CPU."""

import pytest

from .oracle.checks import assert_same, need_native
from .oracle.encode import FORMS
from .oracle.generate import form_cases, undefined_opcode_cases
from .oracle.ours import Ours

NAMES = sorted({form.name for form in FORMS})


@pytest.fixture(scope="module")
def engine():
    need_native()
    return Ours()


@pytest.mark.parametrize("name", NAMES)
def test_form(engine, name):
    assert_same((case for form in FORMS if form.name == name for case in form_cases(form)), engine)


def test_undefined_opcodes(engine):
    assert_same(undefined_opcode_cases(), engine)
