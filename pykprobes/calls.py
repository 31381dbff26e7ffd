"""Calling guest functions from Python."""

from __future__ import annotations

import struct
from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING

from .errors import MachineFault
from .registers import NUMBERS, word
from .stop import StopReason

if TYPE_CHECKING:
    from .machine import Machine

ARGUMENTS_MAX = 1024
REGPARM = ("eax", "edx", "ecx")
DF, TF, NT = 0x400, 0x100, 0x4000
CONVENTIONS = {"cdecl": 0, "regparm3": 3}


def argument(value: object) -> int:
    """One argument as the word that is passed.

    >>> argument(-1), argument(7)
    (4294967295, 7)
    """
    if isinstance(value, float):
        raise TypeError("an argument is a number of 32 bits: pass a float as *pykprobes.double(x), its two words")
    if isinstance(value, (bytes, str)):
        raise TypeError(f"an argument is a number of 32 bits, not {type(value).__name__}: put data into m.alloc(n)")
    return word(index(value))  # type: ignore[arg-type]


def double(value: float) -> tuple[int, int]:
    """The two words that a float is passed as, being a double of C.

    >>> double(1.5)
    (0, 1073217536)
    """
    low, high = struct.unpack("<2I", struct.pack("<d", value))
    return low, high


INTEGERS = {"u32": (32, False), "s32": (32, True), "u64": (64, False), "s64": (64, True)}
"""Bits and sign of the results that are in eax, or edx and eax."""
RESULTS = (*INTEGERS, "f64", "f80")


def result(machine: Machine, kind: str) -> int | float | bytes:
    """What a function has just returned, by the result's type: of a floating-point type it is in ST(0)."""
    if kind == "f64":
        return machine.fpu.st[0]
    if kind == "f80":
        return machine.fpu.raw[0]
    bits, signed = INTEGERS[kind]
    value = (machine.regs.edx << 32 | machine.regs.eax) & (1 << bits) - 1
    return value - (1 << bits) if signed and value >> bits - 1 else value


def instructions(limit: int | None) -> int | None:
    """max_instructions of a run: None or a number that is not negative."""
    if limit is None:
        return None
    limit = index(limit)
    if limit < 0:
        raise ValueError(f"max_instructions={limit} is negative")
    return limit


def call(
    machine: Machine,
    function: int,
    args: tuple[object, ...],
    convention: str,
    limit: int | None,
    progress: Callable[[int], object] | None,
    returns: str,
) -> int | float | bytes:
    """Run a function to its return on the current stack and put the CPU back as it was; its result."""
    if convention not in CONVENTIONS:
        raise ValueError(f"a calling convention is cdecl or regparm3, not {convention!r}")
    if returns not in RESULTS:
        raise ValueError(f"returns={returns!r} must be one of {', '.join(RESULTS)}")
    core = machine._core
    if core.layout is None:
        raise RuntimeError("call needs the built-in kernel side: this machine was made with kernel=None")
    if len(args) > ARGUMENTS_MAX:
        raise ValueError(f"{len(args)} arguments, the most is {ARGUMENTS_MAX}")
    words = [argument(value) for value in args]
    in_registers = words[: CONVENTIONS[convention]]
    on_stack = words[CONVENTIONS[convention] :]
    esp = machine.regs.esp
    handlers_frame = core.frame()
    if handlers_frame is not None:
        esp = min(esp, handlers_frame.address)
    # The ABI has the arguments begin at a multiple of 16.
    arguments = (esp - 4 * len(on_stack)) & ~15
    frame = struct.pack(f"<{len(on_stack) + 1}I", core.layout.call_return, *on_stack)
    machine.memory.write(arguments - 4 & 0xFFFFFFFF, frame)
    kept = core.nest()
    try:
        for name, value in zip(REGPARM, in_registers, strict=False):
            core.set_reg(NUMBERS[name], value)
        machine.regs.esp = arguments - 4
        machine.regs.eflags &= ~(DF | TF | NT)
        machine.regs.eip = function
        stop = machine._loop(limit, progress)
        if stop.reason is StopReason.UNTIL:
            return result(machine, returns)
        where = machine.symbols.describe(function)
        raise MachineFault(f"{where} did not return: {stop}", stop, dict(machine.regs))
    finally:
        core.unnest(kept)
