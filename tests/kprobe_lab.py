"""Small guest programs under a probe, for the tests of the patch's semantics (docs/kprobes.md a.4 to a.9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pykprobes import Kprobe, Machine, PtRegs, Stop, StopReason

CODE = 0x10000  # the program under test; 0x90 behind it
SUB = 0x11000  # a function for handlers to call
DATA = 0x20000
HOLE = 0x40000000  # nothing is mapped there
TF, IF = 0x100, 0x200
DR6_BS = 0x4000
KERNEL_CS, USER_CS, USER_DS = 0x10, 0x23, 0x2B
BREAKPOINT = 0xCC
NOP = 0x90
ACTIVE, STEPPING, NESTED, STEPPED = 1, 2, 4, 8  # kprobe_status
SEED, FIXED = "2.5.26", "fixed"

both = pytest.mark.parametrize("mode", [SEED, FIXED])


def code(*parts: str) -> bytes:
    """Machine code from hex digits; the words beside each part of a test say what it is."""
    return bytes.fromhex("".join(parts))


def machine(mode: str | None, *parts: str, eflags: int = IF) -> Machine:
    """A machine about to run the given code."""
    m = Machine(memory=1 << 20, kprobes=mode)
    m.memory.fill(CODE, 0x2000, NOP)
    m.memory.write(CODE, code(*parts))
    m.regs.eip = CODE
    m.regs.eflags = eflags
    return m


def run_to(m: Machine, end: int, limit: int = 10_000) -> Stop:
    """Run until eip is at end, as it must come to be."""
    stop = m.run(until=end, max_instructions=limit)
    assert stop.reason is StopReason.UNTIL, stop
    return stop


def trapped(m: Machine, vector: int, limit: int = 10_000) -> Stop:
    """Run until an exception that nothing claims, which must be this one."""
    stop = m.run(max_instructions=limit)
    assert (stop.reason, stop.vector) == (StopReason.TRAP, vector), stop
    return stop


def word(value: int) -> str:
    """A word's bytes as hex digits."""
    return value.to_bytes(4, "little").hex()


def state(m: Machine) -> dict[str, int]:
    """kprobe_cpu, kprobe_running, kprobe_status and the lock."""
    return m._core.kprobe_state()


def free(m: Machine) -> bool:
    """Is no hit in progress?"""
    return state(m)["cpu"] == -1 and not state(m)["locked"]


@dataclass(frozen=True)
class Seen:
    """What a handler saw."""

    phase: str
    eip: int
    eflags: int
    esp: int  # the slot: in ring 0 the word on top of the interrupted stack
    sp: int
    byte: int  # at the probe's address
    status: int
    trapnr: int | None = None


Hook = Callable[[Kprobe, PtRegs], Any]


@dataclass
class Watch:
    """A probe with all three handlers, which note what they see and then do what they are told."""

    m: Machine
    at: int
    pre: Hook | None = None
    post: Hook | None = None
    fault: Callable[[Kprobe, PtRegs, int], bool] | None = None
    events: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.probe = Kprobe(self.at, 0, self._pre, self._post, self._fault)
        eflags = self.m.regs.eflags
        self.m.register_kprobe(self.probe)
        self.m.regs.eflags = eflags  # the patch's register_kprobe enables interrupts

    def _note(self, phase: str, regs: PtRegs, trapnr: int | None = None) -> None:
        byte = self.m.memory.u8(self.at)
        status = state(self.m)["status"]
        self.events.append(Seen(phase, regs.eip, regs.eflags, regs.esp, regs.sp, byte, status, trapnr))

    def _pre(self, probe: Kprobe, regs: PtRegs) -> None:
        self._note("pre", regs)
        if self.pre:
            self.pre(probe, regs)

    def _post(self, probe: Kprobe, regs: PtRegs, flags: int) -> None:
        assert flags == 0
        self._note("post", regs)
        if self.post:
            self.post(probe, regs)

    def _fault(self, probe: Kprobe, regs: PtRegs, trapnr: int) -> bool:
        self._note("fault", regs, trapnr)
        return self.fault(probe, regs, trapnr) if self.fault else False

    @property
    def phases(self) -> list[str]:
        return [seen.phase for seen in self.events]

    def last(self, phase: str) -> Seen:
        return [seen for seen in self.events if seen.phase == phase][-1]

    @property
    def armed(self) -> bool:
        return self.m.memory.u8(self.at) == BREAKPOINT


def entry(m: Machine, vector: int) -> int:
    """Where the gate of a vector leads."""
    at = m.regs.idtr_base + 8 * vector
    return m.memory.u16(at) | m.memory.u16(at + 6) << 16


def gate(m: Machine, vector: int) -> tuple[int, int]:
    """Type and DPL of a gate."""
    rights = m.memory.u8(m.regs.idtr_base + 8 * vector + 5)
    return rights & 15, rights >> 5 & 3


def take_trap(m: Machine, vector: int, eip: int) -> None:
    """Put the CPU where the gate of a trap has led it, without running any handler yet."""
    m.push(m.regs.eflags, m.regs.cs, eip)
    m.regs.eip = entry(m, vector)
    m.regs.eflags &= ~IF


def enter_user(m: Machine, eip: int, esp: int, eflags: int = IF) -> None:
    """Continue in ring 3 at eip, by an IRET at the end of the code page."""
    at = CODE + 0xFF0
    m.memory.write(at, b"\xcf")
    m.push(USER_DS, esp, eflags, USER_CS, eip)
    m.regs.eip = at
    assert m.step().reason is StopReason.LIMIT
    assert (m.regs.cpl, m.regs.eip) == (3, eip)
