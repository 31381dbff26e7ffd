"""Watchpoints: told when the guest reads, writes or executes an address, or uses a port."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

from .actions import Action, attach, chain, detach
from .memory import address_range

if TYPE_CHECKING:
    from .binding_actions import CoreChain
    from .machine import Machine
    from .registers import Registers

READ, WRITE, EXECUTE, IN, OUT = 1, 2, 4, 8, 16
KINDS = {"w": WRITE, "rw": READ | WRITE, "x": EXECUTE, "io": IN | OUT}
NAMES = {READ: "r", WRITE: "w", EXECUTE: "x", IN: "in", OUT: "out"}
PORTS = 1 << 16


class Access(NamedTuple):
    """What a watch saw. ``kind`` is r, w, x, in or out; `address` and `size` are the whole access, `value` its datum.

    ``eip`` is the instruction's, or that of what was interrupted when an exception's delivery made the access. An
    execution has the size 1 and the value 0.
    """

    kind: str
    address: int
    size: int
    value: int
    eip: int


Handler = Callable[["Watch", "Registers", Access], Any]


class Watch:
    """What `Machine.watch` gives: ``hits`` counts; `Machine.unwatch` ends it, and ``hits`` stays."""

    def __init__(
        self, machine: Machine, where: int | str, length: int, kind: str, what: Handler | Action | Sequence[Action]
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"a watch is for 'w', 'rw', 'x' or 'io', not {kind!r}")
        length = index(length)
        if length < 1:
            raise ValueError(f"a watch of {length} bytes")
        self.address = self._place(machine, where, length, kind)
        self.length = length
        self.kind = kind
        self.handler: Handler | None = None
        if callable(what):
            self.handler = what
            self._actions: list[Action] = []
        else:
            self._actions = chain(what)
            if not self._actions:
                raise TypeError("a watch needs a handler or an action")
        self._machine: Machine | None = None
        self._chain: CoreChain | None = None
        self._number = -1
        self._hits = 0

    @staticmethod
    def _place(machine: Machine, where: int | str, length: int, kind: str) -> int:
        if kind != "io":
            return address_range(machine.address(where), length)[0]
        port = index(where)  # type: ignore[arg-type]
        if not 0 <= port <= PORTS - length:
            raise ValueError(f"ports {port:#x} to {port + length - 1:#x} are not in 0 to 0xffff")
        return port

    @property
    def hits(self) -> int:
        """Accesses that were told, or counted by the actions."""
        if self._machine is not None and not self._machine._core.closed:
            self._hits = self._machine._core.watch_hits(self._number)
        return self._hits

    def told(self) -> None:
        """Call the handler for what has just happened."""
        machine = self._machine
        if self.handler is not None and machine is not None:
            kind, *rest = machine._core.watch_event()
            self.handler(self, machine.regs, Access(NAMES[kind], *rest))

    def __repr__(self) -> str:
        state = "" if self._machine is not None else ", ended"
        return f"<Watch {self.kind} of {self.length} bytes at {self.address:#x}, {self.hits:,} hits{state}>"


def watch(machine: Machine, made: Watch) -> Watch:
    """Put a watch in place."""
    chained = attach(made._actions, machine._core, machine.symbols)
    try:
        number = machine._core.watch(made.address, made.length, KINDS[made.kind], made, chained)
    except BaseException:
        detach(made._actions)
        raise
    made._machine, made._number, made._chain = machine, number, chained
    return made


def unwatch(machine: Machine, gone: Watch) -> None:
    """Take a watch away; ValueError when it is not one of this machine."""
    if not isinstance(gone, Watch) or gone._machine is not machine:
        raise ValueError(f"{gone!r} is no watch of this machine")
    gone._hits = gone.hits
    machine._core.unwatch(gone._number)
    gone._machine = gone._chain = None
    detach(gone._actions)
