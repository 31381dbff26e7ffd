"""Task switches (SDM vol. 3, 7.3; checks: table 7-1, busy, NT and link: table 7-2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pykprobes import StopReason

from .guest_code import *

TSS2, STACK2, TASK2, GATE = DATA + 0x100, 0x48000, CODE + 0x1000, SPARE2
LIMITS = {TSS32: 0x67, TSS16: 0x2B}
BUSY, TS, BT = 2, 8, 0x8000
WAYS = ("jump", "call", "event", "return")
MARK = bytes(range(0x90, 0xA0))
Task = dict[str, int]
PLAIN: Task = {
    "link": 0, "cr3": 0, "eip": TASK2, "eflags": FIXED | CF | DF,
    "eax": 0x1A, "ecx": 0x1C, "edx": 0x1D, "ebx": 0x1B, "esp": STACK2, "ebp": 0x1E, "esi": 0x1F, "edi": 0x20,
    "es": K_DS, "cs": K_CS, "ss": K_DS, "ds": K_DS, "fs": 0, "gs": R1_DS, "ldt": LDT_SELECTOR, "trap": 0,
}  # fmt: skip
WIDE = {"link": 0, "cr3": 0x1C, "eip": 0x20, "eflags": 0x24} | {
    name: 0x28 + 4 * i for i, name in enumerate(GPR + SREG + ("ldt", "trap"))
}
NARROW = {"link": 0, "eip": 0x0E, "eflags": 0x10} | {
    name: 0x12 + 2 * i for i, name in enumerate([*GPR, *SREG[:4], "ldt"])
}


def write_task(g: Guest, kind: int = TSS32, at: int = TSS2, **fields: int) -> None:
    """A TSS that runs PLAIN but for the fields named; selectors of data are 16 bits with rubbish above."""
    task = PLAIN | {"cr3": g.m.regs.cr3} | fields
    places = WIDE if kind & 8 else NARROW
    image = bytearray(b"\xee" * (LIMITS[kind] + 1))
    for name, offset in places.items():
        size = 2 if places is NARROW or name in SREG or name in ("link", "ldt", "trap") else 4
        image[offset : offset + size] = imm(task[name], size)
    g.m.memory.write(at, bytes(image))


def field(g: Guest, name: str, kind: int = TSS32, at: int = TSS) -> int:
    offset = (WIDE if kind & 8 else NARROW)[name]
    return g.m.memory.u32(at + offset) if kind & 8 and name not in (*SREG, "link") else g.m.memory.u16(at + offset)


def describe(g: Guest, kind: int = TSS32, limit: int | None = None, at: int = TSS2, selector: int = SPARE) -> None:
    g.descriptor(selector, at, LIMITS[kind & ~BUSY & ~0x60] if limit is None else limit, kind, 0)


@pytest.fixture
def g() -> Guest:
    guest = Guest()
    describe(guest)
    write_task(guest)
    guest.m.memory.write(TSS + WIDE["cr3"], imm(guest.m.regs.cr3))
    guest.m.memory.write(TSS + WIDE["ldt"], imm(LDT_SELECTOR))
    guest.m.memory.write(TASK2, NOP + HLT)
    guest.m.memory.write(GDT + GATE, gate(SPARE, 0xBAD, TASK, 0))
    guest.m.memory.write(IDT + 8 * 0x40, gate(SPARE, 0xBAD, TASK, 3))
    return guest


def instruction(way: str) -> bytes:
    codes = {"jump": far_jmp(SPARE, 0xBAD), "call": far_call(SPARE, 0xBAD), "event": interrupt(0x40), "return": IRET}
    return codes[way]


def prepare(g: Guest, way: str) -> None:
    """What has to hold for an instruction to switch to SPARE."""
    if way == "return":
        g.m.memory.write(TSS, imm(SPARE, 2))
        g.m.regs.eflags |= NT
        at = GDT + SPARE + 5
        g.m.memory.write(at, bytes([g.m.memory.u8(at) | BUSY]))


def switch(g: Guest, way: str, steps: int = 1) -> None:
    prepare(g, way)
    g.put(NOP, instruction(way))
    g.m.regs.eip = CODE
    start = g.m.icount
    stop = g.m.run(max_instructions=1 + steps)
    assert stop.reason is StopReason.LIMIT, stop
    assert g.m.icount == start + 1 + steps  # the switch counts as the instruction that it is


# What a switch does


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [TSS32, TSS16])
@pytest.mark.parametrize("old", [TSS32, TSS16])
def test_both_states_and_table_7_2(g: Guest, way: str, kind: int, old: int) -> None:
    describe(g, kind)
    write_task(g, kind, gs=R1_DS)
    describe(g, old, at=TSS, selector=TSS_SELECTOR)
    g.m.memory.fill(TSS, 0x68)
    g.m.regs.tr = TSS_SELECTOR
    before = {name: 0x70000000 + 0x01010101 * i for i, name in enumerate(GPR)} | {"esp": STACKS[0]}
    for name, value in before.items():
        setattr(g.m.regs, name, value)
    g.m.regs.fs = K_DS
    g.m.regs.eflags = FIXED | ZF | PF | IF
    switch(g, way)
    regs, nests = g.m.regs, way in ("call", "event")
    # The new task
    for name in GPR:
        expected = PLAIN[name] & 0xFFFF | 0xFFFF0000 if kind == TSS16 else PLAIN[name]
        assert getattr(regs, name) == expected, name
    for name in SREG[:4]:
        assert getattr(regs, name) == PLAIN[name], name
    assert (regs.fs, regs.gs) == ((0, R1_DS) if kind == TSS32 else (0, 0))
    assert regs.eip == (TASK2 if kind == TSS32 else TASK2 & 0xFFFF)
    assert regs.eflags == FIXED | CF | DF | (NT if nests else 0)
    assert (regs.tr, regs.ldtr) == (SPARE, LDT_SELECTOR)
    assert regs.cr0 & TS
    # The old one
    mask = 0xFFFF if old == TSS16 else 0xFFFFFFFF
    assert field(g, "eip", old) == CODE + 1 + len(instruction(way)) & mask
    assert field(g, "eflags", old) == FIXED | ZF | PF | IF
    for name, value in before.items():
        assert field(g, name, old) == value & mask, name
    for name in SREG[:4]:
        assert field(g, name, old) == (K_CS if name == "cs" else K_DS), name
    if old == TSS32:
        assert field(g, "fs", old) == K_DS
    # Busy bits and the link
    assert g.access_byte(SPARE) == kind | BUSY
    assert bool(g.access_byte(TSS_SELECTOR) & BUSY) == nests
    assert g.m.memory.u16(TSS2) == (TSS_SELECTOR if nests else 0)


def test_a_16_bit_save_leaves_the_rest_alone(g: Guest) -> None:
    describe(g, TSS16, at=TSS, selector=TSS_SELECTOR)
    g.m.regs.tr = TSS_SELECTOR
    g.m.memory.fill(TSS, 0x68, 0xEE)
    switch(g, "jump")
    image = g.m.memory.read(TSS, 0x68)
    assert image[:0x0E] == b"\xee" * 0x0E
    assert image[0x2A:] == b"\xee" * (0x68 - 0x2A)


def test_a_32_bit_save_leaves_stacks_cr3_ldt_and_upper_halves_alone(g: Guest) -> None:
    g.m.memory.fill(TSS, 0x68, 0xEE)
    switch(g, "jump")
    image = g.m.memory.read(TSS, 0x68)
    assert image[:0x20] == b"\xee" * 0x20
    assert all(image[0x48 + 4 * i + 2 : 0x48 + 4 * i + 4] == b"\xee\xee" for i in range(6))
    assert image[0x60:] == b"\xee" * 8


@pytest.mark.parametrize("way", ["jump", "call"])
def test_through_a_task_gate(g: Guest, way: str) -> None:
    g.run((far_jmp if way == "jump" else far_call)(GATE, 0xBAD), limit=1)
    assert (g.m.regs.tr, g.m.regs.eip) == (SPARE, TASK2)


def test_through_a_task_gate_of_the_ldt(g: Guest) -> None:
    g.m.memory.write(LDT + (LDT_DATA & ~7), gate(SPARE, 0, TASK, 0))
    g.run(far_jmp(LDT_DATA), limit=1)
    assert (g.m.regs.tr, g.m.regs.eip) == (SPARE, TASK2)


def test_there_and_back(g: Guest) -> None:
    g.m.memory.write(TASK2, mov("eax", 0x77) + IRET + NOP)
    g.m.regs.ebx = 0x55
    g.run(far_call(SPARE), NOP, limit=4)
    regs = g.m.regs
    assert (regs.tr, regs.eip, regs.ebx, regs.eflags & NT) == (TSS_SELECTOR, CODE + 8, 0x55, 0)
    assert (g.access_byte(SPARE), g.access_byte(TSS_SELECTOR)) == (TSS32, TSS32 | BUSY)
    assert field(g, "eip", at=TSS2) == TASK2 + 6
    assert field(g, "eax", at=TSS2) == 0x77
    assert field(g, "eflags", at=TSS2) == FIXED | CF | DF  # without NT
    g.run(far_call(SPARE), limit=1)  # where the other task was left
    assert g.m.regs.eip == TASK2 + 6


def test_a_task_that_jumps_to_itself_is_busy(g: Guest) -> None:
    g.fault(far_jmp(TSS_SELECTOR), vector=PROTECTION, error=TSS_SELECTOR)


def test_two_descriptors_of_one_tss(g: Guest) -> None:
    """Saved first and then loaded: the task goes on (7.3, steps 8 and 12)."""
    describe(g, at=TSS)
    g.m.memory.write(TSS, bytes(0x60) + imm(LDT_SELECTOR) + imm(0))
    g.m.memory.write(TSS + 0x1C, imm(g.m.regs.cr3))
    g.m.regs.edi = 0x1234
    g.run(far_jmp(SPARE), NOP, limit=1)
    assert (g.m.regs.tr, g.m.regs.eip, g.m.regs.edi) == (SPARE, CODE + 7, 0x1234)


def test_cr3_and_the_ldt_are_the_new_tasks(g: Guest) -> None:
    other = TABLES
    g.m.memory.write(other, imm((TABLES + 0x1000) | 7) + bytes(4092))
    entries = [n << 12 | 7 for n in range(1024)]
    entries[0x80] = TASK2 & ~0xFFF | 7
    g.m.memory.write(TABLES + 0x1000, b"".join(imm(e) for e in entries))
    write_task(g, cr3=other, eip=0x80000 + (TASK2 & 0xFFF), ds=LDT_DATA, ldt=LDT_SELECTOR)
    g.m.regs.ldtr = 0
    g.run(far_jmp(SPARE), limit=2)
    assert (g.m.regs.cr3, g.m.regs.eip, g.m.regs.ds) == (other, 0x80001 + (TASK2 & 0xFFF), LDT_DATA)


def test_cr3_is_not_looked_at_without_paging(g: Guest) -> None:
    write_task(g, cr3=0x1000)
    g.m.memory.write(CODE + 0x800, b"\x0f\x20\xc0\x25" + imm(0x7FFFFFFF) + to_control(0) + far_jmp(SPARE))
    g.m.regs.eip = CODE + 0x800
    old = g.m.regs.cr3
    g.m.run(max_instructions=4)
    assert (g.m.regs.tr, g.m.regs.eip, g.m.regs.cr3) == (SPARE, TASK2, old)


def test_to_ring_3(g: Guest) -> None:
    write_task(g, cs=U_CS, ss=U_DS, ds=U_DS, es=K_CS & 0, gs=CONFORMING, eflags=FIXED | IF | OF)
    switch(g, "jump", 2)
    assert (g.m.regs.cpl, g.m.regs.cs, g.m.regs.ss, g.m.regs.eip) == (3, U_CS, U_DS, TASK2 + 1)


def test_from_ring_3_through_an_interrupt(g: Guest) -> None:
    """The saved stack is ring 3's own: a task switch uses no stack of the TSS."""
    g.enter(3)
    switch(g, "event")
    assert (field(g, "cs"), field(g, "ss"), field(g, "esp")) == (U_CS, U_DS, STACKS[3])
    assert (g.m.regs.cpl, g.m.regs.esp) == (0, STACK2)


def test_to_virtual_8086_mode_and_back(g: Guest) -> None:
    """SDM vol. 3, 20.2.3: VM in the EFLAGS image of a 32-bit TSS."""
    g.m.memory.write(0x9000, NOP + interrupt(0x41))
    write_task(g, eflags=FIXED | VM | 3 << 12, cs=0x900, eip=0, ss=0x3000, esp=0x100, ds=0x1234, es=3, fs=0xFFFF, gs=1)
    g.stack_of_ring(0, K_DS)
    g.m.memory.write(TSS2 + 4, imm(STACKS[0]) + imm(K_DS))
    g.m.memory.write(IDT + 8 * 0x41, gate(TSS_SELECTOR, 0, TASK, 3))
    g.run(far_jmp(SPARE), limit=2)
    regs = g.m.regs
    assert (regs.cpl, regs.cs, regs.eip, regs.ds, regs.fs, regs.eflags & VM) == (3, 0x900, 1, 0x1234, 0xFFFF, VM)
    g.m.run(max_instructions=1)
    assert (regs.cpl, regs.cs, regs.eip, regs.eflags) == (0, K_CS, CODE + 7, FIXED | NT)
    assert (field(g, "eflags", at=TSS2), field(g, "eip", at=TSS2)) == (FIXED | VM | 3 << 12, 3)


@pytest.mark.parametrize("kind", [TSS32, TSS16])
def test_an_exception_through_a_task_gate(g: Guest, kind: int) -> None:
    """The error code on the new task's stack in the size of its TSS; RF in the saved image (17.3.1.1)."""
    describe(g, kind)
    write_task(g, kind)
    g.m.memory.write(IDT + 8 * PROTECTION, gate(SPARE, 0, TASK, 0))
    g.m.memory.fill(STACK2 - 16, 16, 0xEE)
    esp = STACK2 if kind == TSS32 else STACK2 & 0xFFFF | 0xFFFF0000
    if kind == TSS16:
        g.descriptor(SPARE3, 0x40000, 0xFFFF, DATA_RW, 0)
        write_task(g, kind, ss=SPARE3)
    g.m.memory.write(TASK2 & 0xFFFF, NOP)
    g.run(NOP, mov("eax", GDT_END), mov_sreg("ds"), limit=2)
    start = g.m.icount
    g.m.run(max_instructions=1)
    size = 4 if kind == TSS32 else 2
    assert g.m.icount == start + 1  # the first of the new task; what faulted has not retired
    assert g.m.regs.esp == esp - size
    assert g.m.memory.read(STACK2 - 4, 4) == (imm(GDT_END) if size == 4 else b"\xee\xee" + imm(GDT_END, 2))
    assert (field(g, "eip"), field(g, "eflags")) == (CODE + 6, FIXED | RF)


def test_an_external_interrupt_through_a_task_gate(g: Guest) -> None:
    g.m.regs.eflags |= IF
    g.put(NOP, NOP, NOP)
    g.m.regs.eip = CODE
    g.m.run(max_instructions=1)
    g.m.interrupt(0x40)
    g.m.run(max_instructions=1)
    assert (g.m.regs.tr, g.m.regs.eip, field(g, "eip"), field(g, "eflags")) == (SPARE, TASK2 + 1, CODE + 1, FIXED | IF)


def test_a_double_fault_task(g: Guest) -> None:
    """Its stack and page tables are good whatever those of the interrupted task are."""
    g.m.memory.write(IDT + 8 * DOUBLE, gate(SPARE, 0, TASK, 0))
    for vector in (PROTECTION, PAGE, STACK, ABSENT):
        g.gate(vector, present=False)
    g.m.regs.esp = 0xDEAD0000
    g.run(NOP, b"\x36\x0f\x01\x15" + imm(0xF0000000), limit=2)
    assert (g.m.regs.tr, g.m.regs.eip, g.m.regs.esp) == (SPARE, TASK2 + 1, STACK2 - 4)
    assert (field(g, "eip"), field(g, "esp"), g.m.memory.u32(STACK2 - 4)) == (CODE + 1, 0xDEAD0000, 0)


@pytest.mark.parametrize("way", WAYS)
def test_the_debug_trap_of_a_tss(g: Guest, way: str) -> None:
    """SDM vol. 3, 17.3.1.5: #DB before the first instruction, with BT."""
    write_task(g, trap=1)
    prepare(g, way)
    stop = g.run(instruction(way))
    frame = g.frame()
    assert (stop.reason, frame.vector, frame.eip, frame.at) == (StopReason.HALT, DEBUG, TASK2, STACK2 - 12)
    assert g.m.regs.dr6 == 0xFFFF0FF0 | BT


def test_local_breakpoints_end_with_the_task(g: Guest) -> None:
    """SDM vol. 3, 17.2.4."""
    g.m.regs.dr0 = 0x12345
    g.m.regs.dr7 = 0x3FF
    switch(g, "jump")
    assert g.m.regs.dr7 == 0x400 | 0x3FF & ~0x155


def test_rf_of_the_tss_holds_back_a_breakpoint(g: Guest) -> None:
    g.m.regs.dr0 = TASK2
    g.m.regs.dr7 = 2
    write_task(g, eflags=FIXED | RF)
    assert g.run(far_jmp(SPARE)).eip == TASK2 + 2
    write_task(g)
    describe(g)
    g.m.regs.tr = TSS_SELECTOR
    g.run(far_jmp(SPARE))
    assert g.frame().vector == DEBUG


def test_single_step_into_a_task(g: Guest) -> None:
    """TF of the old task traps behind the switch, in the new one; TF of the new one behind its first instruction."""
    g.m.regs.eflags = FIXED | TF
    g.run(far_jmp(SPARE))
    assert (g.frame().vector, g.frame().eip, g.m.regs.dr6 & 0xF000) == (DEBUG, TASK2, 0x4000)
    g.m.regs.eflags = FIXED
    g.m.regs.cs, g.m.regs.ss, g.m.regs.tr = K_CS, K_DS, TSS_SELECTOR
    describe(g)
    write_task(g, eflags=FIXED | TF)
    g.run(far_jmp(SPARE))
    assert (g.frame().vector, g.frame().eip) == (DEBUG, TASK2 + 1)


# Checks before the commit point: the old task is as it was


def unchanged(g: Guest, way: str, vector: int, error: int, ext: int = 0) -> None:
    prepare(g, way)
    tables = g.m.memory.read(GDT, GDT_END), g.m.memory.read(TSS, 0x68), g.m.memory.read(TSS2, 0x68)
    before = dict(g.m.regs)
    frame = g.fault(instruction(way), vector=vector, error=error | ext)
    assert frame.eflags == before["eflags"] | RF
    assert tables == (g.m.memory.read(GDT, GDT_END), g.m.memory.read(TSS, 0x68), g.m.memory.read(TSS2, 0x68))
    after = dict(g.m.regs)
    assert {name for name in before if before[name] != after[name]} <= {"eip", "esp", "eflags", "cr2"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [TSS32, TSS16])
def test_limit(g: Guest, way: str, kind: int) -> None:
    """7.2.2, 7.2.3 and table 7-1 row 5."""
    describe(g, kind, LIMITS[kind] - 1)
    unchanged(g, way, BAD_TSS, SPARE)


@pytest.mark.parametrize("way", WAYS)
def test_absent(g: Guest, way: str) -> None:
    describe(g, TSS32 & ~0x80, 0x67)
    unchanged(g, way, ABSENT, SPARE)


@pytest.mark.parametrize("way", WAYS)
def test_busy(g: Guest, way: str) -> None:
    if way == "return":  # has to be busy
        g.m.memory.write(TSS, imm(SPARE, 2))
        g.m.regs.eflags |= NT
        g.fault(IRET, vector=BAD_TSS, error=SPARE)
    else:
        describe(g, TSS32 | BUSY)
        unchanged(g, way, PROTECTION, SPARE)


@pytest.mark.parametrize("selector", [0, 2, GDT_END, K_DS, LDT_SELECTOR, LDT_DATA, U_CS], ids=hex)
@pytest.mark.parametrize("way", ["gate", "event", "return"])
def test_the_selector_of_a_gate_or_a_link(g: Guest, way: str, selector: int) -> None:
    if way == "return":
        g.m.memory.write(TSS, imm(selector, 2))
        g.m.regs.eflags |= NT
        g.fault(IRET, vector=BAD_TSS, error=selector & ~3)
        return
    g.m.memory.write(GDT + GATE, gate(selector, 0, TASK, 0))
    g.m.memory.write(IDT + 8 * 0x40, gate(selector, 0, TASK, 0))
    g.fault(far_jmp(GATE) if way == "gate" else interrupt(0x40), vector=PROTECTION, error=selector & ~3)


def test_a_tss_in_the_ldt(g: Guest) -> None:
    g.m.memory.write(LDT + (LDT_DATA & ~7), descriptor(TSS2, 0x67, TSS32, 0))
    g.fault(far_jmp(LDT_DATA), vector=PROTECTION, error=LDT_DATA)


@pytest.mark.parametrize("far", [far_jmp, far_call])
def test_privilege(g: Guest, far: Callable[[int, int], bytes]) -> None:
    """DPL of the TSS or of the gate against CPL and RPL; a gate's TSS may be more privileged."""
    g.fault(far(SPARE, 0), vector=PROTECTION, error=SPARE, ring=3)
    g = Guest()
    describe(g)
    g.fault(far(SPARE | 3, 0), vector=PROTECTION, error=SPARE)
    g.m.memory.write(GDT + GATE, gate(SPARE, 0, TASK, 0))
    g.m.regs.esp = STACKS[0]
    g.fault(far(GATE | 1, 0), vector=PROTECTION, error=GATE)
    g.m.memory.write(GDT + GATE, gate(SPARE, 0, TASK, 3, present=False))
    g.m.regs.esp = STACKS[0]
    g.fault(far(GATE, 0), vector=ABSENT, error=GATE)
    g.m.memory.write(GDT + GATE, gate(SPARE, 0, TASK, 3))
    write_task(g)
    g.enter(3)
    g.run(far(GATE | 3, 0), limit=1)
    assert (g.m.regs.tr, g.m.regs.cpl) == (SPARE, 0)


def test_the_gate_of_an_int_and_the_ext_bit(g: Guest) -> None:
    g.m.memory.write(IDT + 8 * 0x40, gate(SPARE, 0, TASK, 0))
    g.fault(interrupt(0x40), vector=PROTECTION, error=0x40 * 8 | 2, ring=3)
    g = Guest()
    describe(g, TSS32 | BUSY)
    g.m.memory.write(IDT + 8 * INVALID, gate(SPARE, 0, TASK, 0))
    g.fault(UD2, vector=PROTECTION, error=SPARE | 1)


def test_the_current_tss_must_hold_what_is_saved(g: Guest) -> None:
    describe(g, TSS32, 0x5E, TSS, TSS_SELECTOR)
    g.m.regs.tr = TSS_SELECTOR
    g.fault(far_jmp(SPARE), vector=BAD_TSS, error=TSS_SELECTOR)
    describe(g, TSS32, 0x5F, TSS, TSS_SELECTOR)
    g.m.regs.tr = TSS_SELECTOR
    g.m.regs.esp = STACKS[0]
    g.run(far_jmp(SPARE), limit=1)
    assert g.m.regs.tr == SPARE


# Pages


def with_pages(g: Guest, bits: dict[int, int]) -> None:
    entries = [n << 12 | bits.get(n << 12, 7) for n in range(1024)]
    g.m.memory.write(TABLES, imm((TABLES + 0x1000) | 7) + bytes(4092))
    g.m.memory.write(TABLES + 0x1000, b"".join(imm(e) for e in entries))
    g.m.regs.cr3 = TABLES


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", ["old", "new"])
@pytest.mark.parametrize("half", ["first", "second"])
def test_a_tss_over_a_page_end_with_a_hole(g: Guest, way: str, which: str, half: str) -> None:
    """7.3, step 5: both are checked before anything is saved, so the old task gets the #PF."""
    middle = DATA + 0x2000
    at = middle - 0x34
    if which == "old":
        describe(g, TSS32, at=at, selector=TSS_SELECTOR)
        g.m.regs.tr = TSS_SELECTOR
        g.m.memory.write(at + 4, imm(STACKS[0]) + imm(K_DS))
        g.m.memory.write(at, imm(SPARE, 2))
    else:
        describe(g, at=at)
        write_task(g, at=at)
    prepare(g, way)
    hole = middle - 0x1000 if half == "first" else middle
    if (way, which, half) == ("return", "old", "first"):
        first, error = at, 0  # the link is read
    elif which == "old":
        first, error = (at + 0x20 if half == "first" else middle), 2
    else:
        first, error = (at if half == "first" else at + 0x67), 0
    with_pages(g, {hole: 0})
    table = g.m.memory.read(GDT, GDT_END)
    frame = g.fault(instruction(way), vector=PAGE, error=error)
    assert frame.eip == CODE
    assert g.m.regs.cr2 == first
    assert (g.m.regs.tr, g.m.memory.read(GDT, GDT_END)) == (TSS_SELECTOR, table)
    with_pages(g, {})
    g.m.regs.esp, g.m.regs.eflags = STACKS[0], FIXED | (NT if way == "return" else 0)
    g.run(instruction(way), limit=1)
    assert (g.m.regs.tr, g.m.regs.eip, g.m.regs.edi) == (SPARE, TASK2, PLAIN["edi"])


def test_a_read_only_new_tss_may_be_jumped_to_but_not_called(g: Guest) -> None:
    """Only the link is written there (with CR0.WP)."""
    at = DATA + 0x2000
    describe(g, at=at)
    write_task(g, at=at, cr3=TABLES)
    with_pages(g, {at: 5})
    g.m.regs.cr0 |= 0x10000
    g.fault(far_call(SPARE), vector=PAGE, error=3)
    assert g.m.regs.cr2 == at
    g.run(far_jmp(SPARE), limit=1)
    assert g.m.regs.tr == SPARE


def test_page_tables_of_the_new_task_that_lack_the_gdt(g: Guest) -> None:
    """Behind the commit point: nothing can be delivered any more, and the machine shuts down in the new task."""
    write_task(g, cr3=TABLES)
    old = g.m.regs.cr3
    with_pages(g, {GDT: 0, IDT: 0})
    g.m.regs.cr3 = old
    stop = g.run(far_jmp(SPARE))
    assert (stop.reason, stop.vector, stop.eip) == (StopReason.SHUTDOWN, PAGE, TASK2)
    assert (g.m.regs.tr, g.m.regs.cr3) == (SPARE, TABLES)


def test_a_tss_over_the_page_tables(g: Guest) -> None:
    """The save rewrites the tables that map the new TSS: any exception will do, host memory is safe (step 12)."""
    with_pages(g, {})
    describe(g, TSS32, 0x67, TABLES + 0x1000 + 4 * (TSS2 >> 12) - 0x24, TSS_SELECTOR)
    g.m.regs.tr = TSS_SELECTOR
    g.m.regs.eflags = FIXED
    g.run(mov("eax", 0), far_jmp(SPARE), limit=50)
    assert g.m.regs.tr in (SPARE, TSS_SELECTOR)


# Checks behind the commit point, in the order of table 7-1: the fault is the new task's

LATE = [
    ({"ldt": K_DS}, BAD_TSS, K_DS, {}),
    ({"ldt": GDT_END}, BAD_TSS, GDT_END, {}),
    ({"ldt": LDT_DATA}, BAD_TSS, LDT_DATA, {}),
    ({"ldt": SPARE3}, BAD_TSS, SPARE3, {SPARE3: LDT_TYPE & 0x7F}),
    ({"cs": 0}, BAD_TSS, 0, {}),
    ({"cs": GDT_END}, BAD_TSS, GDT_END, {}),
    ({"cs": U_CS & ~3}, BAD_TSS, U_CS & ~3, {}),
    ({"cs": SPARE3}, BAD_TSS, SPARE3, {SPARE3: CODE_CONFORMING | 0x60}),
    ({"cs": K_DS}, BAD_TSS, K_DS, {}),
    ({"cs": SPARE3}, ABSENT, SPARE3, {SPARE3: CODE_RX & 0x7F}),
    ({"cs": LDT_CODE, "ldt": 0}, BAD_TSS, LDT_CODE, {}),
    ({"ss": 0}, BAD_TSS, 0, {}),
    ({"ss": GDT_END}, BAD_TSS, GDT_END, {}),
    ({"ss": K_CS}, BAD_TSS, K_CS, {}),
    ({"ss": SPARE3}, BAD_TSS, SPARE3, {SPARE3: DATA_RO}),
    ({"ss": SPARE3}, STACK, SPARE3, {SPARE3: DATA_RW & 0x7F}),
    ({"ss": R1_DS & ~3}, BAD_TSS, R1_DS & ~3, {}),
    ({"ss": K_DS | 1}, BAD_TSS, K_DS, {}),
    ({"ds": GDT_END}, BAD_TSS, GDT_END, {}),
    ({"es": TSS_SELECTOR}, BAD_TSS, TSS_SELECTOR, {}),
    ({"fs": SPARE3}, BAD_TSS, SPARE3, {SPARE3: CODE_X}),
    ({"gs": SPARE3}, ABSENT, SPARE3, {SPARE3: DATA_RW & 0x7F}),
    ({"gs": K_DS | 1}, BAD_TSS, K_DS, {}),
    # two at once: the earlier row wins
    ({"ldt": GDT_END, "cs": 0}, BAD_TSS, GDT_END, {}),
    ({"cs": U_CS & ~3, "ss": 0}, BAD_TSS, U_CS & ~3, {}),
    ({"ss": GDT_END, "ldt": SPARE3}, BAD_TSS, GDT_END, {SPARE3: LDT_TYPE & 0x7F}),
    ({"ldt": SPARE3, "cs": K_DS}, BAD_TSS, SPARE3, {SPARE3: LDT_TYPE & 0x7F}),
    ({"ss": SPARE3, "cs": K_DS}, STACK, SPARE3, {SPARE3: DATA_RW & 0x7F}),
    ({"ss": K_DS | 1, "cs": SPARE3}, ABSENT, SPARE3, {SPARE3: CODE_RX & 0x7F}),
    ({"ss": K_DS | 1, "ds": GDT_END}, BAD_TSS, K_DS, {}),
]


@pytest.mark.parametrize(("fields", "vector", "error", "access"), LATE, ids=[f"{n}" for n in range(len(LATE))])
@pytest.mark.parametrize("way", [*WAYS, "external"])
def test_late_checks(g: Guest, way: str, fields: Task, vector: int, error: int, access: dict[int, int]) -> None:
    """The handler is a task too, since the stack of the one that failed may not be usable."""
    for selector, byte in access.items():
        g.descriptor(selector, LDT, 0xFFFFF, byte)
    write_task(g, **fields)
    handler = DATA + 0x400
    describe(g, at=handler, selector=GATE)
    write_task(g, at=handler, eip=CODE + 0x1800)
    g.m.memory.write(CODE + 0x1800, HLT)
    for exception in (BAD_TSS, ABSENT, STACK, PROTECTION):
        g.gate(exception, present=False)
    g.m.memory.write(IDT + 8 * vector, gate(GATE, 0, TASK, 0))
    if way == "external":
        g.m.regs.eflags |= IF
        g.m.interrupt(0x40)
        g.run(NOP)
    else:
        prepare(g, way)
        start = g.m.icount
        g.run(instruction(way))
        assert g.m.icount == start + 2
    ext = way == "external"
    assert (g.m.regs.tr, g.m.regs.eip) == (GATE, CODE + 0x1801)
    assert g.m.memory.u32(STACK2 - 4) == error | ext
    # The failed task was entered: it is the one that is left, at its first instruction, with RF for the fault.
    nested = NT if way in ("call", "event", "external") else 0
    assert (field(g, "eip", at=TSS2), field(g, "eflags", at=TSS2)) == (TASK2, FIXED | CF | DF | nested | RF)
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        assert field(g, name, at=TSS2) == (PLAIN | fields)[name], name
    assert field(g, "eax", at=TSS2) == PLAIN["eax"]
    assert g.m.memory.u16(handler) == SPARE
    assert g.access_byte(SPARE) & BUSY


def test_eip_beyond_the_code_segment(g: Guest) -> None:
    """SDM vol. 2, JMP: #GP(0) in the new task."""
    g.descriptor(SPARE3, 0, 0xFFF, CODE_RX, 4)
    write_task(g, cs=SPARE3)
    g.run(far_jmp(SPARE))
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip, frame.cs, frame.at) == (PROTECTION, 0, TASK2, SPARE3, STACK2 - 16)


def test_no_room_for_the_error_code(g: Guest) -> None:
    """#SS(EXT) in the new task behind a fault that was contributory: a double fault."""
    g.descriptor(SPARE3, 0, STACK2 - 4, DOWN_RW, 4)
    write_task(g, ss=SPARE3)
    g.m.memory.write(IDT + 8 * PROTECTION, gate(SPARE, 0, TASK, 0))
    handler = DATA + 0x400
    describe(g, at=handler, selector=GATE)
    write_task(g, at=handler, eip=CODE + 0x1800)
    g.m.memory.write(CODE + 0x1800, HLT)
    g.m.memory.write(IDT + 8 * DOUBLE, gate(GATE, 0, TASK, 0))
    g.run(mov("eax", GDT_END), mov_sreg("ds"))
    assert (g.m.regs.tr, g.m.regs.eip, g.m.memory.u32(STACK2 - 4)) == (GATE, CODE + 0x1801, 0)
    assert field(g, "esp", at=TSS2) == STACK2


def test_tasks_that_call_each_other_until_none_is_free(g: Guest) -> None:
    """Every task of the chain stays busy (7.4)."""
    g.m.memory.write(TASK2, far_call(TSS_SELECTOR))
    g.run(far_call(SPARE))
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip) == (PROTECTION, TSS_SELECTOR, TASK2)


@pytest.mark.parametrize("row", range(len(LATE)))
def test_late_checks_in_ring_3(g: Guest, row: int) -> None:
    """The CPL of the new CS counts even if that could not be loaded: the handler gets the new TSS's stack of ring 0."""
    fields, vector, error, access = LATE[row]
    if "cs" in fields or fields.get("ss") == K_DS | 1:
        return
    for selector, byte in access.items():
        g.descriptor(selector, LDT, 0xFFFFF, byte)
    write_task(g, **({"cs": U_CS, "ss": U_DS, "ds": U_DS, "es": U_DS, "gs": U_DS} | fields))
    g.m.memory.write(TSS2 + 4, imm(STACKS[0] - 0x100) + imm(K_DS))
    if fields.get("ss") == R1_DS & ~3:
        error = R1_DS & ~3
    g.run(far_jmp(SPARE))
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip, frame.esp) == (vector, error, TASK2, STACK2)
    assert (frame.cs, frame.ss, frame.at) == (U_CS, fields.get("ss", U_DS), STACKS[0] - 0x100 - 24)


@pytest.mark.parametrize("dpl", [0, 2, 3])
def test_a_conforming_code_segment(g: Guest, dpl: int) -> None:
    """Its DPL may not be above the RPL (SDM vol. 3, table 6-6)."""
    g.descriptor(SPARE3, 0, 0xFFFFF, CODE_CONFORMING | dpl << 5)
    write_task(g, cs=SPARE3 | 3, ss=U_DS, ds=U_DS, es=U_DS, gs=0)
    g.run(far_jmp(SPARE), limit=2)
    assert (g.m.regs.eip, g.m.regs.cs, g.m.regs.cpl) == (TASK2 + 1, SPARE3 | 3, 3)
