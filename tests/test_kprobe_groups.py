"""Several probes at one address, and probes that are disabled for a while."""

from __future__ import annotations

import errno
import random
import time
from typing import Any

import pytest

from pykprobes import Count, Kprobe, KprobeError, Machine, Record, StopReason, StopRun
from tests.kprobe_lab import BREAKPOINT, CODE, DATA, FIXED, SEED, free, machine, run_to


def hit(m: Machine, at: int = CODE, end: int = CODE + 1) -> None:
    m.regs.eip = at
    run_to(m, end)
    assert free(m)


def noted(m: Machine, events: list[Any], name: Any, at: int = CODE, **handlers: Any) -> Kprobe:
    """A probe that notes its name before and behind the instruction."""

    def pre(p: Kprobe, regs: Any) -> None:
        events.append(("pre", name))
        if "pre" in handlers:
            handlers["pre"](p, regs)

    def post(p: Kprobe, regs: Any, flags: int) -> None:
        events.append(("post", name))
        if "post" in handlers:
            handlers["post"](p, regs)

    return m.kprobe(at, pre_handler=pre, post_handler=post)


def pairs(*names: Any) -> list[tuple[str, Any]]:
    return [("pre", name) for name in names] + [("post", name) for name in names]


def test_they_run_in_the_order_of_registration() -> None:
    m, events, rec = machine(FIXED, "40"), [], Record()
    a, b = noted(m, events, "a"), noted(m, events, "b")
    counted = m.kprobe(CODE, action=[Count(), rec])
    c = noted(m, events, "c")
    hit(m)
    assert events == pairs("a", "b", "c")
    assert m.regs.eax == 1
    assert [p.hits for p in (a, b, counted, c)] == [1] * 4
    assert rec.drain()["probe"].tolist() == [counted.number]
    assert m.kprobes == [a, b, counted, c]
    assert sum(m.occupancy()) == 1
    assert m.memory.u8(CODE) == BREAKPOINT


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1)])
def test_any_of_them_can_go(order: tuple[int, ...]) -> None:
    m, events = machine(FIXED, "40"), []
    probes = [noted(m, events, i) for i in range(3)]
    left = [0, 1, 2]
    for gone in order:
        m.unregister_kprobe(probes[gone])
        left.remove(gone)
        events.clear()
        hit(m)
        assert events == pairs(*left)
        assert m.memory.u8(CODE) == (BREAKPOINT if left else 0x40)
        assert m.disasm(CODE, 1)[0].text == "inc eax"
    assert m.regs.eax == 3
    assert sum(m.occupancy()) == 0


def test_2_5_26_has_one() -> None:
    m = machine(SEED, "40")
    p = m.kprobe(CODE, action=Count())
    for use in (lambda: m.kprobe(CODE, action=Count()), p.disable, p.enable):
        with pytest.raises(KprobeError) as caught:
            use()
        assert caught.value.errno == (errno.ENOSYS if use in (p.disable, p.enable) else errno.EEXIST)
    assert p.enabled


def test_random_registration_against_a_list() -> None:
    m, events, random_ = machine(FIXED, "40"), [], random.Random(4)
    here: list[tuple[int, Kprobe]] = []
    for name in range(300):
        choice = random_.random()
        if choice < 0.5 or not here:
            here.append((name, noted(m, events, name)))
        elif choice < 0.8:
            m.unregister_kprobe(here.pop(random_.randrange(len(here)))[1])
        else:
            probe = random_.choice(here)[1]
            probe.disable() if probe.enabled else probe.enable()
        enabled = [name for name, probe in here if probe.enabled]
        assert m.memory.u8(CODE) == (BREAKPOINT if enabled else 0x40)
        events.clear()
        hit(m)
        assert events == pairs(*enabled)
    assert m.regs.eax == 300
    assert len(m.kprobes) == len(here)


# What handlers do to their own address

def test_a_handler_takes_itself_away() -> None:
    m, events = machine(FIXED, "40"), []
    noted(m, events, "a", pre=lambda p, regs: m.unregister_kprobe(p))
    noted(m, events, "b")
    hit(m)
    assert events == [("pre", "a"), ("pre", "b"), ("post", "b")]
    hit(m)
    assert events[3:] == pairs("b")
    assert m.memory.u8(CODE) == BREAKPOINT


@pytest.mark.parametrize("who", [0, 1, 2, 3])
@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_handler_takes_others_away(who: int, when: str) -> None:
    """Half of the probes go at the moment at which they fire."""
    m, events, probes = machine(FIXED, "40"), [], []
    gone = [1, 3]

    def take(p: Kprobe, regs: Any) -> None:
        for i in gone:
            if probes[i].registered:
                m.unregister_kprobe(probes[i])

    for i in range(4):
        probes.append(noted(m, events, i, **({when: take} if i == who else {})))
    hit(m)
    seen = [name for phase, name in events if phase == when]
    assert seen == [i for i in range(4) if i <= who or i not in gone]
    events.clear()
    hit(m)
    assert events == pairs(0, 2)
    assert [p.registered for p in probes] == [True, False, True, False]


@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_handler_takes_all_away_and_reuses_their_numbers(when: str) -> None:
    m, events = machine(FIXED, "40", "40"), []
    new: list[Kprobe] = []

    def swap(p: Kprobe, regs: Any) -> None:
        if not new:
            for q in m.kprobes:
                m.unregister_kprobe(q)
            new.extend(noted(m, events, f"new {i}", CODE + 1) for i in range(3))

    for i in range(3):
        noted(m, events, i, **{when: swap})
    hit(m, end=CODE + 1)
    assert [name for phase, name in events if phase == when] == [0]
    assert m.memory.u8(CODE) == 0x40
    events.clear()
    hit(m, CODE + 1, CODE + 2)
    assert events == pairs("new 0", "new 1", "new 2")
    assert m.regs.eax == 2


def test_a_handler_registers_another_which_waits_for_the_next_hit() -> None:
    m, events = machine(FIXED, "40"), []
    added: list[Kprobe] = []
    noted(m, events, "a", pre=lambda p, regs: added.append(noted(m, events, "b")) if not added else None)
    hit(m)
    assert events == [("pre", "a"), ("post", "a")]
    noted(m, events, "c")
    hit(m)
    assert events[2:] == pairs("a", "b", "c")


def test_the_first_lets_execution_go_on_elsewhere() -> None:
    m, events = machine(FIXED, "40", "90", "90"), []

    def jump(p: Kprobe, regs: Any) -> None:
        regs.eip = CODE + 2

    noted(m, events, "a", pre=jump)
    b = noted(m, events, "b")
    hit(m, end=CODE + 2)
    assert (events, m.regs.eax, b.hits) == ([("pre", "a")], 0, 0)


def test_raising_stops_the_run_and_the_others_run_all_the_same() -> None:
    m, events = machine(FIXED, "40"), []

    def fail(p: Kprobe, regs: Any) -> None:
        raise LookupError(len(events))

    noted(m, events, "a")
    noted(m, events, "b", pre=fail)
    noted(m, events, "c", pre=fail)
    noted(m, events, "d")
    m.regs.eip = CODE
    with pytest.raises(LookupError) as caught:
        m.run(until=CODE + 1)
    assert caught.value.args == (2,)
    assert any("LookupError(3)" in note for note in caught.value.__notes__)
    assert (events, m.regs.eip) == ([("pre", name) for name in "abcd"], CODE)
    assert free(m)
    run_to(m, CODE + 1)  # the same hit goes on
    assert events[4:] == [("post", name) for name in "abcd"]


def test_one_of_them_stops_the_run() -> None:
    m = machine(FIXED, "40")
    before, stop, behind = (m.kprobe(CODE, action=a) for a in (Count(), StopRun(), Count()))
    assert m.run().reason is StopReason.STOPPED
    assert [p.hits for p in (before, stop, behind)] == [1, 1, 1]
    run_to(m, CODE + 1)
    assert [p.hits for p in (before, stop, behind)] == [1, 1, 1]


def test_recursion_is_missed_by_all() -> None:
    m = machine(FIXED, "40 c3")
    a = m.kprobe(CODE, pre_handler=lambda p, regs: m.call(CODE))
    b = m.kprobe(CODE, action=Count())
    m.kprobe(CODE, action=Count()).disable()
    m.call(CODE)
    assert [(p.hits, p.misses["recursion"]) for p in (a, b, m.kprobes[2])] == [(1, 1), (1, 1), (0, 0)]


def test_a_fault_while_stepping_is_offered_to_each_until_one_claims() -> None:
    m, asked = machine(FIXED, "8b 00"), []  # mov eax, [eax]

    def handler(name: str, claim: bool) -> Any:
        def fault(p: Kprobe, regs: Any, trapnr: int) -> bool:
            asked.append((name, trapnr))
            if claim:
                regs.eax = DATA
            return claim

        return fault

    for name, claim in (("a", False), ("b", True), ("c", True)):
        m.kprobe(CODE, pre_handler=lambda p, regs: None, fault_handler=handler(name, claim))
    m.memory.write_u32(DATA, 77)
    m.regs.eax = 0x70000000
    run_to(m, CODE + 2)
    assert (asked, m.regs.eax) == ([("a", 14), ("b", 14)], 77)


def test_a_fault_that_nobody_claims_is_a_restart_for_all() -> None:
    m = machine(FIXED, "8b 00")
    probes = [m.kprobe(CODE, action=Count()) for _ in range(2)]
    m.regs.eax = 0x70000000
    assert m.run().reason is StopReason.TRAP
    assert [(p.hits, p.misses["fault_restart"]) for p in probes] == [(1, 1), (1, 1)]


# Disabling

def test_disabled_is_neither_hit_nor_missed() -> None:
    m = machine(FIXED, "40", "40")
    p = m.kprobe(CODE, action=Count())
    p.disable()
    assert (p.enabled, p.registered, p.path, m.memory.u8(CODE)) == (False, True, "none", 0x40)
    assert "disabled" in repr(p)
    hit(m)
    p.disable()
    p.enable()
    assert (p.enabled, m.memory.u8(CODE)) == (True, BREAKPOINT)
    hit(m)
    assert (p.hits, p.nmissed, m.regs.eax) == (1, 0, 2)
    p.disable()
    m.unregister_kprobe(p)
    assert m.memory.u8(CODE) == 0x40
    with pytest.raises(RuntimeError, match="registered"):
        p.enable()
    m.register_kprobe(p)
    assert p.enabled and p.hits == 0
    hit(m)
    assert p.hits == 1


@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_handler_disables_its_probe(when: str) -> None:
    m, events = machine(FIXED, "40"), []
    p = noted(m, events, "a", **{when: lambda p, regs: p.disable()})
    hit(m)
    assert events == ([("pre", "a")] if when == "pre" else pairs("a"))
    assert m.memory.u8(CODE) == 0x40
    hit(m)
    p.enable()
    hit(m)
    assert (m.regs.eax, p.hits) == (3, 2)


def test_a_handler_disables_and_enables_its_probe() -> None:
    m, events = machine(FIXED, "40"), []
    noted(m, events, "a", pre=lambda p, regs: (p.disable(), p.enable()))
    for _ in range(3):
        hit(m)
    assert (events, m.regs.eax, m.memory.u8(CODE)) == (pairs("a") * 3, 3, BREAKPOINT)


def test_batches_are_enabled_and_disabled_together() -> None:
    m = machine(FIXED, "40", "40", "40")
    probes = [m.kprobe(CODE + i, action=Count()) for i in range(3)]
    m.disable_kprobes(probes[:2])
    m.regs.eip = CODE
    run_to(m, CODE + 3)
    assert [p.hits for p in probes] == [0, 0, 1]
    m.enable_kprobes(probes)
    m.regs.eip = CODE
    run_to(m, CODE + 3)
    assert [p.hits for p in probes] == [1, 1, 2]
    m.unregister_kprobe(probes[2])
    with pytest.raises(ValueError, match="not registered"):
        m.disable_kprobes(probes)
    assert all(p.enabled for p in probes)


# Ten thousand

def test_ten_thousand_at_one_address() -> None:
    m = machine(FIXED, "40")
    n, total = 10_000, Count()
    start = time.process_time()
    probes = [Kprobe(CODE, action=total) for _ in range(n)]
    m.register_kprobes(probes)
    for _ in range(3):
        hit(m)
    assert total.count == 3 * n
    assert all(p.hits == 3 for p in probes)
    m.unregister_kprobes(probes[::2])
    hit(m)
    assert total.count == 3 * n + n // 2
    m.unregister_kprobes(probes[1::2])
    hit(m)
    assert total.count == 3 * n + n // 2
    assert (m.memory.u8(CODE), m.kprobes) == (0x40, [])
    assert time.process_time() - start < 20  # what is quadratic takes minutes



def test_half_of_many_probes_go_while_all_of_them_fire() -> None:
    n = 1000
    m = machine(FIXED)
    m.memory.fill(CODE, n, 0x40)
    probes: list[Kprobe] = []

    def take_half(p: Kprobe, regs: Any) -> None:
        if p is probes[n // 2]:
            m.unregister_kprobes(probes[::2])

    probes += [m.kprobe(CODE + i, pre_handler=take_half) for i in range(n)]
    run_to(m, CODE + n)
    assert [p.hits for p in probes] == [1 if i <= n // 2 or i % 2 else 0 for i in range(n)]
    assert m.regs.eax == n
    assert m.kprobes == probes[1::2]
    m.regs.eip = CODE
    run_to(m, CODE + n)
    assert [p.hits for p in probes[1::2]] == [2] * (n // 2)


def test_a_handler_that_is_slow_holds_nothing_up_but_its_run() -> None:
    m, rec = machine(FIXED, "40", "40", "40"), Record("%ax", capacity=2)
    m.kprobe(CODE, pre_handler=lambda p, regs: time.sleep(0.2))
    m.kprobe(CODE + 1, action=rec)
    m.kprobe(CODE + 2, action=rec)
    run_to(m, CODE + 3)
    assert (rec.count, rec.dropped, m.regs.eax) == (2, 0, 3)
