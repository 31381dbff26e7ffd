"""All schedules of several CPUs with a few preemptions, and what comes of each.

The idea is iterative context bounding: most faults of concurrency need few preemptions, so that trying all schedules
with few of them finds the faults, and the schedule that shows one is short.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

from .errors import KprobeError, MachineFault
from .machine import Machine

if TYPE_CHECKING:
    from .stop import Stop

Turn = tuple[int, int]
Observe = Callable[[Machine, "Stop | None"], Hashable]
REGISTERS = ("eip", "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
STEPS_MAX = 1 << 16  # of a run, in which schedules may branch
CPU, STEPS, RUNNABLE, ADDRESS, FRESH = range(5)  # of a step as Core.trace gives it


class Outcome(NamedTuple):
    """How a run ended, if nothing else is observed: why, every CPU's registers, what became of the probes."""

    stop: str
    registers: tuple[tuple[int, ...], ...]  # of each CPU, in the order of REGISTERS
    probes: tuple[tuple[str, int, tuple[tuple[str, int], ...]], ...]  # place, hits, misses by cause

    def __str__(self) -> str:
        told = [self.stop]
        for place, hits, misses in self.probes:
            told.append(", ".join([f"{place}: {hits} hits", *(f"{count} {cause}" for cause, count in misses)]))
        return "; ".join(told)


@dataclass(frozen=True)
class Finding:
    """One outcome: how many schedules lead to it, and the shortest one.

    ``schedule`` is a list that ``schedule=`` takes; it has the fewest preemptions, turns and steps of them all.
    """

    outcome: Hashable
    count: int
    schedule: list[Turn]
    preemptions: int


@dataclass
class Exploration(Sequence[Finding]):
    """What came of all schedules: the findings, the most frequent one first."""

    preemptions: int
    schedules: int = 0
    findings: list[Finding] = field(default_factory=list)

    def __getitem__(self, which: Any) -> Any:
        return self.findings[which]

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def finding(self, wanted: Callable[[Any], object]) -> Finding | None:
        """The first finding whose outcome a function likes."""
        return next((finding for finding in self.findings if wanted(finding.outcome)), None)

    def lines(self) -> list[str]:
        """The findings as a table."""
        rows = [("schedules", "preemptions", "outcome", "shortest schedule")]
        rows += [
            (f"{f.count:,}", str(f.preemptions), text, str(f.schedule))
            for f, text in zip(self.findings, self._texts(), strict=True)
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        head = f"{self.schedules:,} schedules with up to {self.preemptions} preemptions, {len(self)} outcomes"
        return [head] + [f"{a:>{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]

    def _texts(self) -> list[str]:
        """The outcomes in words; of registers only those that tell outcomes apart."""
        texts = [str(finding.outcome) for finding in self.findings]
        plain = [f.outcome for f in self.findings if isinstance(f.outcome, Outcome)]
        if len(plain) < len(texts) or not plain:
            return texts
        shape = [(cpu, name) for cpu in range(len(plain[0].registers)) for name in range(len(REGISTERS))]
        differ = [(cpu, name) for cpu, name in shape if len({o.registers[cpu][name] for o in plain}) > 1]
        for i, outcome in enumerate(plain):
            told = (f"{REGISTERS[name]}{cpu}={outcome.registers[cpu][name]:#x}" for cpu, name in differ)
            texts[i] = " ".join([texts[i], *told])
        return texts

    def __repr__(self) -> str:
        return "\n".join(self.lines())


@dataclass(frozen=True, slots=True)
class _Prefix:
    """A schedule up to its last decision; from there on no CPU is preempted."""

    turns: tuple[Turn, ...] = ()
    steps: int = 0  # which it decides
    preemptions: int = 0
    before: int = 0  # a checksum of the steps before its last one


class _Run(NamedTuple):
    trace: list[tuple[int, int, int, int, int]]
    outcome: Hashable
    probed: frozenset[int]

    def checksum(self, steps: int) -> int:
        return crc32(repr(self.trace[:steps]).encode())


def explore(
    setup: Callable[[], Machine],
    preemptions: int = 2,
    *,
    observe: Observe | None = None,
    window: range | None = None,
    max_instructions: int = 100_000,
) -> Exploration:
    """Run what `setup` makes under every schedule with up to so many preemptions; each distinct outcome is reported.

    ``setup()`` returns a new machine, the same each time, with its probes registered and its CPUs started. A
    preemption is a change to another CPU where the one that executes could go on; it may come before any step, which
    is a retired instruction, the delivery of an exception or interrupt, or an entry point of the kernel side. Where a
    CPU cannot go on (it is parked, halted, or waits for kprobe_lock), and at the start, every other one that can is
    tried too.

    ``window`` is the range of steps, counted over all CPUs from the start, before which preemptions come. Without
    one it begins where a CPU first stands at a probe and lasts to the end. ``observe(machine, stop)`` gives the
    outcome, anything that can be hashed; else it is an `Outcome`. A run ends after ``max_instructions``. An exception
    of kprobes or of a call that comes out of a run is an outcome, any other comes out of here with a note that has
    the schedule.

    ValueError when two runs of one schedule differ: then `setup` is not deterministic.
    """
    preemptions, max_instructions = index(preemptions), index(max_instructions)
    if not callable(setup) or not (observe is None or callable(observe)):
        raise TypeError("setup and observe are functions")
    if preemptions < 0:
        raise ValueError(f"{preemptions} preemptions: 0 or more")
    if max_instructions < 1:
        raise ValueError(f"max_instructions={max_instructions}: at least 1")
    if window is not None and (not isinstance(window, range) or window.step != 1 or window.start < 0):
        raise ValueError(f"a window is a range of steps such as range(0, 100), not {window!r}")

    first = _run(setup, (), observe, max_instructions)
    again = _run(setup, (), observe, max_instructions)
    if first != again:
        raise ValueError("setup() is not deterministic: two runs of the same schedule differ")

    found: dict[Hashable, tuple[int, tuple[int, int, int], _Prefix]] = {}
    waiting, result = [_Prefix()], Exploration(preemptions)
    with _progress() as bar:
        while waiting:
            prefix = waiting.pop()
            run = _run(setup, prefix.turns, observe, max_instructions) if prefix.steps else first
            if prefix.steps and run.checksum(prefix.steps - 1) != prefix.before:
                raise ValueError(f"setup() is not deterministic: a schedule went another way, {list(prefix.turns)}")
            size = prefix.preemptions, len(prefix.turns), sum(steps for _, steps in prefix.turns)
            count, best, shortest = found.get(run.outcome, (0, size, prefix))
            found[run.outcome] = (count + 1, best, shortest) if best <= size else (count + 1, size, prefix)
            result.schedules += 1
            waiting += _branches(run, prefix, preemptions, window)
            bar.update()
    for outcome, (count, _, prefix) in sorted(found.items(), key=lambda item: (-item[1][0], item[1][1])):
        result.findings.append(Finding(outcome, count, list(prefix.turns), prefix.preemptions))
    return result


def _run(setup: Callable[[], Machine], turns: Sequence[Turn], observe: Observe | None, limit: int) -> _Run:
    machine = setup()
    if not isinstance(machine, Machine):
        raise TypeError(f"setup returns a Machine, not {type(machine).__name__}")
    try:
        with machine:
            probes, stop, error = machine.kprobes, None, ""
            machine._core.schedule.trace(STEPS_MAX)
            try:
                stop = machine.run(max_instructions=limit, schedule=turns)
            except (KprobeError, MachineFault) as raised:
                error = f"{type(raised).__name__}: {raised}"
            probes += [probe for probe in machine.kprobes if probe not in probes]
            probed = frozenset(probe.address for probe in probes if probe.address is not None)
            outcome = observe(machine, stop) if observe else _outcome(machine, stop, error, probes)
            hash(outcome)
            return _Run(machine._core.schedule.traced(), outcome, probed)
    except Exception as raised:
        raised.add_note(f"with schedule={list(turns)}")
        raise


def _outcome(machine: Machine, stop: Stop | None, error: str, probes: Sequence[Any]) -> Outcome:
    registers = tuple(tuple(getattr(cpu.regs, name) for name in REGISTERS) for cpu in machine.cpus)
    told = tuple((p.place, p.hits, tuple((cause, count) for cause, count in p.misses.items() if count)) for p in probes)
    return Outcome(str(stop) if stop else error, registers, told)


def _append(turns: list[Turn], step: tuple[int, int, int, int, int]) -> None:
    """One more step for a schedule. A CPU that could not go on and then goes on has a new turn."""
    if turns and turns[-1][0] == step[CPU] and not step[FRESH]:
        turns[-1] = step[CPU], turns[-1][1] + step[STEPS]
    else:
        turns.append((step[CPU], step[STEPS]))


def _branches(run: _Run, prefix: _Prefix, preemptions: int, window: range | None) -> list[_Prefix]:
    """The schedules that differ from this one in one decision behind its last."""
    trace = run.trace
    if len(trace) == STEPS_MAX and (window is None or window.stop >= STEPS_MAX):
        raise ValueError(f"a run has {STEPS_MAX:,} steps or more: give a smaller window, or max_instructions")
    if window is None:
        if not run.probed:
            raise ValueError("no probe is registered: give the window in which CPUs are preempted")
        start = next((i for i, step in enumerate(trace) if step[ADDRESS] in run.probed), len(trace))
        window = range(start, len(trace))
    branches: list[_Prefix] = []
    turns: list[Turn] = []
    for i, step in enumerate(trace):
        preempts = i > 0 and not step[FRESH]
        if i >= prefix.steps and not (preempts and (i not in window or prefix.preemptions == preemptions)):
            others = [n for n in range(step[RUNNABLE].bit_length()) if step[RUNNABLE] >> n & 1 and n != step[CPU]]
            before = run.checksum(i) if others else 0
            for cpu in others:
                branches.append(_Prefix((*turns, (cpu, 1)), i + 1, prefix.preemptions + preempts, before))
        _append(turns, step)
    return branches


def _progress() -> Any:
    """A bar on stderr, once it has taken a while; nothing without tqdm or a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(unit=" schedules", delay=2, disable=None, leave=False)


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def update(self) -> None:
        """One more schedule."""
