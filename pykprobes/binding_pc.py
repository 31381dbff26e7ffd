"""The compiled module's functions for a PC's board."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._core import ffi, lib

if TYPE_CHECKING:
    from .binding import Core

FETCHED = 1 << 16
PORTS = 1 << 16


def console_feed(core: Core, data: bytes | bytearray) -> int:
    """Type bytes to the first serial port; how many there was room for."""
    return lib.machine_console_feed(core.handle, ffi.from_buffer("uint8_t[]", data), len(data))


def console_fetch(core: Core) -> bytes:
    """What the guest has sent through the first serial port and nobody has fetched, up to 64 KiB of it."""
    taken = ffi.new("uint8_t[]", FETCHED)
    return bytes(ffi.buffer(taken, lib.machine_console_fetch(core.handle, taken, FETCHED)))


def unclaimed(core: Core, write: int) -> list[int]:
    """How often the guest read or wrote each port that nobody serves."""
    return list(lib.machine_unclaimed(core.handle, write)[0:PORTS])


def board_time(core: Core) -> int:
    """Instructions, and those that HLT skipped."""
    return lib.machine_board_time(core.handle)
