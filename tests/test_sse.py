"""MMX and SSE around their operations: availability, exceptions, memory, devices, watches, probes, the Python view."""

from __future__ import annotations

import struct

import pytest

from pykprobes import Access, Count, Machine, StopReason

from .guest_code import *

EM, TS, NE = 4, 8, 0x20
OSFXSR, OSXMMEXCPT = 0x200, 0x400
X87_ERROR, SIMD_ERROR = 16, 19
MISSING = DATA + 0x8000  # pages that tests unmap
VALUE = bytes(range(0xA0, 0xB0))

MMX = ("0ffcc1", "0f6fc1", "0f6f06", "0f7f06", "0f7ec0", "0f71d101", "0f77", "0f70c100", "0fe706", "0ff7c1", "0fd4c1")
XMM = ("660ffcc1", "0f28c1", "0f2806", "0f2906", "660f6ec0", "f30f7ec1", "660f73d901", "0f50c1", "660fe706", "660ff7c1",
       "0fae16", "0fae1e", "0fc6c100")  # fmt: skip
BOTH = ("f30fd6c1", "f20fd6c1")
SAVES = ("0fae06", "0fae0e")
NEITHER = ("0fc306", "0faee8", "0faef0", "0faef8", "0fae3e", "0f1806", "f390")


@pytest.fixture
def g() -> Guest:
    guest = Guest()
    guest.m.regs.cr0 &= ~TS
    guest.m.memory.write(DATA, bytes(24) + imm(0x1F80) + bytes(484))
    guest.m.memory.write(DATA + 0x200, imm(0x1F80))
    guest.m.regs.esi = guest.m.regs.edi = DATA
    return guest


def operand(g: Guest, code: str) -> bytes:
    """The instruction with its memory in place."""
    if code == "0fae16":  # ldmxcsr
        g.m.regs.esi = DATA + 0x200
    return bytes.fromhex(code)


def pend(g: Guest) -> None:
    """An x87 exception that is not masked."""
    g.m.fpu.control = 0x37E
    g.m.fpu.status |= 1


# What makes an instruction undefined or unavailable, in the order of SDM vol. 3, 2.5 and table 13-3


@pytest.mark.parametrize("code", MMX + XMM + BOTH + SAVES + NEITHER)
def test_available(g: Guest, code: str) -> None:
    g.passes(operand(g, code))


@pytest.mark.parametrize("code", MMX + XMM + BOTH + SAVES)
def test_emulation(g: Guest, code: str) -> None:
    pend(g)
    for flags in (EM, EM | TS):
        g.m.regs.cr0 = g.m.regs.cr0 & ~(EM | TS) | flags
        g.m.regs.esp = STACKS[0]
        g.fault(operand(g, code), vector=INVALID)


@pytest.mark.parametrize("code", MMX + XMM + BOTH + SAVES)
def test_task_switched(g: Guest, code: str) -> None:
    pend(g)
    g.m.regs.cr0 |= TS
    g.fault(operand(g, code), vector=DEVICE)


@pytest.mark.parametrize("code", MMX + XMM + BOTH + SAVES)
def test_without_osfxsr(g: Guest, code: str) -> None:
    g.m.regs.cr4 &= ~OSFXSR
    for flags in (0, TS):
        g.m.regs.cr0 = g.m.regs.cr0 & ~TS | flags
        g.m.regs.esp = STACKS[0]
        if code in XMM + BOTH:
            g.fault(operand(g, code), vector=INVALID)
        elif flags:
            g.fault(operand(g, code), vector=DEVICE)
        else:
            g.passes(operand(g, code))


@pytest.mark.parametrize("code", NEITHER)
def test_what_needs_no_state(g: Guest, code: str) -> None:
    pend(g)
    g.m.regs.cr4 &= ~OSFXSR
    g.m.regs.cr0 |= TS | EM
    g.passes(operand(g, code))


@pytest.mark.parametrize("code", MMX + XMM + BOTH + SAVES)
def test_pending_x87_exceptions(g: Guest, code: str) -> None:
    pend(g)
    if code in MMX + BOTH:
        g.m.regs.esi = g.m.regs.edi = 0xFFFFFFF8  # their memory is not looked at before
        g.fault(bytes.fromhex(code), vector=X87_ERROR)
    else:
        g.passes(operand(g, code))


def test_pending_x87_exceptions_without_ne(g: Guest) -> None:
    """FERR#: the processor waits before the instruction until an interrupt comes."""
    pend(g)
    g.m.regs.cr0 &= ~NE
    stop = g.run(bytes.fromhex(MMX[0]))
    assert (stop.reason, stop.eip) == (StopReason.HALT, CODE)


@pytest.mark.parametrize("code", MMX + XMM + BOTH + SAVES + NEITHER[:-1])
def test_lock(g: Guest, code: str) -> None:
    for flag in (0, TS):
        g.m.regs.esp, g.m.regs.cr0 = STACKS[0], g.m.regs.cr0 | flag
        g.fault(b"\xf0" + operand(g, code), vector=INVALID)


@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize("code", ["0ffcc1", "660ffcc1", "0fae06", "0fae1e", "0f77"])
def test_all_rings(g: Guest, code: str, ring: int) -> None:
    g.passes(operand(g, code), ring=ring)


# Floating-point exceptions (SDM vol. 1, 11.5)

ONE, INFINITY, QNAN, TINY = 0x3F800000, 0x7F800000, 0x7FC00000, 1
IE, DE, ZE, OE, UE, PE = (1 << n for n in range(6))
UNMASKED = [
    ("0f5ec1", (ONE, 0), ZE, ZE),  # divps
    ("f30f5ec1", (ONE, 0), ZE, ZE),
    ("0f5c0e", (INFINITY, INFINITY), IE, IE),  # subps xmm1, [esi]
    ("0f58c1", (TINY, ONE), DE, DE),
    ("0f5906", (0x7F7FFFFF, 0x7F7FFFFF), OE, OE | PE),
    ("0f59c1", (0x00800001, 0x3F000001), UE, UE | PE),
    ("0f58c1", (ONE, 0x33000001), PE, PE),
    ("0f2fc1", (QNAN, ONE), IE, IE),  # comiss
    ("f30f2dc1", (INFINITY, INFINITY), IE, IE),  # cvtss2si
    ("0f2dc1", (INFINITY, INFINITY), IE, IE),  # cvtps2pi
]


def prepare(g: Guest, operands: tuple[int, int], mask: int) -> None:
    a, b = operands
    g.m.sse.xmm[0], g.m.sse.xmm[1] = imm(a) + imm(ONE) * 3, imm(b) + imm(ONE) * 3
    g.m.memory.write(DATA, imm(b) + imm(ONE) * 3)
    g.m.sse.mxcsr = 0x1F80 & ~(mask << 7)
    g.m.regs.eax, g.m.regs.eflags = 0x12345678, FIXED | CF | OF | SF


@pytest.mark.parametrize(("code", "operands", "mask", "flags"), UNMASKED)
def test_unmasked_exceptions(g: Guest, code: str, operands: tuple[int, int], mask: int, flags: int) -> None:
    """#XM at the instruction, or #UD where the system does not know of it; MXCSR says why, and nothing else changed."""
    for cr4, vector in ((OSFXSR | OSXMMEXCPT, SIMD_ERROR), (OSFXSR, INVALID)):
        prepare(g, operands, mask)
        g.m.regs.esp, g.m.regs.cr4 = STACKS[0], cr4
        before = list(g.m.sse.xmm), list(g.m.fpu.mm), g.m.regs.eax
        frame = g.fault(bytes.fromhex(code), vector=vector)
        assert (list(g.m.sse.xmm), list(g.m.fpu.mm), g.m.regs.eax) == before
        assert g.m.sse.mxcsr == 0x1F80 & ~(mask << 7) | flags
        assert frame.eflags & ~RF == FIXED | CF | OF | SF
        assert frame.eflags & RF  # a fault: the restart passes a code breakpoint
        g.m.sse.mxcsr = 0x1F80
        g.m.regs.esp = STACKS[0]
        g.passes(bytes.fromhex(code))
        assert g.m.sse.mxcsr & 0x3F in (flags, flags | PE)


def test_what_comes_before_simd_exceptions(g: Guest) -> None:
    divide = bytes.fromhex("0f5e06")
    prepare(g, (ONE, 0), ZE)
    g.m.regs.esi = DATA + 4
    g.fault(divide, vector=PROTECTION, error=0)
    g.m.regs.esp, g.m.regs.esi, g.m.regs.cr0 = STACKS[0], DATA, g.m.regs.cr0 | TS
    g.fault(divide, vector=DEVICE)
    g.m.regs.esp, g.m.regs.cr0 = STACKS[0], g.m.regs.cr0 & ~TS
    assert g.m.sse.mxcsr == 0x1F80 & ~(ZE << 7)
    g.fault(divide, vector=SIMD_ERROR)


def test_flags_that_are_set_raise_nothing(g: Guest) -> None:
    """Unlike the x87's, old flags whose mask is taken away are not pending exceptions."""
    prepare(g, (ONE, ONE), 0)
    g.m.sse.mxcsr = 0x3F
    g.passes(bytes.fromhex("0f58c1"))
    assert g.m.sse.mxcsr == 0x3F


def test_the_built_in_kernel_reports_simd_exceptions() -> None:
    with Machine(memory=MEMORY) as m:
        m.load(bytes.fromhex("0f5ec1 f4"), at=CODE)
        m.sse.mxcsr = 0
        m.sse.xmm[0] = imm(ONE) * 4
        m.regs.eip = CODE
        stop = m.run()
        assert (stop.reason, stop.vector, stop.eip) == (StopReason.TRAP, SIMD_ERROR, CODE)


# Alignment and segments

ALIGNED = ("0f2806", "0f2906", "660f6f06", "660f7f06", "660ffc06", "0f5706", "660fe706", "0f2b06", "0fae06", "0fae0e",
           "660f6006", "660fd106", "0fc60600", "660f700600")  # fmt: skip
ANYWHERE = ("0f1006", "0f1106", "f30f6f06", "f30f7f06", "660f1006", "660f1106", "0f1206", "0f1606", "f30f1006",
            "0ffc06", "0f6f06", "660f6e06", "660fd606", "660fc40601")  # fmt: skip


@pytest.mark.parametrize("offset", [1, 4, 8, 15])
@pytest.mark.parametrize("code", ALIGNED)
def test_misaligned(g: Guest, code: str, offset: int) -> None:
    g.m.regs.esi = DATA + offset
    g.fault(bytes.fromhex(code), vector=PROTECTION, error=0)


@pytest.mark.parametrize("offset", [1, 4, 8, 15])
@pytest.mark.parametrize("code", ANYWHERE)
def test_anywhere(g: Guest, code: str, offset: int) -> None:
    g.m.regs.esi = DATA + offset
    g.passes(bytes.fromhex(code))


def test_alignment_is_of_the_linear_address(g: Guest) -> None:
    g.descriptor(SPARE, DATA + 8, 0xFFFFF, DATA_RW)
    g.m.regs.esi = 8
    g.passes(set_sreg("gs", SPARE), bytes.fromhex("650f2806"))
    g.m.regs.esp, g.m.regs.esi = STACKS[0], 0
    g.fault(bytes.fromhex("650f2806"), vector=PROTECTION, error=0)


def test_alignment_on_the_stack(g: Guest) -> None:
    """#GP(0) even there; #SS(0) is for limits, which come before."""
    g.m.regs.ebp = STACKS[0] - 0x88
    g.fault(bytes.fromhex("0f284500"), vector=PROTECTION, error=0)
    g.m.regs.esp = STACKS[0]
    g.descriptor(SPARE, 0, 0x40, DATA_RW)
    g.m.regs.ebp = 0x40FF8
    g.fault(set_sreg("ss", SPARE), bytes.fromhex("0f284500"), vector=STACK, error=0)


def test_limits(g: Guest) -> None:
    g.descriptor(SPARE, DATA, 0x1F, DATA_RW, 0x4)
    for offset, good in ((0, True), (16, True), (32, False)):
        g.m.regs.esp, g.m.regs.esi = STACKS[0], offset
        parts = set_sreg("gs", SPARE), bytes.fromhex("650f2806")
        if good:
            g.passes(*parts)
        else:
            g.fault(*parts, vector=PROTECTION, error=0)
    g.m.regs.esp, g.m.regs.esi = STACKS[0], 0
    g.fault(bytes.fromhex("650fae06"), vector=PROTECTION, error=0)  # 512 bytes


def test_read_only_segments(g: Guest) -> None:
    g.descriptor(SPARE, DATA, 0xFFFFF, DATA_RO)
    g.m.regs.esi = 0
    g.passes(set_sreg("gs", SPARE), bytes.fromhex("650f2806"))
    for code in ("650f2906", "650fae06", "650fae1e", "650f7f06", "650fc306"):
        g.m.regs.esp = STACKS[0]
        g.fault(bytes.fromhex(code), vector=PROTECTION, error=0)


def test_16_bit_addresses(g: Guest) -> None:
    g.descriptor(SPARE, DATA - 0x100, 0xFFFFF, DATA_RW)
    g.m.memory.write(DATA, VALUE)
    g.m.regs.esi, g.m.regs.ebx = 0xABCDFF00, 0x12340200
    g.passes(set_sreg("gs", SPARE), bytes.fromhex("65670f2800"))  # movaps xmm0, gs:[bx+si]
    assert g.m.sse.xmm[0] == VALUE


def test_real_mode() -> None:
    with Machine(memory=MEMORY, kernel=None) as m:
        m.regs.cr4 = OSFXSR
        m.memory.write(0x2000, VALUE)
        code = "0f280e 0020 660ffcc9 0f290e 1020 0f6f060020 0ffcc0 0f7f063020 f4"
        m.memory.write(0x1000, bytes.fromhex(code))
        m.regs.cs, m.regs.eip = 0, 0x1000
        assert m.run(max_instructions=20).reason is StopReason.HALT
        doubled = bytes(2 * b & 0xFF for b in VALUE)
        assert m.memory[0x2010:0x2020] == doubled
        assert m.memory[0x2030:0x2038] == doubled[:8]


# Page ends


def paged(writable: bool = False) -> Guest:
    """A guest whose page MISSING is not there, or is read-only."""
    guest = Guest()
    guest.m.regs.cr0 = guest.m.regs.cr0 & ~TS | 0x10000
    guest.m.memory.write(TABLES, imm(TABLES + 0x1000 | 7) + bytes(4092))
    entries = [n << 12 | 7 for n in range(1024)]
    entries[MISSING >> 12] = MISSING | 5 if writable else 0
    guest.m.memory.write(TABLES + 0x1000, b"".join(map(imm, entries)))
    guest.m.regs.cr3 = TABLES
    guest.m.regs.eax = DATA
    return guest


LOADS = {"0f1006": 16, "f30f6f06": 16, "f20f1006": 8, "0f6f06": 8, "f30f1006": 4, "660f6e06": 4, "660fc40601": 2}
LOADS |= {"0f6006": 4, "0f6106": 4, "0f6206": 4, "0f6806": 8}
STORES = {"0f1106": 16, "f30f7f06": 16, "0f1306": 8, "0f7f06": 8, "f30f1106": 4, "0fe706": 8, "0fc306": 4}


@pytest.mark.parametrize("code", LOADS)
def test_loads_at_page_ends(code: str) -> None:
    g = paged()
    g.m.sse.xmm[0], g.m.fpu.mm[0] = VALUE, 0x1122334455667788
    before = g.m.sse.xmm[0], g.m.fpu.mm[0], g.m.fpu.tag
    for inside in range(1, LOADS[code]):
        g.m.regs.esp, g.m.regs.esi = STACKS[0], MISSING - inside
        g.fault(bytes.fromhex(code), vector=PAGE, error=0)
        assert g.m.regs.cr2 == MISSING
        assert (g.m.sse.xmm[0], g.m.fpu.mm[0], g.m.fpu.tag) == before
    g.m.regs.esp, g.m.regs.esi = STACKS[0], MISSING - LOADS[code]
    g.passes(bytes.fromhex(code))


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("code", STORES)
def test_stores_at_page_ends(code: str, present: bool) -> None:
    g = paged(writable=present)
    g.m.sse.xmm[0], g.m.fpu.mm[0], g.m.regs.eax = VALUE, 0x1122334455667788, 0x55667788
    tag = g.m.fpu.tag
    g.m.memory.fill(MISSING - 16, 16, 0xEE)
    for inside in range(1, STORES[code]):
        g.m.regs.esp, g.m.regs.esi = STACKS[0], MISSING - inside
        g.fault(bytes.fromhex(code), vector=PAGE, error=2 | present)
        assert g.m.regs.cr2 == MISSING
        assert g.m.memory[MISSING - 16 : MISSING] == b"\xee" * 16
        assert g.m.fpu.tag == tag
    g.m.regs.esp, g.m.regs.esi = STACKS[0], MISSING - STORES[code]
    g.passes(bytes.fromhex(code))
    assert g.m.memory[MISSING - 16 : MISSING] != b"\xee" * 16


@pytest.mark.parametrize(("code", "size"), [("0ff7c1", 8), ("660ff7c1", 16)])
def test_masked_stores_at_page_ends(code: str, size: int) -> None:
    g = paged()
    g.m.sse.xmm[0] = g.m.sse.xmm[1] = VALUE
    g.m.fpu.mm[0] = g.m.fpu.mm[1] = 0xA1A2A3A4A5A6A7A8
    g.m.memory.fill(MISSING - 16, 16, 0xEE)
    g.m.regs.edi = MISSING - size + 1
    g.fault(bytes.fromhex(code), vector=PAGE, error=2)
    assert (g.m.regs.cr2, g.m.memory[MISSING - 16 : MISSING]) == (MISSING, b"\xee" * 16)


def test_images_at_page_ends() -> None:
    """FXSAVE writes all of its image or nothing, FXRSTOR reads all of it or loads nothing."""
    g = paged()
    g.m.sse.xmm[3] = VALUE
    g.m.memory.fill(MISSING - 512, 512, 0xEE)
    for start in (16, 32, 160, 272):
        for code, error in (("0fae06", 2), ("0fae0e", 0)):
            g.m.regs.esp, g.m.regs.esi = STACKS[0], MISSING - start
            g.fault(bytes.fromhex(code), vector=PAGE, error=error)
            assert g.m.regs.cr2 == MISSING
            assert g.m.memory[MISSING - 512 : MISSING] == b"\xee" * 512
            assert g.m.sse.xmm[3] == VALUE


def test_misalignment_comes_before_page_faults() -> None:
    g = paged()
    g.m.regs.esi = MISSING + 8
    g.fault(bytes.fromhex("0f2806"), vector=PROTECTION, error=0)
    g.m.regs.esp, g.m.regs.esi = STACKS[0], MISSING
    g.fault(bytes.fromhex("0f2806"), vector=PAGE, error=0)


@pytest.mark.parametrize("code", ["0fae3e"])
def test_clflush_faults_like_a_load(code: str) -> None:
    g = paged()
    g.m.regs.esi = MISSING
    g.fault(bytes.fromhex(code), vector=PAGE, error=0)
    g.m.regs.esp = STACKS[0]
    g.passes(bytes.fromhex("0f180e"), bytes.fromhex("0f1816"))  # prefetches never do


# MXCSR and images


@pytest.mark.parametrize("bit", range(32))
def test_bits_of_mxcsr(g: Guest, bit: int) -> None:
    g.m.regs.esi = DATA + 0x200
    g.m.memory.write(DATA + 0x200, imm(1 << bit))
    if bit < 16:
        g.passes(bytes.fromhex("0fae16"))
        assert g.m.sse.mxcsr == 1 << bit
    else:
        g.fault(bytes.fromhex("0fae16"), vector=PROTECTION, error=0)
        assert g.m.sse.mxcsr == 0x1F80


def test_a_pentium_3_has_no_daz() -> None:
    g = Guest(cpu="p3")
    g.m.regs.cr0 &= ~TS
    g.m.regs.esi = DATA
    g.m.memory.write(DATA, bytes(24) + imm(0x40) + bytes(484))
    g.fault(bytes.fromhex("0fae0e"), vector=PROTECTION, error=0)
    g.m.regs.esp = STACKS[0]
    g.passes(bytes.fromhex("0fae06"))
    assert g.m.memory.u32(DATA + 28) == 0xFFBF
    with pytest.raises(ValueError, match="mxcsr=0x40 has bits that cpu='p3' reserves"):
        g.m.sse.mxcsr = 0x40


def test_an_image_keeps_everything(g: Guest) -> None:
    """FXSAVE, other values, FXRSTOR; the image as SDM vol. 1, table 10-2 has it."""
    m = g.m
    for i in range(8):
        m.sse.xmm[i] = bytes([i]) * 16
    m.sse.mxcsr = 0x9FC0
    m.fpu.control, m.fpu.status, m.fpu.tag = 0x27F, 0x3900 | 1, 0
    for i in range(8):
        m.fpu.raw[i] = bytes([0x10 * i + 1]) * 10
    m.fpu.opcode, m.fpu.ip, m.fpu.cs, m.fpu.dp, m.fpu.ds = 0x123, 0x11223344, 0x5566, 0x778899AA, 0xBBCC
    m.memory.fill(DATA, 512, 0xEE)
    g.passes(bytes.fromhex("0fae06"))
    image = bytes(m.memory[DATA : DATA + 512])
    head = struct.pack("<HHBBHIHHIHHII", 0x27F, 0x3901, 0xFF, 0, 0x123, 0x11223344, 0x5566, 0, 0x778899AA, 0xBBCC, 0,
                       0x9FC0, 0xFFFF)  # fmt: skip
    assert image[:32] == head
    assert image[32:160] == b"".join(bytes([0x10 * i + 1]) * 10 + bytes(6) for i in range(8))
    assert image[160:288] == b"".join(bytes([i]) * 16 for i in range(8))
    assert image[288:] == b"\xee" * 224
    saved = [list(m.sse.xmm), m.sse.mxcsr, list(m.fpu.raw), m.fpu.status, m.fpu.control, m.fpu.ip]
    for i in range(8):
        m.sse.xmm[i] = 0
        m.fpu.raw[i] = bytes(10)
    m.sse.mxcsr, m.fpu.status, m.fpu.control, m.fpu.ip = 0x1F80, 0, 0x37F, 0
    m.regs.esp = STACKS[0]
    g.passes(bytes.fromhex("0fae0e"))
    assert saved == [list(m.sse.xmm), m.sse.mxcsr, list(m.fpu.raw), m.fpu.status, m.fpu.control, m.fpu.ip]


def test_images_without_osfxsr(g: Guest) -> None:
    """What SDM vol. 2 leaves to the implementation is as on Intel's: MXCSR is in the image, XMM registers are not."""
    g.m.regs.cr4 &= ~OSFXSR
    g.m.sse.xmm[0], g.m.sse.mxcsr, g.m.fpu.control = VALUE, 0x1FBF, 0x27F
    g.m.memory.fill(DATA, 512, 0xEE)
    g.passes(bytes.fromhex("0fae06"))
    assert (g.m.memory.u16(DATA), g.m.memory.u32(DATA + 24)) == (0x27F, 0x1FBF)
    assert g.m.memory[DATA + 160 : DATA + 512] == b"\xee" * 352
    g.m.sse.mxcsr, g.m.fpu.control, g.m.regs.esp = 0x1F80, 0x37F, STACKS[0]
    g.passes(bytes.fromhex("0fae0e"))
    assert (g.m.sse.xmm[0], g.m.sse.mxcsr, g.m.fpu.control) == (VALUE, 0x1FBF, 0x27F)


def test_reset_state() -> None:
    """SDM vol. 3, table 9-1."""
    with Machine(memory=MEMORY, kernel=None) as m:
        assert (m.sse.mxcsr, list(m.sse.xmm)) == (0x1F80, [bytes(16)] * 8)


# Devices, watches, code that changes, probes


def test_devices_see_words(g: Guest) -> None:
    seen: list[tuple[int, int]] = []
    written: list[tuple[int, int, int]] = []

    def read(address: int, size: int) -> int:
        seen.append((address, size))
        return address * 0x01010101 & 0xFFFFFFFF

    base = 0x8000000
    g.m.on_mmio(range(base, base + 64), read=read, write=lambda *a: written.append(a))
    g.m.regs.cr0 &= ~0x80000000  # linear is physical
    g.m.regs.esi = base
    g.passes(bytes.fromhex("0f2806 0f1146 11"), bytes.fromhex("0f6f4620"))
    assert seen == [(base + i, 4) for i in (0, 4, 8, 12, 32, 36)]
    value = b"".join(imm((base + i) * 0x01010101) for i in (0, 4, 8, 12))
    assert g.m.sse.xmm[0] == value
    assert b"".join(imm(v, size) for _, size, v in written) == value


def test_a_device_that_fails_leaves_the_instruction_undone(g: Guest) -> None:
    calls: list[int] = []

    def read(address: int, size: int) -> int:
        calls.append(address)
        if len(calls) == 3:
            raise LookupError("third word")
        return 0x11111111

    base = 0x8000000
    g.m.on_mmio(range(base, base + 64), read=read)
    g.m.regs.cr0 &= ~0x80000000
    g.m.sse.xmm[0] = VALUE
    g.m.regs.esi = base
    with pytest.raises(LookupError):
        g.run(bytes.fromhex("0f2806"), interrupt(DONE))
    assert (g.m.sse.xmm[0], g.m.regs.eip) == (VALUE, CODE)
    g.m.run(max_instructions=100)
    assert g.vector() == DONE
    assert g.m.sse.xmm[0] == b"\x11" * 16


def test_watched_accesses(g: Guest) -> None:
    told: list[tuple[str, int, int]] = []

    def tell(watch: object, regs: object, access: Access) -> None:
        told.append((access.kind, access.address, access.value))

    g.m.watch(DATA + 0x104, 4, "rw", tell)
    g.m.sse.xmm[0] = VALUE
    g.m.regs.esi = DATA + 0x100
    g.passes(bytes.fromhex("0f2906"), bytes.fromhex("0f280e"), bytes.fromhex("0f6f16"))
    word = int.from_bytes(VALUE[4:8], "little")
    assert told == [("w", DATA + 0x104, word), ("r", DATA + 0x104, word), ("r", DATA + 0x104, word)]
    assert (g.m.sse.xmm[1], g.m.fpu.mm[2]) == (VALUE, int.from_bytes(VALUE[:8], "little"))


def test_data_breakpoints(g: Guest) -> None:
    g.m.regs.dr0, g.m.regs.dr7 = DATA + 0x10C, 1 | 0xD << 16  # a byte-wide write breakpoint of 4 bytes
    g.m.regs.esi = DATA + 0x100
    g.run(bytes.fromhex("0f2906"), NOP, interrupt(DONE))
    assert (g.vector(), g.frame().eip) == (DEBUG, CODE + 3)


def test_stores_into_code(g: Guest) -> None:
    """A store over the instruction behind it, again and again: the new bytes run."""
    g.m.sse.xmm[0] = b"\x43" * 16  # inc ebx
    g.m.sse.xmm[1] = b"\x42" * 16  # inc edx
    code = bytes.fromhex("0f1106") + NOP * 16 + bytes.fromhex("0f100e 0fefc0 0f6f06")
    g.m.regs.ebx = g.m.regs.edx = 0
    g.m.regs.esi = CODE + 3
    for _ in range(3):
        g.m.regs.esp = STACKS[0]
        g.passes(code)
    assert (g.m.regs.ebx, g.m.sse.xmm[1], g.m.fpu.mm[0]) == (48, b"\x43" * 16, 0x4343434343434343)


@pytest.mark.parametrize("kprobes", ["2.5.26", "fixed"])
@pytest.mark.parametrize("code", ["660ffe07", "0ffe07", "0f2807", "f30f7f07", "0f6fc1", "660f73d804"])
def test_probes_on_simd_instructions(kprobes: str, code: str) -> None:
    """A hit changes nothing of them; the #NM of the first comes while the probe steps it."""
    results = []
    for probed in (False, True):
        with Machine(memory=MEMORY, kprobes=kprobes) as m:
            m.sse.xmm[0], m.sse.xmm[1] = VALUE, bytes(16)
            m.fpu.mm[0], m.fpu.mm[1] = 0x1122334455667788, 0x99
            m.memory.write(DATA, VALUE[::-1])
            m.memory.write(CODE, bytes.fromhex(code) * 3 + HLT)
            m.regs.eip, m.regs.edi = CODE, DATA
            probe = m.kprobe(CODE + len(code) // 2, action=Count()) if probed else None
            stop = m.run(max_instructions=1000)
            assert stop.reason is StopReason.HALT
            results.append((list(m.sse.xmm), list(m.fpu.mm), m.fpu.tag, bytes(m.memory[DATA : DATA + 16]), m.icount))
            assert probe is None or probe.hits == 1
    assert results[0] == results[1]


def test_calls_from_handlers_keep_the_registers() -> None:
    with Machine(memory=MEMORY) as m:
        m.memory.write(CODE, bytes.fromhex("0f57c0 0fefc0 0f77 c3"))  # xorps xmm0, xmm0; pxor mm0, mm0; emms; ret
        m.memory.write(CODE + 0x100, NOP + bytes.fromhex("660ffcc1") + HLT)
        m.kprobe(CODE + 0x100, pre_handler=lambda probe, regs: m.call(CODE) * 0)
        m.sse.xmm[0], m.sse.xmm[1] = VALUE, b"\1" * 16
        m.fpu.mm[0] = 7
        m.regs.eip = CODE + 0x100
        assert m.run(max_instructions=100).reason is StopReason.HALT
        assert (m.sse.xmm[0], m.fpu.mm[0]) == (bytes(b + 1 for b in VALUE), 7)


# The Python view


def test_registers() -> None:
    with Machine(memory=MEMORY) as m:
        m.sse.xmm[7] = 1 << 127 | 5
        assert m.sse.xmm[-1] == m.sse.xmm[7] == b"\x05" + bytes(14) + b"\x80"
        m.sse.xmm[0] = memoryview(VALUE)
        assert (len(m.sse.xmm), next(iter(m.sse.xmm)), len(m.fpu.mm)) == (8, VALUE, 8)
        assert "xmm" in repr(m.sse) and "mm" in repr(m.fpu.mm)
        m.sse.mxcsr = 0xFFFF
        assert m.sse.mxcsr == 0xFFFF
        for top in range(8):
            m.fpu.status, m.fpu.tag = top << 11, 0xFFFF
            for i in range(8):
                m.fpu.mm[i] = 0x8000000000000001 + i + top
                assert m.fpu.tag >> 2 * i & 3 == 2  # valid, and no number
                assert m.fpu.raw[(i - top) % 8] == imm(0x8000000000000001 + i + top, 8) + b"\xff\xff"
            assert list(m.fpu.mm) == [0x8000000000000001 + i + top for i in range(8)]


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("m.sse.xmm[8]", IndexError), ("m.sse.xmm[-9]", IndexError), ("m.sse.xmm['0']", TypeError),
        ("m.sse.xmm.__setitem__(0, bytes(15))", ValueError), ("m.sse.xmm.__setitem__(0, -1)", ValueError),
        ("m.sse.xmm.__setitem__(0, 1 << 128)", ValueError), ("m.sse.xmm.__setitem__(0, 1.5)", TypeError),
        ("m.sse.xmm.__setitem__(0, None)", TypeError), ("m.sse.xmm.__setitem__(8, 0)", IndexError),
        ("setattr(m.sse, 'mxcsr', 0x10000)", ValueError), ("setattr(m.sse, 'mxcsr', -1)", ValueError),
        ("setattr(m.sse, 'mxcsr', 1 << 32)", ValueError), ("setattr(m.sse, 'mxcsr', 'a')", TypeError),
        ("m.fpu.mm[8]", IndexError), ("m.fpu.mm.__setitem__(0, 1 << 64)", ValueError),
        ("m.fpu.mm.__setitem__(0, -1)", ValueError), ("m.fpu.mm.__setitem__(0, b'12345678')", TypeError),
    ],
)  # fmt: skip
def test_bad_values_change_nothing(statement: str, error: type[Exception]) -> None:
    with Machine(memory=MEMORY) as m:
        m.sse.xmm[0], m.fpu.mm[0], m.sse.mxcsr = VALUE, 5, 0x1FBF
        with pytest.raises(error):
            eval(statement, {"m": m, "setattr": setattr})
        assert (m.sse.xmm[0], m.fpu.mm[0], m.sse.mxcsr) == (VALUE, 5, 0x1FBF)


def test_processors_without_sse_say_so() -> None:
    with Machine(memory=MEMORY, cpu="ppro") as m:
        for statement in ("m.sse.xmm[0]", "m.sse.mxcsr", "m.sse.xmm.__setitem__(0, 0)", "setattr(m.sse, 'mxcsr', 0)"):
            with pytest.raises(ValueError, match="cpu='ppro' has no XMM registers: 'p3' and 'p4' have"):
                eval(statement, {"m": m, "setattr": setattr})


def test_a_closed_machine() -> None:
    m = Machine(memory=MEMORY)
    m.close()
    for statement in ("m.sse.xmm[0]", "m.sse.mxcsr", "m.fpu.mm[0]"):
        with pytest.raises(RuntimeError, match="closed"):
            eval(statement, {"m": m})
