"""What do snapshots and fault-injection experiments cost, and the same loop on Unicorn?"""

from __future__ import annotations

import time
from typing import Any

import pytest
import unicorn
from harness import Answers, side_by_side, timed
from unicorn import x86_const as x86

from pykprobes import Machine
from pykprobes._core import ffi, lib
from pykprobes.inject import REGISTERS, Golden, register_flips

CODE, DATA, OUT = 0x10000, 0x20000, 0x23FF0
PAGE = 4096
LIMITS = {1: 0.5e-6, 8: 2e-6, 64: 15e-6}
RATES = {100: 600_000, 1000: 250_000}


def program(instructions: int) -> bytes:
    """About so many instructions, of which nearly half store, to four pages in turn."""
    rounds = instructions // 9
    code = b"\xb9" + rounds.to_bytes(4, "little")  # mov ecx, rounds
    loop = len(code)
    for page in range(4):
        code += b"\x89\x04\x8d" + (DATA + PAGE * page).to_bytes(4, "little")  # mov [ecx*4 + page], eax
    code += b"\x01\xc8\x31\xc3\xc1\xc3\x05\x49"  # add eax, ecx; xor ebx, eax; rol ebx, 5; dec ecx
    code += b"\x75" + (loop - len(code) - 2 & 0xFF).to_bytes(1, "little")  # jnz loop
    return code + b"\x89\x1d" + OUT.to_bytes(4, "little") + b"\xf4"  # mov [OUT], ebx; hlt


def machine(code: bytes) -> Machine:
    made = Machine()
    made.load(code, at=CODE)
    made.regs.eip = CODE
    return made


@pytest.mark.parametrize("pages", LIMITS)
def test_restore(benchmark: Any, answers: Answers, pages: int) -> None:
    """A guest that writes one word in each of so many pages, with and without going back each time."""
    # mov ecx, pages; L: mov [edi], ecx; add edi, 4096; dec ecx; jnz L; hlt
    m = machine(b"\xb9" + pages.to_bytes(4, "little") + b"\x89\x0f\x81\xc7\0\x10\0\0\x49\x75\xf5\xf4")
    m.regs.edi = 0x100000
    start = m.snapshot()
    core, state, rounds, word = m._core.handle, start._core.c, 2000, ffi.new("uint32_t *")

    def restores() -> float:
        spent = 0.0
        for _ in range(rounds):
            lib.machine_run(core, 1 << 20)
            before = time.perf_counter()
            lib.machine_restore(core, state, 1)
            spent += time.perf_counter() - before
        return spent

    def nothing() -> float:
        spent = 0.0
        for _ in range(rounds):
            before = time.perf_counter()
            lib.snapshot_hit(state, 0, word)
            spent += time.perf_counter() - before
        return spent

    ours, call = side_by_side(benchmark, restores, nothing, rounds=7)
    each = max(ours - call, 0.0) / rounds
    answers.add(
        benchmark,
        f"restore after {pages} dirty pages",
        f"{each * 1e6:.2f} us",
        at_most=(each, LIMITS[pages], f"{LIMITS[pages] * 1e6:g} us"),
    )


class UnicornLoop:
    """The same experiments scripted on Unicorn: context and the four pages back, a bit flipped, run, output read."""

    def __init__(self, code: bytes) -> None:
        self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        self.uc.mem_map(CODE, 0x20000)
        self.uc.mem_write(CODE, code)
        self.end = CODE + len(code) - 1
        self.start = self.uc.context_save()
        self.pages = bytes(self.uc.mem_read(DATA, 4 * PAGE))

    def run(self, flips: list[tuple[int, int]]) -> list[bytes]:
        found = []
        for register, bit in flips:
            self.uc.context_restore(self.start)
            self.uc.mem_write(DATA, self.pages)
            self.uc.reg_write(register, self.uc.reg_read(register) ^ 1 << bit)
            self.uc.emu_start(CODE, self.end, count=0)
            found.append(bytes(self.uc.mem_read(OUT, 4)))
        return found


@pytest.mark.parametrize("instructions", RATES)
def test_experiments(benchmark: Any, answers: Answers, instructions: int) -> None:
    code = program(instructions)
    golden = Golden(machine(code).snapshot(), end=CODE + len(code) - 1, output=[(OUT, 4)])
    flips = register_flips([REGISTERS["eax"], REGISTERS["ebx"]], times=[0] * 300)
    few = [(register, bit) for register in (x86.UC_X86_REG_EAX, x86.UC_X86_REG_EBX) for bit in range(32)]
    peer = UnicornLoop(code)
    outputs = peer.run(few)
    for row, output in enumerate(outputs):
        assert golden.replay(flips[row : row + 1])[0].page(OUT >> 12)[OUT % PAGE : OUT % PAGE + 4] == output
    ours, theirs = side_by_side(
        benchmark, lambda: timed(golden.inject, flips, 10.0, 1, False), lambda: timed(peer.run, few), rounds=7
    )
    rate, other = len(flips) / ours, len(few) / theirs
    answers.add(
        benchmark,
        f"experiments of {golden.length:,} instructions, four dirtied pages",
        f"{rate:,.0f} /s",
        peer=f"{other:,.0f} /s Unicorn",
        ratio=rate / other,
        at_least=5,
    )
    answers.add(
        benchmark,
        f"experiments of {golden.length:,} instructions: time of one",
        f"{1e6 / rate:.2f} us",
        at_most=(1 / rate, 1 / RATES[instructions], f"{1e6 / RATES[instructions]:.2f} us"),
    )


def test_threads(benchmark: Any, answers: Answers) -> None:
    code = program(1000)
    golden = Golden(machine(code).snapshot(), end=CODE + len(code) - 1, output=[(OUT, 4)])
    flips = register_flips([REGISTERS["eax"]], times=[0] * 2000)

    def wall(threads: int) -> float:
        start = time.perf_counter()
        golden.inject(flips, threads=threads)
        return time.perf_counter() - start

    two, one = side_by_side(benchmark, lambda: wall(2), lambda: wall(1), rounds=5)
    answers.add(
        benchmark, "two threads of experiments", f"{two * 1e3:.0f} ms", peer=f"{one * 1e3:.0f} ms with one",
        ratio=one / two, at_least=1.9,
    )  # fmt: skip


def test_clone(benchmark: Any, answers: Answers) -> None:
    snapshot = machine(program(100)).snapshot()
    ours, whole = side_by_side(benchmark, lambda: timed(snapshot.machine), lambda: timed(Machine), rounds=50)
    answers.add(benchmark, "a machine from a snapshot", f"{ours * 1e6:.0f} us", peer=f"{whole * 1e6:.0f} us a new one",
                ratio=whole / ours)  # fmt: skip
