"""Return probes: what a function returns, to whom and after how long."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from errno import EINVAL, ENOENT, ENOSYS
from operator import index
from typing import TYPE_CHECKING, Any

from .actions import Action, Fields, Lookup, as_field, attach, chain, detach
from .binding_actions import CoreAction
from .errors import KprobeError
from .fetchargs import KEPT, FetchArg
from .probes import Kprobe
from .programs import Op, compile_field, names_of
from .records import MISSES, ReturnStats

if TYPE_CHECKING:
    from .binding import Core
    from .binding_actions import CoreChain
    from .machine import Machine
    from .probing import Probing
    from .registers import PtRegs

MAXACTIVE_MAX = 1 << 16
RESERVED = re.compile(r"retval|latency|comm|stack\d*|arg\d+")
ReturnHandler = Callable[["KretprobeInstance", "PtRegs"], Any]


class KretprobeInstance:
    """One call of a function under a return probe, as its handlers get it.

    ``data`` is a dict that is the call's own: what the entry_handler leaves there, the handler finds. All but data
    and ``probe`` is known in the return handler only.
    """

    __slots__ = ("data", "probe")

    def __init__(self, probe: Kretprobe) -> None:
        self.probe = probe
        self.data: dict[Any, Any] = {}

    @property
    def retval(self) -> int:
        """What the function returns: eax, which can be set."""
        return self.probe._core.regs.eax

    @retval.setter
    def retval(self, value: int) -> None:
        self.probe._core.regs.eax = value

    @property
    def ret_addr(self) -> int:
        """Where the function returns to. The guest sees the trampoline's address instead."""
        return self.probe._core.returning().ret_addr

    @property
    def entered(self) -> int:
        """The machine's icount at the function's entry."""
        return self.probe._core.returning().entered

    @property
    def latency(self) -> int:
        """Instructions retired since the entry."""
        return self.probe._core.icount - self.entered

    @property
    def entry(self) -> dict[str, int | None]:
        """The values of the probe's ``entry=`` fields, None where one could not be read."""
        found, slots = self.probe._core.returning(), self.probe._core.kept_slots
        return {
            name: None if found.kept_faults >> slots[f"${name}"] & 1 else _signed(found.kept[slots[f"${name}"]], field)
            for name, field in self.probe.entry.items()
        }

    def __repr__(self) -> str:
        return f"<KretprobeInstance of {self.probe!r}>"


class Kretprobe:
    """A probe of a function's returns, at its first instruction: a symbol or an address.

    ``handler(ri, regs)`` runs when the function has returned, ``action`` before it, for returns that pass the
    ``filter``. ``entry_handler(ri, regs)`` runs at the entry; if what it returns is true, this call is not followed.
    ``ri`` is a `KretprobeInstance`. ``entry`` are fields that are computed at the entry, for actions and filters of the
    return as ``$name`` and for handlers as ``ri.entry``; ``$argN`` needs no mention there.

    At most `maxactive` calls are followed at a time (default 10); ``nmissed`` counts those beyond. A call that never
    returns, because of a longjmp or a fault, is found by the stack pointer when its instance is needed again, and
    counted in ``abandoned``. The probe can be unregistered while calls are out: they return as if it had not been.
    While a function is followed its return address on the stack is that of the trampoline.

    >>> Kretprobe("crc32", action=None, entry=["len=$arg3:u32"])
    <Kretprobe crc32, not registered>
    """

    def __init__(
        self,
        where: str | int,
        handler: ReturnHandler | None = None,
        entry_handler: ReturnHandler | None = None,
        maxactive: int | None = None,
        action: Action | Sequence[Action] | None = None,
        filter: str | None = None,
        entry: Sequence[str | FetchArg] = (),
    ) -> None:
        maxactive = 10 if maxactive is None else index(maxactive)
        if not 0 < maxactive <= MAXACTIVE_MAX:
            raise ValueError(f"maxactive={maxactive}: 1 to {MAXACTIVE_MAX} calls can be followed at a time")
        for name, function in (("handler", handler), ("entry_handler", entry_handler)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, not {type(function).__name__}")
        self.handler, self.entry_handler, self.maxactive = handler, entry_handler, maxactive
        self.entry: dict[str, FetchArg] = _entry_fields([entry] if isinstance(entry, str) else entry)
        self.action = action
        self._actions = chain(action, filter)
        self._point = _Entry(self, where)
        self._id = -1
        self._chain: CoreChain | None = None
        self._stats = ReturnStats()
        self._instances: dict[int, KretprobeInstance] = {}

    # The probe at the entry

    @property
    def registered(self) -> bool:
        """Is the probe in place?"""
        return self._point.registered

    @property
    def machine(self) -> Machine | None:
        """The machine where it is registered."""
        return self._point.machine

    @property
    def symbol(self) -> str | None:
        """The function's name, if it was given as one."""
        return self._point.symbol

    @property
    def place(self) -> str:
        """Where the probe is, as it was given."""
        return self._point.place

    @property
    def address(self) -> int | None:
        """The function's first instruction."""
        return self._point.address

    @property
    def number(self) -> int:
        """The column `probe` of records; see `Kprobe.number`."""
        return self._point.number

    @property
    def path(self) -> str:
        """How the function's entry comes to the probe; see `Kprobe.path`."""
        return self._point.path

    @property
    def enabled(self) -> bool:
        """Is it not disabled?"""
        return self._point.enabled

    def disable(self) -> None:
        """Follow no further calls; those that are out still return to their handlers."""
        self._point.disable()

    def enable(self) -> None:
        """Follow calls again."""
        self._point.enable()

    # Counters

    @property
    def stats(self) -> ReturnStats:
        """All counters at once."""
        if self.registered:
            self._stats = self._core.return_stats(self._id)
        return self._stats

    @property
    def hits(self) -> int:
        """Returns that were handled."""
        return self.stats.hits

    @property
    def active(self) -> int:
        """Calls that are followed and have not returned."""
        return self.stats.active

    @property
    def abandoned(self) -> int:
        """Calls that never returned, as far as that is known."""
        return self.stats.abandoned

    @property
    def nmissed(self) -> int:
        """Calls that were not followed because maxactive others were, or passed the entry unseen."""
        return self.stats.nmissed + self._point.nmissed

    @property
    def misses(self) -> dict[str, int]:
        """Calls that were not followed, by cause."""
        return {"maxactive": self.stats.nmissed, **{cause: self._point.misses[cause] for cause in MISSES}}

    # Inside

    @property
    def _core(self) -> Core:
        machine = self.machine
        if machine is None:
            raise RuntimeError(f"{self!r}: nothing is known of its calls")
        return machine._core

    def _names(self) -> Fields:
        """The entry's fields as filters of the return see them."""
        return {
            name: replace(field, register=KEPT, symbol=None, value=0, offsets=(), bit_offset=0, variable=f"${name}")
            for name, field in self.entry.items()
        }

    def _entered(self, point: Kprobe, regs: PtRegs) -> None:
        """The function is about to run, and somebody wants to know."""
        core = self._core
        if not core.return_ready(self._id):
            return
        instance = KretprobeInstance(self)
        assert self.entry_handler is not None
        if self.entry_handler(instance, regs) or not self.registered:
            return
        number = core.follow(self._id, self.number)
        if number >= 0:
            self._instances[number] = instance

    def _returned(self, number: int, regs: PtRegs) -> None:
        instance = self._instances.pop(number, None) or KretprobeInstance(self)
        if self.handler is not None:
            self.handler(instance, regs)

    def __repr__(self) -> str:
        if not self.registered:
            state = "not registered" if not self._stats.hits else f"unregistered after {self._stats.hits:,} returns"
            return f"<Kretprobe {self.place}, {state}>"
        at = f" at {self.address:#x}" if self.symbol else ""
        state = "" if self.enabled else ", disabled"
        return f"<Kretprobe {self.place}{at}, {self.hits:,} returns, {self.nmissed:,} missed{state}>"


class _Entry(Kprobe):
    """The probe at the function's first instruction."""

    def __init__(self, owner: Kretprobe, where: str | int) -> None:
        super().__init__(where, pre_handler=owner._entered if owner.entry_handler else None)
        self.owner = owner

    def set_action(self, action: Action | None) -> None:
        """What C does here."""
        self.action, self._actions = action, chain(action)

    def _retire(self) -> None:
        owner = self.owner
        owner._stats, owner._id, owner._chain = owner.stats, -1, None
        detach(owner._actions)

    def __repr__(self) -> str:
        return repr(self.owner)


class Follow(Action):
    """What runs at the entry: C takes note of the call."""

    def __init__(self, number: int) -> None:
        super().__init__(CoreAction("return", state=number))


def register_return(machine: Probing, probe: Kretprobe) -> None:
    """Implant a return probe; KprobeError or ValueError before anything changed."""
    if not isinstance(probe, Kretprobe):
        raise TypeError(f"a Kretprobe is needed, not {type(probe).__name__}")
    core, table, point = machine._core, machine._probes, probe._point
    core.handle  # noqa: B018 - a closed machine is reported before anything about the probe
    if probe.registered:
        raise KprobeError(EINVAL, f"{probe.place} is registered already: make another Kretprobe")
    table.resolve(point)
    if machine.kprobes_mode == "2.5.26":
        raise KprobeError(ENOSYS, table.why_nosys())
    if core.layout is None:
        raise KprobeError(ENOSYS, f"{probe.place}: return probes need the trampoline of the built-in kernel side")
    if point.offset and probe.symbol is not None:
        raise KprobeError(EINVAL, f"{probe.place}: return probes go to the first instruction of a function")
    used: dict[str, int] = {}

    def kept(name: str) -> int:
        if not name.startswith("$arg") and name[1:] not in probe.entry:
            raise ValueError(f"{name}: nothing is kept at the entry by that name; there are: {names_of(probe.entry)}")
        used[name] = core.kept_slot(name)
        return used[name]

    for name in probe.entry:
        kept(f"${name}")
    chained = attach(probe._actions, core, machine.symbols, kept, probe._names())
    try:
        lookup = Lookup(machine.symbols)
        probe._id = core.create_return(probe, chained, {s: _kept(name, probe, lookup) for name, s in used.items()})
        try:
            follow = None if probe.entry_handler else Follow(probe._id)
            point.set_action(follow)
            table.register(point)
        except BaseException:
            core.destroy_return(probe._id)
            raise
    except BaseException:
        detach(probe._actions)
        raise
    probe._chain = chained
    core.bind_return(probe._id, point._id)


def unregister_return(machine: Probing, probe: Kretprobe) -> None:
    """Take a return probe out."""
    if not isinstance(probe, Kretprobe):
        raise TypeError(f"a Kretprobe is needed, not {type(probe).__name__}")
    if not probe.registered or probe.machine is not machine:
        raise KprobeError(ENOENT, f"{probe.place} is not registered with this machine")
    stats = probe.stats
    machine._probes.unregister(probe._point)
    machine._core.destroy_return(probe._id)
    probe._stats, probe._id, probe._chain = stats, -1, None
    probe._instances.clear()
    detach(probe._actions)


def _kept(name: str, probe: Kretprobe, lookup: Lookup) -> list[Op]:
    """The program for what is kept by a name."""
    if name[1:] in probe.entry:
        return compile_field(probe.entry[name[1:]], lookup)
    return compile_field(as_field(name), lookup)


def _entry_fields(entry: Sequence[str | FetchArg]) -> dict[str, FetchArg]:
    fields: dict[str, FetchArg] = {}
    for text in entry:
        field = as_field(text)
        name = field.name
        if not name:
            raise ValueError(f"entry field {field} needs a name: name={field}")
        if not field.scalar or field.at_return:
            raise ValueError(f"entry field {field}: only numbers that are known at the entry can be kept")
        if name in fields or RESERVED.fullmatch(name):
            raise ValueError(f"entry fields: {name!r} is a name already")
        fields[name] = field
    return fields


def _signed(value: int, field: FetchArg) -> int:
    return value - (1 << 64) if field.signed and value >> 63 else value
