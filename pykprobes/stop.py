"""Why a run ended: the result of `Machine.run`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .symbols import SymbolTable


class StopReason(Enum):
    """Why a run ended. The values are those of enum stop_reason in csrc/cdef.h."""

    UNTIL = 1
    LIMIT = 2
    TRAP = 3
    HALT = 4
    STOPPED = 5
    SHUTDOWN = 6
    RESET = 7
    UNIMPLEMENTED = 8
    LOOP = 11
    DEVICE = 12
    PARKED = 13
    DEADLOCK = 14


VECTORS = {
    0: ("divide error", "the divisor is 0 or the quotient does not fit"),
    1: ("debug trap", "a breakpoint register or the trap flag that nobody handles"),
    2: ("NMI", "nothing handles it"),
    3: ("breakpoint", "an int3 that is not a probe of this machine"),
    4: ("overflow", "INTO with OF set"),
    5: ("bound range exceeded", "the index is outside its bounds"),
    6: ("invalid opcode", "these bytes are no instruction: is this code?"),
    7: ("device not available", "floating point is switched off in CR0"),
    8: ("double fault", "a fault while another was delivered"),
    10: ("invalid TSS", "check the task state segment"),
    11: ("segment not present", "check the descriptor tables"),
    12: ("stack fault", "the stack pointer is outside its segment"),
    13: ("general protection fault", "check segments, privilege and limits"),
    14: ("page fault", "map memory there with m.map, or look for a wild pointer"),
    16: ("floating-point error", "an unmasked x87 exception"),
    17: ("alignment check", "a misaligned access with AC set"),
}

WORDS = {
    StopReason.UNTIL: "reached",
    StopReason.LIMIT: "used up its instructions at",
    StopReason.HALT: "halted with nothing to wake it, before",
    StopReason.STOPPED: "was stopped by a handler at",
    StopReason.SHUTDOWN: "shut down (a fault in the delivery of a double fault) at",
    StopReason.RESET: "was reset by the guest at",
    StopReason.LOOP: "would loop forever in the 2.5.26 probe code (a probe on a breakpoint of the program's own) at",
    StopReason.DEVICE: "would fetch an instruction from a page with a memory-mapped device, at",
    StopReason.UNIMPLEMENTED: "met an instruction that pykprobes does not do yet at",
}


def vector_name(vector: int) -> str:
    """An exception vector in words.

    >>> vector_name(14), vector_name(0x80)
    ('page fault', 'int 0x80')
    """
    return VECTORS[vector][0] if vector in VECTORS else f"int {vector:#x}"


@dataclass(frozen=True, slots=True)
class Stop:
    """Why and where a run ended, and on which CPU. ``vector`` is None unless an exception or ``int n`` ended it.

    ``waiting`` are the CPUs that wait for kprobe_lock, each with the one that holds it.

    >>> Stop(StopReason.LIMIT, eip=0x1000, icount=5)
    <Stop LIMIT: the machine used up its instructions at 0x1000, after 5 instructions>
    """

    reason: StopReason
    eip: int = 0
    vector: int | None = None
    error_code: int = 0
    address: int = 0
    icount: int = 0
    code: bytes = field(default=b"", repr=False)
    symbols: SymbolTable | None = field(default=None, repr=False, compare=False)
    cpu: int = 0
    waiting: tuple[tuple[int, int], ...] = ()

    def __repr__(self) -> str:
        return f"<Stop {self.reason.name}: {self}, after {self.icount:,} instructions>"

    def __str__(self) -> str:
        where = self.symbols.describe(self.eip) if self.symbols else f"{self.eip:#x}"
        if self.reason is StopReason.TRAP:
            return self._trap(where)
        if self.reason is StopReason.PARKED:
            return "every CPU is parked: what was started has returned"
        if self.reason is StopReason.DEADLOCK:
            waiting = (f"CPU {cpu} waits for kprobe_lock, which CPU {holder} holds" for cpu, holder in self.waiting)
            return f"deadlock: {', '.join(waiting)}; no other can go on"
        who = f"CPU {self.cpu}" if self.cpu else "the machine"
        text = f"{who} {WORDS[self.reason]} {where}"
        return f"{text}: {self._instruction(True)}" if self.reason is StopReason.UNIMPLEMENTED else text

    def _trap(self, where: str) -> str:
        assert self.vector is not None
        if self.vector not in VECTORS:
            return f"int {self.vector:#x} before {where} is not served: m.on_trap({self.vector:#x}, function) serves it"
        name, advice = VECTORS[self.vector]
        text = f"{name} at {where}{f' on CPU {self.cpu}' if self.cpu else ''}"
        if self.vector == 14:
            kind = "writing" if self.error_code & 2 else "fetching" if self.eip == self.address else "reading"
            cause = "is protected" if self.error_code & 1 else "is not mapped"
            text += f", {kind} {self.address:#x} which {cause}"
        elif self.error_code:
            text += f", error code {self.error_code:#x}"
        instruction = self._instruction()
        return f"{text}{instruction and f' ({instruction})'}: {advice}"

    def _instruction(self, with_bytes: bool = False) -> str:
        from .disasm import disassemble

        first = next(disassemble(self.code, self.eip), None)
        if first is None or first.text.startswith(".byte"):
            return self.code[:4].hex(" ")
        return f"{first.text} ({first.code.hex(' ')})" if with_bytes else first.text
