"""Several CPUs and an IDT of the guest's own: probes see vectors 1 and 3 first, on whichever CPU."""

from __future__ import annotations

from pykprobes import Kprobe, Machine, StopReason

from .kprobe_lab import CODE, FIXED, KERNEL_CS, SEED, SUB
from .smp_lab import both, finish, machine, removing

IDT, HANDLER = 0x30000, 0x38000
# Nothing is pushed, so that a hit has fewer steps: int3 with do_int3 is one, the instruction with do_debug the other.
HIT = 1


def guest(mode: str, code: str, cpus: int = 2) -> Machine:
    """CPUs with an IDT in RAM; its handlers stop with an invalid opcode."""
    m = machine(mode, code, cpus)
    m.memory.write(HANDLER, b"\x0f\x0b")
    for vector in range(32):
        m.memory.write_u32(IDT + 8 * vector, KERNEL_CS << 16 | HANDLER & 0xFFFF)
        m.memory.write_u32(IDT + 8 * vector + 4, HANDLER & 0xFFFF0000 | 0x8E00)
    for cpu in m.cpus:
        cpu.regs.idtr_base, cpu.regs.idtr_limit = IDT, 8 * 32 - 1
    return m


@both
def test_the_disarmed_window(mode: str) -> None:
    m = guest(mode, "4041c3")
    p = m.kprobe(CODE, pre_handler=lambda p, regs: None)
    finish(m, [(0, HIT), (1, 100)])
    assert (p.hits, p.misses["disarmed"]) == ((1, 1) if mode == SEED else (2, 0))


@both
def test_a_second_cpu_waits(mode: str) -> None:
    m = guest(mode, "4041c3")
    m.memory.write(SUB, bytes.fromhex("42c3"))
    seen = []
    other = m.kprobe(SUB, pre_handler=lambda p, regs: None)
    m.kprobe(
        CODE,
        pre_handler=lambda p, regs: None,
        post_handler=lambda p, regs, flags: seen.append((m.cpus[1].waits_for, m.cpus[1].icount)),
    )
    m.cpus[1].park()
    m.cpus[1].start(SUB)
    finish(m, [(0, HIT), (1, 100)])
    assert seen == [(0, 0) if mode == SEED else (None, 2)]
    assert (other.hits, m.cpus[1].regs.edx, m.cpus[1].spins > 0) == (1, 1, mode == SEED)


@both
def test_a_probe_unregistered_while_a_cpu_waits(mode: str) -> None:
    m = guest(mode, "83c005c3", cpus=3)
    m.memory.write(SUB + 0x100, bytes.fromhex("42c3"))
    held = m.kprobe(SUB + 0x100, pre_handler=lambda p, regs: None)
    p = m.kprobe(CODE, pre_handler=lambda p, regs: None)
    removing(m, p)
    for cpu, place in ((1, SUB), (2, SUB + 0x100)):
        m.cpus[cpu].park()
        m.cpus[cpu].start(place)
    # 2 is in a hit, 0 waits for it; 2 is through, then 1 unregisters before 0 has the lock
    stop = m.run(schedule=[(2, HIT), (0, 1), (2, 2), (1, 100)], max_instructions=1000)
    assert held.hits == 1 and not p.registered
    if mode == SEED:  # on at CODE + 1; the page fault's handler is an invalid opcode, and that one's is, too
        assert p.hits == 0 and stop.cpu == 0 and stop.reason is not StopReason.PARKED
    else:
        assert (stop.reason, m.cpus[0].regs.eax) == (StopReason.PARKED, 5)


def test_the_copy_is_the_stepping_cpus() -> None:
    """While CPU 0 steps the copy, CPU 1 comes to the breakpoint that is still there, and its hit nests in nothing."""
    m = guest(FIXED, "4041c3")
    hits: list[int] = []
    p = Kprobe(CODE, 0, lambda p, regs: hits.append(m.cpu), lambda p, regs, flags: hits.append(m.cpu + 10))
    m.register_kprobe(p)
    finish(m, [(0, HIT), (1, HIT), (0, 2), (1, 2)])
    assert hits == [0, 1, 10, 11] and p.nmissed == 0
