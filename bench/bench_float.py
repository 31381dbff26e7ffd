"""How fast does floating point run, against the real CPU and against Unicorn?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_engine import count_instructions, load, natively
from harness import Answers, side_by_side, timed
from peers import native
from peers.unicorn_peer import UnicornGuest

ROUNDS = 100  # of 0.2 to 0.4 million instructions
NATIVE_ROUNDS = 20 * ROUNDS
KINDS = {"x87_work": "x87", "sse2_work": "SSE2 scalars", "packed_work": "SSE singles by four"}


@pytest.mark.parametrize("work", native.FLOAT_WORKS)
def test_against_native(benchmark: Any, answers: Answers, guest: Path, work: str) -> None:
    machine = load(guest)
    assert machine.call(work, ROUNDS) == natively(guest, work, ROUNDS)
    instructions = count_instructions(machine, work, ROUNDS)

    ours, real = side_by_side(
        benchmark,
        lambda: timed(machine.call, work, ROUNDS),
        lambda: native.run(guest, work, NATIVE_ROUNDS)[1] * ROUNDS / NATIVE_ROUNDS,
    )
    answers.add(
        benchmark,
        f"{KINDS[work]} against the real CPU",
        f"{instructions / ours / 1e6:.0f} MIPS",
        peer=f"{instructions / real / 1e6:.0f} MIPS native",
        ratio=real / ours,
    )


@pytest.mark.parametrize("work", native.FLOAT_WORKS)
def test_against_unicorn(benchmark: Any, answers: Answers, guest: Path, work: str) -> None:
    machine, peer = load(guest), UnicornGuest(guest)
    assert machine.call(work, ROUNDS) == peer.call(work, ROUNDS)
    instructions = count_instructions(machine, work, ROUNDS)

    ours, theirs = side_by_side(
        benchmark,
        lambda: timed(machine.call, work, ROUNDS),
        lambda: timed(peer.call, work, ROUNDS),
    )
    answers.add(
        benchmark,
        f"{KINDS[work]} against Unicorn",
        f"{instructions / ours / 1e6:.0f} MIPS",
        peer=f"{instructions / theirs / 1e6:.0f} MIPS Unicorn",
        ratio=theirs / ours,
    )
