"""docs/kprobes.md a.9: the known defects of the patch. "2.5.26" shows each of them, "fixed" does not.

Items 4, 5, 7, 9 and 16 need a second CPU, an NMI between two instructions of the kernel's own, or preemption.
"""

from __future__ import annotations

import errno

import pytest

from pykprobes import Kprobe, KprobeError, Machine, MachineFault, PtRegs, StopReason

from .kprobe_lab import (
    BREAKPOINT,
    CODE,
    DATA,
    DR6_BS,
    FIXED,
    HOLE,
    IF,
    SEED,
    STEPPED,
    SUB,
    TF,
    USER_CS,
    USER_DS,
    Watch,
    both,
    code,
    enter_user,
    entry,
    free,
    gate,
    machine,
    run_to,
    state,
    take_trap,
    trapped,
    word,
)

pytestmark = both
EM, TS = 4, 8


# 1: a swallowed trap does not back up eip


def test_a9_01_a_swallowed_trap_does_not_back_up_eip(mode: str) -> None:
    m = machine(mode, "83c005", "41")  # add eax,5; inc ecx
    w = Watch(m, CODE)
    take_trap(m, 3, CODE + 1)  # the breakpoint has trapped, the kernel is not there yet
    m.unregister_kprobe(w.probe)
    m.regs.eax = 7
    if mode == SEED:  # goes on inside the restored instruction: c0 05 41 90 90 90 90 = rol byte [0x90909041],0x90
        assert trapped(m, 14).eip == CODE + 1
    else:
        run_to(m, CODE + 4)
        assert (m.regs.eax, m.regs.ecx) == (12, 1)
    assert w.phases == [] and free(m)


def test_a9_01_nor_does_one_inside_a_hit(mode: str) -> None:
    """The recursion path of 2.5.26 does not even look: the trap goes to the ordinary handler."""
    m = machine(mode, "40")
    gone = Watch(m, SUB)
    m.unregister_kprobe(gone.probe)
    m.memory.write(SUB, code("42", "c3"))
    results = []

    def pre(probe: Kprobe, regs: PtRegs) -> None:
        try:
            results.append(m.call(CODE + 0x100))
        except MachineFault as fault:
            results.append(fault.stop.vector)

    # pushf; push cs; push SUB + 1; push the entry; ret: as the CPU goes there to the entry, as the CPU had it
    m.memory.write(CODE + 0x100, code("9c", "0e", "68" + word(SUB + 1), "68" + word(entry(m, 3)), "c3"))
    Watch(m, CODE, pre=pre)
    run_to(m, CODE + 1)
    assert results == ([3] if mode == SEED else [0])


# 2: INT 3 in two bytes


def test_a9_02_int_3_in_two_bytes_is_swallowed(mode: str) -> None:
    m = machine(mode, "cd03", "40")
    if mode == SEED:
        run_to(m, CODE + 3)
        assert m.regs.eax == 1
    else:
        assert trapped(m, 3).eip == CODE + 2
        run_to(m, CODE + 3)


# 3: user-mode traps


def test_a9_03_a_user_breakpoint_in_a_segment_with_a_base(mode: str) -> None:
    """The byte before eip is looked for at the flat address."""
    m = machine(mode, "cc")
    base = CODE
    m.memory.write(m.regs.gdtr_base + 0x70, descriptor(base, 0xFB))  # code, DPL 3
    m.memory.fill(0x8000, 0x100, 0x90)
    at = 0x8000 - base & 0xFFFFFFFF  # wraps: linear 0x8000
    m.memory.write_u8(0x8000, BREAKPOINT)
    m.push(USER_DS, DATA + 0x100, IF, 0x73, at)
    m.memory.write_u8(CODE + 0xF00, 0xCF)
    m.regs.eip = CODE + 0xF00
    if mode == FIXED:
        assert trapped(m, 3).eip == at + 1
    else:  # *(eip - 1) is not mapped: the kernel faults in its own handler
        assert trapped(m, 14).address == at


def test_a9_03_a_user_breakpoint_where_the_flat_address_has_another_byte(mode: str) -> None:
    m = machine(mode)
    m.memory.write(m.regs.gdtr_base + 0x70, descriptor(0x1000, 0xFB))
    m.memory.write_u8(CODE + 0x1000, BREAKPOINT)  # offset CODE of the segment; flat CODE holds a nop
    m.push(USER_DS, DATA + 0x100, IF, 0x73, CODE)
    m.memory.write_u8(CODE + 0xF00, 0xCF)
    m.regs.eip = CODE + 0xF00
    if mode == FIXED:
        assert trapped(m, 3).eip == CODE + 1
    else:
        run_to(m, CODE + 4)  # swallowed without a trace


def test_a9_03_probes_in_code_with_a_base(mode: str) -> None:
    """A probe's address is linear; the patch compares it with eip."""
    m = machine(mode)
    m.memory.write(m.regs.gdtr_base + 0x70, descriptor(0x1000, 0x9B))
    m.memory.write(CODE + 0x1000, code("40", "41"))
    p = m.kprobe(CODE + 0x1000, pre_handler=lambda p, regs: None)
    m.regs.cs = 0x70
    m.regs.eip = CODE
    run_to(m, CODE + 2)
    assert (p.hits, m.regs.eax) == ((1, 1) if mode == FIXED else (0, 0))


def test_a9_03_a_probe_hit_by_user_code(mode: str) -> None:
    m = machine(mode, "40")
    w = Watch(m, CODE)
    enter_user(m, CODE, DATA + 0x100)
    if mode == FIXED:  # not a kernel probe's business: the breakpoint is the user's own
        assert trapped(m, 3).eip == CODE + 1
        assert w.phases == []
    else:
        run_to(m, CODE + 1)
        assert w.phases == ["pre", "post"]


def test_a9_03_pushf_in_user_mode_changes_the_stack_pointer(mode: str) -> None:
    """The esp slot of a user frame is no alias: the repair of the image hits the stack pointer."""
    m = machine(mode, "9c")
    w = Watch(m, CODE)
    enter_user(m, CODE, DATA + 0x104)
    if mode == FIXED:
        trapped(m, 3)
        return
    run_to(m, CODE + 1)
    assert w.last("post").esp == DATA + 0x100
    assert m.regs.esp == (DATA + 0x100) & ~(TF | IF) | IF


def descriptor(base: int, access: int) -> bytes:
    """A flat 32-bit segment descriptor with a base."""
    low = base.to_bytes(4, "little")
    return b"\xff\xff" + low[:3] + bytes([access, 0xCF]) + low[3:]


# 6: recursion


def test_a9_06_recursion_disarms_inner_probe(mode: str) -> None:
    m = machine(mode, "40", "41")
    m.memory.write(SUB, code("42", "c3"))
    inner = Watch(m, SUB)
    Watch(m, CODE, pre=lambda p, regs: m.call(SUB))
    run_to(m, CODE + 2)
    assert inner.phases == []
    assert inner.armed == (mode == FIXED)
    assert inner.probe.nmissed == inner.probe.misses["recursion"] == 1
    m.call(SUB)
    m.call(SUB)
    assert inner.probe.hits == (2 if mode == FIXED else 0)


def test_a9_06_passing_the_dead_probe_is_counted(mode: str) -> None:
    m = machine(mode, "40", "41")
    m.memory.write(SUB, code("42", "c3"))
    inner = Watch(m, SUB)
    Watch(m, CODE, pre=lambda p, regs: m.call(SUB))
    run_to(m, CODE + 2)
    for _ in range(3):
        m.call(SUB)
    assert inner.probe.misses["disarmed"] == (3 if mode == SEED else 0)
    assert inner.probe.nmissed == 1 + inner.probe.misses["disarmed"]


def test_a9_06_a_nested_probe_is_stepped_with_the_right_flags(mode: str) -> None:
    m = machine(mode, "40")
    m.memory.write(SUB, code("9c", "58", "fa", "fb", "c3"))  # pushf; pop eax; cli; sti; ret
    inner = [Watch(m, SUB + offset) for offset in (0, 1, 2, 3, 4)]
    images = []
    Watch(m, CODE, pre=lambda p, regs: images.append(m.call(SUB) & (TF | IF)))
    run_to(m, CODE + 1)
    assert images == [0]  # handlers run with interrupts off
    assert [w.probe.misses["recursion"] for w in inner] == [1] * 5
    assert [w.armed for w in inner] == [mode == FIXED] * 5


def test_a9_06_three_levels(mode: str) -> None:
    m = machine(mode, "40")
    m.memory.write(SUB, code("a1" + word(HOLE), "c3"))
    m.memory.write(SUB + 0x100, code("42", "c3"))
    middle, innermost = Watch(m, SUB), Watch(m, SUB + 0x100)

    def repair(probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
        m.call(SUB + 0x100)
        m.map(HOLE, 4096)
        return True

    outer = Watch(m, CODE, pre=lambda p, regs: m.call(SUB), fault=repair)
    run_to(m, CODE + 1)
    assert outer.phases == ["pre", "fault", "post"]
    assert middle.phases == innermost.phases == []
    assert innermost.probe.misses["recursion"] == 1
    assert (middle.armed, innermost.armed) == (mode == FIXED, mode == FIXED)
    assert free(m)


# 8: no blacklist


def test_a9_08_a_probe_on_the_traps_own_entry(mode: str) -> None:
    m = machine(mode, "40", "41")
    at = entry(m, 3)
    if mode == FIXED:
        with pytest.raises(KprobeError) as caught:
            m.kprobe(at, pre_handler=lambda p, regs: None)
        assert caught.value.errno == errno.EINVAL
        return
    p = m.kprobe(at, pre_handler=lambda p, regs: None)
    w = Watch(m, CODE)
    stop = m.run(max_instructions=1000)
    assert (stop.reason, stop.eip, p.hits, w.probe.hits) == (StopReason.LOOP, at, 0, 0)
    m.unregister_kprobe(p)
    run_to(m, CODE + 2)  # the trap that hung is served now
    assert w.phases == ["pre", "post"]


# 10: interrupts are not restored on every way to the old handlers


def irq_flags(m: Machine, vector: int) -> list[int]:
    flags: list[int] = []
    m.on_trap(vector, lambda m, regs: flags.append(m.regs.eflags & IF) or True)
    return flags


@pytest.mark.parametrize("text", ["f1", "cd01"], ids=["int1", "int 1"])
def test_a9_10_a_debug_trap_of_nobody_runs_with_interrupts_off(mode: str, text: str) -> None:
    m = machine(mode, text, "40")
    flags = irq_flags(m, 1)
    run_to(m, CODE + len(code(text)) + 1)
    assert flags == [IF if mode == FIXED else 0]


def test_a9_10_a_step_of_nobody_runs_with_interrupts_off(mode: str) -> None:
    m = machine(mode, "40", "41", eflags=TF | IF)
    flags: list[int] = []

    def serve(m: Machine, regs: PtRegs) -> bool:
        flags.append(m.regs.eflags & IF)
        regs.eflags &= ~TF
        return True

    m.on_trap(1, serve)
    run_to(m, CODE + 2)
    assert flags == [IF if mode == FIXED else 0]


def test_a9_10_a_breakpoint_of_nobody_inside_a_hit(mode: str) -> None:
    m = machine(mode, "40")
    m.memory.write(SUB, code("fb", "cc", "c3"))  # sti; int3; ret
    flags = irq_flags(m, 3)
    Watch(m, CODE, pre=lambda p, regs: m.call(SUB))
    run_to(m, CODE + 1)
    assert flags == [IF if mode == FIXED else 0]


# 11: the debug hook sits behind the lazy-DR7 filter; DR6 is never cleared


def test_a9_11_a_step_together_with_a_debug_register_hit(mode: str) -> None:
    m = machine(mode, "a3" + word(DATA), "41", "42")  # mov [DATA],eax; inc ecx; inc edx
    w = Watch(m, CODE)
    m.regs.dr0, m.regs.dr7 = DATA, 0x000D0001  # a write of 4 bytes
    if mode == SEED:  # the trap goes to clear_dr7; post runs one instruction late
        run_to(m, CODE + 7)
        assert w.phases == ["pre", "post"]
        assert w.last("post").eip == CODE + 6
        assert m.regs.dr7 & 0xFF == 0
    else:  # post runs in time, and the watchpoint is not lost
        stop = trapped(m, 1)
        assert (stop.eip, w.last("post").eip) == (CODE + 5, CODE + 5)
        assert m.regs.dr6 & 0xF == 1
        run_to(m, CODE + 7)
    assert (m.regs.ecx, m.regs.edx) == (1, 1)
    assert w.armed and free(m)


def test_a9_11_a_stale_bs_bit_passes_for_a_step(mode: str) -> None:
    m = machine(mode, "40", "41")
    m.memory.write(SUB, code("f1", "c3"))  # a debug trap that is no step
    served = irq_flags(m, 1)
    first = Watch(m, CODE)
    run_to(m, CODE + 1)
    assert bool(m.regs.dr6 & DR6_BS) == (mode == SEED)
    second = Watch(m, CODE + 1, pre=lambda p, regs: m.call(SUB))
    run_to(m, CODE + 2)
    assert first.phases == ["pre", "post"]
    if mode == SEED:  # INT1 in the pre_handler ends the hit before its step has begun
        assert second.phases == ["pre", "post"]
        assert second.events[1].eip == SUB + 1
        assert served == [0]  # and the step itself is nobody's
    else:
        assert second.phases == ["pre", "post"]
        assert second.events[1].eip == CODE + 2
        assert len(served) == 1


# 12: the FPU hook runs behind CLTS


def test_a9_12_a_claimed_fpu_fault_never_loads_the_state(mode: str) -> None:
    m = machine(mode, "d9ee")
    seen: list[int] = []

    def claim_once(probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
        seen.append(m.regs.cr0 & TS)
        return len(seen) == 1

    w = Watch(m, CODE, fault=claim_once)
    m.run(until=CODE + 2, max_instructions=10)
    if mode == SEED:  # TS is off already: the retried instruction runs on whatever state there is
        assert seen[0] == 0
        assert w.phases.count("fault") == 1
    else:
        assert seen == [TS, TS]
    assert w.events[1].trapnr == 7
    assert not m.regs.cr0 & TS


# 13: a fault in the post handler


def test_a9_13_a_fault_in_the_post_handler_unlocks_twice(mode: str) -> None:
    m = machine(mode, "40", "41")
    m.memory.write(SUB, code("a1" + word(HOLE), "c3"))
    states = []

    def post(probe: Kprobe, regs: PtRegs) -> None:
        with pytest.raises(MachineFault):
            m.call(SUB)
        states.append((state(m)["cpu"], state(m)["locked"], m.memory.u8(CODE)))

    w = Watch(m, CODE, post=post)
    run_to(m, CODE + 2)
    assert w.phases == ["pre", "post", "fault"]
    # The hit is over for the patch although its post_handler runs: lock free, breakpoint back.
    assert states == [(-1, 0, BREAKPOINT) if mode == SEED else (0, 1, 0x40)]
    assert w.probe.misses["fault_restart"] == (mode == SEED)
    assert w.armed and free(m)


def test_a9_13_the_wrong_frames_flags_are_edited(mode: str) -> None:
    m = machine(mode, "40", "41")
    m.memory.write(SUB, code("fa", "a1" + word(HOLE), "c3"))  # cli, then the fault
    flags = []

    def post(probe: Kprobe, regs: PtRegs) -> None:
        with pytest.raises(MachineFault) as caught:
            m.call(SUB)
        flags.append(caught.value.regs["eflags"] & IF)

    Watch(m, CODE, post=post)
    run_to(m, CODE + 2)
    assert flags == [IF if mode == SEED else 0]


def test_a9_13_a_second_probe_then_takes_the_first_ones_place(mode: str) -> None:
    m = machine(mode, "40", "41")
    m.memory.write(SUB, code("a1" + word(HOLE), "c3"))
    m.memory.write(SUB + 0x100, code("42", "c3"))
    other = Watch(m, SUB + 0x100)

    def post(probe: Kprobe, regs: PtRegs) -> None:
        with pytest.raises(MachineFault):
            m.call(SUB)
        m.call(SUB + 0x100)

    Watch(m, CODE, post=post)
    run_to(m, CODE + 2)
    assert other.phases == (["pre", "post"] if mode == SEED else [])
    assert other.probe.nmissed == (mode == FIXED)
    assert free(m)


def test_a9_13_status_in_the_post_handler(mode: str) -> None:
    m = machine(mode, "40")
    w = Watch(m, CODE)
    run_to(m, CODE + 1)
    assert (w.last("post").status == STEPPED) == (mode == FIXED)


# 14: eip set by the pre handler


def test_a9_14_an_eip_of_the_pre_handler_is_ignored(mode: str) -> None:
    m = machine(mode, "40", "41", "42")

    def jump(probe: Kprobe, regs: PtRegs) -> None:
        regs.eip = CODE + 2

    w = Watch(m, CODE, pre=jump)
    run_to(m, CODE + 3)
    if mode == SEED:
        assert (m.regs.eax, m.regs.ecx, m.regs.edx) == (1, 1, 1)
        assert w.phases == ["pre", "post"]
    else:  # no step, no post
        assert (m.regs.eax, m.regs.ecx, m.regs.edx) == (0, 0, 1)
        assert w.phases == ["pre"]
    assert m.regs.eflags & (TF | IF) == IF
    assert w.armed and free(m)


# 15: INT 1 from ring 3


def test_a9_15_int_1_is_callable_from_ring_3(mode: str) -> None:
    m = machine(mode, "cd01")
    enter_user(m, CODE, DATA + 0x100)
    stop = m.run(max_instructions=10)
    assert stop.reason is StopReason.TRAP
    if mode == SEED:
        assert (stop.vector, stop.eip) == (1, CODE + 2)
    else:
        assert (stop.vector, stop.eip, stop.error_code) == (13, CODE, 1 * 8 + 2)
    assert m.regs.cpl == 3
    assert gate(m, 1) == (14, 3 if mode == SEED else 0)


def test_a9_15_int_3_is_callable_from_ring_3(mode: str) -> None:
    m = machine(mode, "cc")
    enter_user(m, CODE, DATA + 0x100)
    assert trapped(m, 3).eip == CODE + 1
    assert (m.regs.cs, m.regs.ss, m.regs.esp) == (USER_CS, USER_DS, DATA + 0x100)


# 17: one probe per address, null pre handlers


def test_a9_17_one_probe_per_address(mode: str) -> None:
    m = machine(mode, "40")
    m.kprobe(CODE, pre_handler=lambda p, regs: None)
    if mode == FIXED:
        assert m.kprobe(CODE, pre_handler=lambda p, regs: None).registered
        return
    with pytest.raises(KprobeError, match="has a probe already") as caught:
        m.kprobe(CODE, pre_handler=lambda p, regs: None)
    assert caught.value.errno == errno.EEXIST


def test_a9_17_a_null_pre_handler_crashes(mode: str) -> None:
    m = machine(mode, "40", "41")
    posts = []
    m.kprobe(CODE, post_handler=lambda p, regs, flags: posts.append(regs.eip))
    if mode == FIXED:
        run_to(m, CODE + 2)
        assert posts == [CODE + 1]
        return
    stop = trapped(m, 14)
    assert (stop.address, stop.error_code) == (0, 0)
    assert state(m)["locked"] == 1  # the kernel died with the lock held
    assert posts == []


def test_a9_17_a_null_pre_handlers_fault_that_is_claimed_comes_for_ever(mode: str) -> None:
    m = machine(mode, "40")
    m.kprobe(CODE, fault_handler=lambda p, regs, trapnr: True)
    stop = m.run(until=CODE + 1, max_instructions=100)
    assert stop.reason is (StopReason.LOOP if mode == SEED else StopReason.UNTIL)


# 18: images that are not repaired


def test_a9_18_pushf_of_16_bits_is_not_repaired(mode: str) -> None:
    m = machine(mode, "669c")
    Watch(m, CODE)
    run_to(m, CODE + 2)
    assert m.memory.u16(m.regs.esp) & (TF | IF) == (TF if mode == SEED else IF)


@pytest.mark.parametrize("eflags", [0, IF])
def test_a9_18_the_image_of_int_n_is_not_repaired(mode: str, eflags: int) -> None:
    m = machine(mode, "cd80", "41", eflags=eflags)
    images = []
    m.on_trap(0x80, lambda m, regs: images.append(regs.eflags & (TF | IF)) or True)
    w = Watch(m, CODE)
    run_to(m, CODE + 3)
    assert images == [TF if mode == SEED else eflags]
    assert w.phases == ["pre", "post"]
    assert m.regs.eflags & (TF | IF) == eflags


def test_a9_18_an_unserved_int_n_stops_with_that_image(mode: str) -> None:
    m = machine(mode, "cd80", "41")
    w = Watch(m, CODE)
    stop = trapped(m, 0x80)
    assert stop.eip == CODE + 2
    assert m.regs.eflags & (TF | IF) == (TF if mode == SEED else IF)
    run_to(m, CODE + 3)
    assert w.phases == ["pre", "post"]
    assert m.regs.eflags & (TF | IF) == IF and free(m)
