"""Every schedule with a few preemptions: none is left out, none comes twice, and each outcome can be had again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise, permutations

import pytest

from pykprobes import Kprobe, Machine, Outcome, explore

from .kprobe_lab import CODE, DATA, FIXED, SEED, SUB
from .smp_lab import finish, machine, provide, removing

ALL = range(1000)
RACE = "a1" + "00000200" + "40" + "a3" + "00000200" + "c3"  # mov eax, [DATA]; inc eax; mov [DATA], eax; ret
RACE_STEPS = 5  # the return parks the CPU in a step of its own


def race(cpus: int = 2) -> Machine:
    return machine(None, RACE, cpus)


def total(m: Machine, stop: object) -> int:
    return m.memory.u32(DATA)


def orders(steps: int, cpus: int) -> Iterator[tuple[int, ...]]:
    """Every order of the steps of CPUs that always can go on until they are done."""
    return iter(sorted(set(permutations([cpu for cpu in range(cpus) for _ in range(steps)]))))


def preemptions(order: tuple[int, ...], steps: int) -> int:
    """Changes to another CPU while the one that executes is not done."""
    return sum(a != b and order[: i + 1].count(a) < steps for i, (a, b) in enumerate(pairwise(order)))


@pytest.mark.parametrize("cpus", [2, 3])
@pytest.mark.parametrize("most", [0, 1, 2, 3, 9])
def test_the_number_of_schedules_is_that_of_a_brute_force_enumeration(most: int, cpus: int) -> None:
    code, steps = ("40c3", 3) if cpus == 2 else ("c3", 2)
    wanted = sum(preemptions(order, steps) <= most for order in orders(steps, cpus))
    found = explore(lambda: machine(None, code, cpus), most, window=ALL)
    assert found.schedules == sum(f.count for f in found) == wanted


def test_outcomes_are_those_of_a_brute_force_enumeration() -> None:
    """All orders of two racing increments, run step by step."""
    wanted: dict[int, int] = {}
    for order in interleavings(RACE_STEPS, RACE_STEPS):
        m = race()
        finish(m, [(cpu, 1) for cpu in order])
        wanted[m.memory.u32(DATA)] = wanted.get(m.memory.u32(DATA), 0) + 1
    assert sum(wanted.values()) == 252
    found = explore(race, 20, observe=total, window=ALL)
    assert {f.outcome: f.count for f in found} == wanted


def interleavings(a: int, b: int) -> Iterator[tuple[int, ...]]:
    if not a or not b:
        yield (0,) * a + (1,) * b
        return
    yield from ((0, *rest) for rest in interleavings(a - 1, b))
    yield from ((1, *rest) for rest in interleavings(a, b - 1))


def test_a_lost_update_needs_one_preemption() -> None:
    assert [f.outcome for f in explore(race, 0, observe=total, window=ALL)] == [2]
    found = explore(race, 1, observe=total, window=ALL)
    lost = found.finding(lambda outcome: outcome == 1)
    assert lost is not None and lost.preemptions == 1 and lost.schedule == [(0, 1), (1, 1)]
    m = race()
    finish(m, lost.schedule)
    assert m.memory.u32(DATA) == 1


def probed(mode: str) -> Machine:
    m = machine(mode, "83c005" + "c3")
    m.kprobe(CODE, pre_handler=lambda p, regs: None, post_handler=lambda p, regs, flags: None)
    return m


@pytest.mark.parametrize("mode", [SEED, FIXED])
def test_every_schedule_leads_to_its_outcome(mode: str) -> None:
    found = explore(lambda: probed(mode), 2)
    assert len(found) == (2 if mode == SEED else 1)
    for finding in found:
        assert isinstance(finding.outcome, Outcome)
        m = probed(mode)
        stop = m.run(schedule=finding.schedule)
        p = m.kprobes[0]
        assert finding.outcome.stop == str(stop)
        assert finding.outcome.probes[0][1] == p.hits
        assert [registers[1] for registers in finding.outcome.registers] == [cpu.regs.eax for cpu in m.cpus]


@pytest.mark.parametrize("mode", [SEED, FIXED])
def test_waiting_for_the_lock_is_no_preemption(mode: str) -> None:
    """Without preemption one CPU's hit is over before another's begins."""
    found = explore(lambda: probed(mode), 0)
    assert len(found) == 1 and found.schedules == 2


def unregistering(mode: str) -> Machine:
    m = probed(mode)
    removing(m, m.kprobes[0])
    m.cpus[1].park()
    m.cpus[1].start(SUB)
    return m


def test_the_unregister_race_is_found_with_its_shortest_schedule() -> None:
    found = explore(lambda: unregistering(SEED), 2)
    crash = found.finding(lambda outcome: "page fault" in outcome.stop)
    assert crash is not None and (crash.preemptions, crash.schedule) == (1, [(0, 1), (1, 1)])
    assert "0x10001" in crash.outcome.stop
    fixed = explore(lambda: unregistering(FIXED), 2)
    assert {f.outcome.stop for f in fixed} == {"every CPU is parked: what was started has returned"}
    assert {f.outcome.registers[0][1] for f in fixed} == {5}


def test_the_window_is_where_preemptions_come() -> None:
    everywhere = explore(race, 1, observe=total, window=ALL).schedules
    nowhere = explore(race, 1, observe=total, window=range(0)).schedules
    assert (everywhere, nowhere) == (2 + 2 * (RACE_STEPS - 1), 2)

    # without a window it begins where a CPU is about to hit
    def setup() -> Machine:
        m = machine(SEED, "4040" + "40" + "c3")
        m.kprobe(CODE + 2, pre_handler=lambda p, regs: None)
        return m

    first = explore(setup, 1)
    assert first.schedules < explore(setup, 1, window=ALL).schedules
    assert all(f.schedule[0][1] >= 2 for f in first if f.schedule)


def test_the_table() -> None:
    lines = repr(explore(race, 1, observe=total, window=ALL)).splitlines()
    assert lines[0] == "10 schedules with up to 1 preemptions, 2 outcomes"
    assert lines[1].split() == ["schedules", "preemptions", "outcome", "shortest", "schedule"]
    assert lines[2:] == [
        "        6            0  2        []",
        "        4            1  1        [(0, 1), (1, 1)]",
    ]
    found = explore(race, 1, window=ALL)
    assert "eax0=0x1 eax1=0x2" in repr(found) and len(found) == 3


def test_exceptions() -> None:
    def setup() -> Machine:
        m = race()
        provide(m, CODE, "fail", lambda machine: 1 // 0)
        return m

    with pytest.raises(ZeroDivisionError) as raised:
        explore(setup)
    assert any("schedule=[]" in note for note in raised.value.__notes__)


def test_errors_of_probes_are_outcomes() -> None:
    def setup() -> Machine:
        m = machine(FIXED)
        p = Kprobe(CODE, 0, lambda p, regs: None)
        at = CODE + 0x100
        provide(m, at, "add", lambda machine: machine.register_kprobe(p))
        for cpu in m.cpus:
            cpu.park()
            cpu.start(at)
        return m

    found = explore(setup, 0)
    assert all(f.outcome.stop.startswith("KprobeError: ") for f in found)


def test_a_setup_that_differs() -> None:
    numbers = count()

    def setup() -> Machine:
        m = race()
        m.cpus[0].regs.edx = next(numbers)
        return m

    with pytest.raises(ValueError, match="not deterministic"):
        explore(setup)


def test_a_run_that_is_too_long_for_its_window() -> None:
    def setup() -> Machine:
        return machine(None, "ebfe")

    assert explore(setup, 1, max_instructions=200, window=range(5)).schedules == 2 + 2 * 4
    with pytest.raises(ValueError, match="smaller window"):
        explore(setup, 1, max_instructions=70_000, window=range(70_000))


@pytest.mark.parametrize(
    ("error", "arguments", "options"),
    [
        (TypeError, (None,), {}),
        (TypeError, (lambda: None,), {}),
        (TypeError, (race, 1.5), {}),
        (ValueError, (race, -1), {}),
        (TypeError, (race,), {"observe": 3}),
        (TypeError, (race,), {"observe": lambda m, stop: []}),
        (ValueError, (race,), {"window": (0, 10)}),
        (ValueError, (race,), {"window": range(0, 10, 2)}),
        (ValueError, (race,), {"max_instructions": 0}),
        (ValueError, (race,), {}),  # no probe, and no window
    ],
)
def test_bad_arguments(error: type[Exception], arguments: tuple[object, ...], options: dict[str, object]) -> None:
    with pytest.raises(error):
        explore(*arguments, **options)  # type: ignore[arg-type]
