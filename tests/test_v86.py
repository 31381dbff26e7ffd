"""Virtual-8086 mode (SDM vol. 3, 20.2) and real mode (20.1), besides what test_against_qemu.py compares."""

from __future__ import annotations

import pytest

from pykprobes import Machine, StopReason

from .guest_code import *

CS, SS, BASE = 0x900, 0x3000, 0x9000  # segments of virtual-8086 code, and where its code lies
SP, MONITOR = 0x8000, STACKS[0]
IOPL3 = 3 << 12
DS, ES, FS, GS = 0x1111, 0x2222, 0x3333, 0x4444


@pytest.fixture
def g() -> Guest:
    return Guest()


def run86(g: Guest, *parts: bytes, flags: int = 0, ip: int = 0, sp: int = SP, limit: int = 200) -> None:
    """IRET to virtual-8086 code and let it run to a handler."""
    g.m.memory.write(BASE + ip, b"".join(parts))
    g.m.regs.esp = MONITOR
    g.run(push(GS, FS, DS, ES, SS, sp, FIXED | VM | flags, CS, ip), IRET, limit=limit)


def frame86(g: Guest, error: bool = False) -> list[int]:
    """The monitor's frame: [error] ip cs flags sp ss es ds fs gs."""
    return [g.m.memory.u32(g.m.regs.esp + 4 * n) for n in range(9 + error)]


def test_there_and_back_with_all_segments(g: Guest) -> None:
    run86(g, NOP, interrupt(DONE), flags=IOPL3 | IF | CF)
    assert g.vector() == DONE
    assert frame86(g) == [3, CS, FIXED | VM | IOPL3 | IF | CF, SP, SS, ES, DS, FS, GS]
    regs = g.m.regs
    assert (regs.cs, regs.ss, regs.cpl, regs.esp) == (K_CS, K_DS, 0, MONITOR - 36)
    assert (regs.ds, regs.es, regs.fs, regs.gs) == (0, 0, 0, 0)
    assert regs.eflags == FIXED | IOPL3 | CF


def test_the_frame_of_a_return_has_nine_words(g: Guest) -> None:
    """#SS(0) if they do not all lie in the stack, nothing changed (vol. 2, IRET)."""
    g.descriptor(SPARE, 0, MONITOR - 5, DATA_RW, 4)
    g.put(push(FS, DS, ES, SS, SP, FIXED | VM, CS, 0), IRET)
    g.m.regs.ss = SPARE
    g.m.regs.esp = MONITOR - 4
    g.m.regs.eip = CODE
    g.m.run(max_instructions=10)
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip, frame.at) == (STACK, 0, CODE + 40, MONITOR - 36 - 16)


@pytest.mark.parametrize("eip", [0x10000, 0xFFFFFFFF])
def test_a_return_beyond_64_kib(g: Guest, eip: int) -> None:
    g.fault(push(GS, FS, DS, ES, SS, SP, FIXED | VM, CS, eip), IRET, vector=PROTECTION, error=0)


def test_only_ring_0_sets_vm(g: Guest) -> None:
    """In other rings IRET leaves VM alone, and POPF in all (vol. 2)."""
    frame = g.passes(push(U_DS, STACKS[3], FIXED | VM, U_CS) + b"\xe8" + imm(0) + b"\x83\x04\x24\x05" + IRET, ring=3)
    assert not frame.eflags & VM
    g = Guest()
    frame = g.passes(push(FIXED | VM) + POPF)
    assert not frame.eflags & VM


@pytest.mark.parametrize("iopl", range(4))
@pytest.mark.parametrize(
    "code",
    [CLI, STI, PUSHF, POPF, IRET, interrupt(0x41), O16 + PUSHF, O16 + POPF, O16 + IRET],
    ids=["cli", "sti", "pushf", "popf", "iret", "int", "pushfd", "popfd", "iretd"],
)
def test_sensitive_instructions(g: Guest, iopl: int, code: bytes) -> None:
    """Table 20-2: #GP(0) unless IOPL is 3. INT n then goes through the gate, whose DPL has to be 3."""
    g.gate(0x41, dpl=3)
    stack = SS << 4 | SP
    g.m.memory.write(stack - 16, bytes(32))
    run86(g, code, flags=iopl << 12, limit=11)
    if iopl < 3:
        assert (g.vector(), frame86(g, True)[:3]) == (PROTECTION, [0, 0, CS])
    elif code == interrupt(0x41):
        assert (g.vector(), frame86(g)[:2]) == (0x41, [2, CS])
    else:
        assert g.m.regs.eflags & VM
        assert g.m.regs.eflags & IF == (IF if code == STI else 0)


@pytest.mark.parametrize("code", [INT3, b"\xb0\x7f\x04\x01" + INTO], ids=["int3", "into"])
def test_breakpoints_do_not_ask_for_iopl_but_for_the_gate(g: Guest, code: bytes) -> None:
    vector = BREAK if code == INT3 else OVERFLOW
    g.gate(vector, dpl=3)
    run86(g, code)
    assert (g.vector(), frame86(g)[:2]) == (vector, [len(code), CS])
    g.gate(vector, dpl=0)
    run86(g, code)
    assert (g.vector(), frame86(g, True)[:2]) == (PROTECTION, [vector * 8 | 2, len(code) - 1])


@pytest.mark.parametrize("selector", [U_CS, CONFORMING, R1_CS])
def test_handlers_have_to_be_in_ring_0(g: Guest, selector: int) -> None:
    """vol. 2, INT n: #GP(selector) for another ring and for conforming code."""
    g.gate(0x41, dpl=3, selector=selector)
    run86(g, interrupt(0x41), flags=IOPL3)
    assert (g.vector(), frame86(g, True)[:2]) == (PROTECTION, [selector & ~3, 0])


def test_iret_there_keeps_iopl_and_vm(g: Guest) -> None:
    words = [0x40, CS, 0x4ED7 & ~NT & ~TF | NT]
    run86(g, *(b"\x68" + imm(word, 2) for word in (words[2], CS, 0x40)), IRET, flags=IOPL3, limit=14)
    assert g.m.regs.eip == 0x40
    assert g.m.regs.eflags == words[2] | VM | IOPL3 | FIXED


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("port", [0, 7, 8, 0x10])
@pytest.mark.parametrize("flags", [0, IOPL3])
def test_ports_always_ask_the_bitmap(g: Guest, size: int, port: int, flags: int) -> None:
    """20.2.7: IOPL does not matter. Port 7 and those from 16 on are closed."""
    g.descriptor(TSS_SELECTOR, TSS, 0x6A, TSS32, 0)
    g.m.memory.write(TSS + 0x66, imm(0x68, 2) + b"\x80\x00\xff")
    g.m.regs.tr = TSS_SELECTOR
    code = {1: b"\xe4", 2: b"\xe5", 4: O16 + b"\xe5"}[size] + imm(port, 1)
    closed = any(p == 7 or p >= 16 for p in range(port, port + size))
    run86(g, code, NOP, flags=flags, limit=12)
    if closed:
        assert (g.vector(), frame86(g, True)[:2]) == (PROTECTION, [0, 0])
    else:
        assert (g.m.regs.eip, g.m.regs.eflags & VM) == (len(code) + 1, VM)


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        (b"\xa1\xff\xff", PROTECTION), (b"\x36\xa1\xff\xff", STACK), (O16 + b"\xa1\xfd\xff", PROTECTION),
        (b"\x67\xa1" + imm(0x10000), PROTECTION), (b"\x67\x36\xa1" + imm(0x10000), STACK),
        (b"\x26\xc7\x06\xff\xff\x01\x02", PROTECTION), (b"\xc4\x06\xfd\xff", PROTECTION),
    ],
)  # fmt: skip
def test_limits(g: Guest, code: bytes, vector: int) -> None:
    """Every segment has 64 KiB, whatever a protected-mode segment there had before (20.1.1)."""
    run86(g, code)
    assert (g.vector(), frame86(g, True)[:2]) == (vector, [0, 0])


@pytest.mark.parametrize(("sp", "code"), [(1, b"\x50"), (0xFFFF, b"\x58"), (3, O16 + b"\x50"), (1, b"\xe8\x00\x00")])
def test_words_at_the_end_of_the_stack(g: Guest, sp: int, code: bytes) -> None:
    run86(g, code, sp=sp)
    assert (g.vector(), frame86(g, True)[:2], frame86(g, True)[4]) == (STACK, [0, 0], sp)


def test_the_stack_pointer_wraps(g: Guest) -> None:
    run86(g, b"\x68\x34\x12", interrupt(DONE), sp=0, flags=IOPL3)
    assert (frame86(g)[3], g.m.memory.u16((SS << 4) + 0xFFFE)) == (0xFFFE, 0x1234)


@pytest.mark.parametrize(
    "code",
    [b"\x66\xe9" + imm(0x10000), b"\x66\x68" + imm(0x10000) + b"\x66\xc3", b"\x66\xb8" + imm(0x10000) + b"\x66\xff\xe0",
     b"\x66\x0f\x84" + imm(0x10000), b"\x66\xea" + imm(0x10000) + imm(CS, 2)],
)  # fmt: skip
def test_branches_beyond_64_kib(g: Guest, code: bytes) -> None:
    run86(g, b"\x31\xc9", code)
    assert (g.vector(), frame86(g, True)[0], frame86(g, True)[2]) == (PROTECTION, 0, CS)


def test_code_runs_up_to_the_end_of_its_segment(g: Guest) -> None:
    run86(g, NOP * 2, ip=0xFFFE)
    assert (g.vector(), frame86(g, True)[:2]) == (PROTECTION, [0, 0x10000])


@pytest.mark.parametrize("code", [STI, b"\x0f\xb2\x26\x00\x00"], ids=["sti", "lss"])
def test_single_step_behind_sti_and_lss(g: Guest, code: bytes) -> None:
    """Only MOV and POP to SS hold it back (6.8.3)."""
    g.m.memory.write(DS << 4, bytes(4))
    run86(g, code, NOP, flags=IOPL3 | TF)
    assert (g.vector(), frame86(g)[0]) == (DEBUG, len(code))


@pytest.mark.parametrize("name", ["lar", "lsl", "verr", "arpl", "sldt", "str", "lldt", "ltr"])
@pytest.mark.parametrize("mode", ["v86", "real"])
def test_instructions_of_protected_mode(g: Guest, name: str, mode: str) -> None:
    """#UD (vol. 2, each one's page)."""
    codes = {"lar": b"\x0f\x02\xc0", "lsl": b"\x0f\x03\xc0", "verr": system(4), "arpl": b"\x63\xc0"}
    code = codes.get(name) or system(["sldt", "str", "lldt", "ltr"].index(name))
    if mode == "v86":
        run86(g, code, flags=IOPL3)
        assert (g.vector(), frame86(g)[:2]) == (INVALID, [0, CS])
    else:
        m = real(code)
        m.run(max_instructions=1)
        assert (m.regs.cs, m.regs.eip) == (0x200, INVALID + 1)


def test_vme_is_not_there(g: Guest) -> None:
    """CPUID does not announce it, CR4.VME and PVI are reserved, VIF and VIP do not stick (20.3)."""
    for bit in (1, 2):
        g.fault(mov("eax", bit), to_control(4), vector=PROTECTION, error=0)
        g.m.regs.esp = STACKS[0]
    frame = g.passes(push(FIXED | 3 << 19) + POPF, mov("eax", 1), b"\x0f\xa2")
    assert (frame.eflags & 3 << 19, g.m.regs.edx & 2) == (0, 0)
    run86(g, interrupt(DONE), flags=IOPL3 | 3 << 19)
    assert frame86(g)[2] == FIXED | VM | IOPL3


# Real mode


def real(*parts: bytes, ip: int = 0x100) -> Machine:
    """A bare machine in real mode at 100:ip, stack at 400:1000; vector n's handler is NOP; HLT at 200:n."""
    m = Machine(kernel=None, memory=MEMORY)
    for n in range(256):
        m.memory.write(4 * n, imm(n, 2) + imm(0x200, 2))
    m.memory.write(0x2000, NOP * 255 + HLT)
    m.memory.write(0x1000 + ip, b"".join(parts))
    m.regs.cs, m.regs.ss, m.regs.ds, m.regs.es = 0x100, 0x400, 0x500, 0x600
    m.regs.esp, m.regs.eip, m.regs.eflags = 0x1000, ip, FIXED
    m.regs.idtr_limit = 0x3FF
    return m


def top(m: Machine) -> list[int]:
    return [m.memory.u16((m.regs.ss << 4) + m.regs.esp + 2 * n) for n in range(3)]


@pytest.mark.parametrize(
    ("code", "vector", "where"),
    [
        (interrupt(0x21), 0x21, 2), (INT3, 3, 1), (INT1, 1, 1), (UD2, 6, 0), (b"\xf6\xf1", 0, 0),
        (b"\xa1\xff\xff", 13, 0), (b"\x36\xa1\xff\xff", 12, 0), (b"\x62\x06\x00\x00", 5, 0), (b"\xf0\x90", 6, 0),
        (b"\x66" * 14 + NOP * 2, 0, None), (b"\x66" * 15 + NOP, 13, 0), (b"\x66\xe9" + imm(0x10000), 13, 0),
    ],
)  # fmt: skip
def test_exceptions_through_the_vector_table(code: bytes, vector: int, where: int | None) -> None:
    """20.1.4: FLAGS CS IP and no error code; IF TF AC go. 15 bytes are an instruction, 16 are #GP (vol. 2, 2.3.11)."""
    m = real(code)
    m.memory.write(0x5000, imm(5, 2) + imm(9, 2))
    m.regs.ecx = 0
    m.regs.eflags = FIXED | IF | CF | AC
    m.run(max_instructions=1)
    if where is None:
        assert (m.regs.cs, m.regs.eip) == (0x100, 0x10F)
        return
    if code[0] not in (0xCD, 0xCC, 0xF1):
        assert m.regs.eip == vector + 1
    else:
        assert m.regs.eip == vector
    assert (m.regs.cs, m.regs.esp) == (0x200, 0xFFA)
    assert top(m) == [0x100 + where, 0x100, FIXED | IF | CF]
    assert m.regs.eflags == FIXED | CF


def test_a_vector_beyond_the_table() -> None:
    """#GP, then a double fault, then shutdown (20.1.4)."""
    m = real(interrupt(0x21))
    m.regs.idtr_limit = 0x21 * 4 + 2
    m.run(max_instructions=1)
    assert (m.regs.cs, m.regs.eip, top(m)) == (0x200, 14, [0x100, 0x100, FIXED])
    m = real(interrupt(0x21))
    m.regs.idtr_limit = 4 * DOUBLE + 3
    m.run(max_instructions=1)
    assert (m.regs.cs, m.regs.eip, top(m)) == (0x200, DOUBLE + 1, [0x100, 0x100, FIXED])
    m = real(interrupt(0x21))
    m.regs.idtr_limit = 3
    assert m.run(max_instructions=1).reason is StopReason.SHUTDOWN


@pytest.mark.parametrize("sp", [1, 3, 5])
def test_no_room_for_the_frame(sp: int) -> None:
    """A word across the end of the stack segment: #SS meets the same stack, and so does #DF."""
    m = real(interrupt(0x21))
    m.regs.esp = sp
    stop = m.run(max_instructions=1)
    assert (stop.reason, m.regs.eip, m.regs.esp) == (StopReason.SHUTDOWN, 0x100, sp)


def test_the_frame_wraps() -> None:
    m = real(interrupt(0x21))
    m.regs.esp = 2
    m.run(max_instructions=1)
    assert (m.regs.esp, m.memory.u16(0x4000), m.memory.u16(0x13FFE), m.memory.u16(0x13FFC)) == (
        0xFFFC, FIXED, 0x100, 0x102,
    )  # fmt: skip


def test_interrupts_and_nmi() -> None:
    m = real(NOP * 4)
    m.regs.eflags = FIXED | IF
    m.interrupt(0x30)
    m.nmi()
    m.run(max_instructions=1)
    assert (m.regs.eip, top(m)) == (3, [0x100, 0x100, FIXED | IF])
    m.memory.write(0x2003, IRET)
    m.run(max_instructions=2)
    assert (m.regs.eip, top(m)) == (0x31, [0x100, 0x100, FIXED | IF])


def test_iret_takes_all_flags_but_vm() -> None:
    m = real(b"\x68\xd7\x7e\x68\x00\x01\x68\x34\x12" + IRET)
    m.run(max_instructions=4)
    assert (m.regs.eip, m.regs.eflags, m.regs.cpl) == (0x1234, 0x7ED7 & ~0x20 & ~8, 0)


def test_unreal_limits_stay_with_segments_loaded_in_real_mode() -> None:
    """20.1.1 and 9.9.2: a load in real mode changes base and selector only."""
    load_big = b"\x0f\x01\x16\x10\x00\x0f\x20\xc0\x0c\x01\x0f\x22\xc0\xb9\x08\x00\x8e\xd9\x24\xfe\x0f\x22\xc0"
    m = real(load_big + b"\xb8\x00\x05\x8e\xd8\x67\x66\xa1" + imm(0x80000) + b"\x67\x26\xa1" + imm(0x10000))
    m.memory.write(0x5010, imm(15, 2) + imm(0x8000))
    m.memory.write(0x8000, bytes(8) + descriptor(0, 0xFFFFF, DATA_RW, 0xC))
    m.memory.write(0x85000, imm(0x12345678))
    m.run(max_instructions=11)
    assert (m.regs.ds, m.regs.eax) == (0x500, 0x12345678)
    m.run(max_instructions=1)  # ES still ends at 64 KiB
    assert (m.regs.cs, m.regs.eip) == (0x200, PROTECTION + 1)


def test_the_a20_line_is_open() -> None:
    m = Machine(kernel=None, memory=2 << 20)
    m.memory.write(0x1000, b"\xa1\x10\x00")
    m.memory.write(0x100000, imm(0xBEEF, 2))
    m.regs.cs, m.regs.ds, m.regs.eip = 0x100, 0xFFFF, 0
    m.run(max_instructions=1)
    assert m.regs.eax & 0xFFFF == 0xBEEF


def test_far_calls_and_returns() -> None:
    m = real(b"\x9a\x00\x02\x80\x00")
    m.memory.write(0xA00, b"\xca\x04\x00")
    m.run(max_instructions=1)
    assert (m.regs.cs, m.regs.eip, top(m)[:2]) == (0x80, 0x200, [0x105, 0x100])
    m.run(max_instructions=1)
    assert (m.regs.cs, m.regs.eip, m.regs.esp) == (0x100, 0x105, 0x1004)
