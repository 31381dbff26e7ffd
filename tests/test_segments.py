"""Segment registers: what may be loaded, what the hidden part then allows, bases and limits."""

from __future__ import annotations

import pytest

from .guest_code import *

GS_BYTE = b"\x65\xa0"  # mov al, gs:[...]
TO_GS_BYTE = b"\x65\xa2"
GS_WORD32, TO_GS_WORD32 = b"\x65\xa1", b"\x65\xa3"
OUTSIDE_LDT = LDT_END | 4


@pytest.fixture
def g() -> Guest:
    return Guest()


def rows() -> list[tuple[str, int, int | None, int, int | None, int]]:
    """Segment, selector, access byte of SPARE if it is used, ring, vector or None, error code."""
    out: list[tuple[str, int, int | None, int, int | None, int]] = []
    for name in ("ds", "es", "fs", "gs"):
        out += [
            (name, 0, None, 0, None, 0),
            (name, 3, None, 3, None, 0),
            (name, GDT_END, None, 0, PROTECTION, GDT_END),
            (name, OUTSIDE_LDT, None, 0, PROTECTION, OUTSIDE_LDT),
            (name, LDT_DATA, None, 0, None, 0),
            (name, TSS_SELECTOR, None, 0, PROTECTION, TSS_SELECTOR),
            (name, SPARE, CODE_X, 0, PROTECTION, SPARE),
            (name, SPARE, CODE_RX, 0, None, 0),
            (name, SPARE, DATA_RO, 0, None, 0),
            (name, SPARE, DOWN_RW, 0, None, 0),
            (name, SPARE | 3, DATA_RW, 0, PROTECTION, SPARE),
            (name, SPARE | 1, DATA_RW | 0x20, 0, None, 0),
            (name, SPARE, DATA_RW, 3, PROTECTION, SPARE),
            (name, SPARE, DATA_RW | 0x60, 3, None, 0),
            (name, SPARE | 3, CODE_RX, 3, PROTECTION, SPARE),
            (name, SPARE | 3, CODE_CONFORMING, 3, None, 0),
            (name, SPARE | 3, 0x9C, 3, PROTECTION, SPARE),  # conforming, execute-only
            (name, SPARE, DATA_RW & 0x7F, 0, ABSENT, SPARE),
            (name, SPARE | 3, DATA_RW & 0x7F, 0, PROTECTION, SPARE),  # privilege comes first
            (name, SPARE, CODE_X & 0x7F, 0, PROTECTION, SPARE),  # and the type
        ]
    out += [
        ("ss", 0, None, 0, PROTECTION, 0),
        ("ss", 3, None, 3, PROTECTION, 0),
        ("ss", GDT_END, None, 0, PROTECTION, GDT_END),
        ("ss", OUTSIDE_LDT, None, 0, PROTECTION, OUTSIDE_LDT),
        ("ss", LDT_DATA, None, 0, None, 0),
        ("ss", TSS_SELECTOR, None, 0, PROTECTION, TSS_SELECTOR),
        ("ss", SPARE | 1, DATA_RW, 0, PROTECTION, SPARE),
        ("ss", SPARE, DATA_RW | 0x60, 0, PROTECTION, SPARE),
        ("ss", SPARE, DATA_RW, 3, PROTECTION, SPARE),
        ("ss", SPARE | 3, DATA_RW, 3, PROTECTION, SPARE),
        ("ss", SPARE, DATA_RW | 0x60, 3, PROTECTION, SPARE),
        ("ss", SPARE | 3, DATA_RW | 0x60, 3, None, 0),
        ("ss", SPARE, DATA_RO, 0, PROTECTION, SPARE),
        ("ss", SPARE, CODE_RX, 0, PROTECTION, SPARE),
        ("ss", SPARE, DATA_RW & 0x7F, 0, STACK, SPARE),
        ("ss", SPARE, DATA_RO & 0x7F, 0, PROTECTION, SPARE),
    ]
    return out


POPS = {"es": b"\x07", "ss": b"\x17", "ds": b"\x1f", "fs": b"\x0f\xa1", "gs": b"\x0f\xa9"}
FAR_LOADS = {"es": b"\xc4\x0d", "ds": b"\xc5\x0d", "ss": b"\x0f\xb2\x0d", "fs": b"\x0f\xb4\x0d", "gs": b"\x0f\xb5\x0d"}


@pytest.mark.parametrize("how", ["mov", "pop", "far pointer"])
@pytest.mark.parametrize(("name", "selector", "access", "ring", "vector", "error"), rows())
def test_loads(
    g: Guest, how: str, name: str, selector: int, access: int | None, ring: int, vector: int | None, error: int
) -> None:
    if access is not None:
        g.descriptor(SPARE, 0, 0xFFFFF, access)
    g.m.memory.write(DATA, imm(0x12345678) + imm(selector, 2))
    if how == "mov":
        parts = [mov("eax", selector), mov_sreg(name)]
    elif how == "pop":
        parts = [push(selector), POPS[name]]
    else:
        parts = [FAR_LOADS[name] + imm(DATA)]
    g.m.regs.ecx = 1
    if vector is None:
        g.passes(*parts, ring=ring)
        assert getattr(g.m.regs, name) == (K_DS if name == "ss" and ring else selector)
        assert g.m.regs.ecx == (0x12345678 if how == "far pointer" else 1)
        if access is not None and selector & ~7 == SPARE:
            assert g.access_byte(SPARE) == access | 1
    else:
        g.enter(ring)
        old = getattr(g.m.regs, name)
        g.fault(*parts, vector=vector, error=error, ring=ring)
        if name != "ss":
            assert getattr(g.m.regs, name) == old
        assert g.m.regs.ecx == 1
        if access is not None:
            assert g.access_byte(SPARE) == access  # not accessed


def test_cs_cannot_be_loaded(g: Guest) -> None:
    g.fault(mov("eax", K_CS), b"\x8e\xc8", vector=INVALID)
    g.m.regs.esp = STACKS[0]
    g.fault(mov("eax", K_DS), b"\x8e\xf0", vector=INVALID)  # there is no segment register 6


@pytest.mark.parametrize("prefix", [b"", O16])
def test_stores(g: Guest, prefix: bytes) -> None:
    g.m.regs.eax = g.m.regs.ebx = 0xFFFFFFFF
    g.m.memory.write(DATA, b"\xff" * 4)
    g.m.memory.write(STACKS[0] - 4, b"\xff" * 4)
    to_eax, to_memory = prefix + b"\x8c\xd8", prefix + b"\x8c\x1d" + imm(DATA)
    g.passes(to_eax, to_memory, prefix + b"\x1e", b"\x5b" if not prefix else O16 + b"\x5b")
    assert g.m.regs.eax == (0xFFFF0000 | K_DS if prefix else K_DS)
    assert g.m.memory.u32(DATA) == 0xFFFF0000 | K_DS
    assert g.m.regs.ebx == (0xFFFF0000 | K_DS if prefix else K_DS)


# Null segments and rights


@pytest.mark.parametrize("code", [GS_BYTE, TO_GS_BYTE])
@pytest.mark.parametrize("selector", [0, 3])
def test_a_null_segment_can_be_loaded_but_not_used(g: Guest, code: bytes, selector: int) -> None:
    g.fault(set_sreg("gs", selector), code + imm(DATA), vector=PROTECTION, error=0)


def test_a_null_ds_is_not_used_by_any_access(g: Guest) -> None:
    for code in (load("ecx", DATA), store(DATA, "ecx"), b"\xff\x05" + imm(DATA), b"\xac", b"\xff\x35" + imm(DATA)):
        g.m.regs.esp = STACKS[0]
        g.fault(set_sreg("ds", 0), code, vector=PROTECTION, error=0)
        g.m.regs.ds = K_DS


def test_a_null_segment_is_no_matter_for_addresses(g: Guest) -> None:
    g.passes(set_sreg("ds", 0), b"\x8d\x0d" + imm(DATA))
    assert g.m.regs.ecx == DATA


@pytest.mark.parametrize(
    ("access", "reads", "writes"),
    [(DATA_RW, True, True), (DATA_RO, True, False), (CODE_RX, True, False), (CODE_CONFORMING, True, False)],
)
def test_types(g: Guest, access: int, reads: bool, writes: bool) -> None:
    g.descriptor(SPARE, 0, 0xFFFFF, access)
    for code, allowed in ((GS_BYTE, reads), (TO_GS_BYTE, writes), (GS_WORD32, reads), (TO_GS_WORD32, writes)):
        g.m.regs.esp = STACKS[0]
        parts = (set_sreg("gs", SPARE), code + imm(DATA))
        if allowed:
            g.passes(*parts)
        else:
            g.fault(*parts, vector=PROTECTION, error=0)


def test_code_is_not_written_through_cs_and_execute_only_code_is_not_read(g: Guest) -> None:
    g.fault(b"\x2e\xa3" + imm(DATA), vector=PROTECTION, error=0)
    g.m.regs.esp = STACKS[0]
    g.passes(b"\x2e\xa1" + imm(DATA))
    g.m.regs.esp = STACKS[0]
    g.descriptor(SPARE, 0, 0xFFFFF, CODE_X)
    g.fault(far_jmp(SPARE, CODE + 7), b"\x2e\xa1" + imm(DATA), vector=PROTECTION, error=0)


# Limits and bases


@pytest.mark.parametrize(
    ("size", "code"),
    [(1, GS_BYTE), (1, TO_GS_BYTE), (2, O16 + GS_WORD32), (2, O16 + TO_GS_WORD32), (4, GS_WORD32), (4, TO_GS_WORD32)],
)
@pytest.mark.parametrize("limit", [0x0FFF, 0x1002])
def test_expand_up_limit(g: Guest, size: int, code: bytes, limit: int) -> None:
    g.descriptor(SPARE, DATA, limit, DATA_RW, 0x4)
    last = limit - size + 1
    g.m.memory.write(DATA + last, bytes([0x11, 0x22, 0x33, 0x44][:size]))
    value = int.from_bytes(g.m.memory.read(DATA + last, size), "little")
    g.passes(set_sreg("gs", SPARE), mov("eax", value), code + imm(last))
    assert g.m.regs.eax & ((1 << 8 * size) - 1) == value
    g.m.regs.esp = STACKS[0]
    g.fault(set_sreg("gs", SPARE), code + imm(last + 1), vector=PROTECTION, error=0)
    g.m.regs.esp = STACKS[0]
    g.fault(set_sreg("gs", SPARE), code + imm(0xFFFFFFFF), vector=PROTECTION, error=0)


@pytest.mark.parametrize("page", [0, 3])
def test_granularity(g: Guest, page: int) -> None:
    g.descriptor(SPARE, DATA, page, DATA_RW, 0xC)
    last = page << 12 | 0xFFF
    g.passes(set_sreg("gs", SPARE), GS_BYTE + imm(last))
    g.m.regs.esp = STACKS[0]
    g.fault(set_sreg("gs", SPARE), GS_BYTE + imm(last + 1), vector=PROTECTION, error=0)


@pytest.mark.parametrize("big", [0x4, 0x0])
def test_expand_down_limit(g: Guest, big: int) -> None:
    g.descriptor(SPARE, 0, 0x7FFF, DOWN_RW, big)
    setup = set_sreg("gs", SPARE)
    for code, offset, allowed in (
        (GS_BYTE, 0x7FFF, False),
        (GS_BYTE, 0x8000, True),
        (GS_WORD32, 0x7FFE, False),
        (GS_WORD32, 0x8000, True),
        (GS_BYTE, 0, False),
        (GS_BYTE, 0xFFFF, True),
        (GS_WORD32, 0xFFFD, bool(big)),
        (TO_GS_BYTE, 0x10000, bool(big)),
        (GS_WORD32, 0xFFFFFFFD, False),
    ):
        g.m.regs.esp = STACKS[0]
        if allowed:
            g.passes(setup, code + imm(offset))
        else:
            g.fault(setup, code + imm(offset), vector=PROTECTION, error=0)


def test_bases_of_data_and_of_strings(g: Guest) -> None:
    g.descriptor(SPARE, DATA, 0xFFF, DATA_RW, 0x4)
    g.descriptor(SPARE2, DATA + 0x1000, 0xFFF, DATA_RW, 0x4)
    g.m.memory.write(DATA + 0xF0, b"0123456789abcdef")
    setup = mov("eax", SPARE) + mov_sreg("ds") + mov("eax", SPARE2) + mov_sreg("es")
    g.passes(
        setup, mov("esi", 0xF0), mov("edi", 0x20), mov("ecx", 4), b"\xf3\xa5", b"\xa1" + imm(0xF0), b"\x26\xa3" + imm(4)
    )
    assert g.m.memory.read(DATA + 0x1020, 16) == b"0123456789abcdef"
    assert g.m.memory.read(DATA + 0x1004, 4) == b"0123"


def test_a_repeated_store_stops_at_the_limit(g: Guest) -> None:
    g.descriptor(SPARE, DATA, 0xFF, DATA_RW, 0x4)
    g.put(set_sreg("es", SPARE), mov("eax", -1), mov("edi", 0xF6), mov("ecx", 5), b"\xf3\xab")
    g.m.regs.eip = CODE
    g.m.run(max_instructions=100)
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip) == (PROTECTION, 0, g.code_end - 2)
    assert (g.m.regs.ecx, g.m.regs.edi) == (3, 0xFE)
    assert g.m.memory.read(DATA + 0xF4, 16) == b"\0\0" + b"\xff" * 8 + b"\0" * 6


def test_bases_add_modulo_4_gib(g: Guest) -> None:
    g.descriptor(SPARE, 0xFFFF0000, 0xFFFFF, DATA_RW)
    g.m.memory.write(DATA, imm(0xCAFE))
    g.passes(set_sreg("gs", SPARE), GS_WORD32 + imm(DATA + 0x10000))
    assert g.m.regs.eax == 0xCAFE


def test_the_stack_segment_faults_as_ss(g: Guest) -> None:
    g.descriptor(SPARE, 0, STACKS[0] + 0xFFF, DATA_RW, 0x4)
    for code in (b"\x36\xa1" + imm(STACKS[0] + 0xFFD), b"\x8b\x85" + imm(STACKS[0] + 0xFFD), b"\x36\xa2" + imm(-1)):
        g.m.regs.ebp, g.m.regs.esp = 0, STACKS[0]
        g.fault(set_sreg("ss", SPARE), code, vector=STACK, error=0)


def test_the_code_segments_limit(g: Guest) -> None:
    g.descriptor(SPARE, CODE, 0x10, CODE_RX, 0x4)
    g.m.memory.write(CODE + 0x10, NOP)
    g.m.regs.eip = CODE + 0x100
    g.m.memory.write(CODE + 0x100, far_jmp(SPARE, 0x10))
    g.m.run(max_instructions=20)
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip, frame.cs) == (PROTECTION, 0, 0x11, SPARE)
    g.m.regs.esp = STACKS[0]
    g.m.memory.write(CODE + 0xE, NOP + mov("eax", 1))  # its last byte is beyond
    g.m.memory.write(CODE + 0x100, far_jmp(SPARE, 0xE))
    g.m.regs.eip = CODE + 0x100
    g.m.run(max_instructions=20)
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip, frame.cs) == (PROTECTION, 0, 0xF, SPARE)


def test_code_with_a_base_runs_and_jumps_in_it(g: Guest) -> None:
    """call, jmp, ret and loop use offsets; memory operands do not move with CS."""
    g.descriptor(SPARE, CODE + 0x200, 0xFFF, CODE_RX, 0x4)
    body = mov("ecx", 3) + b"\xe8" + imm(4) + b"\xe2\xf9" + interrupt(DONE) + b"\xff\x05" + imm(DATA) + RET
    g.m.memory.write(CODE + 0x200, body)
    g.run(far_jmp(SPARE, 0))
    frame = g.frame()
    assert (frame.vector, frame.eip, frame.cs) == (DONE, 14, SPARE)
    assert g.m.memory.u32(DATA) == 3


def test_a_changed_descriptor_matters_only_when_loaded_again(g: Guest) -> None:
    g.descriptor(SPARE, DATA, 0xFFF, DATA_RW, 0x4)
    g.m.memory.write(DATA, imm(1) + bytes(12) + imm(2))
    setup = set_sreg("gs", SPARE) + store_imm(GDT + SPARE + 2, (DATA + 0x10) & 0xFFFF | 0x92050000)
    g.passes(setup, GS_WORD32 + imm(0), b"\x89\xc3", set_sreg("gs", SPARE), GS_WORD32 + imm(0))
    assert (g.m.regs.ebx, g.m.regs.eax) == (1, 2)
