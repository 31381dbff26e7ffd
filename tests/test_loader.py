"""Loading of ELF programs, ELF libraries and flat code; also of files made to do harm."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from pykprobes import ImportUnbound, Kprobe, Machine, MachineFault, StopReason
from pykprobes.cli import shipped_images
from pykprobes.loader import Source
from tests.elf_builder import DYN, ElfBuilder, Symbol

R_32, R_PC32, R_COPY, R_GLOB_DAT, R_JMP_SLOT, R_RELATIVE, R_TPOFF, R_TLS_DESC = 1, 2, 5, 6, 7, 8, 14, 41
RETURN_7 = b"\xb8\x07\0\0\0\xc3"
STUB = b"\xff\x25"  # jmp [address]


def state(m: Machine) -> tuple[object, ...]:
    return list(m.regs), [str(r) for r in m.regions], len(m.symbols), len(m.images), m.icount


# What loads


def test_program() -> None:
    with Machine() as m:
        image = m.load(ElfBuilder(text=RETURN_7[:5] + b"\xf4").build(), name="seven")
        assert (image.name, image.base, image.entry) == ("seven", 0x08048000 + 0x1000, 0x08049000)
        assert m.regs.eip == image.entry
        assert m.regs.esp % 16 == 0
        assert m.memory.read(m.regs.esp, 16) == bytes(16)
        assert m.run().reason is StopReason.HALT
        assert m.regs.eax == 7
        assert "seven" in repr(image)


def test_program_in_ram(machine: Machine) -> None:
    machine.load(ElfBuilder(base=0x10000, text=RETURN_7).build())
    assert machine.call(0x11000) == 7


@pytest.mark.parametrize("way", ["path", "text", "bytes", "bytearray", "file", "stream"])
def test_sources(machine: Machine, way: str, tmp_path: Path) -> None:
    data = ElfBuilder(text=RETURN_7).build()
    path = tmp_path / "seven.elf"
    path.write_bytes(data)
    sources: dict[str, Source] = {
        "path": path,
        "text": str(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "stream": io.BytesIO(data),
    }
    if way == "file":
        with path.open("rb") as file:
            image = machine.load(file)
    else:
        image = machine.load(sources[way])
    assert image.entry is not None
    assert machine.call(image.entry) == 7
    assert image.name == ("seven.elf" if way in ("path", "text", "file") else "image")


def test_rights_of_segments() -> None:
    """Text cannot be written by the guest, data can; bss is zero."""
    address, zero = struct.pack("<I", 0x0804A004), struct.pack("<I", 0x0804A100)
    store = b"\xc7\x05" + address + b"\x05\0\0\0\xa1" + zero + b"\xf4"
    with Machine() as m:
        m.load(ElfBuilder(text=store, words=[1, 2], bss=0x3000).build())
        assert m.run().reason is StopReason.HALT
        assert m.memory.u32(0x0804A004) == 5
        assert m.regs.eax == 0
    with Machine() as m:
        m.load(ElfBuilder(text=store.replace(address, struct.pack("<I", 0x08049000))).build())
        stop = m.run()
        assert (stop.reason, stop.vector, stop.address, stop.error_code & 3) == (StopReason.TRAP, 14, 0x08049000, 3)
        assert "writing 0x8049000 which is protected" in str(stop)


def test_untouched_bss_costs_nothing() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with Machine(memory=1 << 20) as m:
        before = resident()
        m.load(ElfBuilder(words=[1], bss=1 << 29).build())
        assert resident() - before < 1 << 26
        assert m.memory.u32(0x0804A000 + (1 << 29) - 4) == 0


def test_bss_in_ram_is_zero() -> None:
    with Machine(memory=0x0804C000) as m:
        m.memory.fill(0x0804A000, 0x2000, 0xAA)
        m.load(ElfBuilder(words=[1], bss=0x4000).build())
        assert m.memory.read(0x0804B000, 0x3000) == bytes(0x3000)


@pytest.mark.parametrize("name", [5, b"libz"])
def test_a_name_is_text(name: object) -> None:
    with Machine(memory=1 << 20) as m:
        before = state(m)
        with pytest.raises(TypeError, match="name is text"):
            m.load(RETURN_7, at=0x1000, name=name)  # type: ignore[arg-type]
        assert state(m) == before


def library(
    *relocations: tuple[int, int, int], symbols: list[Symbol], words: list[int], text: bytes = RETURN_7
) -> bytes:
    b = ElfBuilder(DYN, 0, text, symbols=symbols, words=words)
    b.relocations = [(b.word_at(word), kind, symbol) for word, kind, symbol in relocations]
    return b.build()


def test_relocations() -> None:
    own, data = Symbol("own", 0x1000, 6), Symbol("shared", 0x2000, 4, 0x11)
    with Machine() as m:
        image = m.load(
            library(
                (0, R_RELATIVE, 0),
                (1, R_32, 1),
                (2, R_PC32, 1),
                (3, R_GLOB_DAT, 2),
                (4, R_JMP_SLOT, 1),
                symbols=[own, data],
                words=[0x1234, 2, 3, 99, 99],
            ),
            name="lib",
        )
        base = image.base - 0x1000
        assert base % 4096 == 0
        words = struct.unpack("<5I", m.memory.read(base + 0x2000, 20))
        assert words == (
            base + 0x1234,
            base + 0x1000 + 2,
            (0x1000 + 3 - 0x2008) & 0xFFFFFFFF,
            base + 0x2000,
            base + 0x1000,
        )
        assert m.symbols["own"] == base + 0x1000
        assert m.symbols.nearest(base + 0x1003) == ("own", 3)
        assert m.call("own") == 7


def importing(m: Machine, name: str, **symbol: int) -> None:
    """Load a library whose function `go` jumps to an import."""
    at = 0x50000000
    text = STUB + struct.pack("<I", at + 0x2000 - 0x1000)
    symbols = [Symbol("go", 0x1000, 6), Symbol(name, section=0, **symbol)]
    m.load(library((0, R_JMP_SLOT, 2), symbols=symbols, words=[0], text=text), at=at, name="user")


def test_bound_imports() -> None:
    with Machine() as m:
        seen = []

        def add(machine: Machine, a: int, b: int) -> int:
            seen.append((machine, a, b))
            return a + b

        m.bind("add", add)
        importing(m, "add")
        assert m.call("go", 40, 2) == 42
        assert seen == [(m, 40, 2)]
        m.bind("add", lambda machine, a: None)
        assert m.call("go", 40) == 0
        m.bind("add", lambda machine, *words: sum(words), args=3)
        assert m.call("go", 1, 2, -1) == 2


def test_unbound_import_is_raised_by_name() -> None:
    with Machine() as m:
        importing(m, "add")
        assert m.images[0].imports == ("add",)
        assert m.imports.unbound() == ["add"]
        with pytest.raises(LookupError, match="add was called from") as caught:
            m.call("go", 1, 2)
        assert isinstance(caught.value, ImportUnbound)
        assert caught.value.name == "add"
        m.bind("add", lambda machine, a, b: a + b)
        assert m.call("go", 1, 2) == 3


def test_import_that_raises_leaves_the_machine_usable() -> None:
    def fail(machine: Machine) -> None:
        raise ZeroDivisionError("on purpose")

    with Machine() as m:
        m.bind("f", fail)
        importing(m, "f")
        before = list(m.regs)
        with pytest.raises(ZeroDivisionError) as caught:
            m.call("go")
        assert caught.value.__notes__ == ["in the function bound to f"]
        assert list(m.regs) == before
        m.bind("f", lambda machine: 5)
        assert m.call("go") == 5


def test_imports_from_loaded_images() -> None:
    with Machine() as m:
        m.load(library(symbols=[Symbol("seven", 0x1000, 6)], words=[]), name="provider")
        importing(m, "seven")
        assert m.call("go") == 7
        assert m.images[1].imports == ()


def test_weak_imports_are_null() -> None:
    with Machine() as m:
        importing(m, "__gmon_start__", info=0x20)
        with pytest.raises(MachineFault) as caught:
            m.call("go")
        assert caught.value.stop.vector in (6, 14) or caught.value.stop.eip < 0x1000


def test_copy_relocation() -> None:
    variable = Symbol("answer", 0x2000, 4, 0x11)
    with Machine() as m:
        builder = ElfBuilder(words=[0], symbols=[Symbol("answer", section=0, size=4)])
        builder.relocations = [(builder.word_at(0), R_COPY, 1)]
        with pytest.raises(ValueError, match="load the library that has it first"):
            m.load(builder.build())
        m.load(library(symbols=[variable], words=[42]), name="provider")
        m.load(builder.build())
        assert m.memory.u32(builder.word_at(0)) == 42


@pytest.mark.parametrize(
    ("kind", "says"),
    [(R_TPOFF, "thread-local errno: load the library that has it"), (R_TLS_DESC, "dialect"), (200, "type 200")],
)
def test_relocations_that_are_refused(kind: int, says: str) -> None:
    with Machine() as m:
        before = state(m)
        with pytest.raises(ValueError, match=says):
            m.load(library((0, kind, 1), symbols=[Symbol("errno", section=0)], words=[0]))
        assert state(m) == before


def test_two_libraries_lie_apart_and_names_differ() -> None:
    data = library(symbols=[Symbol("f", 0x1000, 6)], words=[])
    with Machine() as m:
        first, second = m.load(data, name="lib"), m.load(data, name="lib")
        assert second.base >= first.base + first.size
        assert (first.name, second.name) == ("lib", "lib.2")
        assert m.symbols["lib:f"] == first.symbols["f"]
        assert m.symbols["lib.2:f"] == second.symbols["f"]


def test_library_at() -> None:
    data = library(symbols=[Symbol("f", 0x1000, 6)], words=[])
    with Machine() as m:
        assert m.load(data, at=0x60000000).symbols["f"] == 0x60000000
        with pytest.raises(ValueError, match="multiple of its alignment"):
            m.load(data, at=0x70000123)
        with pytest.raises(ValueError, match="overlaps"):
            m.load(data, at=0x60000000)
        with pytest.raises(ValueError, match="4 GiB"):
            m.load(data, at=0xFFFFF000)


def test_flat() -> None:
    with Machine(memory=1 << 20) as m:
        image = m.load(RETURN_7, at=0x1010, name="flat")
        assert (image.base, image.size, image.entry) == (0x1010, 6, 0x1010)
        assert m.call(0x1010) == 7
        m.load(RETURN_7, at=0x20000FFC)  # across two pages outside of RAM
        assert m.call(0x20000FFC) == 7
        m.load(b"\x2a", at=0x20000FFD)  # over what is mapped: written
        assert m.call(0x20000FFC) == 42
        assert m.regs.eip == 0


def test_stack_protector_finds_its_canary() -> None:
    """mov eax, gs:[0x14]; ret, as every function of a distribution's library begins."""
    with Machine() as m:
        m.load(library(symbols=[Symbol("canary", 0x1000)], words=[], text=b"\x65\xa1\x14\0\0\0\xc3"))
        assert m.call("canary") not in (0, 0xFFFFFFFF)


# Compiled libraries, and another reader's opinion of them


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("no gcc")
    folder = tmp_path_factory.mktemp("so")
    (folder / "lib.c").write_text(
        "extern int twice(int);\n"
        "static int table[4] = {1, 2, 3, 4};\nint *pointer = &table[2];\nint zeros[5000];\n"
        "static int hidden(int a) { return twice(a) + *pointer; }\n"
        "int entry(int a) { zeros[4999] += a; return hidden(a) + zeros[4999]; }\n"
        "int started; __attribute__((constructor)) static void start(void) { started = 1; }\n"
    )
    command = [
        "gcc",
        "-m32",
        "-O1",
        "-shared",
        "-fPIC",
        "-nostdlib",
        "-o",
        str(folder / "lib.so"),
        str(folder / "lib.c"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"gcc -m32 does not work here: {done.stderr.strip()[-100:]}")
    return folder / "lib.so"


def test_compiled_library(compiled: Path) -> None:
    with Machine() as m:
        m.bind("twice", lambda machine, a: 2 * a)
        image = m.load(compiled)
        assert m.call("entry", 10) == 20 + 3 + 10
        assert m.call("entry", 1) == 2 + 3 + 11
        assert len(image.initializers) >= 1
        for function in image.initializers:
            m.call(function)
        assert m.memory.u32(m.symbols["started"]) == 1


def test_symbols_agree_with_nm(compiled: Path) -> None:
    if not shutil.which("nm"):
        pytest.skip("needs nm of binutils")
    for path in (compiled, *shipped_images().values()):
        with Machine() as m:
            image = m.load(path)
            expected = {}
            for options in (["-a"], ["-D"]):
                text = subprocess.run(["nm", *options, path], capture_output=True, text=True, check=True).stdout
                rows = (line.split() for line in text.splitlines())
                # "U" is undefined and has no address; absolute ("a", "A") and debugging names ("N") are no places
                expected |= {row[2]: int(row[0], 16) for row in rows if len(row) == 3 and row[1] not in "aAN"}
            sections = {name for name in expected if name.startswith(".")}
            bias = {address - expected[name] for name, address in image.symbols.items()}
            assert set(image.symbols) == set(expected) - sections and len(bias) == 1


# What does not load: always a ValueError, and nothing is changed


def refused(data: bytes, **arguments: int) -> str:
    with Machine() as m:
        before = state(m)
        with pytest.raises(ValueError) as caught:
            m.load(data, name="bad", **arguments)
        assert state(m) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)


def patched(offset: int, layout: str, *values: int, **builder: int) -> bytes:
    data = bytearray(ElfBuilder(**builder).build())  # type: ignore[arg-type]
    struct.pack_into(layout, data, offset, *values)
    return bytes(data)


FIRST_HEADER = 52  # offset, vaddr, paddr, filesz, memsz, flags, align at 4 to 28 in it


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an ELF"),
        (b"\x7fEL", "not an ELF"),
        (b"\x7fELF", "ends within"),
        (b"hello, world", "not an ELF"),
        (patched(4, "<B", 2), "64-bit"),
        (patched(5, "<B", 2), "another processor"),
        (patched(18, "<H", 62), "another processor"),
        (patched(16, "<H", 1), "link it first"),
        (patched(16, "<H", 4), "core dump"),
        (patched(16, "<H", 77), "unknown type 77"),
        (patched(24, "<I", 0x1000), "entry"),
        (patched(28, "<I", 0xFFFFFF00), "truncated"),
        (patched(42, "<H", 31), "program headers of 31"),
        (patched(44, "<H", 0xFFFF), "truncated"),
        (patched(44, "<H", 0), "no segment"),
        (patched(FIRST_HEADER + 4, "<I", 0xFFFFFFF0), "truncated"),
        (patched(FIRST_HEADER + 16, "<I", 0x7FFFFFFF), "truncated"),
        (patched(FIRST_HEADER + 20, "<I", 0), "entry"),
        (patched(FIRST_HEADER + 16, "<II", 0x10, 0x8), "more bytes in the file"),
        (patched(FIRST_HEADER + 20, "<I", 0xFFFFFFFF), "4 GiB"),
        (patched(FIRST_HEADER + 20, "<I", 0x80000000), "overlap"),
        (patched(FIRST_HEADER + 32 + 20, "<I", 0x80000000), "span"),
        (patched(FIRST_HEADER + 28, "<I", 3), "alignment"),
        (patched(FIRST_HEADER + 28, "<I", 1 << 31), "alignment"),
        (ElfBuilder(base=0xFF000000 - 0x1000).build(), "overlaps"),
        (ElfBuilder(base=0xBFF00000).build(), "overlaps"),
        (library((0x1000, R_RELATIVE, 0), symbols=[], words=[0]), "outside of its segments"),
        (library((0, R_32, 7), symbols=[], words=[0]), "names symbol 7"),
    ],
)
def test_refused(data: bytes, says: str) -> None:
    assert says in refused(data)


def test_refused_places() -> None:
    assert "at=" in refused(b"\x90\x90")
    assert "linked for" in refused(ElfBuilder().build(), at=0x1000000)
    assert "empty" in refused(b"", at=0x1000)
    assert "4 GiB" in refused(b"\x90" * 100, at=0xFFFFFFF0)
    assert "outside" in refused(b"\x90", at=-1)
    assert "kernel side" in refused(b"\x90", at=0xFF000000)


def test_huge_file(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with Machine() as m, pytest.raises(ValueError, match="larger than"):
        m.load(path)


def test_missing_file_and_wrong_types(machine: Machine) -> None:
    with pytest.raises(FileNotFoundError):
        machine.load("/no/such/file")
    with pytest.raises(TypeError):
        machine.load(42)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="binary"):
        machine.load(io.StringIO("text"))  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["program", "library"])
def test_truncated_everywhere(source: str) -> None:
    whole = (
        ElfBuilder().build()
        if source == "program"
        else library((0, R_RELATIVE, 0), symbols=[Symbol("f", 0x1000)], words=[1])
    )
    with Machine() as m:
        for size in [*range(0, 200, 7), *range(200, len(whole), 509)]:
            try:
                m.load(whole[:size])
            except ValueError:
                continue


@pytest.mark.parametrize("seed", range(8))
def test_random_damage(seed: int) -> None:
    """Whatever is broken in a file, it loads or is a ValueError; what loads can be run and probed."""
    chance = random.Random(seed)
    sources = [
        shipped_images()["checksum"].read_bytes(),
        library((0, R_RELATIVE, 0), (1, R_32, 1), symbols=[Symbol("f", 0x1000, 6)], words=[1, 2]),
    ]
    for _ in range(40):
        data = bytearray(chance.choice(sources))
        tables = [range(160), range(len(data) - 200, len(data))]
        for _ in range(chance.randrange(1, 5)):
            data[chance.choice(chance.choice(tables))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        with Machine() as m:
            try:
                m.load(bytes(data))
            except ValueError:
                continue
            m.run(max_instructions=1000)
            m.symbols.nearest(m.regs.eip)


def test_names_without_end_are_not_read_for_ever() -> None:
    """A string table without a NUL, whose every name goes on to the end of the file."""
    strings = b"a" * 0x10000
    count = 4000
    symbols = b"".join(struct.pack("<IIIBBH", i, 0x08049000, 1, 0x12, 0, 1) for i in range(count))
    data = bytearray(ElfBuilder().build())
    at = len(data)
    data += strings + symbols
    headers = len(data)
    data += struct.pack("<10I", *[0] * 10)
    data += struct.pack("<10I", 0, 3, 0, 0, at, len(strings), 0, 0, 1, 0)
    data += struct.pack("<10I", 0, 2, 0, 0, at + len(strings), len(symbols), 1, 0, 4, 16)
    struct.pack_into("<I", data, 32, headers)
    struct.pack_into("<HH", data, 46, 40, 3)
    start = time.process_time()
    with Machine() as m, pytest.raises(ValueError, match="refer to more than there is"):
        m.load(bytes(data))
    assert time.process_time() - start < 20


def test_probe_on_every_symbol_of_an_image() -> None:
    with Machine() as m:
        m.load(shipped_images()["hashtable"])
        probes = [Kprobe(name) for name in ("hash_bytes", "table_find", "table_insert")]
        m.register_kprobes(probes)
        assert m.run(max_instructions=50_000_000).reason is StopReason.HALT
        assert all(probe.hits > 100 for probe in probes)
