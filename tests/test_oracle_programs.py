"""tests/programs: the same program on the CPU and in the machine, compared after every instruction and at the end."""

import pytest

from .oracle import native
from .oracle.case import UNTIL
from .oracle.checks import assert_same, need_native
from .oracle.compare import plan
from .oracle.ours import Ours
from .oracle.programs import PROGRAMS, program_case


@pytest.fixture(scope="module")
def engine():
    need_native()
    return Ours()


@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: path.stem)
def test_program(engine, source):
    pytest.importorskip("elftools")
    case = program_case(source)
    result = native.run([case])[0]
    assert result.outcome == UNTIL and result.icount > 100
    assert plan(case, result).complete, "the program reads an undefined flag"
    assert_same([case], engine)
