"""x87 instructions on the real CPU and in the machine: every form, over values and control words, bit for bit."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pykprobes import Machine
from pykprobes.fpu import from_float

from . import silicon
from .case import ARITH, DATA, FAULT, STACK_TOP, Case, Result
from .compare import memory_differences
from .ours import Ours
from .undefined import VENDOR, X87

TOP = 1 << 63
INF = 0x7FFF
C0, C1, C2, C3 = 0x100, 0x200, 0x400, 0x4000


def f80(mantissa: int, exponent: int, sign: int = 0) -> bytes:
    """Ten bytes of a register; the exponent is biased."""
    return struct.pack("<QH", mantissa, exponent | sign << 15)


_ONE = 0x3FFF
_UNSIGNED = (
    (0, 0), (1, 0), (0x123456789ABCDEF, 0), (TOP - 1, 0), (TOP, 0), (TOP | 1, 0), (TOP, 1), (2 * TOP - 1, 1), (TOP, 2),
    (TOP, _ONE), (TOP | 1, _ONE), (2 * TOP - 1, _ONE), (3 << 62, _ONE), (TOP, _ONE - 1), (TOP | 1, _ONE - 1),
    (2 * TOP - 1, _ONE - 1), (TOP, _ONE + 1), (5 << 61, _ONE + 1), (7 << 61, _ONE + 1), (0xC90FDAA22168C235, _ONE + 1),
    (TOP | 1 << 39, _ONE), (TOP | 3 << 39, _ONE), (TOP | 1 << 10, _ONE), (TOP | 3 << 10, _ONE),
    (TOP | 1 << 10 | 1, _ONE),
    (TOP | 1 << 39 | 1, _ONE), (0xFFFFFF8000000000, _ONE + 126), (0xFFFFFF7FFFFFFFFF, _ONE + 127), (TOP, _ONE + 128),
    (0xFFFFFFFFFFFFFC00, _ONE + 1023), (TOP, _ONE + 1024), (TOP, _ONE - 126), (TOP, _ONE - 127), (TOP, _ONE - 149),
    (TOP, _ONE - 150), (TOP | 1, _ONE - 150), (2 * TOP - 1, _ONE - 127), (TOP, _ONE - 1022), (TOP, _ONE - 1074),
    (TOP, _ONE - 1075), (TOP, _ONE + 14), (2 * TOP - 1, _ONE + 14), (TOP, _ONE + 15), (0xFFFF000000000000, _ONE + 15),
    (TOP, _ONE + 30), (0xFFFFFFFF00000000, _ONE + 30), (TOP, _ONE + 31), (TOP, _ONE + 62), (2 * TOP - 1, _ONE + 62),
    (TOP, _ONE + 63), (2 * TOP - 1, _ONE + 63), (0xDE0B6B3A763FFFF0, _ONE + 59), (0xDE0B6B3A763FFFF8, _ONE + 59),
    (0xDE0B6B3A76400000, _ONE + 59), (TOP, _ONE + 64), (TOP, _ONE - 64), (TOP, _ONE - 63), (TOP, _ONE - 65),
    (TOP, _ONE + 200), (TOP, 0x7FFE), (2 * TOP - 1, 0x7FFE), (2 * TOP - 1, 0x7FFD), (TOP, INF), (3 << 62, INF),
    (3 << 62 | 1, INF), (2 * TOP - 1, INF), (TOP | 1, INF), (TOP | 1 << 40, INF), (3 << 61, INF), (0, INF), (1, INF),
    (0, _ONE), (TOP - 1, _ONE), (1, 0x7FFE),
)  # fmt: skip
VALUES = tuple(f80(mantissa, exponent, sign) for mantissa, exponent in _UNSIGNED for sign in (0, 1))
_SMALL = (1, 2, 3, 7, 10, 0.5, 0.75, 100.5, 1e5, -1, -3, -0.1)


class Form(NamedTuple):
    """An instruction: its escape byte, its reg field or whole second byte, bytes of a memory operand, and operands."""

    name: str
    escape: int
    modrm: int
    memory: int = 0
    kind: str = ""
    prefix: bytes = b""


def _arith() -> Iterator[Form]:
    names = ("fadd", "fmul", "fcom", "fcomp", "fsub", "fsubr", "fdiv", "fdivr")
    for reg, name in enumerate(names):
        for escape, memory, kind in ((0xD8, 4, "f32"), (0xDC, 8, "f64"), (0xDA, 4, "int"), (0xDE, 2, "int")):
            yield Form(name, escape, reg << 3, memory, kind)
        for escape in (0xD8, 0xDC, 0xDE):
            if (escape, reg) != (0xDE, 3):
                yield Form(name, escape, 0xC0 | reg << 3)


_MEMORY = """
fld d9/0 4 f32; fst d9/2 4 to; fstp d9/3 4 to; fldcw d9/5 2 cw; fnstcw d9/7 2 to; fld dd/0 8 f64; fst dd/2 8 to
fstp dd/3 8 to; fnstsw dd/7 2 to; fld db/5 10 f80; fstp db/7 10 to; fild df/0 2 int; fild db/0 4 int; fild df/5 8 int
fist df/2 2 to; fistp df/3 2 to; fist db/2 4 to; fistp db/3 4 to; fistp df/7 8 to; fbld df/4 10 bcd; fbstp df/6 10 to
fldenv d9/4 28 env; fnstenv d9/6 28 to; frstor dd/4 108 env; fnsave dd/6 108 to
"""
_REGISTER = """
fld d9c0; fxch d9c8; fnop d9d0; fstp1 d9d8; fchs d9e0; fabs d9e1; ftst d9e4; fxam d9e5; fld1 d9e8; fldl2t d9e9
fldl2e d9ea; fldpi d9eb; fldlg2 d9ec; fldln2 d9ed; fldz d9ee; fxtract d9f4; fprem1 d9f5; fdecstp d9f6; fincstp d9f7
fprem d9f8; fsqrt d9fa; frndint d9fc; fscale d9fd; fcmovb dac0; fcmove dac8; fcmovbe dad0; fcmovu dad8; fucompp dae9
fcmovnb dbc0; fcmovne dbc8; fcmovnbe dbd0; fcmovnu dbd8; fnclex dbe2; fninit dbe3; fucomi dbe8; fcomi dbf0
f2xm1 d9f0; fyl2x d9f1; fptan d9f2; fpatan d9f3; fyl2xp1 d9f9; fsincos d9fb; fsin d9fe; fcos d9ff
ffree ddc0; fxch4 ddc8; fst ddd0; fstp ddd8; fucom dde0; fucomp dde8; fcompp ded9; ffreep dfc0; fxch7 dfc8; fstp8 dfd0
fstp9 dfd8; fnstsw dfe0; fucomip dfe8; fcomip dff0; fwait 9b00
"""


def _forms() -> Iterator[Form]:
    yield from _arith()
    for row in _MEMORY.replace("\n", ";").split(";"):
        if row.strip():
            name, code, size, kind = row.split()
            yield Form(name, int(code[:2], 16), int(code[3]) << 3, int(size), kind)
            if int(size) >= 28:
                yield Form(name, int(code[:2], 16), int(code[3]) << 3, int(size) - 14, kind, b"\x66")
    for row in _REGISTER.replace("\n", ";").split(";"):
        if row.strip():
            name, code = row.split()
            yield Form(name, int(code[:2], 16), int(code[2:], 16))


FORMS = tuple(_forms())
_FLOATS = {
    "f32": (0, 1, 0x7FFFFF, 0x800000, 0x3F800000, 0x3F800001, 0x7F7FFFFF, 0x7F800000, 0x7FC00001, 0x7F800001,
            0x40490FDB),
    "f64": (0, 1, 0xFFFFFFFFFFFFF, 1 << 52, 0x3FF << 52, 0x3FF << 52 | 1, 0x7FE << 52, 0x7FF << 52, 0xFFF << 51,
            0x7FF << 52 | 1, 0x400921FB54442D18),
}  # fmt: skip


def _operand(form: Form, rng: random.Random) -> bytes:
    if form.kind in _FLOATS:
        value = rng.choice(_FLOATS[form.kind]) | rng.getrandbits(1) << 8 * form.memory - 1
        value = rng.getrandbits(8 * form.memory) if rng.random() < 0.2 else value
        return value.to_bytes(form.memory, "little")
    if form.kind == "f80":
        return rng.choice(VALUES)
    if form.kind == "bcd":
        digits = bytes(rng.randrange(10) | rng.randrange(10) << 4 for _ in range(9))
        return rng.choice((digits, bytes(9), b"\x99" * 9)) + rng.choice((b"\0", b"\x80"))
    if form.kind == "int":
        bits = 8 * form.memory
        value = rng.choice((0, 1, -1, 1 << bits - 1, (1 << bits - 1) - 1, 5, -7, rng.getrandbits(bits)))
        return (value & (1 << bits) - 1).to_bytes(form.memory, "little")
    if form.kind == "cw":
        return struct.pack("<H", rng.choice((0x37F, 0, 0xFFFF, rng.getrandbits(16))))
    if form.kind == "env":
        words = [rng.getrandbits(16), rng.getrandbits(16) & ~0xBF | rng.choice((0, 0x3F)), rng.getrandbits(16)]
        head = struct.pack("<7H" if form.prefix else "<7I", *words, 0x1234, 0x23, 0x5678, 0x2B)
        return head + b"".join(rng.choice(VALUES) for _ in range(8))
    return rng.randbytes(form.memory)


def fxsave(control: int, status: int, full: int, registers: Iterable[bytes]) -> bytes:
    """The image that sets the x87: registers are ST(0) first, bit i of full is physical register i."""
    head = struct.pack("<HHBB", control, status, full, 0) + bytes(18) + struct.pack("<II", 0x1F80, 0xFFFF)
    return (head + b"".join(r.ljust(16, b"\0") for r in registers)).ljust(512, b"\0")


def _control(rng: random.Random) -> int:
    masks = rng.choice((0x3F, 0x3F, 0x3F, 0, 0x3F ^ 1 << rng.randrange(6), rng.getrandbits(6)))
    return masks | 0x40 | rng.choice((0, 2, 3, 3, 3)) << 8 | rng.randrange(4) << 10


def _value(rng: random.Random) -> bytes:
    how = rng.random()
    if how < 0.6:
        return rng.choice(VALUES)
    if how < 0.7:
        return from_float(rng.choice(_SMALL))
    exponent = rng.choice((rng.randrange(INF), _ONE + rng.randrange(-80, 80), rng.randrange(200)))
    return f80(rng.getrandbits(63) | TOP, exponent, rng.getrandbits(1))


def cases(form: Form, count: int, seed: object = 0) -> Iterator[Case]:
    """Random cases of a form. The stack is nearly always full where it is read and empty where it is pushed to."""
    rng = random.Random(f"{form} {seed}")
    for _ in range(count):
        top, i = rng.randrange(8), rng.randrange(8)
        depth = rng.choice((2, 7, 7, 8, 0, 1)) if rng.random() < 0.25 else rng.choice((2, 3, 6, 7))
        i = i % depth if depth and rng.random() < 0.9 else i
        full = sum(1 << (top + k) % 8 for k in range(depth))
        control = _control(rng)
        old = rng.getrandbits(6) & control if rng.random() < 0.3 else rng.choice((0, 0x3F & control))
        if rng.random() < 0.02:
            old |= rng.getrandbits(6)
        status = old | top << 11 | rng.choice((0, C0 | C1 | C2 | C3, C1, C2)) | rng.choice((0, 0, 0x40))
        status |= 0x8080 if old & ~control else 0
        registers = [_value(rng) for _ in range(8)]
        if rng.random() < 0.15:
            registers[1] = registers[i or 1] = registers[0]
        code, patches = form.prefix + bytes([form.escape]), []
        if form.memory:
            code += bytes([form.modrm | 6])
            patches.append((DATA, _operand(form, rng)))
        elif form.escape != 0x9B:
            fixed = (form.escape == 0xD9 and form.modrm >= 0xE0) or form.modrm & 7 or form.name in ("fnop", "fnstsw")
            code += bytes([form.modrm if fixed else form.modrm | i])
        regs = [rng.getrandbits(32) for _ in range(8)]
        regs[4], regs[6] = STACK_TOP, DATA
        eflags = 0x202 | rng.getrandbits(12) & 0x8D5
        yield Case(code, regs, eflags, patches=patches, max_steps=4, fpu=fxsave(control, status, full, registers))


def load_state(machine: Machine, image: bytes) -> None:
    """Set the x87 of a machine to an image of FXSAVE."""
    control, status, full = struct.unpack_from("<HHB", image)
    state = machine._core.get_fpu()
    state.control, state.status = control, status
    state.st = [byte for i in range(8) for byte in image[32 + 16 * i : 42 + 16 * i]]
    state.tag = sum(3 << 2 * i for i in range(8) if not full >> i & 1)
    machine._core.set_fpu(state)


@dataclass
class State:
    """What is compared of the x87."""

    control: int
    status: int
    full: int
    registers: list[bytes]

    def __str__(self) -> str:
        registers = " ".join(r[::-1].hex() for r in self.registers)
        return f"control {self.control:#x} status {self.status:#06x} full {self.full:08b} st {registers}"


def state_of(image: bytes) -> State:
    control, status, full = struct.unpack_from("<HHB", image)
    return State(control, status, full, [image[32 + 16 * i : 42 + 16 * i] for i in range(8)])


def our_state(machine: Machine) -> State:
    state = machine._core.get_fpu()
    full = sum(1 << i for i in range(8) if state.tag >> 2 * i & 3 != 3)
    data = bytes(state.st)
    return State(state.control, state.status, full, [data[i : i + 10] for i in range(0, 80, 10)])


def _masks(form: Form, state: State) -> dict[str, int]:
    unmasked = state.status & ~state.control & 3
    return {
        row.what: row.mask
        for row in X87
        if form.name in row.names.split() and row.vendor in ("", VENDOR) and (unmasked or not row.unmasked)
    }


def _near(ours: list[bytes], theirs: list[bytes], places: int) -> bool:
    """Do finite registers of one sign differ by so many units in the last place at most?"""
    for a, b in zip(ours, theirs, strict=True):
        x, y = struct.unpack("<QH", a), struct.unpack("<QH", b)
        one = [(head & 0x7FFF) << 63 | mantissa & TOP - 1 for mantissa, head in (x, y)]
        if a != b and ((x[1] ^ y[1]) & 0x8000 or abs(one[0] - one[1]) > places or INF in (x[1] & INF, y[1] & INF)):
            return False
    return True


def difference(form: Form, case: Case, result: Result, engine: Ours) -> str:
    """How the machine differs from the CPU in a case; empty if it does not."""
    engine.load(case)
    load_state(engine.machine, case.fpu)
    engine.machine.regs.cr0 &= ~0xC
    outcome, fault = engine.run(case)
    got, want = our_state(engine.machine), state_of(result.fpu)
    masks = _masks(form, got)
    found = []
    if outcome != result.outcome or (result.outcome == FAULT and (fault is None or fault.vector != result.vector)):
        found.append(f"{outcome} {fault}, CPU {result.outcome} {result.vector}")
    near = got.registers != want.registers and "ulp" in masks and _near(got.registers, want.registers, masks["ulp"])
    # C1 tells which way the last place was rounded, where it does not tell of a new stack fault
    before = state_of(case.fpu)
    rounded = C1 if "ulp" in masks and got.status & 0x20 and not got.status & ~before.status & 0x40 else 0
    status = (got.status ^ want.status) & ~(masks.get("status", 0) | rounded)
    if status or got.control != want.control or got.full != want.full:
        found.append(f"status bits {status:#x}")
    if got.registers != want.registers and not near:
        found.append("registers")
    regs, eip, eflags = engine.state()
    if regs != result.regs or eip != result.eip or (eflags ^ result.eflags) & ARITH & ~masks.get("eflags", 0):
        found.append(f"eax {regs[0]:#x} CPU {result.regs[0]:#x} eip {eip:#x} eflags {eflags:#x} CPU {result.eflags:#x}")
    pointers = range(DATA + 6, DATA + 14) if form.prefix else range(DATA + 12, DATA + 28)
    found += memory_differences(engine, result, pointers if "pointers" in masks else ())
    if not found:
        return ""
    operand = case.patches[0][1].hex() if case.patches else ""
    head = f"{form.name} {case.code.hex()} {operand} {'; '.join(found)}"
    return f"{head}\n  before {before}\n  ours   {got}\n  CPU    {want}"


def differences(form: Form, count: int, engine: Ours, seed: object = 0) -> list[str]:
    """All of them in so many cases of a form."""
    found = [difference(form, case, result, engine) for case, result in silicon.run_batches(cases(form, count, seed))]
    return [text for text in found if text]


_PLUS, _MINUS = 0, 1
_CLASSES = tuple(f80(*row) for row in (
    (0, 0, _PLUS), (0, 0, _MINUS), (1, 0, _PLUS), (TOP, 1, _MINUS), (TOP, _ONE, _PLUS), (TOP, _ONE, _MINUS),
    (TOP, _ONE - 1, _PLUS), (3 << 62, _ONE, _PLUS), (TOP, INF, _PLUS), (TOP, INF, _MINUS), (3 << 62 | 5, INF, _PLUS),
    (TOP | 5, INF, _MINUS), (1, _ONE, _PLUS),
))  # fmt: skip
TWO_OPERANDS = "fyl2x fyl2xp1 fpatan fscale fprem fprem1".split()


def class_cases(form: Form) -> Iterator[Case]:
    """Every pair of kinds of numbers in ST(0) and ST(1), with exceptions masked and not."""
    for control in (0x37F, 0x340):
        for top in _CLASSES:
            exponent = int.from_bytes(top[8:], "little") & INF
            if form.name == "fyl2xp1" and _ONE - 2 < exponent < INF:
                continue  # SDM vol. 2 FYL2XP1: beyond its range the result is undefined
            for below in _CLASSES if form.name in TWO_OPERANDS else _CLASSES[4:5]:
                regs = [0, 0, 0, 0, STACK_TOP, 0, DATA, 0]
                image = fxsave(control, 5 << 11, 0xE0, [top, below, *[f80(TOP, _ONE)] * 6])
                yield Case(bytes([form.escape, form.modrm]), regs, fpu=image, max_steps=4)


def class_differences(form: Form, engine: Ours) -> list[str]:
    """All of them over class_cases."""
    found = [difference(form, case, result, engine) for case, result in silicon.run_batches(class_cases(form))]
    return [text for text in found if text]
