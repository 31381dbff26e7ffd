"""What users and guests get wrong: a clear exception or stop reason each time, and the machine stays usable."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable

import pytest

from pykprobes import Count, Hist, Kprobe, KprobeError, Machine, MemoryFault, PtRegs, Stop, StopReason, Symbol

CODE = 0x2000
NOPS = b"\x90\x90\x90\xf4"


@pytest.fixture
def nops(machine: Machine) -> Machine:
    machine.load(NOPS, at=CODE)
    machine.regs.eip = CODE
    return machine


# Arguments


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"memory": 0}, ValueError),
        ({"memory": -4096}, ValueError),
        ({"memory": 4097}, ValueError),
        ({"memory": 1 << 40}, ValueError),
        ({"memory": "1M"}, TypeError),
        ({"memory": 1e6}, TypeError),
        ({"cpus": 0}, ValueError),
        ({"cpus": 33}, ValueError),
        ({"kprobes": "2.6"}, ValueError),
        ({"kprobes": True}, ValueError),
        ({"kernel": "linux"}, ValueError),
        ({"nonsense": 1}, TypeError),
    ],
)
def test_machine_arguments(arguments: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        Machine(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda m: m.map(0x10000001, 0x1000), ValueError),
        (lambda m: m.map(0x10000000, 0), ValueError),
        (lambda m: m.map(0x10000000, 0x1001), ValueError),
        (lambda m: m.map(0x10000000, -0x1000), ValueError),
        (lambda m: m.map(-0x1000, 0x1000), ValueError),
        (lambda m: m.map(0xFFFFF000, 0x2000), ValueError),
        (lambda m: m.map(1 << 32, 0x1000), ValueError),
        (lambda m: m.map(0, 1 << 32), ValueError),
        (lambda m: m.map(0x1000, 0x1000), ValueError),
        (lambda m: m.map(0xFF000000, 0x1000), ValueError),
        (lambda m: m.map(0xBFFFF000, 0x1000), ValueError),
        (lambda m: m.map(0x10000000, 0x1000, "w"), ValueError),
        (lambda m: m.map(0x10000000, 0x1000, "rz"), ValueError),
        (lambda m: m.map(0x10000000, 0x1000, 3), TypeError),
        (lambda m: m.map("here", 0x1000), TypeError),
        (lambda m: m.unmap(0x1000, 0x1000), ValueError),
        (lambda m: m.unmap(0x10000000, 0x1000), ValueError),
        (lambda m: m.unmap(0xFF000000, 0x1000), ValueError),
        (lambda m: m.memory.read(0x70000000, 1), MemoryFault),
        (lambda m: m.memory.read(-1, 1), ValueError),
        (lambda m: m.memory.read(0, -1), ValueError),
        (lambda m: m.memory.read(0xFFFFFFFF, 2), ValueError),
        (lambda m: m.memory.read(0x1000, 0xF0000000), ValueError),
        (lambda m: m.memory.write(0xFFFFFFFF, b"ab"), ValueError),
        (lambda m: m.memory.write(0x70000000, b"a"), ValueError),
        (lambda m: m.memory.write(0x3000, "text"), TypeError),
        (lambda m: m.memory.u32(1 << 40), ValueError),
        (lambda m: m.memory.u32(-4), ValueError),
        (lambda m: m.memory.u32("x"), TypeError),
        (lambda m: m.memory.write_u8(0x3000, 256), ValueError),
        (lambda m: m.memory.write_u32(0x3000, 1 << 32), ValueError),
        (lambda m: m.memory.write_u16(0x3000, 1.5), TypeError),
        (lambda m: m.memory[0x3000:], ValueError),
        (lambda m: m.memory[0x3000:0x2000], ValueError),
        (lambda m: m.memory[0x3000:0x4000:2], ValueError),
        (lambda m: m.memory.__setitem__(slice(0x3000, 0x3004), b"abc"), ValueError),
        (lambda m: m.memory.fill(0x3000, 10, 256), ValueError),
        (lambda m: m.memory.string(0x3000, 10), None),
        (lambda m: setattr(m.regs, "eax", 1 << 32), ValueError),
        (lambda m: setattr(m.regs, "eax", "1"), TypeError),
        (lambda m: setattr(m.regs, "al", 256), ValueError),
        (lambda m: setattr(m.regs, "cs", 0x7777), ValueError),
        (lambda m: setattr(m.regs, "ss", 0), ValueError),
        (lambda m: setattr(m.regs, "eaxx", 0), AttributeError),
        (lambda m: m.run(until=-1), ValueError),
        (lambda m: m.run(until="nowhere"), KeyError),
        (lambda m: m.run(until=1.5), TypeError),
        (lambda m: m.run(max_instructions=-1), ValueError),
        (lambda m: m.run(max_instructions="many"), TypeError),
        (lambda m: m.step(0), ValueError),
        (lambda m: m.step(-1), ValueError),
        (lambda m: m.call(1 << 32), ValueError),
        (lambda m: m.call(CODE, "text"), TypeError),
        (lambda m: m.call(CODE, b"text"), TypeError),
        (lambda m: m.call(CODE, 1.0), TypeError),
        (lambda m: m.call(CODE, 1 << 32), ValueError),
        (lambda m: m.call(CODE, *range(5000)), ValueError),
        (lambda m: m.call(CODE, convention="fastcall"), ValueError),
        (lambda m: m.alloc(0), ValueError),
        (lambda m: m.alloc(-1), ValueError),
        (lambda m: m.alloc(1 << 33), MemoryError),
        (lambda m: m.alloc(16, align=3), ValueError),
        (lambda m: m.push(1 << 32), ValueError),
        (lambda m: m.push("text"), TypeError),
        (lambda m: m.bind("", lambda m: 0), TypeError),
        (lambda m: m.bind("f", 3), TypeError),
        (lambda m: m.bind("f", lambda: 0), TypeError),
        (lambda m: m.bind("f", lambda m, *words: 0), TypeError),
        (lambda m: m.bind("f", lambda m, *, k: 0), TypeError),
        (lambda m: m.bind("f", lambda m: 0, args=-1), ValueError),
        (lambda m: m.on_trap(256, lambda m, regs: True), ValueError),
        (lambda m: m.on_trap(-1, lambda m, regs: True), ValueError),
        (lambda m: m.on_trap(3, "handler"), TypeError),
        (lambda m: m.interrupt(256), ValueError),
        (lambda m: m.timer(32, -1), ValueError),
        (lambda m: m.timer(300, 100), ValueError),
        (lambda m: m.register_kprobe("crc32"), TypeError),
        (lambda m: m.unregister_kprobe(None), TypeError),
        (lambda m: m.kprobe(CODE, pre_handler="f"), TypeError),
        (lambda m: m.kprobe(CODE, action="count"), TypeError),
        (lambda m: m.kprobe(-1, action=Count()), ValueError),
        (lambda m: m.kprobe(1 << 32, action=Count()), ValueError),
        (lambda m: m.kprobe("a b", action=Count()), ValueError),
        (lambda m: m.kprobe(None, action=Count()), TypeError),
        (lambda m: m.kprobe(CODE, action=Hist("x", "@nowhere:u32")), ValueError),
        (lambda m: Hist("x", "%ax", bins=0), ValueError),
        (lambda m: Hist("x", "%ax", bins=4), ValueError),
        (lambda m: Hist("x", "%ax", bins=4, range=(5, 5)), ValueError),
        (lambda m: Hist("x", "%ax", bins=4, range=(0, 1 << 70)), ValueError),
        (lambda m: Hist("x", "%ax", bins="linear"), ValueError),
        (lambda m: Hist("x", "%ax:s32"), ValueError),
        (lambda m: Hist("x", "%ax", bins="log2", range=(0, 4)), ValueError),
        (lambda m: Hist("x", "%ax", bins=2.5, range=(0, 4)), TypeError),
    ],
)
def test_bad_arguments_change_nothing(
    nops: Machine, use: Callable[[Machine], object], error: type[Exception] | None
) -> None:
    before = list(nops.regs), nops.memory.read(0x1000, 0x4000), nops.icount, len(nops.kprobes), list(nops.regions)
    if error is None:
        use(nops)
    else:
        with pytest.raises(error) as caught:
            use(nops)
        assert str(caught.value)
    after = list(nops.regs), nops.memory.read(0x1000, 0x4000), nops.icount, len(nops.kprobes), list(nops.regions)
    assert after == before
    assert nops.run().reason is StopReason.HALT


def test_partial_writes_do_not_happen(machine: Machine) -> None:
    machine.map(0x10000000, 0x1000)
    with pytest.raises(MemoryFault) as caught:
        machine.memory.write(0x10000FF0, b"x" * 32)
    assert caught.value.address == 0x10001000
    assert machine.memory.read(0x10000FF0, 16) == bytes(16)


# Probes


def test_probe_errors(nops: Machine) -> None:
    nops.symbols.add([Symbol("nops", CODE, 4)])
    p = nops.kprobe(CODE, action=Count())
    cases: list[tuple[Callable[[], object], int, str]] = [
        (lambda: nops.register_kprobe(p), errno.EINVAL, "registered already"),
        (lambda: nops.kprobe(0x70000000, action=Count()), errno.EINVAL, "no memory is mapped"),
        (lambda: nops.kprobe("nosp", action=Count()), errno.ENOENT, "did you mean nops"),
        (lambda: nops.kprobe("nosp"), errno.ENOENT, "did you mean nops"),
        (lambda: nops.kprobe("nops", -0x3000, action=Count()), errno.EINVAL, "no address"),
        (lambda: nops.unregister_kprobe(Kprobe(CODE)), errno.ENOENT, "not registered"),
        (lambda: nops.kprobe(0xFF004000 + 0x30, action=Count()), errno.EINVAL, "kernel side"),
    ]
    for use, code, says in cases:
        with pytest.raises(KprobeError) as caught:
            use()
        assert caught.value.errno == code, says
        assert says in str(caught.value)
    assert nops.kprobes == [p]
    nops.unregister_kprobe(p)
    with pytest.raises(KprobeError) as caught:
        nops.unregister_kprobe(p)
    assert caught.value.errno == errno.ENOENT
    assert nops.memory.read(CODE, 4) == NOPS


def test_instruction_boundaries(machine: Machine) -> None:
    code = b"\x55\x89\xe5\x66\xb8\x01\x00\xf3\xa4\xc9\xc3"  # push; mov; mov ax (prefixed); rep movsb; leave; ret
    machine.load(code, at=CODE)
    machine.symbols.add([Symbol("f", CODE, len(code))])
    starts = [0, 1, 3, 7, 9, 10]
    for offset in range(len(code)):
        if offset in starts:
            machine.kprobe("f", offset, action=Count())
            continue
        with pytest.raises(KprobeError, match="inside an instruction") as caught:
            machine.kprobe("f", offset, action=Count())
        assert caught.value.errno == errno.EILSEQ
    for offset in set(range(len(code))) - set(starts):  # the same with probes in all the right places
        with pytest.raises(KprobeError) as caught:
            machine.kprobe(CODE + offset, action=Count())
        assert caught.value.errno == errno.EILSEQ
    assert len(machine.kprobes) == len(starts)


def test_boundaries_are_not_checked_in_2_5_26() -> None:
    with Machine(memory=1 << 20, kprobes="2.5.26") as m:
        m.load(b"\xb8\x90\x90\x90\x90\xf4", at=CODE)
        m.symbols.add([Symbol("f", CODE, 6)])
        m.kprobe("f+1", action=Count())
        m.regs.eip = CODE
        assert m.run().reason is StopReason.HALT
        assert m.regs.eax == 0x909090CC


def test_kprobes_off() -> None:
    with Machine(memory=1 << 20, kprobes=None) as m:
        m.load(NOPS, at=CODE)
        with pytest.raises(KprobeError, match="off") as caught:
            m.kprobe(CODE, action=Count())
        assert caught.value.errno == errno.ENOSYS
        assert m.memory.read(CODE, 4) == NOPS


def test_batches_are_all_or_nothing(nops: Machine) -> None:
    first = nops.kprobe(CODE + 2, action=Count())
    probes = [Kprobe(CODE), Kprobe(CODE + 1), Kprobe(0x70000000)]
    with pytest.raises(KprobeError) as caught:
        nops.register_kprobes(probes)
    assert caught.value.errno == errno.EINVAL
    assert nops.kprobes == [first]
    assert not any(probe.registered for probe in probes)
    with pytest.raises(TypeError):
        nops.register_kprobes([Kprobe(CODE), "crc32"])  # type: ignore[list-item]
    assert nops.kprobes == [first]
    with pytest.raises(ValueError, match="not registered"):
        nops.unregister_kprobes([first, probes[0]])
    assert nops.kprobes == [first]


def test_a_failed_registration_frees_its_actions(nops: Machine) -> None:
    count = Count()
    with pytest.raises(KprobeError):
        nops.kprobe(0x70000000, action=count)
    with Machine(memory=1 << 20) as other:
        other.load(NOPS, at=CODE)
        other.kprobe(CODE, action=count)


def test_probes_of_other_machines(nops: Machine) -> None:
    with Machine(memory=1 << 20) as other:
        other.load(NOPS, at=CODE)
        p = other.kprobe(CODE, action=Count())
        with pytest.raises(KprobeError):
            nops.unregister_kprobe(p)
        with pytest.raises(KprobeError):
            nops.register_kprobe(p)
        assert p.registered


def test_mapped_memory_with_probes_stays(machine: Machine) -> None:
    machine.map(0x10000000, 0x1000)
    machine.memory.write(0x10000000, NOPS)
    p = machine.kprobe(0x10000001, action=Count())
    with pytest.raises(ValueError, match="unregister it first"):
        machine.unmap(0x10000000, 0x1000)
    machine.unregister_kprobe(p)
    machine.unmap(0x10000000, 0x1000)


# A closed machine


def test_closed_machine() -> None:
    m = Machine(memory=1 << 20)
    m.load(NOPS, at=CODE)
    p = m.kprobe(CODE, action=Count())
    m.close()
    m.close()
    uses: list[Callable[[], object]] = [
        m.run, m.step, lambda: m.call(CODE), lambda: m.regs.eax, lambda: setattr(m.regs, "eax", 1), lambda: m.icount,
        lambda: m.memory.read(CODE, 1), lambda: m.memory.u32(CODE), lambda: m.memory.write(CODE, b"1"),
        lambda: m.map(0x10000000, 0x1000), lambda: m.unmap(0x10000000, 0x1000), lambda: m.load(NOPS, at=CODE),
        lambda: m.kprobe(CODE, action=Count()), lambda: m.register_kprobe(p), lambda: m.alloc(1), lambda: m.push(1),
        lambda: m.timer(32, 1), lambda: m.interrupt(32), lambda: m.on_trap(3, lambda m, r: True), m.occupancy,
        lambda: m.disasm(CODE), m.stop,
    ]  # fmt: skip
    for use in uses:
        with pytest.raises((RuntimeError, ValueError)):
            use()
    with pytest.raises(KprobeError):
        m.unregister_kprobe(p)
    assert p.hits == 0


# Handlers that misbehave


def test_running_inside_a_handler(nops: Machine) -> None:
    for use in (nops.run, nops.step):
        p = nops.kprobe(CODE, pre_handler=lambda p, regs, use=use: use())
        with pytest.raises(RuntimeError, match=r"m\.call"):
            nops.run()
        nops.unregister_kprobe(p)
        nops.regs.eip = CODE
    assert nops.run().reason is StopReason.HALT


def test_closing_inside_a_handler(nops: Machine) -> None:
    nops.kprobe(CODE, pre_handler=lambda p, regs: nops.close())
    with pytest.raises(RuntimeError, match=r"m\.stop\(\)"):
        nops.run()
    assert nops.run().reason is StopReason.HALT


def test_calls_nested_without_end(machine: Machine) -> None:
    machine.load(b"\xcd\x80\xc3", at=CODE)
    machine.on_trap(0x80, lambda m, regs: m.call(CODE) or True)
    with pytest.raises(RecursionError):
        machine.call(CODE)
    machine.on_trap(0x80, lambda m, regs: True)
    machine.call(CODE)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit, StopIteration])
def test_any_exception_comes_through(nops: Machine, error: type[BaseException]) -> None:
    def handler(p: Kprobe, regs: PtRegs) -> None:
        raise error

    p = nops.kprobe(CODE, pre_handler=handler)
    with pytest.raises(error):
        nops.run()
    nops.unregister_kprobe(p)
    assert nops.run().reason is StopReason.HALT


def test_wrong_signatures_and_results(nops: Machine) -> None:
    p = nops.kprobe(CODE, pre_handler=lambda: None)  # type: ignore[misc]
    with pytest.raises(TypeError):
        nops.run()
    nops.unregister_kprobe(p)
    nops.regs.eip = CODE
    nops.kprobe(CODE, pre_handler=lambda p, regs: "any result")
    assert nops.run().reason is StopReason.HALT


@pytest.mark.parametrize(
    "use", [lambda regs: setattr(regs, "eax", 1 << 32), lambda regs: setattr(regs, "sp", 0), lambda regs: regs.nonsense]
)
def test_bad_registers_in_handlers(nops: Machine, use: Callable[[PtRegs], object]) -> None:
    nops.kprobe(CODE, pre_handler=lambda p, regs: use(regs))
    with pytest.raises((ValueError, AttributeError)):
        nops.run()


def test_garbage_in_handlers(nops: Machine) -> None:
    """Handlers, probes and actions that nobody else holds, and a collection in the middle of a hit."""

    def handler(p: Kprobe, regs: PtRegs) -> None:
        nops.unregister_kprobe(p)
        del p
        gc.collect()

    nops.kprobe(CODE, pre_handler=handler, post_handler=lambda p, regs, flags: None, action=[Count(), Count()])
    del handler
    gc.collect()
    assert nops.run().reason is StopReason.HALT
    assert nops.kprobes == []


# Guests that misbehave


def run(code: bytes, limit: int = 2_000_000) -> Stop:
    with Machine(memory=1 << 20) as m:
        m.load(code, at=CODE)
        m.regs.eip = CODE
        return m.run(max_instructions=limit)


def test_endless_loop() -> None:
    assert run(b"\xeb\xfe").reason is StopReason.LIMIT


def test_stack_overflow() -> None:
    stop = run(b"\xe8\xfb\xff\xff\xff")
    assert stop.reason is not StopReason.LIMIT
    assert stop.reason in (StopReason.TRAP, StopReason.SHUTDOWN)


def test_jump_to_nowhere() -> None:
    stop = run(b"\xb8\0\0\0\x70\xff\xe0")
    assert (stop.reason, stop.vector, stop.eip, stop.address) == (StopReason.TRAP, 14, 0x70000000, 0x70000000)
    assert "fetching 0x70000000" in str(stop)


def test_null_call() -> None:
    stop = run(b"\x31\xc0\xff\xd0")
    assert (stop.vector, stop.address) == (14, 0)


def test_triple_fault() -> None:
    """lidt of an empty table, then int3."""
    stop = run(b"\x6a\x00\x6a\x00\x0f\x01\x1c\x24\xcc")
    assert stop.reason is StopReason.SHUTDOWN
    assert "shut down" in str(stop)


def test_bad_stack_pointer() -> None:
    stop = run(b"\xbc\x04\0\0\0\x50\x50\x50")
    assert stop.reason in (StopReason.TRAP, StopReason.SHUTDOWN)


def test_halt() -> None:
    assert run(b"\xfa\xf4").reason is StopReason.HALT


@pytest.mark.parametrize("seed", range(20))
def test_random_code_never_hurts(seed: int) -> None:
    import random

    chance = random.Random(seed)
    for _ in range(10):
        with Machine(memory=1 << 20) as m:
            m.load(chance.randbytes(512), at=CODE)
            m.regs.eip = CODE
            for name in ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp"):
                setattr(m.regs, name, chance.choice([0, CODE, 0x3000, 0xFFFFFFFF, chance.getrandbits(32)]))
            for address in range(CODE, CODE + 512, 37):
                try:
                    m.kprobe(address, action=Count())
                except KprobeError as error:
                    assert error.errno == errno.EINVAL  # random bytes may be breakpoints
            stop = m.run(max_instructions=20_000)
            assert str(stop)
