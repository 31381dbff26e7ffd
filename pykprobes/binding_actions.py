"""Actions and fetch arguments as the compiled module takes them: the other module, with binding, that touches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._core import ffi, lib

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from ._core import Action, Fetch
    from .fetchargs import FetchArg

    Bins = NDArray[numpy.uint64]


def fill_fetch(compiled: Fetch, arg: FetchArg, symbol: int) -> None:
    """Compile a fetch argument; `symbol` is the address of the symbol that it names, else 0."""
    if arg.register is None:
        compiled.base, compiled.imm = lib.FETCH_IMM, (symbol + arg.value) & 0xFFFFFFFF
    elif arg.register < 0:
        compiled.base = lib.FETCH_SP
    else:
        compiled.base, compiled.reg = lib.FETCH_REG, arg.register
    compiled.derefs = len(arg.offsets)
    compiled.size, compiled.is_signed = arg.size, arg.signed
    compiled.bit_width, compiled.bit_offset = arg.bit_width, arg.bit_offset
    for i, offset in enumerate(arg.offsets):
        compiled.offset[i] = offset


class CoreAction:
    """A C action, and everything that it points to."""

    KINDS = {
        "count": lib.ACTION_COUNT,
        "linear": lib.ACTION_HIST_LINEAR,
        "log2": lib.ACTION_HIST_LOG2,
        "stop": lib.ACTION_STOP,
    }

    def __init__(self, kind: str, bins: Bins | None = None, lo: int = 0, width: int = 1) -> None:
        self.c: Action = ffi.new("struct action *")
        self.c.kind = self.KINDS[kind]
        self._next: CoreAction | None = None
        if bins is not None:
            self._bins = ffi.from_buffer("uint64_t[]", bins, require_writable=True)
            self.c.bins, self.c.nbins = self._bins, len(bins) - 2 if kind == "linear" else len(bins)
            self.c.lo, self.c.width = lo, width

    def set_field(self, arg: FetchArg, symbol: int) -> None:
        fill_fetch(self.c.field, arg, symbol)

    def set_next(self, following: CoreAction | None) -> None:
        self._next = following
        self.c.next = ffi.NULL if following is None else following.c

    def reset(self) -> None:
        self.c.count = self.c.faults = 0
