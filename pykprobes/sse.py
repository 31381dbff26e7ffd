"""The XMM registers and MXCSR of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from operator import index
from typing import TYPE_CHECKING

from .registers import one_of_eight

if TYPE_CHECKING:
    from ._core import SseState
    from .binding import Core
    from .binding_cpu import CpuCore

_SIZE = 16


class XmmRegisters:
    """XMM0 to XMM7 as an indexable view: 16 bytes each, lowest lane first; assigning takes bytes or an int."""

    __slots__ = ("_sse",)

    def __init__(self, sse: Sse) -> None:
        self._sse = sse

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> bytes:
        i = one_of_eight(i, "xmm{}")
        return bytes(self._sse.state().xmm)[_SIZE * i : _SIZE * i + _SIZE]

    def __setitem__(self, i: int, value: bytes | bytearray | memoryview | int) -> None:
        i = one_of_eight(i, "xmm{}")
        raw = _register(value)
        state = self._sse.state()
        data = bytearray(state.xmm)
        data[_SIZE * i : _SIZE * i + _SIZE] = raw
        state.xmm = list(data)
        self._sse.store(state)

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(8))

    def __repr__(self) -> str:
        return f"<xmm {' '.join(value[::-1].hex() for value in self)}>"


def _register(value: bytes | bytearray | memoryview | int) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(memoryview(value).cast("B"))
        if len(raw) != _SIZE:
            raise ValueError(f"an XMM register is 16 bytes, not {len(raw)}")
        return raw
    value = index(value)
    if not 0 <= value < 1 << 128:
        raise ValueError(f"{value:#x} does not fit an XMM register: 0 to 2**128 - 1")
    return value.to_bytes(_SIZE, "little")


class Sse:
    """SSE and SSE2 of a machine: ``m.sse``. Nothing of it may be kept across ``close``.

    ``xmm[i]`` is a register's 16 bytes, ``mxcsr`` the control and status register (SDM vol. 1, 10.2.3). The MMX
    registers are ``m.fpu.mm``. ValueError on a processor without SSE.

    >>> from pykprobes import Machine
    >>> with Machine(memory=1 << 20) as m:
    ...     m.memory.write(0x10000, bytes.fromhex("660ffcc1 f4"))    # paddb xmm0, xmm1; hlt
    ...     m.sse.xmm[0], m.sse.xmm[1] = bytes(range(16)), b"\\1" * 16
    ...     m.regs.eip = 0x10000
    ...     _ = m.run()
    ...     m.sse.xmm[0].hex(), hex(m.sse.mxcsr)
    ('0102030405060708090a0b0c0d0e0f10', '0x1f80')
    """

    __slots__ = ("_core", "_model", "xmm")

    def __init__(self, core: Core | CpuCore, model: str) -> None:
        self._core = core
        self._model = model
        self.xmm = XmmRegisters(self)

    def state(self) -> SseState:
        """A copy of everything."""
        state = self._core.get_sse()
        if state is None:
            raise ValueError(f"cpu={self._model!r} has no XMM registers: 'p3' and 'p4' have")
        return state

    def store(self, state: SseState) -> None:
        """Take over a changed copy; ValueError if MXCSR has reserved bits, with nothing changed."""
        if not self._core.set_sse(state):
            raise ValueError(f"mxcsr={state.mxcsr:#x} has bits that cpu={self._model!r} reserves")

    @property
    def mxcsr(self) -> int:
        """Control and status: flags 0-5, DAZ 6, masks 7-12, rounding 13-14, FTZ 15."""
        return self.state().mxcsr

    @mxcsr.setter
    def mxcsr(self, value: int) -> None:
        value = index(value)
        state = self.state()
        if not 0 <= value < 1 << 32:
            raise ValueError(f"mxcsr={value:#x} does not fit 32 bits")
        state.mxcsr = value
        self.store(state)

    def __repr__(self) -> str:
        return f"<Sse mxcsr={self.mxcsr:#x} {self.xmm!r}>"
