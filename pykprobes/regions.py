"""The linear address space of a machine: what is RAM, the kernel side, or mapped."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .binding import RIGHT_USER, RIGHT_WRITE
from .memory import PAGE, TOP, address_range

if TYPE_CHECKING:
    from .binding import Core

ARENA_CHUNK = 1 << 20
MIB = 1 << 20
ROM_MAX, ROM_ALIAS = 16 << 20, 128 << 10
DEVICE = "a device"
FREE_FROM = 0x40000000
LETTERS = {"r": 0, "w": RIGHT_WRITE, "x": 0, "u": RIGHT_USER}


class Region(NamedTuple):
    """[start, end) and what is there."""

    start: int
    end: int
    kind: str


def parse_rights(rights: str) -> int:
    """Rights as letters: r, w, x and u (user mode may use it). The i386 has no right to execute of its own.

    >>> parse_rights("rx"), parse_rights("rwu")
    (0, 3)
    """
    if not isinstance(rights, str):
        raise TypeError(f"rights are letters such as 'rw', not {type(rights).__name__}")
    if "r" not in rights or set(rights) - set(LETTERS) or len(set(rights)) < len(rights):
        raise ValueError(f"rights are r with any of w, x and u, such as 'rw'; not {rights!r}")
    return sum(LETTERS[letter] for letter in rights)


class AddressSpace:
    """Regions in order. C has the last word on overlaps; this knows their names and finds free places."""

    def __init__(self, core: Core, ram: int) -> None:
        self._core = core
        # Under the built-in kernel the first page is not mapped: null pointers fault.
        self._regions = [Region(PAGE if core.layout else 0, ram, "RAM")]
        self._arena = self._arena_end = 0
        if core.layout:
            layout = core.layout
            for top in range(layout.stack_top, layout.stack_bottom, -layout.stack_stride):
                guard = top - top % PAGE - layout.stack_stride + PAGE
                insort(self._regions, whole_pages(guard, guard, "the unmapped page that ends the stack"))
                insort(self._regions, whole_pages(guard + PAGE, top, "the stack"))
            insort(self._regions, whole_pages(layout.window, layout.window_end, "the built-in kernel side"))

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions)

    def capture(self) -> tuple[list[Region], int, int]:
        """What is where, for rewind."""
        return list(self._regions), self._arena, self._arena_end

    def rewind(self, state: tuple[list[Region], int, int]) -> None:
        """Have the same regions again."""
        regions, self._arena, self._arena_end = state
        self._regions = list(regions)

    def overlap(self, start: int, end: int) -> Region | None:
        """The first region that shares an address with [start, end)."""
        i = max(bisect_right(self._regions, start, key=lambda region: region.start) - 1, 0)
        for region in self._regions[i:]:
            if region.start >= end:
                return None
            if region.end > start:
                return region
        return None

    def map(self, address: int, size: int, rights: int, kind: str = "mapped") -> None:
        """Put RAM at [address, address + size); ValueError, with nothing changed, where that cannot be."""
        address, size = page_range(address, size)
        taken = self.overlap(address, address + size)
        if taken:
            raise ValueError(f"[{address:#x}, {address + size:#x}) overlaps {describe(taken)}")
        error = self._core.map(address, size, rights)
        if error == -1:
            raise ValueError(f"[{address:#x}, {address + size:#x}) overlaps what the guest has mapped")
        if error:
            raise MemoryError(f"no memory is left to map {size:#x} bytes at {address:#x}")
        insort(self._regions, Region(address, address + size, kind))

    def unmap(self, address: int, size: int) -> None:
        """Undo map for whole pages of mapped regions."""
        address, size = page_range(address, size)
        end = address + size
        at, touched = address, []
        while at < end:
            region = self.overlap(at, at + 1)
            if region is None:
                raise ValueError(f"{at:#x} is not mapped")
            if region.kind != "mapped":
                raise ValueError(f"[{address:#x}, {end:#x}) overlaps {describe(region)}: only mapped memory goes away")
            touched.append(region)
            at = region.end
        if self._core.unmap(address, size):
            raise ValueError(f"[{address:#x}, {end:#x}) is not mapped by the machine any more")
        for region in touched:
            self._regions.remove(region)
            for start, stop in ((region.start, address), (end, region.end)):
                if start < stop:
                    insort(self._regions, Region(start, stop, region.kind))

    def load_rom(self, data: bytes) -> None:
        """Put ROM so that it ends at 4 GiB, with its last 128 KiB below 1 MiB too, where it takes RAM's place."""
        if self._core.layout:
            raise ValueError("the built-in kernel side has no place for a ROM: Machine(kernel=None) has")
        if not 0 < len(data) <= ROM_MAX:
            raise ValueError(f"a ROM has 1 to {ROM_MAX:#x} bytes, not {len(data):#x}")
        data = b"\xff" * (-len(data) % PAGE) + data
        shown = min(len(data), ROM_ALIAS)
        spans = [(TOP - len(data), TOP), (MIB - shown, MIB)]
        for start, end in spans:
            for region in self._regions:
                if region.start < end and start < region.end and not (region.kind == "RAM" and end == MIB):
                    raise ValueError(f"a ROM at [{start:#x}, {end:#x}) overlaps {describe(region)}")
        if self._core.load_rom(data):
            raise MemoryError(f"no memory is left for a ROM of {len(data):#x} bytes")
        for start, end in spans:
            self._carve(start, end, "the ROM")

    def check_device(self, where: range) -> None:
        """ValueError where a device cannot lie: with the built-in kernel side its page must be all RAM or free."""
        if not self._core.layout:
            return
        for region in self._regions:
            if region.start <= where.stop - 1 | PAGE - 1 and where.start & -PAGE < region.end:
                inside = region.kind == "RAM" and region.start <= where.start and where.stop <= region.end
                if not inside and region.kind != DEVICE:
                    raise ValueError(f"addresses {where.start:#x} to {where.stop - 1:#x} overlap {describe(region)}")

    def add_device(self, where: range) -> None:
        """The pages of a device, where nothing else is, are taken from now on."""
        pages = whole_pages(where.start, where.stop - 1, DEVICE)
        if self.overlap(pages.start, pages.end) is None:
            insort(self._regions, pages)

    def _carve(self, start: int, end: int, kind: str) -> None:
        """[start, end) is now of this kind, whatever it was."""
        for region in [r for r in self._regions if r.start < end and start < r.end]:
            self._regions.remove(region)
            for first, last in ((region.start, start), (end, region.end)):
                if first < last:
                    insort(self._regions, Region(first, last, region.kind))
        insort(self._regions, Region(start, end, kind))

    def free(self, size: int, align: int = PAGE) -> int:
        """The lowest free address from 1 GiB on for `size` bytes; MemoryError when there is none."""
        start = FREE_FROM
        while True:
            start = -(-start // align) * align
            if start + size > TOP:
                raise MemoryError(f"the address space has no free range of {size:#x} bytes")
            taken = self.overlap(start, start + size)
            if taken is None:
                return start
            start = taken.end

    def alloc(self, size: int, align: int) -> int:
        """Scratch memory, never given back before the machine is."""
        start = -(-self._arena // align) * align
        if start + size > self._arena_end or not self._arena_end:
            chunk = -(-max(size, ARENA_CHUNK) // PAGE) * PAGE
            start = self.free(chunk, max(align, PAGE))
            self.map(start, chunk, RIGHT_WRITE | RIGHT_USER, "alloc")
            self._arena_end = start + chunk
        self._arena = start + size
        return start


def whole_pages(first: int, last: int, kind: str) -> Region:
    """The pages that hold the addresses from first to last."""
    return Region(first & ~(PAGE - 1), min((last | (PAGE - 1)) + 1, TOP), kind)


def page_range(address: int, size: int) -> tuple[int, int]:
    """Check a range of whole pages; ValueError when it is not one."""
    address, size = address_range(address, size)
    if not size:
        raise ValueError("a mapping of 0 bytes")
    if address % PAGE or size % PAGE:
        raise ValueError(f"address {address:#x} and size {size:#x} must be multiples of the page size, {PAGE:#x}")
    return address, size


def describe(region: Region) -> str:
    """A region in words."""
    kind = {"mapped": "what is mapped", "alloc": "the memory of m.alloc"}.get(region.kind, region.kind)
    return f"{kind} at [{region.start:#x}, {region.end:#x})"
