"""The x87 as the system sees it: state, #NM, #MF and its absence, environments; and m.fpu."""

import math
import struct

import pytest

from pykprobes import Machine, StopReason

from .guest_code import CODE, DATA, MEMORY, NOP, Guest

NE, TS, EM, MP = 0x20, 8, 4, 2
FNINIT, FNCLEX, FNSTSW_AX, FWAIT = b"\xdb\xe3", b"\xdb\xe2", b"\xdf\xe0", b"\x9b"
FLD1, FLDZ, FLDPI, FNOP, DIVIDE_BY_ZERO = b"\xd9\xe8", b"\xd9\xee", b"\xd9\xeb", b"\xd9\xd0", b"\xde\xf9"
MATH_ERROR = 16
ONE = bytes.fromhex("0000000000000080ff3f")


@pytest.fixture
def g() -> Guest:
    guest = Guest()
    guest.m.regs.cr0 = guest.m.regs.cr0 & ~(TS | EM | MP) | NE
    return guest


def memory(opcode: int, reg: int, address: int = DATA) -> bytes:
    return bytes([opcode, reg << 3 | 5]) + struct.pack("<I", address)


def pending(g: Guest) -> None:
    """An unmasked division by zero that is still to be reported."""
    g.m.fpu.control = 0x37B
    g.m.fpu.status = 0
    g.m.fpu.tag = 0xFFFF
    g.passes(FLD1, FLDZ, DIVIDE_BY_ZERO)
    assert g.m.fpu.status & 0x80FF == 0x8084


def test_reset_and_fninit() -> None:
    with Machine(memory=MEMORY, kernel=None) as m:
        assert (m.fpu.control, m.fpu.status, m.fpu.tag) == (0x40, 0, 0x5555)
        assert list(m.fpu.st) == [0.0] * 8
        m.memory.write(0x1000, FNINIT)
        m.regs.cs, m.regs.eip = 0, 0x1000
        m.run(until=0x1002, max_instructions=3)
        assert (m.fpu.control, m.fpu.status, m.fpu.tag) == (0x37F, 0, 0xFFFF)


@pytest.mark.parametrize("waiting", [FNOP, FWAIT, FLD1, memory(0xD9, 5), memory(0xD9, 4), memory(0xDD, 4)])
def test_a_pending_exception_is_reported_by_the_next_waiting_instruction(g: Guest, waiting: bytes) -> None:
    pending(g)
    frame = g.fault(NOP, waiting, vector=MATH_ERROR)
    assert frame.eip == CODE + 1


@pytest.mark.parametrize(
    "quiet", [FNINIT, FNCLEX, FNSTSW_AX, memory(0xD9, 7), memory(0xD9, 6), memory(0xDD, 6), memory(0xDD, 7)]
)
def test_no_wait_instructions_do_not_report(g: Guest, quiet: bytes) -> None:
    pending(g)
    g.passes(quiet)


def test_unmasking_makes_an_old_exception_pending(g: Guest) -> None:
    g.m.memory.write(DATA, struct.pack("<H", 0x37B))
    g.passes(FNINIT, FLD1, FLDZ, DIVIDE_BY_ZERO)
    assert g.m.fpu.status & 0x8080 == 0
    g.fault(memory(0xD9, 5), FNOP, vector=MATH_ERROR)


@pytest.mark.parametrize("flag", [TS, EM, TS | EM])
@pytest.mark.parametrize("code", [FLD1, FNINIT, FNSTSW_AX, memory(0xDD, 0, 0xFFFFF000)])
def test_device_not_available_comes_before_everything(g: Guest, code: bytes, flag: int) -> None:
    pending(g)
    g.m.regs.cr0 |= flag
    g.fault(code, vector=7)


def test_math_errors_come_before_memory_is_accessed(g: Guest) -> None:
    pending(g)
    g.m.regs.ds = 0
    g.fault(memory(0xDD, 0), vector=MATH_ERROR)


@pytest.mark.parametrize(("code", "size"), [(memory(0xDB, 5), 10), (memory(0xDD, 3), 8), (memory(0xDD, 6), 108)])
def test_a_fault_leaves_everything_alone(g: Guest, code: bytes, size: int) -> None:
    g.passes(FNINIT, FLDPI)
    g.descriptor(0x58, 0, DATA + size - 2, 0x92, 4)
    g.m.regs.ds = 0x58
    before, area = (g.m.fpu.status, g.m.fpu.tag, list(g.m.fpu.raw)), g.m.memory.read(DATA, 128)
    g.fault(code, vector=13, error=0)
    assert (g.m.fpu.status, g.m.fpu.tag, list(g.m.fpu.raw)) == before
    assert g.m.memory.read(DATA, 128) == area


def test_a_load_of_an_empty_register_to_a_full_stack_is_an_underflow(g: Guest) -> None:
    g.passes(FNINIT, *[FLD1] * 8, bytes([0xDD, 0xC3]), bytes([0xD9, 0xC3]))
    assert g.m.fpu.status & 0x241 == 0x41


def test_without_ne_the_processor_waits_for_the_interrupt(g: Guest) -> None:
    pending(g)
    g.m.regs.cr0 &= ~NE
    g.m.regs.eflags |= 0x200
    g.put(NOP, FNOP, NOP)
    g.m.regs.eip = CODE
    start = g.m.icount
    stop = g.m.run(max_instructions=10)
    assert (stop.reason, stop.eip, stop.icount) == (StopReason.HALT, CODE + 1, start + 1)
    assert g.m.interrupt(0x75)
    stop = g.m.run(max_instructions=10)
    assert stop.reason is StopReason.HALT and g.vector() == 0x75
    assert g.frame().eip == CODE + 1


def test_environment_in_protected_mode(g: Guest) -> None:
    g.passes(FNINIT, FLD1, memory(0xD9, 0, DATA + 0x40), memory(0xD9, 6))
    words = struct.unpack("<7I", g.m.memory.read(DATA, 28))
    assert words[:3] == (0xFFFF037F, 0xFFFF3000, words[2])
    assert words[3] == CODE + 4 and words[4] & 0xFFFF == g.m.fpu.cs and words[4] >> 16 == 0x105
    assert words[5:] == (DATA + 0x40, 0xFFFF0000 | g.m.fpu.ds)
    assert (g.m.fpu.ip, g.m.fpu.dp, g.m.fpu.opcode) == (CODE + 4, DATA + 0x40, 0x105)


@pytest.mark.parametrize("wide", [False, True])
def test_environment_in_real_mode(wide: bool) -> None:
    with Machine(memory=MEMORY, kernel=None) as m:
        prefix = b"\x66" if wide else b""
        code = FNINIT + FLD1 + b"\xd9\x06\x00\x05" + prefix + b"\xd9\x36\x00\x06" + prefix + b"\xd9\x26\x00\x06"
        m.regs.cs, m.regs.ds = 0x1234, 0x2345
        m.memory.write(0x12340 + 0x10, code)
        m.regs.eip = 0x10
        m.run(until=0x10 + len(code) - len(prefix) - 4, max_instructions=9)
        words = struct.unpack("<7I" if wide else "<7H", m.memory.read(0x23450 + 0x600, 28 if wide else 14))
        ones = 0xFFFF0000 if wide else 0
        assert words[0] == ones | 0x37F
        assert words[3:] == (ones | 0x2354, 0x1106, ones | 0x3950, 0x2000)
        m.run(until=0x10 + len(code), max_instructions=9)
        assert (m.fpu.cs, m.fpu.ip, m.fpu.ds, m.fpu.dp, m.fpu.opcode) == (0, 0x12354, 0, 0x23950, 0x106)


def test_fnsave_and_frstor_round_trip(g: Guest) -> None:
    g.passes(FNINIT, FLDPI, FLD1, memory(0xDD, 6))
    assert (g.m.fpu.tag, g.m.fpu.control) == (0xFFFF, 0x37F)
    g.passes(memory(0xDD, 4))
    assert (g.m.fpu.st[0], g.m.fpu.st[1], g.m.fpu.top, g.m.fpu.tag) == (1.0, math.pi, 6, 0x0FFF)


@pytest.mark.parametrize(
    "code", ["d9d1", "d9e2", "d9e6", "d9ef", "dae0", "dae8", "dbe5", "dbf8", "ded8", "dfe1", "dff8"]
)
def test_undefined_forms(g: Guest, code: str) -> None:
    g.fault(bytes.fromhex(code), vector=6)


@pytest.mark.parametrize("code", ["d90d00000500", "db2500000500", "db3500000500", "dd2d00000500", "df0d00000500"])
def test_undefined_memory_forms(g: Guest, code: str) -> None:
    g.fault(bytes.fromhex(code), vector=6)


# m.fpu


def test_registers_as_floats_and_bytes() -> None:
    with Machine(memory=MEMORY) as m:
        m.fpu.tag = 0xFFFF
        m.fpu.st[0] = 1.0
        m.fpu.st[-1] = -0.0
        assert m.fpu.raw[0] == ONE and math.copysign(1, m.fpu.st[7]) == -1
        assert m.fpu.tag == 0x7FFC
        m.fpu.raw[3] = bytes.fromhex("35c26821a2da0fc90040")
        assert m.fpu.st[3] == math.pi


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.pi])
def test_floats_survive(value: float) -> None:
    with Machine(memory=MEMORY) as m:
        m.fpu.st[2] = value
        assert m.fpu.st[2] == value


def test_what_does_not_fit_a_float() -> None:
    with Machine(memory=MEMORY) as m:
        m.fpu.raw[0] = bytes.fromhex("0000000000000080fe7f")
        m.fpu.raw[1] = bytes.fromhex("00000000000000800100")
        m.fpu.raw[2] = bytes.fromhex("0000000000000000ff3f")  # an unnormal
        assert m.fpu.st[0] == math.inf and m.fpu.st[1] == 0.0 and math.isnan(m.fpu.st[2])
        m.fpu.st[4] = math.nan
        assert math.isnan(m.fpu.st[4])


def test_status_follows_masks() -> None:
    with Machine(memory=MEMORY) as m:
        m.fpu.control = 0x37F
        m.fpu.status = 0x8081
        assert m.fpu.status == 1
        m.fpu.control = 0xFFFE
        assert (m.fpu.control, m.fpu.status) == (0x1F7E, 0x8081)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("control", 0x10000, ValueError), ("status", -1, ValueError), ("tag", 1.5, TypeError),
     ("opcode", 0x800, ValueError)],
)  # fmt: skip
def test_bad_fields(name: str, value: int, error: type[Exception]) -> None:
    with Machine(memory=MEMORY) as m:
        before = repr(m.fpu)
        with pytest.raises(error):
            setattr(m.fpu, name, value)
        assert repr(m.fpu) == before


def test_bad_registers() -> None:
    with Machine(memory=MEMORY) as m:
        with pytest.raises(IndexError):
            m.fpu.st[8]
        with pytest.raises(IndexError):
            m.fpu.raw[-9] = ONE
        with pytest.raises(ValueError):
            m.fpu.raw[0] = b"123"
        with pytest.raises(TypeError):
            m.fpu.raw[0] = 1.0  # type: ignore[assignment]
        with pytest.raises((TypeError, ValueError)):
            m.fpu.st[0] = "x"  # type: ignore[assignment]


def test_the_built_in_kernel_gives_a_task_an_initialised_x87() -> None:
    with Machine(memory=MEMORY) as m:
        assert (m.fpu.control, m.fpu.status, m.fpu.tag) == (0x37F, 0, 0xFFFF)
        m.memory.write(CODE, FLDPI)
        m.regs.eip = CODE
        m.run(until=CODE + 2, max_instructions=3)
        assert m.fpu.st[0] == math.pi and not m.regs.cr0 & TS


def test_calls_inside_handlers_keep_the_registers() -> None:
    with Machine(memory=MEMORY) as m:
        m.memory.write(CODE, FNINIT + FLDPI + NOP + NOP)
        m.memory.write(CODE + 0x100, FNINIT + b"\xc3")
        m.kprobe(CODE + 4, pre_handler=lambda p, regs: m.call(CODE + 0x100) and None)
        m.regs.eip = CODE
        m.run(until=CODE + 5, max_instructions=100)
        assert m.fpu.st[0] == math.pi and m.fpu.tag == 0x3FFF
