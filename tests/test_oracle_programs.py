"""tests/programs: the same program on the CPU and in the machine, compared after every instruction and at the end."""

import pytest

from pykprobes import Machine, StopReason

from .oracle import native
from .oracle.case import GPRS, STACK, UNTIL
from .oracle.checks import assert_same, need_native
from .oracle.compare import plan
from .oracle.ours import Ours
from .oracle.programs import PROGRAMS, link, program_case


@pytest.fixture(scope="module")
def engine():
    need_native()
    return Ours()


@pytest.mark.parametrize("source", PROGRAMS, ids=lambda path: path.stem)
def test_program(engine, source):
    case = program_case(source)
    result = native.run([case])[0]
    assert result.outcome == UNTIL and result.icount > 100
    assert plan(case, result).complete, "the program reads an undefined flag"
    assert_same([case], engine)


@pytest.mark.parametrize("source", [p for p in PROGRAMS if p.stem != "control"], ids=lambda path: path.stem)
def test_program_loaded_as_elf(source):
    """The same by Machine.load, in ring 0 (the one left out names a ring-3 selector)."""
    need_native()
    case = program_case(source)
    result = native.run([case])[0]
    m = Machine()
    m.load(link(source))
    m.map(STACK, 0x2000)
    for name, value in zip(GPRS, case.regs, strict=True):
        setattr(m.regs, name, value)
    before = m.icount
    stop = m.run(until="done", max_instructions=100000)
    assert stop.reason is StopReason.UNTIL
    assert (tuple(getattr(m.regs, name) for name in GPRS), stop.icount - before) == (result.regs, result.icount)
