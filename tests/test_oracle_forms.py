"""Every form of every integer instruction, in both engine modes, against the real CPU."""

import pytest

from .oracle.checks import assert_same
from .oracle.encode import FORMS
from .oracle.generate import cut_instruction_cases, form_cases, undefined_opcode_cases
from .oracle.ours import Ours

NAMES = sorted({form.name for form in FORMS})


@pytest.fixture(scope="module")
def engine():
    return Ours()


@pytest.mark.parametrize("name", NAMES)
def test_form(engine, name):
    assert_same((case for form in FORMS if form.name == name for case in form_cases(form)), engine)


def test_undefined_opcodes(engine):
    assert_same(undefined_opcode_cases(), engine)


def test_cut_instructions(engine):
    """Too long or cut off by the end of memory: byte by byte, #PF comes before the sixteenth byte, #GP with it."""
    assert_same(cut_instruction_cases(), engine)
