"""Snapshots of machines with several CPUs: who executes when comes back too."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykprobes import Kprobe, Machine, PtRegs, Seed, Snapshot, StopReason

from .kprobe_lab import CODE, SEED

WORD = 0x20000
# What is left in memory depends on every turn.
MIXER = (
    b"\xb8\x01\0\0\0"  # mov eax, 1
    + b"\x0f\xc1\x05" + WORD.to_bytes(4, "little")  # L: xadd [WORD], eax
    + b"\x69\xc0\x0d\x66\x19\0"  # imul eax, eax, 1664525
    + b"\x31\x05" + WORD.to_bytes(4, "little")  # xor [WORD], eax
    + b"\x40\xeb\xea"  # inc eax; jmp L
)  # fmt: skip
# A seed, turns of 13 steps, and a list that ends while the tests look.
SCHEDULES = [Seed(7), 13, [(0, 5), (1, 900), (0, 70), (1, 3), (0, 4000), (1, 5000)]]


def make(schedule: object, cpus: int = 2, code: bytes = MIXER, **options: object) -> Machine:
    m = Machine(memory=1 << 20, cpus=cpus, schedule=schedule, **options)
    m.memory.write(CODE, code)
    for cpu in m.cpus:
        cpu.start(CODE)
    return m


def state(m: Machine) -> tuple[object, ...]:
    spins = tuple((cpu.icount, cpu.spins, cpu.waits_for) for cpu in m.cpus)
    return m.cpu, m.hash(), spins


def trail(m: Machine, runs: int = 6, each: int = 61) -> list[object]:
    """The states at the ends of some runs, the schedule going on through all of them."""
    found = []
    for _ in range(runs):
        m.run(max_instructions=each)
        found.append(state(m))
    return found


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("before", [0, 1, 444, 1000])
def test_the_same_turns_again(schedule: object, before: int) -> None:
    m = make(schedule)
    if before:
        m.run(max_instructions=before)
    s = m.snapshot()
    first = trail(m)
    for _ in range(3):
        m.restore(s)
        assert trail(m) == first
    other = make(schedule)  # and as if no snapshot had ever been taken
    if before:
        other.run(max_instructions=before)
    assert trail(other) == first


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_copy_goes_on_as_the_machine(schedule: object) -> None:
    m = make(schedule, cpus=3) if not isinstance(schedule, list) else make(schedule)
    m.run(max_instructions=517)
    copies = [m.clone(), m.clone()]
    first = trail(m)
    assert [trail(copy) for copy in copies] == [first, first]


def test_going_back_brings_the_schedule() -> None:
    m = make(Seed(7))
    m.run(max_instructions=300)
    s = m.snapshot()
    first = trail(m)
    for other in (Seed(8), 50, [(1, 10)] * 100):
        m.restore(s)
        m.run(max_instructions=100, schedule=other)
        m.restore(s)
        assert trail(m) == first
    m.restore(s)
    second = []
    for _ in range(2):
        m.restore(s)
        m.run(max_instructions=200, schedule=Seed(8))
        second.append(state(m))
    assert second[0] == second[1] != first[2]


def test_a_shorter_and_a_longer_list() -> None:
    m = make([(0, 3), (1, 2)])
    short = m.snapshot()
    first = trail(m, each=7)
    m.restore(short)
    m.run(max_instructions=100, schedule=[(0, 4), (1, 9)] * 1000)
    long = m.snapshot()
    then = trail(m, each=7)
    m.restore(short)
    assert trail(m, each=7) == first
    m.restore(long)
    assert trail(m, each=7) == then


def test_files_leave_the_schedule_to_the_next_run(tmp_path: Path) -> None:
    m = make(Seed(7))
    m.run(max_instructions=300)
    m.snapshot().save(tmp_path / "s.npz")
    a, b, c = (Snapshot.load(tmp_path / "s.npz").machine() for _ in range(3))
    assert trail(a) == trail(b)
    a, b = (Snapshot.load(tmp_path / "s.npz").machine() for _ in range(2))
    a.run(max_instructions=500, schedule=Seed(3))
    b.run(max_instructions=500, schedule=Seed(3))
    assert state(a) == state(b)
    before = [cpu.icount for cpu in c.cpus]
    c.run(max_instructions=10)
    assert [cpu.icount for cpu in c.cpus] == [before[0] + 10, before[1]]


# While a CPU spins on kprobe_lock



def nothing(probe: Kprobe, regs: PtRegs) -> None:
    """Handlers make a hit take the lock; without one 2.5.26 calls address 0."""


LOOP = bytes.fromhex("40 41 42 eb fb")  # L: inc eax; inc ecx; inc edx; jmp L


@pytest.mark.parametrize("schedule", [Seed(1), Seed(2), 2, [(0, 2), (1, 9), (2, 50)] * 99], ids=lambda s: str(s)[:9])
def test_in_the_middle_of_spinning(schedule: object) -> None:
    """CPU 2 meets no probe: runs end in its turns while CPU 0 or 1 is in a hit and the other one waits."""
    m = make(schedule, code=LOOP, kprobes=SEED, cpus=3)
    m.register_kprobe(Kprobe(CODE + 1, pre_handler=nothing))
    m.memory.write(CODE + 0x100, LOOP)
    m.cpus[2].park()
    m.cpus[2].start(CODE + 0x100)
    spinning = 0
    for _ in range(6000):
        m.run(max_instructions=1)
        if spinning == 20 or not any(cpu.waits_for is not None for cpu in m.cpus):
            continue
        spinning += 1
        s, now = m.snapshot(), state(m)
        first = trail(m, runs=4, each=9)
        for _ in range(2):
            m.restore(s)
            assert state(m) == now
            assert trail(m, runs=4, each=9) == first
        m.restore(s)
    assert spinning > 3


def test_a_deadlock_again() -> None:
    """A CPU that is parked in its hit keeps the lock."""
    m = make([(0, 3), (1, 1)], code=LOOP, kprobes=SEED)
    m.register_kprobe(Kprobe(CODE + 1, pre_handler=nothing))
    m.run(max_instructions=2)
    m.cpus[0].park()
    s = m.snapshot()
    ends = []
    for _ in range(3):
        m.restore(s)
        stop = m.run(max_instructions=300)
        ends.append((stop.reason, stop.waiting, state(m)))
    assert ends[0] == ends[1] == ends[2]
    assert ends[0][:2] == (StopReason.DEADLOCK, ((1, 0),))


def test_hits_of_each_cpu_come_back() -> None:
    """In "fixed" a CPU has its own: also when the snapshot is taken while another one than the first executes."""
    m = make(1, code=LOOP, kprobes="fixed", cpus=3)
    probe = Kprobe(CODE + 1, pre_handler=nothing, post_handler=lambda probe, regs, flags: None)
    m.register_kprobe(probe)
    looked = set()
    for _ in range(30):
        m.run(max_instructions=1)
        looked.add(m.cpu)
        s = m.snapshot()
        first = trail(m, runs=4, each=9)
        m.restore(s)
        assert trail(m, runs=4, each=9) == first
        m.restore(s)
    assert looked == {0, 1, 2}
