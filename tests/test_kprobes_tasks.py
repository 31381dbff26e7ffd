"""Probes at instructions that switch tasks, and at virtual-8086 code's faults (defect 18 of docs/kprobes.md; a.3)."""

from __future__ import annotations

import pytest

from pykprobes import Kprobe, Machine, MachineFault, PtRegs, StopReason

from .guest_code import *
from .test_task_switch import NARROW, TASK2, WIDE, describe, prepare, write_task

WAYS = ["jump", "call", "event", "return"]
both = pytest.mark.parametrize("mode", ["2.5.26", "fixed"])
CLEAN = FIXED | ZF | IF  # of the old task


def probed(mode: str, way: str, old: int = TSS32, flags: int = CLEAN, **fields: int) -> tuple[Guest, list[object]]:
    """A guest about to switch tasks at a probed instruction, and what the probe's handlers see."""
    g = Guest(mode)
    describe(g)
    write_task(g, **fields)
    describe(g, old, at=TSS, selector=TSS_SELECTOR)
    if old == TSS32:
        g.m.memory.write(TSS + WIDE["cr3"], imm(g.m.regs.cr3))
    g.m.regs.tr = TSS_SELECTOR
    g.m.memory.write(TASK2, NOP + NOP + HLT)
    g.m.memory.write(IDT + 8 * 0x40, gate(SPARE, 0xBAD, TASK, 3))
    g.m.regs.eflags = flags
    prepare(g, way)
    codes = {"jump": far_jmp(SPARE), "call": far_call(SPARE), "event": interrupt(0x40), "return": IRET}
    at = g.put(NOP, codes[way])
    g.m.regs.eip = CODE
    seen: list[object] = []

    def post(probe: Kprobe, regs: PtRegs, flags: int) -> None:
        seen.append((regs.eip, regs.eflags & (TF | IF)))

    before = g.m.regs.eflags
    g.m.register_kprobe(Kprobe(at, pre_handler=lambda probe, regs: seen.append("pre"), post_handler=post))
    g.m.regs.eflags = before
    return g, seen


def old_flags(g: Guest, old: int = TSS32) -> int:
    return g.m.memory.u32(TSS + WIDE["eflags"]) if old == TSS32 else g.m.memory.u16(TSS + NARROW["eflags"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("old", [TSS32, TSS16])
def test_fixed_leaves_no_trace_in_either_task(way: str, old: int) -> None:
    g, seen = probed("fixed", way, old)
    stop = g.m.run(until=TASK2 + 2, max_instructions=10)
    assert (stop.reason, stop.eip) == (StopReason.UNTIL, TASK2 + 2)
    assert seen[0] == "pre" and len(seen) == 2
    eip, flags = seen[1]  # type: ignore[misc]
    # an INT n ends with its frame, still in the old task; the others show the new one
    assert (eip, flags & TF) == ((CODE + 3, TF) if way == "event" else (TASK2, 0))
    assert old_flags(g, old) & 0xFFFF == CLEAN
    assert g.m.regs.eflags & (TF | IF) == 0
    assert g.m.memory.u8(CODE + 1) == 0xCC
    assert g.m._core.kprobe_state()["cpu"] == -1


@pytest.mark.parametrize("way", ["call", "event"])
def test_fixed_the_old_task_goes_on_without_a_step(way: str) -> None:
    g, seen = probed("fixed", way)
    g.m.memory.write(TASK2, IRET)
    back = CODE + 1 + (7 if way == "call" else 2)
    g.m.memory.write(back, NOP + interrupt(DONE))
    stop = g.m.run(max_instructions=20)
    assert (stop.reason, g.vector()) == (StopReason.HALT, DONE)
    frame = g.frame()
    assert (frame.eip, frame.eflags) == (back + 3, CLEAN)
    assert len(seen) == 2


def test_fixed_a_new_task_with_tf_is_stepped_as_ever() -> None:
    g, seen = probed("fixed", "jump", eflags=FIXED | TF)
    g.m.regs.dr6 = 0
    g.m.run(max_instructions=10)
    assert (g.vector(), g.frame().eip, g.frame().eflags & TF) == (DEBUG, TASK2 + 1, TF)
    assert len(seen) == 2 and old_flags(g) == CLEAN


def test_fixed_an_old_task_that_is_stepped_traps_in_the_new_one() -> None:
    """As without a probe: TF was set when the instruction began (SDM vol. 3, 17.3.1.4)."""
    for mode in (None, "fixed"):
        if mode:
            g, _ = probed(mode, "jump", flags=CLEAN | TF)
        else:
            g = Guest()
            describe(g)
            write_task(g)
            g.m.memory.write(TSS + WIDE["cr3"], imm(g.m.regs.cr3))
            g.m.memory.write(TASK2, NOP + NOP + HLT)
            g.put(NOP, far_jmp(SPARE))
            g.m.regs.eflags = CLEAN | TF
        g.m.regs.eip, g.m.regs.dr6 = CODE + 1, 0
        g.m.run(max_instructions=10)
        frame = g.frame()
        assert (frame.vector, frame.eip, frame.eflags & (TF | IF)) == (DEBUG, TASK2, 0), mode
        assert old_flags(g) == CLEAN | TF


def test_fixed_a_switch_back_restores_the_image_of_a_16_bit_tss_only_in_its_word() -> None:
    g, _ = probed("fixed", "jump", TSS16)
    g.m.memory.write(TSS + NARROW["eflags"] + 2, b"\xaa\xbb")
    ax = g.m.regs.eax & 0xFFFF
    g.m.run(until=TASK2 + 1, max_instructions=10)
    assert g.m.memory.u16(TSS + NARROW["eflags"] + 2) == ax  # AX follows FLAGS there
    assert old_flags(g, TSS16) == CLEAN


@pytest.mark.parametrize("way", ["jump", "call"])
def test_the_patch_leaves_its_step_in_the_old_task(way: str) -> None:
    g, seen = probed("2.5.26", way)
    g.m.run(until=TASK2 + 2, max_instructions=10)
    assert seen == ["pre", (TASK2, 0)]
    assert old_flags(g) == (CLEAN | TF) & ~IF  # the step's own flags
    assert g.m.regs.eflags & IF  # and the new task has the old one's interrupt flag


def test_the_patch_steps_an_int_until_the_old_task_is_back() -> None:
    g, seen = probed("2.5.26", "event")
    g.m.memory.write(TASK2, NOP + IRET)
    g.m.memory.write(CODE + 3, NOP)
    g.m.run(until=TASK2, max_instructions=10)
    assert seen == ["pre"] and old_flags(g) == (CLEAN | TF) & ~IF
    assert g.m._core.kprobe_state()["cpu"] == 0
    stop = g.m.run(until=CODE + 4, max_instructions=20)
    assert stop.reason is StopReason.UNTIL
    assert len(seen) == 2


# Virtual-8086 code


@both
@pytest.mark.parametrize(
    ("code", "vector", "asked"),
    [
        (b"\x31\xc9\xf7\xf1", 0, False),  # do_trap's vm86 argument is set: vm86.c has it
        (b"\xb0\x7f\x04\x01\xce", 4, False),
        (b"\xb8\x01\x00\x62\x06\x00\x01", 5, False),
        (b"\x0f\x0b", 6, True),
        (b"\xf4", 13, False),
    ],
)
def test_faults_of_virtual_8086_code(mode: str, code: bytes, vector: int, asked: bool) -> None:
    with Machine(memory=1 << 20, kprobes=mode) as m:
        answers = []

        def fault(probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
            answers.append((trapnr, regs.eflags & VM))
            return False

        # The hit is the one of a probe whose pre_handler calls the virtual-8086 code
        def pre(probe: Kprobe, regs: PtRegs) -> None:
            with pytest.raises(MachineFault):
                m.call(0x3000)

        m.memory.write(0x2000, b"\x90\xf4")
        m.memory.write(0x8000, code)
        m.memory.write(0x3000, push(0, 0, 0x800, 0, 0x800, 0x4000, FIXED | VM | 0x3000, 0x800, 0) + IRET)
        m.register_kprobe(Kprobe(0x2000, pre_handler=pre, fault_handler=fault))
        m.regs.eip = 0x2000
        m.run(until=0x2001, max_instructions=100)
        assert answers == ([(vector, VM)] if asked else [])
