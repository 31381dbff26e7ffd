"""Who executes when: the schedule= of machines and runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any

from .binding_cpu import LIST, QUANTUM, SEED

if TYPE_CHECKING:
    from .binding import Core

QUANTUM_STEPS = 1000
STEPS_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Seed:
    """A schedule of random turns: the same for the same seed.

    A turn is a random CPU's and has 1 to 1024 steps, short ones as likely as long ones.
    """

    value: int


Schedule = int | Seed | Sequence[tuple[int, int]]


def set_schedule(core: Core, schedule: Schedule, cpus: int) -> None:
    """Check a schedule and make it the machine's; ValueError or TypeError, with nothing changed, when it is none."""
    if isinstance(schedule, Seed):
        core.schedule.set(SEED, index(schedule.value) & (1 << 64) - 1, [])
    elif _is_sequence(schedule):
        core.schedule.set(LIST, 0, [_turn(turn, cpus) for turn in schedule])  # type: ignore[union-attr]
    elif hasattr(schedule, "__index__"):
        core.schedule.set(QUANTUM, _steps(schedule, "a schedule"), [])
    else:
        kind = type(schedule).__name__
        raise TypeError(f"a schedule is a number of steps, a Seed or a list of (cpu, steps), not {kind}")


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _steps(value: Any, what: str) -> int:
    steps = index(value)
    if not 1 <= steps <= STEPS_MAX:
        raise ValueError(f"{what} of {steps} steps: at least 1 is needed, {STEPS_MAX} at most")
    return steps


def _turn(turn: Any, cpus: int) -> tuple[int, int]:
    if not _is_sequence(turn) or len(turn) != 2:
        raise TypeError(f"a turn is (cpu, steps), not {turn!r}")
    cpu = index(turn[0])
    if not 0 <= cpu < cpus:
        raise ValueError(f"a turn of CPU {cpu}: there are CPUs 0 to {cpus - 1}")
    return cpu, _steps(turn[1], f"a turn of CPU {cpu}")
