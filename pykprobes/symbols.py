"""Names of addresses: exact, by pattern, and the nearest one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import NamedTuple

from .elf import IFUNC, NAMED_TYPES, Elf, ElfSymbol
from .memory import TOP


class Symbol(NamedTuple):
    """One name of an image. ``size`` 0 means unknown."""

    name: str
    address: int
    size: int = 0
    image: str = ""
    is_code: bool = True
    is_global: bool = True


class UnknownSymbol(KeyError, ValueError):
    """No image has a symbol of this name. It is a KeyError to look-ups and a ValueError to all that take a place."""

    def __str__(self) -> str:
        return str(self.args[0])


class AmbiguousSymbol(UnknownSymbol):
    """Several different addresses have this name."""


class SymbolTable:
    """Symbols of all loaded images; ``image:name`` picks one where several images have a name.

    A global symbol hides local ones of the same name, and the first image loaded hides later ones, as the
    dynamic linker has it; several local symbols of one name are ambiguous.

    >>> table = SymbolTable([Symbol("crc32", 0x1000, 0x20, "libz"), Symbol("adler32", 0x1040, 0x10, "libz")])
    >>> table["crc32"], table["libz:adler32"]
    (4096, 4160)
    >>> table.nearest(0x1004), table.nearest(0x1030)
    (('crc32', 4), None)
    >>> table.find("*32")
    {'crc32': 4096, 'adler32': 4160}
    """

    def __init__(self, symbols: Iterable[Symbol] = ()) -> None:
        self._by_name: dict[str, list[Symbol]] = {}
        self._all: list[Symbol] = []
        self._starts: list[int] | None = None
        self._ranges: list[tuple[int, Symbol]] = []
        self.add(symbols)

    def add(self, symbols: Iterable[Symbol]) -> None:
        """Add the symbols of one more image."""
        for symbol in symbols:
            self._all.append(symbol)
            self._by_name.setdefault(symbol.name, []).append(symbol)
        self._starts = None

    def capture(self) -> tuple[Symbol, ...]:
        """All symbols, for rewind."""
        return tuple(self._all)

    def rewind(self, symbols: tuple[Symbol, ...]) -> None:
        """Have these symbols again."""
        if len(symbols) != len(self._all) or symbols != tuple(self._all):
            self._all, self._by_name = [], {}
            self.add(symbols)

    def remove_image(self, image: str) -> None:
        """Forget all symbols of an image."""
        kept = [symbol for symbol in self._all if symbol.image != image]
        self._all, self._by_name = [], {}
        self.add(kept)

    def lookup(self, name: str) -> Symbol:
        """The symbol that a name means; UnknownSymbol or AmbiguousSymbol when it is not one."""
        found = self._find(name)
        if found is None:
            raise UnknownSymbol(self.missing(name))
        return found

    def _find(self, name: str) -> Symbol | None:
        candidates = self._by_name.get(name, [])
        if not candidates and ":" in name:
            image, _, bare = name.partition(":")
            candidates = [symbol for symbol in self._by_name.get(bare, []) if symbol.image == image]
        if not candidates:
            return None
        best = next((symbol for symbol in candidates if symbol.is_global), None)
        if best is None:
            places = {symbol.address: symbol for symbol in candidates}
            if len(places) > 1:
                listed = ", ".join(f"{s.image}:{s.name} at {s.address:#x}" for s in places.values())
                raise AmbiguousSymbol(f"{name} is ambiguous, give an address: {listed}")
            best = candidates[0]
        return best

    def __getitem__(self, name: str) -> int:
        return self.lookup(name).address

    def get(self, name: str, default: int | None = None) -> int | None:
        """The address of a name, or the default."""
        try:
            found = self._find(name)
        except AmbiguousSymbol:
            found = None
        return default if found is None else found.address

    def provided(self, name: str) -> Symbol | None:
        """The global symbol of a name, which images may import."""
        try:
            found = self._find(name)
        except AmbiguousSymbol:
            return None
        return found if found is not None and found.is_global else None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return f"<SymbolTable of {len(self)} names>"

    def find(self, pattern: str) -> dict[str, int]:
        """Names that match a shell pattern, with their addresses; ambiguous ones appear as name@address."""
        found: dict[str, int] = {}
        for name, symbols in self._by_name.items():
            if not fnmatchcase(name, pattern):
                continue
            try:
                found[name] = self[name]
            except AmbiguousSymbol:
                found.update({f"{name}@{symbol.address:#x}": symbol.address for symbol in symbols})
        return found

    def close_matches(self, name: str) -> list[str]:
        """Known names that look like a misspelt one."""
        return get_close_matches(name, self._by_name, n=3, cutoff=0.6)

    def missing(self, name: str) -> str:
        """What to tell someone who asked for an unknown name."""
        close = self.close_matches(name)
        if close:
            return f"no symbol {name!r}; did you mean {' or '.join(close)}?"
        return f"no symbol {name!r}" + ("" if len(self) else ": no image with symbols is loaded")

    def covering(self, address: int) -> tuple[Symbol, int, int] | None:
        """The symbol over an address with its first address and the one behind its last. O(log n)."""
        if self._starts is None:
            self._flatten()
        assert self._starts is not None
        i = bisect_right(self._starts, address) - 1
        if i < 0 or address >= self._ranges[i][0]:
            return None
        symbol = self._ranges[i][1]
        return symbol, symbol.address, symbol.address + symbol.size if symbol.size else self._ranges[i][0]

    def nearest(self, address: int) -> tuple[str, int] | None:
        """(name, offset) of the symbol that covers an address, None between symbols. O(log n)."""
        found = self.covering(address)
        return (found[0].name, address - found[1]) if found else None

    def describe(self, address: int) -> str:
        """An address as name+offset where a symbol covers it, else as a number.

        >>> SymbolTable([Symbol("f", 0x1000, 8)]).describe(0x1004)
        'f+0x4'
        """
        found = self.nearest(address)
        if not found:
            return f"{address:#x}"
        return f"{found[0]}+{found[1]:#x}" if found[1] else found[0]

    def _flatten(self) -> None:
        """Turn the symbols, which may nest and overlap, into disjoint ranges, the innermost symbol winning.

        A symbol of unknown size reaches to the next symbol, at most one page, and only where no sized one is.
        """
        best: dict[tuple[int, int], Symbol] = {}
        for symbol in self._all:
            if symbol.name:
                kept = best.get((symbol.address, symbol.size))
                if kept is None or _rank(symbol) < _rank(kept):
                    best[symbol.address, symbol.size] = symbol
        sized = sorted((s for s in best.values() if s.size), key=lambda s: (s.address, -s.size))
        ranges = self._sweep(sized)
        starts = [start for start, _, _ in ranges]
        points = []
        for symbol in best.values():
            i = bisect_right(starts, symbol.address) - 1
            if not symbol.size and (i < 0 or symbol.address >= ranges[i][1]):
                points.append(symbol)
        edges = sorted({*starts, *(s.address for s in points)})
        for symbol in points:
            i = bisect_right(edges, symbol.address)
            end = min(edges[i] if i < len(edges) else 1 << 32, symbol.address + 4096)
            ranges.append((symbol.address, end, symbol))
        ranges.sort(key=lambda r: r[0])
        self._starts = [start for start, _, _ in ranges]
        self._ranges = [(end, symbol) for _, end, symbol in ranges]

    @staticmethod
    def _sweep(sized: list[Symbol]) -> list[tuple[int, int, Symbol]]:
        ranges: list[tuple[int, int, Symbol]] = []
        stack: list[Symbol] = []
        position = 0

        def emit(upto: int) -> None:
            nonlocal position
            while stack and position < upto:
                top = stack[-1]
                end = min(upto, top.address + top.size)
                if end > position:
                    ranges.append((position, end, top))
                    position = end
                if position >= top.address + top.size:
                    stack.pop()

        for symbol in sized:
            emit(symbol.address)
            stack.append(symbol)
            position = symbol.address
        emit(1 << 33)
        return ranges


def _rank(symbol: Symbol) -> tuple[bool, bool, int]:
    """Which of the names of one place tells most: the lowest."""
    return not symbol.is_global, "@" in symbol.name, len(symbol.name) - len(symbol.name.lstrip("_"))


def kernel_address(symbol: ElfSymbol) -> int | None:
    """Where a symbol of an image that lies where it was linked is, and which has no threads."""
    return None if symbol.type == "STT_TLS" else symbol.value


def named_symbols(elf: Elf, address_of: Callable[[ElfSymbol], int | None] = kernel_address) -> list[Symbol]:
    """What an ELF file's symbol tables name, `address_of` telling where each is; None: nowhere.

    A symbol of a version that is not the default one is called name@version.
    """
    found: dict[tuple[str, int], Symbol] = {}
    for symbol in elf.symbols():
        if not symbol.name or not isinstance(symbol.section, int) or symbol.type not in NAMED_TYPES:
            continue
        name = f"{symbol.name}@{symbol.version}" if symbol.hidden else symbol.name
        address = address_of(symbol)
        if address is None:
            continue
        # a function that a resolver chose has a size of its own
        size = 0 if symbol.type == IFUNC else min(symbol.size, TOP - address)
        made = Symbol(name, address, size, elf.name, elf.is_code(symbol), symbol.binding != "STB_LOCAL")
        found.setdefault((name, address), made)
    return list(found.values())
