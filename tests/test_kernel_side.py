"""The built-in kernel side: frames on the guest's stack, entries, mapping, what it refuses."""

from __future__ import annotations

import struct

import pytest

from pykprobes import Machine, PtRegs, StopReason

from .kprobe_lab import (
    CODE,
    DATA,
    HOLE,
    IF,
    KERNEL_CS,
    SUB,
    TF,
    USER_CS,
    USER_DS,
    code,
    enter_user,
    entry,
    machine,
    run_to,
    trapped,
    word,
)

PAGE = 4096
FRAME = ("ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "orig_eax", "eip", "cs", "eflags")


def frame_of(m: Machine, regs: PtRegs) -> dict[str, int]:
    """pt_regs as it lies in guest memory, below the interrupted stack."""
    return dict(zip(FRAME, struct.unpack("<13I", m.memory.read(regs.sp - 52, 52)), strict=True))


def test_pt_regs_lies_below_the_interrupted_stack() -> None:
    m = machine("fixed", "40")
    values = {name: 0x1000 + i for i, name in enumerate(("ebx", "ecx", "edx", "esi", "edi", "ebp", "eax"))}
    for name, value in values.items():
        setattr(m.regs, name, value)
    frames = []
    m.kprobe(CODE, pre_handler=lambda p, regs: frames.append((frame_of(m, regs), m.regs.esp)))
    esp = m.regs.esp
    run_to(m, CODE + 1)
    rest = {"ds": 0x18, "es": 0x18, "orig_eax": values["eax"], "eip": CODE + 1, "cs": KERNEL_CS, "eflags": IF | 2}
    assert frames == [(values | rest, esp - 52)]


@pytest.mark.parametrize(
    ("text", "vector", "orig_eax"),
    [("cd80", 0x80, 7), ("cd40", 0x40, 0x40 - 256), ("0f0b", 6, -1), ("a1" + word(HOLE), 14, -1), ("cd0e", 14, -1)],
)
def test_orig_eax(text: str, vector: int, orig_eax: int) -> None:
    m = machine("fixed", text)
    m.regs.eax = 7
    frames = []
    m.on_trap(vector, lambda m, regs: frames.append(frame_of(m, regs)))
    assert trapped(m, vector).vector == vector
    assert [frame["orig_eax"] for frame in frames] == [orig_eax & 0xFFFFFFFF]


def test_a_claimed_trap_resumes_with_the_edits() -> None:
    m = machine("fixed", "cd80", "40")

    def serve(m: Machine, regs: PtRegs) -> bool:
        regs.eax = 41
        return True

    m.on_trap(0x80, serve)
    run_to(m, CODE + 3)
    assert m.regs.eax == 42


def test_an_unclaimed_trap_shows_the_interrupted_state() -> None:
    m = machine("fixed", "fd", "0f0b")  # std; ud2
    m.regs.esp -= 64
    before = dict(m.regs)
    stop = trapped(m, 6)
    assert stop.eip == CODE + 1
    assert dict(m.regs) == before | {"eip": CODE + 1, "eflags": before["eflags"] | 0x400}


def test_ring_3_traps_arrive_on_the_tss_stack() -> None:
    m = machine("fixed", "cd80", "40")
    seen = []
    m.on_trap(0x80, lambda m, regs: seen.append((regs.esp, regs.ss, regs.cs, m.regs.cpl, m.regs.esp)) or True)
    enter_user(m, CODE, DATA + 0x100)
    run_to(m, CODE + 3)
    (esp, ss, cs, cpl, kernel_esp) = seen[0]
    assert (esp, ss, cs, cpl) == (DATA + 0x100, USER_DS, USER_CS, 0)
    assert kernel_esp == m.memory.u32(m._core.layout.tss + 4) - 60
    assert (m.regs.cpl, m.regs.esp) == (3, DATA + 0x100)


@pytest.mark.parametrize("vector", [0, 3, 14, 0x80])
def test_ring_3_cannot_run_the_entries(vector: int) -> None:
    m = machine("fixed")
    target = entry(m, vector)
    m.memory.write(CODE, code("68" + word(target), "c3"))  # push target; ret
    enter_user(m, CODE, DATA + 0x100)
    stop = trapped(m, 14)
    assert (stop.eip, stop.address, stop.error_code) == (target, target, 5)


def test_stack_overflow_shuts_down() -> None:
    m = machine("fixed", "50", "ebfd")  # push eax; jmp
    stop = m.run(max_instructions=2_000_000)
    assert (stop.reason, stop.address >> 12) == (StopReason.SHUTDOWN, m._core.layout.stack_bottom - 1 >> 12)


def test_an_entry_without_a_stack_shuts_down() -> None:
    m = machine("fixed")
    m.regs.esp, m.regs.eip = HOLE, entry(m, 6)
    assert m.run(max_instructions=10).reason is StopReason.SHUTDOWN


def test_a_frame_across_pages() -> None:
    for offset in range(0, 64, 4):
        m = machine("fixed", "40", "41")
        m.regs.esp = (m.regs.esp & ~0xFFF) - PAGE + offset
        p = m.kprobe(CODE, pre_handler=lambda p, regs: setattr(regs, "edx", 5))
        before = m.regs.esp
        run_to(m, CODE + 2)
        assert (m.regs.eax, m.regs.ecx, m.regs.edx, p.hits, m.regs.esp) == (1, 1, 5, 1, before)


def test_a_frame_at_the_very_end_of_the_stack() -> None:
    m = machine("fixed", "40")
    m.regs.esp = 0xC0000000  # the esp slot is not mapped
    seen = []
    m.kprobe(CODE, pre_handler=lambda p, regs: seen.append(regs.esp))
    run_to(m, CODE + 1)
    assert seen == [0]


def test_returning_to_the_entry_for_ever_is_cut_into_slices() -> None:
    m = machine("fixed")
    m.map(HOLE, 1 << 20)
    frames = struct.pack("<3I", entry(m, 3), KERNEL_CS, IF)
    m.memory.write(HOLE, frames * ((1 << 20) // 12))
    m.regs.esp, m.regs.eip = HOLE, entry(m, 3)
    assert m.run(max_instructions=1000).reason in (StopReason.SHUTDOWN, StopReason.TRAP)


def test_mapping_all_or_nothing() -> None:
    m = machine("fixed")
    m.map(HOLE + PAGE, PAGE, "r")
    with pytest.raises(ValueError):
        m.map(HOLE, 3 * PAGE)
    m.map(HOLE, PAGE)
    m.memory.write(HOLE, b"abc")
    m.unmap(HOLE, PAGE)
    m.map(HOLE, PAGE)
    assert m.memory.read(HOLE, 3) == bytes(3)  # fresh memory


def test_rights() -> None:
    m = machine("fixed", "a3" + word(HOLE), "40")  # mov [HOLE],eax
    m.map(HOLE, PAGE, "r")
    stop = trapped(m, 14)
    assert (stop.address, stop.error_code) == (HOLE, 3)  # CR0.WP: ring 0 may not write it either


def test_the_window_cannot_be_mapped_or_unmapped() -> None:
    m = machine("fixed")
    layout = m._core.layout
    assert layout is not None
    for at in (layout.window, layout.entry, layout.stack_bottom - PAGE, layout.window_end - PAGE + 1):
        assert m._core.map(at & ~0xFFF, PAGE, 3) == -1
        assert m._core.unmap(at & ~0xFFF, PAGE) == -1


def test_page_0_and_the_guard_page_fault() -> None:
    m = machine("fixed", "a1" + word(0))
    assert trapped(m, 14).address == 0


def test_a_pointer_to_an_old_frame_stays_harmless() -> None:
    m = machine("fixed", "40", "41")
    kept: list[PtRegs] = []
    m.kprobe(CODE, pre_handler=lambda p, regs: kept.append(regs))
    run_to(m, CODE + 2)
    with pytest.raises(RuntimeError):
        kept[0].eax  # noqa: B018


def test_the_first_fpu_instruction_clears_ts() -> None:
    m = machine("fixed", "d9ee")
    assert m.regs.cr0 & 8
    m.run(until=CODE + 2, max_instructions=5)
    assert not m.regs.cr0 & 8


def test_a_call_through_an_import_inside_a_handler() -> None:
    m = machine("fixed", "40")
    m.bind("f", lambda m, x: x + 1)
    stub = m.imports.stub("f")
    m.memory.write(SUB, code("ff742404", "b8" + word(stub), "ffd0", "59", "c3"))  # push [esp+4]; call f; pop; ret
    results = []
    m.kprobe(CODE, pre_handler=lambda p, regs: results.append((m.call(SUB, 6), regs.eip)))
    run_to(m, CODE + 1)
    assert results == [(7, CODE + 1)]
    assert m.regs.eflags & (TF | IF) == IF
