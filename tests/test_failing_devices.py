"""Device handlers that fail while tables, stacks or TSSs in their memory are used: what was going on still happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pykprobes import StopReason

from .guest_code import *
from .test_task_switch import NARROW, TASK2, TSS2, describe, prepare, write_task

BS, BT = 0x4000, 0x8000
PAGES = {"gdt": GDT, "idt": IDT, "tss": TSS, "stack": STACKS[0] - 0x1000, "new tss": TSS2 & ~0xFFF}


class Boom(Exception):
    """What the device's function raises."""


@dataclass
class Flaky:
    """A device over pages of a guest that is the memory it hides, but for one call that fails."""

    g: Guest
    fails: int
    calls: int = 0

    def cover(self, *pages: int) -> None:
        for page in pages:
            data = bytearray(self.g.m.memory.read(page, 0x1000))
            self.g.m.on_mmio(range(page, page + 0x1000), *self.functions(page, data))

    def functions(
        self, base: int, data: bytearray
    ) -> tuple[Callable[[int, int], int], Callable[[int, int, int], None]]:
        def read(address: int, size: int) -> int:
            self.count()
            return int.from_bytes(data[address - base : address - base + size], "little")

        def write(address: int, size: int, value: int) -> None:
            self.count()
            data[address - base : address - base + size] = value.to_bytes(size, "little")

        return read, write

    def count(self) -> None:
        self.calls += 1
        if self.calls == self.fails:
            raise Boom


def finish(g: Guest) -> bool:
    """Run to the HLT of a handler or task; did the device fail on the way?"""
    raised = False
    try:
        stop = g.m.run(max_instructions=1000)
    except Boom:
        raised = True
        stop = g.m.run(max_instructions=1000)
    assert stop.reason is StopReason.HALT, stop
    return raised


def everything(g: Guest) -> tuple[object, ...]:
    regs = g.m.regs
    hidden = tuple(regs.segment(name) for name in ("cs", "ss", "ds", "es", "tr", "ldtr"))
    return tuple(regs), hidden, g.m.icount, [g.m.memory.read(page, 0x1000) for page in PAGES.values()]


def fail_everywhere(make: Callable[[], Guest], pages: tuple[int, ...], most: int = 200) -> int:
    """Let each access of the devices fail once; the outcome must always be that without failures. Their number."""
    expected = None
    for fails in range(most):
        g = make()
        device = Flaky(g, fails)
        device.cover(*pages)
        raised = finish(g)
        assert raised == (0 < fails <= device.calls)
        found = everything(g)
        expected = expected or found
        assert found == expected, f"failure {fails}"
        g.m.close()
        if fails and not raised:
            return fails - 1
    raise AssertionError("there is always another access")


def stepped() -> Guest:
    g = Guest()
    g.put(mov("ecx", 5), NOP)
    g.m.regs.eip, g.m.regs.eflags, g.m.regs.dr6 = CODE, FIXED | TF, 0
    return g


def watched() -> Guest:
    g = Guest()
    g.put(store(DATA, "ecx"), NOP)
    g.m.regs.eip, g.m.regs.dr6 = CODE, 0
    g.m.regs.dr0, g.m.regs.dr7 = DATA, 0xD0002
    return g


def code_breakpoint() -> Guest:
    g = Guest()
    g.put(mov("ecx", 5), NOP)
    g.m.regs.eip, g.m.regs.dr6 = CODE, 0
    g.m.regs.dr0, g.m.regs.dr7 = CODE + 5, 2
    return g


def icebp() -> Guest:
    g = Guest()
    g.put(mov("ecx", 5), INT1)
    g.m.regs.eip = CODE
    return g


@pytest.mark.parametrize("make", [stepped, watched, code_breakpoint, icebp])
def test_debug_exceptions(make: Callable[[], Guest]) -> None:
    assert fail_everywhere(make, (PAGES["gdt"], PAGES["idt"], PAGES["stack"])) >= 7


def test_the_debug_exception_of_a_failed_delivery_comes_once() -> None:
    g = stepped()
    device = Flaky(g, 2)
    device.cover(IDT)
    assert finish(g)
    assert (g.vector(), g.frame().eip, g.m.regs.dr6) == (DEBUG, CODE + 5, 0xFFFF0FF0 | BS)
    g.m.regs.eflags = FIXED
    g.run(NOP, interrupt(DONE))
    assert g.vector() == DONE


@pytest.mark.parametrize("what", ["mov ss", "breakpoint"])
def test_an_instruction_behind_a_shadow_or_with_rf_is_tried_again_as_it_was(what: str) -> None:
    """A failing IN behind MOV SS keeps its interrupt shadow, one with RF set meets no breakpoint again."""
    g = Guest()
    fails = [True]

    def read(port: int, size: int) -> int:
        if fails.pop():
            g.m.interrupt(0x60)
            raise Boom
        return 7

    g.m.on_port(range(0x190, 0x191), read=read)
    g.m.regs.edx, g.m.regs.ebx = 0x190, K_DS
    fails.insert(0, False)
    if what == "mov ss":
        g.m.regs.eflags = FIXED | IF
        at = g.put(mov_sreg("ss", "ebx"), b"\xec", NOP)
        g.m.regs.eip = CODE
    else:
        at = g.put(b"\xec", NOP)
        g.m.regs.eip, g.m.regs.eflags = CODE, FIXED | RF
        g.m.regs.dr0, g.m.regs.dr7 = CODE, 2
        g.m.regs.dr6 = 0
    with pytest.raises(Boom):
        g.m.run(max_instructions=10)
    if what == "mov ss":
        assert g.m.run(max_instructions=10).reason is StopReason.HALT
        assert (g.vector(), g.frame().eip, g.m.regs.eax & 0xFF) == (0x60, at, 7)
    else:
        assert g.m.run(until=at, max_instructions=10).reason is StopReason.UNTIL
        assert g.m.regs.dr6 == 0xFFFF0FF0


def switching(way: str, kind: int, old: int) -> Callable[[], Guest]:
    def make() -> Guest:
        g = Guest()
        describe(g, kind)
        write_task(g, kind)
        describe(g, old, at=TSS, selector=TSS_SELECTOR)
        g.m.memory.write(TSS + (0x1C if old == TSS32 else 0x2A), imm(g.m.regs.cr3 if old == TSS32 else LDT_SELECTOR))
        g.m.regs.tr = TSS_SELECTOR
        g.m.memory.write(TASK2, NOP + HLT)
        g.m.memory.write(TASK2 & 0xFFFF, NOP + HLT)
        g.m.memory.write(IDT + 8 * 0x40, gate(SPARE, 0xBAD, TASK, 3))
        prepare(g, way)
        codes = {"jump": far_jmp(SPARE), "call": far_call(SPARE), "event": interrupt(0x40), "return": IRET}
        g.put(NOP, codes[way])
        g.m.regs.eip = CODE
        return g

    return make


@pytest.mark.parametrize("way", ["jump", "call", "event", "return"])
@pytest.mark.parametrize(("kind", "old"), [(TSS32, TSS32), (TSS16, TSS32), (TSS32, TSS16)])
def test_task_switches_with_a_tss_in_a_device(way: str, kind: int, old: int) -> None:
    """Each word that is saved or read, the link: whichever fails, the switch is made again from its beginning."""
    words = len(NARROW) if TSS16 in (kind, old) else 18
    assert fail_everywhere(switching(way, kind, old), (PAGES["tss"],)) >= 12
    assert fail_everywhere(switching(way, kind, old), (PAGES["new tss"],)) >= words - 3


def test_a_tss_trap_whose_delivery_fails() -> None:
    def make() -> Guest:
        g = switching("jump", TSS32, TSS32)()
        g.m.memory.write(TSS2 + 0x64, imm(1, 2))
        g.m.regs.dr6 = 0
        return g

    assert fail_everywhere(make, (PAGES["idt"],)) >= 2
    g = make()
    Flaky(g, 2).cover(IDT)
    assert finish(g)
    assert (g.vector(), g.frame().eip, g.m.regs.dr6) == (DEBUG, TASK2, 0xFFFF0FF0 | BT)


@pytest.mark.parametrize("fails", [1, 2])
def test_the_stacks_of_the_tss_and_the_io_bitmap(fails: int) -> None:
    g = Guest()
    g.descriptor(TSS_SELECTOR, TSS, 0x100, TSS32, 0)
    g.m.regs.tr = TSS_SELECTOR
    g.m.memory.write(TSS + 0x66, imm(0x68, 2))
    device = Flaky(g, fails)
    device.cover(TSS)
    g.enter(3)
    g.put(mov("ecx", 5), b"\xec", interrupt(DONE))  # the bitmap's offset and two bytes of it; then ESP0 and SS0
    g.m.regs.edx, g.m.regs.eip = 0x40, CODE
    assert finish(g)
    assert (g.vector(), g.frame().esp, device.calls) == (DONE, STACKS[3], 4 + fails)
