"""Transcendental instructions against functions computed here with 60 digits: within half a unit in the last place."""

import random
from collections.abc import Callable
from decimal import Decimal, getcontext
from fractions import Fraction

import pytest

from pykprobes import Machine

from .guest_code import CODE, MEMORY

getcontext().prec = 60
LN2 = Decimal(2).ln()
HALF_PI_66 = Fraction(0x3243F6A8885A308D3, 1 << 65)  # what the x87 reduces by (SDM vol. 1, 8.3.8)
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
MASKED = 0x33F | 0x40


def value_of(raw: bytes) -> Fraction:
    mantissa, head = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")
    value = Fraction(mantissa) * Fraction(2) ** (max(head & 0x7FFF, 1) - 16383 - 63)
    return -value if head >> 15 else value


def raw_of(mantissa: int, exponent: int, sign: int) -> bytes:
    return (mantissa | 1 << 63).to_bytes(8, "little") + (exponent + 16383 | sign << 15).to_bytes(2, "little")


def decimal(x: Fraction) -> Decimal:
    return Decimal(x.numerator) / Decimal(x.denominator)


def series(x: Decimal, first: Decimal, n: int) -> Decimal:
    """first - first x^2 / (n (n + 1)) + ..."""
    total, term = first, first
    while abs(term) > Decimal("1e-55") * abs(total):
        term = -term * x * x / (n * (n + 1))
        total += term
        n += 2
    return total


def sine(x: Fraction, quarter: int = 0) -> Decimal:
    n = round(x / HALF_PI_66)
    r = decimal(x - n * HALF_PI_66)
    n += quarter
    size = series(r, Decimal(1), 1) if n & 1 else series(r, r, 2)
    return -size if n & 2 else size


def arctangent(y: Fraction, x: Fraction) -> Decimal:
    q = decimal(min(abs(x), abs(y)) / max(abs(x), abs(y)))
    halvings = 12
    for _ in range(halvings):
        q = q / (1 + (1 + q * q).sqrt())
    angle, power, n = q, q, 1
    while abs(power) > Decimal("1e-58") * abs(angle):
        power = -power * q * q
        n += 2
        angle += power / n
    angle *= 2**halvings
    angle = PI / 2 - angle if abs(y) > abs(x) else angle
    angle = PI - angle if x < 0 else angle
    return -angle if y < 0 else angle


def exp_less_1(x: Fraction) -> Decimal:
    t = decimal(x) * LN2
    total, term, n = t, t, 1
    while abs(term) > Decimal("1e-58") * abs(total):
        n += 1
        term = term * t / n
        total += term
    return total


def log2_of_more(x: Fraction) -> Decimal:
    s = decimal(x / (2 + x))
    total, power, n = s, s, 1
    while abs(power) > Decimal("1e-58") * abs(total):
        power *= s * s
        n += 2
        total += power / n
    return 2 * total / LN2


FUNCTIONS: dict[str, tuple[str, Callable[[Fraction, Fraction], Decimal], tuple[int, int]]] = {
    # encoding, f(st0, st1), exponents of st0
    "fsin": ("d9fe", lambda x, y: sine(x), (-70, 62)),
    "fcos": ("d9ff", lambda x, y: sine(x, 1), (-40, 62)),
    "fptan": ("d9f2ddd8", lambda x, y: sine(x) / sine(x, 1), (-40, 62)),
    "f2xm1": ("d9f0", lambda x, y: exp_less_1(x), (-70, -1)),
    "fyl2x": ("d9f1", lambda x, y: decimal(y) * decimal(abs(x)).ln() / LN2, (-3, 3)),
    "fyl2xp1": ("d9f9", lambda x, y: decimal(y) * log2_of_more(x), (-70, -3)),
    "fpatan": ("d9f3", lambda x, y: arctangent(y, x), (-8, 8)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_within_half_a_unit(name: str) -> None:
    code, function, (low, high) = FUNCTIONS[name]
    rng = random.Random(name)
    end = CODE + len(code) // 2
    with Machine(memory=MEMORY) as m:
        m.memory.write(CODE, bytes.fromhex(code))
        for _ in range(150):
            positive = name == "fyl2x"
            x = raw_of(rng.getrandbits(63), rng.randint(low, high), 0 if positive else rng.getrandbits(1))
            y = raw_of(rng.getrandbits(63), rng.randint(-8, 8), rng.getrandbits(1))
            m.fpu.control, m.fpu.status, m.fpu.tag = MASKED, 0, 0xFFFF
            m.fpu.raw[0], m.fpu.raw[1] = x, y
            m.regs.eip = CODE
            m.run(until=end, max_instructions=9)
            result = value_of(m.fpu.raw[0])
            exponent = int.from_bytes(m.fpu.raw[0][8:], "little") & 0x7FFF
            unit = Decimal(2) ** (exponent - 16383 - 63)
            error = abs(decimal(result) - function(value_of(x), value_of(y))) / unit
            assert error < Decimal("0.5000001"), (x.hex(), y.hex(), m.fpu.raw[0].hex(), error)
