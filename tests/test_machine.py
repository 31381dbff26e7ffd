"""The Python contract of a machine: running, calling, registers, memory, probes and their handlers."""

from __future__ import annotations

import gc
import signal
import threading
import weakref

import numpy
import pytest

from pykprobes import Count, Kprobe, Machine, MachineFault, MemoryFault, PtRegs, Stop, StopReason, StopRun, Symbol

CODE = 0x2000
# mov ecx, 5; L: inc eax; dec ecx; jnz L; hlt
LOOP = b"\xb9\x05\0\0\0\x40\x49\x75\xfc\xf4"
INC, DEC, END = CODE + 5, CODE + 6, CODE + 9
# cdecl: int add(int a, int b)
ADD = b"\x8b\x44\x24\x04\x03\x44\x24\x08\xc3"
FOREVER = b"\xeb\xfe"


@pytest.fixture
def loop(machine: Machine) -> Machine:
    machine.load(LOOP, at=CODE)
    machine.regs.eip = CODE
    return machine


# Running


def test_run_to_halt_and_again(loop: Machine) -> None:
    stop = loop.run()
    assert (stop.reason, stop.eip, stop.icount, stop.vector) == (StopReason.HALT, END + 1, 17, None)
    assert loop.icount == 17
    assert loop.regs.eax == 5
    loop.regs.eip = CODE
    assert loop.run().icount == 34


def test_until_and_limits(loop: Machine) -> None:
    loop.symbols.add([Symbol("end", END)])
    assert loop.run(until=DEC).reason is StopReason.UNTIL
    assert loop.regs.eip == DEC
    assert loop.regs.eax == 1
    assert loop.run(until=DEC).reason is StopReason.UNTIL
    assert loop.regs.eax == 2
    stop = loop.run(max_instructions=4)
    assert (stop.reason, stop.icount) == (StopReason.LIMIT, 9)
    assert loop.run(until="end").eip == END
    assert loop.run(max_instructions=0).reason is StopReason.LIMIT
    assert loop.icount == 16


def test_step(loop: Machine) -> None:
    stop = loop.step()
    assert (stop.reason, stop.eip, stop.icount) == (StopReason.LIMIT, INC, 1)
    assert loop.step(3).eip == INC
    assert loop.step(100).reason is StopReason.HALT


def test_long_runs_report_progress(machine: Machine) -> None:
    machine.load(FOREVER, at=CODE)
    machine.regs.eip = CODE
    seen: list[int] = []
    assert machine.run(max_instructions=3_500_000, progress=seen.append).reason is StopReason.LIMIT
    assert seen == [1_000_000, 2_000_000, 3_000_000, 3_500_000]


def test_keyboard_interrupt_comes_out_of_a_guest_loop(machine: Machine) -> None:
    import _thread

    machine.load(FOREVER, at=CODE)
    machine.regs.eip = CODE
    timer = threading.Timer(0.1, _thread.interrupt_main)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            machine.run()
    finally:
        signal.signal(signal.SIGINT, before)
    timer.join()
    assert machine.run(max_instructions=10).reason is StopReason.LIMIT


def test_same_start_same_run() -> None:
    def once() -> tuple[int, list[tuple[str, int]]]:
        with Machine(memory=1 << 20) as m:
            m.load(LOOP, at=CODE)
            m.regs.eip = CODE
            m.run()
            return m.icount, list(m.regs)

    assert once() == once()


@pytest.mark.parametrize(
    ("code", "vector", "words"),
    [
        (b"\x31\xc9\xf7\xf1", 0, "divide error"),
        (b"\x0f\x0b", 6, "invalid opcode"),
        (b"\xa1\0\0\0\x70", 14, "reading 0x70000000 which is not mapped"),
        (b"\xcd\x80", 0x80, "m.on_trap(0x80, function)"),
        (b"\xcc", 3, "breakpoint"),
    ],
)
def test_traps_stop_in_words(machine: Machine, code: bytes, vector: int, words: str) -> None:
    machine.load(code, at=CODE, name="code")
    machine.symbols.add([Symbol("code", CODE, 8)])
    machine.regs.eip = CODE
    stop = machine.run()
    assert (stop.reason, stop.vector) == (StopReason.TRAP, vector)
    assert words in str(stop)
    assert "code" in str(stop)
    assert repr(stop).startswith("<Stop TRAP: ")


def test_on_trap(machine: Machine) -> None:
    """A system call: eax is the number, and the result."""
    machine.load(b"\xb8\x05\0\0\0\xcd\x80\x90\xcd\x81\xf4", at=CODE)
    machine.regs.eip = CODE
    seen: list[tuple[int, int]] = []

    def system_call(m: Machine, regs: PtRegs) -> bool:
        seen.append((regs.eax, regs.eip))
        regs.eax *= 2
        return True

    machine.on_trap(0x80, system_call)
    machine.on_trap(0x81, lambda m, regs: False)
    stop = machine.run()
    assert (stop.reason, stop.vector, stop.eip) == (StopReason.TRAP, 0x81, CODE + 10)
    assert seen == [(5, CODE + 7)]
    assert machine.regs.eax == 10
    machine.on_trap(0x80, None)
    machine.regs.eip = CODE
    assert machine.run().vector == 0x80


def test_interrupts_and_timer(machine: Machine) -> None:
    machine.load(b"\x90\xeb\xfd", at=CODE)
    machine.regs.eip = CODE
    ticks: list[int] = []
    machine.on_trap(0x20, lambda m, regs: ticks.append(m.icount) or True)
    machine.timer(0x20, 100)
    machine.run(max_instructions=1000)
    machine.timer(0x20, 0)
    assert 9 <= len(ticks) <= 10
    assert machine.interrupt(0x20)
    assert not machine.interrupt(0x20)
    before = len(ticks)
    machine.run(max_instructions=10)
    assert len(ticks) == before + 1


# Calling


def test_calls(machine: Machine) -> None:
    machine.load(ADD, at=CODE)
    before = list(machine.regs)
    assert machine.call(CODE, 40, 2) == 42
    assert machine.call(CODE, -1, 2) == 1
    assert [pair for pair in machine.regs if pair[0] != "eflags"] == [pair for pair in before if pair[0] != "eflags"]
    machine.load(b"\x01\xd0\x01\xc8\x03\x44\x24\x04\xc3", at=CODE + 0x100)  # eax + edx + ecx + first on the stack
    assert machine.call(CODE + 0x100, 1, 20, 300, 4000, convention="regparm3") == 4321


def test_call_by_name_and_offset(machine: Machine) -> None:
    machine.load(b"\x90\x90" + ADD, at=CODE)
    machine.symbols.add([Symbol("add", CODE, 11)])
    assert machine.call("add", 1, 2) == machine.call("add+2", 1, 2) == 3
    with pytest.raises(KeyError, match="did you mean add"):
        machine.call("ad")


def test_call_that_traps(machine: Machine) -> None:
    machine.load(b"\xbb\x07\0\0\0\x0f\x0b", at=CODE)
    before = list(machine.regs)
    with pytest.raises(MachineFault, match="did not return: invalid opcode") as caught:
        machine.call(CODE)
    assert isinstance(caught.value.stop, Stop)
    assert (caught.value.stop.vector, caught.value.stop.eip) == (6, CODE + 5)
    assert caught.value.regs["ebx"] == 7
    assert list(machine.regs) == before
    machine.load(FOREVER, at=CODE)
    with pytest.raises(MachineFault) as caught:
        machine.call(CODE, max_instructions=1000)
    assert caught.value.stop.reason is StopReason.LIMIT


def test_stack_of_calls_is_aligned(machine: Machine) -> None:
    machine.load(b"\x89\xe0\xc3", at=CODE)
    for count in range(6):
        assert (machine.call(CODE, *range(count)) + 4) % 16 == 0


# Registers and memory


def test_registers_and_their_parts(machine: Machine) -> None:
    regs = machine.regs
    regs.eax = 0x12345678
    assert (regs.ax, regs.al, regs.ah) == (0x5678, 0x78, 0x56)
    regs.ah = 0xFF
    regs.bl = -1
    regs.cx = 0xABCD
    assert (regs.eax, regs.ebx, regs.ecx) == (0x1234FF78, 0xFF, 0xABCD)
    regs.edi = -2
    assert regs.edi == 0xFFFFFFFE
    regs.dr0 = 0x1234
    assert regs.dr0 == 0x1234
    assert regs.cr0 & 0x80000001 == 0x80000001
    assert regs.cpl == 0
    assert regs.cs
    assert regs.gdtr_limit
    assert dict(regs)["eax"] == 0x1234FF78
    assert "eax=0x1234ff78" in repr(regs)


def test_memory(machine: Machine) -> None:
    memory = machine.memory
    memory.write(0x3000, b"hello\0world")
    assert memory[0x3000:0x3005] == b"hello"
    assert memory[0x3004] == b"o"
    memory[0x3000:0x3002] = b"HE"
    assert memory.read(0x3000, 5) == b"HEllo"
    assert memory.string(0x3000) == b"HEllo"
    memory.write_u8(0x3010, 0xFF)
    memory.write_u16(0x3011, 0x1234)
    memory.write_u32(0x3013, -1)
    memory.write_u64(0x3017, 0x1122334455667788)
    assert (memory.u8(0x3010), memory.u16(0x3011), memory.u32(0x3013)) == (0xFF, 0x1234, 0xFFFFFFFF)
    assert memory.u64(0x3017) == 0x1122334455667788
    memory.fill(0x4000, 0x3000, 7)
    assert memory.read(0x4000, 0x3000) == b"\x07" * 0x3000
    assert memory.read(0x4000, 0) == b""
    assert memory.is_mapped(0x4000, 0x1000)
    assert not memory.is_mapped(0x70000000)
    memory.write(0x5000, memoryview(bytearray(b"view")))
    assert memory.read(0x5000, 4) == b"view"


def test_maps(machine: Machine) -> None:
    machine.map(0x10000000, 0x3000, "rw")
    machine.memory.write(0x10000FFE, b"abcd")
    machine.unmap(0x10001000, 0x1000)
    assert machine.memory.is_mapped(0x10000000, 0x1000)
    assert not machine.memory.is_mapped(0x10001000)
    assert machine.memory.is_mapped(0x10002000)
    machine.map(0x10001000, 0x1000)
    assert machine.memory.u8(0x10001000) == 0
    machine.map(0xF0000000, 0x1000, "r")
    machine.load(b"\xc6\x05\0\0\0\xf0\x01\xf4", at=CODE)
    machine.regs.eip = CODE
    stop = machine.run()
    assert (stop.vector, stop.address) == (14, 0xF0000000)


def test_alloc_and_push(machine: Machine) -> None:
    places = [machine.alloc(n) for n in (1, 100, 5000, 3 << 20, 1)]
    assert all(place % 16 == 0 for place in places)
    assert len(set(places)) == 5
    for place, size in zip(places, (1, 100, 5000, 3 << 20, 1), strict=True):
        machine.memory.fill(place, size, 0xAA)
    assert machine.alloc(8, align=4096) % 4096 == 0
    esp = machine.regs.esp
    assert machine.push(1, 2) == esp - 8
    assert (machine.memory.u32(esp - 4), machine.memory.u32(esp - 8)) == (1, 2)
    assert machine.memory.read(machine.push(b"abcde"), 8) == b"abcde\0\0\0"


# Probes and handlers


def test_handlers_see_and_change_registers(loop: Machine) -> None:
    seen: list[tuple[str, int, int]] = []

    def pre(p: Kprobe, regs: PtRegs) -> None:
        seen.append(("pre", regs.eax, regs.eflags & 0x200))
        regs.eax += 10

    def post(p: Kprobe, regs: PtRegs, flags: int) -> None:
        seen.append(("post", regs.eax, flags))

    p = loop.kprobe(INC, pre_handler=pre, post_handler=post)
    assert loop.run().reason is StopReason.HALT
    assert loop.regs.eax == 55
    assert seen[:4] == [("pre", 0, 0x200), ("post", 11, 0), ("pre", 11, 0x200), ("post", 22, 0)]
    assert (p.hits, p.nmissed, p.misses["recursion"]) == (5, 0, 0)


def test_esp_is_the_interrupted_stacks_top(machine: Machine) -> None:
    """push 0x77; pop eax; hlt, probed at the pop: the alias of the ring-0 frame."""
    machine.load(b"\x6a\x77\x58\xf4", at=CODE)
    machine.regs.eip = CODE
    seen = []

    def handler(p: Kprobe, regs: PtRegs) -> None:
        seen.append((regs.esp, machine.memory.u32(regs.sp), regs.sp))
        machine.memory.write_u32(regs.sp, 0x88)
        assert regs.esp == 0x88
        regs.esp = 0x99
        assert machine.memory.u32(regs.sp) == 0x99

    machine.kprobe(CODE + 2, pre_handler=handler)
    esp = machine.regs.esp
    machine.run()
    assert seen == [(0x77, 0x77, esp - 4)]
    assert machine.regs.eax == 0x99
    assert machine.regs.esp == esp


def test_decorator_gives_the_probe(loop: Machine) -> None:
    @loop.kprobe(INC)
    def on_inc(p: Kprobe, regs: PtRegs) -> None:
        assert p is on_inc

    loop.run()
    assert isinstance(on_inc, Kprobe)
    assert on_inc.hits == 5


def test_counters_outlive_the_probe_and_the_machine() -> None:
    with Machine(memory=1 << 20) as m:
        m.load(LOOP, at=CODE)
        m.regs.eip = CODE
        p, q = m.kprobe(INC, action=Count()), m.kprobe(DEC, action=Count())
        m.run()
        m.unregister_kprobe(p)
        assert (p.hits, p.registered, p.action.count) == (5, False, 5)
        assert "unregistered after 5 hits" in repr(p)
    assert (q.hits, q.registered) == (5, False)


def test_probe_again_after_unregistering(loop: Machine) -> None:
    p = Kprobe(INC, action=Count())
    for hits in (5, 5):
        loop.register_kprobe(p)
        loop.regs.eip = CODE
        loop.run()
        assert p.hits == hits
        loop.unregister_kprobe(p)
        assert loop.memory[CODE : CODE + len(LOOP)] == LOOP


def test_stop_action_and_stop_in_a_handler(loop: Machine) -> None:
    p = loop.kprobe(INC, action=StopRun())
    for n in range(5):
        stop = loop.run()
        assert (stop.reason, stop.eip, loop.regs.eax) == (StopReason.STOPPED, INC, n)
    assert loop.run().reason is StopReason.HALT
    assert p.hits == 5
    loop.unregister_kprobe(p)
    loop.kprobe(DEC, pre_handler=lambda p, regs: loop.stop())
    loop.regs.eip = CODE
    assert loop.run().reason is StopReason.STOPPED
    with pytest.raises(RuntimeError, match="nothing is running"):
        loop.stop()


@pytest.mark.parametrize("kprobes", ["fixed", "2.5.26"])
@pytest.mark.parametrize("way", ["action", "exception"])
def test_a_call_between_stop_and_run_is_not_another_hit(kprobes: str, way: str) -> None:
    """The call takes time and may be hit itself, and yet the run goes on behind the probe that stopped it."""
    m = Machine(memory=1 << 20, kprobes=kprobes)
    m.load(LOOP, at=CODE)
    m.load(b"\x8b\x44\x24\x04\xc3", at=0x20000)  # mov eax, [esp + 4]; ret
    m.regs.eip = CODE
    fail = None if way == "action" else lambda p, regs: 1 // 0
    p = m.kprobe(INC, pre_handler=fail, action=StopRun() if way == "action" else None)
    for n in range(5):
        if way == "action":
            assert m.run().reason is StopReason.STOPPED
        else:
            with pytest.raises(ZeroDivisionError):
                m.run()
        assert (m.regs.eip, m.regs.eax, p.hits) == (INC, n, n + 1)
        assert m.call(0x20000, 7) == 7
    assert m.run().reason is StopReason.HALT
    assert p.hits == 5


def test_limits_are_exact_where_most_of_a_run_is_traps(loop: Machine) -> None:
    loop.load(b"\x40\xeb\xfd", at=CODE)  # inc eax; jmp to it
    loop.kprobe(CODE, pre_handler=lambda p, regs: None, post_handler=lambda p, regs, flags: None)
    stop = loop.run(max_instructions=1_500_001)
    assert (stop.reason, stop.icount, stop.eip, loop.regs.eax) == (StopReason.LIMIT, 1_500_001, CODE + 1, 750_001)


@pytest.mark.parametrize("kprobes", ["fixed", "2.5.26"])
def test_a_fault_retried_for_ever_uses_up_the_limit(kprobes: str) -> None:
    m = Machine(memory=1 << 20, kprobes=kprobes)
    m.load(b"\xa1\0\0\0\x90", at=CODE)  # mov eax, [90000000h]
    m.regs.eip = CODE
    faults = []
    m.kprobe(CODE, pre_handler=lambda p, regs: None, fault_handler=lambda p, regs, trapnr: not faults.append(trapnr))
    stop = m.run(max_instructions=10)
    assert (stop.reason, stop.icount) == (StopReason.LIMIT, 0)
    assert len(faults) <= 20_000  # Ctrl-C is looked for meanwhile


def test_a_call_of_the_place_where_a_run_stopped_is_a_hit(loop: Machine) -> None:
    p = loop.kprobe(INC, action=StopRun())
    loop.run()
    with pytest.raises(MachineFault, match="stopped by a handler"):
        loop.call(INC)
    assert p.hits == 2
    loop.unregister_kprobe(p)


def test_eip_set_between_runs_is_not_where_the_last_block_led(machine: Machine) -> None:
    machine.load(b"\x40\x90\x90\x90", at=CODE)  # inc eax; nops
    for runs in range(1, 6):
        machine.regs.eip = CODE
        stop = machine.run(until=CODE + 1, max_instructions=1000)
        assert (stop.reason, machine.regs.eax, machine.icount) == (StopReason.UNTIL, runs, runs)


def test_chains_of_actions(loop: Machine) -> None:
    first, second, shared = Count(), Count(), Count()
    loop.kprobe(INC, action=[first, shared])
    loop.kprobe(DEC, action=[second, shared])
    loop.run()
    assert (first.count, second.count, shared.count) == (5, 5, 10)
    with pytest.raises(ValueError, match="twice"):
        Kprobe(CODE, action=[first, first])
    with Machine(memory=1 << 20) as other, pytest.raises(ValueError, match="another machine"):
        other.kprobe(CODE, action=first)


def test_handler_that_raises(loop: Machine) -> None:
    fail = True

    def handler(p: Kprobe, regs: PtRegs) -> None:
        if fail:
            raise ValueError("on purpose")

    loop.kprobe(INC, pre_handler=handler)
    with pytest.raises(ValueError, match="on purpose") as caught:
        loop.run()
    assert any("pre_handler" in note for note in caught.value.__notes__)
    fail = False
    assert loop.run().reason is StopReason.HALT
    assert loop.regs.eax == 5


@pytest.mark.parametrize("which", ["post_handler", "trap"])
def test_other_handlers_that_raise(loop: Machine, which: str) -> None:
    def handler(*args: object) -> bool:
        raise ArithmeticError(which)

    if which == "trap":
        loop.load(b"\xcd\x80\xf4", at=CODE)
        loop.on_trap(0x80, handler)
    else:
        loop.kprobe(INC, post_handler=handler)
    with pytest.raises(ArithmeticError, match=which):
        loop.run()
    if which == "post_handler":
        assert loop.regs.eip == DEC
        loop.unregister_kprobe(loop.kprobes[0])
    assert loop.run().reason is StopReason.HALT


def test_calls_inside_handlers(loop: Machine) -> None:
    loop.load(ADD, at=0x6000)
    results = []

    def handler(p: Kprobe, regs: PtRegs) -> None:
        before = repr(regs)
        results.append(loop.call(0x6000, regs.eax, 100))
        assert repr(regs) == before
        regs.eax += 1

    p = loop.kprobe(INC, pre_handler=handler)
    assert loop.run().reason is StopReason.HALT
    assert results == [100, 102, 104, 106, 108]
    assert loop.regs.eax == 10
    assert p.hits == 5


def test_calls_inside_handlers_inside_calls(machine: Machine) -> None:
    machine.load(ADD, at=CODE)
    depths = []

    def handler(p: Kprobe, regs: PtRegs) -> None:
        depths.append(len(depths))
        if len(depths) < 5:
            assert machine.call(0x6000, len(depths), 0) == len(depths)

    machine.load(ADD, at=0x6000)
    machine.kprobe(CODE, pre_handler=handler)
    nested = machine.kprobe(0x6000, pre_handler=lambda p, regs: None)
    assert machine.call(CODE, 1, 2) == 3
    assert depths == [0]
    assert nested.hits + nested.nmissed == 1


def test_faults_in_calls_inside_handlers(loop: Machine) -> None:
    loop.load(b"\x0f\x0b", at=0x6000)
    caught = []

    def handler(p: Kprobe, regs: PtRegs) -> None:
        try:
            loop.call(0x6000)
        except MachineFault as error:
            caught.append(error.stop.vector)

    loop.kprobe(INC, pre_handler=handler)
    assert loop.run().reason is StopReason.HALT
    assert caught == [6] * 5
    assert loop.regs.eax == 5


def test_unregistering_from_handlers(loop: Machine) -> None:
    other = loop.kprobe(DEC, action=Count())

    def once(p: Kprobe, regs: PtRegs) -> None:
        loop.unregister_kprobe(p)
        loop.unregister_kprobe(other)

    p = loop.kprobe(INC, pre_handler=once)
    assert loop.run().reason is StopReason.HALT
    assert loop.regs.eax == 5
    assert (p.hits, other.hits) == (1, 0)
    assert loop.memory[CODE : CODE + len(LOOP)] == LOOP


def test_registering_from_handlers(loop: Machine) -> None:
    made = []

    def handler(p: Kprobe, regs: PtRegs) -> None:
        if not made:
            made.append(loop.kprobe(DEC, action=Count()))

    loop.kprobe(INC, pre_handler=handler)
    loop.run()
    assert made[0].hits == 5


def test_registers_of_a_handler_do_not_outlive_it(loop: Machine) -> None:
    kept: list[PtRegs] = []
    loop.kprobe(INC, pre_handler=lambda p, regs: kept.append(regs))
    loop.run()
    with pytest.raises(RuntimeError, match="running handler"):
        _ = kept[0].eax
    loop.close()
    with pytest.raises(RuntimeError):
        _ = kept[0].sp


def test_probes_keep_what_they_need_alive(loop: Machine) -> None:
    class Handler:
        def __call__(self, p: Kprobe, regs: PtRegs) -> None:
            pass

    loop.kprobe(INC, pre_handler=Handler(), action=[Count(), Count()])
    gc.collect()
    assert loop.run().reason is StopReason.HALT
    assert loop.kprobes[0].hits == 5


def test_machines_are_collected_with_their_cycles() -> None:
    m = Machine(memory=1 << 20)
    m.load(LOOP, at=CODE)
    m.kprobe(INC, pre_handler=lambda p, regs, machine=m: machine.icount)
    m.regs.eip = CODE
    m.run()
    gone = weakref.ref(m)
    del m
    gc.collect()
    assert gone() is None


def test_batches(loop: Machine) -> None:
    probes = [Kprobe(INC), Kprobe(DEC), Kprobe(CODE)]
    loop.register_kprobes(probes)
    assert sum(loop.occupancy()) == len(loop.kprobes) == 3
    loop.unregister_kprobes(probes)
    assert sum(loop.occupancy()) == 0
    assert loop.memory[CODE : CODE + len(LOOP)] == LOOP


def test_disassembly_shows_what_probes_replaced(loop: Machine) -> None:
    loop.kprobe(INC, action=Count())
    assert loop.memory.u8(INC) == 0xCC
    assert [line.text for line in loop.disasm(CODE, 5)] == ["mov ecx, 5", "inc eax", "dec ecx", f"jne {INC:#x}", "hlt"]


def test_threads_have_their_own_machines() -> None:
    results: list[int] = []

    def work() -> None:
        with Machine(memory=1 << 20) as m:
            m.load(LOOP, at=CODE)
            p = m.kprobe(INC, pre_handler=lambda p, regs: None)
            for _ in range(50):
                m.regs.eip = CODE
                m.run()
            results.append(p.hits)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [250] * 4


def test_one_machine_is_not_for_two_threads(machine: Machine) -> None:
    machine.load(FOREVER, at=CODE)
    machine.regs.eip = CODE
    errors: list[str] = []
    begun, done = threading.Event(), threading.Event()

    def other() -> None:
        begun.wait()
        for use in (lambda: machine.run(), lambda: machine.close(), lambda: machine.memory.write(CODE, b"\x90")):
            try:
                use()
            except RuntimeError as error:
                errors.append(str(error))
        done.set()

    def progress(icount: int) -> None:
        begun.set()
        if done.is_set():
            machine.stop()

    thread = threading.Thread(target=other)
    thread.start()
    assert machine.run(progress=progress).reason is StopReason.STOPPED
    thread.join()
    assert len(errors) == 3
    assert all("another thread" in error for error in errors)


def test_bare_machine() -> None:
    with Machine(memory=1 << 20, kernel=None) as m:
        assert m.regs.cr0 & 1 in (0, 1)
        with pytest.raises(RuntimeError, match="kernel=None"):
            m.call(0)
        assert "Machine" in repr(m)
    assert repr(m) == "<Machine, closed>"


def test_an_instruction_not_done_yet_is_named_with_its_bytes() -> None:
    stop = Stop(StopReason.UNIMPLEMENTED, eip=0x1000, code=bytes.fromhex("0f090000"))
    assert str(stop).endswith("at 0x1000: wbinvd (0f 09)")
    assert str(Stop(StopReason.UNIMPLEMENTED, eip=0x1000, code=b"\xff\xff")).endswith(": ff ff")


@pytest.mark.parametrize("count", [0, -1])
def test_disassembling_nothing(loop: Machine, count: int) -> None:
    with pytest.raises(ValueError, match="cannot disassemble"):
        loop.disasm(CODE, count)
    with pytest.raises(MemoryFault):
        loop.disasm(0x90000000)


def test_any_buffer_fills_a_slice_of_memory(machine: Machine) -> None:
    words = numpy.arange(4, dtype="<u4")
    machine.memory[0x3000:0x3010] = words
    assert machine.memory[0x3000:0x3010] == words.tobytes()
    with pytest.raises(ValueError, match="16 bytes cannot fill"):
        machine.memory[0x3000:0x3004] = words
    with pytest.raises(TypeError):
        machine.memory[0x3000:0x3004] = "text"  # type: ignore[assignment]


def test_the_page_below_the_stack_is_named(machine: Machine) -> None:
    with pytest.raises(ValueError, match="overlaps the unmapped page that ends the stack"):
        machine.map(machine._core.layout.stack_bottom - 4096, 4096)


def test_going_on_elsewhere_than_where_a_run_ended():
    """The next run's first block is not what follows the last one's."""
    m = Machine(memory=1 << 20)
    m.memory.write(0x2000, b"\x40\x90\x43")
    for n in range(1, 6):
        m.regs.eip = 0x2000
        stop = m.run(until=0x2001, max_instructions=100)
        assert (stop.reason, m.regs.eax, m.icount) == (StopReason.UNTIL, n, n)
