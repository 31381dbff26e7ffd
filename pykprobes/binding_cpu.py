"""One CPU of a C machine, as a `Core` is the one that executes. With binding.py, what touches the compiled module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ._core import ffi, lib
from .dispatch import Dispatch

if TYPE_CHECKING:
    from ._core import CpuInfo, FpuState, SseState
    from .binding import Core
    from .records import Layout

T = TypeVar("T")


class Registers(Dispatch):
    """The part of `Core` that is the executing CPU's registers and what a board does to CPUs."""

    def get_reg(self, number: int) -> int:
        return lib.machine_get_reg(self.handle, number)

    def set_reg(self, number: int, value: int) -> int:
        return lib.machine_set_reg(self.handle, number, value)

    def get_segment(self, number: int) -> tuple[int, int, int, int]:
        """Selector, base, limit and attributes."""
        state = ffi.new("struct segment_state *")
        lib.machine_get_segment(self.handle, number, state)
        return state.selector, state.base, state.limit, state.attributes

    def set_segment(self, number: int, selector: int, base: int, limit: int, attributes: int) -> int:
        state = ffi.new("struct segment_state *", (base, limit, selector, attributes))
        return lib.machine_set_segment(self.handle, number, state)

    def get_fpu(self) -> FpuState:
        state: FpuState = ffi.new("struct fpu_state *")
        lib.machine_get_fpu(self.handle, state)
        return state

    def set_fpu(self, state: FpuState) -> None:
        lib.machine_set_fpu(self.handle, state)

    def get_sse(self) -> SseState | None:
        """XMM registers and MXCSR; None without SSE."""
        state: SseState = ffi.new("struct sse_state *")
        return state if lib.machine_get_sse(self.handle, state) == 0 else None

    def set_sse(self, state: SseState) -> bool:
        """False, and nothing changed: MXCSR has reserved bits."""
        return lib.machine_set_sse(self.handle, state) == 0

    def interrupt(self, cpu: int, vector: int) -> bool:
        return lib.machine_interrupt(self.handle, cpu, vector) == 0

    def nmi(self, cpu: int) -> None:
        lib.machine_nmi(self.handle, cpu)

    def timer(self, vector: int, period: int) -> None:
        lib.machine_set_timer(self.handle, vector, period)

    def set_intr(self, level: bool, controller: Callable[[], int | None] | None) -> None:
        lib.machine_set_intr(self.handle, level, controller is not None)
        self.intr_level, self.controller = level, controller


class CpuCore:
    """The registers and pins of one CPU. What is done with another than the executing one leaves that as it is."""

    def __init__(self, core: Core, number: int) -> None:
        self._core = core
        self._number = number

    @property
    def layout(self) -> Layout | None:
        return self._core.layout

    def _focused(self, action: Callable[..., T], *args: int | FpuState | SseState) -> T:
        machine = self._core.handle
        before = lib.machine_focus(machine, self._number)
        try:
            return action(*args)
        finally:
            lib.machine_focus(machine, before)

    def get_reg(self, number: int) -> int:
        return self._focused(self._core.get_reg, number)

    def set_reg(self, number: int, value: int) -> int:
        return self._focused(self._core.set_reg, number, value)

    def get_segment(self, number: int) -> tuple[int, int, int, int]:
        return self._focused(self._core.get_segment, number)

    def set_segment(self, number: int, selector: int, base: int, limit: int, attributes: int) -> int:
        return self._focused(self._core.set_segment, number, selector, base, limit, attributes)

    def get_fpu(self) -> FpuState:
        return self._focused(self._core.get_fpu)

    def set_fpu(self, state: FpuState) -> None:
        self._focused(self._core.set_fpu, state)

    def get_sse(self) -> SseState | None:
        return self._focused(self._core.get_sse)

    def set_sse(self, state: SseState) -> bool:
        return self._focused(self._core.set_sse, state)

    def info(self) -> CpuInfo:
        info: CpuInfo = ffi.new("struct cpu_info *")
        lib.machine_cpu_info(self._core.handle, self._number, info)
        return info

    def park(self) -> None:
        lib.machine_park(self._core.handle, self._number)

    def interrupt(self, vector: int) -> bool:
        return self._core.interrupt(self._number, vector)

    def nmi(self) -> None:
        self._core.nmi(self._number)


class ScheduleCore:
    """Who executes when, for one C machine."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._trace = ffi.new("struct schedule_step[]", 0)

    def set(self, kind: int, value: int, turns: list[tuple[int, int]]) -> None:
        listed = ffi.new("struct schedule_turn[]", turns)
        if lib.machine_set_schedule(self._core.handle, kind, value, listed, len(turns)):
            raise MemoryError(f"no memory is left for a schedule of {len(turns)} turns")

    def trace(self, room: int) -> None:
        """Note the next steps, at most `room`."""
        self._trace = ffi.new("struct schedule_step[]", room)
        lib.machine_trace_schedule(self._core.handle, self._trace, room)

    def traced(self) -> list[tuple[int, int, int, int, int]]:
        """CPU, steps, runnable CPUs as a mask, linear address, fresh: of each step that was noted."""
        count = lib.machine_schedule_traced(self._core.handle)
        lib.machine_trace_schedule(self._core.handle, ffi.NULL, 0)
        noted = (self._trace[i] for i in range(count))
        return [(step.cpu, step.steps, step.runnable, step.address, step.fresh) for step in noted]


QUANTUM, SEED, LIST = lib.SCHEDULE_QUANTUM, lib.SCHEDULE_SEED, lib.SCHEDULE_LIST
