"""docs/kprobes.md a.4: trap 3, step by step."""

from __future__ import annotations

import pytest

from pykprobes import Kprobe, StopReason

from .kprobe_lab import (
    ACTIVE,
    BREAKPOINT,
    CODE,
    DATA,
    DR6_BS,
    FIXED,
    IF,
    NOP,
    SEED,
    STEPPING,
    SUB,
    TF,
    Watch,
    both,
    free,
    machine,
    run_to,
    state,
    trapped,
    word,
)

pytestmark = both
RET = b"\xc3"


def test_a4_the_frame_in_the_pre_handler(mode: str) -> None:
    m = machine(mode, "40", "41")  # inc eax; inc ecx
    w = Watch(m, CODE)
    run_to(m, CODE + 2)
    seen = w.events[0]
    assert (seen.phase, seen.eip, seen.status, seen.byte) == ("pre", CODE + 1, ACTIVE, BREAKPOINT)
    assert seen.eflags & (TF | IF) == IF
    assert seen.sp == m.regs.esp
    assert seen.esp == m.memory.u32(m.regs.esp)


def test_a4_interrupts_are_off_in_handlers(mode: str) -> None:
    m = machine(mode, "40")
    flags = []
    m.kprobe(CODE, pre_handler=lambda p, regs: flags.append(m.regs.eflags & IF))
    run_to(m, CODE + 1)
    assert flags == [0]
    assert m.regs.eflags & IF


def test_a4_1_recursion_found_a_nested_probe_gets_no_handler(mode: str) -> None:
    m = machine(mode, "40")
    m.memory.write(SUB, b"\x42" + RET)  # inc edx; ret
    inner = Watch(m, SUB)
    Watch(m, CODE, pre=lambda p, regs: m.call(SUB))
    run_to(m, CODE + 1)
    assert inner.events == []
    assert inner.probe.misses["recursion"] == inner.probe.nmissed == 1
    assert inner.probe.hits == 0
    assert free(m)


def test_a4_1_recursion_disarms_the_nested_probe_until_registered_again(mode: str) -> None:
    m = machine(mode, "40", "40")
    m.memory.write(SUB, b"\x42" + RET)
    inner = Watch(m, SUB)
    outer = Watch(m, CODE, pre=lambda p, regs: m.call(SUB))
    run_to(m, CODE + 1)
    assert inner.probe.registered and outer.armed
    assert inner.armed == (mode == FIXED)
    m.call(SUB)
    assert inner.probe.hits == (mode == FIXED)
    m.unregister_kprobe(inner.probe)
    m.register_kprobe(inner.probe)
    assert inner.armed


def test_a4_1_recursion_into_the_running_probe_survives(mode: str) -> None:
    m = machine(mode, "42", "c3")  # inc edx; ret

    def again(probe: Kprobe, regs: object) -> None:
        m.call(CODE)

    w = Watch(m, CODE, pre=again)
    m.call(CODE)
    assert w.phases == ["pre", "post"]
    assert w.armed and free(m)
    assert w.probe.misses["recursion"] == 1


def test_a4_1_recursion_not_found_takes_the_ordinary_path(mode: str) -> None:
    m = machine(mode, "40")
    m.memory.write(SUB, b"\xcc" + RET)  # a breakpoint of nobody's
    served = []
    m.on_trap(3, lambda m, regs: served.append((regs.eip, state(m)["cpu"])) or True)
    Watch(m, CODE, pre=lambda p, regs: m.call(SUB))
    run_to(m, CODE + 1)
    assert served == [(SUB + 1, 0)]
    assert free(m)


def test_a4_2_lock_and_cpu_are_taken(mode: str) -> None:
    m = machine(mode, "40")
    states = []
    p = m.kprobe(CODE, pre_handler=lambda p, regs: states.append(state(m)))
    assert free(m)
    run_to(m, CODE + 1)
    assert states == [{"cpu": 0, "running": p._id, "status": ACTIVE, "locked": 1}]
    assert free(m)


@pytest.mark.parametrize("eflags", [0, IF])
def test_a4_3_a_breakpoint_of_nobody_goes_on_with_interrupts_restored(mode: str, eflags: int) -> None:
    m = machine(mode, "cc", eflags=eflags)
    flags = []
    m.on_trap(3, lambda m, regs: flags.append(m.regs.eflags & IF))
    stop = trapped(m, 3)
    assert flags == [eflags]
    assert (stop.eip, m.regs.eip) == (CODE + 1, CODE + 1)
    assert m.regs.eflags & IF == eflags
    assert free(m)


def test_a4_3_a_removed_breakpoint_is_swallowed(mode: str) -> None:
    m = machine(mode, "cd03", "40")  # the byte before eip is 03
    if mode == SEED:
        run_to(m, CODE + 3)
        assert m.regs.eax == 1
    else:
        assert trapped(m, 3).eip == CODE + 2


def test_a4_5_the_pre_handler_may_edit_registers(mode: str) -> None:
    m = machine(mode, "01c8", "a3" + word(DATA))  # add eax,ecx; mov [DATA],eax

    def edit(probe: Kprobe, regs: object) -> None:
        regs.eax, regs.ecx, regs.edi = 40, 2, 0xDEAD  # type: ignore[attr-defined]

    m.kprobe(CODE, pre_handler=edit)
    run_to(m, CODE + 7)
    assert m.memory.u32(DATA) == 42
    assert (m.regs.ecx, m.regs.edi) == (2, 0xDEAD)


def test_a4_5_edits_of_tf_and_if_are_overruled(mode: str) -> None:
    m = machine(mode, "40", "41")

    def edit(probe: Kprobe, regs: object) -> None:
        regs.eflags = (regs.eflags | TF) & ~IF  # type: ignore[attr-defined]

    w = Watch(m, CODE, pre=edit)
    run_to(m, CODE + 2)
    assert w.phases == ["pre", "post"]
    assert m.regs.eflags & (TF | IF) == IF


def test_a4_5_arithmetic_flags_can_be_edited(mode: str) -> None:
    m = machine(mode, "83d000")  # adc eax,0

    def edit(probe: Kprobe, regs: object) -> None:
        regs.eflags |= 1  # type: ignore[attr-defined]

    m.kprobe(CODE, pre_handler=edit)
    run_to(m, CODE + 3)
    assert m.regs.eax == 1


def test_a4_5_the_esp_slot_is_the_interrupted_stack(mode: str) -> None:
    m = machine(mode, "58")  # pop eax
    m.push(7)

    def edit(probe: Kprobe, regs: object) -> None:
        assert regs.esp == 7  # type: ignore[attr-defined]
        regs.esp = 8  # type: ignore[attr-defined]

    m.kprobe(CODE, pre_handler=edit)
    run_to(m, CODE + 1)
    assert m.regs.eax == 8


def test_a4_6_and_7_step_with_tf_on_if_off_and_the_byte_back(mode: str) -> None:
    m = machine(mode, "8a05" + word(CODE))  # mov al,[CODE]: the instruction reads its own first byte
    w = Watch(m, CODE)
    run_to(m, CODE + 6)
    assert m.regs.al == 0x8A
    seen = w.last("post")
    assert seen.byte == 0x8A
    assert seen.eflags & (TF | IF) == TF


def test_a4_7_the_lock_is_held_through_the_step(mode: str) -> None:
    m = machine(mode, "a1" + word(0x40000000))  # mov eax,[HOLE]
    states = []

    def fault(probe: Kprobe, regs: object, trapnr: int) -> bool:
        states.append((state(m)["status"], state(m)["locked"], m.memory.u8(CODE)))
        return False

    Watch(m, CODE, fault=fault)
    trapped(m, 14)
    assert states == [(STEPPING, 1, 0xA1)]


def test_a4_hits_count_every_execution(mode: str) -> None:
    m = machine(mode, "b90a000000", "40", "49", "75fc")  # mov ecx,10; inc eax; dec ecx; jnz
    w = Watch(m, CODE + 5)
    run_to(m, CODE + 9)
    assert w.probe.hits == m.regs.eax == 10
    assert w.phases == ["pre", "post"] * 10


def test_a4_the_instruction_count_is_that_of_an_unprobed_run(mode: str) -> None:
    program = ("b90a000000", "40", "49", "75fc")
    plain = machine(mode, *program)
    run_to(plain, CODE + 9)
    probed = machine(mode, *program)
    for at in (0, 5, 6, 7):
        Watch(probed, CODE + at)
    run_to(probed, CODE + 9)
    assert probed.icount == plain.icount
    stale = DR6_BS if mode == SEED else 0  # a.9 item 11: the patch never clears DR6
    assert dict(probed.regs) == dict(plain.regs) | {"dr6": plain.regs.dr6 | stale}


def test_a4_step_counts_a_probed_instruction_once(mode: str) -> None:
    m = machine(mode, "40", "40", "40")
    w = Watch(m, CODE + 1)
    for n in (1, 2, 3):
        assert m.step().reason is StopReason.LIMIT
        assert (m.regs.eip, m.icount) == (CODE + n, n)
    assert w.phases == ["pre", "post"]
    assert m.memory.u8(CODE + 3) == NOP
