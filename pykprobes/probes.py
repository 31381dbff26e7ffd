"""Kernel probes: the object that a user holds, and the table of those that a machine has."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from .actions import Action, attach, chain, detach
from .disasm import boundaries
from .errors import KprobeError
from .probespec import parse_place
from .records import MISSES, Stats
from .symbols import UnknownSymbol

if TYPE_CHECKING:
    from .binding_actions import CoreChain
    from .machine import Machine
    from .registers import PtRegs

PreHandler = Callable[["Kprobe", "PtRegs"], Any]
PostHandler = Callable[["Kprobe", "PtRegs", int], Any]
FaultHandler = Callable[["Kprobe", "PtRegs", int], Any]
Place = tuple["Kprobe", int, bool]  # a probe, its address, whether it is enabled
BREAKPOINT = 0xCC
SYMBOL_MAX = 1 << 20
PATHS = ("trap", "boosted", "optimized")  # by enum kprobe_path


class Kprobe:
    """A probe at an instruction: a symbol, ``symbol+offset`` or an address.

    ``pre_handler(p, regs)`` runs before the instruction, ``post_handler(p, regs, flags)`` after it and
    ``fault_handler(p, regs, trapnr)``, at a fault meanwhile, returns whether it dealt with it. ``action`` is one
    action or a list of them; they run before the pre_handler, for hits that pass the ``filter``. Counters stay
    readable after unregistering.

    >>> Kprobe("crc32+4", action=None)
    <Kprobe crc32+0x4, not registered>
    """

    def __init__(
        self,
        where: str | int,
        offset: int = 0,
        pre_handler: PreHandler | None = None,
        post_handler: PostHandler | None = None,
        fault_handler: FaultHandler | None = None,
        action: Action | Sequence[Action] | None = None,
        filter: str | None = None,
    ) -> None:
        self.symbol: str | None = None
        offset = index(offset)
        if isinstance(where, str):
            place, added = parse_place(where)
            offset += added
            self.symbol = place if isinstance(place, str) else None
            self._base = 0 if isinstance(place, str) else place
        else:
            self._base = index(where)
        if not 0 <= self._base + offset < 1 << 32 and self.symbol is None:
            raise ValueError(f"{self._base + offset:#x} is no address in 4 GiB")
        for name, handler in (("pre", pre_handler), ("post", post_handler), ("fault", fault_handler)):
            if handler is not None and not callable(handler):
                raise TypeError(f"{name}_handler must be a function, not {type(handler).__name__}")
        self.offset = offset
        self.pre_handler = pre_handler
        self.post_handler = post_handler
        self.fault_handler = fault_handler
        self._actions = chain(action, filter)
        self.action = action
        self.address: int | None = None if self.symbol else self._base + offset
        self.machine: Machine | None = None
        self._id = -1
        self._chain: CoreChain | None = None
        self._enabled = True
        self._stats = Stats()

    @property
    def registered(self) -> bool:
        """Is the probe in place?"""
        return self._id >= 0

    @property
    def enabled(self) -> bool:
        """Is it not disabled?"""
        return self._enabled

    def disable(self) -> None:
        """Keep a registered probe in its place, without hits; they are no misses. RuntimeError if not registered."""
        self._enable(False)

    def enable(self) -> None:
        """Let a disabled probe hit again."""
        self._enable(True)

    def _enable(self, on: bool) -> None:
        if self.machine is None:
            raise RuntimeError(f"{self!r}: only a registered probe can be enabled and disabled")
        self.machine._probes.enable(self, on)
        self._enabled = on

    @property
    def path(self) -> str:
        """How a hit goes: "optimized", as a part of decoded code; "boosted", through the breakpoint's trap; "trap",
        through that and the single step's; "none" while there are no hits. Where something could tell the difference,
        a hit takes a slower path than the probe's."""
        if self.machine is None or not self.registered or not self._enabled:
            return "none"
        return PATHS[self.machine._core.path(self._id)]

    @property
    def waiting(self) -> bool:
        """On a PC's board: is no memory mapped at its address? The probe is put there when code of its page runs."""
        return self.machine is not None and self.address is not None and not self.machine._core.peek(self.address, 1)

    @property
    def stats(self) -> Stats:
        """All counters at once."""
        if self.machine is not None and self._id >= 0:
            self._stats = self.machine._core.stats(self._id)
        return self._stats

    @property
    def hits(self) -> int:
        """How often the probe was hit and handled."""
        return self.stats.hits

    @property
    def number(self) -> int:
        """The column `probe` of records: no other probe of the machine ever has it. -1 before it is registered."""
        return self.stats.number

    @property
    def nmissed(self) -> int:
        """How often it was passed without its handlers running."""
        return self.stats.nmissed

    @property
    def misses(self) -> dict[str, int]:
        """Misses by cause. A fault restart is a further hit for the same execution and not part of nmissed."""
        return dict(zip(MISSES, self.stats.misses, strict=True))

    def _retire(self) -> None:
        """The machine goes away."""

    @property
    def place(self) -> str:
        """Where the probe is, as it was given."""
        if self.symbol is None:
            return f"{self._base + self.offset:#x}"
        return f"{self.symbol}{f'{self.offset:+#x}' if self.offset else ''}"

    def __repr__(self) -> str:
        if not self.registered:
            state = "not registered" if not self._stats.hits else f"unregistered after {self._stats.hits:,} hits"
            return f"<Kprobe {self.place}, {state}>"
        at = f" at {self.address:#x}" if self.symbol else ""
        state = ", waits for its memory" if self.waiting else "" if self._enabled else ", disabled"
        return f"<Kprobe {self.place}{at}, {self.hits:,} hits, {self.nmissed:,} missed{state}>"


class ProbeTable:
    """The probes of one machine."""

    def __init__(self, machine: Machine, check: bool) -> None:
        self._machine = machine
        self._check = check
        self._hidden = machine.pc is not None and machine.kprobes_mode == "fixed"
        self._at: dict[int, dict[int, Kprobe]] = {}  # by address and id
        self._count = 0
        self._decoded: dict[tuple[int, int], tuple[bytearray, set[int] | None]] = {}

    def __len__(self) -> int:
        return self._count

    def all(self) -> list[Kprobe]:
        return [probe for here in self._at.values() for probe in here.values()]

    def capture(self) -> tuple[Place, ...]:
        """The probes with their addresses, and whether they are enabled."""
        return tuple((probe, a, probe._enabled) for a, here in self._at.items() for probe in here.values())

    def between(self, start: int, end: int) -> list[Kprobe]:
        """Probes with an address in [start, end)."""
        if end - start < len(self._at):
            found = (self._at[a] for a in range(start, end) if a in self._at)
        else:
            found = (here for address, here in self._at.items() if start <= address < end)
        return [probe for here in found for probe in here.values()]

    def resolve(self, probe: Kprobe) -> int:
        """The address of a probe; KprobeError ENOENT or EINVAL when it has none, ENOSYS when kprobes are off."""
        if self._machine.kprobes_mode is None:
            raise KprobeError(errno.ENOSYS, self._why(errno.ENOSYS, probe, 0))
        base = probe._base
        if probe.symbol is not None:
            try:
                base = self._machine.symbols[probe.symbol]
            except UnknownSymbol as error:
                raise KprobeError(errno.ENOENT, str(error)) from None
        address = base + probe.offset
        if not 0 <= address < 1 << 32:
            raise KprobeError(errno.EINVAL, f"{probe.place} is {address:#x}, which is no address in 4 GiB")
        return address

    def register(self, probe: Kprobe) -> None:
        if not isinstance(probe, Kprobe):
            raise TypeError(f"a Kprobe is needed, not {type(probe).__name__}")
        machine = self._machine
        core = machine._core
        core.handle  # noqa: B018 - a closed machine is reported before anything about the probe
        if probe.registered:
            raise KprobeError(errno.EINVAL, f"{probe.place} is registered already: make another Kprobe")
        address = self.resolve(probe)
        if self._check and address not in self._at:
            self._check_boundary(probe, address)
        self.implant(probe, address)

    def implant(self, probe: Kprobe, address: int) -> None:
        """Register a probe at an address, wherever that is."""
        machine, core = self._machine, self._machine._core
        chained = attach(probe._actions, core, machine.symbols)
        number = core.register(address, probe, chained)
        if number < 0:
            detach(probe._actions)
            raise KprobeError(-number, self._why(-number, probe, address))
        probe.address, probe.machine, probe._id, probe._chain = address, machine, number, chained
        self._at.setdefault(address, {})[number] = probe
        self._count += 1
        self._armed(address, BREAKPOINT)

    def unregister(self, probe: Kprobe) -> None:
        if not isinstance(probe, Kprobe):
            raise TypeError(f"a Kprobe is needed, not {type(probe).__name__}")
        if not probe.registered or probe.machine is not self._machine:
            raise KprobeError(errno.ENOENT, f"{probe.place} is not registered with this machine")
        assert probe.address is not None
        stats, opcode = probe.stats, self._machine._core.saved_opcode(probe._id)
        error = self._machine._core.unregister(probe._id)
        if error:
            raise KprobeError(-error, self._why(-error, probe, probe.address))
        here = self._at[probe.address]
        del here[probe._id]
        self._count -= 1
        if not here:
            del self._at[probe.address]
            self._armed(probe.address, opcode)
        self._release(probe, stats)

    def enable(self, probe: Kprobe, on: bool) -> None:
        """Let a registered probe hit, or not."""
        error = self._machine._core.enable(probe._id, on)
        if error:
            assert probe.address is not None
            raise KprobeError(-error, self._why(-error, probe, probe.address))
        assert probe.address is not None
        if not self._hidden:
            self._armed(probe.address, self._machine._core.peek(probe.address, 1)[0])

    def release_all(self) -> None:
        """Keep the counters of all probes: the machine goes away."""
        for probe in self.all():
            probe._retire()
            self._release(probe, probe.stats)
        self._at.clear()
        self._count = 0

    def original(self, start: int, data: bytes) -> bytes:
        """Bytes read from memory at `start`, with what probes replaced put back."""
        if self._hidden:
            return data
        restored = bytearray(data)
        for probe in self.between(start, start + len(data)):
            assert probe.address is not None
            restored[probe.address - start] = self._machine._core.saved_opcode(probe._id)
        return bytes(restored)

    @staticmethod
    def _release(probe: Kprobe, stats: Stats) -> None:
        probe._stats, probe._id, probe.machine, probe._chain, probe._enabled = stats, -1, None, None, True
        detach(probe._actions)

    def _why(self, code: int, probe: Kprobe, address: int) -> str:
        here = next(iter(self._at.get(address, {}).values()), None)
        where = f"{probe.place} ({address:#x})" if probe.symbol else probe.place
        return {
            errno.EEXIST: f"{where} has a probe already: {here!r}",
            errno.EINVAL: f"{where} cannot be probed: {self._why_not(address)}",
            errno.ENOSYS: self.why_nosys(),
            errno.ENOMEM: f"the host has no memory for a probe at {where}",
            errno.EDEADLK: f"{where}: a handler holds the lock of the 2.5.26 kprobes, this would wait for it forever",
            errno.EBUSY: f"{where}: another CPU holds the lock of the 2.5.26 kprobes: run on until it is free",
            errno.ENOENT: f"{where} is not registered",
        }.get(code, f"{where} cannot be probed: {errno.errorcode.get(code, code)}")

    def why_nosys(self) -> str:
        """What ENOSYS means here."""
        if self._machine.kprobes_mode is None:
            return "kprobes are off in this machine: make it with kprobes='fixed' or '2.5.26'"
        return "the 2.5.26 kprobes have no return probes, no enable and no disable: kprobes='fixed' has"

    def _why_not(self, address: int) -> str:
        byte = self._machine._core.peek(address, 1)
        if not byte:
            return "no memory is mapped there"
        if byte[0] == BREAKPOINT:
            return "the program has a breakpoint of its own there"
        return "it belongs to the built-in kernel side"

    def _check_boundary(self, probe: Kprobe, address: int) -> None:
        """EILSEQ when the symbol over an address, decoded from its start, has no instruction there."""
        covering = self._machine.symbols.covering(address)
        if covering is None or not covering[0].is_code or covering[2] - covering[1] > SYMBOL_MAX:
            return
        symbol, start, end = covering
        starts = self._boundaries(start, end)
        if starts is None or address in starts:
            return
        before = max((a for a in starts if a < address), default=start)
        following = min((a for a in starts if a > address), default=end)
        raise KprobeError(
            errno.EILSEQ,
            f"{probe.place} ({address:#x}) is inside an instruction: one begins at {symbol.name}+{before - start:#x} "
            f"and the next at {symbol.name}+{following - start:#x}",
        )

    def _boundaries(self, start: int, end: int) -> set[int] | None:
        now = self._machine._core.peek(start, end - start)
        known = self._decoded.get((start, end))
        if known is None or known[0] != now:
            known = (bytearray(now), boundaries(self.original(start, now), start) if len(now) == end - start else None)
            self._decoded[start, end] = known
        return known[1]

    def _armed(self, address: int, byte: int) -> None:
        """Keep what is known of a function's bytes true when a probe changes one."""
        if self._hidden:
            return
        covering = self._machine.symbols.covering(address)
        if covering:
            known = self._decoded.get((covering[1], covering[2]))
            if known and address - covering[1] < len(known[0]):
                known[0][address - covering[1]] = byte
