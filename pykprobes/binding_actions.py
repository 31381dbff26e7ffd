"""Actions and field programs as the compiled module takes them: the other module, with binding, that touches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy

from ._core import ffi, lib

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Action, FieldOp, Ring
    from .programs import Op

FULL = {"drop-oldest": lib.RING_DROP_OLDEST, "drop-newest": lib.RING_DROP_NEWEST, "stop": lib.RING_STOP}
KINDS = {
    "count": lib.ACTION_COUNT,
    "stop": lib.ACTION_STOP,
    "when": lib.ACTION_WHEN,
    "every": lib.ACTION_EVERY,
    "random": lib.ACTION_RANDOM,
    "log2": lib.ACTION_HIST_LOG2,
    "linear": lib.ACTION_HIST_LINEAR,
    "edges": lib.ACTION_HIST_EDGES,
    "keys": lib.ACTION_HIST_KEYS,
    "record": lib.ACTION_RECORD,
    "return": lib.ACTION_RETURN,
}
RECORD_KINDS = {"number": lib.RECORD_VALUE, "array": lib.RECORD_ARRAY, "string": lib.RECORD_STRING}
C_TYPES = {"u1": "uint8_t[]", "u4": "uint32_t[]", "u8": "uint64_t[]", "i8": "int64_t[]"}


def program(ops: Sequence[Op]) -> FieldOp:
    """A program in C's memory; ValueError when it is longer, or needs a deeper stack, than C has."""
    made: FieldOp = ffi.new("struct field_op[]", [*ops, (lib.FIELD_END, 0, 0, 0)])
    if lib.field_check(made, len(ops) + 1):
        raise ValueError(f"this is too complex: {len(ops)} steps, or more than {lib.FIELD_DEPTH} values at a time")
    return made


def lend(array: NDArray[Any]) -> Any:
    """A numpy array's memory as a pointer, which keeps the array."""
    return ffi.from_buffer(C_TYPES[array.dtype.str[1:]], array, require_writable=True)


class CoreAction:
    """A C action, and everything that it points to."""

    def __init__(self, kind: str, **members: int | NDArray[Any] | CoreRing) -> None:
        self.c: Action = ffi.new("struct action *")
        self.c.kind = KINDS[kind]
        self._kept: dict[str, Any] = {}
        for name, value in members.items():
            if isinstance(value, numpy.ndarray):
                self._kept[name] = lend(value)
            elif isinstance(value, CoreRing):
                self._kept[name] = value
                self.c.ring = value.c
                continue
            setattr(self.c, name, self._kept.get(name, value))
        lib.action_prepare(self.c)

    def set_program(self, ops: Sequence[Op]) -> None:
        self._kept["program"] = self.c.program = program(ops)

    def set_fields(self, fields: Sequence[tuple[Sequence[Op], int, int, int, str]]) -> None:
        """Of a record: program, offset, size, count and kind of each."""
        programs = [program(ops) for ops, *_ in fields]
        rows = [
            (made, offset, size, count, RECORD_KINDS[kind])
            for made, (_, offset, size, count, kind) in zip(programs, fields, strict=True)
        ]
        self._kept["fields"] = programs, ffi.new("struct record_field[]", rows)
        self.c.fields, self.c.nfields = self._kept["fields"][1], len(rows)
        lib.action_prepare(self.c)

    def reset(self) -> None:
        self.c.count = self.c.passed = self.c.faults = 0


class CoreRing:
    """A ring of records in numpy's memory. One thread at a time reads."""

    def __init__(self, dtype: numpy.dtype[Any], capacity: int, full: str) -> None:
        self.c: Ring = ffi.new("struct ring *")
        self.c.capacity, self.c.stride, self.c.full = capacity, dtype.itemsize, FULL[full]
        self._dtype = dtype
        self._overwritten = 0
        self._give()

    def _give(self) -> None:
        capacity = int(self.c.capacity)
        try:
            self._memory = numpy.empty(capacity, self._dtype)
        except MemoryError:
            size = capacity * self._dtype.itemsize
            raise MemoryError(f"the host has no {size >> 20:,} MiB for {capacity:,} records") from None
        lib.ring_give(self.c, ffi.from_buffer("uint8_t[]", self._memory.view(numpy.uint8), require_writable=True))

    @property
    def dropped(self) -> int:
        missing = max(0, self.c.written - self.c.drained - self.c.capacity)
        return int(self.c.dropped) + self._overwritten + missing

    @property
    def waiting(self) -> int:
        return int(min(self.c.written - self.c.drained, self.c.capacity))

    def forget(self) -> None:
        self.c.dropped = self._overwritten = 0

    def drain(self, idle: bool) -> NDArray[Any]:
        """What there is. `idle`: no other thread writes while this runs, so the memory itself can be handed out."""
        end, capacity, drained = int(self.c.written), int(self.c.capacity), int(self.c.drained)
        first = max(drained, end - capacity)
        n, slot = end - first, first % capacity
        self._overwritten += first - drained
        if idle and 8 * n >= capacity and slot + n <= capacity:
            found = self._memory[slot : slot + n]
            self._give()
            return found
        out = numpy.empty(n, self._dtype)
        if n:
            target = ffi.from_buffer("uint8_t[]", out.view(numpy.uint8), require_writable=True)
            torn = int(lib.ring_copy(self.c, first, end, target))
            self._overwritten += torn
            out = out[torn:]
        return out


class CoreChain:
    """Actions in the order in which they run, as C takes them."""

    def __init__(self, actions: Sequence[CoreAction]) -> None:
        self._actions = list(actions)
        self.c = ffi.new("struct action *[]", [*(action.c for action in actions), ffi.NULL])
