"""Setting registers from Python: what is refused leaves the whole CPU as it was."""

from __future__ import annotations

import pytest

from pykprobes import Machine

from .guest_code import *


@pytest.fixture
def g() -> Guest:
    return Guest()


SEGMENTS = ("es", "ss", "ds", "fs", "gs")


def refused(g: Guest, name: str, value: int) -> None:
    registers = dict(g.m.regs)
    tables = g.m.memory.read(GDT, 0x2000)
    with pytest.raises(ValueError, match=f"{name}|does not fit"):
        setattr(g.m.regs, name, value)
    assert dict(g.m.regs) == registers
    assert g.m.memory.read(GDT, 0x2000) == tables
    g.passes(b"\xa1" + imm(DATA), b"\x26\xa1" + imm(DATA), b"\x64\xa1" + imm(DATA), b"\x65\xa1" + imm(DATA))


@pytest.mark.parametrize("name", [*SEGMENTS, "cs", "ldtr", "tr"])
@pytest.mark.parametrize("selector", [GDT_END, LDT_END | 4, 0x10000, SPARE, TSS_SELECTOR | 4])
def test_selectors_that_would_fault(g: Guest, name: str, selector: int) -> None:
    g.descriptor(SPARE, 0, 0xFFFFF, DATA_RW & 0x7F)
    refused(g, name, selector)


@pytest.mark.parametrize(
    ("name", "selector"),
    [
        ("cs", 0), ("cs", K_DS), ("cs", K_CS | 3), ("cs", U_CS & ~3), ("cs", TSS_SELECTOR),
        ("ss", 0), ("ss", K_CS), ("ss", U_DS), ("ss", K_DS | 3), ("ds", K_DS | 3), ("es", TSS_SELECTOR),
        ("ldtr", K_DS), ("ldtr", TSS_SELECTOR), ("ldtr", LDT_DATA), ("tr", 0), ("tr", LDT_SELECTOR), ("tr", K_DS),
    ],
)  # fmt: skip
def test_selectors_of_the_wrong_kind(g: Guest, name: str, selector: int) -> None:
    refused(g, name, selector)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cr0", 0x80000000), ("cr0", 0xA0000001), ("cr4", 0x1), ("cr4", 0xFFFFFFFF), ("eflags", 0x8000),
        ("eflags", 1 << 22),
        ("gdtr_limit", 0x10000), ("idtr_limit", 0xFFFFFFFF), ("cpl", 3), ("eax", 1 << 32), ("eip", -(1 << 31) - 1),
    ],
)  # fmt: skip
def test_values_that_cannot_be_held(g: Guest, name: str, value: int) -> None:
    refused(g, name, value)


def test_a_selector_whose_descriptor_is_not_mapped() -> None:
    with Machine(memory=MEMORY) as m:
        m.regs.gdtr_base = 0x20000000
        registers = dict(m.regs)
        for name in (*SEGMENTS, "cs", "ldtr", "tr"):
            with pytest.raises(ValueError, match=name):
                setattr(m.regs, name, 0x18)
            assert dict(m.regs) == registers


def test_selectors_take_effect(g: Guest) -> None:
    g.descriptor(SPARE, DATA, 0xFFF, DATA_RW, 0x4)
    g.m.memory.write(DATA + 8, imm(0x1234))
    g.m.regs.gs = SPARE
    g.passes(b"\x65\xa1" + imm(8))
    assert g.m.regs.eax == 0x1234
    assert g.access_byte(SPARE) == DATA_RW | 1


def test_cs_sets_the_privilege(g: Guest) -> None:
    for selector, cpl in ((U_CS, 3), (R1_CS, 1), (K_CS, 0), (CONFORMING | 3, 3)):
        g.m.regs.cs = selector
        assert (g.m.regs.cs, g.m.regs.cpl) == (selector, cpl)


def test_a_busy_tss_can_be_set_again(g: Guest) -> None:
    g.m.regs.tr = TSS_SELECTOR
    assert g.access_byte(TSS_SELECTOR) == TSS32_BUSY


def test_null_selectors(g: Guest) -> None:
    g.m.regs.gs = 3
    g.m.regs.ldtr = 0
    assert (g.m.regs.gs, g.m.regs.ldtr) == (3, 0)
    g.fault(b"\x65\xa1" + imm(DATA), vector=PROTECTION, error=0)


def test_every_flag_can_be_set(g: Guest) -> None:
    value = CF | PF | AF | ZF | SF | TF | IF | DF | OF | NT | RF | AC | ID | 3 << 12 | FIXED
    g.m.regs.eflags = value
    assert g.m.regs.eflags == value
    g.m.regs.eflags = 0
    assert g.m.regs.eflags == FIXED


@pytest.mark.parametrize("name", [name for name in dict(Machine(memory=4096 * 2, kernel=None).regs) if name != "cpl"])
def test_setting_what_it_holds_changes_nothing(g: Guest, name: str) -> None:
    g.passes(NOP)
    before = dict(g.m.regs)
    setattr(g.m.regs, name, before[name])
    assert dict(g.m.regs) == before


def test_real_mode_takes_any_selector() -> None:
    with Machine(memory=MEMORY, kernel=None) as m:
        for name in (*SEGMENTS, "cs"):
            setattr(m.regs, name, 0x1234)
        m.memory.write(0x12340, b"\xa1" + imm(0x10, 2))
        m.memory.write(0x12350, b"\xcd\xab")
        m.regs.eip = 0
        m.run(max_instructions=1)
        assert (m.regs.ax, m.regs.eip) == (0xABCD, 3)
