"""The probes of a machine: what `Machine` offers for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .actions import Action
from .board import Board
from .probelist import ProbeList, all_or_none
from .probes import FaultHandler, Kprobe, PostHandler, PreHandler, ProbeTable
from .retprobes import Kretprobe, ReturnHandler, register_return, unregister_return

if TYPE_CHECKING:
    from .binding import Core
    from .fetchargs import FetchArg
    from .symbols import SymbolTable

P = TypeVar("P", Kprobe, Kretprobe)


class Probing(Board, ABC):
    """The part of `Machine` that has to do with probes."""

    _core: Core
    _probes: ProbeTable
    symbols: SymbolTable
    kprobes_mode: str | None

    @abstractmethod
    def address(self, where: int | str) -> int:
        """See `Machine.address`."""

    @property
    def kprobes(self) -> list[Kprobe]:
        """The registered probes; return probes are in kretprobes."""
        return [probe for probe in self._probes.all() if type(probe) is Kprobe]

    @property
    def kretprobes(self) -> list[Kretprobe]:
        """The registered return probes."""
        return list(self._core.returns.values())

    @property
    def probes(self) -> ProbeList:
        """All registered probes as a table."""
        return ProbeList([*self.kprobes, *self.kretprobes])

    def register_kprobe(self, probe: Kprobe) -> None:
        """Implant a probe; KprobeError says why it cannot be."""
        self._probes.register(probe)

    def unregister_kprobe(self, probe: Kprobe) -> None:
        """Take a probe out; its counters stay readable."""
        self._probes.unregister(probe)

    def register_kprobes(self, probes: Iterable[Kprobe]) -> None:
        """Implant all of them or none."""
        all_or_none(list(probes), self._probes.register, self._probes.unregister)

    def unregister_kprobes(self, probes: Iterable[Kprobe]) -> None:
        """Take several probes out; those that are not registered are an error before any is."""
        for probe in self._registered(probes, Kprobe):
            self._probes.unregister(probe)

    def disable_kprobes(self, probes: Iterable[Kprobe]) -> None:
        """Disable several probes; those that are not registered are an error before any is."""
        for probe in self._registered(probes, Kprobe):
            probe.disable()

    def enable_kprobes(self, probes: Iterable[Kprobe]) -> None:
        """Enable several probes; those that are not registered are an error before any is."""
        for probe in self._registered(probes, Kprobe):
            probe.enable()

    def register_kretprobe(self, probe: Kretprobe) -> None:
        """Implant a return probe; KprobeError says why it cannot be."""
        register_return(self, probe)

    def unregister_kretprobe(self, probe: Kretprobe) -> None:
        """Take a return probe out; calls that are out return without it, its counters stay readable."""
        unregister_return(self, probe)

    def register_kretprobes(self, probes: Iterable[Kretprobe]) -> None:
        """Implant all of them or none."""
        all_or_none(list(probes), self.register_kretprobe, self.unregister_kretprobe)

    def unregister_kretprobes(self, probes: Iterable[Kretprobe]) -> None:
        """Take several return probes out; those that are not registered are an error before any is."""
        for probe in self._registered(probes, Kretprobe):
            self.unregister_kretprobe(probe)

    def kretprobe(
        self,
        where: str | int,
        handler: ReturnHandler | None = None,
        entry_handler: ReturnHandler | None = None,
        maxactive: int | None = None,
        action: Action | Sequence[Action] | None = None,
        filter: str | None = None,
        entry: Sequence[str | FetchArg] = (),
    ) -> Any:
        """Make and register a return probe; see `Kretprobe`. Without handler and action: a decorator for the handler.

        >>> from pykprobes import Machine
        >>> with Machine(memory=1 << 20) as m:
        ...     image = m.load(bytes.fromhex("8b 44 24 04 40 c3"), at=0x10000)      # mov eax,[esp+4]; inc eax; ret
        ...     probe = m.kretprobe(0x10000, lambda ri, regs: print(ri.retval, ri.latency))
        ...     m.call(0x10000, 41)
        42 3
        42
        """
        if handler is None and action is None:
            self._probes.resolve(Kprobe(where))
            return lambda function: self.kretprobe(
                where, function, entry_handler, maxactive, filter=filter, entry=entry
            )
        probe = Kretprobe(where, handler, entry_handler, maxactive, action, filter, entry)
        register_return(self, probe)
        return probe

    def kprobe(
        self,
        where: str | int,
        offset: int = 0,
        pre_handler: PreHandler | None = None,
        post_handler: PostHandler | None = None,
        fault_handler: FaultHandler | None = None,
        action: Action | Sequence[Action] | None = None,
        filter: str | None = None,
    ) -> Any:
        """Make and register a probe. Without handler and action: a decorator for the pre_handler, giving the probe.

        ``filter`` is put before the actions as `When` (filter).
        """
        if pre_handler is None and post_handler is None and fault_handler is None and (action, filter) == (None, None):
            self._probes.resolve(Kprobe(where, offset))
            return lambda handler: self.kprobe(where, offset, handler)
        probe = Kprobe(where, offset, pre_handler, post_handler, fault_handler, action, filter)
        self._probes.register(probe)
        return probe

    def occupancy(self) -> list[int]:
        """How many probes each of the 64 buckets of the patch's table holds."""
        return self._core.occupancy()

    def fetch(self, arg: str | FetchArg) -> Any:
        """In a handler: the value of a fetch argument, None when its memory cannot be read.

        Numbers are int, strings bytes (cut at 4,096), arrays lists of them.
        """
        from .fetch import fetch

        if not self._core.in_handler:
            raise RuntimeError("fetch arguments have values in handlers only")
        return fetch(self._core, arg, self.address)

    def _registered(self, probes: Iterable[P], kind: type[P]) -> list[P]:
        listed = list(probes)
        for probe in listed:
            if not isinstance(probe, kind) or not probe.registered or probe.machine is not self:
                raise ValueError(f"{probe!r} is not registered with this machine")
        return listed
