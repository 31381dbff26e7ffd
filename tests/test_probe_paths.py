"""The three speeds of a hit: one guest on all of them, with the same hits, registers, memory and records."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pykprobes import Count, Kprobe, Machine, Record, Stop, StopReason

IMAGES = Path(str(files("pykprobes") / "images"))
CODE = 0x10000
SETTINGS = (False, "boost", True)
NAMES = {False: "trap", "boost": "boosted", True: "optimized"}
FIELDS = ("%ax", "%cx", "%dx", "%bx", "%si", "%di", "%bp", "%sp", "%ip", "%flags", "+0(%sp)")
GPRS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags")


def code(text: str) -> bytes:
    return bytes.fromhex(text)


class Run:
    """One guest under probes at one setting, and all that can be seen of it."""

    def __init__(self, optimize: bool | str, program: bytes, probes: list[int], how: str, **regs: int) -> None:
        self.m = m = Machine(memory=1 << 20, optimize=optimize)
        m.memory.write(CODE, program)
        m.regs.eip, m.regs.eflags = CODE, 0x202
        for name, value in regs.items():
            setattr(m.regs, name, value)
        self.seen: list[tuple[int, ...]] = []
        self.record = Record(*FIELDS, capacity=1 << 16)
        self.probes = [self.probe(CODE + at, how) for at in probes]

    def probe(self, address: int, how: str) -> Kprobe:
        if how == "record":
            return self.m.kprobe(address, action=[Count(), self.record])
        if how == "count":
            return self.m.kprobe(address, action=Count())

        def pre(p: Kprobe, regs: Any) -> None:
            above = self.m.memory.read(regs.sp, 8)
            self.seen.append((p.address or 0, self.m.icount, *(getattr(regs, n) for n in GPRS), *above))

        return self.m.kprobe(address, pre_handler=pre)

    def result(self, stop: Stop) -> dict[str, Any]:
        """Everything but the memory below the stack pointer, where only a trap leaves its frame."""
        m = self.m
        above = int(m.regs.esp)
        stack = bytes(m.memory.read(above, (above | 0xFFF) + 1 - above)) if m.memory.is_mapped(above) else b""
        return {
            "stop": (stop.reason, stop.vector, stop.error_code, stop.address, stop.eip),
            "icount": m.icount,
            "regs": [getattr(m.regs, n) for n in (*GPRS, "dr6")],
            "hits": [(p.hits, p.nmissed, p.misses) for p in self.probes],
            "seen": self.seen,
            "records": self.record.drain().tolist(),
            "code and data": bytes(m.memory.read(CODE, 0x20000)),
            "stack": stack,
        }


def compare(program: bytes, probes: list[int], how: str, until: int | None = None, **regs: int) -> dict[str, Any]:
    """The result at all settings, which must be one."""
    results = []
    for optimize in SETTINGS:
        run = Run(optimize, program, probes, how, **regs)
        end = None if until is None else CODE + until
        results.append(run.result(run.m.run(until=end, max_instructions=5000)))
    for result in results[1:]:
        for key, value in results[0].items():
            assert result[key] == value, key
    return results[0]


PROGRAMS = {
    # name: code, places of probes, the end
    "a loop, its block's end and the jump target": ("b90a000000 01c8 49 75fb 90", [5, 7, 8], 10),
    "compare and branch apart": ("b905000000 83f902 7401 40 49 75f6 90", [8, 10, 11, 12], 14),
    "call and ret": ("e802000000 eb03 40 c3 90 90", [0, 5, 7, 8], 10),
    "store over what follows": ("c70510000100 40404040 9090909090 90 48484848 90", [0, 16, 18], 20),
    "store over a probe": ("c60511000100 4b 9090909090909090 9090 43 43 90", [15, 16, 17], 18),
    "store to the own breakpoint": ("c60500000100 90 90 90", [0, 7], 9),
    "load of the own breakpoint": ("a100000100 8b0d05000100 90", [0, 5], 12),
    "load over the own breakpoint": ("909090 8b0d02000100 90", [3], 10),
    "push of the own bytes": ("ff3500000100 90 58", [0, 7], 8),
    "rep movsb": ("be00000100 bf00000200 b905000000 f3a4 90", [15, 17], 18),
    "rep stosd of nothing": ("bf00000200 31c9 f3ab 90", [5, 7, 9], 10),
    "repe cmpsb": ("be00000100 bf00000100 b904000000 f3a6 90", [15], 18),
    "movsb and lodsd": ("be00000100 bf00000200 a4 ad 90", [10, 11], 13),
    "pushf and popf": ("9c 58 50 9d 90", [0, 1, 2, 3], 5),
    "popf of another carry": ("6a03 9d 9c 58 90", [0, 2, 3, 4], 6),
    "cli and sti": ("fa 9c 58 fb 90 9c 5b 90", [0, 1, 3, 4, 5], 8),
    "mov ss and what follows": ("668cd0 668ed0 90 90", [0, 3, 6], 8),
    "leave": ("55 89e5 6a07 6a08 c9 90", [0, 1, 3, 5, 7], 8),
    "pusha and popa": ("60 31c0 61 90", [0, 1, 3], 5),
    "enter": ("c8100000 c9 90", [0, 4], 6),
    "xlat, bound, bt": ("bb00000100 d7 0fa303 0fab05 00000200 90", [5, 6, 9], 17),
    "16-bit operands": ("66b83412 6640 6650 6658 90", [0, 4, 6, 8], 11),
    "prefixes": ("3e8b05 00000100 f0ff05 00000200 66f7d8 90", [0, 7, 14], 18),
    "division": ("31d2 b864000000 b907000000 f7f1 90", [0, 2, 12], 15),
    "x87": ("d9e8 d9e8 dec1 db1d 00000200 90", [0, 2, 4, 6], 13),
    "cpuid and rdtsc": ("31c0 0fa2 0f31 90", [2, 4], 7),
    "divide error": ("31d2 31c9 f7f1 90", [0, 4], 7),
    "page fault": ("8b0500000040 90", [0], 7),
    "undefined": ("40 0f0b 90", [0, 1], 4),
    "int 80h": ("40 cd80 90", [0, 1, 3], 4),
    "int3 of its own behind": ("40 cc 90", [0, 2], 3),
    "hlt": ("40 f4 90", [0, 1], 3),
    "single step by itself": ("9c 810c2400010000 9d 40 90", [1, 8, 9], 11),
    "no room for a frame": ("bc30000040 40 90", [5], 7),
    "probe in a fused pair, taken": ("31c0 85c0 7402 4040 90", [2, 4, 8], 9),
    "loop and jecxz": ("b903000000 40 e2fd e301 40 90", [5, 6, 8, 11], 12),
    "jmp through a register": ("b80a000100 ffe0 9090 9090 90", [0, 5, 10], 11),
    "conditional moves and sets": ("31c0 0f44c1 0f94c3 90", [2, 5], 9),
}


@pytest.mark.parametrize("how", ["record", "handler", "count"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str, how: str) -> None:
    text, probes, end = PROGRAMS[name]
    result = compare(code(text), probes, how, end)
    assert sum(hits for hits, *_ in result["hits"]) > 0 or name == "no room for a frame"


@pytest.mark.parametrize("how", ["record", "handler"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_byte_that_can_be_probed_with_few_instructions_left(name: str, how: str) -> None:
    """Stops at each instruction, where single instructions and blocks of them take turns."""
    text, probes, end = PROGRAMS[name]
    results = []
    for optimize in SETTINGS:
        run = Run(optimize, code(text), probes, how)
        stops = []
        for left in (1, 2, 3, 70, 1, 100):
            stop = run.m.run(until=CODE + end, max_instructions=left)
            stops.append((stop.reason, stop.eip, run.m.icount))
            if stop.reason is not StopReason.LIMIT:
                break
        results.append((stops, run.result(stop)))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("name", ["checksum", "sorting", "hashtable"])
def test_every_instruction_of_the_shipped_programs(name: str) -> None:
    """Probes at all instructions of a program, as records and as counts."""
    results = []
    for optimize in SETTINGS:
        m = Machine(optimize=optimize)
        m.load(str(IMAGES / f"{name}.elf"))
        # not edx and the top of the stack: gcc drops words by pop edx, and in them are the frames of earlier traps
        record = Record(*(f for f in FIELDS if f not in ("%dx", "+0(%sp)")), capacity=1 << 16, full="drop-newest")
        probes = []
        symbols = [m.symbols.lookup(name) for name in m.symbols]
        for symbol in symbols:
            if symbol.is_code and symbol.size:
                lines = m.disasm(symbol.address, symbol.size)
                inside = [line.address for line in lines if line.address < symbol.address + symbol.size]
                probes += [m.kprobe(address, action=[Count(), record]) for address in inside]
        stop = m.run(max_instructions=60_000)
        low, high = min(s.address for s in symbols), max(s.address + s.size for s in symbols)
        results.append(
            {
                "stop": (stop.reason, stop.eip, m.icount),
                "regs": [getattr(m.regs, n) for n in GPRS if n != "edx"],
                "hits": [(p.address, p.hits, p.nmissed) for p in probes],
                "records": record.drain(),
                "memory": bytes(m.memory.read(low, high - low)),  # uninitialised stack has frames of traps in it
            }
        )
        assert {p.path for p in probes} >= {NAMES[optimize]}
    for result in results[1:]:
        for key, value in results[0].items():
            assert np.array_equal(result[key], value) if key == "records" else result[key] == value, key


# Handlers that change what they are in


def changed_by(act: Callable[[Run, Kprobe, Any], None]) -> None:
    """A handler at the third of five instructions does something; the results must be the same."""
    results = []
    for optimize in SETTINGS:
        run = Run(optimize, code("40 40 41 42 43 40 90"), [], "handler", eax=0, ecx=0, edx=0, ebx=0)

        def pre(p: Kprobe, regs: Any, run: Run = run) -> None:
            run.seen.append((regs.eip, regs.eax, p.hits))
            act(run, p, regs)

        run.probes = [run.m.kprobe(CODE + 2, pre_handler=pre), run.m.kprobe(CODE + 4, action=Count())]
        stop = run.m.run(until=CODE + 6, max_instructions=1000)
        results.append(run.result(stop))
    for result in results[1:]:
        assert result == results[0]


def test_a_handler_adds_a_probe_at_the_next_instruction() -> None:
    def act(run: Run, p: Kprobe, regs: Any) -> None:
        run.probes.append(run.m.kprobe(CODE + 3, action=Count()))

    changed_by(act)


def test_a_handler_removes_itself_and_the_next() -> None:
    def act(run: Run, p: Kprobe, regs: Any) -> None:
        for probe in run.probes:
            run.m.unregister_kprobe(probe)

    changed_by(act)


def test_a_handler_replaces_itself() -> None:
    def act(run: Run, p: Kprobe, regs: Any) -> None:
        run.m.unregister_kprobe(p)
        run.probes.append(run.m.kprobe(CODE + 2, action=Count()))

    changed_by(act)


def test_a_handler_jumps() -> None:
    def act(run: Run, p: Kprobe, regs: Any) -> None:
        regs.eip = CODE + 4

    changed_by(act)


def test_a_handler_jumps_to_the_same_instruction() -> None:
    def act(run: Run, p: Kprobe, regs: Any) -> None:
        if p.hits < 3:
            regs.eip = CODE + 2

    changed_by(act)


def test_a_handler_changes_registers_and_flags() -> None:
    def act(run: Run, p: Kprobe, regs: Any) -> None:
        regs.ecx, regs.ebx, regs.eflags = 7, 9, regs.eflags | 0x8D5

    changed_by(act)


def test_a_handler_sets_the_trap_flag() -> None:
    def act(run: Run, p: Kprobe, regs: Any) -> None:
        regs.eflags |= 0x100

    changed_by(act)


def test_a_handler_writes_over_the_code_ahead() -> None:
    def act(run: Run, p: Kprobe, regs: Any) -> None:
        run.m.memory.write(CODE + 3, b"\x4a\x4b")

    changed_by(act)


def test_a_handler_calls_a_probed_function() -> None:
    def act(run: Run, p: Kprobe, regs: Any) -> None:
        if p.hits == 1:
            run.m.memory.write(CODE + 0x100, code("43 c3"))
            run.probes.append(run.m.kprobe(CODE + 0x100, action=Count()))
        run.seen.append((run.m.call(CODE + 0x100),))

    changed_by(act)


def test_a_handler_stops_the_run_and_it_goes_on_as_the_same_hit() -> None:
    results = []
    for optimize in SETTINGS:
        run = Run(optimize, code("40 40 41 42 43 40 90"), [], "handler", eax=0, ecx=0)

        def pre(p: Kprobe, regs: Any, run: Run = run) -> None:
            run.seen.append((run.m.icount,))
            run.m.stop()

        run.probes = [run.m.kprobe(CODE + 2, pre_handler=pre)]
        first = run.m.run(until=CODE + 6, max_instructions=1000)
        assert first.reason is StopReason.STOPPED
        state = (first.eip, run.m.regs.ecx, run.m.icount)
        results.append((state, run.result(run.m.run(until=CODE + 6, max_instructions=1000))))
    assert results[0] == results[1] == results[2]
    assert results[0][1]["hits"][0][0] == 1


def test_an_exception_leaves_the_machine_usable() -> None:
    results = []
    for optimize in SETTINGS:
        run = Run(optimize, code("40 40 41 42 43 40 90"), [], "handler", eax=0, ecx=0)

        def pre(p: Kprobe, regs: Any) -> None:
            raise LookupError("no")

        run.probes = [run.m.kprobe(CODE + 2, pre_handler=pre)]
        with pytest.raises(LookupError, match="no"):
            run.m.run(until=CODE + 6, max_instructions=1000)
        results.append(run.result(run.m.run(until=CODE + 6, max_instructions=1000)))
    assert results[0] == results[1] == results[2]


def test_a_guest_that_changes_its_gate_is_not_optimised_any_more() -> None:
    """Once the gate of vector 3 is not present, a hit is a fault, whichever path a probe has."""
    outcomes = []
    for optimize in SETTINGS:
        m = Machine(memory=1 << 20, optimize=optimize)
        gate = m.regs.idtr_base + 3 * 8 + 5
        program = code("b903000000 40 49 75fc") + b"\x80\x25" + gate.to_bytes(4, "little") + b"\x7f" + code("40 90")
        m.memory.write(CODE, program)
        m.regs.eip = CODE
        loop, behind = m.kprobe(CODE + 5, action=Count()), m.kprobe(CODE + 16, action=Count())
        stop = m.run(until=CODE + 17, max_instructions=1000)
        outcomes.append((stop.reason, stop.vector, stop.error_code, loop.hits, behind.hits))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0][3:] == (3, 0)


# Paths


def path_of(text: str, **options: Any) -> str | None:
    handlers = options.pop("handlers", {"action": Count()})
    m = Machine(memory=1 << 20, **options)
    m.memory.write(CODE, code(text))
    return m.kprobe(CODE, **handlers).path


def nothing(*args: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("text", "path"),
    [("89d8", "optimized"), ("7400", "optimized"), ("c3", "optimized"), ("a4", "boosted"), ("fa", "boosted"),
     ("f3a4", "trap"), ("67a4", "trap"), ("9d", "trap"), ("fb", "trap"), ("cd80", "trap"), ("f4", "trap"),
     ("d9e8", "trap"), ("0fa2", "trap"), ("0f31", "boosted"), ("c9", "boosted"), ("60", "boosted"), ("d7", "boosted")],
)  # fmt: skip
def test_path_by_instruction(text: str, path: str) -> None:
    assert path_of(text) == path


def test_path_by_handlers_and_machine() -> None:
    assert path_of("89d8", handlers={"pre_handler": nothing}) == "optimized"
    assert path_of("89d8", handlers={"post_handler": nothing}) == "trap"
    assert path_of("89d8", handlers={"pre_handler": nothing, "fault_handler": nothing}) == "trap"
    assert path_of("89d8", optimize=False) == "trap"
    assert path_of("89d8", optimize="boost") == "boosted"
    assert path_of("7400", optimize="boost") == "trap"
    assert path_of("89d8", kprobes="2.5.26") == "trap"
    assert Kprobe(CODE).path == "none"


def test_bad_settings() -> None:
    for value in ("fast", None, 3, 0.5):
        with pytest.raises(ValueError, match="optimize="):
            Machine(memory=1 << 20, optimize=value)  # type: ignore[arg-type]


def test_a_hundred_thousand_probes() -> None:
    """All are hit once, the patch's table holds them all, and taking them out leaves the code as it was."""
    n = 100_000
    m = Machine()
    program = b"\x40" * n + b"\xf4"
    m.load(program, at=0x100000)
    count = Count()
    probes = [Kprobe(0x100000 + i, action=count) for i in range(n)]
    m.register_kprobes(probes)
    assert sum(m.occupancy()) == n
    for _ in range(2):
        m.regs.eip, m.regs.eax = 0x100000, 0
        assert m.run().reason is StopReason.HALT
        assert m.regs.eax == n
    assert count.count == 2 * n and {p.hits for p in probes} == {2} and {p.path for p in probes} == {"optimized"}
    m.unregister_kprobes(probes)
    assert bytes(m.memory.read(0x100000, n + 1)) == program
    m.regs.eip = 0x100000
    m.run()
    assert count.count == 2 * n
