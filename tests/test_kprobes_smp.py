"""docs/kprobes.md a.5 and a.9 where a second CPU takes part: "2.5.26" shows each defect, "fixed" does not.

A step is a retired instruction, a delivery, or an entry point. In 2.5.26 a hit of `inc eax` takes seven: int3,
spin_lock, do_int3, the instruction, its #DB (nothing comes between those), do_debug, spin_unlock. In fixed it takes
five, without spin_lock and spin_unlock.
"""

from __future__ import annotations

import errno

import pytest

from pykprobes import Kprobe, KprobeError, Machine, PtRegs, StopReason, explore

from .kprobe_lab import BREAKPOINT, CODE, DATA, FIXED, IF, SEED, SUB, Watch, entry, word
from .smp_lab import both, finish, machine, provide, removing

STEPPING = {SEED: 3, FIXED: 2}  # steps until the original instruction is about to be single-stepped
HANDLER = 0x12000


# a.5: the breakpoint is absent for all CPUs during the single step; a.9 item 4


@both
def test_a9_04_another_cpu_passes_the_probe_during_the_single_step(mode: str) -> None:
    m = machine(mode)
    w = Watch(m, CODE)
    finish(m, [(0, STEPPING[mode]), (1, 100)])
    assert [cpu.regs.eax for cpu in m.cpus] == [1, 1]
    if mode == SEED:
        assert (w.probe.hits, w.probe.nmissed, w.probe.misses["disarmed"]) == (1, 1, 1)
    else:
        assert (w.probe.hits, w.probe.nmissed) == (2, 0)
    assert w.armed


@both
def test_a5_the_byte_that_other_cpus_see_during_the_single_step(mode: str) -> None:
    m = machine(mode)
    w = Watch(m, CODE)
    m.run(schedule=[(0, STEPPING[mode])], max_instructions=1)
    seen = [event.byte for event in w.events]
    assert seen == ([BREAKPOINT, 0x40] if mode == SEED else [BREAKPOINT, BREAKPOINT])


@pytest.mark.parametrize(
    ("code", "registers"),
    [
        ("eb0190c3", {}),  # jmp over a byte; ret
        ("e801000000c358c3", {"eax": CODE + 5}),  # call; ret; pop eax; ret
        ("9c58c3", {}),  # pushf; pop eax; ret
        ("b901000000f3aac3", {"ecx": 0}),
        ("cd03c3", {}),
        ("668cd0668ed0c3", {}),  # mov ax, ss; mov ss, ax; ret
        ("b805000000c3", {"eax": 5}),
    ],
)
def test_a9_04_the_copy_that_fixed_steps_does_what_the_instruction_does(code: str, registers: dict[str, int]) -> None:
    """Whether the instruction is relative, pushes, repeats or comes with a shadow, as on one CPU."""
    results = []
    for cpus in (1, 2):
        m = machine(FIXED, code, cpus=cpus)
        m.on_trap(3, lambda m, regs: True)
        p = Kprobe(CODE, 0, lambda p, regs: None, lambda p, regs, flags: None)
        m.register_kprobe(p)
        for cpu in m.cpus:
            cpu.regs.edi = DATA
        finish(m)
        results.append((p.hits // cpus, p.misses, {**dict(m.cpus[0].regs), "esp": 0}))
        assert {name: getattr(m.cpus[0].regs, name) for name in registers} == registers
    assert results[0] == results[1]


@both
def test_a9_04_a_copy_across_a_page_end(mode: str) -> None:
    at = CODE + 0x1000 - 2
    m = machine(mode)
    m.memory.write(at, bytes.fromhex("b844332211c3"))  # mov eax, 0x11223344; ret
    p = m.kprobe(at, pre_handler=lambda p, regs: None)
    for cpu in m.cpus:
        cpu.park()
        cpu.start(at)
    finish(m, 1)
    assert [cpu.regs.eax for cpu in m.cpus] == [0x11223344] * 2
    assert p.hits == 2


def test_a9_04_no_schedule_of_fixed_misses_a_hit() -> None:
    def setup(mode: str) -> Machine:
        m = machine(mode)
        m.kprobe(CODE, post_handler=lambda p, regs, flags: None, pre_handler=lambda p, regs: None)
        return m

    def observe(m: Machine, stop: object) -> tuple[int, int]:
        return m.kprobes[0].hits, m.kprobes[0].nmissed

    assert [f.outcome for f in explore(lambda: setup(FIXED), 2, observe=observe)] == [(2, 0)]
    assert {f.outcome for f in explore(lambda: setup(SEED), 2, observe=observe)} == {(2, 0), (1, 1)}


# a.9 item 5: all hits are serialised


@both
def test_a9_05_a_second_cpu_spins_while_a_hit_runs(mode: str) -> None:
    m = machine(mode)
    m.memory.write(SUB, bytes.fromhex("42c3"))  # inc edx; ret
    other = m.kprobe(SUB, pre_handler=lambda p, regs: None)
    m.cpus[1].park()
    m.cpus[1].start(SUB)
    seen = []

    def post(p: Kprobe, regs: PtRegs, flags: int) -> None:
        second = m.cpus[1]
        seen.append((second.waits_for, second.icount, other.hits))
        if mode == SEED:  # it is at the entry point, with interrupts off
            assert (second.regs.eip, second.regs.eflags & IF) == (entry(m, 3), 0)
            assert repr(second).startswith("<Cpu 1, waiting for kprobe_lock, which CPU 0 holds")

    first = m.kprobe(CODE, pre_handler=lambda p, regs: None, post_handler=post)
    finish(m, [(0, STEPPING[mode]), (1, 100)])
    assert seen == ([(0, 0, 0)] if mode == SEED else [(None, 2, 1)])
    assert (first.hits, other.hits, m.cpus[1].regs.edx) == (1, 1, 1)
    assert (m.cpus[1].spins > 0) == (mode == SEED)


def test_a9_05_a_spinning_cpu_uses_up_its_turns() -> None:
    m = machine(SEED)
    Watch(m, CODE)
    m.run(schedule=[(0, 1), (1, 3), (0, 50), (0, 50), (0, 50), (1, 1)], max_instructions=1)
    assert [(cpu.spins, cpu.icount) for cpu in m.cpus] == [(3, 0), (0, 1)]
    finish(m)


# a.9 item 1, a.7: unregistered between the trap and the look-up


@both
def test_a9_01_a_probe_unregistered_after_the_trap_resumes_at_a_plus_1(mode: str) -> None:
    m = machine(mode, "83c005" + "c3")  # add eax, 5; ret
    p = m.kprobe(CODE, pre_handler=lambda p, regs: None)
    removing(m, p)
    m.cpus[1].park()
    m.cpus[1].start(SUB)
    stop = m.run(schedule=[(0, 1), (1, 100)], max_instructions=100)
    assert p.hits == 0 and not p.registered
    if mode == SEED:  # c0 05 c3 90 90 90 90: rol byte [0x909090c3], 0x90
        assert (stop.reason, stop.vector, stop.eip, stop.cpu) == (StopReason.TRAP, 14, CODE + 1, 0)
    else:
        assert stop.reason is StopReason.PARKED
        assert m.cpus[0].regs.eax == 5


@both
def test_a9_01_a_cpu_that_waits_for_the_lock_finds_no_probe(mode: str) -> None:
    """Three CPUs: 0 in the hit, 1 waits for the lock, 2 unregisters when 0 is through."""
    m = machine(mode, "83c005" + "c3", cpus=3)
    p = m.kprobe(CODE, pre_handler=lambda p, regs: None)
    removing(m, p)
    m.cpus[2].park()
    m.cpus[2].start(SUB)
    stop = m.run(schedule=[(0, 2), (1, 2), (2, 50), (0, 5), (2, 50)], max_instructions=100)
    if mode == SEED:
        assert m.cpus[2].spins and (stop.vector, stop.eip, stop.cpu) == (14, CODE + 1, 1)
        assert p.hits == 1
    else:
        assert stop.reason is StopReason.PARKED
        assert [cpu.regs.eax for cpu in m.cpus[:2]] == [5, 5]


@both
def test_a7_unregister_during_another_cpus_single_step(mode: str) -> None:
    """2.5.26 waits until the hit is over; in fixed the hit ends without the probe."""
    m = machine(mode)
    w = Watch(m, CODE)
    removing(m, w.probe)
    m.cpus[1].park()
    m.cpus[1].start(SUB)
    finish(m, [(0, STEPPING[mode]), (1, 100)])
    assert m.cpus[0].regs.eax == 1 and w.probe.hits == 1
    assert w.phases == (["pre", "post"] if mode == SEED else ["pre"])
    assert m.memory.u8(CODE) == 0x40 and not w.probe.registered
    assert (m.cpus[1].spins > 0) == (mode == SEED)


@both
def test_a7_register_from_outside_while_another_cpu_is_in_a_hit(mode: str) -> None:
    m = machine(mode)
    Watch(m, CODE)
    m.run(schedule=[(0, STEPPING[mode]), (1, 1)], max_instructions=1)
    while mode == SEED and m.cpus[1].waits_for is None and m._core.kprobe_state()["locked"] == 0:
        m.step()
    late = Kprobe(SUB, 0, lambda p, regs: None)
    if mode == SEED and m._core.kprobe_state()["locked"]:
        with pytest.raises(KprobeError) as raised:
            m.register_kprobe(late)
        assert raised.value.errno in (errno.EBUSY, errno.EDEADLK)
    else:
        m.register_kprobe(late)
        assert late.registered
    finish(m)


@both
def test_a7_register_from_a_handler_while_others_run(mode: str) -> None:
    m = machine(mode, "e8fb0f0000" + "40" + "c3")  # call SUB; inc eax; ret
    added = Kprobe(CODE + 5, 0, lambda p, regs: None)
    provide(m, SUB, "add", lambda machine: None if added.registered else machine.register_kprobe(added))
    finish(m, 1)
    assert (added.hits, [cpu.regs.eax for cpu in m.cpus]) == (2, [1, 1])


# a.9 item 7: an NMI between spin_lock and kprobe_cpu, or between those at the end


def with_nmi(mode: str, cpus: int = 2) -> tuple[Machine, Kprobe, Kprobe]:
    """CPU 0 calls probed code; CPU 1 sends it an NMI, whose handler is probed code. Hits have all steps."""
    m = machine(mode, cpus=cpus, optimize=False)
    first = m.kprobe(CODE, pre_handler=lambda p, regs: None)
    m.memory.write(HANDLER, bytes.fromhex("42" + "cf"))  # inc edx; iret
    at = m.regs.idtr_base + 16
    m.memory.write(at, (HANDLER & 0xFFFF).to_bytes(2, "little"))
    m.memory.write(at + 6, (HANDLER >> 16).to_bytes(2, "little"))
    second = m.kprobe(HANDLER, pre_handler=lambda p, regs: None)
    provide(m, SUB, "send", lambda machine: machine.cpus[0].nmi())
    m.cpus[1].park()
    m.cpus[1].start(SUB)
    return m, first, second


@both
@pytest.mark.parametrize("steps", range(1, 8))
def test_a9_07_an_nmi_at_each_step_of_a_hit(mode: str, steps: int) -> None:
    """The lock is held without kprobe_cpu behind spin_lock and before spin_unlock, steps 2 and 7 of 2.5.26."""
    m, first, second = with_nmi(mode)
    stop = m.run(schedule=[(0, steps), (1, 100)], max_instructions=1000)
    if mode == SEED and steps in (2, 6):
        assert stop.reason is StopReason.DEADLOCK
        assert (stop.waiting, m.cpus[0].regs.edx, second.hits) == (((0, 0),), 0, 0)
        assert str(stop) == "deadlock: CPU 0 waits for kprobe_lock, which CPU 0 holds; no other can go on"
        assert m.run(max_instructions=1000).reason is StopReason.DEADLOCK
    else:
        assert stop.reason is StopReason.PARKED
        assert (m.cpus[0].regs.eax, m.cpus[0].regs.edx) == (1, 1)
        assert first.hits == 1 and second.hits + second.misses["recursion"] == 1


@both
def test_a9_07_no_schedule_of_fixed_deadlocks(mode: str) -> None:
    found = explore(lambda: with_nmi(mode)[0], 2, observe=lambda m, stop: stop.reason)
    reasons = {finding.outcome for finding in found}
    assert reasons == ({StopReason.PARKED, StopReason.DEADLOCK} if mode == SEED else {StopReason.PARKED})


def test_a9_07_a_deadlocked_cpu_takes_those_that_wait_with_it() -> None:
    m, *_ = with_nmi(SEED, cpus=3)
    stop = m.run(schedule=[(0, 2), (1, 100), (0, 100), (2, 100)], max_instructions=1000)
    assert (stop.reason, stop.waiting) == (StopReason.DEADLOCK, ((0, 0), (2, 0)))


def test_a9_07_an_nmi_on_a_spinning_cpu_whose_handler_is_probed() -> None:
    """It spins in the NMI's handler as well, and both waits end when the lock is free."""
    m, first, second = with_nmi(SEED, cpus=3)
    waits = []
    m.unregister_kprobe(first)
    top = m.cpus[0].regs.esp

    def pre(p: Kprobe, regs: PtRegs) -> None:
        waits.append((m.cpu, m.cpus[0].waits_for, m.cpus[0].regs.eip, top - m.cpus[0].regs.esp))

    first = m.kprobe(CODE, pre_handler=pre)
    stop = m.run(schedule=[(2, 2), (0, 3), (1, 100), (0, 4)], max_instructions=1000)
    assert stop.reason is StopReason.PARKED
    # three frames of three words: the first int3, the NMI, the int3 in its handler
    assert waits[0] == (2, 2, entry(m, 3), 36)
    assert (first.hits, second.hits, m.cpus[0].regs.edx) == (2, 1, 1)


# a.9 item 16: cross-modifying code


@both
def test_a9_16_arming_is_seen_by_a_cpu_that_has_the_code_decoded(mode: str) -> None:
    m = machine(mode, "40" + "e2fd" + "c3")  # inc eax; loop; ret
    p = Kprobe(CODE, 0, lambda p, regs: None)
    provide(m, SUB, "add", lambda machine: machine.register_kprobe(p))
    m.cpus[0].regs.ecx = 1000
    m.cpus[1].park()
    m.cpus[1].start(SUB)
    finish(m, [(0, 1000), (1, 100)])
    assert (p.hits, m.cpus[0].regs.eax) == (500, 1000)


def test_a_handler_learns_the_cpu() -> None:
    m = machine(FIXED, cpus=4)
    seen = []

    def pre(p: Kprobe, regs: PtRegs) -> None:
        seen.append((m.cpu, m.regs.tr, m.cpus[m.cpu].icount))

    m.kprobe(CODE, pre_handler=pre)
    finish(m, 1)
    assert seen == [(cpu, 0x60 + 32 * cpu, 0) for cpu in range(4)]


def test_a_lock_held_by_a_cpu_that_is_parked() -> None:
    m = machine(SEED)
    Watch(m, CODE)
    provide(m, SUB, "park", lambda machine: machine.cpus[0].park())
    call, jmp = (word(to & 0xFFFFFFFF) for to in (SUB - HANDLER - 5, CODE - HANDLER - 10))
    m.memory.write(HANDLER, bytes.fromhex("e8" + call + "e9" + jmp))
    m.cpus[1].park()
    m.cpus[1].start(HANDLER)
    stop = m.run(schedule=[(0, 2), (1, 100)], max_instructions=1000)
    assert (stop.reason, stop.waiting) == (StopReason.DEADLOCK, ((1, 0),))
