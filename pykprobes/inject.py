"""Fault injection: faults in as one numpy array, outcomes out as another, experiments in C."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from operator import index
from typing import TYPE_CHECKING, Any

import numpy

from .binding_inject import (
    EARLY_ALL,
    EARLY_AUDITED,
    EARLY_WRONG,
    EVENT,
    FAULT,
    MARKS_MAX,
    RESULT,
    CoreGolden,
    GoldenStop,
)  # fmt: skip
from .binding_snapshot import CoreSnapshot
from .faultcheck import REGISTERS, check_faults, first_rows, resolve
from .memory import TOP
from .snapshot import Snapshot
from .stop import StopReason, vector_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "EVENT", "FAULT", "REGISTERS", "RESULT", "BadGolden", "Early", "Golden", "Kind", "Lifespan", "Model", "Outcome",
    "Trigger", "faults", "inject", "memory_flips", "register_flips",
]  # fmt: skip

CHUNK = 4096  # experiments of one call of C: between two calls Ctrl-C and progress come
POINTS = 64  # checkpoints of a golden run, if it is not shorter than as many intervals
INTERVAL_MIN = 256
GOLDEN_LIMIT = 1_000_000_000
LIMIT_MAX = (1 << 62) - 1


class Trigger(IntEnum):
    """What a fault waits for; see `Golden.inject`."""

    TIME, HIT, ACCESS, EXCEPTION = range(4)


class Kind(IntEnum):
    """What a fault changes; the names of the literature where there are some."""

    REGISTER, MEMORY, CF, RREG, WREG, RVAL, WVAL, RADDR, WADDR, TXT, RETURN = range(11)


class Model(IntEnum):
    """How a fault changes it. A burst is a FLIP whose mask has adjacent bits."""

    FLIP, SET0, SET1, OVERWRITE, SKIP, JUMP = range(6)


class Lifespan(IntEnum):
    """How long a fault goes on."""

    ONCE, SPAN, OVERWRITTEN, PERMANENT = range(4)


class Outcome(IntEnum):
    """How an experiment ended."""

    MASKED = 1  # the golden run's end, all memory and registers included
    LATENT = 2  # the golden run's output, but the end state differs
    SDC = 3  # silent data corruption: the end was reached with another output
    DETECTED = 4  # the program came to one of the addresses that mean so
    TRAP = 5
    HANG = 6
    LEFT = 7  # it left the image
    NOT_FIRED = 8  # no fault took effect: never counted as masked


class Early(IntEnum):
    """Bits of a result's ``early``: why it was known before the run ended, and what an audit said."""

    OVERWRITTEN, GOLDEN, LOOP, AUDITED, WRONG = 1, 2, 4, 8, 16


class BadGolden(ValueError):
    """A run that cannot be the golden one: it crashes, never ends, or is not repeatable."""


class Golden:
    """The run without faults, from a snapshot to its end, and experiments along it.

    ``end`` is an address or symbol; the run ends before the instruction there. Without it the run ends with HLT.
    ``output`` are ranges (address, size) of the result in memory. Coming to one of ``detected`` means that the program
    has noticed the fault. With ``image``, ranges (address, size) of code, a run that stops elsewhere has left it.
    BadGolden when this run, of at most ``limit`` instructions, does not come to its end, or not twice the same way.

    Probes, watches and devices of the snapshot's machine are not there: experiments run the program as it is, and a
    golden run that needs a Python function is none. TLB contents are no state.

    >>> from pykprobes import Machine
    >>> with Machine(memory=1 << 20) as m:
    ...     # add eax, ebx; mov [0x20000], eax; hlt
    ...     image = m.load(b"\\x01\\xd8\\xa3\\x00\\x00\\x02\\x00\\xf4", at=0x10000)
    ...     m.regs.eip, m.regs.eax, m.regs.ebx = 0x10000, 2, 3
    ...     golden = Golden(m.snapshot(), output=[(0x20000, 4)])
    >>> golden.length, golden.output
    (3, b'\\x05\\x00\\x00\\x00')
    >>> flips = register_flips([REGISTERS["eax"]], times=[0, 1, 2, 3], bits=[0])
    >>> [Outcome(o).name for o in golden.inject(flips)["outcome"]]
    ['SDC', 'SDC', 'LATENT', 'NOT_FIRED']
    """

    def __init__(
        self,
        snapshot: Snapshot,
        end: int | str | None = None,
        output: Sequence[tuple[int, int]] = (),
        detected: Sequence[int | str] = (),
        image: Sequence[tuple[int, int]] = (),
        limit: int = GOLDEN_LIMIT,
    ) -> None:
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"a golden run starts from a Snapshot, not {type(snapshot).__name__}")
        limit = index(limit)
        if not 0 < limit <= LIMIT_MAX:
            raise ValueError(f"limit={limit} is no number of instructions")
        names = {symbol.name: symbol.address for symbol in snapshot._world.symbols}
        marks = [_address(where, names) for where in detected]
        if len(marks) > MARKS_MAX - 1:
            raise ValueError(f"{len(marks)} addresses mean that a fault was detected, the most is {MARKS_MAX - 1}")
        self.snapshot = snapshot
        self.end = None if end is None else _address(end, names)
        if self.end in marks:
            raise ValueError(f"{self.end:#x} cannot mean both the end and that a fault was detected")
        self._ranges = _ranges(output, "output"), _ranges(image, "image")
        self._arguments = (snapshot._core, self.end, marks, *self._ranges)
        self._core = self._run(INTERVAL_MIN if limit < INTERVAL_MIN * POINTS else limit // POINTS, limit)
        wanted = max(self.length // POINTS, INTERVAL_MIN)
        if self.length > wanted:
            self._core = self._run(wanted, self.length + 1)
        self._trace: NDArray[Any] | None = None

    def _run(self, interval: int, limit: int) -> CoreGolden:
        core = CoreGolden(*self._arguments, interval, limit)
        if core.failed is not None:
            raise _why_not(core.failed, limit, self.end)
        return core

    @property
    def length(self) -> int:
        """Instructions from the snapshot to the end."""
        return self._core.length

    @property
    def output(self) -> bytes:
        """The result."""
        return self._core.output()

    @property
    def trace(self) -> NDArray[Any]:
        """Every access, instruction and exception of the golden run, in order: columns as `EVENT` has them.

        time (instructions since the snapshot, of the instruction), address (linear; of an exception the vector), phys,
        eip, size, kind (1 read, 2 write, 4 execution, 8 exception), system (1: the CPU's own, to tables and stacks).
        """
        if self._trace is None:
            self._trace = self._core.trace()
            self._trace.flags.writeable = False
        return self._trace

    def inject(
        self,
        faults: NDArray[Any],
        budget: float = 10.0,
        threads: int = 1,
        early: bool = True,
        audit: float = 0.0,
        seed: int = 0,
        progress: Callable[[int, int], object] | None = None,
    ) -> NDArray[Any]:
        """Do experiments: one for each different ``group`` in `faults`, an array of dtype `FAULT`.

        Its columns: **trigger** TIME: strikes before the instruction that retires as number ``time`` (from 0, since the
        snapshot); HIT: before the ``time``-th execution of the instruction at ``where``; ACCESS: behind the instruction
        that makes the ``time``-th access (``access`` bits 1 read, 2 write) to the byte ``where``; EXCEPTION: behind the
        first instruction after the ``time``-th exception ``where``. Later faults of a group count from where the one
        before struck. **kind** and **target**: REGISTER (a number of `REGISTERS`), RREG (the same: before the
        instruction reads it), WREG (after the instruction has written it), MEMORY (linear address, ``size`` bytes), CF
        (eip behind the instruction; SKIP leaves out ``span`` instructions, JUMP goes to ``value``), RVAL, WVAL, RADDR,
        WADDR (value or address of the instruction's read or write number ``target``, from 0), TXT (``size`` instruction
        bytes from offset ``target`` on, for this fetch, or with OVERWRITTEN from now on), RETURN (the function just
        entered returns ``value`` at once). **model** with ``mask`` and ``value``; **lifespan** SPAN (of ``span``
        instructions) and PERMANENT hold the value in a register or memory.

        Results are of dtype `RESULT`, one for each group in ascending order: outcome, end, injected and latency in
        instructions, vector (-1: none), error_code, cr2, eip, reason (`StopReason`, 2 at the limit), before and after
        (the first fault's target: evidence that it took effect), at (eip there), fired (how many faults took effect).

        An experiment that runs ``budget`` times the golden run's length hangs. ``early`` are three exits that change no
        result: memory that is overwritten before it is read, a state that the golden run had at that time, a loop that
        was proven. ``audit`` is the part of the experiments, chosen by ``seed``, that are done to their end as well;
        results that differ have the bit WRONG in ``early`` and are those of the full run. Results do not depend on
        threads or order. ``progress(done, all)`` is called now and then. ValueError before any work for faults that
        cannot be.
        """
        faults = check_faults(self, faults)
        limit = int(min(max(float(budget) * self.length, self.length + 1), LIMIT_MAX))
        threads = index(threads)
        if not 1 <= threads <= 1024:
            raise ValueError(f"threads={threads} is not in 1 to 1024")
        if not budget >= 1:
            raise ValueError(f"budget={budget}: experiments must be allowed at least the golden run's length")
        if not 0 <= audit <= 1:
            raise ValueError(f"audit={audit} is no part of all experiments")
        faults = resolve(self, faults, early)
        starts = first_rows(faults)
        results = self._in_order(faults, starts, limit, EARLY_ALL if early else 0, threads, progress)
        if audit and early:
            self._audit(faults, starts, limit, threads, results, _chosen(len(starts) - 1, audit, seed))
        return results

    def replay(self, faults: NDArray[Any], budget: float = 10.0) -> tuple[Snapshot, NDArray[Any]]:
        """One experiment: the machine's state at its end, and its result, found without early exits."""
        faults = resolve(self, check_faults(self, faults), early=False)
        if len(first_rows(faults)) != 2:
            raise ValueError("a replay is of one experiment: faults of one group")
        limit = int(min(max(float(budget) * self.length, self.length + 1), LIMIT_MAX))
        handle, result = self._core.replay(faults, limit)
        return Snapshot(self.snapshot._world, CoreSnapshot(handle)), result[0]

    def _in_order(
        self,
        faults: NDArray[Any],
        starts: NDArray[numpy.uint64],
        limit: int,
        early: int,
        threads: int,
        progress: Callable[[int, int], object] | None,
    ) -> NDArray[Any]:
        """Sorted by time, so that machines walk forward; results in the order of the groups."""
        count = len(starts) - 1
        results = numpy.zeros(count, RESULT)
        order = numpy.argsort(faults["time"][starts[:-1].astype(numpy.int64)], kind="stable")
        chunk = max(1, min(CHUNK, -(-count // threads)))
        pieces = [order[i : i + chunk] for i in range(0, count, chunk)]

        def work(piece: NDArray[Any]) -> int:
            rows, sizes = _gather(starts, piece)
            results[piece] = self._core.run(faults[rows], sizes, limit, early)
            return len(piece)

        done = 0
        with ThreadPoolExecutor(threads) as pool:
            try:
                for n in pool.map(work, pieces) if threads > 1 else map(work, pieces):
                    done += n
                    if progress is not None:
                        progress(done, count)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return results

    def _audit(
        self,
        faults: NDArray[Any],
        starts: NDArray[numpy.uint64],
        limit: int,
        threads: int,
        results: NDArray[Any],
        chosen: NDArray[numpy.int64],
    ) -> None:
        rows, sizes = _gather(starts, chosen)
        full = self._in_order(faults[rows], sizes, limit, 0, threads, None)
        names = [name for name in RESULT.names or () if name != "early"]
        wrong = numpy.zeros(len(chosen), bool)
        for name in names:
            wrong |= full[name] != results[name][chosen]
        flags = results["early"][chosen] | EARLY_AUDITED | numpy.where(wrong, EARLY_WRONG, 0).astype(numpy.uint8)
        results[chosen] = full
        results["early"][chosen] = flags

    def __repr__(self) -> str:
        end = "HLT" if self.end is None else f"{self.end:#x}"
        return f"<Golden of {self.length:,} instructions to {end}, {self._core.checkpoints} checkpoints>"


def inject(
    snapshot: Snapshot,
    faults: NDArray[Any],
    *,
    end: int | str | None = None,
    threads: int | None = None,
    **options: Any,
) -> NDArray[Any]:
    """`Golden` and `Golden.inject` in one: the results. Options are those of both; ``threads`` default to the CPUs."""
    golden = {name: options.pop(name) for name in ("output", "detected", "image", "limit") if name in options}
    return Golden(snapshot, end, **golden).inject(faults, threads=threads or os.cpu_count() or 1, **options)


# Arrays of faults


def faults(count: int) -> NDArray[Any]:
    """An array of `count` faults, each its own group, that flip no bit of register 0 at time 0: to be filled in."""
    made = numpy.zeros(count, FAULT)
    made["group"] = numpy.arange(count)
    made["size"] = 1
    return made


def memory_flips(addresses: Sequence[int], times: Sequence[int], bits: Sequence[int] = range(8)) -> NDArray[Any]:
    """A single-bit flip in each bit of each byte at each time, a group each; times vary slowest."""
    return _flips(Kind.MEMORY, addresses, times, bits)


def register_flips(registers: Sequence[int], times: Sequence[int], bits: Sequence[int] = range(32)) -> NDArray[Any]:
    """A single-bit flip in each bit of each register (a number, see `REGISTERS`) at each time, a group each."""
    return _flips(Kind.REGISTER, registers, times, bits)


# Helpers


def _flips(kind: Kind, targets: Sequence[int], times: Sequence[int], bits: Sequence[int]) -> NDArray[Any]:
    time, target, bit = (part.ravel() for part in numpy.meshgrid(times, targets, bits, indexing="ij"))
    made = faults(len(time))
    made["kind"], made["target"], made["time"] = kind, target, time
    made["mask"] = numpy.uint64(1) << bit.astype(numpy.uint64)
    return made


def _gather(starts: NDArray[numpy.uint64], chosen: NDArray[Any]) -> tuple[NDArray[Any], NDArray[numpy.uint64]]:
    """The rows of some groups one behind the other, and where each begins."""
    first = starts[:-1][chosen].astype(numpy.int64)
    sizes = starts[1:][chosen].astype(numpy.int64) - first
    ends = numpy.cumsum(sizes)
    rows = numpy.arange(ends[-1] if len(ends) else 0) + numpy.repeat(first - (ends - sizes), sizes)
    return rows, numpy.concatenate([[0], ends]).astype(numpy.uint64)


def _chosen(count: int, part: float, seed: int) -> NDArray[numpy.int64]:
    """Numbers of the experiments to audit: each by its own draw, whoever does them."""
    draws = numpy.random.Generator(numpy.random.Philox(key=index(seed) & (1 << 64) - 1)).random(count)
    found: NDArray[numpy.int64] = numpy.flatnonzero(draws < part)
    return found


def _address(where: int | str, names: dict[str, int]) -> int:
    if isinstance(where, str):
        if where not in names:
            raise ValueError(f"the snapshot has no symbol {where!r}")
        return names[where]
    address = index(where)
    if not 0 <= address < TOP:
        raise ValueError(f"{address:#x} is no address in 4 GiB")
    return address


def _ranges(ranges: Sequence[tuple[int, int]], what: str) -> list[tuple[int, int]]:
    """(address, size) as (first, last)."""
    found = []
    for address, size in ranges:
        address, size = index(address), index(size)
        if not 0 <= address < address + size <= TOP:
            raise ValueError(f"{what}: {size} bytes at {address:#x} are no range in 4 GiB")
        found.append((address, address + size - 1))
    return found


def _why_not(stop: GoldenStop, limit: int, end: int | None) -> Exception:
    wanted = "HLT" if end is None else f"{end:#x}"
    if stop.error == 1:
        return MemoryError("the host has no memory for the golden run's checkpoints")
    if stop.error == 3:
        return BadGolden(f"the golden run did not come to {wanted} within {limit:,} instructions: is that its end?")
    if stop.error == 4:
        return BadGolden("the golden run is not repeatable: a second one ended in another state")
    if stop.error == 5:
        return BadGolden("the golden run's output is not mapped at its end")
    if stop.reason == 9:
        return BadGolden(f"the golden run needs a Python function, which experiments do not have, at {stop.eip:#x}")
    why = StopReason(stop.reason).name if stop.reason in [r.value for r in StopReason] else str(stop.reason)
    if stop.vector >= 0:
        why = vector_name(stop.vector)
    return BadGolden(f"the golden run ended with {why} at {stop.eip:#x} instead of {wanted}")
