"""An engine against the real CPU: step by step, and whole runs; only undefined.py excuses a difference."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Protocol

from .case import FAULT, FLAG_NAMES, GPRS, LIMIT, OUTCOMES, REGIONS, TF, UNTIL, Case, Result, Step
from .undefined import COMPARED, DEST, SEVERAL, Decoded, effect, fault_differs, half_done, identify, selector


class Engine(Protocol):
    """What compare needs of an emulator. step and run return the way in which the case ended, or None."""

    def load(self, case: Case) -> None: ...
    def step(self) -> Fault | None: ...
    def run(self, case: Case, limit: int | None = None) -> tuple[int, Fault | None]: ...
    def state(self) -> tuple[tuple[int, ...], int, int]: ...
    def set_eflags(self, eflags: int) -> None: ...
    def icount(self) -> int: ...
    def sregs(self) -> tuple[int, ...]: ...
    def memory(self, address: int, size: int) -> bytes: ...
    def foreign(self, address: int) -> bool: ...


@dataclass
class Fault:
    """An exception: vector, error code, CR2 of a page fault; text for anything else that stops an engine."""

    vector: int
    error: int = 0
    address: int = 0
    text: str = ""


@dataclass
class Difference:
    """The first thing that is not as on the CPU."""

    step: int
    what: str
    insn: bytes = b""

    def __str__(self) -> str:
        return f"step {self.step} ({self.insn.hex()}): {self.what}"


@dataclass
class Plan:
    """What a native trace lets us compare: undefined flags after each step, and how many steps say anything."""

    taint: list[int]
    steps: int
    complete: bool


def plan(case: Case, native: Result) -> Plan:
    """Follow undefined flags through a trace. A read of one, or an undefined destination, ends what can be compared."""
    regs: tuple[int, ...] | list[int] = case.regs
    taint, eip = 0, case.eip
    masks: list[int] = []
    for number, step in enumerate(native.steps):
        # cases clear the slot of a pushed selector before: in a patch, or by popping zero into eax
        clear = number == 0 or (native.steps[number - 1].insn[0] == 0x58 and regs[0] == 0)
        e = effect(step.insn, regs, clear, step.eip == eip)
        if e is None or e.reads & taint or e.undefined & DEST:
            return Plan(masks, number, False)
        taint = taint & ~e.writes | e.undefined
        masks.append(taint)
        regs, eip = step.regs, step.eip
    # what faults otherwise than by #UD or in its fetch and has no row of ours is an instruction of newer processors
    fetch = native.vector == 14 and native.address == native.eip
    known = native.outcome != FAULT or native.vector == 6 or fetch or _faulting(native) is not None
    return Plan(masks, len(masks), known and native.outcome in (UNTIL, LIMIT, FAULT))


def _differences(step: Step | Result, regs: tuple[int, ...], eip: int, eflags: int, mask: int) -> str:
    found = []
    if eip != step.eip:
        found.append(f"eip {eip:#x}, CPU {step.eip:#x}")
    found += [f"{n} {a:#x}, CPU {b:#x}" for n, a, b in zip(GPRS, regs, step.regs, strict=True) if a != b]
    wrong = (eflags ^ step.eflags) & COMPARED & ~mask
    if wrong:
        names = " ".join(FLAG_NAMES.get(1 << i, f"bit{i}") for i in range(32) if wrong >> i & 1)
        found.append(f"eflags {eflags:#x}, CPU {step.eflags:#x} ({names})")
    return "; ".join(found)


def _fault_difference(native: Result, fault: Fault | None) -> str:
    if native.outcome != FAULT:
        return f"stopped: {fault}" if fault else ""
    # bit 4 of a page fault's error code: the host has no-execute pages, the i386 has not
    want = Fault(native.vector, native.error & ~0x10 if native.vector == 14 else native.error, native.address)
    if fault and _several(native):
        want.address = fault.address
    if fault and fault_differs(_faulting(native), fault.vector, fault.address, want.vector):
        return ""
    if fault is None or (fault.vector, fault.error, fault.address) != (want.vector, want.error, want.address):
        return f"{fault}, CPU {want}"
    return ""


def memory_differences(engine: Engine, native: Result, excused: Container[int] = ()) -> Iterator[str]:
    """The first difference in each region of memory, but for addresses that may differ."""
    for address, size, _ in REGIONS:
        got, want = engine.memory(address, size), bytes(native.memory[address])
        changed = range(size) if got != want else ()
        at = next((i for i in changed if got[i] != want[i] and address + i not in excused), None)
        if at is not None:
            yield f"memory at {address + at:#x}: {got[at : at + 16].hex()}, CPU {want[at : at + 16].hex()}"


def _beyond(native: Result, engine: Engine) -> bool:
    """Did a wild access fault natively where the engine's own kernel has memory?"""
    return native.outcome == FAULT and native.vector == 14 and engine.foreign(native.address)


def _faulting(native: Result) -> Decoded | None:
    """The instruction that faulted."""
    for start, data in native.memory.items():
        if start <= native.eip < start + len(data):
            return identify(bytes(data[native.eip - start : native.eip - start + 15]))
    return None


def _several(native: Result) -> bool:
    """Did an instruction of undefined.SEVERAL fault?"""
    d = _faulting(native) if native.outcome == FAULT else None
    return d is not None and any(d.form.name in names.split() for names, _reason in SEVERAL)


def loads_ss(insn: bytes) -> bool:
    """MOV SS and POP SS hold off the single-step trap: one native step is two instructions (SDM vol. 3, 6.8.3)."""
    d = identify(insn)
    if d is None:
        return False
    return d.form.opcode == b"\x17" or (d.form.name == "mov_to_seg" and insn[d.at] >> 3 & 7 == 2)


def compare_steps(case: Case, native: Result, engine: Engine) -> Difference | None:
    """Step both; after every instruction take over the CPU's undefined flags."""
    p = plan(case, native)
    engine.load(case)
    extra = 0
    for number in range(p.steps):
        step = native.steps[number]
        fault = engine.step()
        if loads_ss(step.insn) and not fault:
            extra += 1
            fault = engine.step()
        if fault:
            return Difference(number, f"stopped: {fault}", step.insn)
        regs, eip, eflags = engine.state()
        text = _differences(step, regs, eip, eflags, p.taint[number])
        if text:
            return Difference(number, text, step.insn)
        if (eflags ^ step.eflags) & p.taint[number]:
            engine.set_eflags(eflags & ~p.taint[number] | step.eflags & p.taint[number])
    if not p.complete or _beyond(native, engine):
        return None
    fault = engine.step() if native.outcome == FAULT else None
    return _compare_end(native, engine, fault, p, extra)


def _compare_end(native: Result, engine: Engine, fault: Fault | None, p: Plan, extra: int) -> Difference | None:
    last = native.steps[-1].insn if native.steps and native.outcome != FAULT else b""
    text = _fault_difference(native, fault)
    if not text and not (native.outcome == FAULT and half_done(_faulting(native))):
        text = _differences(native, *engine.state(), p.taint[-1] if p.taint else 0)
    if not text and not _several(native):
        text = next(memory_differences(engine, native), "")
    if not text and [*map(selector, engine.sregs())] != [*map(selector, native.sregs)]:
        text = f"es cs ss ds fs gs {[hex(s) for s in engine.sregs()]}, CPU {[hex(s) for s in native.sregs]}"
    retired = native.icount + extra
    # a software interrupt is retired and then traps; the CPU's stepper never sees it end
    slack = 1 if native.outcome == FAULT and native.vector in (3, 4) else 0
    if not text and not retired <= engine.icount() <= retired + slack:
        text = f"icount {engine.icount()}, CPU {retired}"
    return Difference(len(native.steps), text, last) if text else None


def compare_run(case: Case, native: Result, engine: Engine) -> Difference | None:
    """Run both to the end, and compare all that is left. None too if an undefined value decides the run."""
    p = plan(case, native)
    if not p.complete or native.eflags & TF or _beyond(native, engine):
        return None
    extra = sum(loads_ss(step.insn) for step in native.steps)
    engine.load(case)
    outcome, fault = engine.run(case)
    wanted = native.outcome
    if outcome != wanted:
        return Difference(-1, f"run ended by {OUTCOMES[outcome]} {fault or ''}, CPU {OUTCOMES[wanted]}")
    return _compare_end(native, engine, fault, p, extra)


def compare_stops(case: Case, native: Result, engine: Engine) -> Difference | None:
    """Run both, but stop the engine after 2, 5, 9, ... instructions on the way, and compare there too."""
    p = plan(case, native)
    if not p.complete or native.eflags & TF or _beyond(native, engine) or any(loads_ss(s.insn) for s in native.steps):
        return None
    engine.load(case)
    done = 0
    for part in range(2, 60):
        if done + part >= len(native.steps):
            break
        outcome, fault = engine.run(case, part)
        done += part
        step = native.steps[done - 1]
        text = "" if outcome == LIMIT else f"ended by {OUTCOMES[outcome]} {fault or ''} within {done} instructions"
        text = text or _differences(step, *engine.state(), p.taint[done - 1])
        if not text and engine.icount() != done:
            text = f"icount {engine.icount()}, not {done}"
        if text:
            return Difference(done - 1, text, step.insn)
    outcome, fault = engine.run(case, case.max_steps - done)
    if outcome != native.outcome:
        return Difference(-1, f"run ended by {OUTCOMES[outcome]} {fault or ''}, CPU {OUTCOMES[native.outcome]}")
    return _compare_end(native, engine, fault, p, 0)
