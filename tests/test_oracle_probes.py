"""Random programs with a probe at every instruction: as on the CPU without any, and each hit counted."""

from collections import Counter

import pytest

from pykprobes import Count

from .oracle import native
from .oracle.case import STACK, UNTIL
from .oracle.checks import need_native
from .oracle.compare import plan
from .oracle.encode import assemble
from .oracle.ours import Ours
from .oracle.sequences import END, sequence
from .oracle.undefined import COMPARED

PROGRAMS = 400


def _nothing(p, regs, flags=0):
    pass


def _executions(case, result):
    """How often each address was executed."""
    counts = Counter([case.eip] if result.steps else [])
    counts.update(step.eip for step in result.steps[:-1])
    return counts


def _check(case, result, engine, handlers):
    m = engine.machine
    mask = ~plan(case, result).taint[-1] & COMPARED
    engine.load(case)
    addresses = assemble(case.notes, case.eip, END)[1]
    probes = {a: m.kprobe(a, **handlers()) for a in addresses}
    stop = m.run(until=case.until, max_instructions=10000)
    regs, eip, eflags = engine.state()
    hits = {address: probe.hits for address, probe in probes.items()}
    for probe in probes.values():
        m.unregister_kprobe(probe)
    assert (stop.reason.name, regs, eip) == ("UNTIL", result.regs, result.eip)
    assert (eflags ^ result.eflags) & mask == 0
    counts = _executions(case, result)
    assert hits == {address: counts[address] for address in addresses}
    assert engine.icount() == result.icount
    # below esp lie the frames of the probes' traps
    for start, data in result.memory.items():
        skip = result.regs[4] - STACK if start == STACK else 0
        assert engine.memory(start, len(data))[skip:] == data[skip:]


HANDLERS = {
    "count": lambda: {"action": Count()},
    "pre": lambda: {"pre_handler": _nothing},
    "post": lambda: {"pre_handler": _nothing, "post_handler": _nothing},
}


@pytest.mark.parametrize("handlers", HANDLERS)
@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("kprobes", ["fixed", "2.5.26"])
def test_programs_under_probes(kprobes, optimize, handlers):
    need_native()
    engine = Ours(ring=0, kprobes=kprobes, optimize=optimize)
    cases = [sequence(f"probes {i}", tame=True) for i in range(PROGRAMS)]
    checked = 0
    for case, result in native.run_batches(cases):
        if result.outcome == UNTIL and plan(case, result).complete:
            try:
                _check(case, result, engine, HANDLERS[handlers])
            except AssertionError as error:
                program = "\n".join(str(line) for line in engine.machine.disasm(case.eip, len(case.notes)))
                raise AssertionError(f"{error}\nregs {[hex(r) for r in case.regs]}\n{program}") from None
            checked += 1
    assert checked > PROGRAMS // 2
