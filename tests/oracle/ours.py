"""pykprobes as a peer of the oracles: one Machine that runs every case in ring 3 of the built-in kernel."""

from __future__ import annotations

from typing import Any

from pykprobes import Machine, Stop, StopReason

from .case import BASE, FAULT, GPRS, LIMIT, REGIONS, UNTIL, Case
from .compare import Fault

_ENDS = {StopReason.UNTIL: UNTIL, StopReason.LIMIT: LIMIT}
_SREGS = ("es", "cs", "ss", "ds", "fs", "gs")


class Ours:
    """An Engine over pykprobes.Machine, in ring 3 as natively, or in ring 0 as kernel code."""

    def __init__(self, ring: int = 3, **options: Any) -> None:
        # page 0, which is never mapped, is all of its RAM: nothing below LOW, as natively
        self.machine = Machine(memory=4096, **options)
        self.selectors = {3: (0x23, 0x2B), 0: (0x10, 0x18)}[ring]
        for address, size, protection in REGIONS:
            self.machine.map(address, size, "rwu" if protection & 2 else "ru")
        layout = self.machine._core.layout
        assert layout
        self.kernel_memory = ((layout.stack_bottom, layout.stack_top | 0xFFF), (layout.window, layout.window_end))
        self.before = 0

    def load(self, case: Case) -> None:
        m, r = self.machine, self.machine.regs
        for address, data in BASE.items():
            m.memory.write(address, data)
        for address, data in case.all_patches():
            m.memory.write(address, data)
        r.cs, r.ss = self.selectors
        r.ds = r.es = r.ss
        r.fs, r.gs = (r.ss if case.fs else 0), case.gs
        for name, value in zip(GPRS, case.regs, strict=True):
            setattr(r, name, value)
        r.eflags = case.eflags
        r.eip = case.eip
        self.before = m.icount

    def foreign(self, address: int) -> bool:
        """Is there memory of the built-in kernel, where a native process has none?"""
        return any(start <= address <= end for start, end in self.kernel_memory)

    @staticmethod
    def _fault(stop: Stop) -> Fault | None:
        if stop.reason is StopReason.TRAP and stop.vector is not None:
            return Fault(stop.vector, stop.error_code, stop.address if stop.vector == 14 else 0)
        return None if stop.reason in _ENDS else Fault(-1, text=str(stop))

    def step(self) -> Fault | None:
        return self._fault(self.machine.step())

    def run(self, case: Case, limit: int | None = None) -> tuple[int, Fault | None]:
        stop = self.machine.run(until=case.until, max_instructions=case.max_steps if limit is None else limit)
        return _ENDS.get(stop.reason, FAULT), self._fault(stop)

    def state(self) -> tuple[tuple[int, ...], int, int]:
        r = self.machine.regs
        return (r.eax, r.ecx, r.edx, r.ebx, r.esp, r.ebp, r.esi, r.edi), r.eip, r.eflags

    def set_eflags(self, eflags: int) -> None:
        self.machine.regs.eflags = eflags

    def icount(self) -> int:
        return self.machine.icount - self.before

    def sregs(self) -> tuple[int, ...]:
        native = {self.selectors[0]: 0x23, self.selectors[1]: 0x2B}
        return tuple(native.get(s, s) for s in (getattr(self.machine.regs, name) for name in _SREGS))

    def memory(self, address: int, size: int) -> bytes:
        return bytes(self.machine.memory.read(address, size))
