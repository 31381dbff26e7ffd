"""Snapshots: the whole state of a machine, to go back to, to copy machines from, to keep in files."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy

from .binding_snapshot import NONZERO, CoreSnapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .devices import Device
    from .image import Image
    from .machine import Machine
    from .pc import Pc
    from .probes import Place
    from .regions import Region
    from .registers import PtRegs
    from .symbols import Symbol
    from .watches import Watch

PAGE = 4096


class Setup(NamedTuple):
    """What a machine was made with; a snapshot fits machines of the same."""

    memory: int
    cpus: int
    kernel: str | None
    kprobes: str | None
    optimize: bool | str
    cpu: str
    board: Pc | None

    @property
    def core(self) -> tuple[int, int, str | None, str | None, bool | str, str, Pc | None]:
        """As `Core` takes it, RAM in pages."""
        return self.memory // PAGE, *self[1:]


@dataclass(frozen=True)
class World:
    """What Python knows of a machine at one moment."""

    setup: Setup
    regions: tuple[list[Region], int, int]
    images: tuple[Image, ...] = ()
    symbols: tuple[Symbol, ...] = ()
    imports: tuple[str, ...] = ()
    bound: dict[str, tuple[Callable[..., Any], int]] = field(default_factory=dict)
    traps: dict[int, Callable[[Machine, PtRegs], Any]] = field(default_factory=dict)
    intr: tuple[bool, Callable[[], int | None] | None] = (False, None)
    probes: tuple[Place, ...] = ()
    devices: tuple[Device, ...] = ()
    watches: tuple[Watch, ...] = ()


class Snapshot:
    """The state of a machine between two instructions: `Machine.snapshot` takes it, `Machine.restore` goes back to it.

    It holds memory, the CPUs, their schedule and whose turn it is, the kernel side, pending interrupts and the timer,
    and which probes, watches and devices there were. It has no TLB contents: taking one flushes the TLBs. Counters and
    histograms are observations, and stay as they are when a machine goes back. A file has no schedule: `save` leaves it
    to the next run. A snapshot never changes and does not need its machine: after that is closed, and in other threads,
    machines of the same setup can be put into it or made from it.
    """

    def __init__(self, world: World | None = None, core: CoreSnapshot | None = None, origin: object = None) -> None:
        self._world_or_none = world
        self._core_or_none = core
        self._origin = origin  # the machine's Core: whose probes, watches and devices those of the world are

    @property
    def taken(self) -> bool:
        """Is there a state? One that a handler asks for is taken when the handler has returned."""
        return self._core_or_none is not None

    @property
    def _core(self) -> CoreSnapshot:
        if self._core_or_none is None:
            raise RuntimeError("this snapshot is taken when the handler that asked for it has returned")
        return self._core_or_none

    @property
    def _world(self) -> World:
        self._core  # noqa: B018 - both come together
        assert self._world_or_none is not None
        return self._world_or_none

    def _fill(self, world: World, core: CoreSnapshot, origin: object) -> None:
        self._world_or_none, self._core_or_none, self._origin = world, core, origin

    # What is in it

    @property
    def icount(self) -> int:
        """Instructions that had retired, on all CPUs."""
        return sum(int(cpu["icount"]) for cpu in self._cpus)

    @property
    def eip(self) -> int:
        """Where the machine stood."""
        return int(self.cpu["eip"])

    @property
    def cpu(self) -> dict[str, Any]:
        """Registers and hidden state of the CPU that executes next, by name, as numbers and lists of numbers."""
        return deepcopy(self._cpus[self._core.board()[0]["cpu"]])

    @cached_property
    def _cpus(self) -> list[dict[str, Any]]:
        return [self._core.cpu(i) for i in range(self._world.setup.cpus)]

    @cached_property
    def frames(self) -> NDArray[numpy.uint32]:
        """Numbers of the 4 KiB frames of physical memory that have RAM or ROM and are not all zeros, ascending."""
        frames, flags = self._core.pages()
        found: NDArray[numpy.uint32] = frames[(flags & NONZERO) != 0]
        found.flags.writeable = False
        return found

    def page(self, frame: int) -> bytes:
        """The 4096 bytes of a frame of physical memory; zeros where there is none."""
        return self._core.contents(numpy.array([frame], numpy.uint32)).tobytes()

    def hash(self) -> str:
        """A digest of memory, CPU, timer and pending interrupts: equal states, equal digests."""
        core = self._core
        frames, flags = core.pages()
        board, pool = core.board()
        digest = blake2b(digest_size=16)
        digest.update(repr((self._world.setup.memory, self._cpus, board, pool)).encode() + repr(core.pc()).encode())
        digest.update(frames.astype("<u4").tobytes() + flags.tobytes())
        digest.update(core.contents(frames[(flags & NONZERO) != 0]).tobytes())
        return digest.hexdigest()

    # Machines

    def machine(self) -> Machine:
        """A new machine in this state: next to nothing is copied, pages are shared until one is written.

        Probes, watches, devices, bound functions and trap handlers come along with their Python functions; their
        actions are fresh ones, so that machines of several threads share no counter. Return probes stay behind.
        """
        from .rewind import machine_from

        return machine_from(self)

    # Files

    def save(self, file: str | PathLike[str] | BinaryIO) -> None:
        """Write a .npz file without pickle: numpy reads it, `Snapshot.load` checks it.

        Probes, watches and devices are Python's and stay out: the bytes that probes replaced are put back. ValueError
        while a probe's hit is running.
        """
        from .snapshot_file import save

        save(self, file)

    @staticmethod
    def load(file: str | PathLike[str] | BinaryIO) -> Snapshot:
        """Read what save wrote; ValueError when it is damaged, of another version or something else."""
        from .snapshot_file import load

        return load(file)

    def core(self, file: str | PathLike[str] | BinaryIO) -> None:
        """Write an ELF core file for gdb: registers, and memory at its linear addresses."""
        from .corefile import write_core

        write_core(self, file)

    def __repr__(self) -> str:
        if not self.taken:
            return "<Snapshot, taken when the handler has returned>"
        size = f"{self._world.setup.memory >> 10:,} KiB"
        return f"<Snapshot of {size} at {self.eip:#x}, after {self.icount:,} instructions>"
