"""Guest memory by linear address."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

from .errors import MemoryFault

if TYPE_CHECKING:
    from .binding import Core

PAGE = 4096
TOP = 1 << 32


def address_range(address: int, size: int) -> tuple[int, int]:
    """Check that [address, address + size) lies in 4 GiB; ValueError or TypeError when not."""
    address, size = index(address), index(size)
    if address < 0 or address >= TOP:
        raise ValueError(f"address {address:#x} is outside of 0 to 0xffffffff")
    if size < 0:
        raise ValueError(f"a size cannot be negative: {size}")
    if address + size > TOP:
        raise ValueError(f"{size:#x} bytes at {address:#x} go beyond 4 GiB")
    return address, size


def as_bytes(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    """Anything with a contiguous buffer, as bytes; TypeError for what has none."""
    return data if isinstance(data, bytes) else memoryview(data).cast("B")


class Memory:
    """Linear guest memory as the kernel side sees it, whatever its write protection.

    ``m.memory[a:b]`` are bytes and can be assigned; ``read`` and ``write`` take an address and a size or data;
    ``u8`` to ``u64`` read one little-endian number and ``write_u8`` to ``write_u64`` store one. What is not
    mapped is a `MemoryFault` (a ValueError), and nothing is written then.
    """

    __slots__ = ("_core",)

    def __init__(self, core: Core) -> None:
        self._core = core

    def read(self, address: int, size: int) -> bytes:
        """The bytes [address, address + size)."""
        address, size = address_range(address, size)
        if size > PAGE:
            self._check(address, size)
        data = self._core.peek(address, size)
        if len(data) < size:
            raise self._fault("read", address, size, len(data))
        return data

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store bytes, or anything with a buffer of bytes."""
        data = as_bytes(data)
        address, size = address_range(address, len(data))
        self._check(address, size)
        done = self._core.poke(address, data)
        if done < size:
            raise self._fault("write", address, size, done)

    def fill(self, address: int, size: int, value: int = 0) -> None:
        """Store the same byte `size` times."""
        address, size = address_range(address, size)
        if not 0 <= index(value) <= 255:
            raise ValueError(f"{value} is not a byte")
        self._check(address, size)
        block = bytes([value]) * min(size, 1 << 20)
        for start in range(address, address + size, 1 << 20):
            self.write(start, block[: address + size - start])

    def string(self, address: int, limit: int = 1 << 20) -> bytes:
        """The bytes up to a NUL, which is left out; ValueError when there is none within `limit`."""
        address, _ = address_range(address, 0)
        end, found = min(address + limit, TOP), b""
        while address < end:
            part = self.read(address, min(PAGE - address % PAGE, end - address))
            text, nul, _ = part.partition(b"\0")
            found += text
            if nul:
                return found
            address += len(part)
        raise ValueError(f"no NUL within {limit} bytes")

    def __getitem__(self, key: slice | int) -> bytes:
        return self.read(*self._span(key))

    def __setitem__(self, key: slice | int, data: bytes | bytearray | memoryview) -> None:
        address, size = self._span(key)
        data = as_bytes(data)
        if len(data) != size:
            raise ValueError(f"{len(data)} bytes cannot fill [{address:#x}, {address + size:#x}), which has {size}")
        self.write(address, data)

    def u8(self, address: int) -> int:
        """The byte at an address."""
        return self.read(address, 1)[0]

    def u16(self, address: int) -> int:
        """The 16-bit number at an address."""
        return int.from_bytes(self.read(address, 2), "little")

    def u32(self, address: int) -> int:
        """The 32-bit number at an address."""
        if 0 <= address <= TOP - 4:
            value = self._core.peek32(address)
            if value is not None:
                return value
        return int.from_bytes(self.read(address, 4), "little")

    def u64(self, address: int) -> int:
        """The 64-bit number at an address."""
        return int.from_bytes(self.read(address, 8), "little")

    def write_u8(self, address: int, value: int) -> None:
        """Store one byte."""
        self._store(address, value, 1)

    def write_u16(self, address: int, value: int) -> None:
        """Store a 16-bit number."""
        self._store(address, value, 2)

    def write_u32(self, address: int, value: int) -> None:
        """Store a 32-bit number."""
        self._store(address, value, 4)

    def write_u64(self, address: int, value: int) -> None:
        """Store a 64-bit number."""
        self._store(address, value, 8)

    def is_mapped(self, address: int, size: int = 1) -> bool:
        """Is all of [address, address + size) mapped?"""
        address, size = address_range(address, size)
        return self._first_hole(address, size) is None

    def _store(self, address: int, value: int, size: int) -> None:
        from .registers import word

        self.write(address, word(value, 8 * size).to_bytes(size, "little"))

    @staticmethod
    def _span(key: slice | int) -> tuple[int, int]:
        if not isinstance(key, slice):
            return index(key), 1
        if key.step not in (None, 1):
            raise ValueError("a slice of memory has no step")
        if key.start is None or key.stop is None:
            raise ValueError("a slice of memory needs both ends: m.memory[a:b]")
        start, stop = index(key.start), index(key.stop)
        if stop < start:
            raise ValueError(f"the slice [{start:#x}:{stop:#x}] ends before it begins")
        return start, stop - start

    def _check(self, address: int, size: int) -> None:
        hole = self._first_hole(address, size)
        if hole is not None:
            raise self._fault("access", address, size, hole - address)

    def _first_hole(self, address: int, size: int) -> int | None:
        end = address + size
        while address < end:
            if not self._core.is_mapped(address):
                return address
            address = (address | (PAGE - 1)) + 1
        return None

    @staticmethod
    def _fault(what: str, address: int, size: int, done: int) -> MemoryFault:
        hole = address + done
        return MemoryFault(f"cannot {what} {size:#x} bytes at {address:#x}: {hole:#x} is not mapped", hole)
