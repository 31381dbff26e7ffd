"""Model-specific registers, RDPMC, SYSENTER and SYSEXIT (SDM vol. 2, their pages; vol. 3, 5.8.7)."""

from __future__ import annotations

import pytest

from .guest_code import *

RDMSR, WRMSR, RDPMC, SYSENTER, SYSEXIT = b"\x0f\x32", b"\x0f\x30", b"\x0f\x33", b"\x0f\x34", b"\x0f\x35"
TSC, APIC_BASE = 0x10, 0x1B
SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP = 0x174, 0x175, 0x176
ENTRY, USER = CODE + 0x800, CODE + 0x900


@pytest.fixture
def g() -> Guest:
    return Guest()


def write(msr: int, value: int, high: int = 0) -> bytes:
    return mov("ecx", msr) + mov("eax", value) + mov("edx", high) + WRMSR


def read(msr: int) -> bytes:
    return mov("ecx", msr) + mov("edx", -1) + RDMSR


def ready(g: Guest, selector: int = K_CS) -> None:
    """The order of descriptors that both instructions assume: ring 0 code and stack, ring 3 code and stack."""
    g.passes(write(SYSENTER_CS, selector), write(SYSENTER_ESP, STACKS[0] - 0x100), write(SYSENTER_EIP, ENTRY))
    g.m.memory.write(ENTRY, NOP + HLT)
    g.m.memory.write(USER, NOP + interrupt(DONE))
    g.m.regs.esp = STACKS[0]
    g.m.regs.eflags = FIXED


@pytest.mark.parametrize("msr", [SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP])
def test_they_hold_32_bits(g: Guest, msr: int) -> None:
    g.passes(read(msr))
    assert (g.m.regs.eax, g.m.regs.edx) == (0, 0)
    g.m.regs.esp = STACKS[0]
    g.passes(write(msr, 0x89ABCDEF, 0xFFFF), read(msr))
    assert (g.m.regs.eax, g.m.regs.edx) == (0x89ABCDEF, 0)


def test_the_tsc(g: Guest) -> None:
    """SDM vol. 3, 17.17: on family 6 a write clears the upper half."""
    g.passes(write(TSC, 0xFFFFFFF0, 7), NOP * 20, read(TSC))
    assert (g.m.regs.edx, g.m.regs.eax) == (1, 0xFFFFFFF0 + 23 - 0x100000000)
    g.m.regs.esp = STACKS[0]
    g.passes(write(TSC, 100), b"\x0f\x31", b"\x89\xc3", read(TSC))
    assert (g.m.regs.ebx, g.m.regs.eax) == (101, 105)


@pytest.mark.parametrize("msr", [0, APIC_BASE, 0x11, 0x173, 0x177, 0x186, 0xC1, 0x2FF, 0xC0000080, 0xFFFFFFFF])
@pytest.mark.parametrize("code", [RDMSR, WRMSR])
def test_those_that_are_not_there(g: Guest, msr: int, code: bytes) -> None:
    g.fault(mov("ecx", msr), code, vector=PROTECTION, error=0)


@pytest.mark.parametrize("code", [RDMSR, WRMSR, RDPMC, SYSEXIT])
@pytest.mark.parametrize("ring", [1, 3])
def test_they_are_privileged(g: Guest, code: bytes, ring: int) -> None:
    ready(g)
    g.m.regs.ecx = SYSENTER_CS
    g.m.regs.eax = 0
    g.enter(ring)
    g.run(code)
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip) == (PROTECTION, 0, CODE)
    g.enter(0)
    g.m.regs.cs, g.m.regs.ss, g.m.regs.esp = K_CS, K_DS, STACKS[0]
    g.passes(read(SYSENTER_CS))
    assert g.m.regs.eax == K_CS


@pytest.mark.parametrize("counter", [0, 1, 2, 0x40000000])
def test_there_are_no_performance_counters(g: Guest, counter: int) -> None:
    g.fault(mov("ecx", counter), RDPMC, vector=PROTECTION, error=0)


@pytest.mark.parametrize("ring", [0, 3])
def test_sysenter(g: Guest, ring: int) -> None:
    ready(g)
    g.enter(ring)
    g.m.regs.eflags = FIXED | IF | CF | DF
    before = dict(g.m.regs)
    g.run(SYSENTER, limit=2)
    regs = g.m.regs
    assert (regs.eip, regs.esp, regs.cpl) == (ENTRY + 1, STACKS[0] - 0x100, 0)
    assert (regs.cs, regs.ss, regs.eflags) == (K_CS, K_DS, FIXED | CF | DF)
    changed = {name for name, value in before.items() if dict(regs)[name] != value}
    assert changed <= {"eip", "esp", "cs", "ss", "eflags", "cpl"}


def test_the_hidden_parts_are_fixed_whatever_the_tables_say(g: Guest) -> None:
    """Flat 32-bit segments; the GDT is not even read."""
    ready(g, 0xFF08)
    g.enter(3)
    g.m.memory.write(ENTRY, b"\x36\x8b\x0d" + imm(DATA) + b"\x2e\x8b\x1d" + imm(DATA) + HLT)
    g.m.memory.write(DATA, imm(0x1234567))
    g.run(SYSENTER)
    assert (g.m.regs.cs, g.m.regs.ss, g.m.regs.cpl) == (0xFF08, 0xFF10, 0)
    assert g.m.regs.ecx == g.m.regs.ebx == 0x1234567


@pytest.mark.parametrize("selector", [0, 1, 2, 3, 0xFFFF0000])
@pytest.mark.parametrize("code", [SYSENTER, SYSEXIT])
def test_a_null_selector(g: Guest, selector: int, code: bytes) -> None:
    ready(g, selector)
    g.fault(code, vector=PROTECTION, error=0)


def test_sysexit(g: Guest) -> None:
    for n, access in ((0, CODE_RX), (8, DATA_RW)):
        g.descriptor(SPARE + n, 0, 0xFFFFF, access)
    ready(g, K_CS + 3)  # ring 3: K_CS + 16 and K_CS + 24, which is where U_CS and U_DS are
    g.m.regs.eflags = FIXED | IF | OF
    g.run(mov("ecx", STACKS[3] - 8), mov("edx", USER), SYSEXIT, limit=4)
    regs = g.m.regs
    assert (regs.eip, regs.esp, regs.cpl) == (USER + 1, STACKS[3] - 8, 3)
    assert (regs.cs, regs.ss, regs.eflags) == (U_CS, U_DS, FIXED | IF | OF)
    g.m.run(max_instructions=1)
    frame = g.frame()
    assert (frame.cs, frame.ss, frame.esp) == (U_CS, U_DS, STACKS[3] - 8)


def test_real_mode(g: Guest) -> None:
    """Both need CR0.PE; RDMSR does not."""
    g.passes(write(SYSENTER_CS, K_CS))
    g.m.regs.cr0 = g.m.regs.cr0 & 0x7FFFFFFE
    for name in ("cs", "ss", "ds"):
        setattr(g.m.regs, name, 0)
    g.m.regs.idtr_base = DATA
    g.m.memory.write(DATA + 4 * PROTECTION, imm(0x7000, 2) + imm(0, 2))
    for code, where in ((SYSENTER, 0x7000), (SYSEXIT, 0x7000), (RDMSR, 0x6002)):
        g.m.regs.esp, g.m.regs.eip, g.m.regs.ecx = 0x5000, 0x6000, SYSENTER_CS
        g.m.memory.write(0x6000, code)
        g.m.memory.write(0x7000, NOP)
        g.m.run(max_instructions=1)
        assert g.m.regs.eip == where + (where == 0x7000)
    assert g.m.regs.eax == K_CS


def test_sysenter_from_virtual_8086_mode(g: Guest) -> None:
    ready(g)
    g.m.memory.write(0x9000, SYSENTER)
    g.run(push(0, 0, 0, 0, 0x3000, 0x100, FIXED | VM, 0x900, 0), IRET, limit=11)
    assert (g.m.regs.cpl, g.m.regs.eip, g.m.regs.cs, g.m.regs.eflags) == (0, ENTRY, K_CS, FIXED)
    assert g.m.regs.ds == 0
