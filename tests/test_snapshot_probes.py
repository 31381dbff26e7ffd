"""Snapshots with probes, watches and devices, and those that are taken in handlers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pykprobes import Count, Hist, Kprobe, Machine, PtRegs, Snapshot, StopReason

from .snapshot_lab import CODE, DATA, WRITER, make, steps

# Probes, watches, devices


def test_probes_come_and_go() -> None:
    m = make()
    first = m.kprobe(CODE, action=Count())
    both_then = Kprobe(CODE + 1, action=Count())
    m.register_kprobe(both_then)
    two = m.snapshot()
    steps(m, 8)
    assert (first.hits, both_then.hits) == (2, 2)
    m.unregister_kprobe(both_then)
    late = m.kprobe(CODE + 8, action=Count())
    one = m.snapshot()
    m.restore(two)
    assert m.kprobes == [first, both_then]
    assert not late.registered
    assert m.hash() == two.hash()
    steps(m, 8)
    assert (first.hits, both_then.hits, late.hits) == (4, 2, 0), "a probe that comes back counts anew"
    m.restore(one)
    assert set(m.kprobes) == {first, late}
    assert m.memory.read(CODE, 9) == b"\xcc" + WRITER[1:8] + b"\xcc"
    assert m.hash() == one.hash()


def test_probes_are_found_by_byte_as_well_as_by_address() -> None:
    m = make(b"\x90\x90\xf4")
    probe = m.kprobe(CODE, action=Count())
    nop = m.snapshot()
    m.unregister_kprobe(probe)
    m.memory.write(CODE, b"\x40")
    m.register_kprobe(probe)
    m.restore(nop)
    m.run()
    assert (m.regs.eax, probe.hits) == (0, 1)
    m.unregister_kprobe(probe)
    assert m.memory.read(CODE, 2) == b"\x90\x90"


def test_within_a_hit() -> None:
    """An NMI comes between the breakpoint's trap and the probed instruction, and its handler asks for a snapshot."""
    m = make(optimize=False)
    hits: list[int] = []
    post: list[int] = []
    made: list[Snapshot] = []

    def pre(p: Kprobe, regs: PtRegs) -> None:
        hits.append(regs.eax)
        if len(hits) == 3 and not made:
            m.nmi()

    m.kprobe(CODE + 1, pre_handler=pre, post_handler=lambda p, regs, flags: post.append(regs.eax))
    m.on_trap(2, lambda machine, regs: made.append(machine.snapshot()) or True)
    steps(m, 40)
    within = made[0]
    assert within._core.hits() == [CODE + 1]
    after = m.hash()
    assert (hits, post) == ([*range(1, 11)], [*range(1, 11)])
    hits.clear()
    post.clear()
    m.restore(within)
    steps(m, 40 - within.icount)
    assert m.hash() == after
    assert (hits, post) == ([*range(4, 11)], [*range(3, 11)])
    clone = within.machine()
    steps(clone, 40 - within.icount)
    assert clone.hash() == after
    with pytest.raises(ValueError, match="within the hit of a probe at 0x10001"):
        make(optimize=False).restore(within)


def test_after_an_oops_in_a_hit() -> None:
    """2.5.26 calls a pre_handler that is not there, and keeps its lock."""
    m = make(kprobes="2.5.26")
    free = m.snapshot()
    probe = Kprobe(CODE, post_handler=lambda p, regs, flags: None)
    m.register_kprobe(probe)
    armed = m.snapshot()
    assert m.run().vector == 14
    held = m.snapshot()
    state = m._core.kprobe_state()
    assert (state["cpu"], state["locked"]) == (0, 1)
    m.restore(armed)
    assert m._core.kprobe_state()["locked"] == 0
    assert m.run().vector == 14
    m.restore(free)
    assert (m.kprobes, m._core.kprobe_state()["locked"]) == ([], 0)
    steps(m, 5)
    m.restore(held)
    assert m.kprobes == [probe]
    assert m._core.kprobe_state() == state


def test_disarmed_for_good_stays_so() -> None:
    """The byte in memory decides, whatever is registered."""
    m = make(kprobes="2.5.26")
    inner = m.kprobe(CODE + 8, pre_handler=lambda p, regs: None)
    armed = m.snapshot()
    m.memory.write(CODE + 8, WRITER[8:9])
    disarmed = m.snapshot()
    for snapshot, byte in [(armed, b"\xcc"), (disarmed, WRITER[8:9]), (armed, b"\xcc")]:
        m.restore(snapshot)
        assert m.memory.read(CODE + 8, 1) == byte
        before = inner.hits
        steps(m, 40)
        assert (inner.hits > before) == (byte == b"\xcc")


def test_watches_and_devices_come_and_go() -> None:
    m = make()
    told: list[int] = []
    watch = m.watch(DATA, 0x100, "w", lambda watch, regs, access: told.append(access.value))
    port = m.on_port(range(0x80, 0x81), read=lambda port, size: 7)
    with_both = m.snapshot()
    m.unwatch(watch)
    port.remove()
    late = m.on_port(range(0x90, 0x91), read=lambda port, size: 9)
    without = m.snapshot()
    m.restore(with_both)
    with pytest.raises(ValueError, match="removed already"):
        late.remove()
    steps(m, 8)
    assert told == [1, 2]
    m.restore(without)
    steps(m, 8)
    assert told == [1, 2]
    m.restore(with_both)
    steps(m, 4)
    assert told == [1, 2, 1]
    port.remove()


def test_a_watched_execution_is_told_again() -> None:
    m = make()
    told: list[int] = []
    m.watch(CODE + 1, 1, "x", lambda watch, regs, access: told.append(regs.eax))
    start = m.snapshot()
    for _ in range(3):
        steps(m, 2)
        m.restore(start)
    assert told == [1, 1, 1]


def test_several_probes_at_an_address_and_disabled_ones() -> None:
    m = make()
    one = m.kprobe(CODE, action=Count())
    two = m.kprobe(CODE, pre_handler=lambda p, regs: None)
    three = m.kprobe(CODE + 1, action=Count())
    three.disable()
    before = m.snapshot()
    m.unregister_kprobe(one)
    three.enable()
    after = m.snapshot()
    m.unregister_kprobe(two)
    for snapshot, hits in [(before, (2, 0)), (after, (0, 2)), (before, (2, 0))]:
        m.restore(snapshot)
        assert m.hash() == snapshot.hash()
        seen = one.hits, three.hits
        steps(m, 8)
        assert (one.hits - seen[0] if one.registered else 0, three.hits - seen[1]) == hits
        clone = snapshot.machine()
        assert clone.hash() == snapshot.hash()
        assert sorted(p.enabled for p in clone.kprobes) == sorted(p.enabled for p in m.kprobes)


def test_return_probes() -> None:
    m = Machine(memory=1 << 20)
    m.load(b"\xe8\x01\0\0\0\xf4\x40\x40\xc3", at=CODE)  # call f; hlt; f: inc eax; inc eax; ret
    m.regs.eip = CODE
    without = m.snapshot()
    returned: list[int] = []
    probe = m.kretprobe(CODE + 6, handler=lambda ri, regs: returned.append(ri.retval))
    start = m.snapshot()
    m.run(max_instructions=2)
    assert probe.active == 1
    with pytest.raises(RuntimeError, match="follows calls"):
        m.snapshot()
    for _ in range(3):
        m.restore(start)
        assert probe.active == 0
        m.run()
    assert returned == [2, 2, 2]
    with pytest.raises(ValueError, match="other return probes"):
        m.restore(without)
    with start.machine() as clone:
        clone.run()
        assert clone.regs.eax == 2
    m.unregister_kretprobe(probe)
    m.restore(without)


def test_counters_are_not_rewound() -> None:
    m = make()
    hist = Hist("eax", "%ax:u32")
    probe = m.kprobe(CODE + 1, action=hist)
    start = m.snapshot()
    for n in (1, 2, 3):
        steps(m, 40)
        assert (probe.hits, hist.count) == (10 * n, 10 * n)
        m.restore(start)


# In handlers


def test_a_snapshot_in_a_handler() -> None:
    m = make()
    made: list[Snapshot] = []

    def pre(p: Kprobe, regs: object) -> None:
        if not made:
            made.append(m.snapshot())
            assert not made[0].taken
            assert "has returned" in repr(made[0])
            with pytest.raises(RuntimeError, match="has returned"):
                made[0].hash()

    probe = m.kprobe(CODE + 1, pre_handler=pre)
    steps(m, 41)
    end, hits = m.hash(), probe.hits
    assert hits == 10
    assert (made[0].eip, made[0].icount, made[0].taken) == (CODE + 1, 1, True)
    m.restore(made[0])
    steps(m, 40)
    assert m.hash() == end
    assert probe.hits == hits + 9, "the hit in which it was taken is over"


def test_a_restore_in_a_handler() -> None:
    m = make()
    start = m.snapshot()
    seen: list[int] = []

    def pre(p: Kprobe, regs: object) -> None:
        seen.append(m.icount)
        if len(seen) < 5:
            m.restore(start)

    m.kprobe(CODE + 8, pre_handler=pre)
    start = m.snapshot()
    stop = m.run(max_instructions=30)
    assert seen == [2, 2, 2, 2, 2, 6, 10, 14, 18, 22][: len(seen)]
    assert stop.icount == 30 - 4 * 2
    assert stop.reason is StopReason.LIMIT


def test_a_restore_from_watches_devices_and_traps() -> None:
    m = make(b"\xe6\x80\x40\xcd\x90\xa3" + DATA.to_bytes(4, "little") + b"\xeb\xf4")
    # L: out 0x80, al; inc eax; int 0x90; mov [DATA], eax; jmp L
    start = m.snapshot()
    budget = {"device": 3, "trap": 3, "watch": 3}

    def use(what: str) -> bool:
        if budget[what]:
            budget[what] -= 1
            m.restore(start)
        return True

    m.on_port(range(0x80, 0x81), write=lambda port, size, value: use("device"))
    m.on_trap(0x90, lambda machine, regs: use("trap"))
    m.watch(DATA, 4, "w", lambda watch, regs, access: use("watch"))
    start = m.snapshot()
    m.run(max_instructions=60)
    assert budget == {"device": 0, "trap": 0, "watch": 0}
    assert m.regs.eax == m.icount // 5 + (m.icount % 5 > 1)


def test_an_unserved_trap_ends_the_run_all_the_same() -> None:
    m = make(b"\xcd\x90\x40\xf4")
    made: list[Snapshot] = []
    m.on_trap(0x90, lambda machine, regs: made.append(machine.snapshot()))
    stop = m.run()
    assert (stop.reason, stop.vector, m.regs.eax) == (StopReason.TRAP, 0x90, 0)
    assert made[0].taken


def test_a_snapshot_and_an_exception_or_a_stop_together() -> None:
    m = make()
    made: list[Snapshot] = []
    how: list[Callable[[], object]] = [m.stop, lambda: 1 / 0]

    def pre(p: Kprobe, regs: object) -> None:
        made.append(m.snapshot())
        how[len(made) - 1]()

    m.kprobe(CODE + 1, pre_handler=pre)
    assert m.run().reason is StopReason.STOPPED
    with pytest.raises(ZeroDivisionError):
        m.run()
    assert [s.icount for s in made] == [1, 5]


def test_in_progress_functions() -> None:
    m = make()
    start = m.snapshot()
    made: list[Snapshot] = []

    def progress(icount: int) -> None:
        if len(made) < 2:
            made.append(m.snapshot())
            m.restore(start)

    m.run(max_instructions=3_000_000, progress=progress)
    assert [s.icount for s in made] == [1_000_000, 1_000_000]
    assert m.icount == 1_000_000


def test_not_in_calls_inside_handlers() -> None:
    m = make()
    m.load(b"\x90\xc3", at=0x30000)
    errors: list[Exception] = []

    def inner(p: Kprobe, regs: object) -> None:
        for use in (m.snapshot, m.clone, m.hash):
            try:
                use()
            except RuntimeError as error:
                errors.append(error)

    m.kprobe(0x30000, pre_handler=inner)
    m.kprobe(0x30001, post_handler=lambda p, regs, flags: None)
    m.watch(CODE + 1, 1, "x", lambda watch, regs, access: m.call(0x30000))
    steps(m, 2)
    assert len(errors) == 3
