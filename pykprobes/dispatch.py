"""The Python side of a machine's callbacks: handlers in lists by the numbers that C gives back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .board import vector_number

if TYPE_CHECKING:
    from ._core import DeviceAccess, Machine
    from .devices import Device
    from .registers import PtRegs
    from .retprobes import Kretprobe
    from .watches import Watch

Handler = Callable[..., Any]
RAISED = -1  # CALLBACK_RAISED: end the run


class Dispatch(ABC):
    """Handlers of probes, traps and imports, and what came of those that ran. What `Core` is made of is built on it."""

    def __init__(self, regs: PtRegs, access: DeviceAccess) -> None:
        self.regs = regs
        self.access = access
        self.stopping = False  # a handler asked to stop, not only for what is deferred
        self.deferred: list[Callable[[], None]] = []
        self.exception: BaseException | None = None
        self.pre: list[tuple[Handler, Any, PtRegs]] = []
        self.post: list[Handler | None] = []
        self.fault: list[Handler | None] = []
        self.probes: list[Any] = []
        self.traps: dict[int, Callable[[PtRegs], Any]] = {}
        self.imports: list[Callable[[], int]] = []
        self.devices: dict[int, Device] = {}
        self.watches: dict[int, Watch] = {}
        self.returns: dict[int, Kretprobe] = {}
        self.kept: dict[int, object] = {}  # memory that C's return probes use
        self.kept_slots: dict[str, int] = {}
        self.intr_level = False
        self.controller: Callable[[], int | None] | None = None

    def enrol(self, number: int, probe: Any) -> None:
        """Put a probe's handlers where C finds them."""
        missing = number + 1 - len(self.probes)
        if missing > 0:
            self.pre += [(_unregistered, None, self.regs)] * missing
            self.post += [None] * missing
            self.fault += [None] * missing
            self.probes += [None] * missing
        self.pre[number] = (probe.pre_handler or _unregistered, probe, self.regs)
        self.post[number], self.fault[number], self.probes[number] = probe.post_handler, probe.fault_handler, probe

    def drop(self, number: int) -> None:
        """Forget a probe."""
        self.pre[number] = (_unregistered, None, self.regs)
        self.post[number] = self.fault[number] = self.probes[number] = None

    @property
    @abstractmethod
    def handle(self) -> Machine:
        """The C machine, after a check that this thread may use it now."""

    @abstractmethod
    def forget_stop(self) -> None:
        """Take back what defer asked C for."""

    def take_deferred(self) -> list[Callable[[], None]]:
        """What was deferred, once."""
        actions, self.deferred = self.deferred, []
        return actions

    def keep(self, exception: BaseException, kind: str, index: int) -> None:
        """Keep a handler's exception for run to raise, with a note saying whose it is."""
        if kind in ("pre", "post", "fault") and index < len(self.probes) and self.probes[index] is not None:
            exception.add_note(f"in the {kind}_handler of {self.probes[index]!r}")
        elif kind == "trap":
            exception.add_note(f"in the handler of vector {index:#x}")
        elif kind == "device" and index in self.devices:
            exception.add_note(f"in {self.devices[index]!r}")
        elif kind == "watch" and index in self.watches:
            exception.add_note(f"in the handler of {self.watches[index]!r}")
        elif kind == "return" and index in self.returns:
            exception.add_note(f"in the handler of {self.returns[index]!r}")
        elif kind == "intr":
            exception.add_note("in the interrupt controller")
        if self.exception is None:
            self.exception = exception
        else:  # the others at the same address run all the same
            notes = " ".join(getattr(exception, "__notes__", ()))
            self.exception.add_note(f"then {exception!r} {notes}".rstrip())

    def serve_post(self, index: int, arg: int) -> int:
        """A probe's post_handler; `arg` is its flags."""
        handler = self.post[index]
        if handler is not None:
            handler(self.probes[index], self.regs, arg)
        return 0

    def serve_fault(self, index: int, arg: int) -> int:
        """A probe's fault_handler; `arg` is the vector. 1 when it dealt with the fault."""
        handler = self.fault[index]
        return 1 if handler is not None and handler(self.probes[index], self.regs, arg) else 0

    def serve_trap(self, index: int, arg: int) -> int:
        """A vector's handler. 1 when it served the trap."""
        serve = self.traps.get(index)
        served = serve is not None and bool(serve(self.regs))
        if not served and self.deferred and not self.stopping:
            self.forget_stop()  # what is deferred must not hide that the trap ends the run
        return served

    def serve_device(self, index: int, arg: int) -> int:
        """A device's read or write. A device that its function uses itself has this place for a while, too."""
        access, device = self.access, self.devices[index]
        address, size, value = access.address, access.size, access.value
        try:
            if not access.write:
                value = device.answer(address, size)
            elif device.write is not None:
                device.write(address, size, value)
        except BaseException:
            access.done = 0
            raise
        access.value, access.done = value, 1
        return 0

    def serve_watch(self, index: int, arg: int) -> int:
        """A watch's handler."""
        self.watches[index].told()
        return 0

    def serve_return(self, index: int, arg: int) -> int:
        """A return probe's handler; `arg` is the number of its instance."""
        self.returns[index]._returned(arg, self.regs)
        return 0

    def serve_intr(self, index: int, arg: int) -> int:
        """The interrupt controller's vector."""
        access = self.access
        try:
            vector = None if self.controller is None else self.controller()
            number = 0 if vector is None else vector_number(vector)
        except BaseException:
            access.done = 0
            raise
        if vector is None:
            self.intr_level = False
        access.value, access.done = number, vector is not None
        return 0

    def device_at(self, kind: int, where: range) -> Device | None:
        """A device that shares an address with a range."""
        for device in self.devices.values():
            if device._kind == kind and device.range.start < where.stop and where.start < device.range.stop:
                return device
        return None


def _unregistered(probe: object, regs: PtRegs) -> None:
    """Stands in a list where no probe is."""
