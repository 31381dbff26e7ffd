"""The x87 registers of a machine."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from operator import index
from typing import TYPE_CHECKING, overload

from .registers import one_of_eight

if TYPE_CHECKING:
    from .binding import Core
    from .binding_cpu import CpuCore

_BIAS = 16383
_TOP = 1 << 63


def to_float(raw: bytes) -> float:
    """The 80-bit number in ten bytes, rounded to a Python float; unsupported encodings become NaN.

    >>> to_float(bytes.fromhex("0000000000000080ff3f"))
    1.0
    """
    mantissa, head = struct.unpack("<QH", raw)
    exponent = head & 0x7FFF
    sign = -1.0 if head >> 15 else 1.0
    if exponent == 0x7FFF:
        return math.copysign(math.inf if mantissa == _TOP else math.nan, sign)
    if exponent and not mantissa & _TOP:
        return math.copysign(math.nan, sign)
    power = max(exponent, 1) - _BIAS - 63
    if mantissa == 0 or power < -1200:
        return math.copysign(0.0, sign)
    if power > 1100:
        return math.copysign(math.inf, sign)
    try:
        return sign * float(Fraction(mantissa) * Fraction(2) ** power)
    except OverflowError:
        return math.copysign(math.inf, sign)


def from_float(value: float) -> bytes:
    """The ten bytes of the 80-bit number that equals a Python float.

    >>> from_float(-2.0).hex()
    '000000000000008000c0'
    """
    bits = struct.unpack("<Q", struct.pack("<d", value))[0]
    sign = bits >> 63 << 15
    if math.isinf(value) or math.isnan(value):
        return struct.pack("<QH", _TOP | bits << 11 & _TOP - 1, sign | 0x7FFF)
    if value == 0:
        return struct.pack("<QH", 0, sign)
    fraction, power = math.frexp(abs(value))
    return struct.pack("<QH", int(math.ldexp(fraction, 64)), sign | (power - 1 + _BIAS))


class _Stack:
    """ST(0) to ST(7) as an indexable view; what is assigned to becomes valid in the tag word."""

    __slots__ = ("_core",)

    def __init__(self, core: Core | CpuCore) -> None:
        self._core = core

    def __len__(self) -> int:
        return 8

    def _get(self, i: int) -> bytes:
        i = one_of_eight(i, "st({})")
        return bytes(self._core.get_fpu().st)[10 * i : 10 * i + 10]

    def _set(self, i: int, raw: bytes) -> None:
        i = one_of_eight(i, "st({})")
        state = self._core.get_fpu()
        number = (state.status >> 11) + i & 7
        data = bytearray(state.st)
        data[10 * i : 10 * i + 10] = raw
        state.st = list(data)
        state.tag &= ~(3 << 2 * number) & 0xFFFF
        self._core.set_fpu(state)


class FloatStack(_Stack):
    """The registers as Python floats. Reading rounds to 53 bits; assigning takes a float or an int of up to 53 bits."""

    __slots__ = ()

    def __getitem__(self, i: int) -> float:
        return to_float(self._get(i))

    def __setitem__(self, i: int, value: float) -> None:
        self._set(i, from_float(float(value)))

    def __iter__(self) -> Iterator[float]:
        return (self[i] for i in range(8))

    def __repr__(self) -> str:
        return f"<st {list(self)}>"


class RawStack(_Stack):
    """The registers as ten bytes each, little-endian: significand, then exponent and sign."""

    __slots__ = ()

    def __getitem__(self, i: int) -> bytes:
        return self._get(i)

    def __setitem__(self, i: int, value: bytes) -> None:
        value = bytes(memoryview(value))
        if len(value) != 10:
            raise ValueError(f"an x87 register is 10 bytes, not {len(value)}")
        self._set(i, value)

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(8))


class MmxRegisters:
    """MM0 to MM7 as 64-bit integers: the significands of the physical x87 registers (SDM vol. 1, 9.6.3).

    What is assigned to becomes valid, with an exponent of ones as MMX instructions leave it; TOP stays.
    """

    __slots__ = ("_core",)

    def __init__(self, core: Core | CpuCore) -> None:
        self._core = core

    def __len__(self) -> int:
        return 8

    @staticmethod
    def _slot(i: int, status: int) -> int:
        return one_of_eight(i, "mm{}") - (status >> 11) & 7

    def __getitem__(self, i: int) -> int:
        state = self._core.get_fpu()
        at = 10 * self._slot(i, state.status)
        return int.from_bytes(bytes(state.st)[at : at + 8], "little")

    def __setitem__(self, i: int, value: int) -> None:
        value = index(value)
        if not 0 <= value < 1 << 64:
            raise ValueError(f"mm{i}={value:#x} does not fit 64 bits")
        state = self._core.get_fpu()
        at = 10 * self._slot(i, state.status)
        data = bytearray(state.st)
        data[at : at + 10] = value.to_bytes(8, "little") + b"\xff\xff"
        state.st = list(data)
        state.tag &= ~(3 << 2 * (i % 8)) & 0xFFFF
        self._core.set_fpu(state)

    def __iter__(self) -> Iterator[int]:
        return (self[i] for i in range(8))

    def __repr__(self) -> str:
        return f"<mm {' '.join(f'{value:016x}' for value in self)}>"


class _Field:
    """An integer field of the state."""

    def __init__(self, name: str, bits: int, doc: str) -> None:
        self.name, self.bits, self.__doc__ = name, bits, doc

    @overload
    def __get__(self, fpu: None, owner: type) -> _Field: ...
    @overload
    def __get__(self, fpu: Fpu, owner: type) -> int: ...
    def __get__(self, fpu: Fpu | None, owner: type) -> int | _Field:
        return self if fpu is None else int(getattr(fpu._core.get_fpu(), self.name))

    def __set__(self, fpu: Fpu, value: int) -> None:
        value = index(value)
        if not 0 <= value < 1 << self.bits:
            raise ValueError(f"{self.name}={value:#x} does not fit {self.bits} bits")
        state = fpu._core.get_fpu()
        setattr(state, self.name, value)
        fpu._core.set_fpu(state)


class Fpu:
    """The x87 of a machine: ``m.fpu``. Nothing of it may be kept across ``close``.

    ``st[i]`` is ST(i) as a float, ``raw[i]`` its ten bytes, ``mm[i]`` MMi as an integer; the words are those of FNSTENV
    (SDM vol. 1, 8.1).

    >>> from pykprobes import Machine
    >>> with Machine(memory=1 << 20) as m:
    ...     m.memory.write(0x10000, bytes.fromhex("dbe3 d9e8 d9eb dec1"))    # fninit; fld1; fldpi; faddp
    ...     m.regs.eip = 0x10000
    ...     _ = m.run(until=0x10008)
    ...     m.fpu.st[0], m.fpu.top, hex(m.fpu.tag)
    (4.141592653589793, 7, '0x3fff')
    """

    __slots__ = ("_core", "mm", "raw", "st")

    def __init__(self, core: Core | CpuCore) -> None:
        self._core = core
        self.st = FloatStack(core)
        self.raw = RawStack(core)
        self.mm = MmxRegisters(core)

    control = _Field("control", 16, "Control word; reserved bits are dropped.")
    status = _Field("status", 16, "Status word; ES and B follow from the exceptions and the masks of the control word.")
    tag = _Field("tag", 16, "Tag word, two bits a physical register: 0 valid, 1 zero, 2 special, 3 empty.")
    opcode = _Field("opcode", 11, "Low three bits of the first and the second opcode byte of the last instruction.")
    cs = _Field("cs", 16, "Code segment selector of the last instruction.")
    ip = _Field("ip", 32, "Offset of the last instruction.")
    ds = _Field("ds", 16, "Selector of its memory operand's segment.")
    dp = _Field("dp", 32, "Offset of its memory operand.")

    @property
    def top(self) -> int:
        """Number of the physical register that is ST(0), 0 to 7."""
        return self.status >> 11 & 7

    def __repr__(self) -> str:
        return f"<Fpu control={self.control:#x} status={self.status:#x} tag={self.tag:#x} st={list(self.st)}>"
