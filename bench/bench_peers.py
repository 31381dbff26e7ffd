"""The peers among themselves: Unicorn, qemu-i386 and the real CPU on the guests that pykprobes runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from harness import Answers, side_by_side, timed
from peers import native
from peers.unicorn_peer import UnicornGuest

ROUNDS = {"mixed": 30, "core_work": 60}


@pytest.mark.parametrize("work", ROUNDS)
@pytest.mark.parametrize("peer", ["Unicorn as used", "Unicorn at its best", "qemu-i386"])
def test_peer(benchmark: Any, answers: Answers, guest: Path, work: str, peer: str) -> None:
    rounds = ROUNDS[work]
    if peer == "qemu-i386":
        emulator = shutil.which(peer)
        if not emulator:
            pytest.skip("there is no qemu-i386")
        result, _ = native.run(guest, work, rounds, emulator)
        run = lambda: native.run(guest, work, rounds, emulator)[1]  # noqa: E731
    else:
        unicorn = UnicornGuest(guest, best=peer.endswith("best"))
        result = unicorn.call(work, rounds)
        run = lambda: timed(unicorn.call, work, rounds)  # noqa: E731
    try:
        assert result == native.run(guest, work, rounds)[0]
    except native.CannotRun as error:
        pytest.skip(str(error))
    theirs, real = side_by_side(benchmark, run, lambda: native.run(guest, work, rounds)[1], rounds=3)
    answers.add(benchmark, f"{work}: {peer}", f"{theirs:.2f} s", peer=f"{real:.3f} s the real CPU", ratio=real / theirs)
