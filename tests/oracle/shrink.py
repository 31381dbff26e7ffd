"""Make a failing case as small as it goes, and print it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import capstone

from . import native
from .case import GPRS, IF, Case, Result
from .compare import Difference, Engine
from .encode import Insn, Mem
from .sequences import rebuild

Comparison = Callable[[Case, Result, Engine], Difference | None]


def _without(program: list[Insn]) -> Iterator[list[Insn]]:
    size = max(1, len(program) // 2)
    while size:
        for at in range(0, len(program), size):
            if len(program) > size:
                yield program[:at] + program[at + size :]
        size //= 2


def _simpler(insn: Insn) -> Iterator[Insn]:
    for i in range(len(insn.prefixes)):
        yield replace(insn, prefixes=insn.prefixes[:i] + insn.prefixes[i + 1 :])
    if isinstance(insn.imm, int):
        for imm in (0, 1, insn.imm & 0xFF):
            if imm != insn.imm:
                yield replace(insn, imm=imm)
    if isinstance(insn.rm, Mem) and insn.rm.index is not None:
        yield replace(insn, rm=replace(insn.rm, index=None, scale=0))
    if isinstance(insn.rm, int) and insn.rm:
        yield replace(insn, rm=0)
    if insn.reg:
        yield replace(insn, reg=0)


def _candidates(case: Case) -> Iterator[Case]:
    program: list[Insn] = case.notes  # type: ignore[assignment]
    for shorter in _without(program):
        yield rebuild(case, shorter)
    for i, insn in enumerate(program):
        for simple in _simpler(insn):
            yield rebuild(case, [*program[:i], simple, *program[i + 1 :]])
    for i, value in enumerate(case.regs):
        for simple_value in (0, 1):
            if value > simple_value and i != 4:
                yield replace(case, regs=[*case.regs[:i], simple_value, *case.regs[i + 1 :]])
    if case.eflags != IF | 2:
        yield replace(case, eflags=IF | 2)
    for i in range(len(case.patches)):
        yield replace(case, patches=case.patches[:i] + case.patches[i + 1 :])


def shrink(case: Case, engine: Engine, comparison: Comparison, rounds: int = 60) -> tuple[Case, Difference]:
    """The smallest case found that still differs, and its difference."""
    difference = comparison(case, native.run([case])[0], engine)
    assert difference is not None
    for _ in range(rounds if isinstance(case.notes, list) else 0):
        for smaller, result in native.run_batches(list(_valid(case)), 500):
            found = comparison(smaller, result, engine)
            if found:
                case, difference = smaller, found
                break
        else:
            break
    return case, difference


def _valid(case: Case) -> Iterator[Case]:
    for candidate in _candidates(case):
        try:
            for insn in candidate.notes:  # type: ignore[attr-defined]
                insn.encode()
        except ValueError:
            continue
        yield candidate


def describe(case: Case, difference: Difference) -> str:
    """A case as assembly, with its initial state and what is wrong."""
    lines = [f"  {name} = {value:#010x}" for name, value in zip(GPRS, case.regs, strict=True)]
    lines.append(f"  eflags = {case.eflags:#x}")
    lines += [f"  [{address:#x}] = {data.hex(' ')}" for address, data in case.patches]
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    disassembler.skipdata = True
    for insn in disassembler.disasm(case.code, case.eip):
        lines.append(f"  {insn.address:#x}: {insn.bytes.hex(' '):<24} {insn.mnemonic} {insn.op_str}")
    return "\n".join([f"{difference}", *lines])
