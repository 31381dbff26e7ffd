"""Machines with several CPUs and small programs for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pykprobes import Kprobe, Machine, Stop, StopReason

from .kprobe_lab import CODE, FIXED, NOP, SEED, SUB

both = pytest.mark.parametrize("mode", [SEED, FIXED])
PROBED = "40" + "41" + "c3"  # inc eax; inc ecx; ret


def machine(mode: str | None = FIXED, code: str = PROBED, cpus: int = 2, **options: object) -> Machine:
    """A machine whose CPUs all call the same code."""
    m = Machine(memory=1 << 20, cpus=cpus, kprobes=mode, **options)
    m.memory.fill(CODE, 0x2000, NOP)
    m.memory.write(CODE, bytes.fromhex(code))
    for cpu in m.cpus:
        cpu.start(CODE)
    return m


def finish(m: Machine, schedule: object = None, limit: int = 100_000) -> Stop:
    """Run until all CPUs have returned."""
    stop = m.run(schedule=schedule, max_instructions=limit)
    assert stop.reason is StopReason.PARKED, stop
    return stop


def provide(m: Machine, at: int, name: str, function: Callable[[Machine], object]) -> None:
    """A guest function at `at` that Python serves."""
    m.bind(name, function, 0)
    m.memory.write(at, b"\xe9" + (m.imports.stub(name) - at - 5 & 0xFFFFFFFF).to_bytes(4, "little"))  # jmp


def removing(m: Machine, probe: Kprobe, at: int = SUB) -> None:
    """A function at `at` that unregisters a probe as the kernel's code would: it waits for the lock."""
    provide(m, at, "remove", lambda machine: machine.unregister_kprobe(probe))


def state(m: Machine) -> tuple[tuple[int, ...], ...]:
    """The registers of all CPUs."""
    return tuple(tuple(value for _, value in cpu.regs) for cpu in m.cpus)
