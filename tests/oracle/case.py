"""What a case is, and what running one yields: shared by all oracles."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
GPRS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
CF, PF, AF, ZF, SF, TF, IF, DF, OF = 0x1, 0x4, 0x10, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
NT, RF, AC = 0x4000, 0x10000, 0x40000
ARITH = CF | PF | AF | ZF | SF | OF
FLAG_NAMES = {CF: "cf", PF: "pf", AF: "af", ZF: "zf", SF: "sf", TF: "tf", IF: "if", DF: "df", OF: "of"}

UNTIL, LIMIT, FAULT, DIED = range(4)
OUTCOMES = ("until", "limit", "fault", "died")


def _regions() -> list[tuple[int, int, int]]:
    text = (HERE / "native" / "layout.h").read_text()
    rows = re.findall(r"REGION\((0x[0-9A-Fa-f]+), (\d+), (\d+), \d+\)", text)
    return [(int(a, 16), int(n) * 4096, int(p)) for a, n, p in rows]


REGIONS = _regions()
"""(address, size, protection) of all memory that a case has."""
LOW, CODE, DATA, READONLY, STACK = (address for address, _, _ in REGIONS)
STACK_TOP = STACK + 0x1000


def _base() -> dict[int, bytes]:
    """Contents of the regions before a case's patches: noise, with edge values strewn in."""
    rng = random.Random(386)
    edges = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    base = {}
    for address, size, _ in REGIONS:
        words = [rng.choice(edges) if rng.random() < 0.4 else rng.getrandbits(32) for _ in range(size // 4)]
        base[address] = b"".join(w.to_bytes(4, "little") for w in words)
    # HLT everywhere, so that code that runs off its case stops at once
    base[CODE] = b"\xf4" * len(base[CODE])
    return base


BASE = _base()


@dataclass
class Case:
    """Code and patches laid over the base memory, registers to start with, and the address at which it ends."""

    code: bytes
    regs: list[int]
    eflags: int = IF | 2
    eip: int = CODE + 0x100
    until: int = -1
    patches: list[tuple[int, bytes]] = field(default_factory=list)
    max_steps: int = 400
    fs: int = 0x2B
    gs: int = 0
    notes: object = None
    fpu: bytes = b""
    """The x87 to start with, 512 bytes as FXSAVE stores them; empty: none of the case's business."""

    def __post_init__(self) -> None:
        if self.until < 0:
            self.until = self.eip + len(self.code)

    def memory(self) -> dict[int, bytearray]:
        """Contents of all regions when the case starts."""
        memory = {address: bytearray(data) for address, data in BASE.items()}
        for address, data in self.all_patches():
            start = region_of(address)
            memory[start][address - start : address - start + len(data)] = data
        return memory

    def all_patches(self) -> list[tuple[int, bytes]]:
        """Patches including the code, split where regions end."""
        return [*self.patches, (self.eip, self.code)]


def region_of(address: int) -> int:
    """Start of the region that holds an address."""
    for start, size, _ in REGIONS:
        if start <= address < start + size:
            return start
    raise ValueError(f"{address:#x} is in no region")


@dataclass
class Step:
    """State after one instruction (or one iteration), and the bytes that were at eip before it."""

    regs: tuple[int, ...]
    eip: int
    eflags: int
    insn: bytes


@dataclass
class Result:
    """How a case ended. Vector, error and address are set for FAULT; memory is complete."""

    outcome: int
    icount: int
    regs: tuple[int, ...]
    eip: int
    eflags: int
    sregs: tuple[int, ...]
    memory: dict[int, bytes]
    vector: int = -1
    error: int = 0
    address: int = 0
    steps: list[Step] = field(default_factory=list)
    fpu: bytes = b""
