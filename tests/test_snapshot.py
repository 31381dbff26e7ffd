"""Snapshots: going back exactly, in any order, with everything that a machine has."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from pykprobes import Count, Hist, Machine, Snapshot, StopReason

from .snapshot_lab import CODE, DATA, MODIFIER, WRITER, make, paged_machine, steps

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
