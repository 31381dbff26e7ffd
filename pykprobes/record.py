"""Records of hits: chosen fields in a ring that C fills, as numpy structured arrays."""

from __future__ import annotations

from operator import index
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy

from .actions import Action, Fields, Lookup, as_field
from .binding_actions import FULL, CoreAction, CoreRing
from .fetchargs import FetchArg
from .programs import compile_field

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .programs import Op

HEAD = {"icount": ("u8", 0), "cpu": ("u2", 8), "probe": ("u4", 12), "faults": ("u8", 16)}
HEAD_SIZE = 24
FIELDS_MAX = 64
RECORD_MAX = 60_000
STRING_MAX = 4096
RING_MAX = 1 << 36


class Record(Action):
    """Keeps fields of every hit in a ring of `capacity` records; ``drain()`` takes them out as a structured array.

    The array's columns are icount (instructions retired before the hit), cpu, probe (`Kprobe.number`), faults (bit i:
    field i could not be read and is 0), then the fields by name, arg1, arg2 ... where they have none. Arrays are
    sub-arrays; strings are bytes, cut at `string` of them.

    When the ring is full, ``full`` says what gives way: "drop-oldest" or "drop-newest" record, counted in ``dropped``;
    with "stop" the run ends, with the reason STOPPED, behind the hit that fills the ring.

    **While another thread runs the machine** drain may be called at any time. Every record comes out of it once, whole
    and in order, or is counted in ``dropped``; neither thread waits for the other.

    **Lifetime**: a drained array is the caller's for as long as it is held; nothing writes to it again. Most of a ring
    is handed over without copying, and C gets new memory; small parts, wrapped ones, and what is drained while another
    thread runs the machine, are copied.

    >>> rec = Record("%ax", "len=+12(%sp):u32", "name=+0(+4(%sp)):string", capacity=1024)
    >>> rec.drain().dtype.names
    ('icount', 'cpu', 'probe', 'faults', 'arg1', 'len', 'name')
    """

    def __init__(
        self, *fields: str | FetchArg, capacity: int = 1 << 16, full: str = "drop-oldest", string: int = 64
    ) -> None:
        capacity, string = index(capacity), index(string)
        if full not in FULL:
            raise ValueError(f"full is {', '.join(map(repr, FULL))}, not {full!r}")
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: a ring holds one record at least")
        if not 1 <= string <= STRING_MAX:
            raise ValueError(f"string={string}: strings are cut at 1 to {STRING_MAX} bytes")
        if len(fields) > FIELDS_MAX:
            raise ValueError(f"{len(fields)} fields in a record: at most {FIELDS_MAX}")
        self.fields: dict[str, FetchArg] = {}
        for i, text in enumerate(fields, 1):
            field = as_field(text)
            name = field.name or f"arg{i}"
            if name in self.fields or name in HEAD:
                raise ValueError(f"two columns are called {name!r}")
            self.fields[name] = field
        self.dtype, self._layout = _layout(self.fields, string)
        size = capacity * self.dtype.itemsize
        if size > RING_MAX:
            raise ValueError(f"capacity={capacity:,}: that is {size >> 30:,} GiB of records, the most is 64 GiB")
        self.capacity, self.full = capacity, full
        self._ring = CoreRing(self.dtype, capacity, full)
        self._lock = Lock()
        super().__init__(CoreAction("record", ring=self._ring))

    @property
    def dropped(self) -> int:
        """Records lost because the ring was full."""
        return self._ring.dropped

    def __len__(self) -> int:
        return self._ring.waiting

    def drain(self) -> NDArray[Any]:
        """All records that are waiting, oldest first; they leave the ring."""
        with self._lock:
            owner = self._owner
            if owner is None:
                return self._ring.drain(idle=False)
            with owner.exclusive() as idle:
                if idle:
                    return self._ring.drain(idle=True)
            return self._ring.drain(idle=False)

    def reset(self) -> None:
        """Forget what was counted, and the records that are waiting."""
        self.drain()
        self._ring.forget()
        super().reset()

    def _fields(self) -> Fields:
        return self.fields

    def _compile(self, lookup: Lookup, names: Fields) -> list[list[Op]]:
        return [compile_field(field, lookup, lookup.kept) for field in self.fields.values()]

    def _load(self, programs: list[list[Op]]) -> None:
        self._core.set_fields([(ops, *place) for ops, place in zip(programs, self._layout, strict=True)])

    def __repr__(self) -> str:
        lost = f", {self.dropped:,} dropped" if self.dropped else ""
        return f"<Record of {', '.join(self.fields) or 'icount'}, {self.count:,} hits, {len(self):,} waiting{lost}>"


def _layout(fields: Fields, string: int) -> tuple[numpy.dtype[Any], list[tuple[int, int, int, str]]]:
    """The dtype of records, and offset, size, count and kind of every field; ValueError when it grows too long."""
    names, formats, offsets = list(HEAD), [kind for kind, _ in HEAD.values()], [at for _, at in HEAD.values()]
    places = []
    at = HEAD_SIZE
    for name, field in fields.items():
        size = string if field.kind == "string" else field.size
        base = f"S{size}" if field.kind in ("string", "char") else f"{'i' if field.signed else 'u'}{size}"
        if field.kind != "string":
            at = -(-at // size) * size
        kind = "string" if field.kind == "string" else "array" if field.count else "number"
        names.append(name)
        formats.append(f"({field.count},){base}" if field.count else base)
        offsets.append(at)
        places.append((at, size, field.count or 1, kind))
        at += size * (field.count or 1)
    if at > RECORD_MAX:
        raise ValueError(f"a record of {at:,} bytes: the most is {RECORD_MAX:,}")
    itemsize = -(-at // 8) * 8
    dtype = numpy.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize})
    return dtype, places
