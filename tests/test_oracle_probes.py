"""Random programs with a probe at every instruction: as on the CPU without any, and each hit counted."""

from collections import Counter

import pytest

from pykprobes import Count

from .oracle import silicon
from .oracle.case import STACK, UNTIL
from .oracle.compare import plan
from .oracle.encode import FORMS, assemble
from .oracle.generate import form_cases
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


# what depends on the ring, or on what lies below esp, which the traps' frames overwrite
UNFIT = frozenset(
    "push_seg pop_seg mov_from_seg mov_to_seg lar lsl verr verw arpl pushf popf iret retf callf jmpf".split()
    + "ret pop popa enter leave lds les lss lfs lgs".split()
)
SEGMENT = frozenset((0x2E, 0x64, 0x65))


def _form_cases():
    """A few cases of every form, with the stack pointer where nothing else looks."""
    for form in (form for form in FORMS if form.name not in UNFIT):
        for case in form_cases(form, 0.15, "probed "):
            case.regs[4] = STACK + 0x1E00
            if not any(set(insn.prefixes) & SEGMENT or getattr(insn.rm, "base", 0) == 4 for insn in case.notes):
                yield case


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
    # below any esp lie the frames of the probes' traps
    top = max(case.regs[4], result.regs[4])
    for start, data in result.memory.items():
        skip = top - STACK if start == STACK else 0
        assert engine.memory(start, len(data))[skip:] == data[skip:]


HANDLERS = {
    "count": lambda: {"action": Count()},
    "pre": lambda: {"pre_handler": _nothing},
    "post": lambda: {"pre_handler": _nothing, "post_handler": _nothing},
}


def _check_all(cases, engine, handlers):
    """How many cases ran to their end on the CPU, and the same under probes."""
    checked = 0
    for case, result in silicon.run_batches(cases):
        # traps need a stack: not for a case that loads esp with something else
        has_stack = abs(result.regs[4] - case.regs[4]) < 0x100
        if result.outcome == UNTIL and has_stack and plan(case, result).complete:
            try:
                _check(case, result, engine, HANDLERS[handlers])
            except AssertionError as error:
                program = "\n".join(str(line) for line in engine.machine.disasm(case.eip, len(case.notes)))
                raise AssertionError(f"{error}\nregs {[hex(r) for r in case.regs]}\n{program}") from None
            checked += 1
    return checked


@pytest.mark.parametrize("handlers", HANDLERS)
@pytest.mark.parametrize("optimize", [True, "boost", False])
@pytest.mark.parametrize("kprobes", ["fixed", "2.5.26"])
def test_programs_under_probes(kprobes, optimize, handlers):
    engine = Ours(ring=0, kprobes=kprobes, optimize=optimize)
    cases = (sequence(f"probes {i}", tame=True) for i in range(PROGRAMS))
    assert _check_all(cases, engine, handlers) > PROGRAMS // 2


@pytest.mark.parametrize("handlers", HANDLERS)
@pytest.mark.parametrize("optimize", [True, "boost", False])
def test_every_form_under_a_probe(optimize, handlers):
    assert _check_all(_form_cases(), Ours(ring=0, optimize=optimize), handlers) > 2500
