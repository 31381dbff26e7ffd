"""MMX, SSE and SSE2 on the real CPU and in the machine: their opcode space, over values and states, bit for bit.

Forms are not taken from the machine's table: every opcode of the ranges below is tried with every mandatory prefix,
with registers and with memory, and whatever is undefined here must be undefined there. undefined.py lists what newer
processors have in the gaps.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pykprobes import Machine

from . import silicon
from .case import ARITH, CODE, DATA, FAULT, READONLY, STACK_TOP, UNTIL, Case, Result
from .compare import memory_differences
from .ours import Ours
from .undefined import SSE_NEWER, SSE_ROWS, VENDOR
from .x87 import VALUES as X87_VALUES

PREFIXES = {"": b"", "66": b"\x66", "F3": b"\xf3", "F2": b"\xf2"}
OPCODES = (*range(0x10, 0x18), *range(0x28, 0x30), *range(0x50, 0x80), *range(0xC2, 0xC7), *range(0xD0, 0x100))
GROUPS = (0x71, 0x72, 0x73, 0xAE)
IMMEDIATE = (0x70, 0x71, 0x72, 0x73, 0xC2, 0xC4, 0xC5, 0xC6)
NOT_SSE = (0xFF,)
FLOATS = (0x2A, 0x2C, 0x2D, 0x2E, 0x2F, 0x51, 0x52, 0x53, 0x58, 0x59, 0x5A, 0x5B, 0x5C, 0x5D, 0x5E, 0x5F, 0xC2, 0xE6)
FXSAVE, FXRSTOR, LDMXCSR, STMXCSR = range(4)
MXCSR = 24
XMM = 160
FAR = 0x40000000


class Form(NamedTuple):
    """An opcode behind 0F with its mandatory prefix, the reg field of groups (or -1), and whether r/m is memory."""

    opcode: int
    prefix: str
    reg: int
    mem: bool

    @property
    def name(self) -> str:
        """Prefix and opcode as in the manual's tables, such as "66 0F 71/2 m"."""
        group = f"/{self.reg}" if self.reg >= 0 else ""
        return f"{self.prefix} 0F {self.opcode:02X}{group} {'m' if self.mem else 'r'}".strip()

    def newer(self) -> bool:
        """Do later processors have something here?"""
        return any(self.name in row.names.split("; ") for row in SSE_NEWER)


def _forms() -> Iterator[Form]:
    for opcode in OPCODES:
        for prefix in PREFIXES:
            if opcode == 0x77:
                yield Form(opcode, prefix, 0, False)
            elif opcode not in GROUPS and opcode not in NOT_SSE:
                yield from (Form(opcode, prefix, -1, mem) for mem in (False, True))
    for opcode in GROUPS:
        for prefix in PREFIXES:
            yield from (Form(opcode, prefix, reg, mem) for reg in range(8) for mem in (False, True))


FORMS = tuple(form for form in _forms() if not form.newer())

_LANES = {
    1: (0, 1, 0x7F, 0x80, 0x81, 0xFF),
    2: (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0x8001, 0xFFFF),
    4: (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0xFFFF8000, 0xFFFF7FFF),
    8: (0, 1, 15, 16, 31, 32, 63, 64, 1 << 32, 1 << 63, (1 << 63) - 1, (1 << 64) - 1, 0xFFFFFFFF),
}
_SINGLES = (
    0, 1, 2, 0x7FFFFF, 0x800000, 0x800001, 0x3F800000, 0x3F800001, 0x3F7FFFFF, 0x3FC00000, 0x40000000, 0x40400000,
    0x3F000000, 0x40200000, 0x4B000000, 0x4B000001, 0x4EFFFFFF, 0x4F000000, 0x4F800000, 0x5F000000, 0x33800000,
    0x7F000000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FC12345, 0x40490FDB, 0x00400000,
    0x20000000, 0x1F800000, 0x60000000, 0x0D000000,
)  # fmt: skip
_DOUBLES = (
    0, 1, 2, (1 << 52) - 1, 1 << 52, 1 << 52 | 1, 0x3FF << 52, 0x3FF << 52 | 1, (0x3FF << 52) - 1, 0x3FF8 << 48,
    1 << 62, 0x4008 << 48, 0x3FE << 52, 0x4330 << 48, 0x4330 << 48 | 1, 0x41DFFFFFFFC00000, 0x41E0 << 48,
    0xC1E0 << 48,
    0x41DFFFFFFFE00000, 0x41DFFFFFFFFFFFFF, 0x47EFFFFFE0000000, 0x47EFFFFFF0000000, 0x47F0 << 48, 0x380 << 52,
    0x37F << 52, 0x36A << 52, 0x369 << 52, 0x3810000000000001, 0x7FE << 52, (0x7FF << 52) - 1, 0x7FF << 52,
    0x7FF << 52 | 1, 0x7FF7FFFFFFFFFFFF, 0x7FF8 << 48, 0x7FF8123456789ABC, 0x400921FB54442D18, 0x2000 << 48,
    0x6000 << 48,
)  # fmt: skip


def lanes(rng: random.Random, form: Form) -> bytes:
    """Sixteen bytes: random, or lanes of edge values, of floating-point ones where the form is such."""
    how = rng.random()
    if form.opcode in FLOATS and how < 0.85:
        wide = form.prefix in ("66", "F2")
        if form.opcode in (0x2A, 0x2C, 0x2D, 0x5A, 0x5B, 0xE6):
            wide = rng.random() < 0.5
        values, bits = (_DOUBLES, 64) if wide else (_SINGLES, 32)
        parts = []
        for _ in range(128 // bits):
            value = rng.choice(values) | rng.getrandbits(1) << bits - 1
            if rng.random() < 0.25:
                value = _ordinary(rng, bits)
            parts.append(value.to_bytes(bits // 8, "little"))
        return b"".join(parts)
    if how < 0.3:
        return rng.randbytes(16)
    size = rng.choice((1, 2, 4, 8))
    return b"".join(rng.choice(_LANES[size]).to_bytes(size, "little") for _ in range(16 // size))


def _ordinary(rng: random.Random, bits: int) -> int:
    """A number whose sums and products with its like are in range, mostly."""
    head, fraction, bias = (8, 23, 127) if bits == 32 else (11, 52, 1023)
    exponent = bias + rng.randrange(-30, 31) if rng.random() < 0.7 else rng.randrange(1 << head)
    return rng.getrandbits(1) << bits - 1 | exponent << fraction | rng.getrandbits(fraction)


def _mxcsr(rng: random.Random) -> int:
    masks = rng.choice((0x3F, 0x3F, 0x3F, 0, 0x3F ^ 1 << rng.randrange(6), rng.getrandbits(6)))
    flags = rng.choice((0, 0, 0x3F, rng.getrandbits(6)))
    other = rng.choice((0, 0, 0x8000, 0x40, 0x8040))
    return masks << 7 | rng.randrange(4) << 13 | flags | other


def _x87(rng: random.Random, form: Form) -> tuple[int, int, int]:
    """Control word, status word and valid registers."""
    control = 0x37F if rng.random() < 0.7 else 0x340 | rng.getrandbits(6)
    pending = rng.getrandbits(6) if rng.random() < 0.06 else rng.getrandbits(6) & control
    status = pending | rng.randrange(8) << 11 | rng.choice((0, 0x4700, 0x200)) | rng.choice((0, 0x40))
    status |= 0x8080 if pending & ~control & 0x3F else 0
    return control, status, rng.getrandbits(8)


def _image(rng: random.Random, form: Form) -> bytes:
    """The 512 bytes of FXSAVE that a case starts with."""
    control, status, full = _x87(rng, form)
    head = struct.pack("<HHBB", control, status, full, 0) + bytes(18) + struct.pack("<II", _mxcsr(rng), 0xFFFF)
    x87 = [rng.choice(X87_VALUES) if rng.random() < 0.3 else lanes(rng, form)[:8] + b"\xff\xff" for _ in range(8)]
    xmm = [lanes(rng, form) for _ in range(8)]
    if rng.random() < 0.1:
        xmm[1:] = xmm[:1] * 7
    return (head + b"".join(value.ljust(16, b"\0") for value in x87) + b"".join(xmm)).ljust(512, b"\0")


def _target(rng: random.Random, size: int) -> int:
    """An address: mostly aligned and mapped, and sometimes neither."""
    how = rng.random()
    if how < 0.7:
        return DATA + 16 * rng.randrange(4, 0x60)
    if how < 0.8:
        return DATA + 0x100 + rng.randrange(64)
    if how < 0.87:
        return DATA + 0x1000 - rng.randrange(size + 1)
    if how < 0.93:
        return READONLY + 16 * rng.randrange(16) + rng.choice((0, 0, 1))
    return rng.choice((FAR, DATA + 0x2000, READONLY + 0x1000, CODE + 0x2000)) - rng.choice((0, 0, 16, 1, 4, 8))


def _modrm(rng: random.Random, reg: int, address: int, regs: list[int]) -> bytes:
    """ModRM and what follows for a memory operand at an address, by esi."""
    if rng.random() < 0.5:
        regs[6] = address & 0xFFFFFFFF
        return bytes([reg << 3 | 6])
    regs[6] = rng.getrandbits(8)
    offset = (address - 4 * regs[6]) & 0xFFFFFFFF
    return bytes([reg << 3 | 4, 0xB5]) + struct.pack("<I", offset)


def _operand(rng: random.Random, form: Form) -> bytes:
    """What lies in memory."""
    if form.opcode == 0xAE and form.reg in (FXSAVE, FXRSTOR):
        image = bytearray(_image(rng, form))
        image[6:24] = rng.randbytes(18)
        image[7] &= 7
        image[14:16] = image[22:24] = b"\0\0"
        if rng.random() < 0.2:
            struct.pack_into("<I", image, MXCSR, rng.choice((0x10000, 0xFFFF, 0x80000000, 0x1FC0)))
        return bytes(image)
    if form.opcode == 0xAE:
        return struct.pack("<I", rng.choice((_mxcsr(rng), 0xFFFF, 0x10000, rng.getrandbits(32))))
    return lanes(rng, form)


def cases(form: Form, count: int, seed: object = 0) -> Iterator[Case]:
    """Random cases of a form."""
    rng = random.Random(f"{form} {seed}")
    for _ in range(count):
        regs = [rng.getrandbits(32) for _ in range(8)]
        if rng.random() < 0.5:
            regs = [int.from_bytes(lanes(rng, form)[:4], "little") for _ in range(8)]
        regs[4] = STACK_TOP
        reg = form.reg if form.reg >= 0 else rng.randrange(8)
        if form.opcode in (0x50, 0xC5, 0xD7, 0x2C, 0x2D) and reg == 4:
            reg = 5
        patches, address = [], None
        code = PREFIXES[form.prefix] + bytes([0x0F, form.opcode])
        if form.mem:
            data = _operand(rng, form)
            address = _target(rng, len(data))
            code += _modrm(rng, reg, address, regs)
            if address in range(DATA, DATA + 0x2001 - len(data)):
                patches.append((address, data))
        elif form.opcode != 0x77:
            rm = rng.randrange(8)
            rm = 5 if rm == 4 and form.opcode == 0x7E else rm
            code += bytes([0xC0 | reg << 3 | rm])
        if form.opcode == 0xF7:
            regs[7] = _target(rng, 16)
        if form.opcode in IMMEDIATE:
            high = rng.random() < 0.3 or form.opcode == 0xC6
            code += bytes([rng.getrandbits(8) if high else rng.choice((*range(18), 31, 32, 63, 64, 255))])
        eflags = 0x202 | rng.getrandbits(12) & ARITH
        yield Case(code, regs, eflags, patches=patches, max_steps=2, notes=address, fpu=_image(rng, form))


_WHOLE = Form(0, "", -1, False)
"""Stands for a sequence."""


def _in_sequence(rng: random.Random, form: Form) -> bytes:
    """An instruction of a form with registers, or with aligned memory at esi."""
    reg = form.reg if form.reg >= 0 else rng.choice((0, 1, 2, 3, 5, 7))
    rm = rng.choice((0, 1, 3, 5))
    modrm = bytes([0x46 | reg << 3, 16 * rng.randrange(8)]) if form.mem else bytes([0xC0 | reg << 3 | rm])
    immediate = bytes([rng.choice((0, 1, 3, 8, 0x1B, 0x4E, 0xE4))]) if form.opcode in IMMEDIATE else b""
    return PREFIXES[form.prefix] + bytes([0x0F, form.opcode]) + modrm + immediate


def sequences(forms: list[Form], count: int, length: int, seed: object = 0) -> Iterator[Case]:
    """Random programs of instructions of these forms."""
    rng = random.Random(f"sequence {seed}")
    for _ in range(count):
        chosen = [rng.choice(forms) for _ in range(length)]
        code = b"".join(_in_sequence(rng, form) for form in chosen)
        regs = [rng.getrandbits(32) for _ in range(8)]
        regs[4], regs[6] = STACK_TOP, DATA + 0x40
        image = bytearray(_image(rng, _WHOLE))
        struct.pack_into("<HH", image, 0, 0x37F, rng.randrange(8) << 11)
        patches = [(DATA + 0x40 + 16 * i, lanes(rng, _WHOLE)) for i in range(9)]
        yield Case(code, regs, 0x202, patches=patches, max_steps=length + 1, fpu=bytes(image))


def executable(engine: Ours) -> list[Form]:
    """Forms of integers and moves that exist, for sequences."""
    found = []
    for form in FORMS:
        if form.opcode in (*FLOATS, 0x77, 0xAE, 0xF7):
            continue
        case = next(iter(sequences([form], 1, 1)))
        engine.load(case)
        load(engine.machine, case.fpu)
        engine.machine.regs.cr0 &= ~0xC
        if engine.run(case)[0] == UNTIL:
            found.append(form)
    return found


def sequence_differences(count: int, length: int, engine: Ours, seed: object = 0) -> list[str]:
    """Differences at the ends of random programs."""
    programs = sequences(executable(engine), count, length, seed)
    found = [difference(_WHOLE, case, result, engine) for case, result in silicon.run_batches(programs)]
    return [text for text in found if text]


def load(machine: Machine, image: bytes) -> None:
    """Set x87, MMX and SSE from what FXSAVE stores."""
    control, status, full = struct.unpack_from("<HHB", image)
    fpu = machine._core.get_fpu()
    fpu.control, fpu.status = control, status
    fpu.st = [byte for i in range(8) for byte in image[32 + 16 * i : 42 + 16 * i]]
    fpu.tag = sum(3 << 2 * i for i in range(8) if not full >> i & 1)
    machine._core.set_fpu(fpu)
    sse = machine._core.get_sse()
    assert sse is not None
    sse.xmm = list(image[XMM : XMM + 128])
    (sse.mxcsr,) = struct.unpack_from("<I", image, MXCSR)
    assert machine._core.set_sse(sse)


@dataclass
class State:
    """What is compared of x87 and SSE."""

    control: int
    status: int
    full: int
    mxcsr: int
    st: list[bytes]
    xmm: list[bytes]

    def __str__(self) -> str:
        st = " ".join(r[::-1].hex() for r in self.st)
        xmm = " ".join(r[::-1].hex() for r in self.xmm)
        head = f"control {self.control:#x} status {self.status:#06x} full {self.full:08b} mxcsr {self.mxcsr:#06x}"
        return f"{head}\n    st  {st}\n    xmm {xmm}"


def state_of(image: bytes) -> State:
    """The state in an image of FXSAVE."""
    control, status, full = struct.unpack_from("<HHB", image)
    (mxcsr,) = struct.unpack_from("<I", image, MXCSR)
    st = [image[32 + 16 * i : 42 + 16 * i] for i in range(8)]
    return State(control, status, full, mxcsr, st, [image[XMM + 16 * i : XMM + 16 + 16 * i] for i in range(8)])


def our_state(machine: Machine) -> State:
    """The machine's state."""
    fpu, sse = machine._core.get_fpu(), machine._core.get_sse()
    assert sse is not None
    full = sum(1 << i for i in range(8) if fpu.tag >> 2 * i & 3 != 3)
    st, xmm = bytes(fpu.st), bytes(sse.xmm)
    registers = [st[10 * i : 10 * i + 10] for i in range(8)]
    return State(fpu.control, fpu.status, full, sse.mxcsr, registers, [xmm[16 * i : 16 * i + 16] for i in range(8)])


_IN_IMAGE = {"pointers": range(6, 24), "mask": range(28, 32)}
"""Parts of the image that FXSAVE stores."""


_APPROXIMATION = 1.5 * 2**-12  # relative error
_HARDLY_NORMAL = 2**-126 * (1 + 2**-10)


def _approximate(ours: list[bytes], theirs: list[bytes]) -> bool:
    """Are singles equal, or can both approximate one value? What is hardly normal may be zero (SDM vol. 2, RCPPS)."""
    for x, y in zip(struct.unpack("<32f", b"".join(ours)), struct.unpack("<32f", b"".join(theirs)), strict=True):
        flushed = 0 in (x, y) and max(abs(x), abs(y)) < _HARDLY_NORMAL
        same = struct.pack("<f", x) == struct.pack("<f", y)
        if not same and not flushed and not abs(x - y) <= 2 * _APPROXIMATION * abs(y):
            return False
    return True


def _excused(form: Form) -> set[str]:
    return {row.what for row in SSE_ROWS if form.name in row.names.split("; ") and row.vendor in ("", VENDOR)}


def difference(form: Form, case: Case, result: Result, engine: Ours) -> str:
    """How the machine differs from the CPU in a case; empty if it does not."""
    engine.load(case)
    load(engine.machine, case.fpu)
    engine.machine.regs.cr0 &= ~0xC
    outcome, fault = engine.run(case)
    got, want = our_state(engine.machine), state_of(result.fpu)
    excused = _excused(form)
    found = []
    vector = fault.vector if fault else -1
    if outcome != result.outcome or (result.outcome == FAULT and vector != result.vector):
        found.append(f"{outcome} {fault}, CPU {result.outcome} {result.vector}")
    elif fault and vector == 14 and fault.address != result.address and "cr2" not in excused:
        found.append(f"CR2 {fault.address:#x} CPU {result.address:#x}")
    alone = "x87" in excused or (result.outcome == FAULT and "faulted" in excused)
    x87 = () if alone else ("control", "status", "full", "st")
    found += [name for name in (*x87, "mxcsr", "xmm") if getattr(got, name) != getattr(want, name)]
    if "xmm" in found and "approximate" in excused and _approximate(got.xmm, want.xmm):
        found.remove("xmm")
    regs, eip, eflags = engine.state()
    if regs != result.regs or eip != result.eip or (eflags ^ result.eflags) & ARITH:
        pairs = " ".join(f"{a:#x}/{b:#x}" for a, b in zip(regs, result.regs, strict=True) if a != b)
        found.append(f"registers {pairs} eip {eip:#x} eflags {eflags:#x} CPU {result.eflags:#x}")
    image = case.notes if isinstance(case.notes, int) else 0
    skipped = [image + k for what in excused & set(_IN_IMAGE) for k in _IN_IMAGE[what]]
    found += memory_differences(engine, result, skipped)
    if not found:
        return ""
    operand = case.patches[0][1].hex() if case.patches else ""
    text = f"{form.name}: {case.code.hex()} {operand} {'; '.join(found)}"
    return f"{text}\n  before {state_of(case.fpu)}\n  ours   {got}\n  CPU    {want}"


def differences(form: Form, count: int, engine: Ours, seed: object = 0) -> list[str]:
    """All of them in so many cases of a form."""
    found = [difference(form, case, result, engine) for case, result in silicon.run_batches(cases(form, count, seed))]
    return [text for text in found if text]
