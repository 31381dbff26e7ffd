"""The CPUs of a machine, and who executes when."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from .binding_cpu import CpuCore
from .board import vector_number
from .calls import ARGUMENTS_MAX, argument
from .fpu import Fpu
from .registers import Registers
from .sse import Sse

if TYPE_CHECKING:
    from .machine import Machine

IF = 0x200


class Cpu:
    """One CPU of a machine. CPU 0 executes from the start, the others are parked until something starts them.

    ``regs``, ``fpu`` and ``sse`` are its registers. Setting ``regs.eip`` starts a parked CPU and wakes a halted one.
    """

    def __init__(self, machine: Machine, number: int) -> None:
        self._machine = machine
        self._core = CpuCore(machine._core, number)
        self.index = number
        self.regs = Registers(self._core)
        self.fpu = Fpu(self._core)
        self.sse = Sse(self._core, machine.cpu_model)

    @property
    def icount(self) -> int:
        """Instructions that it has retired."""
        return self._core.info().icount

    @property
    def spins(self) -> int:
        """How many of its turns passed while it waited for kprobe_lock."""
        return self._core.info().spins

    @property
    def halted(self) -> bool:
        """Is it in HLT?"""
        return bool(self._core.info().halted)

    @property
    def parked(self) -> bool:
        """Does it wait to be started? What `start` started parks it when it returns."""
        return bool(self._core.info().parked)

    @property
    def waits_for(self) -> int | None:
        """The CPU that holds the kprobe_lock which this one spins for, None when it does not."""
        holder = self._core.info().waits_for
        return None if holder < 0 else holder

    def start(self, function: int | str, *args: object) -> None:
        """Give a parked CPU work: a cdecl call, made by the next run, whose return parks it again.

        It begins with an empty stack and interrupts enabled; its result is then in ``regs.eax``.
        """
        machine, layout = self._machine, self._core.layout
        address = machine.address(function)
        words = [argument(value) for value in args]
        if layout is None:
            raise RuntimeError("start needs the built-in kernel side: set regs of a bare machine's CPU, eip last")
        if len(words) > ARGUMENTS_MAX:
            raise ValueError(f"{len(words)} arguments, the most is {ARGUMENTS_MAX}")
        if not self.parked and (self.index or self.regs.eip):
            where = machine.symbols.describe(self.regs.eip)
            raise RuntimeError(f"CPU {self.index} is at work, at {where}: park it first")
        top = layout.stack_top - self.index * layout.stack_stride
        arguments = top - 4 * len(words) & ~15
        machine.memory.write(arguments - 4, struct.pack(f"<{len(words) + 1}I", layout.park_return, *words))
        self.regs.esp = arguments - 4
        self.regs.eflags = IF
        self.regs.eip = address

    def park(self) -> None:
        """Take it out of runs, its registers as they are, until something starts it."""
        self._core.park()

    def nmi(self) -> None:
        """Ask for a non-maskable interrupt: vector 2, whatever IF is, but not before the IRET of the last one."""
        self._core.nmi()

    def interrupt(self, vector: int) -> bool:
        """Ask for an external interrupt: taken, in the order asked for, when IF allows; it ends HLT.

        False when the vector is pending already.
        """
        return self._core.interrupt(vector_number(vector))

    def __repr__(self) -> str:
        info = self._core.info()
        state = "parked" if info.parked else "halted" if info.halted else "at work"
        if info.waits_for >= 0:
            state = f"waiting for kprobe_lock, which CPU {info.waits_for} holds"
        return f"<Cpu {self.index}, {state}, at {self._machine.symbols.describe(self.regs.eip)}>"


class Cpus(Sequence[Cpu]):
    """The CPUs of a machine by number."""

    def __init__(self, machine: Machine, count: int) -> None:
        self._all = tuple(Cpu(machine, number) for number in range(count))

    @overload
    def __getitem__(self, which: int) -> Cpu: ...
    @overload
    def __getitem__(self, which: slice) -> tuple[Cpu, ...]: ...
    def __getitem__(self, which: int | slice) -> Cpu | tuple[Cpu, ...]:
        return self._all[which]

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Cpu]:
        return iter(self._all)

    def waiting(self) -> tuple[tuple[int, int], ...]:
        """The CPUs that wait for kprobe_lock, each with the one that holds it."""
        waiting = ((cpu.index, cpu.waits_for) for cpu in self._all)
        return tuple((cpu, holder) for cpu, holder in waiting if holder is not None)

    def __repr__(self) -> str:
        return f"<Cpus {', '.join(map(repr, self._all))}>"
