"""How fast does plain guest code run, against the real CPU and against Unicorn?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import Answers, side_by_side, timed
from peers import native
from peers.unicorn_peer import UnicornGuest

from pykprobes import Machine

AT_LEAST = {"mixed": 0.20, "core_work": 0.06}  # of native speed
ROUNDS = 60  # of mixed(): about 230 million instructions


def load(guest: Path) -> Machine:
    machine = Machine()
    machine.load(str(guest))
    return machine


def count_instructions(machine: Machine, work: str, rounds: int) -> int:
    before = machine.icount
    machine.call(work, rounds)
    return machine.icount - before


def natively(guest: Path, work: str, rounds: int) -> int:
    try:
        return native.run(guest, work, rounds)[0]
    except native.CannotRun as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("work", native.WORKS)
def test_against_native(benchmark: Any, answers: Answers, guest: Path, work: str) -> None:
    rounds = ROUNDS if work == "mixed" else 2 * ROUNDS
    machine = load(guest)
    assert machine.call(work, rounds) == natively(guest, work, rounds)
    instructions = count_instructions(machine, work, rounds)

    ours, real = side_by_side(
        benchmark,
        lambda: timed(machine.call, work, rounds),
        lambda: native.run(guest, work, rounds)[1],
        rounds=7 if work == "mixed" else 3,
    )
    benchmark.extra_info["instructions"] = instructions
    answers.add(
        benchmark,
        f"{work} against the real CPU",
        f"{instructions / ours / 1e6:.0f} MIPS",
        peer=f"{instructions / real / 1e6:.0f} MIPS native",
        ratio=real / ours,
        at_least=AT_LEAST.get(work),
    )


@pytest.mark.parametrize(("best", "at_least"), [(False, 4), (True, 0.9)], ids=["as used", "at its best"])
def test_against_unicorn(benchmark: Any, answers: Answers, guest: Path, best: bool, at_least: float) -> None:
    rounds = ROUNDS // 2
    machine, peer = load(guest), UnicornGuest(guest, best)
    assert machine.call("mixed", rounds) == peer.call("mixed", rounds)
    instructions = count_instructions(machine, "mixed", rounds)

    ours, theirs = side_by_side(
        benchmark,
        lambda: timed(machine.call, "mixed", rounds),
        lambda: timed(peer.call, "mixed", rounds),
    )
    benchmark.extra_info["instructions"] = instructions
    answers.add(
        benchmark,
        "mixed against Unicorn " + ("at its best" if best else "as used"),
        f"{instructions / ours / 1e6:.0f} MIPS",
        peer=f"{instructions / theirs / 1e6:.0f} MIPS Unicorn",
        ratio=theirs / ours,
        at_least=at_least,
    )
