"""Random programs of x87 and SSE instructions, run on the real CPU and in the machine: whole state, bit for bit.

A program is straight, or a loop of up to three rounds; it loads, computes and stores over edge values and whatever its
own instructions made of them. Single instructions with all their operands are x87.py's and sse.py's.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache

from . import native, sse, x87
from .case import ARITH, DATA, FAULT, READONLY, STACK_TOP, UNTIL, Case, Result
from .compare import memory_differences
from .ours import Ours
from .undefined import SSE_ROWS, X87

AREA, SLOTS = DATA + 0x400, 16
"""Memory operands are 16 bytes each here; esi holds the address."""
LONGEST = 24

_NEVER = {name for row in X87 if not row.unmasked for name in row.names.split()}
_IF_MASKED = {name for row in X87 if row.unmasked for name in row.names.split()}
X87_FORMS = tuple(f for f in x87.FORMS if f.name not in _NEVER and f.kind not in ("cw", "env") and f.name != "fninit")
_SSE_EXCUSED = {name for row in SSE_ROWS for name in row.names.split("; ")}
_STATE = (0xAE, 0x77, 0xF7, 0xC3)  # MXCSR, EMMS, MASKMOVQ: not what a program does all the time
SSE_FORMS = tuple(f for f in sse.FORMS if f.name not in _SSE_EXCUSED and f.opcode not in _STATE)
SSE_FLOATS = tuple(f for f in SSE_FORMS if f.opcode in sse.FLOATS)
UNDEFINED, PAGE_FAULT = 6, 14  # vectors


def _memory(rng: random.Random, reg: int, size: int) -> bytes:
    """ModRM and displacement of an operand by esi."""
    slot = 16 * rng.randrange(SLOTS)
    if size != 16 and rng.random() < 0.2:
        slot += rng.randrange(16)
    if rng.random() < 0.03:
        slot += rng.choice((READONLY, sse.FAR)) - AREA
    return bytes([0x80 | reg << 3 | 6]) + struct.pack("<I", slot)


def _x87(rng: random.Random, masked: bool) -> bytes:
    form = rng.choice(X87_FORMS)
    while form.name in _IF_MASKED and not masked:
        form = rng.choice(X87_FORMS)
    if form.memory:
        return form.prefix + bytes([form.escape]) + _memory(rng, form.modrm >> 3, form.memory)
    if form.escape == 0x9B:
        return b"\x9b"
    fixed = (form.escape == 0xD9 and form.modrm >= 0xE0) or form.modrm & 7 or form.name in ("fnop", "fnstsw")
    return form.prefix + bytes([form.escape, form.modrm if fixed else form.modrm | rng.randrange(3)])


@cache
def _defined(forms: tuple[sse.Form, ...]) -> tuple[sse.Form, ...]:
    """Those that this CPU has."""
    image = _image(random.Random(0), True)
    cases = [Case(_encode(random.Random(0), form), [AREA] * 8, max_steps=1, fpu=image) for form in forms]
    results = native.run(cases)
    return tuple(form for form, result in zip(forms, results, strict=True) if result.vector != UNDEFINED)


def _sse(rng: random.Random) -> bytes:
    return _encode(rng, rng.choice(_defined(SSE_FLOATS if rng.random() < 0.6 else SSE_FORMS)))


def _encode(rng: random.Random, form: sse.Form) -> bytes:
    reg = form.reg if form.reg >= 0 else rng.choice((0, 1, 2, 3, 5))
    code = sse.PREFIXES[form.prefix] + bytes([0x0F, form.opcode])
    code += _memory(rng, reg, 16) if form.mem else bytes([0xC0 | reg << 3 | rng.choice((0, 1, 2, 3, 5))])
    return code + (rng.randbytes(1) if form.opcode in sse.IMMEDIATE else b"")


def _program(rng: random.Random, masked: bool) -> list[bytes]:
    share = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
    return [_x87(rng, masked) if rng.random() < share else _sse(rng) for _ in range(rng.randrange(2, LONGEST))]


def _image(rng: random.Random, masked: bool) -> bytes:
    """The 512 bytes of FXSAVE to start with, half of the stack full."""
    masks = [0x3F if masked else rng.getrandbits(6) for _ in range(2)]
    top = rng.randrange(8)
    full = sum(1 << (top + k) % 8 for k in range(4))
    control = 0x340 if rng.random() < 0.7 else rng.choice((0, 2)) << 8 | 0x40 | rng.randrange(4) << 10
    head = struct.pack("<HHBB", control | masks[0], top << 11, full, 0) + bytes(18)
    mxcsr = masks[1] << 7 | rng.choice((0, 0, 0, rng.randrange(4))) << 13 | rng.choice((0, 0, 0x8000, 0x40, 0x8040))
    stack = [x87.from_float(rng.uniform(-9, 9)) if rng.random() < 0.6 else rng.choice(x87.VALUES) for _ in range(8)]
    xmm = [sse.lanes(rng, rng.choice(SSE_FLOATS)) for _ in range(8)]
    head += struct.pack("<II", mxcsr, 0xFFFF) + b"".join(value.ljust(16, b"\0") for value in stack)
    return (head + b"".join(xmm)).ljust(512, b"\0")


def _assemble(program: Iterable[bytes], rounds: int) -> bytes:
    """The program once, or in a loop that edi counts."""
    body = b"".join(program)
    if rounds == 1:
        return body
    back = -(len(body) + 7)
    return body + b"\x4f" + b"\x0f\x85" + struct.pack("<i", back)


def sequence(seed: object) -> Case:
    """The random program of a seed; notes hold its instructions and rounds."""
    rng = random.Random(f"float {seed}")
    masked = rng.random() < 0.85
    program, rounds = _program(rng, masked), rng.choice((1, 1, 2, 3))
    data = b"".join(sse.lanes(rng, rng.choice(SSE_FLOATS)) for _ in range(SLOTS + 1))
    regs = [rng.getrandbits(32) if rng.random() < 0.5 else rng.randrange(100) for _ in range(8)]
    regs[4], regs[6], regs[7] = STACK_TOP, AREA, rounds
    return Case(
        _assemble(program, rounds), regs, patches=[(AREA, data)], notes=(program, rounds), fpu=_image(rng, masked)
    )


def difference(case: Case, result: Result, engine: Ours, steps: bool = False) -> str:
    """How the machine, run or stepped, differs from the CPU in the end; empty if it does not."""
    engine.load(case)
    sse.load(engine.machine, case.fpu)
    engine.machine.regs.cr0 &= ~0xC
    if steps:
        fault = next((found for found in (engine.step() for _ in result.steps) if found), None)
        if not fault and result.outcome == FAULT:
            fault = engine.step()
        outcome = FAULT if fault else UNTIL
    else:
        outcome, fault = engine.run(case)
    if outcome != result.outcome or (result.outcome == FAULT and (not fault or fault.vector != result.vector)):
        return f"{outcome} {fault}, CPU {result.outcome} {result.vector} at {result.eip:#x}"
    got, want = sse.our_state(engine.machine), sse.state_of(result.fpu)
    if got != want:
        return f"\n  ours {got}\n  CPU  {want}"
    if fault and fault.vector == PAGE_FAULT and fault.address != result.address:
        return f"{fault}, CPU {result.address:#x}"
    regs, eip, eflags = engine.state()
    if regs != result.regs or eip != result.eip or (eflags ^ result.eflags) & ARITH:
        return f"{engine.state()}, CPU {result.regs} {result.eip:#x} {result.eflags:#x}"
    return next(memory_differences(engine, result), "")


def _smaller(case: Case) -> Iterator[Case]:
    program, rounds = case.notes  # type: ignore[misc]
    for i in range(len(program)):
        shorter = program[:i] + program[i + 1 :]
        yield replace(case, code=_assemble(shorter, rounds), notes=(shorter, rounds), until=-1)


def shrink(case: Case, engine: Ours, steps: bool) -> tuple[Case, str]:
    """The shortest program found that still differs, and how."""
    text = difference(case, native.run([case])[0], engine, steps)
    for smaller, result in native.run_batches(list(_smaller(case))):
        if found := difference(smaller, result, engine, steps):
            return shrink(smaller, engine, steps) if len(smaller.code) < len(case.code) else (smaller, found)
    return case, text


def failure(case: Case, result: Result, engine: Ours) -> str:
    """What is wrong with a case, run or stepped, made small; empty if nothing is."""
    for steps in (False, True):
        if difference(case, result, engine, steps):
            small, text = shrink(case, engine, steps)
            program, rounds = small.notes  # type: ignore[misc]
            image = sse.state_of(small.fpu)
            return f"{rounds} x {[code.hex() for code in program]} {text}\n  before {image}"
    return ""


def failures(count: int, engine: Ours, seed: object = 0) -> list[str]:
    """All failures in so many programs."""
    cases = (sequence(f"{seed} {i}") for i in range(count))
    return [text for case, result in native.run_batches(cases, 500) if (text := failure(case, result, engine))]
