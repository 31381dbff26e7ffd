"""Several CPUs that share memory and code, with page tables of their own; runs that repeat whatever their slices."""

from __future__ import annotations

import random

import pytest

from pykprobes import Machine, MachineFault, Seed, StopReason

from .guest_code import descriptor
from .kprobe_lab import CODE, DATA, FIXED, SEED, SUB, entry
from .smp_lab import finish, machine, state

SCHEDULES = [1, 2, 7, 100, 1000, Seed(0), Seed(1), [(0, 3), (1, 5), (0, 1)], []]


def word(value: int) -> str:
    return (value & 0xFFFFFFFF).to_bytes(4, "little").hex()


# Shared memory and code


LOCKED = "b9e8030000" + "f0ff05" + word(DATA) + "e2f7" + "c3"  # ecx = 1000; lock inc [DATA]; loop
# ecx = 1000; take: xchg [DATA + 4], eax = 1 until it was 0; inc [DATA]; mov [DATA + 4], 0; loop
SPIN = (
    "b9e8030000" + "b801000000" + "8705" + word(DATA + 4) + "85c0" + "75f1" + "8b15" + word(DATA) + "42"
    "8915" + word(DATA) + "c705" + word(DATA + 4) + "00000000" + "e2d8" + "c3"
)
PLAIN = "b9e8030000" + "8b15" + word(DATA) + "42" + "8915" + word(DATA) + "e2f1" + "c3"


@pytest.mark.parametrize("schedule", [1, 3, 10, 1000, Seed(5)])
@pytest.mark.parametrize("code", [LOCKED, SPIN])
def test_atomic_instructions(code: str, schedule: object) -> None:
    m = machine(code=code, cpus=4)
    finish(m, schedule, 2_000_000)
    assert m.memory.u32(DATA) == 4000


def test_plain_ones_lose_updates() -> None:
    m = machine(code=PLAIN)
    finish(m, 1)
    assert m.memory.u32(DATA) < 2000


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_code_that_another_cpu_changes(schedule: object) -> None:
    """CPU 1 writes into the block that CPU 0 executes; CPU 0 sees it from its next instruction on."""
    results = []
    for slices in (1, 5, 1_000_000):
        m = machine(code="b900010000" + "83c001" + "4090909090" + "e2f6" + "c3")  # ecx = 256: add eax, 1; ...; loop
        m.cpus[1].regs.eip = CODE + 0x100
        # ecx = 60: inc byte [CODE + 7] (the add's immediate); loop
        m.memory.write(CODE + 0x100, bytes.fromhex("b93c000000" + "fe05" + word(CODE + 7) + "e2f8" + "c3"))
        m.run(schedule=schedule, max_instructions=0)
        while m.run(max_instructions=slices).reason is StopReason.LIMIT:
            pass
        results.append((state(m), m.icount))
        assert m.memory.u8(CODE + 7) == 61
    assert results[0] == results[1] == results[2]


def test_code_changed_between_two_of_its_instructions_exactly() -> None:
    m = machine(code="40" * 20 + "c3")  # inc eax
    m.memory.write(CODE + 0x100, bytes.fromhex("c605" + word(CODE + 10) + "43" + "c3"))  # mov byte [CODE + 10], inc ebx
    m.cpus[1].regs.eip = CODE + 0x100
    finish(m, [(0, 10), (1, 1)])
    assert (m.cpus[0].regs.eax, m.cpus[0].regs.ebx) == (19, 1)
    m = machine(code="40" * 20 + "c3")
    m.memory.write(CODE + 0x100, bytes.fromhex("c605" + word(CODE + 10) + "43" + "c3"))
    m.cpus[1].regs.eip = CODE + 0x100
    finish(m, [(0, 11), (1, 1)])
    assert (m.cpus[0].regs.eax, m.cpus[0].regs.ebx) == (20, 0)


TABLES = 0x80000  # of the bare CPUs, 0x2000 bytes for each


def paged(m: Machine, code: int) -> None:
    """Bare CPUs in protected mode, each with a directory and a table of its own that map 1 MiB one to one."""
    m.memory.write(0x70000, descriptor(0, 0, 0, 0) + descriptor(0, 0xFFFFF, 0x9A) + descriptor(0, 0xFFFFF, 0x92))
    for cpu in m.cpus:
        directory = TABLES + 0x2000 * cpu.index
        for page in range(256):
            m.memory.write_u32(directory + 0x1000 + 4 * page, page << 12 | 3)
        m.memory.write_u32(directory, directory + 0x1000 | 3)
    for cpu in m.cpus:
        cpu.regs.gdtr_base, cpu.regs.gdtr_limit = 0x70000, 23
        cpu.regs.cr0 = 0x11
        cpu.regs.cs, cpu.regs.ds = 8, 16
        cpu.regs.cr3 = TABLES + 0x2000 * cpu.index
        cpu.regs.cr0 = 0x80000011
        cpu.regs.eip = code


def map_page(m: Machine, cpu: int, page: int, to: int) -> None:
    m.memory.write_u32(TABLES + 0x2000 * cpu + 0x1000 + 4 * (page >> 12), to | 3)


def test_invlpg_is_one_cpus() -> None:
    """Both CPUs have a translation cached; the page moves; only the one that does INVLPG sees the new page."""
    m = Machine(memory=1 << 20, cpus=2, kernel=None)
    load = "a1" + word(0x20000)  # mov eax, [page]
    m.memory.write(CODE, bytes.fromhex(load + "8bd8" + load + "f4"))
    m.memory.write(CODE + 0x100, bytes.fromhex(load + "8bd8" + "0f013d" + word(0x20000) + load + "f4"))
    m.memory.write_u32(0x20000, 1)
    m.memory.write_u32(0x30000, 2)
    paged(m, CODE)
    m.cpus[1].regs.eip = CODE + 0x100
    m.run(max_instructions=4, schedule=[(0, 2), (1, 2)])
    for cpu in m.cpus:
        map_page(m, cpu.index, 0x20000, 0x30000)
    assert m.run().reason is StopReason.HALT
    assert [(cpu.regs.ebx, cpu.regs.eax) for cpu in m.cpus] == [(1, 1), (1, 2)]


def test_page_directories_are_one_cpus() -> None:
    """The same address, different memory, and what one CPU caches is not the other's."""
    m = Machine(memory=1 << 20, cpus=2, kernel=None)
    m.memory.write(CODE, bytes.fromhex("8b15" + word(0x20000) + "42" + "8915" + word(0x20000) + "ebf1"))
    paged(m, CODE)
    for cpu in m.cpus:
        map_page(m, cpu.index, 0x20000, 0x30000 + 0x1000 * cpu.index)
    m.run(max_instructions=8000, schedule=[(0, 400), (1, 4000), (0, 3600)])
    for cpu in m.cpus:
        cpu.regs.cr0 = 0x11
    assert [m.memory.u32(0x30000), m.memory.u32(0x31000), m.memory.u32(0x20000)] == [1000, 1000, 0]


# Determinism


def random_program(seed: int) -> bytes:
    """A loop of random arithmetic on registers and a shared page, with stores to it, locked or not, and to code."""
    r = random.Random(seed)
    parts = []
    for _ in range(r.randrange(10, 40)):
        reg, slot = r.choice((0, 2, 3, 6, 7)), DATA + 4 * r.randrange(8)
        parts.append(
            r.choice(
                [
                    bytes([0x40 + reg]),
                    bytes([0x03, 0x05 | reg << 3]) + slot.to_bytes(4, "little"),
                    bytes([0x01, 0x05 | reg << 3]) + slot.to_bytes(4, "little"),
                    bytes([0xF0, 0x01, 0x05 | reg << 3]) + slot.to_bytes(4, "little"),
                    bytes([0x87, 0x05 | reg << 3]) + slot.to_bytes(4, "little"),
                    bytes([0x50 + reg, 0x58 + r.choice((0, 2, 3))]),
                    b"\xfe\x05" + (CODE + 1).to_bytes(4, "little"),
                    bytes([0xC1, 0xC0 | reg, r.randrange(32)]),
                    b"\xcd\x40",
                ]
            )
        )
    body = b"\xb0\x00" + b"".join(parts)
    loop = b"\x49\x0f\x85" + (-(len(body) + 7) & 0xFFFFFFFF).to_bytes(4, "little")
    return body + loop + b"\xc3"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("mode", [SEED, FIXED, None])
def test_runs_repeat_whatever_their_slices(seed: int, mode: str | None) -> None:
    program = random_program(seed)
    results = []
    for slices in (1_000_000, 1_000_000, 1, 3, 70, 1003):
        m = machine(mode, program.hex(), cpus=1 + seed % 3 + 1, schedule=Seed(seed) if seed % 2 else 1 + 37 * seed)
        m.on_trap(0x40, lambda m, regs: True)
        if mode:
            probes = [m.kprobe(at, pre_handler=lambda p, regs: None) for at in (CODE + 2, CODE)]
        for cpu in m.cpus:
            cpu.regs.ecx = 20
        left = 20_000
        while left > 0:
            before = m.icount
            stop = m.run(max_instructions=min(slices, left))
            left -= m.icount - before
            if stop.reason is not StopReason.LIMIT:
                break
        told = [(p.hits, p.misses) for p in probes] if mode else []
        memory = m.memory.read(CODE, 0x200), m.memory.read(DATA, 64)
        results.append((stop.reason, stop.cpu, state(m), m.icount, told, memory))
    assert all(result == results[0] for result in results[1:])


def test_a_call_inside_a_handler_runs_on_its_cpu() -> None:
    m = machine(code="4041c3")
    m.memory.write(SUB, bytes.fromhex("0f00c80fb7c0c3"))  # str eax; movzx; ret
    got = []
    m.kprobe(CODE, pre_handler=lambda p, regs: got.append((m.cpu, m.call(SUB))))
    finish(m, 1)
    assert got == [(0, 0x60), (1, 0x80)]


def test_a_call_that_waits_for_a_lock_of_a_cpu_that_stands_still() -> None:
    m = machine(SEED, "40" "41" "c3")
    m.memory.write(SUB, bytes.fromhex("42c3"))
    m.kprobe(SUB, pre_handler=lambda p, regs: None)

    def pre(p: object, regs: object) -> None:
        if not faults:
            faults.append(None)

    faults: list[MachineFault | None] = []
    m.kprobe(CODE, pre_handler=pre)
    m.bind("ask", lambda machine: ask(), 0)

    def ask() -> None:
        with pytest.raises(MachineFault) as raised:
            m.call(SUB)
        faults.append(raised.value)

    at = CODE + 0x100
    m.memory.write(at, b"\xe9" + (m.imports.stub("ask") - at - 5 & 0xFFFFFFFF).to_bytes(4, "little"))
    m.cpus[1].park()
    m.cpus[1].start(at)
    finish(m, [(0, 3), (1, 100)])
    assert faults[1] is not None and faults[1].stop.reason is StopReason.DEADLOCK
    assert faults[1].stop.waiting == ((1, 0),)
    assert entry(m, 3) == faults[1].regs["eip"]
