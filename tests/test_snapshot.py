"""Snapshots: going back exactly, in any order, with everything that a machine has."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pykprobes import Count, Hist, Kprobe, Machine, PtRegs, Snapshot, StopReason

CODE, DATA = 0x10000, 0x20000
# L: inc eax; mov [eax*4 + DATA], eax; and eax, 0xfff; jmp L
WRITER = b"\x40\x89\x04\x85" + DATA.to_bytes(4, "little") + b"\x25\xff\x0f\0\0\xeb\xf1"
# L: inc byte [L + 8]; mov eax, imm32 whose first byte is what inc changes; add ebx, eax; jmp L
MODIFIER = b"\xfe\x05" + (CODE + 7).to_bytes(4, "little") + b"\xb8\0\0\0\0\x01\xc3\xeb\xf1"


def make(code: bytes = WRITER, **options: object) -> Machine:
    machine = Machine(memory=1 << 20, **options)  # type: ignore[arg-type]
    machine.load(code, at=CODE)
    machine.regs.eip = CODE
    return machine


def steps(machine: Machine, n: int) -> None:
    assert machine.run(max_instructions=n).reason is StopReason.LIMIT


# Going back


def test_restore_is_exact_and_the_future_the_same() -> None:
    m = make()
    start = m.snapshot()
    first = start.hash()
    steps(m, 3001)
    then = m.hash()
    assert then != first
    for _ in range(3):
        m.restore(start)
        assert (m.icount, m.regs.eax, m.regs.eip) == (0, 0, CODE)
        assert m.hash() == first
        steps(m, 3001)
        assert m.hash() == then


@pytest.mark.parametrize("code", [WRITER, MODIFIER])
def test_any_order(code: bytes) -> None:
    m = make(code)
    taken = []
    for _ in range(12):
        taken.append((m.snapshot(), m.hash()))
        steps(m, 777)
    order = random.Random(5)
    for _ in range(100):
        i = order.randrange(len(taken))
        snapshot, digest = taken[i]
        m.restore(snapshot)
        assert m.hash() == digest == snapshot.hash()
        if i + 1 < len(taken):
            steps(m, 777)
            assert m.hash() == taken[i + 1][1]


def test_a_tree_of_pasts() -> None:
    m = make()
    root = m.snapshot()
    leaves = []
    for value in range(5):
        m.restore(root)
        m.regs.eax = value * 300
        steps(m, 40)
        branch = m.snapshot()
        for other in range(3):
            m.restore(branch)
            m.memory.write_u32(DATA + 0x8000 * other, value + 1)
            leaves.append((m.snapshot(), m.hash(), value, other))
    for snapshot, digest, value, other in reversed(leaves):
        m.restore(snapshot)
        assert m.hash() == digest
        assert m.memory.u32(DATA + 0x8000 * other) == value + 1
    assert len({digest for _, digest, _, _ in leaves}) == len(leaves)


def test_against_full_copies() -> None:
    """Random writes, runs, maps, unmaps and snapshots; what comes back is compared with copies of everything."""
    chance = random.Random(11)
    m = make(MODIFIER)
    areas = [(CODE, 0x1000), (DATA, 0x8000), (0x40000000, 0x3000)]
    mapped = False
    kept: list[tuple[Snapshot, bool, list[bytes], dict[str, int], int]] = []

    def copies() -> list[bytes]:
        return [m.memory.read(start, size) for start, size in areas[: 3 if mapped else 2]]

    for _ in range(600):
        action = chance.choice(["write", "write", "run", "map", "snapshot", "restore", "restore"])
        if action == "write":
            start, size = chance.choice(areas[1 : 3 if mapped else 2])
            m.memory.write(start + chance.randrange(size - 8), chance.randbytes(8))
        elif action == "run":
            steps(m, chance.randrange(1, 300))
        elif action == "map":
            if mapped:
                m.unmap(*areas[2])
            else:
                m.map(*areas[2])
            mapped = not mapped
        elif action == "snapshot" or not kept:
            kept.append((m.snapshot(), mapped, copies(), dict(m.regs), m.icount))
        else:
            snapshot, mapped, memory, regs, icount = chance.choice(kept)
            m.restore(snapshot)
            assert copies() == memory
            assert (dict(m.regs), m.icount) == (regs, icount)
            assert m.memory.is_mapped(areas[2][0]) == mapped
    assert len(kept) > 50


def test_what_was_mapped_since_is_gone_and_what_was_unmapped_is_back() -> None:
    m = make()
    m.map(0x40000000, 0x2000)
    m.memory.write(0x40000000, b"kept")
    before = m.snapshot()
    scratch = m.alloc(100)
    m.unmap(0x40000000, 0x2000)
    m.map(0x50000000, 0x1000)
    after = m.snapshot()
    m.restore(before)
    assert m.memory.read(0x40000000, 4) == b"kept"
    assert not m.memory.is_mapped(0x50000000)
    assert not m.memory.is_mapped(scratch)
    m.map(0x50000000, 0x1000)
    m.restore(after)
    assert not m.memory.is_mapped(0x40000000)
    assert m.memory.is_mapped(scratch)
    assert m.alloc(100) > scratch


def test_images_and_symbols_go_back() -> None:
    m = make()
    before = m.snapshot()
    m.load(b"\x90\xc3", at=0x30000, name="late")
    assert len(m.images) == 2
    m.restore(before)
    assert len(m.images) == 1
    m.load(b"\x90\xc3", at=0x30000, name="late")


def test_code_that_was_decoded_otherwise() -> None:
    m = make(b"\x40\xf4")  # inc eax; hlt
    plus = m.snapshot()
    assert m.run().reason is StopReason.HALT
    m.restore(plus)
    m.memory.write(CODE, b"\x48")  # dec eax
    minus = m.snapshot()
    for snapshot, value in [(plus, 1), (minus, 0xFFFFFFFF), (plus, 1), (minus, 0xFFFFFFFF)]:
        m.restore(snapshot)
        m.run()
        assert m.regs.eax == value


# The CPU and its board


def test_registers_of_all_kinds() -> None:
    m = make(b"\xd9\xe8\x9c\xfd\xf9" + b"\xf4")  # fld1; pushf; std; stc; hlt
    before = m.snapshot()
    m.step(4)
    m.regs.dr0, m.regs.dr7, m.regs.cr2 = 0x12345, 2, 0x777
    after = m.snapshot()
    assert after.cpu["fpu_full"] == 0x80
    assert after.cpu["eflags"] & 0x401 == 0x401
    m.restore(before)
    assert (m.regs.dr0, m.regs.dr7, m.regs.cr2, m.fpu.tag) == (0, 0x400, 0, 0xFFFF)
    m.restore(after)
    assert (m.regs.dr0, m.regs.dr7 & 2, m.regs.cr2) == (0x12345, 2, 0x777)
    assert m.fpu.st[0] == 1.0


def test_breakpoint_registers_work_after_a_restore() -> None:
    m = make(b"\x40\x40\x40\xf4")
    plain = m.snapshot()
    m.run()
    m.restore(plain)
    m.regs.dr0, m.regs.dr7 = CODE + 2, 2
    armed = m.snapshot()
    for snapshot, reason in [(armed, StopReason.TRAP), (plain, StopReason.HALT), (armed, StopReason.TRAP)]:
        m.restore(snapshot)
        stop = m.run()
        assert stop.reason is reason
        assert stop.vector == (1 if reason is StopReason.TRAP else None)


def test_pending_interrupts_and_the_timer() -> None:
    m = make(b"\xfa\xfb\x90\x90\xeb\xfc")  # cli; sti; nop; nop; jmp
    m.step()
    m.interrupt(0x40)
    m.interrupt(0x50)
    m.timer(0x60, 1000)
    both = m.snapshot()
    seen: list[int] = []
    for vector in (0x40, 0x50, 0x60):
        m.on_trap(vector, lambda machine, regs, vector=vector: seen.append(vector) or True)
    for _ in range(2):
        m.restore(both)
        seen.clear()
        steps(m, 1500)
        assert seen == [0x40, 0x50, 0x60]


def test_halted() -> None:
    m = make(b"\xf4\x40\xf4")
    m.run()
    halted = m.snapshot()
    m.interrupt(0x40)
    m.on_trap(0x40, lambda machine, regs: True)
    m.run()
    assert m.regs.eax == 1
    m.restore(halted)
    assert m.run().icount == halted.icount
    assert m.regs.eax == 0


def paged_machine() -> Machine:
    """A bare machine in flat protected mode with page tables at 0x4000 and 0x5000; linear 0x7000 is frame 7."""
    m = Machine(memory=1 << 20, kernel=None)
    m.memory.write(0x1000, bytes(8) + b"\xff\xff\0\0\0\x9b\xcf\0" + b"\xff\xff\0\0\0\x93\xcf\0")
    m.regs.gdtr_base, m.regs.gdtr_limit = 0x1000, 0x17
    m.memory.write_u32(0x4000, 0x5003)
    for page in range(256):
        m.memory.write_u32(0x5000 + 4 * page, page << 12 | 3)
    m.regs.cr0 |= 1
    m.regs.cs = 8
    for name in ("ds", "es", "ss"):
        setattr(m.regs, name, 0x10)
    m.regs.cr3 = 0x4000
    m.regs.cr0 |= 0x80000000
    return m


def test_accessed_and_dirty_bits_are_set_again() -> None:
    m = paged_machine()
    m.memory.write(0x2000, b"\xa1\0\x70\0\0\xa3\0\x70\0\0\xf4")  # mov eax, [0x7000]; mov [0x7000], eax; hlt
    m.regs.eip = 0x2000
    start = m.snapshot()
    hashes = set()
    for _ in range(3):
        m.run()
        assert m.memory.u32(0x501C) & 0x60 == 0x60
        hashes.add(m.hash())
        m.restore(start)
        assert m.memory.u32(0x501C) & 0x60 == 0
    assert len(hashes) == 1


def test_no_translation_survives_the_page_table_that_made_it() -> None:
    """The guest maps 0x7000 elsewhere without INVLPG: a run after a restore must not see what the last one cached."""
    m = paged_machine()
    m.memory.write(0x7000, b"old!")
    m.memory.write(0x8000, b"new!")
    # mov dword [0x501c], 0x8003; mov eax, [0x7000]; hlt
    m.memory.write(0x2000, b"\xc7\x05\x1c\x50\0\0\x03\x80\0\0\xa1\0\x70\0\0\xf4")
    m.regs.eip = 0x2000
    start = m.snapshot()
    for _ in range(3):
        m.run()
        assert m.regs.eax == int.from_bytes(b"new!", "little")
        m.restore(start)
        m.regs.eip = 0x200A
        m.run()
        assert m.regs.eax == int.from_bytes(b"old!", "little")
        m.restore(start)


def test_rom_and_paging_of_bare_machines() -> None:
    m = Machine(memory=1 << 20, kernel=None)
    m.load_rom(b"\xf4" * 4096)
    start = m.snapshot()
    assert m.run().reason is StopReason.HALT
    m.restore(start)
    assert m.hash() == start.hash()
    assert m.clone().run().reason is StopReason.HALT


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


# Clones


def test_a_clone_is_another_machine() -> None:
    m = make()
    steps(m, 100)
    clone = m.clone()
    assert clone.hash() == m.hash()
    before = m.hash()
    steps(clone, 1000)
    assert m.hash() == before
    steps(m, 1000)
    assert m.hash() == clone.hash()
    m.memory.write(DATA + 0x9000, b"mine")
    clone.memory.write(DATA + 0xA000, b"its")
    assert clone.memory.read(DATA + 0x9000, 4) == bytes(4)
    assert m.memory.read(DATA + 0xA000, 3) == bytes(3)


def test_a_clone_has_handlers_symbols_and_functions() -> None:
    m = Machine(memory=1 << 20)
    m.load(WRITER, at=CODE, name="writer")
    m.regs.eip = CODE
    seen: list[tuple[Machine | None, int]] = []
    hist = Hist("eax", "%ax:u32")
    probe = m.kprobe(CODE + 1, pre_handler=lambda p, regs: seen.append((p.machine, regs.eax)), action=[hist, Count()])
    m.on_trap(0x90, lambda machine, regs: seen.append((machine, 0x90)) or True)
    clone = m.clone()
    assert [p.address for p in clone.kprobes] == [CODE + 1]
    copy = clone.kprobes[0]
    steps(clone, 8)
    assert seen == [(clone, 1), (clone, 2)]
    assert (copy.hits, probe.hits, hist.count) == (2, 0, 0)
    assert copy.action[0].count == 2
    clone.unregister_kprobe(copy)
    clone.memory.write(CODE, b"\xcd\x90")
    clone.regs.eip = CODE
    clone.step()
    assert seen[2:] == [(clone, 0x90)]


def test_a_clone_of_a_machine_within_a_hit() -> None:
    m = make(optimize=False)
    m.kprobe(CODE, post_handler=lambda p, regs, flags: None)
    m.step(3)
    clone = m.clone()
    steps(m, 11)
    steps(clone, 11)
    assert m.hash() == clone.hash()


def test_snapshots_outlive_their_machine() -> None:
    m = make()
    steps(m, 100)
    snapshot = m.snapshot()
    digest = m.hash()
    m.close()
    assert snapshot.hash() == digest
    other = make()
    steps(other, 5000)
    other.restore(snapshot)
    assert other.hash() == digest
    with snapshot.machine() as again:
        assert again.hash() == digest
    for use in (m.snapshot, m.clone, m.hash, lambda: m.restore(snapshot)):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_another_machine_keeps_its_own_probes_where_the_snapshot_has_some() -> None:
    m, other = make(), make()
    m.kprobe(CODE, action=Count())
    m.kprobe(CODE + 1, action=Count())
    mine = other.kprobe(CODE, action=Count())
    extra = other.kprobe(CODE + 8, action=Count())
    other.restore(m.snapshot())
    assert other.kprobes == [mine]
    assert not extra.registered
    assert other.memory.read(CODE, 9) == b"\xcc" + WRITER[1:9]
    steps(other, 8)
    assert mine.hits == 2


def test_threads_share_a_snapshot() -> None:
    m = make(MODIFIER)
    start = m.snapshot()
    steps(m, 5000)
    expected = m.hash()
    found: list[str] = []

    def work() -> None:
        machine = start.machine()
        for _ in range(30):
            machine.restore(start)
            steps(machine, 5000)
            middle = machine.snapshot()
            machine.restore(middle)
        found.append(machine.hash())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    m.close()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


# Bad input


def test_another_setup() -> None:
    m = make()
    for other in (Machine(memory=2 << 20), Machine(memory=1 << 20, kernel=None), Machine(memory=1 << 20, kprobes=None)):
        with pytest.raises(ValueError, match="does not fit"):
            m.restore(other.snapshot())
    with pytest.raises(TypeError, match="needs a Snapshot"):
        m.restore(b"")  # type: ignore[arg-type]


def test_a_probe_that_is_in_use_elsewhere() -> None:
    m, other = make(), make()
    probe = m.kprobe(CODE, action=Count())
    start = m.snapshot()
    m.unregister_kprobe(probe)
    other.register_kprobe(probe)
    before = m.hash()
    with pytest.raises(ValueError, match="another machine"):
        m.restore(start)
    assert m.hash() == before
    other.unregister_kprobe(probe)
    m.restore(start)
    assert m.kprobes == [probe]


def test_words() -> None:
    m = make()
    assert repr(m.snapshot()) == "<Snapshot of 1,024 KiB at 0x10000, after 0 instructions>"
    steps(m, 4)
    snapshot = m.snapshot()
    assert (snapshot.icount, snapshot.cpu["gpr"][0]) == (4, 1)
    assert snapshot.page(DATA // 4096)[4:8] == b"\x01\0\0\0"
    assert DATA // 4096 in snapshot.frames
    assert not snapshot.frames.flags.writeable


def test_a_board_goes_back(tmp_path: Path) -> None:
    """The 8254 counts, port 61h turns its refresh bit, bytes wait in the serial port: all of it as it was."""
    m = Machine(memory=1 << 20, board="pc")
    # mov al, 0; out 0x43; in 0x40; in 0x40; in 0x61; mov dx, 0x3fd; in dx; test al, 1; jz; mov dx, 0x3f8; in dx; jmp
    code = b"\xb0\0\xe6\x43\xe4\x40\x88\xc3\xe4\x40\x88\xc7\xe4\x61\x88\xc1"
    code += b"\xba\xfd\x03\xec\xa8\x01\x74\x04\xba\xf8\x03\xec\xeb\xe2"
    m.memory.write(0x500, code)
    m.regs.cs, m.regs.eip = 0, 0x500
    m.console.write(b"typed before")
    steps(m, 50)
    start = m.snapshot()
    ends = []
    for _ in range(2):
        steps(m, 5000)
        ends.append((m.hash(), m.regs.ebx, m.regs.ecx))
        m.restore(start)
        assert m.hash() == start.hash()
    start.save(tmp_path / "board.npz")
    loaded = Snapshot.load(tmp_path / "board.npz")
    assert loaded.hash() == start.hash()
    for snapshot in (start, loaded):
        clone = snapshot.machine()
        steps(clone, 5000)
        ends.append((clone.hash(), clone.regs.ebx, clone.regs.ecx))
    assert len(set(ends)) == 1
    assert ends[0][0] != start.hash()


def test_sse_registers_go_back() -> None:
    m = Machine(memory=1 << 20, cpu="p4")
    m.load(b"\x66\x0f\xef\xc0\x66\x0f\x76\xc9\xf4", at=CODE)  # pxor xmm0, xmm0; pcmpeqd xmm1, xmm1; hlt
    m.regs.eip, m.regs.cr4, m.regs.cr0 = CODE, 0x600, m.regs.cr0 & ~8
    start = m.snapshot()
    m.run()
    end = m.snapshot()
    assert end.cpu["xmm"][16:32] == [255] * 16
    assert start.cpu["xmm"][16:32] == [0] * 16
    for snapshot in (start, end, start):
        m.restore(snapshot)
        assert m.snapshot().cpu["xmm"] == snapshot.cpu["xmm"]
