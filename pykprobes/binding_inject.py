"""Fault injection as the compiled module takes it: dtypes laid out as C's structures, golden runs, injectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from ._core import ffi, lib

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Golden
    from .binding_snapshot import CoreSnapshot


def _dtype(name: str) -> numpy.dtype[Any]:
    """A C structure as a structured dtype, its spare bytes left out."""
    names, formats, offsets = [], [], []
    for field, info in ffi.typeof(name).fields:
        if field != "spare":
            kind = "i" if info.type.cname.startswith("int") else "u"
            names.append(field)
            formats.append(f"<{kind}{ffi.sizeof(info.type)}")
            offsets.append(info.offset)
    layout = {"names": names, "formats": formats, "offsets": offsets, "itemsize": ffi.sizeof(name)}
    return numpy.dtype(layout)  # type: ignore[call-overload, no-any-return]


FAULT, RESULT, EVENT = _dtype("struct inject_fault"), _dtype("struct inject_result"), _dtype("struct trace_event")
REGISTERS_END, TARGET_ST, TARGET_END = lib.REG_COUNT, lib.TARGET_ST, lib.TARGET_END
TRACE_READ, TRACE_WRITE, TRACE_EXECUTE, TRACE_EXCEPTION = (
    lib.TRACE_READ, lib.TRACE_WRITE, lib.TRACE_EXECUTE, lib.TRACE_EXCEPTION,
)  # fmt: skip
EARLY_ALL = lib.EARLY_OVERWRITTEN | lib.EARLY_GOLDEN | lib.EARLY_LOOP
EARLY_AUDITED, EARLY_WRONG = lib.EARLY_AUDITED, lib.EARLY_WRONG
MARKS_MAX = 15
Ranges = list[tuple[int, int]]


class GoldenStop(NamedTuple):
    """Why a golden run is none: an error of enum golden_error, and how the run ended."""

    error: int
    reason: int
    vector: int
    eip: int
    icount: int


class CoreGolden:
    """One golden run in C, and the machines that do experiments along it."""

    def __init__(
        self,
        snapshot: CoreSnapshot,
        end: int | None,
        detected: list[int],
        output: Ranges,
        image: Ranges,
        interval: int,
        limit: int,
    ) -> None:
        values = {
            "has_end": end is not None,
            "end": end or 0,
            "detected": ffi.new("uint32_t[]", detected or [0]),
            "detected_count": len(detected),
            "output": ffi.new("struct inject_range[]", output or [(0, 0)]),
            "output_count": len(output),
            "image": ffi.new("struct inject_range[]", image or [(0, 0)]),
            "image_count": len(image),
            "interval": interval,
        }
        error, stop = ffi.new("int32_t *"), ffi.new("struct stop_info *")
        made = lib.golden_create(snapshot.c, ffi.new("struct inject_setup *", values), limit, error, stop)
        self.failed = None
        if made == ffi.NULL:
            self.failed = GoldenStop(error[0], stop.reason, stop.vector, stop.eip, stop.icount)
        self.c: Golden = ffi.gc(made, lib.golden_destroy)
        self._idle: list[Any] = []

    @property
    def length(self) -> int:
        return lib.golden_length(self.c)

    @property
    def checkpoints(self) -> int:
        return lib.golden_checkpoints(self.c)

    def output(self) -> bytes:
        """The result's memory."""
        size = lib.golden_output(self.c, ffi.new("uint8_t[1]"), 0)
        found = ffi.new("uint8_t[]", max(size, 1))
        lib.golden_output(self.c, found, size)
        return bytes(ffi.buffer(found, size))

    def trace(self) -> NDArray[Any]:
        """All accesses, instructions and exceptions in order."""
        events = numpy.zeros(lib.golden_trace(self.c, ffi.NULL, 0), EVENT)
        if len(events):
            lib.golden_trace(
                self.c, ffi.from_buffer("struct trace_event[]", events, require_writable=True), len(events)
            )
        return events

    def run(self, faults: NDArray[Any], starts: NDArray[numpy.uint64], limit: int, early: int) -> NDArray[Any]:
        """Experiments in ascending order of time; their results. Any number of threads may do this at a time."""
        results = numpy.zeros(len(starts) - 1, RESULT)
        if not len(results):
            return results
        try:
            injector = self._idle.pop()
        except IndexError:
            injector = ffi.gc(lib.injector_create(self.c), lib.injector_destroy)
        if injector == ffi.NULL:
            raise MemoryError("the host has no memory for another machine")
        error = lib.injector_run(
            injector,
            ffi.new("struct inject_limits *", {"limit": limit, "early": early}),
            ffi.from_buffer("struct inject_fault[]", faults),
            ffi.from_buffer("uint64_t[]", starts),
            len(results),
            ffi.from_buffer("struct inject_result[]", results, require_writable=True),
        )
        if error:
            raise MemoryError("the host is out of memory for the experiments' pages or decoded code")
        self._idle.append(injector)
        return results

    def replay(self, faults: NDArray[Any], limit: int) -> tuple[Any, NDArray[Any]]:
        """One experiment without early exits: the C snapshot of its end, and its result."""
        result = numpy.zeros(1, RESULT)
        injector = ffi.gc(lib.injector_create(self.c), lib.injector_destroy)
        if injector == ffi.NULL:
            raise MemoryError("the host has no memory for another machine")
        limits = ffi.new("struct inject_limits *", {"limit": limit, "early": 0})
        handle = lib.injector_replay(
            injector, limits, ffi.from_buffer("struct inject_fault[]", faults), len(faults),
            ffi.from_buffer("struct inject_result[]", result, require_writable=True),
        )  # fmt: skip
        return handle, result
