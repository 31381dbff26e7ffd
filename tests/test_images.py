"""The example programs that ship as images: same bytes from the same compiler, and right results in the machine."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from importlib.resources import files
from itertools import islice
from pathlib import Path

import pytest

from pykprobes import Machine, StopReason

IMAGES = Path(str(files("pykprobes") / "images"))
SOURCES = Path(__file__).parent.parent / "examples" / "guest"
NAMES = ["checksum", "sorting", "hashtable", "kernel"]
MASK = 0xFFFFFFFF
TICK = 5000  # instructions between two timer interrupts of the small kernel


# Rebuilding


def make(*arguments: str) -> str:
    command = ["make", "-s", "-C", str(SOURCES), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not SOURCES.is_dir():
        pytest.skip("the sources of the images are not here")
    if not shutil.which("make") or not shutil.which("gcc"):
        pytest.skip("rebuilding the images needs make and gcc")
    recorded = (IMAGES / "toolchain.txt").read_text()
    here = make("toolchain")
    if here != recorded:
        pytest.skip(f"the images were built by another toolchain: {recorded!r}, here {here!r}")
    out = tmp_path_factory.mktemp("images")
    try:
        make(f"OUT={out}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"gcc -m32 does not work here: {error.stderr.strip()[-200:]}")
    return out


@pytest.mark.parametrize("name", NAMES)
def test_rebuilding_gives_the_same_bytes(rebuilt: Path, name: str) -> None:
    assert (rebuilt / f"{name}.elf").read_bytes() == (IMAGES / f"{name}.elf").read_bytes()


# Running


def load(name: str) -> Machine:
    machine = Machine()
    machine.load(str(IMAGES / f"{name}.elf"))
    return machine


def run(name: str) -> Machine:
    """The machine after the program has run from its entry to its hlt."""
    machine = load(name)
    stop = machine.run(max_instructions=50_000_000)
    assert stop.reason is StopReason.HALT
    return machine


def words(machine: Machine, symbol: str, count: int) -> list[int]:
    return list(struct.unpack(f"<{count}I", machine.memory.read(machine.symbols[symbol], 4 * count)))


def word(machine: Machine, symbol: str) -> int:
    return int(machine.memory.u32(machine.symbols[symbol]))


def random_words(seed: int) -> Iterator[int]:
    """The xorshift generator of guest.h."""
    x = seed
    while True:
        x ^= x << 13 & MASK
        x ^= x >> 17
        x ^= x << 5 & MASK
        yield x


def fletcher32(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    a = b = 0
    for (value,) in struct.iter_unpack("<H", data):
        a = (a + value) % 65535
        b = (b + a) % 65535
    return b << 16 | a


def test_checksum() -> None:
    machine = run("checksum")
    numbers = random_words(0x12345678)
    rows = []
    for _ in range(256):
        pick = next(numbers)
        length = pick % 8192 >> (pick >> 28)
        data = bytes(x >> 24 for x in islice(numbers, length))
        rows.append((length, zlib.crc32(data), zlib.adler32(data), fletcher32(data)))
    lengths, crcs, adlers, fletchers = (list(column) for column in zip(*rows, strict=True))

    assert min(lengths) == 0
    assert max(lengths) > 4096
    assert words(machine, "lengths", 256) == lengths
    assert words(machine, "crc_results", 256) == crcs
    assert words(machine, "adler_results", 256) == adlers
    assert words(machine, "fletcher_results", 256) == fletchers
    combined = 0
    for value in (*crcs, *adlers, *fletchers):
        combined ^= value
    assert machine.regs.eax == combined


def test_checksum_function_on_our_own_bytes() -> None:
    machine = load("checksum")
    machine.call("crc32_init")
    data = bytes(range(256)) * 5
    pointer = machine.alloc(len(data))
    machine.memory.write(pointer, data)
    assert machine.call("crc32", 0, pointer, len(data)) == zlib.crc32(data)
    assert machine.call("adler32", 1, pointer, len(data)) == zlib.adler32(data)
    assert machine.call("fletcher32", pointer, len(data) - 1) == fletcher32(data[:-1])


def test_sorting() -> None:
    machine = run("sorting")
    numbers = random_words(0x9E3779B9)
    quick = sorted(islice(numbers, 4096))
    heap = sorted(islice(numbers, 4096))
    insertion = sorted(islice(numbers, 512))

    assert words(machine, "quick_data", 4096) == quick
    assert words(machine, "heap_data", 4096) == heap
    assert words(machine, "insertion_data", 512) == insertion
    combined = 0
    for value in (*quick, *heap, *insertion):
        combined = (combined * 31 + value) & MASK
    assert machine.regs.eax == combined
    assert 12 <= word(machine, "quick_depth") < 64 < word(machine, "quick_calls")


def hashtable_key(number: int) -> bytes:
    numbers = random_words(0xC0FFEE01 ^ (number + 1) * 2654435761 & MASK)
    length = next(numbers) % 48 + 1
    return bytes(ord("a") + x % 26 for x in islice(numbers, length))


def chains(machine: Machine) -> Iterator[tuple[bytes, int]]:
    """Keys and values in the guest's table."""
    for node in words(machine, "buckets", 128):
        while node:
            following, _, value, length = struct.unpack("<4I", machine.memory.read(node, 16))
            yield bytes(machine.memory.read(node + 16, length)), value
            node = following


def test_hashtable() -> None:
    machine = run("hashtable")
    counters = dict.fromkeys(["inserted", "updated", "found", "missed", "deleted", "absent"], 0)
    table: dict[bytes, int] = {}
    total = 0
    numbers = random_words(0xC0FFEE01)
    for i in range(6000):
        key = hashtable_key(next(numbers) % 512)
        choice = next(numbers) % 8
        if choice < 4:
            counters["updated" if key in table else "inserted"] += 1
            table[key] = i
        elif choice < 6:
            counters["found" if key in table else "missed"] += 1
            total += table.get(key, 0)
        else:
            counters["deleted" if key in table else "absent"] += 1
            table.pop(key, None)

    assert min(counters.values()) > 100
    assert {name: word(machine, name) for name in counters} == counters
    assert word(machine, "live") == len(table)
    in_guest = list(chains(machine))
    assert len(in_guest) == len(table)
    assert dict(in_guest) == table
    assert machine.regs.eax == total & MASK


# The kernel

GREETING = b"hello from ring 3\n"
EXIT_CODES = [550, 6765, len(GREETING), 4, 0x100 + 13]  # primes, fibonacci, writer, sleeper, rogue


def tasks(machine: Machine) -> list[tuple[int, ...]]:
    """frame, state, wake, exit code, system calls, preemptions of each task."""
    raw = machine.memory.read(machine.symbols["tasks"], 5 * 24)
    return list(struct.iter_unpack("<6I", raw))


def check_kernel(machine: Machine) -> None:
    stop = machine.run(max_instructions=50_000_000)
    assert stop.reason is StopReason.HALT
    assert word(machine, "panic_vector") == MASK
    assert [task[3] for task in tasks(machine)] == EXIT_CODES
    assert {task[1] for task in tasks(machine)} == {2}
    assert machine.regs.eax == sum(EXIT_CODES)
    length = word(machine, "console_length")
    assert machine.memory.read(machine.symbols["console"], length) == GREETING


def test_kernel_under_a_timer() -> None:
    machine = load("kernel")
    machine.timer(0x20, TICK)
    check_kernel(machine)
    assert word(machine, "ticks") >= machine.icount // TICK - 1
    assert word(machine, "switches") > 2 * len(GREETING)
    preemptions = [task[5] for task in tasks(machine)]
    assert min(preemptions[:2]) > 10  # primes and fibonacci
    assert [task[4] for task in tasks(machine)] == [1, 1, 2 * len(GREETING) + 2, 13, 0]


def test_kernel_runs_the_same_twice() -> None:
    def digest() -> tuple[int, ...]:
        machine = load("kernel")
        machine.timer(0x20, TICK)
        check_kernel(machine)
        return machine.icount, word(machine, "ticks"), word(machine, "switches")

    assert digest() == digest()


@pytest.mark.parametrize("period", [300, 777, 100_000])
def test_kernel_results_do_not_depend_on_the_tick(period: int) -> None:
    machine = load("kernel")
    machine.timer(0x20, period)
    check_kernel(machine)


def test_kernel_without_a_timer_waits_for_its_sleeper() -> None:
    machine = load("kernel")
    stop = machine.run(max_instructions=50_000_000)
    assert stop.reason in (StopReason.HALT, StopReason.LIMIT)
    assert word(machine, "ticks") == 0
    assert [task[1] for task in tasks(machine)] == [2, 2, 2, 1, 2]


def test_kernel_on_a_bare_machine_turns_paging_on() -> None:
    machine = Machine(memory=1 << 20, kernel=None)
    flat = struct.pack("<6I", 0, 0, 0xFFFF, 0x00CF9A00, 0xFFFF, 0x00CF9200)  # null, code, data: 4 GiB, ring 0
    machine.memory.write(0x1000, flat)
    machine.regs.gdtr_base = 0x1000
    machine.regs.gdtr_limit = len(flat) - 1
    machine.regs.cr0 = 1
    machine.regs.cs = 0x08
    machine.regs.ds = machine.regs.es = machine.regs.ss = 0x10
    machine.load(str(IMAGES / "kernel.elf"))
    machine.timer(0x20, TICK)
    check_kernel(machine)
    assert machine.regs.cr0 & 0x80000001 == 0x80000001
