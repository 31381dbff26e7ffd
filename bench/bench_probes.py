"""What does one hit cost? Time of a loop that calls a probed function, less the same loop unprobed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Answers, side_by_side, timed
from peers.unicorn_peer import UnicornGuest
from unicorn import x86_const as x86

from pykprobes import Count, Kprobe, Machine

CALLS = 100_000
TRAP_PATH_NS = 200
PYTHON_NS = 600


def load(guest: Path) -> Machine:
    machine = Machine(optimize=False)
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
) -> tuple[float, float]:
    """Nanoseconds a hit, ours and Unicorn's, with every call checked to have been a hit."""
    machine, peer = load(guest), UnicornGuest(guest)
    probe = add_probe(machine)
    peer.hook("probed", hook)
    assert machine.call("call_loop", calls) == peer.call("call_loop", calls)
    assert (probe.hits, probe.nmissed) == (calls, 0)
    return cost_of_hit(benchmark, machine, load(guest), peer, UnicornGuest(guest), calls)


def report(benchmark: Any, answers: Answers, question: str, cost: tuple[float, float], target: int) -> None:
    ours, theirs = cost
    answers.add(
        benchmark,
        question,
        f"{ours:.0f} ns",
        peer=f"{theirs:.0f} ns Unicorn hook in Python",
        ratio=theirs / ours,
        at_most=(ours, target, f"{target} ns"),
    )


def test_count_on_trap_path(benchmark: Any, answers: Answers, guest: Path) -> None:
    hits = 0

    def count(uc: Any, address: int, size: int, data: Any) -> None:
        nonlocal hits
        hits += 1

    cost = measure(benchmark, guest, lambda m: m.kprobe("probed", action=Count()), count, 10 * CALLS)
    report(benchmark, answers, "hit: Count on the trap path", cost, TRAP_PATH_NS)


def test_python_handler(benchmark: Any, answers: Answers, guest: Path) -> None:
    def pre_handler(probe: Kprobe, regs: Any) -> None:
        pass

    def hook(uc: Any, address: int, size: int, data: Any) -> None:
        pass

    cost = measure(benchmark, guest, lambda m: m.kprobe("probed", pre_handler=pre_handler), hook, CALLS)
    report(benchmark, answers, "hit: Python pre_handler, empty", cost, PYTHON_NS)


def test_python_handler_reading_registers(benchmark: Any, answers: Answers, guest: Path) -> None:
    def pre_handler(probe: Kprobe, regs: Any) -> None:
        regs.eax + regs.ecx

    def hook(uc: Any, address: int, size: int, data: Any) -> None:
        uc.reg_read(x86.UC_X86_REG_EAX) + uc.reg_read(x86.UC_X86_REG_ECX)

    cost = measure(benchmark, guest, lambda m: m.kprobe("probed", pre_handler=pre_handler), hook, CALLS)
    ours, theirs = cost
    answers.add(
        benchmark,
        "hit: Python pre_handler, two registers read",
        f"{ours:.0f} ns",
        peer=f"{theirs:.0f} ns Unicorn hook in Python",
        ratio=theirs / ours,
    )
