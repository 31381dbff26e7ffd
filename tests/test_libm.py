"""Debian's libm, called in the machine and natively: the same bits for thousands of arguments of all its functions.

Its results go through the x87's transcendental instructions, whose last place is a processor's own. Where a result
differs, the function is run again with the silicon's results of just these instructions: then it must not.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator

import pytest

from pykprobes.fpu import from_float

from .libraries.sides import GLIBC, Guest, Native, need_native
from .oracle import native as silicon
from .oracle.case import DATA, STACK_TOP, Case
from .oracle.x87 import fxsave, load_state

ONE = (
    "sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh exp exp2 exp10 expm1 log log2 log10 log1p sqrt cbrt "
    "ceil floor trunc rint round nearbyint roundeven fabs logb erf erfc lgamma tgamma j0 j1 y0 y1 significand"
).split()
TWO = "pow atan2 hypot fmod remainder fdim fmax fmin copysign nextafter scalb".split()
INTEGER = "lrint lround ilogb finite __fpclassify __signbit".split()
LONG = "llrint llround".split()
WIDTHS = {"double": "", "float": "f", "long double": "l"}
CASES = 40
SPECIAL = (0.0, 1.0, math.inf, math.nan, 5e-324, 1.7976931348623157e308, 0.5, 2.0, math.pi, math.pi / 2, 1e-310)
TRANSCENDENTAL = frozenset(bytes((0xD9, second)) for second in (0xF0, 0xF1, 0xF2, 0xF3, 0xF9, 0xFB, 0xFE, 0xFF))
RETURN = 0x7FFF0000


def _number(rng: random.Random) -> float:
    how = rng.random()
    if how < 0.15:
        return rng.choice(SPECIAL) * rng.choice((1, -1))
    if how < 0.3:
        return float(struct.unpack("<d", rng.randbytes(8))[0])
    return rng.uniform(*rng.choice(((-10, 10), (-1, 1), (0, 1000), (0.9, 1.1), (-1e-5, 1e-5))))


def _words(rng: random.Random, width: str) -> tuple[int, ...]:
    """An argument of a width, as it is passed."""
    value = _number(rng)
    if width == "double":
        return struct.unpack("<2I", struct.pack("<d", value))
    if width == "float":
        if not abs(value) < 3.4e38:
            value = math.copysign(math.inf, value) if value == value else value
        return struct.unpack("<I", struct.pack("<f", value))
    significand, head = struct.unpack("<QH", from_float(value))
    if significand and head & 0x7FFF != 0x7FFF and rng.random() < 0.8:
        significand |= rng.getrandbits(11)
    return significand & 0xFFFFFFFF, significand >> 32, head


def _calls(width: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Names, words and types of results."""
    for names, arguments, returns in ((ONE, 1, "f80"), (TWO, 2, "f80"), (INTEGER, 1, "u32"), (LONG, 1, "s64")):
        for name in names:
            rng = random.Random(f"{name} {width}")
            for _ in range(CASES):
                words = tuple(word for _ in range(arguments) for word in _words(rng, width))
                yield name + WIDTHS[width], words, returns


HIDDEN = {"ppro": "-SSE2,-FMA,-AVX2", "p4": "-FMA,-AVX2"}
"""What libm must not see of the host's CPU, to choose the functions that it has for a processor."""


@pytest.fixture(scope="module", params=HIDDEN)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def guest(model: str) -> Guest:
    side = Guest(*GLIBC, "libm.so.6", cpu=model)
    side.m.map(RETURN, 4096)
    return side


@pytest.fixture(scope="module")
def native(model: str) -> Iterator[Native]:
    need_native()
    side = Native("libm.so.6", environment={"GLIBC_TUNABLES": f"glibc.cpu.hwcaps={HIDDEN[model]}"})
    yield side
    side.close()


def _with_the_silicons_results(guest: Guest, name: str, words: tuple[int, ...]) -> tuple[bytes, int]:
    """ST(0) of a function and how many transcendental instructions it had, each one's state taken from the CPU."""
    m, taken = guest.m, 0
    esp = m.regs.esp
    m.push(*reversed(words))
    m.push(RETURN)
    m.regs.eip = m.symbols[name]
    while m.regs.eip != RETURN:
        code = m.memory.read(m.regs.eip, 2)
        if code not in TRANSCENDENTAL:
            m.step()
            continue
        fpu = m.fpu
        full = sum(1 << i for i in range(8) if fpu.tag >> 2 * i & 3 != 3)
        regs = [0, 0, 0, 0, STACK_TOP, 0, DATA, 0]
        case = Case(code, regs, fpu=fxsave(fpu.control, fpu.status, full, list(fpu.raw)))
        m.step()
        load_state(m, silicon.run([case])[0].fpu)
        taken += 1
    result = m.fpu.raw[0]
    m.fpu.tag = 0xFFFF
    m.regs.esp = esp
    return result, taken


def _compare(guest: Guest, native: Native, calls: Iterator[tuple[str, tuple[int, ...], str]]) -> None:
    """The same results, and the same errno, which is a thread-local variable of another library."""
    count, differing = 0, []
    for name, words, returns in calls:
        ours, theirs = (side.call(name, *words, returns=returns) for side in (guest, native))
        errors = [side.read(side.call("__errno_location"), 4) for side in (guest, native)]
        assert errors[0] == errors[1], (name, words)
        count += 1
        if ours != theirs:
            differing.append((name, words, theirs))
    assert len(differing) < count // 50, "more than some last places"
    for name, words, theirs in differing:
        result, taken = _with_the_silicons_results(guest, name, words)
        assert taken and result == theirs, (name, words)


@pytest.mark.parametrize("width", WIDTHS)
def test_results(guest: Guest, native: Native, width: str) -> None:
    _compare(guest, native, _calls(width))


@pytest.mark.parametrize("mode", range(4), ids=["nearest", "down", "up", "zero"])
def test_rounding(guest: Guest, native: Native, mode: int) -> None:
    """Functions that heed the rounding mode, and some that must be right in spite of it."""
    kept = guest.m.fpu.control
    guest.m.fpu.control = kept | mode << 10
    assert native.call("fesetround", mode << 10) == 0
    names = "rint nearbyint lrint llrint sqrt fmod exp log pow sin tan atan2 cbrt".split()
    _compare(guest, native, (c for c in _calls("double") if c[0] in names))
    guest.m.fpu.control = kept
    native.call("fesetround", 0)
