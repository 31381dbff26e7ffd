"""What a CPU answered, recorded for hosts that are not x86-64 Linux: tests/oracle/vectors, written by `make vectors`.

A file belongs to a test module. It is compressed: a line of JSON that says which CPU it was and lists the batches of
cases in order, then what remains of each batch's results when the cases are known. A batch is found by a digest of all
its cases, which are not stored: the tests make them anew. Where those have changed, nothing is found.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from .case import BASE, HERE, Case, Result, Step
from .native import encode

FORMAT = 1
FOLDER = HERE / "vectors"
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "pb": 0}]
_HEAD = struct.Struct("<BHbII")
_SREGS = struct.Struct("<6I")
_COUNT, _WORD = struct.Struct("<H"), struct.Struct("<I")
_RUN = struct.Struct("<IH")
_GAP = 4  # equal bytes that a run of differing ones includes, before another run is shorter
Words = tuple[int, ...]


class Cpu(NamedTuple):
    """A processor as /proc/cpuinfo names it."""

    vendor: str
    model: str


def host_cpu() -> Cpu:
    """The host's."""
    fields = {}
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    numbers = "-".join(fields.get(name, "") for name in ("cpu family", "model", "stepping"))
    return Cpu(fields.get("vendor_id", ""), f"{numbers} {fields.get('model name', '')}")


def key(cases: list[Case]) -> str:
    """What a batch is found by."""
    digest = hashlib.blake2b(b"".join(BASE.values()), digest_size=12)
    for case in cases:
        digest.update(encode(case))
    return digest.hexdigest()


class NotRecordedError(Exception):
    """The vectors do not have the answers to a batch of cases."""


# A result as its differences from what one would expect


def _words(words: Words, before: Words) -> bytes:
    """Which of up to 16 words differ from those before, and by what."""
    changes = [a ^ b for a, b in zip(words, before, strict=True)]
    mask = sum(1 << i for i, change in enumerate(changes) if change)
    return _COUNT.pack(mask) + b"".join(_WORD.pack(change) for change in changes if change)


def _runs(data: bytes, before: bytes) -> Iterator[tuple[int, bytes]]:
    """Where bytes differ from those before."""
    if data == before:
        return
    first, *others = [i for i in range(len(data)) if data[i] != before[i]]
    start = last = first
    for i in [*others, len(data) + _GAP + 1]:
        if i - last > _GAP:
            yield start, bytes(data[start : last + 1])
            start = i
        last = i


def _bytes(data: bytes, before: bytes) -> bytes:
    runs = list(_runs(data, before))
    return _COUNT.pack(len(runs)) + b"".join(_RUN.pack(at, len(run)) + run for at, run in runs)


def _fetched(memory: dict[int, bytearray], eip: int) -> bytes:
    """The 16 bytes at an address, zeros beyond the regions."""
    for start, data in memory.items():
        if start <= eip < start + len(data):
            return bytes(data[eip - start : eip - start + 16]).ljust(16, b"\0")
    return bytes(16)


def pack(case: Case, result: Result) -> bytes:
    """A result without what its case tells."""
    parts = [_HEAD.pack(result.outcome, len(result.steps), result.vector, result.error, result.address)]
    before = (*case.regs, case.eip, case.eflags)
    memory = case.memory()
    for step in result.steps:
        words = (*step.regs, step.eip, step.eflags)
        parts += [_words(words, before), _bytes(step.insn, _fetched(memory, before[8]))]
        before = words
    parts.append(_words((*result.regs, result.eip, result.eflags), before))
    parts.append(_SREGS.pack(*result.sregs))
    parts += [_bytes(result.memory[start], data) for start, data in memory.items()]
    parts.append(_bytes(result.fpu, case.fpu))
    return b"".join(parts)


class _Reader:
    """Takes packed results apart."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, form: struct.Struct) -> tuple[int, ...]:
        values = form.unpack_from(self.data, self.at)
        self.at += form.size
        return values

    def words(self, before: Words) -> Words:
        (mask,) = self.take(_COUNT)
        return tuple(b ^ self.take(_WORD)[0] if mask >> i & 1 else b for i, b in enumerate(before))

    def bytes(self, before: bytes) -> bytes:
        found = bytearray(before)
        for _ in range(self.take(_COUNT)[0]):
            at, size = self.take(_RUN)
            found[at : at + size] = self.data[self.at : self.at + size]
            self.at += size
        return bytes(found)

    def result(self, case: Case) -> Result:
        outcome, count, vector, error, address = self.take(_HEAD)
        words: Words = (*case.regs, case.eip, case.eflags)
        memory = case.memory()
        steps = []
        for _ in range(count):
            after = self.words(words)
            steps.append(Step(after[:8], after[8], after[9], self.bytes(_fetched(memory, words[8]))))
            words = after
        words = self.words(words)
        sregs = self.take(_SREGS)
        left = {start: self.bytes(bytes(data)) for start, data in memory.items()}
        fpu = self.bytes(case.fpu)
        ends = (words[:8], words[8], words[9], sregs, left)
        return Result(outcome, count, *ends, vector=vector, error=error, address=address, steps=steps, fpu=fpu)


class Store:
    """All recorded batches."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder

    @cached_property
    def _contents(self) -> tuple[Cpu, dict[str, bytes]]:
        cpus, batches = set(), {}
        for path in sorted(self.folder.glob("*.xz")):
            line, _, data = lzma.decompress(path.read_bytes()).partition(b"\n")
            head = json.loads(line)
            if head["format"] != FORMAT:
                raise ValueError(f"{path} has format {head['format']}, not {FORMAT}: make vectors")
            cpus.add(Cpu(**head["cpu"]))
            at = 0
            for name, size in head["batches"]:
                batches[name] = data[at : at + size]
                at += size
        if len(cpus) != 1:
            raise ValueError(f"vectors of {len(cpus)} processors in {self.folder}: make vectors records all on one")
        return cpus.pop(), batches

    @property
    def cpu(self) -> Cpu:
        """The one that answered."""
        return self._contents[0]

    def packed(self, cases: list[Case]) -> bytes:
        """What there is of a batch."""
        found = self._contents[1].get(key(cases))
        if found is None:
            raise NotRecordedError(f"the vectors lack the results of {len(cases)} cases: make vectors, on x86-64 Linux")
        return found

    def run(self, cases: list[Case]) -> list[Result]:
        """The results of a batch."""
        reader = _Reader(self.packed(cases))
        return [reader.result(case) for case in cases]


class Recorder:
    """Batches by the test module that they are for."""

    def __init__(self) -> None:
        self.modules: dict[str, dict[str, bytes]] = {}

    def add(self, module: str, cases: list[Case], results: list[Result]) -> None:
        packed = b"".join(pack(case, result) for case, result in zip(cases, results, strict=True))
        self.modules.setdefault(module, {})[key(cases)] = packed

    def write(self, folder: Path = FOLDER) -> None:
        """Replace what the folder has of these modules."""
        folder.mkdir(exist_ok=True)
        cpu = host_cpu()._asdict()
        for module, batches in self.modules.items():
            rows = [(name, len(data)) for name, data in batches.items()]
            head = json.dumps({"format": FORMAT, "cpu": cpu, "batches": rows}, separators=(",", ":"))
            data = head.encode() + b"\n" + b"".join(batches.values())
            packed = lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=_FILTERS)
            (folder / f"{module}.xz").write_bytes(packed)
