"""docs/kprobes.md a.6: faults while a hit is in progress."""

from __future__ import annotations

import pytest

from pykprobes import Kprobe, Machine, MachineFault, PtRegs, StopReason

from .kprobe_lab import (
    ACTIVE,
    CODE,
    DATA,
    FIXED,
    HOLE,
    IF,
    STEPPED,
    STEPPING,
    SUB,
    TF,
    Watch,
    both,
    code,
    free,
    machine,
    run_to,
    state,
    trapped,
    word,
)

pytestmark = both
PAGE = 4096
ABSENT = 0x70  # a selector whose segment is not present


def absent_segment(m: Machine) -> None:
    """A writable data segment without its present bit."""
    m.memory.write(m.regs.gdtr_base + ABSENT, bytes.fromhex("ffff00000013cf00"))


FAULTS = {
    "divide error": ("f7f1", 0),  # div ecx
    "bound": ("620d" + word(DATA), 5),  # bound ecx,[DATA]
    "invalid opcode": ("0f0b", 6),
    "segment not present": ("8ed8", 11),  # mov ds,eax
    "stack fault": ("8ed0", 12),  # mov ss,eax
    "general protection": ("8ee3", 13),  # mov fs,ebx
    "page fault": ("a1" + word(HOLE), 14),
}
faults = pytest.mark.parametrize(("text", "vector"), FAULTS.values(), ids=FAULTS.keys())


def faulty(mode: str, text: str, eflags: int = IF) -> Machine:
    m = machine(mode, text, "40", eflags=eflags)
    absent_segment(m)
    m.memory.write_u32(DATA, 1)
    m.memory.write_u32(DATA + 4, 2)
    m.regs.eax, m.regs.ebx, m.regs.ecx = ABSENT, 0x2000, 0
    return m


@faults
@pytest.mark.parametrize("eflags", [0, IF])
def test_a6_1_and_2_a_fault_of_the_step(mode: str, text: str, vector: int, eflags: int) -> None:
    m = faulty(mode, text, eflags)
    w = Watch(m, CODE)
    stop = trapped(m, vector)
    assert w.phases == ["pre", "fault"]
    seen = w.last("fault")
    assert (seen.trapnr, seen.eip, seen.status, seen.byte) == (vector, CODE, STEPPING, code(text)[0])
    assert seen.eflags & (TF | IF) == TF
    assert (stop.eip, m.regs.eip) == (CODE, CODE)
    assert m.regs.eflags & (TF | IF) == eflags
    assert w.armed and free(m)
    assert (w.probe.misses["fault_restart"], w.probe.nmissed) == (1, 0)


@faults
def test_a6_1_claimed_the_instruction_is_retried_in_the_step(mode: str, text: str, vector: int) -> None:
    m = faulty(mode, text)

    def repair(probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
        regs.eip = CODE + len(code(text))  # go on behind it
        return True

    w = Watch(m, CODE, fault=repair)
    run_to(m, CODE + len(code(text)) + 1)
    assert w.phases == ["pre", "fault", "post"]
    assert w.last("post").eip == CODE + len(code(text)) + 1  # TF was still on: one more instruction ran
    assert m.regs.eax == ABSENT + 1
    assert m.regs.eflags & (TF | IF) == IF
    assert w.armed and free(m)
    assert (w.probe.hits, w.probe.misses["fault_restart"]) == (1, 0)


def test_a6_1_claimed_after_mapping_the_page(mode: str) -> None:
    m = machine(mode, "a1" + word(HOLE))

    def repair(probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
        m.map(HOLE, PAGE)
        m.memory.write_u32(HOLE, 99)
        return True

    w = Watch(m, CODE, fault=repair)
    run_to(m, CODE + 5)
    assert w.phases == ["pre", "fault", "post"]
    assert (m.regs.eax, w.probe.hits) == (99, 1)


def test_a6_1_the_handler_is_optional(mode: str) -> None:
    m = machine(mode, "a1" + word(HOLE))
    p = m.kprobe(CODE, pre_handler=lambda p, regs: None, post_handler=lambda p, regs, flags: None)
    assert trapped(m, 14).address == HOLE
    assert free(m) and m.memory.u8(CODE) == 0xCC
    assert p.misses["fault_restart"] == 1


def test_a6_2_restarted_the_probe_is_hit_again(mode: str) -> None:
    m = machine(mode, "a1" + word(HOLE))

    def serve(m: Machine, regs: PtRegs) -> bool:
        assert free(m)
        m.map(HOLE, PAGE)
        return True

    m.on_trap(14, serve)
    w = Watch(m, CODE)
    run_to(m, CODE + 5)
    assert w.phases == ["pre", "fault", "pre", "post"]
    assert w.probe.hits == 2
    assert w.probe.misses == {"recursion": 0, "disarmed": 0, "lock": 0, "fault_restart": 1}
    assert w.probe.nmissed == 0


@pytest.mark.parametrize("text", ["9d", "cf"], ids=["popf", "iret"])
def test_a6_2_interrupts_are_restored_even_for_if_modifiers(mode: str, text: str) -> None:
    m = machine(mode, text)
    m.map(HOLE, PAGE)
    m.regs.esp = HOLE + PAGE  # frames fit below, what is to be popped is not there
    w = Watch(m, CODE)
    assert trapped(m, 14).address == HOLE + PAGE
    assert m.regs.eflags & (TF | IF) == IF
    assert w.phases == ["pre", "fault"]
    assert free(m)


def reader(mode: str) -> Machine:
    """inc eax under test, and a function for handlers that reads from a hole."""
    m = machine(mode, "40", "41")
    m.memory.write(SUB, code("a1" + word(HOLE), "c3"))
    return m


def test_a6_3_a_fault_in_the_pre_handler_keeps_the_lock(mode: str) -> None:
    m = reader(mode)
    locked = []

    def pre(probe: Kprobe, regs: PtRegs) -> None:
        with pytest.raises(MachineFault) as caught:
            m.call(SUB)
        assert (caught.value.stop.vector, caught.value.stop.address) == (14, HOLE)
        locked.append(state(m)["locked"])

    w = Watch(m, CODE, pre=pre)
    run_to(m, CODE + 2)
    assert locked == [1]
    assert w.phases == ["pre", "fault", "post"]
    seen = w.last("fault")
    assert (seen.trapnr, seen.eip, seen.status) == (14, SUB, ACTIVE)
    assert w.probe.misses["fault_restart"] == 0
    assert w.armed and free(m)


def test_a6_3_a_fault_in_the_pre_handler_can_be_claimed(mode: str) -> None:
    m = reader(mode)

    def repair(probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
        m.map(HOLE, PAGE)
        m.memory.write_u32(HOLE, 5)
        return True

    results = []
    w = Watch(m, CODE, pre=lambda p, regs: results.append(m.call(SUB)), fault=repair)
    run_to(m, CODE + 2)
    assert results == [5]
    assert w.phases == ["pre", "fault", "post"]


def test_a6_a_fault_in_the_post_handler_reaches_the_fault_handler(mode: str) -> None:
    m = reader(mode)

    def repair(probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
        m.map(HOLE, PAGE)
        return True

    w = Watch(m, CODE, post=lambda p, regs: m.call(SUB), fault=repair)
    run_to(m, CODE + 2)
    assert w.phases == ["pre", "post", "fault"]
    assert w.last("fault").status == (STEPPED if mode == FIXED else STEPPING)
    assert w.armed and free(m)


def test_a6_a_fault_in_a_nested_probes_step(mode: str) -> None:
    m = reader(mode)
    inner = Watch(m, SUB)
    statuses = []

    def pre(probe: Kprobe, regs: PtRegs) -> None:
        with pytest.raises(MachineFault):
            m.call(SUB)
        statuses.append(state(m)["status"])

    outer = Watch(m, CODE, pre=pre)
    run_to(m, CODE + 2)
    # The running probe's fault_handler is the outer one's; the nested step leaves nothing behind.
    assert outer.phases == ["pre", "fault", "post"]
    assert inner.phases == []
    assert statuses == [ACTIVE]
    assert inner.probe.misses["recursion"] == 1
    assert inner.armed == (mode == FIXED)
    assert free(m)


def test_a6_nothing_asks_the_fault_handler_outside_a_hit(mode: str) -> None:
    m = machine(mode, "40", "a1" + word(HOLE))
    w = Watch(m, CODE)
    trapped(m, 14)
    assert w.phases == ["pre", "post"]


@pytest.mark.parametrize(("text", "vector"), [("cd80", 0x80), ("cd40", 0x40), ("cd02", 2)])
def test_a6_vectors_without_the_hook(mode: str, text: str, vector: int) -> None:
    m = machine(mode, "40")
    m.memory.write(SUB, code(text, "c3"))
    m.on_trap(vector, lambda m, regs: True)
    w = Watch(m, CODE, pre=lambda p, regs: m.call(SUB))
    run_to(m, CODE + 1)
    assert w.phases == ["pre", "post"]


def test_a6_the_fpu_hook_restarts_the_instruction_too(mode: str) -> None:
    m = machine(mode, "d9ee")  # fldz, the first x87 instruction
    w = Watch(m, CODE)
    m.run(until=CODE + 2, max_instructions=10)
    assert w.phases[:3] == ["pre", "fault", "pre"]
    assert w.events[1].trapnr == 7
    assert not m.regs.cr0 & 8


def test_a6_fault_handlers_may_edit_the_frame(mode: str) -> None:
    m = machine(mode, "8b01")  # mov eax,[ecx]
    m.memory.write_u32(DATA, 3)
    m.regs.ecx = HOLE

    def repair(probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
        regs.ecx = DATA
        return True

    w = Watch(m, CODE, fault=repair)
    run_to(m, CODE + 2)
    assert (m.regs.eax, m.regs.ecx, w.probe.hits) == (3, DATA, 1)


def test_a6_a_handler_that_raises_leaves_a_machine_that_goes_on(mode: str) -> None:
    m = machine(mode, "a1" + word(HOLE))

    def fault(probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
        raise LookupError("not mine")

    w = Watch(m, CODE, fault=fault)
    with pytest.raises(LookupError):
        m.run()
    assert m.regs.eip == CODE and w.armed and free(m)
    m.map(HOLE, PAGE)
    w.fault = None
    run_to(m, CODE + 5)
    assert w.phases == ["pre", "fault", "pre", "post"]


@pytest.mark.parametrize("phase", ["pre", "post"])
def test_a6_an_exception_in_a_handler_counts_the_hit_once(mode: str, phase: str) -> None:
    m = machine(mode, "40", "41")

    def fail(probe: Kprobe, regs: PtRegs) -> None:
        raise LookupError(phase)

    w = Watch(m, CODE, **{phase: fail})
    with pytest.raises(LookupError):
        m.run()
    assert m.regs.eip == CODE + (phase == "post")
    assert m.regs.eflags & (TF | IF) == IF
    assert w.armed and free(m)
    run_to(m, CODE + 2)
    assert w.phases == ["pre", "post"]
    assert (w.probe.hits, m.regs.eax, m.regs.ecx) == (1, 1, 1)


def test_a6_setting_eip_to_the_probe_again_is_a_new_hit(mode: str) -> None:
    m = machine(mode, "40")

    def fail(probe: Kprobe, regs: PtRegs) -> None:
        raise LookupError

    w = Watch(m, CODE, pre=fail)
    for _ in range(2):
        m.regs.eip = CODE
        with pytest.raises(LookupError):
            m.run()
    assert w.probe.hits == 2


def test_a6_stop_in_a_handler_ends_the_run_at_the_probe(mode: str) -> None:
    m = machine(mode, "40", "41")
    w = Watch(m, CODE, pre=lambda p, regs: m.stop())
    stop = m.run()
    assert (stop.reason, stop.eip) == (StopReason.STOPPED, CODE)
    run_to(m, CODE + 2)
    assert w.phases == ["pre", "post"]


def test_a6_nested_hits_end_in_order(mode: str) -> None:
    m = machine(mode, "40", "41")
    m.memory.write(SUB, code("42", "c3"))
    states = []
    Watch(m, SUB)
    outer = Watch(m, CODE, pre=lambda p, regs: (m.call(SUB), states.append(state(m))))
    run_to(m, CODE + 2)
    assert [(s["running"], s["status"], s["locked"]) for s in states] == [(outer.probe._id, ACTIVE, 1)]
    assert free(m)
