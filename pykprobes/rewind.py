"""Taking snapshots of a machine, and going back to them with all that Python knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from . import watches
from .actions import Action, fresh
from .binding_snapshot import CoreSnapshot
from .probes import Kprobe, Place
from .snapshot import Setup, Snapshot, World

if TYPE_CHECKING:
    from .binding import Core
    from .image import Image
    from .machine import Machine
    from .symbols import SymbolTable


class Rewindable:
    """The part of `Machine` that goes back in time."""

    _core: Core
    images: list[Image]
    symbols: SymbolTable

    def snapshot(self) -> Snapshot:
        """The machine's state, to come back to with restore. It costs what was written since the last snapshot.

        In a handler it is taken when the handler has returned and its trap is done: at the probed instruction, its
        hit being over; behind the instruction that a watch, a device or a trap handler belongs to. RuntimeError while
        a return probe follows a call.

        >>> from pykprobes import Machine
        >>> with Machine() as m:
        ...     image = m.load(b"\\x40\\xeb\\xfd", at=0x10000)          # inc eax; jmp
        ...     m.regs.eip = 0x10000
        ...     start = m.snapshot()
        ...     stop = m.run(max_instructions=100)
        ...     m.restore(start)
        ...     m.icount, m.regs.eax, m.hash() == start.hash()
        (0, 0, True)
        """
        machine = cast("Machine", self)
        self._core.handle  # noqa: B018 - a closed machine is reported first
        if not self._core.in_handler:
            return _take(machine)
        self._defer(made := Snapshot(), None)
        return made

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this machine, or of another one of the same setup, in any order.

        Probes, watches and devices that were added since are taken away, those that were there and are not come back.
        A snapshot of another machine or from a file brings none: this machine then keeps the probes it has where the
        snapshot has some, too, and its watches and devices. ValueError, with nothing changed, for another setup, and
        when a probe, watch or device that would come back is in use by another machine.

        In a handler it is done when the handler has returned and its trap is done; the run then goes on from there.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"restore needs a Snapshot, not {type(snapshot).__name__}")
        machine = cast("Machine", self)
        self._core.handle  # noqa: B018 - a closed machine is reported first
        if self._core.in_handler:
            self._defer(None, snapshot)
        else:
            _restore(machine, snapshot)

    def clone(self) -> Machine:
        """A second machine in the state of this one, which shares its memory until one of them writes.

        Handlers, bound functions and devices come along, see `Snapshot.machine`. Not in handlers.
        """
        self._core.handle  # noqa: B018 - a closed machine is reported first
        if self._core.in_handler:
            raise RuntimeError("clone in a handler: take a snapshot there, and its machine() when the run has ended")
        return self.snapshot().machine()

    def hash(self) -> str:
        """The digest of the machine's state, see `Snapshot.hash`. Not in handlers."""
        if self._core.in_handler:
            raise RuntimeError("hash in a handler: take a snapshot there, and its hash() when the run has ended")
        return self.snapshot().hash()

    def _defer(self, made: Snapshot | None, wanted: Snapshot | None) -> None:
        machine = cast("Machine", self)
        if self._core.nested:
            raise RuntimeError("snapshot and restore are not for handlers inside m.call inside handlers")
        if made is not None:
            self._core.defer(lambda: made._fill(_world(machine), CoreSnapshot.take(self._core), self._core))
        if wanted is not None:
            _check(machine, wanted)
            self._core.defer(lambda: _restore(machine, wanted))

    def _do_deferred(self) -> bool:
        """What handlers asked for. Only outside of C."""
        actions = self._core.take_deferred()
        for action in actions:
            action()
        return bool(actions)


def _setup(machine: Machine) -> Setup:
    m = machine
    return Setup(m.memory_size, m._core.cpu_count, m.kernel, m.kprobes_mode, m.optimize, m.cpu_model, m.pc)


def _world(machine: Machine) -> World:
    core = machine._core
    followed = [probe for probe in machine.kretprobes if probe.active]
    if followed:
        raise RuntimeError(f"{followed[0]!r} follows calls: a snapshot cannot be taken before they have returned")
    return World(
        _setup(machine),
        machine.regions.capture(),
        tuple(machine.images),
        machine.symbols.capture(),
        machine.imports.names(),
        machine.imports.functions(),
        dict(machine._trap_handlers),
        (core.intr_level, core.controller),
        machine._probes.capture(),
        tuple(core.devices.values()),
        tuple(core.watches.values()),
    )


def _take(machine: Machine) -> Snapshot:
    return Snapshot(_world(machine), CoreSnapshot.take(machine._core), machine._core)


# Restoring


def _own(machine: Machine, snapshot: Snapshot) -> bool:
    return snapshot._origin is machine._core


def _kept_probes(machine: Machine, snapshot: Snapshot) -> list[Kprobe]:
    """Probes of this machine that the snapshot has as well, with the same byte below."""
    opcodes = snapshot._core.probes()
    then = {(probe, address) for probe, address, _ in snapshot._world.probes} if _own(machine, snapshot) else None
    return [
        probe
        for probe, address, _ in machine._probes.capture()
        if (then is None or (probe, address) in then) and opcodes.get(address) == machine._core.saved_opcode(probe._id)
    ]


def _same_probes(machine: Machine, snapshot: Snapshot) -> bool:
    """Has the machine exactly the snapshot's probes?"""
    now = machine._probes.capture()
    then = snapshot._world.probes if _own(machine, snapshot) else now
    return (
        len(_kept_probes(machine, snapshot)) == len(now)
        and set(now) == set(then)
        and ({address for _, address, _ in now} == set(snapshot._core.probes()))
    )


def _check(machine: Machine, snapshot: Snapshot) -> None:
    """ValueError unless restore can work."""
    setup = _setup(machine)
    other = snapshot._world.setup
    if other != setup:
        raise ValueError(f"a snapshot of a machine with {_text(other)} does not fit one with {_text(setup)}")
    if _own(machine, snapshot):
        for probe, _, _ in snapshot._world.probes:
            if probe.registered and probe.machine is not machine:
                raise ValueError(f"{probe!r} was in the snapshot and is registered with another machine now")
        if _returns(machine._probes.capture()) != _returns(snapshot._world.probes):
            raise ValueError("the snapshot has other return probes: register and unregister them as they were then")
        for device in snapshot._world.devices:
            if device._number is not None and device._core is not machine._core:
                raise ValueError(f"{device!r} was in the snapshot and belongs to another machine now")
        return
    here = {probe.address for probe in _kept_probes(machine, snapshot)}
    lost = [address for address in snapshot._core.hits() if address not in here]
    if lost:
        raise ValueError(f"the snapshot was taken within the hit of a probe at {lost[0]:#x}, which this machine lacks")


def _returns(places: tuple[Place, ...]) -> set[Place]:
    """Those that are entries of return probes, which come back with their functions only."""
    return {place for place in places if type(place[0]) is not Kprobe}


def _text(setup: Setup) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in setup._asdict().items())


def _restore(machine: Machine, snapshot: Snapshot) -> None:
    _check(machine, snapshot)
    world, core = snapshot._world, snapshot._core
    same = _same_probes(machine, snapshot)
    core.restore(machine._core, hits=same)
    machine.regions.rewind(world.regions)
    machine.images[:] = world.images
    machine.symbols.rewind(world.symbols)
    machine.imports.adopt(world.imports)
    machine._core.intr_level = world.intr[0]
    if not same:
        _rewind_probes(machine, snapshot)
    if _rewind_board(machine, snapshot) or not same:
        # Whatever that wrote to memory and flags is undone; running hits find their probes.
        core.restore(machine._core)
        core.withdraw_probes(machine._core)


def _rewind_probes(machine: Machine, snapshot: Snapshot) -> None:
    kept = _kept_probes(machine, snapshot)
    for probe in machine._probes.all():
        if probe not in kept:
            machine._probes.unregister(probe)
    if not _own(machine, snapshot):
        return
    _implant(machine, snapshot, [place for place in snapshot._world.probes if place[0] not in kept])
    for probe, _, enabled in snapshot._world.probes:
        if probe._enabled != enabled:
            (probe.enable if enabled else probe.disable)()


def _implant(machine: Machine, snapshot: Snapshot, places: list[Place]) -> None:
    """Register probes over the bytes that they had in the snapshot."""
    opcodes = snapshot._core.probes()
    for probe, address, _ in places:
        if not machine._probes.between(address, address + 1):
            machine._core.poke(address, bytes([opcodes[address]]))
        machine._probes.implant(probe, address)


def _rewind_board(machine: Machine, snapshot: Snapshot) -> bool:
    """Watches and devices, if they are this machine's."""
    core, world = machine._core, snapshot._world
    if not _own(machine, snapshot):
        return False
    now: list[Any] = [*core.watches.values(), *core.devices.values()]
    then: list[Any] = [*world.watches, *world.devices]
    if now == then:
        return False
    for watch in [w for w in core.watches.values() if w not in world.watches]:
        watches.unwatch(machine, watch)
    for device in [d for d in core.devices.values() if d not in world.devices]:
        device.remove()
    for watch in world.watches:
        if watch._machine is None:
            watches.watch(machine, watch)
    for device in world.devices:
        if device._number is None:
            device._number = core.claim(device._kind, device.range, device)
    return True


# Cloning


def machine_from(snapshot: Snapshot) -> Machine:
    """A machine in the state of a snapshot."""
    from .machine import Machine

    world = snapshot._world
    machine = Machine.__new__(Machine)
    machine._set_up(world.setup, snapshot._core)
    try:
        machine.regions.rewind(world.regions)
        machine.images[:] = world.images
        machine.symbols.rewind(world.symbols)
        _inherit(machine, world)
        _copy_probes(machine, snapshot)
        if not snapshot._core.restore(machine._core):
            raise ValueError("the snapshot was taken within the hit of a probe that is no more")
        snapshot._core.withdraw_probes(machine._core)
        machine.regions.rewind(world.regions)
    except BaseException:
        machine.close()
        raise
    return machine


def _inherit(machine: Machine, world: World) -> None:
    """Who serves imports, traps, interrupts and devices."""
    for name, (function, count) in world.bound.items():
        machine.imports.bind(name, function, count)
    machine.imports.adopt(world.imports)
    for vector, handler in world.traps.items():
        machine.on_trap(vector, handler)
    if world.intr != (False, None):
        machine._core.set_intr(*world.intr)
    for device in world.devices:
        device.copy(machine._core)


def _copy_probes(machine: Machine, snapshot: Snapshot) -> None:
    """Probes and watches with the handlers of those in a snapshot, and actions of their own."""
    copies: dict[Action, Action] = {}
    places: list[Place] = []
    for watch in snapshot._world.watches:
        what = watch.handler or [fresh(action, copies) for action in watch._actions]
        machine.watch(watch.address, watch.length, watch.kind, what)
    for probe, address, enabled in snapshot._world.probes:
        if type(probe) is Kprobe:
            actions = [fresh(action, copies) for action in probe._actions]
            handlers = probe.pre_handler, probe.post_handler, probe.fault_handler
            copy = Kprobe(probe.symbol or address, probe.offset if probe.symbol else 0, *handlers, actions)
            places.append((copy, address, enabled))
    _implant(machine, snapshot, places)
    for copy, _, enabled in places:
        if not enabled:
            copy.disable()
