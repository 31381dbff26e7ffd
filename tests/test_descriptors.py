"""LAR, LSL, VERR, VERW and ARPL, and the registers that name tables: GDTR, IDTR, LDTR, TR."""

from __future__ import annotations

import pytest

from pykprobes import Machine

from .guest_code import *

LAR, LSL = b"\x0f\x02\xc8", b"\x0f\x03\xc8"  # lar ecx, eax; lsl ecx, eax
SLDT, STR, LLDT, LTR, VERR, VERW = range(6)
SGDT, SIDT, LGDT, LIDT, SMSW = range(5)
SYSTEM_TYPES = range(16)
LAR_TYPES = {1, 2, 3, 4, 5, 9, 11, 12}
LSL_TYPES = {1, 2, 3, 9, 11}


@pytest.fixture
def g() -> Guest:
    return Guest()


def zf(g: Guest, *parts: bytes, ring: int = 0) -> bool:
    g.m.regs.esp = STACKS[0]
    return bool(g.passes(*parts, ring=ring).eflags & ZF)


# Looking at descriptors

CASES = [  # selector, access of SPARE, ring, LAR and LSL see it, VERR, VERW
    (0, None, 0, False, False, False),
    (3, None, 3, False, False, False),
    (GDT_END, None, 0, False, False, False),
    (LDT_END | 4, None, 0, False, False, False),
    (LDT_DATA, None, 0, True, True, True),
    (SPARE, DATA_RW, 0, True, True, True),
    (SPARE, DATA_RW & 0x7F, 0, True, True, True),  # presence is not looked at
    (SPARE, DATA_RO, 0, True, True, False),
    (SPARE, DOWN_RW, 0, True, True, True),
    (SPARE, CODE_RX, 0, True, True, False),
    (SPARE, CODE_X, 0, True, False, False),
    (SPARE, DATA_RW, 3, False, False, False),
    (SPARE | 3, DATA_RW, 0, False, False, False),
    (SPARE | 3, DATA_RW | 0x60, 3, True, True, True),
    (SPARE | 1, DATA_RW | 0x20, 0, True, True, True),
    (SPARE | 3, CODE_CONFORMING, 3, True, True, False),
    (SPARE | 3, 0x9C, 3, True, False, False),
]


@pytest.mark.parametrize(("selector", "access", "ring", "seen", "readable", "writable"), CASES)
def test_inspection(
    g: Guest, selector: int, access: int | None, ring: int, seen: bool, readable: bool, writable: bool
) -> None:
    if access is not None:
        g.descriptor(SPARE, 0x12345678, 0xABCDE, access, 0xD)
    if selector == LDT_DATA:
        access = DATA_RW
    setup = mov("ecx", 0x55) + mov("eax", selector)
    assert zf(g, setup, LAR, ring=ring) == seen
    at = (LDT if selector & 4 else GDT) + (selector & ~7)
    rights = g.m.memory.u32(at + 4) & 0xF0FF00 if seen else 0x55
    assert g.m.regs.ecx & ~0xF0000 == rights  # those four bits are undefined (SDM vol. 2, LAR)
    assert zf(g, setup, LSL, ring=ring) == seen
    assert g.m.regs.ecx == ((0xFFFFFFFF if selector == LDT_DATA else 0xABCDEFFF) if seen else 0x55)
    assert zf(g, setup, system(VERR), ring=ring) == readable
    assert zf(g, setup, system(VERW), ring=ring) == writable
    if access is not None and selector & ~7 == SPARE:
        assert g.access_byte(SPARE) == access  # not accessed


@pytest.mark.parametrize("kind", SYSTEM_TYPES)
def test_system_descriptors(g: Guest, kind: int) -> None:
    g.descriptor(SPARE, 0, 0x123, 0x80 | kind, 0)
    setup = mov("ecx", 0x55) + mov("eax", SPARE)
    assert zf(g, setup, LAR) == (kind in LAR_TYPES)
    assert g.m.regs.ecx == (0x8000 | kind << 8 if kind in LAR_TYPES else 0x55)
    assert zf(g, setup, LSL) == (kind in LSL_TYPES)
    assert g.m.regs.ecx == (0x123 if kind in LSL_TYPES else 0x55)
    assert not zf(g, setup, system(VERR))
    assert not zf(g, setup, system(VERW))


def test_16_bit_forms_keep_the_upper_half(g: Guest) -> None:
    g.descriptor(SPARE, 0, 0x12345, DATA_RW, 0x4)
    setup = mov("ecx", -1) + mov("eax", SPARE)
    assert zf(g, setup, O16 + LAR)
    assert g.m.regs.ecx == 0xFFFF9200
    assert zf(g, setup, O16 + LSL)
    assert g.m.regs.ecx == 0xFFFF2345


def test_flags_other_than_zf_stay(g: Guest) -> None:
    g.m.regs.eflags = FIXED | CF | PF | AF | SF | OF
    assert g.passes(mov("eax", GDT_END), LAR).eflags == FIXED | CF | PF | AF | SF | OF


@pytest.mark.parametrize(
    ("dest", "source", "result"), [(0x10, 0x13, 0x13), (0x12, 0x03, 0x13), (0x13, 0x11, None), (0x12, 0x12, None)]
)
def test_arpl(g: Guest, dest: int, source: int, result: int | None) -> None:
    arpl = b"\x63\xc8"  # arpl ax, cx
    raised = zf(g, mov("eax", 0xAAAA0000 | dest), mov("ecx", source), arpl, ring=3)
    assert raised == (result is not None)
    assert g.m.regs.eax == 0xAAAA0000 | (dest if result is None else result)


def test_arpl_writes_memory_only_when_it_raises(g: Guest) -> None:
    g.descriptor(SPARE, 0, 0xFFFFF, DATA_RO)
    arpl = b"\x65\x66\x63\x0d" + imm(DATA)  # arpl gs:[DATA], cx
    g.m.memory.write(DATA, imm(0x11, 2))
    assert not zf(g, set_sreg("gs", SPARE), mov("ecx", 0), arpl)
    g.m.regs.esp = STACKS[0]
    g.fault(set_sreg("gs", SPARE), mov("ecx", 3), arpl, vector=PROTECTION, error=0)
    assert g.m.memory.u16(DATA) == 0x11


# GDTR and IDTR


@pytest.mark.parametrize(("field", "name"), [(LGDT, "gdtr"), (LIDT, "idtr")])
@pytest.mark.parametrize("prefix", [b"", O16])
def test_lgdt_and_lidt(g: Guest, field: int, name: str, prefix: bytes) -> None:
    g.m.memory.write(DATA, imm(0x1234, 2) + imm(0xFEDCBA98))
    g.put(prefix + table(field, DATA), prefix + table(field - 2, DATA + 0x10), NOP)
    g.m.memory.fill(DATA + 0x10, 8, 0xEE)
    g.m.regs.eip = CODE
    assert g.m.run(max_instructions=2).icount == g.m.icount
    base = 0xDCBA98 if prefix else 0xFEDCBA98
    assert (getattr(g.m.regs, name + "_base"), getattr(g.m.regs, name + "_limit")) == (base, 0x1234)
    assert g.m.memory.read(DATA + 0x10, 8) == imm(0x1234, 2) + imm(base) + b"\xee\xee"


@pytest.mark.parametrize("field", [LGDT, LIDT])
def test_lgdt_is_privileged_and_a_fault_loads_nothing(g: Guest, field: int) -> None:
    g.fault(table(field, DATA), vector=PROTECTION, error=0, ring=3)
    g = Guest()
    g.descriptor(SPARE, 0, DATA + 4, DATA_RW, 0x4)
    before = dict(g.m.regs)
    g.fault(set_sreg("gs", SPARE), b"\x65" + table(field, DATA), vector=PROTECTION, error=0)
    for name in ("gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit"):
        assert getattr(g.m.regs, name) == before[name]
    g.m.regs.esp = STACKS[0]
    g.fault(b"\x0f\x01" + bytes([0xC0 | field << 3]), vector=INVALID)


@pytest.mark.parametrize("field", [SGDT, SIDT])
def test_sgdt_is_for_everybody_and_stores_all_or_nothing(g: Guest, field: int) -> None:
    g.passes(table(field, DATA), ring=3)
    assert g.m.memory.u32(DATA + 2) == (GDT if field == SGDT else IDT)
    g = Guest()
    g.descriptor(SPARE, 0, DATA + 4, DATA_RW, 0x4)
    g.m.memory.fill(DATA, 8, 0xEE)
    g.fault(set_sreg("gs", SPARE), b"\x65" + table(field, DATA), vector=PROTECTION, error=0)
    assert g.m.memory.read(DATA, 8) == b"\xee" * 8


# LDTR and TR


@pytest.mark.parametrize(
    ("field", "selector", "access", "vector", "error"),
    [
        (LLDT, LDT_DATA, None, PROTECTION, LDT_DATA),
        (LLDT, GDT_END, None, PROTECTION, GDT_END),
        (LLDT, K_DS, None, PROTECTION, K_DS),
        (LLDT, TSS_SELECTOR, None, PROTECTION, TSS_SELECTOR),
        (LLDT, SPARE, 0x02, ABSENT, SPARE),
        (LTR, 0, None, PROTECTION, 0),
        (LTR, 3, None, PROTECTION, 0),
        (LTR, LDT_DATA, None, PROTECTION, LDT_DATA),
        (LTR, GDT_END, None, PROTECTION, GDT_END),
        (LTR, TSS_SELECTOR, None, PROTECTION, TSS_SELECTOR),  # busy: it is the current one
        (LTR, LDT_SELECTOR, None, PROTECTION, LDT_SELECTOR),
        (LTR, SPARE, 0x83, PROTECTION, SPARE),
        (LTR, SPARE, 0x09, ABSENT, SPARE),
        (LTR, SPARE, 0x0B, PROTECTION, SPARE),
    ],
)
def test_lldt_and_ltr_refusals(
    g: Guest, field: int, selector: int, access: int | None, vector: int, error: int
) -> None:
    if access is not None:
        g.descriptor(SPARE, 0, 0x67, access, 0)
    g.fault(mov("eax", selector), system(field), vector=vector, error=error)
    assert (g.m.regs.ldtr, g.m.regs.tr) == (LDT_SELECTOR, TSS_SELECTOR)
    if access is not None:
        assert g.access_byte(SPARE) == access


@pytest.mark.parametrize("access", [TSS32, TSS16])
def test_ltr_marks_the_tss_busy(g: Guest, access: int) -> None:
    assert g.access_byte(TSS_SELECTOR) == TSS32_BUSY
    g.descriptor(SPARE, DATA, 0x67, access, 0)
    g.passes(mov("eax", SPARE | 3), system(LTR))
    assert g.m.regs.tr == SPARE | 3
    assert g.access_byte(SPARE) == access | 2
    assert g.access_byte(TSS_SELECTOR) == TSS32_BUSY  # the old one stays so


@pytest.mark.parametrize("null", [0, 3])
def test_a_null_ldtr_has_no_descriptors(g: Guest, null: int) -> None:
    g.passes(mov("eax", null), system(LLDT), system(SLDT, "ecx"))
    assert (g.m.regs.ldtr, g.m.regs.ecx) == (null, null)
    g.m.regs.esp = STACKS[0]
    g.fault(mov("eax", LDT_DATA), mov_sreg("gs"), vector=PROTECTION, error=LDT_DATA)
    assert not zf(g, mov("eax", LDT_DATA), system(VERR))


@pytest.mark.parametrize("field", [LLDT, LTR])
def test_lldt_and_ltr_are_privileged(g: Guest, field: int) -> None:
    g.fault(mov("eax", 0), system(field), vector=PROTECTION, error=0, ring=3)


@pytest.mark.parametrize(("field", "value"), [(SLDT, LDT_SELECTOR), (STR, TSS_SELECTOR)])
def test_sldt_and_str(g: Guest, field: int, value: int) -> None:
    g.m.memory.fill(DATA, 4, 0xEE)
    to_memory = b"\x0f\x00" + bytes([field << 3 | 5]) + imm(DATA)
    g.passes(mov("ecx", -1), mov("edx", -1), system(field, "ecx"), O16 + system(field, "edx"), to_memory, ring=3)
    assert (g.m.regs.ecx, g.m.regs.edx) == (value, 0xFFFF0000 | value)
    assert g.m.memory.u32(DATA) == 0xEEEE0000 | value


def test_smsw(g: Guest) -> None:
    g.m.memory.fill(DATA, 4, 0xEE)
    cr0 = g.m.regs.cr0
    g.passes(mov("ecx", -1), b"\x0f\x01\xe1", b"\x0f\x01\x25" + imm(DATA), ring=3)
    assert (g.m.regs.ecx, g.m.memory.u32(DATA)) == (cr0, 0xEEEE0000 | cr0 & 0xFFFF)


@pytest.mark.parametrize(
    "code", [LAR, LSL, system(SLDT), system(STR), system(LLDT), system(LTR), system(VERR), b"\x63\xc8"]
)
def test_real_mode_has_none_of_them(code: bytes) -> None:
    with Machine(memory=MEMORY, kernel=None) as m:
        m.regs.cs = 0x1000
        m.regs.eip = 0
        m.memory.write(0x10000, code)
        m.memory.write(6 * 4, imm(0x2000_0000))
        m.memory.write(0x20000, HLT)
        m.regs.esp = 0x8000
        assert m.run(max_instructions=10).eip == 1
        assert m.regs.cs == 0x2000
