"""Debian's zlib1g:i386, called from Python, unprobed and with a probe at every instruction of its functions."""

import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pykprobes import Count, Machine

from .libraries import fetch

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def library():
    return fetch.library("libz.so.1")


def _memcpy(m, target, source, size):
    m.memory.write(target, m.memory.read(source, size))
    return target


def _memset(m, target, value, size):
    m.memory.write(target, bytes([value & 0xFF]) * size)
    return target


def _memchr(m, start, value, size):
    at = m.memory.read(start, size).find(value & 0xFF)
    return 0 if at < 0 else start + at


class Zlib:
    """A machine with the library loaded, and its functions on bytes."""

    def __init__(self, path: Path, **options: object) -> None:
        m = self.m = Machine(memory=16 << 20, **options)
        m.bind("malloc", lambda m, size: m.alloc(size))
        m.bind("free", lambda m, pointer: 0)
        m.bind("memcpy", _memcpy)
        m.bind("memmove", _memcpy)
        m.bind("memset", _memset)
        m.bind("memchr", _memchr)
        m.load(path)

    def put(self, data: bytes) -> int:
        address = self.m.alloc(max(1, len(data)))
        self.m.memory.write(address, data)
        return address

    def sum(self, name: str, data: bytes, start: int = 0) -> int:
        return self.m.call(name, start, self.put(data), len(data))

    def _to_buffer(self, name: str, data: bytes, room: int, *more: int) -> bytes:
        m = self.m
        target, length = m.alloc(room), self.put(room.to_bytes(4, "little"))
        assert m.call(name, target, length, self.put(data), len(data), *more) == 0
        return m.memory.read(target, m.memory.u32(length))

    def compress(self, data: bytes, level: int) -> bytes:
        return self._to_buffer("compress2", data, len(data) + len(data) // 1000 + 64, level)

    def uncompress(self, data: bytes, size: int) -> bytes:
        return self._to_buffer("uncompress", data, size)


def _text(size: int) -> bytes:
    """Compressible bytes: words in a random order, with noise strewn in."""
    rng = np.random.default_rng(386)
    words = [bytes(rng.integers(97, 123, n, dtype=np.uint8)) for n in rng.integers(2, 9, 500)]
    parts = b" ".join(words[i] for i in rng.zipf(1.3, size // 4) % len(words))
    noise = rng.integers(0, 256, size // 8, dtype=np.uint8).tobytes()
    return (parts[: size // 2] + noise + parts)[:size]


@pytest.fixture(scope="module")
def data():
    text = _text(MEGABYTE)
    assert len(text) == MEGABYTE
    return text


@pytest.fixture(scope="module")
def machine(library):
    return Zlib(library)


@pytest.mark.parametrize("name", ["crc32", "adler32"])
def test_checksums_of_a_megabyte(machine, data, name):
    assert machine.sum(name, data, name == "adler32") == getattr(zlib, name)(data)


@pytest.mark.parametrize("level", [1, 6])
def test_compress_and_uncompress_a_megabyte(machine, data, level):
    packed = machine.compress(data, level)
    if zlib.ZLIB_RUNTIME_VERSION.startswith(("1.2.13", "1.3")):
        assert packed == zlib.compress(data, level)
    assert zlib.decompress(packed) == data
    assert machine.uncompress(zlib.compress(data, level), len(data)) == data


def test_corrupt_data_is_an_error_of_zlib(machine):
    packed = bytearray(zlib.compress(b"some data" * 50))
    packed[20] ^= 0x55
    source, target, length = machine.put(packed), machine.m.alloc(1000), machine.put((1000).to_bytes(4, "little"))
    assert machine.m.call("uncompress", target, length, source, len(packed)) == -3 & 0xFFFFFFFF


@pytest.mark.parametrize("optimize", [True, False])
def test_a_probe_at_crc32_z_changes_nothing(library, data, optimize):
    z = Zlib(library, optimize=optimize)
    seen = []
    counted = z.m.kprobe("crc32_z", action=Count())
    called = z.m.kprobe("crc32", pre_handler=lambda p, regs: seen.append(regs.eip))
    assert z.sum("crc32", data) == zlib.crc32(data)
    assert [z.sum("crc32", data[i : i + 99]) for i in range(20)] == [zlib.crc32(data[i : i + 99]) for i in range(20)]
    assert counted.hits == called.hits == len(seen) == 21
    # behind the breakpoint, as the patch's handlers see it
    assert set(seen) == {z.m.symbols["crc32"] + 1}


FUNCTIONS = ("inflate*", "crc32*")
RETURN = 0x7FFF0000


def _functions(m):
    """Start and size of the functions that are probed, each once."""
    found = {}
    for pattern in FUNCTIONS:
        for name, address in m.symbols.find(pattern).items():
            size = m.symbols.lookup(name).size
            if size:
                found[address] = size
    return found


def _instructions(m):
    """Addresses of all their instructions."""
    capstone = pytest.importorskip("capstone")
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    addresses = set()
    for start, size in _functions(m).items():
        addresses.update(insn.address for insn in disassembler.disasm(m.memory.read(start, size), start))
    return addresses


def _work(z, data, packed):
    assert z.sum("crc32", data) == zlib.crc32(data)
    assert z.uncompress(packed, len(data)) == data


def _stepped_counts(z, addresses, data, packed):
    """How often each instruction is executed: counted by stepping an unprobed machine."""
    m, counts = z.m, Counter()

    def call(name, *args):
        esp = m.regs.esp
        m.push(*reversed(args))
        back = m.push(RETURN)
        m.regs.eip = m.symbols[name]
        while m.regs.eip != RETURN:
            counts[m.regs.eip] += 1
            m.step()
        assert m.regs.esp == back + 4
        m.regs.esp = esp
        return m.regs.eax

    assert call("crc32", 0, z.put(data), len(data)) == zlib.crc32(data)
    target, length = m.alloc(len(data)), z.put(len(data).to_bytes(4, "little"))
    assert call("uncompress", target, length, z.put(packed), len(packed)) == 0
    assert m.memory.read(target, len(data)) == data
    return {address: counts[address] for address in addresses}


@pytest.mark.parametrize("optimize", [True, False])
def test_a_probe_at_every_instruction(library, data, optimize):
    small = data[MEGABYTE // 2 - 3000 : MEGABYTE // 2 + 3000]
    packed = zlib.compress(small, 9)
    plain = Zlib(library)
    plain.m.map(RETURN, 4096)
    addresses = _instructions(plain.m)
    expected = _stepped_counts(plain, addresses, small, packed)

    z = Zlib(library, optimize=optimize)
    assert _instructions(z.m) == addresses
    probes = {address: z.m.kprobe(address, action=Count()) for address in sorted(addresses)}
    _work(z, small, packed)
    assert {address: probe.hits for address, probe in probes.items()} == expected
    assert sum(probe.nmissed for probe in probes.values()) == 0
    assert sum(1 for hits in expected.values() if hits) > 1000

    _work(z, data[: MEGABYTE // 4], zlib.compress(data[: MEGABYTE // 4]))
    for probe in probes.values():
        z.m.unregister_kprobe(probe)
    _work(z, small, packed)
