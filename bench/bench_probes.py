"""What does one hit cost? Time of a loop that calls a probed function, less the same loop unprobed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Answers, side_by_side, timed
from peers.unicorn_peer import UnicornGuest
from unicorn import x86_const as x86

from pykprobes import Count, Hist, Kprobe, Machine, Record

CALLS = 100_000
MANY = 100_000
TRAP_PATH_NS = 100
FIELDS = ("%ax", "+4(%sp)", "+8(%sp)")


def load(guest: Path, optimize: bool = True) -> Machine:
    machine = Machine(optimize=optimize)
    machine.load(str(guest))
    return machine


def cost_of_hit(benchmark: Any, probed: Any, plain: Any, hooked: Any, unhooked: Any, calls: int) -> tuple[float, float]:
    """Nanoseconds a hit, ours and Unicorn's; each argument has call(name, n)."""
    with_probe, without, with_hook, no_hook = side_by_side(
        benchmark,
        *(lambda guest=guest: timed(guest.call, "call_loop", calls) for guest in (probed, plain, hooked, unhooked)),
        rounds=9,
    )
    return (with_probe - without) / calls * 1e9, (with_hook - no_hook) / calls * 1e9


def measure(
    benchmark: Any,
    guest: Path,
    add_probe: Callable[[Machine], Kprobe],
    hook: Callable[..., None],
    calls: int,
    optimize: bool = True,
) -> tuple[float, float]:
    """Nanoseconds a hit, ours and Unicorn's, with every call checked to have been a hit."""
    machine, peer = load(guest, optimize), UnicornGuest(guest)
    probe = add_probe(machine)
    assert probe.path == ("optimized" if optimize else "trap")
    peer.hook("probed", hook)
    assert machine.call("call_loop", calls) == peer.call("call_loop", calls)
    assert (probe.hits, probe.nmissed) == (calls, 0)
    return cost_of_hit(benchmark, machine, load(guest), peer, UnicornGuest(guest), calls)


def report(
    benchmark: Any, answers: Answers, question: str, cost: tuple[float, float], target: int, peer: str = "in Python"
) -> None:
    ours, theirs = cost
    answers.add(
        benchmark,
        question,
        f"{ours:.1f} ns" if ours < 20 else f"{ours:.0f} ns",
        peer=f"{theirs:.0f} ns Unicorn hook {peer}",
        ratio=theirs / ours,
        at_most=(ours, target, f"{target} ns"),
    )


def test_count_on_trap_path(benchmark: Any, answers: Answers, guest: Path) -> None:
    hits = 0

    def count(uc: Any, address: int, size: int, data: Any) -> None:
        nonlocal hits
        hits += 1

    cost = measure(benchmark, guest, lambda m: m.kprobe("probed", action=Count()), count, 10 * CALLS, optimize=False)
    report(benchmark, answers, "hit: Count on the trap path", cost, TRAP_PATH_NS)


ACTIONS = {
    "Count": (lambda: Count(), 3),
    "Hist by log2": (lambda: Hist("word", "+4(%sp)", bins="log2"), 6),
    "Record of three fields": (lambda: Record(*FIELDS, capacity=1 << 16), 12),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_optimised(benchmark: Any, answers: Answers, guest: Path, hook_library: Path, name: str) -> None:
    action, target = ACTIONS[name]
    calls = 50 * CALLS
    machine, peer = load(guest), UnicornGuest(guest)
    probe = machine.kprobe("probed", action=action())
    hits = peer.hook_in_c("probed", hook_library)
    before = hits()
    assert machine.call("call_loop", calls) == peer.call("call_loop", calls)
    assert (probe.path, probe.hits, probe.nmissed, hits() - before) == ("optimized", calls, 0, calls)
    cost = cost_of_hit(benchmark, machine, load(guest), peer, UnicornGuest(guest), calls)
    report(benchmark, answers, f"optimised hit: {name}", cost, target, "in C that counts")


def test_one_of_a_hundred_thousand(benchmark: Any, answers: Answers, guest: Path) -> None:
    """The probe that is hit is one of so many others."""
    machine, single = load(guest), load(guest)
    machine.load(b"\x40" * MANY, at=0x1000000)
    count = Count()
    others = [Kprobe(0x1000000 + i, action=count) for i in range(MANY)]
    attaching = timed(machine.register_kprobes, others)
    probes = [m.kprobe("probed", action=Count()) for m in (machine, single)]
    calls = 50 * CALLS
    many, one, none = side_by_side(
        benchmark, *(lambda m=m: timed(m.call, "call_loop", calls) for m in (machine, single, load(guest))), rounds=9
    )
    assert probes[0].hits == probes[1].hits and max(machine.occupancy()) > MANY // 100
    detaching = timed(machine.unregister_kprobes, others)
    cost = [(t - none) / calls * 1e9 for t in (many, one)]
    answers.add(
        benchmark,
        f"hit of one of {MANY:,} probes, whole loop",
        f"{cost[0]:.1f} ns",
        peer=f"{cost[1]:.1f} ns one probe",
        ratio=one / many,
        at_least=0.9,
    )
    answers.add(
        benchmark,
        f"attaching and detaching {MANY:,} probes",
        f"{attaching:.2f} s and {detaching:.2f} s",
        at_most=(max(attaching, detaching), 0.5, "0.5 s each"),
    )


def test_python_handler(benchmark: Any, answers: Answers, guest: Path) -> None:
    def pre_handler(probe: Kprobe, regs: Any) -> None:
        pass

    def hook(uc: Any, address: int, size: int, data: Any) -> None:
        pass

    cost = measure(benchmark, guest, lambda m: m.kprobe("probed", pre_handler=pre_handler), hook, CALLS)
    report(benchmark, answers, "hit: Python pre_handler, empty", cost, 250)


def test_python_handler_reading_registers(benchmark: Any, answers: Answers, guest: Path) -> None:
    def pre_handler(probe: Kprobe, regs: Any) -> None:
        regs.eax + regs.ecx

    def hook(uc: Any, address: int, size: int, data: Any) -> None:
        uc.reg_read(x86.UC_X86_REG_EAX) + uc.reg_read(x86.UC_X86_REG_ECX)

    cost = measure(benchmark, guest, lambda m: m.kprobe("probed", pre_handler=pre_handler), hook, CALLS)
    report(benchmark, answers, "hit: Python pre_handler, two registers read", cost, 350)


def test_two_threads(benchmark: Any, answers: Answers, guest: Path) -> None:
    """Two machines in two threads, by the clock on the wall: C actions need no lock of Python's."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two threads need two CPUs")
    calls = 100 * CALLS
    machines = [load(guest), load(guest)]
    for machine in machines:
        machine.kprobe("probed", action=Count())
        machine.call("call_loop", CALLS)

    def run(used: list[Machine]) -> float:
        threads = [threading.Thread(target=m.call, args=("call_loop", calls)) for m in used]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    both, one = side_by_side(benchmark, lambda: run(machines), lambda: run(machines[:1]), rounds=7)
    answers.add(
        benchmark,
        "two machines in two threads, Count",
        f"{2 * calls / both / 1e6:.0f} M hits/s",
        peer=f"{calls / one / 1e6:.0f} M hits/s one",
        ratio=2 * one / both,
        at_least=1.9,
    )
