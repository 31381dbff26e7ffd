"""The machine: an i386 with its memory, kernel side and probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import calls, loader
from .actions import Action
from .binding import CPUS, CPUS_MAX, KERNELS, KPROBES, NONE, OPTIMIZE, RUN_SLICE, Core
from .board import vector_number
from .cpus import Cpus
from .disasm import INSN_MAX, Line, disassemble
from .errors import MemoryFault
from .fpu import Fpu
from .imports import Imports
from .linux.console import Console
from .memory import Memory, address_range
from .pc import Pc, PcBoard, board_of
from .probes import ProbeTable
from .probespec import parse_place
from .probing import Probing
from .regions import AddressSpace, parse_rights
from .registers import PtRegs, Registers, word
from .rewind import Rewindable
from .schedules import QUANTUM_STEPS, Schedule, set_schedule
from .snapshot import Setup
from .sse import Sse
from .stop import Stop, StopReason
from .symbols import SymbolTable
from .thread import Thread
from .watches import Handler as WatchHandler
from .watches import Watch, unwatch, watch

if TYPE_CHECKING:
    from .binding_snapshot import CoreSnapshot
    from .image import Image
    from .loader import Source

MEMORY_MAX = 2 << 30
PAGE = 4096
STOPPED_BY_PYTHON = 9
WITH_CODE = (StopReason.TRAP, StopReason.UNIMPLEMENTED)


class Machine(Probing, PcBoard, Rewindable):
    """An i386 with `memory` bytes of RAM and the kernel side of the probes patch.

    ``kprobes`` is "fixed", "2.5.26" (the patch as posted, defects included) or None (off). ``kernel=None`` makes a
    bare CPU. ``cpu`` is the processor: "386", "486", "pentium", "ppro", "p3" or "p4" (SSE2), where CPUID says
    what there is. One thread at a time may use a machine; different machines may run in different threads.

    >>> with Machine(memory=1 << 20) as m:
    ...     image = m.load(b"\\x8d\\x44\\x24\\x04\\x8b\\x00\\x40\\xc3", at=0x10000)   # lea eax,[esp+4]; mov; inc; ret
    ...     m.call(0x10000, 41)
    42
    """

    def __init__(
        self,
        memory: int = 64 << 20,
        cpus: int = 1,
        kprobes: str | None = "fixed",
        optimize: bool | str = True,
        kernel: str | None = "builtin",
        cpu: str = "p4",
        board: str | Pc | None = None,
        schedule: Schedule = QUANTUM_STEPS,
    ) -> None:
        memory, cpus = index(memory), index(cpus)
        if memory % PAGE or not PAGE <= memory <= MEMORY_MAX:
            raise ValueError(f"memory={memory} must be a multiple of {PAGE} from {PAGE} to {MEMORY_MAX}")
        if not 1 <= cpus <= CPUS_MAX:
            raise ValueError(f"cpus={cpus}: a machine has 1 to {CPUS_MAX} CPUs")
        choices = (
            ("kprobes", kprobes, KPROBES),
            ("optimize", optimize, OPTIMIZE),
            ("kernel", kernel, KERNELS),
            ("cpu", cpu, CPUS),
        )
        for name, value, known in choices:
            if value not in known:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}")
        pc = board_of(board)
        if pc is not None:
            if cpus != 1:
                raise ValueError(f"cpus={cpus}: a PC's board has no APIC, which further CPUs would need")
            kernel = None
        self._set_up(Setup(memory, cpus, kernel, kprobes, optimize, cpu, pc), None)
        set_schedule(self._core, schedule, cpus)

    def _set_up(self, setup: Setup, state: CoreSnapshot | None) -> None:
        """Make the machine, or one in a state that it shares."""
        self.memory_size = memory = setup.memory
        self.kernel, self.kprobes_mode, self.optimize, self.cpu_model, self.pc = setup[2:]
        self._core = Core(*setup.core, state)
        self._console = Console(self) if self.pc else None
        self._trap_handlers: dict[int, Callable[[Machine, PtRegs], Any]] = {}
        self.cpus = Cpus(self, setup.cpus)
        self.regs = Registers(self._core)
        self.fpu = Fpu(self._core)
        self.sse = Sse(self._core, setup.cpu)
        self.memory = Memory(self._core)
        self.symbols = SymbolTable()
        self.regions = AddressSpace(self._core, memory)
        self.imports = Imports(self)
        self.thread = Thread(self)
        self.images: list[Image] = []
        self._probes = ProbeTable(self, check=setup.kprobes != "2.5.26")

    # Life

    def close(self) -> None:
        """Free the machine. Probes keep their counters; anything else about it raises from now on."""
        if self._core.closed:
            return
        self._core.handle  # noqa: B018 - not while another thread runs it
        if self._core.in_handler:
            raise RuntimeError("a handler cannot close the machine that runs it: m.stop() ends the run")
        self._probes.release_all()
        self._core.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._core.closed:
            return "<Machine, closed>"
        loaded = ", ".join(image.name for image in self.images) or "nothing"
        return (
            f"<Machine of {self.memory_size >> 10:,} KiB, {loaded} loaded, "
            f"{len(self._probes)} probes, at {self.symbols.describe(self.regs.eip)}>"
        )

    # Images, memory, names

    def load(self, file: Source, at: int | None = None, name: str | None = None) -> Image:
        """Load an ELF32 program (sets eip and esp) or library, or flat code with ``at=``; path, bytes or file.

        On a bare machine, without ``at``, a Multiboot (version 1) kernel is loaded and started as a boot loader does.
        """
        self._core.handle  # noqa: B018 - a closed machine is reported first
        return loader.load(self, file, None if at is None else index(at), name)

    def load_rom(self, data: bytes | bytearray | memoryview) -> None:
        """Put a ROM where the CPU of a bare machine looks after reset: it ends at 4 GiB; guest stores are ignored.

        Its last 128 KiB appear below 1 MiB as well, in RAM's place. A part of a page is filled up with FFh in front.
        """
        self._core.handle  # noqa: B018 - a closed machine is reported first
        self.regions.load_rom(bytes(memoryview(data).cast("B")))

    def map(self, address: int, size: int, rights: str = "rw") -> None:
        """Put memory at whole pages; rights are r with any of w, x and u (user mode)."""
        self.regions.map(address, size, parse_rights(rights))

    def unmap(self, address: int, size: int) -> None:
        """Take away memory that map put there."""
        address, size = address_range(address, size)
        probes = self._probes.between(address, address + size)
        if probes:
            raise ValueError(f"{probes[0]!r} lies in there: unregister it first")
        self.regions.unmap(address, size)

    def alloc(self, size: int, align: int = 16) -> int:
        """The address of `size` fresh bytes of memory."""
        size, align = index(size), index(align)
        if size <= 0:
            raise ValueError(f"cannot allocate {size} bytes")
        if align <= 0 or align & (align - 1) or align > 1 << 20:
            raise ValueError(f"align={align} must be a power of two up to {1 << 20}")
        return self.regions.alloc(size, align)

    def push(self, *values: int | bytes) -> int:
        """Push numbers as words, in order, and bytes as they are (padded to words); the new esp."""
        data = [word(v).to_bytes(4, "little") if not isinstance(v, bytes) else v + bytes(-len(v) % 4) for v in values]
        pushed = b"".join(reversed(data))
        esp = self.regs.esp - len(pushed)
        if esp < 0:
            raise ValueError(f"the stack at {esp + len(pushed):#x} has no room for {len(pushed)} bytes")
        self.memory.write(esp, pushed)
        self.regs.esp = esp
        return esp

    def address(self, where: int | str) -> int:
        """An address given as a number, a symbol or symbol+offset; UnknownSymbol says which symbols are like it."""
        if isinstance(where, str):
            place, offset = parse_place(where)
            where = (self.symbols[place] if isinstance(place, str) else place) + offset
        return address_range(where, 0)[0]

    def disasm(self, where: int | str, count: int = 10) -> list[Line]:
        """Instructions from an address on, with the bytes that probes replaced put back."""
        start, count = self.address(where), index(count)
        if count < 1:
            raise ValueError(f"cannot disassemble {count} instructions")
        code = self._core.peek(start, min(INSN_MAX * count, (1 << 32) - start))
        if not code:
            raise MemoryFault(f"cannot disassemble at {start:#x}: no memory is mapped there", start)
        return list(disassemble(self._probes.original(start, code), start, count, self.symbols.describe))[:count]

    # Running

    @property
    def icount(self) -> int:
        """Instructions that all CPUs have retired since the machine was made: its time."""
        return self._core.icount

    @property
    def cpu(self) -> int:
        """The CPU that executes: in a handler the one that called it, else the one that ended the last run.

        `regs` and `fpu` are its registers, `step` and `call` go on with it.
        """
        return self._core.current

    def run(
        self,
        until: int | str | None = None,
        max_instructions: int | None = None,
        progress: Callable[[int], object] | None = None,
        schedule: Schedule | None = None,
    ) -> Stop:
        """Run from eip until something ends it. ``progress(icount)`` is called every few milliseconds.

        A ``schedule`` is for this run and those that follow. An exception of a handler comes out of here, with a note
        saying which handler it was; the machine stays usable. So does KeyboardInterrupt.
        """
        self._outside("run")
        limit = calls.instructions(max_instructions)
        if schedule is not None:
            set_schedule(self._core, schedule, len(self.cpus))
        self._core.set_until(None if until is None else self.address(until))
        try:
            return self._loop(limit, progress)
        finally:
            self._core.set_until(None)

    def step(self, n: int = 1) -> Stop:
        """Run `n` instructions; the reason is LIMIT unless something else came first."""
        self._outside("step")
        if index(n) < 1:
            raise ValueError(f"cannot step {n} instructions")
        return self._loop(index(n), None)

    def call(
        self,
        function: int | str,
        *args: object,
        convention: str = "cdecl",
        max_instructions: int | None = None,
        progress: Callable[[int], object] | None = None,
        returns: str = "u32",
    ) -> Any:
        """Call a guest function and return its eax; registers are afterwards as before, also inside handlers.

        ``returns``: u32, s32 (eax), u64, s64 (edx:eax), f64, f80 (ST(0), as a float or as ten bytes).
        MachineFault when it does not return: its ``stop`` says why, its ``regs`` are those at that moment.
        """
        self._core.handle  # noqa: B018 - a closed machine is reported first
        limit = calls.instructions(max_instructions)
        return calls.call(self, self.address(function), args, convention, limit, progress, returns)

    def stop(self) -> None:
        """In a handler: end the run with the reason STOPPED once the handler has returned."""
        if not self._core.in_handler:
            raise RuntimeError("nothing is running: stop is for handlers")
        self._core.request_stop()

    def on_trap(self, vector: int, handler: Callable[[Machine, PtRegs], Any] | None) -> None:
        """Serve a vector: ``handler(machine, regs)`` returns True when it did. None: no more."""
        vector = vector_number(vector)
        if handler is not None and not callable(handler):
            raise TypeError(f"a trap handler must be a function, not {type(handler).__name__}")
        self._core.claim_trap(vector, None if handler is None else lambda regs: handler(self, regs))
        if handler is None:
            self._trap_handlers.pop(vector, None)
        else:
            self._trap_handlers[vector] = handler

    def bind(self, name: str, function: Callable[..., Any], args: int | None = None) -> None:
        """Provide an imported function: ``function(machine, *words)`` gets as many words as it has parameters.

        What it returns goes to eax, None as 0. Bind before a load to hide a function, also one of the image itself.
        """
        self.imports.bind(name, function, args)

    def watch(self, where: int | str, length: int, kind: str, what: WatchHandler | Action | Sequence[Action]) -> Watch:
        """Watch linear addresses for writes "w", reads and writes "rw", execution "x", or ports "io".

        ``what`` is a ``handler(watch, regs, access)`` or an action, or a list of actions. It runs behind the
        instruction (of string instructions: behind each element), for each access of it that touches the range, with
        the registers `m.regs` as they are then; for "x" before the instruction that begins in the range, once, also
        if it is a repeated one. What an instruction did before it faulted does not count. An exception of a handler
        comes out of run behind the instruction, and the accesses not yet told come first in the next run. The
        guest's debug registers are not used, and pages that nobody watches are as fast as ever.

        >>> from pykprobes import Count
        >>> with Machine() as m:
        ...     image = m.load(b"\\x89\\x07\\xf4", at=0x10000)       # mov [edi], eax; hlt
        ...     m.regs.eip, m.regs.edi, m.regs.eax = 0x10000, 0x20000, 5
        ...     watch = m.watch(0x20002, 1, "w", lambda watch, regs, access: print(access))
        ...     stop = m.run()
        ...     watch
        Access(kind='w', address=131072, size=4, value=5, eip=65536)
        <Watch w of 1 bytes at 0x20002, 1 hits>
        """
        self._core.handle  # noqa: B018 - a closed machine is reported first
        return watch(self, Watch(self, where, length, kind, what))

    def unwatch(self, watch: Watch) -> None:
        """End a watch; its counters stay readable."""
        unwatch(self, watch)

    # What other modules use

    def _outside(self, what: str) -> None:
        self._core.handle  # noqa: B018 - a closed machine is reported first
        if self._core.in_handler:
            raise RuntimeError(f"{what} inside a handler would not come back to it: m.call runs guest functions there")

    def _loop(self, left: int | None, progress: Callable[[int], object] | None) -> Stop:
        core = self._core
        with core.running():
            while left != 0:
                size = RUN_SLICE if left is None else min(RUN_SLICE, left)
                before = core.icount
                try:
                    reason = core.run(size)
                    if self._console is not None:
                        self._console.pump()
                    done = core.icount - before
                    paused = reason == STOPPED_BY_PYTHON and not core.take_stop()
                    stop = None if paused or reason == NONE else self._stop(self._reason(reason))
                finally:
                    self._do_deferred()
                if stop is not None:
                    return stop
                if left is not None:
                    # Slices with many traps are shorter. One in which only traps happened would come again for ever.
                    # Calls inside handlers count, too.
                    left = max(0, left - (done if paused else done or size))
                if progress is not None and not paused:
                    progress(self.icount)
                    stopping = core.take_stop()
                    self._do_deferred()
                    if stopping:
                        return self._stop(StopReason.STOPPED)
            return self._stop(StopReason.LIMIT)

    @staticmethod
    def _reason(reason: int) -> StopReason:
        return StopReason.STOPPED if reason == STOPPED_BY_PYTHON else StopReason(reason)

    def _stop(self, reason: StopReason) -> Stop:
        cpu = self.cpu
        if reason in (StopReason.LIMIT, StopReason.STOPPED):
            return Stop(reason, self.regs.eip, icount=self.icount, symbols=self.symbols, cpu=cpu)
        info = self._core.stop_info()
        code = b""
        if reason is StopReason.UNIMPLEMENTED:
            code = bytes(info.bytes[i] for i in range(info.nbytes))
        elif reason in WITH_CODE:
            code = self._probes.original(info.eip, self._core.peek(info.eip, min(16, (1 << 32) - info.eip)))
        vector = None if info.vector < 0 else info.vector
        where = info.eip, vector, info.error_code, info.address, info.icount, code
        return Stop(reason, *where, self.symbols, cpu, self.cpus.waiting())
