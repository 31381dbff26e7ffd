"""Probes in front of a guest's own IDT: taken before its gates, nothing pushed on its stack, all else untouched."""

from __future__ import annotations

import pytest

from pykprobes import Kprobe, Machine, MachineFault, PtRegs, StopReason

from .kprobe_lab import (
    CODE,
    DATA,
    FIXED,
    HOLE,
    IF,
    KERNEL_CS,
    SUB,
    TF,
    Watch,
    both,
    code,
    free,
    machine,
    run_to,
    state,
    word,
)

pytestmark = both
IDT = 0x30000
HANDLER = 0x38000  # 64 bytes for each vector
LOG = 0x3F000


def guest(mode: str, *parts: str, eflags: int = IF) -> Machine:
    """A machine whose IDT is in the guest's RAM; handlers count at LOG + 4 * vector and return."""
    m = machine(mode, *parts, eflags=eflags)
    for vector in range(32):
        at = HANDLER + 64 * vector
        error = vector in (8, 10, 11, 12, 13, 14, 17)
        # inc dword [LOG + 4 * vector]; error code away; iret
        m.memory.write(at, code("ff05", word(LOG + 4 * vector), "83c404" if error else "", "cf"))
        m.memory.write_u32(IDT + 8 * vector, KERNEL_CS << 16 | at & 0xFFFF)
        m.memory.write_u32(IDT + 8 * vector + 4, at & 0xFFFF0000 | 0x8E00)
    m.regs.idtr_base, m.regs.idtr_limit = IDT, 8 * 32 - 1
    return m


def counted(m: Machine, vector: int) -> int:
    return m.memory.u32(LOG + 4 * vector)


def test_intercept_pre_and_post(mode: str) -> None:
    m = guest(mode, "40", "41")
    m.memory.fill(m.regs.esp - 256, 256, 0x5A)
    regs_seen = []
    w = Watch(m, CODE, pre=lambda p, regs: regs_seen.append((regs.eip, regs.cs, regs.sp, regs.user_mode)))
    esp = m.regs.esp
    run_to(m, CODE + 2)
    assert w.phases == ["pre", "post"]
    assert regs_seen == [(CODE + 1, KERNEL_CS, esp, False)]
    assert m.memory.read(esp - 256, 256) == b"\x5a" * 256  # the guest's stack was not touched
    assert (m.regs.eax, m.regs.ecx, m.regs.eflags & (TF | IF)) == (1, 1, IF)
    assert w.armed and free(m)


def test_intercept_the_esp_slot_is_the_top_of_the_stack(mode: str) -> None:
    m = guest(mode, "58", "9c")  # pop eax; pushf
    m.push(7)

    def edit(probe: Kprobe, regs: PtRegs) -> None:
        assert regs.esp == 7
        regs.esp = 8

    Watch(m, CODE, pre=edit)
    Watch(m, CODE + 1)
    run_to(m, CODE + 2)
    assert m.regs.eax == 8
    assert m.memory.u32(m.regs.esp) & (TF | IF) == IF


def test_intercept_edits_reach_the_registers(mode: str) -> None:
    m = guest(mode, "01c8")

    def edit(probe: Kprobe, regs: PtRegs) -> None:
        regs.eax, regs.ecx, regs.esi = 40, 2, 9

    m.kprobe(CODE, pre_handler=edit)
    run_to(m, CODE + 2)
    assert (m.regs.eax, m.regs.ecx, m.regs.esi) == (42, 2, 9)


@pytest.mark.parametrize(("text", "vector"), [("cc", 3), ("f1", 1), ("cd04", 4)])
def test_intercept_leaves_the_guests_own_traps_alone(mode: str, text: str, vector: int) -> None:
    m = guest(mode, text, "40")
    w = Watch(m, CODE + len(code(text)))
    run_to(m, CODE + len(code(text)) + 1)
    assert counted(m, vector) == 1
    assert w.phases == ["pre", "post"]


def test_intercept_leaves_the_guests_single_step_alone(mode: str) -> None:
    m = guest(mode, "40", "41", "42", eflags=TF | IF)
    w = Watch(m, CODE + 1)
    run_to(m, CODE + 3)
    assert counted(m, 1) == 3  # the step of the probed instruction is seen by both
    assert w.phases == ["pre", "post"]


def test_intercept_a_fault_of_the_step_goes_to_the_guest_as_if_unprobed(mode: str) -> None:
    m = guest(mode, "8b01", "40")  # mov eax,[ecx]; inc eax
    at = HANDLER + 64 * 14
    # mov ecx,DATA; mov edx,[esp+4]; mov esi,[esp+12]; add esp,4; iret: edx = eip, esi = eflags
    m.memory.write(at, code("b9", word(DATA), "8b542404", "8b74240c", "83c404", "cf"))
    m.memory.write_u32(DATA, 10)
    m.regs.ecx = HOLE
    w = Watch(m, CODE)
    run_to(m, CODE + 3)
    assert w.phases == ["pre", "fault", "pre", "post"]
    assert (m.regs.eax, m.regs.edx) == (11, CODE)
    assert m.regs.esi & (TF | IF) == IF
    assert w.probe.misses["fault_restart"] == 1
    assert w.armed and free(m)


def test_intercept_a_claimed_fault_is_retried(mode: str) -> None:
    m = guest(mode, "8b01", "40")
    m.memory.write_u32(DATA, 10)
    m.regs.ecx = HOLE

    def repair(probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
        regs.ecx = DATA
        return trapnr == 14

    w = Watch(m, CODE, fault=repair)
    run_to(m, CODE + 3)
    assert w.phases == ["pre", "fault", "post"]
    assert (m.regs.eax, counted(m, 14)) == (11, 0)


def test_intercept_recursion(mode: str) -> None:
    m = guest(mode, "40")
    m.memory.write(SUB, code("42", "c3"))
    inner = Watch(m, SUB)
    Watch(m, CODE, pre=lambda p, regs: m.call(SUB))
    run_to(m, CODE + 1)
    assert inner.phases == [] and inner.probe.nmissed == 1
    assert inner.armed == (mode == FIXED)
    assert free(m)


def test_intercept_int_n_is_the_guests(mode: str) -> None:
    m = guest(mode, "cd05", "40", "41")
    w = Watch(m, CODE)
    run_to(m, CODE + 4)
    assert counted(m, 5) == 1
    assert w.phases == ["pre", "post"]
    assert m.regs.eflags & (TF | IF) == IF and free(m)


def test_intercept_an_exception_stops_at_the_probe(mode: str) -> None:
    m = guest(mode, "40", "41")

    def fail(probe: Kprobe, regs: PtRegs) -> None:
        raise LookupError

    w = Watch(m, CODE, pre=fail)
    with pytest.raises(LookupError):
        m.run()
    assert m.regs.eip == CODE and m.regs.eflags & (TF | IF) == IF and free(m)
    run_to(m, CODE + 2)
    assert w.phases == ["pre", "post"] and w.probe.hits == 1


def test_intercept_a_fault_in_a_handler(mode: str) -> None:
    m = guest(mode, "40")
    m.memory.write_u32(IDT + 8 * 14 + 4, 0)  # the guest cannot serve it: #NP, then #DF, then shutdown
    m.memory.write_u32(IDT + 8 * 8 + 4, 0)
    m.memory.write(SUB, code("a1" + word(HOLE), "c3"))
    seen = []

    def pre(probe: Kprobe, regs: PtRegs) -> None:
        with pytest.raises(MachineFault) as caught:
            m.call(SUB)
        seen.append((caught.value.stop.reason, state(m)["locked"]))

    w = Watch(m, CODE, pre=pre)
    run_to(m, CODE + 1)
    assert w.phases[0] == "pre" and w.phases[-1] == "post"
    assert seen == [(StopReason.SHUTDOWN, 1)]


def test_intercept_on_a_bare_machine_in_real_mode(mode: str) -> None:
    m = Machine(memory=1 << 20, kernel=None, kprobes=mode)
    m.memory.fill(0x1230, 0x100, 0x90)
    m.memory.write(0x1230, code("40", "9c", "59"))  # inc ax; pushf; pop cx
    for name in ("cs", "ds", "es", "ss"):
        setattr(m.regs, name, 0x123 if name == "cs" else 0)
    m.regs.eip, m.regs.esp, m.regs.eflags = 0, 0x8000, IF
    w = Watch(m, 0x1230)
    Watch(m, 0x1231)
    m.memory.write(0x2000, b"\xcf")  # iret
    for vector in range(8):
        m.memory.write_u32(4 * vector, 0x2000)
    m.run(until=3, max_instructions=100)
    if mode == FIXED:
        assert w.phases == ["pre", "post"]
        assert (m.regs.ax, m.regs.cx & (TF | IF)) == (1, IF)
    else:  # eip is taken for an address: the breakpoint is the guest's
        assert w.phases == []
    assert free(m)
