"""Devices: ranges of ports or of physical addresses that Python functions serve."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .binding import Core
    from .regions import AddressSpace

Read = Callable[[int, int], int]
Write = Callable[[int, int, int], object]
PORT, MEMORY = 0, 1
TOPS = {PORT: 1 << 16, MEMORY: 1 << 32}
NAMES = {PORT: "ports", MEMORY: "addresses"}


class Device:
    """What `Machine.on_port` and `Machine.on_mmio` give: a range and its functions, until ``remove``."""

    def __init__(self, core: Core, kind: int, where: range, read: Read | None, write: Write | None) -> None:
        self._core = core
        self._kind = kind
        self._number: int | None = None
        self.range = _checked_range(kind, where)
        for name, function in (("read", read), ("write", write)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}= must be a function, not {type(function).__name__}")
        if read is None and write is None:
            raise ValueError("a device needs read= or write=")
        self.read = read
        self.write = write

    def remove(self) -> None:
        """Serve the range no more; ValueError when that is so already."""
        self._core.handle  # noqa: B018 - a closed machine is reported first
        if self._number is None:
            raise ValueError(f"{self!r} is removed already")
        self._core.release(self._kind, self._number)
        self._number = None

    def copy(self, core: Core) -> Device:
        """The same range and functions for another machine, which has the state of this one's."""
        made = Device(core, self._kind, self.range, self.read, self.write)
        made._number = core.claim(self._kind, self.range, made)
        return made

    def answer(self, address: int, size: int) -> int:
        """What a read gives; all ones where the device cannot be read. ValueError or TypeError for a bad answer."""
        if self.read is None:
            return (1 << 8 * size) - 1
        answer = self.read(address, size)
        try:
            value = index(answer)
        except TypeError:
            raise TypeError(f"a read of {size} bytes at {address:#x} gave {answer!r}, which is no int") from None
        if not 0 <= value < 1 << 8 * size:
            raise ValueError(f"a read of {size} bytes at {address:#x} gave {value:#x}, which does not fit")
        return value

    def __repr__(self) -> str:
        state = "" if self._number is not None else ", removed"
        return f"<Device at {NAMES[self._kind]} {self.range.start:#x} to {self.range.stop - 1:#x}{state}>"


def claim(
    core: Core,
    kind: int,
    where: range,
    read: Read | None,
    write: Write | None,
    regions: AddressSpace | None = None,
) -> Device:
    """Make a device and put it in place; ValueError, with nothing changed, where it cannot be."""
    device = Device(core, kind, where, read, write)
    taken = core.device_at(kind, device.range)
    if taken is not None:
        raise ValueError(f"{NAMES[kind]} {where.start:#x} to {where.stop - 1:#x} overlap {taken!r}")
    if regions is not None:
        regions.check_device(device.range)
    device._number = core.claim(kind, device.range, device)
    if regions is not None:
        regions.add_device(device.range)
    return device


def _checked_range(kind: int, where: range) -> range:
    if not isinstance(where, range):
        raise TypeError(f"{NAMES[kind]} are given as a range, not {type(where).__name__}")
    if where.step != 1 or not 0 <= where.start < where.stop <= TOPS[kind]:
        raise ValueError(f"{where} must be a range of {NAMES[kind]} from 0 to {TOPS[kind] - 1:#x}, in steps of 1")
    return where
