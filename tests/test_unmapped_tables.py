"""Descriptor tables that go on in a page that is not there: #PF with the entry's address, in whatever needs it."""

from __future__ import annotations

import pytest

from pykprobes import StopReason

from .guest_code import *
from .test_task_switch import write_task

PAGES, END = 0x40000000, 0x40001000  # one page, and nothing behind it
TARGET, TSS2 = CODE + 0x800, DATA + 0x100

SELECTORS = {
    "mov ds": set_sreg("ds", SPARE),
    "mov ss": set_sreg("ss", SPARE),
    "pop fs": push(SPARE) + b"\x0f\xa1",
    "lgs": store_imm(DATA + 4, SPARE) + b"\x0f\xb5\x0d" + imm(DATA),
    "jmp": far_jmp(SPARE, TARGET),
    "call": far_call(SPARE, TARGET),
    "jmp gate": far_jmp(SPARE2),
    "call gate": far_call(SPARE2),
    "int": interrupt(0x40),
    "retf": push(SPARE, TARGET) + RETF,
    "iret": push(FIXED, SPARE, TARGET) + IRET,
    "lar": mov("eax", SPARE) + b"\x0f\x02\xc8",
    "lsl": mov("eax", SPARE) + b"\x0f\x03\xc8",
    "verr": mov("eax", SPARE) + system(4),
    "verw": mov("eax", SPARE) + system(5),
    "lldt": mov("eax", SPARE) + system(2),
    "ltr": mov("eax", SPARE) + system(3),
}
LAST = {"mov ds": 2, "mov ss": 2, "pop fs": 2, "lgs": 7, "jmp": 7, "call": 7, "jmp gate": 7, "call gate": 7, "int": 2,
        "retf": 1, "iret": 1, "lar": 3, "lsl": 3, "verr": 3, "verw": 3, "lldt": 3, "ltr": 3}  # fmt: skip


def moved(cut: int, descriptor_of_gate: int = 0x50) -> Guest:
    """A guest whose GDT has the descriptor of SPARE `cut` bytes before the hole."""
    g = Guest()
    g.gate(0x40, selector=SPARE, dpl=3)
    g.m.memory.write(GDT + descriptor_of_gate, gate(SPARE, TARGET, CALL32, 3))
    g.m.map(PAGES, 0x1000, "rw")
    base = END - SPARE - cut
    g.m.memory.write(base, g.m.memory.read(GDT, SPARE) + bytes(cut))
    g.m.regs.gdtr_base = base
    return g


@pytest.mark.parametrize("cut", [0, 1, 4, 7])
@pytest.mark.parametrize("name", SELECTORS)
def test_a_descriptor_behind_the_end(name: str, cut: int) -> None:
    g = moved(cut)
    code = SELECTORS[name].replace(imm(SPARE2, 2), imm(0x50, 2)) if "gate" in name else SELECTORS[name]
    head, last = code[: -LAST[name]], code[-LAST[name] :]
    g.fault(head, last, vector=PAGE, error=0)
    assert g.m.regs.cr2 == END


@pytest.mark.parametrize("name", ["mov ds", "call", "call gate", "int", "lar", "verw", "retf"])
def test_from_ring_3_it_is_read_as_supervisor(name: str) -> None:
    g = moved(0)
    code = SELECTORS[name].replace(imm(SPARE2, 2), imm(0x53, 2)) if "gate" in name else SELECTORS[name]
    if name == "retf":
        code = push(SPARE | 3, TARGET) + RETF
    g.fault(code[: -LAST[name]], code[-LAST[name] :], vector=PAGE, error=0, ring=3)
    assert g.m.regs.cr2 == END


@pytest.mark.parametrize("name", ["cs", "ss", "ds", "gs", "ldt"])
def test_a_new_tasks_descriptors(name: str) -> None:
    """Behind the commit point: the fault is the new task's, and its handler runs there."""
    g = Guest()
    g.descriptor(CODE16, TSS2, 0x67, TSS32, 0)
    write_task(g, **{name: SPARE})
    g.m.memory.write(TSS + 0x1C, imm(g.m.regs.cr3))
    g.m.map(PAGES, 0x1000, "rw")
    g.m.memory.write(END - SPARE, g.m.memory.read(GDT, SPARE))
    g.m.regs.gdtr_base = END - SPARE
    stop = g.run(far_jmp(CODE16))
    assert (g.m.regs.cr2, g.m.regs.tr) == (END, CODE16)
    if name in ("ds", "gs"):
        assert (stop.reason, g.vector(), g.frame(True).eip) == (StopReason.HALT, PAGE, g.m.memory.u32(TSS2 + 0x20))
    else:  # there is no stack segment yet, and so no place for a frame
        assert stop.reason is StopReason.SHUTDOWN


@pytest.mark.parametrize("how", ["int", "int in ring 3", "interrupt", "exception"])
@pytest.mark.parametrize("cut", [0, 3, 4])
def test_a_gate_behind_the_end(how: str, cut: int) -> None:
    g = Guest()
    vector = 17 if how == "exception" else 0x40
    g.m.map(PAGES, 0x1000, "rw")
    base = END - 8 * vector - cut
    g.m.memory.write(base, g.m.memory.read(IDT, 8 * vector) + bytes(cut))
    g.m.regs.idtr_base = base
    if how == "exception":  # an alignment check
        g.m.regs.cr0 |= 0x40000
        g.m.regs.eflags = FIXED | AC
        g.fault(load("ecx", DATA + 1), vector=PAGE, error=0, ring=3)
    elif how == "interrupt":
        g.m.regs.eflags = FIXED | IF
        assert g.m.interrupt(0x40)
        g.run(NOP)
        assert (g.vector(), g.frame(True).eip, g.frame(True).error) == (PAGE, CODE, 0)
    else:
        g.fault(interrupt(0x40), vector=PAGE, error=0, ring=3 if "ring" in how else 0)
    assert g.m.regs.cr2 == END


def test_an_ldt_and_an_io_bitmap_behind_the_end() -> None:
    g = Guest()
    g.m.map(PAGES, 0x1000, "rw")
    g.descriptor(SPARE, END - 8, 0xFF, LDT_TYPE, 0)
    g.m.regs.ldtr = SPARE
    g.fault(mov("eax", 0x0C), mov_sreg("ds"), vector=PAGE, error=0)
    assert g.m.regs.cr2 == END
    g = Guest()
    g.m.map(PAGES, 0x1000, "rw")
    g.m.memory.write(END - 0x68, g.m.memory.read(TSS, 0x68))
    g.descriptor(SPARE, END - 0x68, 0xFFF, TSS32, 0)
    g.m.regs.tr = SPARE
    g.fault(b"\xe4\x10", vector=PAGE, error=0, ring=3)
    assert g.m.regs.cr2 == END + 2


@pytest.mark.parametrize("table", ["gdtr", "idtr", "tr"])
@pytest.mark.parametrize("ring", [0, 3])
def test_a_table_that_is_not_there_at_all(table: str, ring: int) -> None:
    g = Guest()
    if table == "tr":
        g.descriptor(SPARE, END, 0x67, TSS32, 0)
        g.m.regs.tr = SPARE
    g.enter(ring)
    if table != "tr":
        setattr(g.m.regs, f"{table}_base", END)
    stop = g.run(UD2)
    if table == "tr" and ring == 0:
        assert (stop.reason, g.vector()) == (StopReason.HALT, INVALID)
    else:
        assert (stop.reason, stop.eip) == (StopReason.SHUTDOWN, CODE)
