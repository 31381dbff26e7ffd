"""What is around a CPU on its board: ports, memory-mapped devices, interrupts, the timer."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING

from .devices import MEMORY, PORT, Device, Read, Write, claim

if TYPE_CHECKING:
    from .binding import Core
    from .regions import AddressSpace

Controller = Callable[[], int | None]


class Board:
    """The part of `Machine` that outside hardware would be."""

    _core: Core
    regions: AddressSpace

    def on_port(self, ports: range, read: Read | None = None, write: Write | None = None) -> Device:
        """Serve I/O ports: ``read(port, size) -> int`` and ``write(port, size, value)``, size 1, 2 or 4.

        An access that reaches beyond the range comes in parts; what nobody serves reads all ones and swallows
        writes. An exception of a function comes out of run, and the instruction has not been executed: running on
        tries it again. `Device.remove` takes the device away.

        >>> from pykprobes import Machine
        >>> with Machine(kernel=None) as m:
        ...     device = m.on_port(range(0x190, 0x191), read=lambda port, size: 0x5A)
        ...     m.memory.write(0x500, b"\\xba\\x90\\x01\\xec")      # mov dx, 0x190; in al, dx
        ...     m.regs.cs, m.regs.eip = 0, 0x500
        ...     m.step(2)
        ...     hex(m.regs.al)
        <Stop LIMIT: the machine used up its instructions at 0x504, after 2 instructions>
        '0x5a'
        """
        self._core.handle  # noqa: B018 - a closed machine is reported first
        return claim(self._core, PORT, ports, read, write)

    def on_mmio(self, addresses: range, read: Read | None = None, write: Write | None = None) -> Device:
        """Serve physical addresses: ``read(address, size) -> int`` and ``write(address, size, value)``.

        Sizes are 1, 2 and 4, at any alignment; what crosses a page's or the range's end comes in parts, lowest first
        (3 bytes as 2 and 1). A read-modify-write is one read and one write. The device hides RAM at its addresses
        from the guest, not from m.memory. Code does not run in a page that has a device in it: the run ends with the
        reason DEVICE; page tables there read all ones. Exceptions and removal are as for on_port. With the built-in
        kernel side the range, if it is not RAM, is mapped at its own address, and stays so.
        """
        self._core.handle  # noqa: B018 - a closed machine is reported first
        return claim(self._core, MEMORY, addresses, read, write, self.regions)

    def interrupt(self, vector: int) -> bool:
        """Ask for an external interrupt: taken, in the order asked for, when IF allows; it ends HLT.

        False when the vector is pending already.
        """
        return self._core.interrupt(0, vector_number(vector))

    def nmi(self) -> None:
        """Ask for a non-maskable interrupt: vector 2, whatever IF is, but not before the IRET of the last one."""
        self._core.nmi(0)

    @property
    def intr(self) -> Controller | None:
        """The interrupt controller: called without arguments when the CPU takes INTR, it gives the vector.

        None for a vector lowers INTR: there was nothing after all. The pin keeps its level otherwise, so a controller
        with nothing more to ask for calls lower_intr.
        """
        return self._core.controller

    @intr.setter
    def intr(self, controller: Controller | None) -> None:
        if controller is not None and not callable(controller):
            raise TypeError(f"an interrupt controller must be a function, not {type(controller).__name__}")
        self._core.set_intr(self._core.intr_level, controller)

    def raise_intr(self) -> None:
        """Raise the INTR pin: the controller is asked for a vector before the next instruction that IF lets wait."""
        self._core.set_intr(True, self._core.controller)

    def lower_intr(self) -> None:
        """Lower the INTR pin."""
        self._core.set_intr(False, self._core.controller)

    def timer(self, vector: int, period: int) -> None:
        """Interrupt with `vector` every `period` instructions; period 0 switches it off."""
        period = index(period)
        if not 0 <= period < 1 << 63:
            raise ValueError(f"a timer's period is a number of instructions, not {period}")
        self._core.timer(vector_number(vector), period)


def vector_number(value: int) -> int:
    """A vector; ValueError when it is not one."""
    value = index(value)
    if not 0 <= value <= 255:
        raise ValueError(f"vector {value} is not in 0 to 255")
    return value
