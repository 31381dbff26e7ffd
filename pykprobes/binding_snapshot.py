"""Snapshots as the compiled module takes them; with binding and binding_actions, what touches it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy

from ._core import ffi, lib
from .binding import Core

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Snapshot
    from .pc import Pc

ROM, NONZERO, CPUS_MAX = lib.SNAPSHOT_ROM, lib.SNAPSHOT_NONZERO, lib.CPUS_MAX
PAGE = 4096
CPU, BOARD, PC = "struct cpu_state", "struct board_state", "struct pc_state"
HIT_MISSING = -1


class CoreSnapshot:
    """One C snapshot."""

    def __init__(self, handle: Snapshot) -> None:
        if handle == ffi.NULL:
            raise MemoryError("the host has no memory for a snapshot")
        self.c: Snapshot = ffi.gc(handle, lib.snapshot_destroy)

    @classmethod
    def take(cls, core: Core) -> CoreSnapshot:
        """The state of a machine that is not running."""
        return cls(lib.machine_snapshot(core.handle))

    def restore(self, core: Core, hits: bool = True) -> bool:
        """Put a machine of the same setup into this state. False: a running hit's probe is not there.

        Without the hits that were running, so that probes can be registered: restore again afterwards.
        """
        error = lib.machine_restore(core.handle, self.c, hits)
        core.regs._forget()
        if error and error != HIT_MISSING:
            raise MemoryError("the host has no memory to restore the machine")
        return not error

    def withdraw_probes(self, core: Core) -> None:
        """After restore: put back the bytes of probes that the machine does not have."""
        lib.machine_withdraw_probes(core.handle, self.c)

    def probes(self) -> dict[int, int]:
        """Addresses of the registered probes, and the bytes that they replaced."""
        return dict(self._numbered(lib.snapshot_probe))

    def hits(self) -> list[int]:
        """Addresses of the probes whose hits were running."""
        return [address for address, _ in self._numbered(lib.snapshot_hit)]

    def _numbered(self, get: Any) -> Iterator[tuple[int, int]]:
        address, i = ffi.new("uint32_t *"), 0
        while (value := get(self.c, i, address)) >= 0:
            yield address[0], value
            i += 1

    def pages(self) -> tuple[NDArray[numpy.uint32], NDArray[numpy.uint8]]:
        """Frames with RAM in ascending order, and their flags: ROM, NONZERO."""
        count = lib.snapshot_pages(self.c, ffi.NULL, ffi.NULL, 0)
        frames, flags = numpy.empty(count, numpy.uint32), numpy.empty(count, numpy.uint8)
        if count:
            lib.snapshot_pages(self.c, _array("uint32_t[]", frames), _array("uint8_t[]", flags), count)
        return frames, flags

    def contents(self, frames: NDArray[numpy.uint32]) -> NDArray[numpy.uint8]:
        """The contents of frames, one row of 4096 bytes each."""
        found = numpy.empty((len(frames), PAGE), numpy.uint8)
        if len(frames):
            lib.snapshot_bytes(self.c, _array("uint32_t[]", frames), len(frames), _array("uint8_t[]", found))
        return found

    def cpu(self, number: int) -> dict[str, Any]:
        """A CPU's state by the names of struct cpu_state."""
        state = ffi.new(CPU + " *")
        lib.snapshot_cpu(self.c, number, state)
        return _fields(CPU, state)

    def board(self) -> tuple[dict[str, Any], list[int]]:
        """The board's state by the names of struct board_state, and the frames that the kernel side can use again."""
        state = ffi.new(BOARD + " *")
        lib.snapshot_board(self.c, state, ffi.NULL, 0)
        pool = ffi.new("uint32_t[]", max(state.pool, 1))
        lib.snapshot_board(self.c, state, pool, state.pool)
        return _fields(BOARD, state), list(pool)[: state.pool]

    def pc(self) -> tuple[dict[str, Any], bytes]:
        """The state of a PC's board by the names of struct pc_state, and what waits for the serial port's receiver."""
        state = ffi.new(PC + " *")
        lib.snapshot_pc(self.c, state, ffi.NULL, 0)
        typed = ffi.new("uint8_t[]", max(state.typed, 1))
        lib.snapshot_pc(self.c, state, typed, state.typed)
        return _fields(PC, state), bytes(ffi.buffer(typed, state.typed))

    @classmethod
    def load(
        cls,
        setup: tuple[int, int, str | None, str | None, bool | str, str, Pc | None],
        pages: tuple[NDArray[numpy.uint32], NDArray[numpy.uint8], NDArray[numpy.uint8]],
        cpus: list[dict[str, Any]],
        board: dict[str, Any],
        pool: list[int],
        pc: tuple[dict[str, Any], bytes],
    ) -> CoreSnapshot:
        """From parts that are in range: frames, flags and the bytes of those that are NONZERO."""
        frames, flags, data = (numpy.ascontiguousarray(part) for part in pages)
        handle = lib.snapshot_load(
            Core.config(*setup),
            _array("uint32_t[]", frames),
            _array("uint8_t[]", flags),
            len(frames),
            _array("uint8_t[]", data),
            ffi.new(CPU + "[]", cpus),
            ffi.new(BOARD + " *", board),
            ffi.new("uint32_t[]", pool or [0]),
            ffi.new(PC + " *", pc[0]),
            ffi.from_buffer("uint8_t[]", pc[1]),
        )
        return cls(handle)


def pc_state_valid(state: dict[str, Any]) -> bool:
    """Can a PC's board be in this state?"""
    return bool(lib.pc_state_valid(ffi.new(PC + " *", state)))


def state_limits(name: str) -> dict[str, tuple[int, int]]:
    """Of the fields of a C structure: how many numbers (0: one that is no array), and the first one too large."""
    limits = {}
    for field, info in _members(name):
        item = info.type.item if info.type.kind == "array" else info.type
        limits[field] = (info.type.length if info.type.kind == "array" else 0, 1 << 8 * ffi.sizeof(item))
    return limits


def _members(name: str) -> list[tuple[str, Any]]:
    fields: list[tuple[str, Any]] = ffi.typeof(name).fields
    return fields


def _fields(name: str, state: Any) -> dict[str, Any]:
    found = {}
    for field, info in _members(name):
        value = getattr(state, field)
        found[field] = list(value) if info.type.kind == "array" else value
    return found


def _array(kind: str, array: Any) -> Any:
    return ffi.from_buffer(kind, array, require_writable=False)
