"""What does an action add to a hit? A chain of many copies of it against a chain without, over copies and hits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Answers, side_by_side, timed

from pykprobes import Action, Count, Hist, Machine, Record, Sample, When

CALLS = 50_000
COPIES = 60
RING = 64
KRETPROBE_NS = 40

ACTIONS: dict[str, Callable[[], Action]] = {
    "Count": Count,
    "Hist, log2 of a register": lambda: Hist("n", "%ax"),
    "Hist, log2 of a stack word": lambda: Hist("n", "+4(%sp):u32"),
    "Hist, linear of a stack word": lambda: Hist("n", "+4(%sp):u32", bins=64, range=(0, 65536)),
    "Hist, by key": lambda: Hist("n", "+4(%sp):b6@0/32", bins="key", capacity=64),
    "When, one comparison": lambda: When("%ax >= 0"),
    "Sample, every hit": lambda: Sample(1),
    "Record of three fields": lambda: Record("%ax", "+4(%sp):u32", "+8(%sp):u32", capacity=RING),
}


def load(guest: Path, *actions: Action) -> Machine:
    machine = Machine()
    machine.load(str(guest))
    machine.kprobe("probed", action=list(actions))
    return machine


def loop(machine: Machine) -> Callable[[], float]:
    return lambda: timed(machine.call, "call_loop", CALLS)


@pytest.mark.parametrize("name", list(ACTIONS))
def test_action(benchmark: Any, answers: Answers, guest: Path, name: str) -> None:
    actions = [ACTIONS[name]() for _ in range(COPIES)]
    many, one = load(guest, Count(), *actions), load(guest, Count())
    with_actions, without = side_by_side(benchmark, *map(loop, (many, one)), rounds=9)
    assert len({action.count for action in actions}) == 1
    cost = (with_actions - without) / CALLS / COPIES * 1e9
    answers.add(benchmark, f"action: {name}", f"{cost:.1f} ns")


def test_return_probe(benchmark: Any, answers: Answers, guest: Path) -> None:
    """A call that is followed: the probe at the entry, the trampoline, one action."""
    followed, plain = Machine(), Machine()
    for machine in (followed, plain):
        machine.load(str(guest))
    probe = followed.kretprobe("probed", action=Count())
    with_probe, without = side_by_side(benchmark, *map(loop, (followed, plain)), rounds=9)
    assert probe.hits >= CALLS and probe.nmissed == 0
    cost = (with_probe - without) / CALLS * 1e9
    target = cost, KRETPROBE_NS, f"{KRETPROBE_NS} ns"
    answers.add(benchmark, "return probe: entry and return, Count", f"{cost:.0f} ns", at_most=target)
