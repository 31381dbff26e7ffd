"""The compiled module is touched here and in binding_*: a `Core` per machine, and the way back from C to Python.

C calls Python through one function with the machine's tag, what happened and a number. Handlers stand in lists
by that number, so a hit costs a call, two look-ups and the handler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBUSY
from itertools import count
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

from ._core import ffi, lib
from .binding_cpu import Registers, ScheduleCore
from .binding_probes import ProbeCore
from .binding_returns import ReturnCore
from .dispatch import RAISED
from .errors import KprobeError
from .records import Layout
from .registers import PtRegs

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from ._core import Frame, Machine, MachineConfig, StopInfo
    from .binding_actions import CoreChain
    from .binding_snapshot import CoreSnapshot
    from .devices import Device
    from .pc import Pc
    from .watches import Watch

    Bins = NDArray[numpy.uint64]

RUN_SLICE = 1_000_000
KPROBES = {None: lib.KPROBES_OFF, "2.5.26": lib.KPROBES_2_5_26, "fixed": lib.KPROBES_FIXED}
KERNELS = {None: lib.KERNEL_NONE, "builtin": lib.KERNEL_BUILTIN}
OPTIMIZE = {False: lib.PATH_TRAP, "boost": lib.PATH_BOOSTED, True: lib.PATH_OPTIMIZED}
CPUS = {
    "386": lib.CPU_386, "486": lib.CPU_486, "pentium": lib.CPU_PENTIUM, "ppro": lib.CPU_PPRO, "p3": lib.CPU_P3,
    "p4": lib.CPU_P4,
}  # fmt: skip
RIGHT_WRITE, RIGHT_USER = lib.MAP_WRITE, lib.MAP_USER
NONE, UNTIL = lib.STOP_NONE, lib.STOP_UNTIL
PRE, POST, FAULT, TRAP, IMPORT, DEVICE, INTR, WATCH, RETURN = (
    lib.CALLBACK_PRE, lib.CALLBACK_POST, lib.CALLBACK_FAULT, lib.CALLBACK_TRAP, lib.CALLBACK_IMPORT,
    lib.CALLBACK_DEVICE, lib.CALLBACK_INTR, lib.CALLBACK_WATCH, lib.CALLBACK_RETURN,
)  # fmt: skip
KIND_NAMES = {
    PRE: "pre", POST: "post", FAULT: "fault", TRAP: "trap", IMPORT: "import", DEVICE: "device", INTR: "intr",
    WATCH: "watch", RETURN: "return",
}  # fmt: skip
SCRATCH = 4096
CPUS_MAX = lib.CPUS_MAX

_running: dict[int, Core] = {}
_pre_of: dict[int, list[tuple[Callable[..., Any], Any, PtRegs]]] = {}  # of those, what a pre_handler's hit needs
_tags = count(1)


@ffi.def_extern(name="pykprobes_callback", error=RAISED)
def _callback(tag: int, kind: int, index: int, arg: int) -> int:
    core = _running[tag]
    try:
        return core.serve[kind](index, arg)
    except BaseException as exception:
        core.keep(exception, KIND_NAMES[kind], index)
        return RAISED


def _pre_raised(kind: object, exception: BaseException, traceback: Any) -> None:
    found = traceback.tb_frame.f_locals
    core = _running[found["tag"]]
    core.keep(exception, KIND_NAMES[PRE], found["index"])
    lib.machine_ask_stop(core._m)


@ffi.def_extern(name="pykprobes_pre", onerror=_pre_raised)
def _pre(tag: int, index: int) -> None:
    handler, probe, regs = _pre_of[tag][index]
    handler(probe, regs)


class Core(Registers, ProbeCore, ReturnCore):
    """One C machine and the Python side of its callbacks."""

    def __init__(
        self,
        pages: int,
        cpus: int,
        kernel: str | None,
        kprobes: str | None,
        optimize: bool | str,
        cpu: str,
        pc: Pc | None = None,
        state: CoreSnapshot | None = None,
    ) -> None:
        self.tag = next(_tags) & 0xFFFFFFFF
        config = self.config(pages, cpus, kernel, kprobes, optimize, cpu, pc, self.tag)
        self.cpu_count = cpus
        machine = lib.machine_create(config) if state is None else lib.machine_clone(state.c, config)
        if machine == ffi.NULL:
            raise MemoryError(f"the host has no memory for a machine with {pages * 4096:#x} bytes of RAM")
        self._m: Machine = ffi.gc(machine, lib.machine_destroy)
        self._closed = False
        self._thread: int | None = None
        self._lock = Lock()
        self._depth = 0
        self._until: int | None = None
        self._scratch = ffi.new("uint8_t[]", SCRATCH)
        self._scratch_bytes = ffi.buffer(self._scratch)
        self._word = ffi.new("uint32_t *")
        self._device_numbers = count()
        super().__init__(PtRegs(self), lib.machine_access(machine))
        self.serve: dict[int, Callable[[int, int], int]] = {
            POST: self.serve_post, FAULT: self.serve_fault, TRAP: self.serve_trap, IMPORT: self._import,
            DEVICE: self.serve_device, INTR: self.serve_intr,
            WATCH: self.serve_watch, RETURN: self.serve_return,
        }  # fmt: skip
        self.layout = self._layout()
        self.schedule = ScheduleCore(self)

    @staticmethod
    def config(
        pages: int,
        cpus: int,
        kernel: str | None,
        kprobes: str | None,
        optimize: bool | str,
        cpu: str,
        pc: Pc | None,
        tag: int = 0,
    ) -> MachineConfig:
        """What C makes a machine from."""
        values = {
            "memory_pages": pages,
            "cpus": cpus,
            "kernel": KERNELS[kernel],
            "kprobes": KPROBES[kprobes],
            "optimize": OPTIMIZE[optimize],
            "cpu": CPUS[cpu],
            "board_hz": pc.clock if pc else 0,
            "board_seconds": pc.seconds if pc else 0,
            "tag": tag,
            "callback": lib.pykprobes_callback,
            "pre": lib.pykprobes_pre,
        }
        config: MachineConfig = ffi.new("struct machine_config *", values)
        return config

    # Life

    @property
    def handle(self) -> Machine:
        """The C machine, after a check that this thread may use it now."""
        if self._closed:
            raise RuntimeError("the machine is closed")
        if self._thread is not None and self._thread != get_ident():
            raise RuntimeError("the machine is running in another thread")
        return self._m

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def in_handler(self) -> bool:
        """Is a run in progress, so that the caller is one of its handlers?"""
        return self._depth > 0

    def close(self) -> None:
        if self._closed:
            return
        if self._depth or self._thread is not None:
            raise RuntimeError("the machine is running: stop it first, then close it")
        self._closed = True
        ffi.release(self._m)

    def _layout(self) -> Layout | None:
        layout = lib.machine_kernel_layout(self._m)
        if layout == ffi.NULL:
            return None
        return Layout(*(getattr(layout, name) for name in Layout._fields))

    # Running

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the slices of a run: the machine is this thread's, and C's calls find their way here."""
        with self._lock:
            self.handle  # noqa: B018 - raises when it is not
            self._thread = get_ident()
        _running[self.tag] = self
        _pre_of[self.tag] = self.pre
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                del _running[self.tag], _pre_of[self.tag]
                self._thread = self.exception = None
                self.take_stop()
                self.regs._forget()

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Whether no other thread is running the machine, and keep others from starting meanwhile."""
        with self._lock:
            yield self._thread is None or self._thread == get_ident()

    def run(self, slice: int) -> int:
        """Run up to `slice` instructions; the reason is a number of enum stop_reason."""
        reason = lib.machine_run(self._m, slice)
        if reason == lib.STOP_MEMORY:
            raise MemoryError("the host is out of memory for the guest's pages or decoded code")
        if reason == lib.STOP_PYTHON:
            exception, self.exception = self.exception, None
            if exception is not None:
                raise exception
        return reason

    def request_stop(self) -> None:
        """Stop the run when the handler, or the progress function, that is running returns."""
        self.stopping = True
        lib.machine_ask_stop(self._m)

    def take_stop(self) -> bool:
        """Did a handler ask to stop? It is told once."""
        lib.machine_take_stop(self._m)
        stopping, self.stopping = self.stopping, False
        return stopping

    def forget_stop(self) -> None:
        lib.machine_take_stop(self._m)

    def defer(self, action: Callable[[], None]) -> None:
        """Do something when the handler that is running has returned and its trap is done; the run goes on then."""
        self.deferred.append(action)
        lib.machine_ask_stop(self._m)

    @property
    def nested(self) -> bool:
        """Is the run that calls a handler one inside a handler of another?"""
        return self._depth > 1

    def stop_info(self) -> StopInfo:
        return lib.machine_stop_info(self.handle)

    def set_until(self, eip: int | None) -> None:
        lib.machine_set_until(self.handle, eip is not None, eip or 0)
        self._until = eip

    def nest(self) -> tuple[int | None, bool]:
        """Keep the CPU's state for a run inside what is going on; what it returns goes to unnest."""
        if lib.machine_nest_begin(self.handle):
            raise RecursionError("calls inside handlers inside calls are nested too deeply")
        kept = self._until, self.stopping
        self.stopping = False
        self.regs._forget()
        self.set_until(None)
        return kept

    def unnest(self, kept: tuple[int | None, bool]) -> None:
        lib.machine_nest_end(self._m)
        self.set_until(kept[0])
        self.stopping = kept[1]
        self.regs._forget()

    @property
    def current(self) -> int:
        """The CPU that executes, or ended the last run."""
        return lib.machine_current(self.handle)

    @property
    def icount(self) -> int:
        return lib.machine_icount(self.handle)

    # Devices

    def claim(self, kind: int, where: range, device: Device) -> int:
        """Put a device in place; its number."""
        number = next(self._device_numbers)
        error = lib.machine_claim(self.handle, kind, where.start, where.stop - 1, number)
        if error == -1:
            raise ValueError(f"{device!r} would lie in memory of the built-in kernel side")
        if error:
            raise MemoryError(f"no memory is left for {device!r}")
        self.devices[number] = device
        return number

    def release(self, kind: int, number: int) -> None:
        lib.machine_release(self.handle, kind, number)
        del self.devices[number]

    def watch(self, address: int, length: int, kinds: int, watch: Watch, chain: CoreChain | None) -> int:
        """Put a watch in place; its number."""
        number = next(self._device_numbers)
        wanted, actions = watch.handler is not None, ffi.NULL if chain is None else chain.c
        if lib.machine_watch(self.handle, address, address + length - 1, kinds, number, wanted, actions):
            raise MemoryError(f"no memory is left for {watch!r}")
        self.watches[number] = watch
        return number

    def unwatch(self, number: int) -> None:
        lib.machine_unwatch(self.handle, number)
        del self.watches[number]

    def watch_hits(self, number: int) -> int:
        return lib.machine_watch_hits(self._m, number)

    def watch_event(self) -> tuple[int, int, int, int, int]:
        """Kind, address, size, value and eip of what the running handler is told."""
        event = lib.machine_watch_event(self._m)
        return event.kind, event.address, event.size, event.value, event.eip

    # Registers and memory

    def frame(self) -> Frame | None:
        """The frame of the handler that is running, None where there is none."""
        frame = lib.machine_frame(self._m) if self._depth else ffi.NULL
        return None if frame == ffi.NULL else frame

    def peek(self, address: int, size: int) -> bytes:
        """The bytes from address up to the first unmapped page."""
        if size <= SCRATCH:
            done = lib.machine_peek(self.handle, address, self._scratch, size)
            return bytes(self._scratch_bytes[:done])
        data = bytearray(size)
        done = lib.machine_peek(self.handle, address, ffi.from_buffer("uint8_t[]", data, require_writable=True), size)
        return bytes(memoryview(data)[:done])

    def peek32(self, address: int) -> int | None:
        """The word at an address, None where memory ends."""
        if self._closed:
            raise RuntimeError("the machine is closed")
        found = self._word
        return found[0] if lib.machine_peek(self._m, address, found, 4) == 4 else None

    def poke(self, address: int, data: bytes | bytearray | memoryview) -> int:
        """Store bytes up to the first unmapped page; how many were stored."""
        if not len(data):
            return 0
        return lib.machine_poke(self.handle, address, ffi.from_buffer("uint8_t[]", data), len(data))

    def is_mapped(self, address: int) -> bool:
        return lib.machine_mapping(self.handle, address) != 0

    def map(self, address: int, size: int, rights: int) -> int:
        return lib.machine_map(self.handle, address, size, rights)

    def unmap(self, address: int, size: int) -> int:
        return lib.machine_unmap(self.handle, address, size)

    def load_rom(self, data: bytes) -> int:
        return lib.machine_load_rom(self.handle, data, len(data))

    # What C calls

    def claim_trap(self, vector: int, serve: Callable[[PtRegs], Any] | None) -> None:
        lib.machine_claim_trap(self.handle, vector, serve is not None)
        if serve is None:
            self.traps.pop(vector, None)
        else:
            self.traps[vector] = serve

    def _import(self, index: int, arg: int) -> int:
        try:
            lib.machine_set_reg(self._m, 0, self.imports[index]())
        except KprobeError as error:
            if error.errno != EBUSY:
                raise
            return lib.CALLBACK_SPIN
        return 1


def probe_bucket(address: int) -> int:
    """The bucket of an address in the patch's table of 64.

    >>> probe_bucket(0xC0100000), probe_bucket(0x08048000)
    (48, 34)
    """
    return lib.kprobe_hash(address)


def build_info() -> str:
    """Compiler, flags and kind of dispatch of the compiled module."""
    return ffi.string(lib.machine_build()).decode()
