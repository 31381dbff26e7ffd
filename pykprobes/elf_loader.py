"""Putting ELF programs and shared libraries into a machine: segments, relocations, what is chosen at load time."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from .binding import RIGHT_USER, RIGHT_WRITE
from .elf import EXEC, IFUNC, PF_W, Elf, ElfSymbol, Relocation, TlsSegment
from .errors import ImportUnbound, MachineFault
from .image import Image, place
from .memory import PAGE, TOP, address_range
from .symbols import Symbol, named_symbols
from .thread import LOOKUPS

if TYPE_CHECKING:
    from .machine import Machine

START_BLOCK = 64  # zero bytes above a program's first esp: argc, argv, envp and auxv of a program without arguments
NONE, WORD, PC32, COPY, GLOB_DAT, JMP_SLOT, RELATIVE, IRELATIVE = 0, 1, 2, 5, 6, 7, 8, 42
TPOFF, DTPMOD32, DTPOFF32, TPOFF32, TLS_DESC = 14, 35, 36, 37, 41
THREAD_LOCAL = (TPOFF, DTPMOD32, DTPOFF32, TPOFF32)
RESOLVER_LIMIT = 1 << 22  # instructions that the resolvers of an image may execute, all together


class ElfLoader:
    """One load of an ELF file: everything is computed on copies, then placed and written at once."""

    def __init__(self, machine: Machine, elf: Elf, at: int | None) -> None:
        self.machine = machine
        self.elf = elf
        self.size = elf.end - elf.start
        self.bias = self.find_place(at) - elf.start
        self.contents = [bytearray(segment.data) for segment in elf.segments]
        self.patches: list[tuple[int, bytes]] = []
        self.imports: dict[str, int] = {}
        self.late: list[Relocation] = []
        self.chosen: dict[int, int] = {}
        self.resolved = 0
        self.tls_offset: int | None = None

    def find_place(self, at: int | None) -> int:
        elf = self.elf
        if elf.kind == EXEC:
            if at is not None:
                raise elf.bad(f"a program linked for {elf.start:#x}: it cannot be loaded at={at:#x}")
            return elf.start
        if at is None:
            try:
                return self.machine.regions.free(self.size, elf.align)
            except MemoryError as error:
                raise elf.bad(str(error)) from error
        address_range(at, self.size)
        if at % elf.align:
            raise elf.bad(f"at={at:#x} is not a multiple of its alignment, {elf.align:#x}")
        return at

    def load(self) -> tuple[Image, list[Symbol]]:
        """Place the image. Where a resolver fails, only RAM that was overwritten stays so."""
        machine, elf = self.machine, self.elf
        pages = self.pages()
        self.check_free(pages)
        tls = elf.tls
        if tls is not None and machine.thread.possible:
            self.tls_offset = self.place_variables(tls)
        for relocation in elf.relocations():
            self.relocate(relocation)
        initializers = self.initializers()
        if self.imports and not machine.imports.room_for(set(self.imports)):
            raise elf.bad(f"it has {len(self.imports)} imports, which is more than this machine can serve")
        mapped = place(machine, pages, elf.name)
        for segment, content in zip(elf.segments, self.contents, strict=True):
            start = segment.address + self.bias
            machine.memory.write(start, bytes(content))
            # Beyond RAM the pages are fresh: zero already, and free until they are touched.
            zeroes = min(start + segment.size, machine.memory_size) - (start + len(content))
            if zeroes > 0:
                machine.memory.fill(start + len(content), zeroes)
        for address, data in self.patches:
            machine.memory.write(address, data)
        try:
            machine.thread.give()
            for relocation in self.late:
                self.relocate_late(relocation)
            symbols = named_symbols(elf, self.address_of)
            self.give_variables()
        except BaseException:
            for start, size in mapped:
                machine.regions.unmap(start, size)
            raise
        entry = elf.entry + self.bias & 0xFFFFFFFF if elf.entry else None
        if elf.kind == EXEC and entry is not None:
            self.set_registers(entry)
        named = {symbol.name: symbol.address for symbol in symbols}
        image = Image(elf.name, elf.start + self.bias, self.size, entry, named, tuple(self.imports), initializers)
        return image, symbols

    def pages(self) -> dict[int, int]:
        """Rights by page. Where segments share a page, it has the rights of both."""
        pages: dict[int, int] = {}
        for segment in self.elf.segments:
            rights = RIGHT_USER | (RIGHT_WRITE if segment.flags & PF_W else 0)
            start, end = segment.address + self.bias, segment.end + self.bias
            if end > TOP:
                raise self.elf.bad(f"at {start:#x} it goes beyond 4 GiB")
            for page in range(start // PAGE, (end - 1) // PAGE + 1):
                pages[page] = pages.get(page, 0) | rights
        return pages

    def check_free(self, pages: dict[int, int]) -> None:
        for segment in self.elf.segments:
            start, end = segment.address + self.bias, segment.end + self.bias
            taken = self.machine.regions.overlap(start & ~(PAGE - 1), end + PAGE - 1 & ~(PAGE - 1))
            if taken is not None and taken.kind != "RAM":
                raise self.elf.bad(
                    f"its segment [{start:#x}, {end:#x}) overlaps what is at [{taken.start:#x}, {taken.end:#x})"
                )

    def set_registers(self, entry: int) -> None:
        machine = self.machine
        top = machine._core.layout.stack_top if machine._core.layout else machine.memory_size
        esp = (top & ~15) - START_BLOCK
        machine.memory.fill(esp, START_BLOCK)
        machine.regs.esp = esp
        machine.regs.eip = entry

    def initializers(self) -> tuple[int, ...]:
        found = [address + self.bias & 0xFFFFFFFF for address in self.elf.initializers()]
        table, count = self.elf.init_array()
        if self.elf.segment_at(table, 4 * count) is not None:
            pointers = (self.word(table + 4 * i) for i in range(count))
            found += [pointer for pointer in pointers if pointer not in (0, 0xFFFFFFFF)]
        return tuple(found)

    # Relocation, on virtual addresses of the file

    def content(self, address: int) -> tuple[bytearray, int]:
        """The copy of the file's bytes that holds the word at an address, and where in it."""
        for segment, content in zip(self.elf.segments, self.contents, strict=True):
            if segment.address <= address and address + 4 <= segment.end:
                return content, address - segment.address
        raise self.elf.bad(f"a relocation at {address:#x}, outside of its segments")

    def word(self, address: int) -> int:
        content, at = self.content(address)
        return int.from_bytes(content[at : at + 4].ljust(4, b"\0"), "little")

    def store(self, address: int, value: int) -> None:
        content, at = self.content(address)
        if at + 4 > len(content):
            self.patches.append((address + self.bias, struct.pack("<I", value & 0xFFFFFFFF)))
        else:
            struct.pack_into("<I", content, at, value & 0xFFFFFFFF)

    def symbol(self, number: int) -> ElfSymbol:
        if number >= len(self.elf.dynamic_symbols):
            raise self.elf.bad(f"a relocation names symbol {number} of {len(self.elf.dynamic_symbols)}")
        return self.elf.dynamic_symbols[number]

    def value(self, symbol: ElfSymbol) -> int:
        """The address that a symbol of a relocation has at run time."""
        machine, name = self.machine, symbol.name
        if self.is_own(symbol):
            return symbol.value if symbol.absolute else symbol.value + self.bias
        if not name:
            return 0
        if not machine.imports.is_bound(name):
            provided = self.provided(symbol)
            if provided is not None:
                return provided.address
            if symbol.binding == "STB_WEAK":
                return 0
        if name not in self.imports:
            self.imports[name] = machine.imports.stub(name)
        return self.imports[name]

    def is_own(self, symbol: ElfSymbol) -> bool:
        """Does a symbol mean the image's own definition? What Python binds takes the place of global ones."""
        return symbol.defined and (symbol.binding == "STB_LOCAL" or not self.machine.imports.is_bound(symbol.name))

    def provided(self, symbol: ElfSymbol) -> Symbol | None:
        """What another image offers under the name, in the wanted version or else in its default one."""
        exact = self.machine.symbols.provided(f"{symbol.name}@{symbol.version}") if symbol.version else None
        return exact or self.machine.symbols.provided(symbol.name)

    def relocate(self, relocation: Relocation) -> None:
        at, kind = relocation.offset, relocation.type
        compute = _COMPUTE.get(kind)
        if kind == NONE:
            return
        if self.is_late(relocation):
            self.content(at)
            self.late.append(relocation)
        elif kind == RELATIVE:
            self.store(at, self.word(at) + self.bias)
        elif compute is not None:
            self.store(at, compute(self, at, self.value(self.symbol(relocation.symbol))))
        elif kind == COPY:
            self.copy(at, self.symbol(relocation.symbol))
        elif kind == TLS_DESC:
            raise self.elf.bad("it has descriptors of thread-local storage: build it with -mtls-dialect=gnu")
        else:
            raise self.elf.bad(f"it has relocations of type {kind}, which are not known")

    def copy(self, at: int, symbol: ElfSymbol) -> None:
        provided = self.provided(symbol)
        if provided is None:
            raise self.elf.bad(f"it copies the variable {symbol.name}: load the library that has it first")
        size = min(symbol.size, provided.size or symbol.size)
        if self.elf.segment_at(at, size) is None:
            raise self.elf.bad(f"its copy of {symbol.name} at {at:#x} lies outside of its segments")
        self.patches.append((at + self.bias, self.machine.memory.read(provided.address, size)))

    def place_variables(self, tls: TlsSegment) -> int:
        if tls.filled and self.elf.segment_at(tls.address, tls.filled) is None:
            raise self.elf.bad(f"its thread-local segment at {tls.address:#x} lies outside of the others")
        if self.elf.kind == EXEC and self.machine.thread.modules:
            raise self.elf.bad("a program's thread-local variables come first: load it before images that have some")
        try:
            return self.machine.thread.place(tls.address + self.bias, tls.size, tls.align)
        except ValueError as error:
            raise self.elf.bad(str(error)) from error

    # What is known only once the image is in memory: where thread-local variables are, what resolvers choose

    def is_late(self, relocation: Relocation) -> bool:
        """Does a relocation wait for the image to be in memory? ValueError where that would not help."""
        kind = relocation.type
        if kind in THREAD_LOCAL:
            symbol = self.symbol(relocation.symbol)
            if not self.machine.thread.possible:
                raise self.elf.bad("it needs thread-local storage, which is with the built-in kernel side's GS")
            if symbol.defined or not relocation.symbol:
                if self.tls_offset is None:
                    raise self.elf.bad("it has thread-local variables, but no segment for them")
            elif self.provided(symbol) is None:
                raise self.elf.bad(f"it needs the thread-local {symbol.name}: load the library that has it first")
            return True
        if kind in _COMPUTE:
            symbol = self.symbol(relocation.symbol)
            if symbol.name in LOOKUPS and self.machine.thread.possible:
                bound = self.machine.imports.is_bound(symbol.name)
                return not (symbol.defined or bound) and self.provided(symbol) is None
            chooses = symbol.type == IFUNC and self.is_own(symbol)
        else:
            chooses = kind == IRELATIVE
        if chooses and self.machine._core.layout is None:
            raise self.elf.bad("its resolvers choose functions at load time, which a bare machine cannot call")
        return chooses

    def relocate_late(self, relocation: Relocation) -> None:
        at, kind, thread = relocation.offset, relocation.type, self.machine.thread
        symbol = self.symbol(relocation.symbol)
        if kind == IRELATIVE:
            value = self.choose(self.word(at) + self.bias)
        elif kind in _COMPUTE:
            lookup = None if symbol.defined else thread.functions.get(symbol.name)
            value = _COMPUTE[kind](self, at, lookup or self.choose(self.value(symbol)))
        else:
            value = self.thread_local(kind, at, symbol, symbol.defined or not relocation.symbol)
        self.machine.memory.write_u32(at + self.bias, value & 0xFFFFFFFF)

    def thread_local(self, kind: int, at: int, symbol: ElfSymbol, own: bool) -> int:
        """What a relocation of a thread-local variable makes of the word at an address."""
        thread, word = self.machine.thread, self.word(at)
        provided = None if own else self.provided(symbol)
        address = provided.address if provided else thread.base - (self.tls_offset or 0) + symbol.value
        if kind == TPOFF:
            return word + address - thread.base
        if kind == TPOFF32:
            return word + thread.base - address
        try:
            module, offset = thread.module_of(address) if provided else (thread.modules + 1, symbol.value)
        except ValueError as error:
            raise self.elf.bad(f"{symbol.name}: {error}") from error
        return module if kind == DTPMOD32 else offset

    def address_of(self, symbol: ElfSymbol) -> int | None:
        """Where a named symbol of the image is for those who use it; None: in no memory."""
        if symbol.type == "STT_TLS":
            return None if self.tls_offset is None else self.machine.thread.base - self.tls_offset + symbol.value
        address = symbol.value + self.bias & 0xFFFFFFFF
        # programs choose on their own, once they run
        chooses = symbol.type == IFUNC and self.elf.kind != EXEC and self.machine._core.layout is not None
        return self.choose(address) if chooses else address

    def give_variables(self) -> None:
        """Let the image's thread-local variables have their first values."""
        machine, tls = self.machine, self.elf.tls
        if tls is not None and self.tls_offset is not None:
            machine.thread.add(self.tls_offset)
            initial = machine.memory.read(tls.address + self.bias, tls.filled) if tls.filled else b""
            machine.memory.write(machine.thread.base - self.tls_offset, initial)

    def choose(self, resolver: int) -> int:
        """The function that a resolver returns, which is code of the image."""
        resolver &= 0xFFFFFFFF
        if resolver not in self.chosen:
            machine = self.machine
            left = RESOLVER_LIMIT - self.resolved
            before = machine.icount
            try:
                self.chosen[resolver] = machine.call(resolver, max_instructions=max(left, 0))
            except (MachineFault, ImportUnbound) as error:
                raise self.elf.bad(f"its resolver of a function, at {resolver:#x}: {error}") from error
            self.resolved += machine.icount - before
        return self.chosen[resolver]


_COMPUTE: dict[int, Callable[[ElfLoader, int, int], int]] = {
    WORD: lambda loader, at, value: value + loader.word(at),
    PC32: lambda loader, at, value: value + loader.word(at) - (at + loader.bias),
    GLOB_DAT: lambda loader, at, value: value,
    JMP_SLOT: lambda loader, at, value: value,
}
