"""Transfers beyond the code segment's limit, in real mode with a limit that protected mode left there: #GP, undone."""

from __future__ import annotations

import pytest

from pykprobes import Machine, Segment, StopReason

CODE, OUT, STACK = 0x1000, 0x2000, 0x8000
GP = 13


def real(code: bytes, *words: int, **regs: int) -> Machine:
    """Real mode whose code segment ends before OUT; vectors lead to HLTs at 0x100 + vector."""
    m = Machine(memory=1 << 20, kernel=None)
    m.regs.set_segment("cs", Segment(0, 0, OUT - 1, 0x9B))
    m.regs.set_segment("ss", Segment(0, 0, 0xFFFF, 0x93))
    for vector in range(32):
        m.memory.write_u32(4 * vector, 0x100 + vector)
        m.memory.write(0x100 + vector, b"\xf4")
    m.memory.write(CODE, code + b"\xf4")
    m.regs.eip, m.regs.esp, m.regs.eflags = CODE, STACK - 2 * len(words), 2
    for i, word in enumerate(words):
        m.memory.write(m.regs.esp + 2 * i, word.to_bytes(2, "little"))
    for name, value in regs.items():
        setattr(m.regs, name, value)
    return m


def to(offset: int, length: int) -> bytes:
    return (offset - CODE - length & 0xFFFF).to_bytes(2, "little")


BEYOND = {
    "jmp": (b"\xe9" + to(OUT, 3), ()),
    "call": (b"\xe8" + to(OUT, 3), ()),
    "jz": (b"\x0f\x84" + to(OUT, 4), ()),
    "jmp bx": (b"\xff\xe3", ()),
    "call bx": (b"\xff\xd3", ()),
    "ret": (b"\xc3", (OUT,)),
    "ret 4": (b"\xc2\x04\x00", (OUT, 1, 2)),
    "jmp far": (b"\xea\x00\x20\x00\x00", ()),
    "call far": (b"\x9a\x00\x20\x00\x00", ()),
    "retf": (b"\xcb", (OUT, 0)),
    "iret": (b"\xcf", (OUT, 0, 2)),
}


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("inside", [False, True])
def test_targets(name: str, inside: bool) -> None:
    code, words = BEYOND[name]
    if inside:  # one byte before the end all is well
        words = tuple(OUT - 1 if word == OUT else word for word in words)
        code = code.replace(to(OUT, len(code)), to(OUT - 1, len(code))) if name in ("jmp", "call", "jz") else code
        code = code.replace(b"\x00\x20\x00\x00", b"\xff\x1f\x00\x00")
    with real(code, *words, ebx=OUT - inside, eflags=0x42) as m:
        m.memory.write(OUT - 1, b"\xf4")
        esp = m.regs.esp
        stop = m.run(max_instructions=10)
        assert stop.reason is StopReason.HALT
        if inside:
            assert (stop.eip, m.icount) == (OUT, 2)
            return
        assert (stop.eip, m.regs.esp, m.icount) == (0x101 + GP, esp - 6, 1)
        assert m.memory.u16(esp - 6) == CODE
        assert [m.memory.u16(esp + 2 * i) for i in range(len(words))] == list(words)


@pytest.mark.parametrize(("code", "ecx"), [(b"\xe2", 2), (b"\xe1", 2), (b"\xe0", 2), (b"\xe3", 0)])
def test_loops(code: bytes, ecx: int) -> None:
    """Short branches over the end; the count stays."""
    with real(b"") as m:
        at = OUT - 8
        m.memory.write(at, code + b"\x10")
        m.regs.eip, m.regs.ecx, m.regs.eflags = at, ecx, 2 if code == b"\xe0" else 0x42
        stop = m.run(max_instructions=10)
        assert (stop.eip, m.regs.ecx) == (0x101 + GP, ecx)
        assert m.memory.u16(m.regs.esp) == at


def test_vectors() -> None:
    """A handler beyond the limit cannot be entered."""
    with real(b"\xcd\x20") as m:
        m.memory.write_u32(4 * 0x20, OUT)
        stop = m.run(max_instructions=10)
        assert (stop.eip, m.icount, m.memory.u16(m.regs.esp)) == (0x101 + GP, 1, CODE)
        m.memory.write_u32(4 * GP, OUT)
        m.memory.write_u32(4 * 8, OUT)
        m.regs.eip = CODE
        assert m.run(max_instructions=10).reason is StopReason.SHUTDOWN


def test_bswap_of_16_bits_clears_them() -> None:
    """Undefined in the manual; on processors of this family the word becomes zero."""
    with real(b"\x0f\xcb", ebx=0x12345678) as m:
        m.run(max_instructions=10)
        assert m.regs.ebx == 0x12340000
