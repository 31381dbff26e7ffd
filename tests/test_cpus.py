"""Several CPUs in one machine: starting and parking, schedules, shared code and memory, paging, interrupts, stops."""

from __future__ import annotations

import pytest

from pykprobes import Cpu, Machine, Seed, StopReason

from .kprobe_lab import CODE, DATA, SUB
from .smp_lab import finish, machine, provide


def word(value: int) -> str:
    return (value & 0xFFFFFFFF).to_bytes(4, "little").hex()


# The contract


def test_cpus_are_a_sequence() -> None:
    m = Machine(memory=1 << 20, cpus=3)
    assert len(m.cpus) == 3 and isinstance(m.cpus[2], Cpu) and [cpu.index for cpu in m.cpus[1:]] == [1, 2]
    assert [cpu.parked for cpu in m.cpus] == [False, True, True]
    assert m.cpu == 0
    m.regs.eax = 5
    m.cpus[1].regs.eax = 6
    m.cpus[1].regs.fs = 0x18
    m.cpus[2].fpu.control = 0x27F
    assert [cpu.regs.eax for cpu in m.cpus] == [5, 6, 0]
    assert [cpu.regs.segment("fs").limit for cpu in m.cpus] == [0, 0xFFFFFFFF, 0]
    assert [cpu.fpu.control for cpu in m.cpus] == [0x37F, 0x37F, 0x27F]
    with pytest.raises(IndexError):
        m.cpus[3]


def test_every_cpu_has_stacks_and_a_tss_of_its_own() -> None:
    m = Machine(memory=1 << 20, cpus=32)
    assert len({cpu.regs.esp for cpu in m.cpus}) == 32
    tss = [cpu.regs.segment("tr").base for cpu in m.cpus]
    assert len(set(tss)) == 32 and len({m.memory.u32(base + 4) for base in tss}) == 32
    assert [cpu.regs.tr for cpu in m.cpus] == [0x60 + 32 * i for i in range(32)]
    for cpu in m.cpus:
        m.memory.u32(cpu.regs.esp - 4)
        assert not m._core.is_mapped(cpu.regs.esp - m._core.layout.stack_stride + 4096 & ~4095)
    with pytest.raises(ValueError, match="overlaps"):
        m.map(m.cpus[31].regs.esp & ~0xFFFFF, 4096)


def test_start_is_a_call() -> None:
    m = Machine(memory=1 << 20, cpus=2)
    m.memory.write(CODE, bytes.fromhex("8b4424048b542408" "29d0" "c3"))  # eax = first - second
    m.cpus[0].park()
    m.cpus[1].start(CODE, 50, -8)
    assert finish(m).cpu == 1
    assert m.cpus[1].regs.eax == 58 and m.cpus[1].parked
    m.cpus[1].start(CODE, 1, 1)
    with pytest.raises(RuntimeError, match="CPU 1 is at work, at 0x10000"):
        m.cpus[1].start(CODE)
    finish(m)
    assert m.cpus[1].regs.eax == 0
    assert [cpu.icount for cpu in m.cpus] == [0, 8] and m.icount == 8


def test_one_cpu_can_be_started_and_parked_too() -> None:
    m = Machine(memory=1 << 20)
    m.memory.write(CODE, bytes.fromhex("40c3"))
    m.cpus[0].start(CODE)
    finish(m)
    assert (m.regs.eax, m.cpus[0].parked) == (1, True)
    assert m.run().reason is StopReason.PARKED
    m.regs.eip = CODE
    assert m.step().reason is StopReason.LIMIT
    assert m.regs.eax == 2


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"cpus": 33}),
        (ValueError, {"cpus": 0}),
        (TypeError, {"cpus": 1.5}),
        (ValueError, {"schedule": 0}),
        (ValueError, {"schedule": -1}),
        (ValueError, {"schedule": 1 << 63}),
        (TypeError, {"schedule": "fair"}),
        (TypeError, {"schedule": 1.0}),
        (TypeError, {"schedule": None}),
        (TypeError, {"schedule": Seed("x")}),  # type: ignore[arg-type]
        (ValueError, {"schedule": [(2, 1)]}),
        (ValueError, {"schedule": [(-1, 1)]}),
        (ValueError, {"schedule": [(0, 0)]}),
        (TypeError, {"schedule": [(0, 1, 2)]}),
        (TypeError, {"schedule": [3]}),
        (TypeError, {"schedule": [(0, "1")]}),
    ],
)
def test_bad_machines_and_schedules(error: type[Exception], options: dict[str, object]) -> None:
    with pytest.raises(error):
        Machine(**{"memory": 1 << 20, "cpus": 2, **options})  # type: ignore[arg-type]


def test_bad_arguments_of_a_cpu() -> None:
    m = Machine(memory=1 << 20, cpus=2)
    for call in (lambda: m.cpus[1].start(CODE, 1.5), lambda: m.cpus[1].start(CODE, "x")):
        with pytest.raises(TypeError):
            call()
    for bad in (lambda: m.cpus[1].start(-1), lambda: m.cpus[1].interrupt(256), lambda: m.run(schedule=[(5, 1)])):
        with pytest.raises(ValueError):
            bad()
    assert m.cpus[1].parked
    with pytest.raises(RuntimeError, match="bare"):
        Machine(memory=1 << 20, cpus=2, kernel=None).cpus[1].start(CODE)
    m.close()
    with pytest.raises(RuntimeError, match="closed"):
        m.cpus[1].icount  # noqa: B018


def test_a_bare_machines_cpu_starts_when_eip_is_set() -> None:
    m = Machine(memory=1 << 20, kernel=None, cpus=2)
    m.memory.write(0x500, bytes.fromhex("40f4"))  # inc ax; hlt
    for cpu in m.cpus:
        cpu.regs.cs, cpu.regs.eip = 0, 0x500
    assert m.run().reason is StopReason.HALT
    assert [cpu.regs.eax for cpu in m.cpus] == [1, 1] and [cpu.halted for cpu in m.cpus] == [True, True]


# Who executes when


def test_quantum() -> None:
    m = machine(code="ebfe", schedule=10)  # jmp to itself
    m.run(max_instructions=95)
    assert [cpu.icount for cpu in m.cpus] == [50, 45]
    m.run(max_instructions=5)
    assert [cpu.icount for cpu in m.cpus] == [50, 50]


def test_list() -> None:
    m = machine(code="ebfe", cpus=3)
    m.run(max_instructions=100, schedule=[(1, 20), (2, 30), (1, 5)])
    assert [cpu.icount for cpu in m.cpus] == [0, 70, 30]


def test_turns_of_a_cpu_that_cannot_go_on_pass() -> None:
    m = machine(code="f4", cpus=3)  # hlt
    m.cpus[2].park()
    m.cpus[2].regs.eip = CODE + 0x100
    m.memory.write(CODE + 0x100, b"\xeb\xfe")
    m.run(max_instructions=50, schedule=[(0, 20), (0, 30), (1, 5), (2, 10), (0, 9), (1, 9), (2, 1)])
    assert [cpu.icount for cpu in m.cpus] == [1, 1, 48]


def test_seeds_differ() -> None:
    runs = []
    for seed in range(8):
        m = machine(code="ebfe", schedule=Seed(seed))
        m.run(max_instructions=10_000)
        runs.append(m.cpus[0].icount)
    assert len(set(runs)) == 8


def test_calls_are_one_cpus_alone() -> None:
    m = machine(code="ebfe")
    m.memory.write(SUB, bytes.fromhex("b807000000c3"))
    m.run(max_instructions=1500)
    before = [cpu.icount for cpu in m.cpus]
    assert m.call(SUB) == 7
    assert [cpu.icount for cpu in m.cpus][1 - m.cpu] == before[1 - m.cpu]
    assert sum(cpu.icount for cpu in m.cpus) == sum(before) + 2


def test_until_is_any_cpus() -> None:
    m = machine(code="40" "40" "ebfe", schedule=1)
    m.cpus[1].regs.eip = CODE + 2
    stop = m.run(until=CODE + 1)
    assert (stop.reason, stop.cpu, stop.eip) == (StopReason.UNTIL, 0, CODE + 1)
    stop = m.run(until=CODE + 1, max_instructions=100)  # it stands there, and comes there no more
    assert stop.reason is StopReason.LIMIT


def test_a_trap_says_on_which_cpu() -> None:
    m = machine(code="0f0b")
    m.cpus[0].park()
    stop = m.run()
    assert (stop.reason, stop.vector, stop.cpu, m.cpu, m.regs.eip) == (StopReason.TRAP, 6, 1, 1, CODE)
    assert "on CPU 1" in str(stop)


def test_halted_cpus_wake() -> None:
    """CPU 1 halts; an interrupt that CPU 0's code asks for wakes it."""
    m = machine(code="c3")
    m.on_trap(0x40, lambda m, regs: woken.append(m.cpu) or True)
    provide(m, SUB, "wake", lambda machine: machine.cpus[1].interrupt(0x40))
    m.memory.write(CODE + 0x100, bytes.fromhex("f4c3"))
    woken: list[int] = []
    for cpu, place in zip(m.cpus, (SUB, CODE + 0x100), strict=True):
        cpu.park()
        cpu.start(place)
    finish(m, [(1, 100), (0, 100)])
    assert woken == [1]


def test_nobody_wakes_a_halted_cpu() -> None:
    m = machine(code="f4")
    m.cpus[0].park()
    stop = m.run()
    assert (stop.reason, stop.cpu) == (StopReason.HALT, 1)


def test_the_timer_is_cpu_0s_and_counts_all_instructions() -> None:
    m = machine(code="ebfe")
    ticks: list[tuple[int, int]] = []
    m.on_trap(0x20, lambda m, regs: ticks.append((m.cpu, m.icount)) or True)
    m.memory.write(CODE + 0x100, bytes.fromhex("f4ebfd"))  # hlt; jmp back
    m.cpus[0].regs.eip = CODE + 0x100
    m.timer(0x20, 5000)
    m.run(max_instructions=21_000, schedule=1000)
    assert [cpu for cpu, _ in ticks] == [0] * 4
    assert all(5000 * (i + 1) <= at < 5000 * (i + 1) + 1100 for i, (_, at) in enumerate(ticks))


def test_nmis_are_one_cpus() -> None:
    m = machine(code="ebfe", cpus=3, schedule=10)
    m.on_trap(2, lambda m, regs: seen.append(m.cpu) or True)
    seen: list[int] = []
    m.run(max_instructions=100)
    m.cpus[2].nmi()
    m.nmi()
    m.run(max_instructions=100)
    assert seen == [0, 2] or seen == [2, 0]


def test_watches_see_every_cpu() -> None:
    m = machine(code="a3" + word(DATA) + "c3", schedule=1)  # mov [DATA], eax
    seen = []
    m.watch(DATA, 4, "w", lambda watch, regs, access: seen.append((m.cpu, regs.eax, access.value)))
    m.watch(CODE, 1, "x", lambda watch, regs, access: seen.append((m.cpu, regs.eip, None)))
    m.cpus[1].regs.eax = 1
    finish(m)
    assert sorted(seen, key=str) == sorted([(0, CODE, None), (1, CODE, None), (0, 0, 0), (1, 1, 1)], key=str)
