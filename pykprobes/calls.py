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
    if isinstance(value, (bytes, str, float)):
        raise TypeError(f"an argument is a number of 32 bits, not {type(value).__name__}: put data into m.alloc(n)")
    return word(index(value))  # type: ignore[arg-type]


def call(
    machine: Machine,
    function: int,
    args: tuple[object, ...],
    convention: str,
    limit: int | None,
    progress: Callable[[int], object] | None,
) -> int:
    """Run a function to its return on the current stack and put the CPU back as it was; its eax."""
    if convention not in CONVENTIONS:
        raise ValueError(f"a calling convention is cdecl or regparm3, not {convention!r}")
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
            return machine.regs.eax
        where = machine.symbols.describe(function)
        raise MachineFault(f"{where} did not return: {stop}", stop, dict(machine.regs))
    finally:
        core.unnest(kept)
