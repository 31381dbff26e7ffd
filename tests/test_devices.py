"""Ports and memory-mapped devices: every access, failing handlers, handlers that use the machine."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from pykprobes import Machine, Segment, StopReason

CODE, STACK, DATA, MMIO = 0x4000, 0x8000, 0x10000, 0xFEC00000
Log = list[tuple[object, ...]]
Function = Callable[..., object]


@pytest.fixture
def m() -> Iterator[Machine]:
    with bare() as machine:
        yield machine


def bare() -> Machine:
    """Flat 32-bit protected mode, ring 0, no tables."""
    m = Machine(memory=1 << 20, kernel=None, kprobes=None)
    m.regs.cr0 = 0x11
    m.regs.set_segment("cs", Segment(8, 0, 0xFFFFFFFF, 0xC09B))
    for name in ("ss", "ds", "es"):
        m.regs.set_segment(name, Segment(16, 0, 0xFFFFFFFF, 0xC093))
    m.regs.esp = STACK
    return m


def run(m: Machine, code: str | bytes, **regs: int) -> None:
    data = bytes.fromhex(code) if isinstance(code, str) else code
    m.memory.write(CODE, data + b"\xf4")
    for name, value in regs.items():
        setattr(m.regs, name, value)
    m.regs.eip = CODE
    go_on(m, len(data))


def go_on(m: Machine, length: int) -> None:
    stop = m.run(max_instructions=10000)
    assert (stop.reason, stop.eip) == (StopReason.HALT, CODE + length + 1), stop


class Ram:
    """A device that is memory, and logs."""

    def __init__(self, size: int, base: int = MMIO) -> None:
        self.data = bytearray(random.Random(size).randbytes(size))
        self.base = base
        self.log: Log = []

    def read(self, address: int, size: int) -> int:
        self.log.append(("r", address - self.base, size))
        return int.from_bytes(self.data[address - self.base :][:size], "little")

    def write(self, address: int, size: int, value: int) -> None:
        self.log.append(("w", address - self.base, size, value))
        self.data[address - self.base :][:size] = b""
        self.data[address - self.base : address - self.base + size] = value.to_bytes(size, "little")


# Ports


@pytest.mark.parametrize(
    ("code", "size"), [("ec", 1), ("66ed", 2), ("ed", 4), ("e490", 1), ("66e590", 2), ("e590", 4)]
)
def test_in(m: Machine, code: str, size: int) -> None:
    seen: Log = []
    port = 0x90 if code[-2:] == "90" else 0x190
    m.on_port(range(port, port + 4), read=lambda *a: seen.append(a) or 0x8765_4321 & (1 << 8 * size) - 1)
    run(m, code, eax=0xAAAAAAAA, edx=0xFFFF0190)
    assert seen == [(port, size)]
    assert m.regs.eax == {1: 0xAAAAAA21, 2: 0xAAAA4321, 4: 0x87654321}[size]


@pytest.mark.parametrize(
    ("code", "size"), [("ee", 1), ("66ef", 2), ("ef", 4), ("e690", 1), ("66e790", 2), ("e790", 4)]
)
def test_out(m: Machine, code: str, size: int) -> None:
    seen: Log = []
    port = 0x90 if code[-2:] == "90" else 0x190
    m.on_port(range(port, port + 4), write=lambda *a: seen.append(a))
    run(m, code, eax=0x87654321, edx=0xFFFF0190)
    assert seen == [(port, size, 0x87654321 & (1 << 8 * size) - 1)]


def test_unclaimed_ports_read_all_ones(m: Machine) -> None:
    m.on_port(range(0x190, 0x191), read=lambda port, size: 0)
    run(m, "ed ef 66e591", eax=0, edx=0x191)
    assert m.regs.eax == 0xFFFFFFFF
    run(m, "ed", eax=0, edx=0xFFFF)
    assert m.regs.eax == 0xFFFFFFFF


@pytest.mark.parametrize(
    ("claimed", "port", "calls", "value"),
    [
        (range(0x100, 0x101), 0x100, [(0x100, 1)], 0xFFFFFF00),
        (range(0x101, 0x102), 0x100, [(0x101, 1)], 0xFFFF00FF),
        (range(0x101, 0x104), 0x100, [(0x101, 2), (0x103, 1)], 0x000000FF),
        (range(0x100, 0x103), 0x100, [(0x100, 2), (0x102, 1)], 0xFF000000),
        (range(0x103, 0x200), 0x100, [(0x103, 1)], 0x00FFFFFF),
        (range(0xFFFF, 0x10000), 0xFFFE, [(0xFFFF, 1)], 0xFFFF00FF),
        (range(0x10000), 0xFFFF, [(0xFFFF, 1)], 0xFFFFFF00),
        (range(0x104, 0x200), 0x100, [], 0xFFFFFFFF),
    ],
)
def test_accesses_beyond_a_range_come_in_parts(
    m: Machine, claimed: range, port: int, calls: Log, value: int
) -> None:
    seen: Log = []
    m.on_port(claimed, lambda *a: seen.append(a) or 0, lambda *a: seen.append(a))
    run(m, "ed", edx=port)
    assert (seen, m.regs.eax) == (calls, value)
    seen.clear()
    run(m, "ef", edx=port, eax=0x44332211)
    assert [call[:2] for call in seen] == calls
    for address, size, part in seen:
        assert part == 0x44332211 >> 8 * (address - port) & (1 << 8 * size) - 1


def test_neighbours(m: Machine) -> None:
    for first, value in ((0x10, 1), (0x12, 3), (0x11, 2), (0x13, 4)):
        m.on_port(range(first, first + 1), read=lambda port, size, value=value: value)
    run(m, "ed", edx=0x10)
    assert m.regs.eax == 0x04030201


@pytest.mark.parametrize(("code", "size"), [("6c", 1), ("666d", 2), ("6d", 4)])
@pytest.mark.parametrize("down", [False, True])
def test_rep_ins(m: Machine, code: str, size: int, down: bool) -> None:
    values = list(range(100, 105))
    m.on_port(range(0x190, 0x194), read=lambda port, n: values.pop(0))
    run(m, ("fd" if down else "fc") + "f3" + code, edx=0x190, ecx=5, edi=DATA + 64)
    step = -size if down else size
    got = [int.from_bytes(m.memory.read(DATA + 64 + i * step, size), "little") for i in range(5)]
    assert (got, m.regs.ecx, m.regs.edi) == (list(range(100, 105)), 0, DATA + 64 + 5 * step)


@pytest.mark.parametrize(("code", "size"), [("6e", 1), ("666f", 2), ("6f", 4)])
def test_rep_outs(m: Machine, code: str, size: int) -> None:
    seen: Log = []
    m.on_port(range(0x190, 0x194), write=lambda *a: seen.append(a))
    m.memory.write(DATA, bytes(range(1, 21)))
    run(m, "f3" + code, edx=0x190, ecx=5, esi=DATA)
    data = bytes(range(1, 21))
    assert seen == [(0x190, size, int.from_bytes(data[i * size : i * size + size], "little")) for i in range(5)]
    assert (m.regs.ecx, m.regs.esi) == (0, DATA + 5 * size)


def test_claims(m: Machine) -> None:
    def read(port: int, size: int) -> int:
        return 0

    device = m.on_port(range(0x10, 0x20), read)
    for bad in (range(0x1F, 0x21), range(0x11), range(0x15, 0x16), range(0x10, 0x20), range(0x10000)):
        with pytest.raises(ValueError, match="overlap <Device at ports 0x10 to 0x1f>"):
            m.on_port(bad, read)
    m.on_mmio(range(0x10, 0x20), read)  # another space
    m.on_port(range(0x20, 0x21), read)
    device.remove()
    assert repr(device) == "<Device at ports 0x10 to 0x1f, removed>"
    with pytest.raises(ValueError, match="removed already"):
        device.remove()
    run(m, "ec", edx=0x10, eax=0)
    assert m.regs.eax == 0xFF
    m.on_port(range(0x10, 0x20), read)


@pytest.mark.parametrize(
    "bad", [range(0), range(5, 5), range(0, 10, 2), range(-1, 5), range(0x10001), range(5, 1, -1)]
)
def test_bad_ranges(m: Machine, bad: range) -> None:
    with pytest.raises(ValueError, match="must be a range of ports"):
        m.on_port(bad, read=lambda port, size: 0)
    if bad.stop != 0x10001:
        with pytest.raises(ValueError, match="must be a range of addresses"):
            m.on_mmio(bad, read=lambda port, size: 0)


def test_bad_arguments(m: Machine) -> None:
    with pytest.raises(ValueError, match="needs read= or write="):
        m.on_port(range(1))
    with pytest.raises(TypeError, match="read= must be a function"):
        m.on_port(range(1), read=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="write= must be a function"):
        m.on_mmio(range(1), write="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="as a range"):
        m.on_port(0x190, read=lambda port, size: 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be a range of addresses"):
        m.on_mmio(range(1 << 32, (1 << 32) + 1), read=lambda port, size: 0)
    m.close()
    with pytest.raises(RuntimeError, match="closed"):
        m.on_port(range(1), read=lambda port, size: 0)


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        (256, ValueError, "0x100, which does not fit"), (-1, ValueError, "does not fit"),
        (None, TypeError, "no int"), (1.0, TypeError, "no int"), ("1", TypeError, "no int"),
    ],
)  # fmt: skip
def test_bad_answers(m: Machine, answer: object, error: type[Exception], why: str) -> None:
    answers = [answer, 7]
    m.on_port(range(0x190, 0x191), read=lambda port, size: answers.pop(0))  # type: ignore[arg-type,return-value]
    before = m.icount
    with pytest.raises(error, match=why) as caught:
        run(m, "ec", edx=0x190)
    assert caught.value.__notes__ == ["in <Device at ports 0x190 to 0x190>"]
    assert (m.regs.eip, m.icount) == (CODE, before)
    go_on(m, 1)
    assert m.regs.al == 7


def test_the_privilege_of_ports_comes_first(m: Machine) -> None:
    seen: Log = []
    m.on_port(range(0x10000), lambda *a: seen.append(a) or 0, lambda *a: seen.append(a))
    m.regs.set_segment("cs", Segment(0x1B, 0, 0xFFFFFFFF, 0xC0FB))
    m.regs.set_segment("tr", Segment(0, 0, 0x67, 0x8B))
    m.regs.idtr_limit = 0
    m.memory.write(CODE, b"\xec")
    m.regs.eip = CODE
    assert m.run(max_instructions=1).reason is StopReason.SHUTDOWN  # #GP without an IDT
    assert not seen


# Memory

FORMS = {  # bytes of instructions on [edi], and the calls that each makes
    "mov al, [edi]": ("8a07", "r1"), "mov ax, [edi]": ("668b07", "r2"), "mov eax, [edi]": ("8b07", "r4"),
    "mov [edi], al": ("8807", "w1"), "mov [edi], ax": ("668907", "w2"), "mov [edi], eax": ("8907", "w4"),
    "mov [edi], imm": ("c70744332211", "w4"), "movzx": ("0fb607", "r1"), "movsx16": ("0fbf07", "r2"),
    "add [edi], eax": ("0107", "r4 w4"), "adc [edi], al": ("1007", "r1 w1"), "inc": ("ff07", "r4 w4"),
    "dec8": ("fe0f", "r1 w1"), "not": ("f717", "r4 w4"), "neg16": ("66f71f", "r2 w2"), "sub r": ("2b07", "r4"),
    "cmp": ("3907", "r4"), "test": ("8407", "r1"), "xchg": ("8707", "r4 w4"), "lock xadd": ("f00fc107", "r4 w4"),
    "cmpxchg differs": ("0fb10f", "r4"), "bt": ("0fa307", "r4"), "bts": ("0fab07", "r4 w4"),
    "btc imm": ("0fba3f05", "r4 w4"), "shl": ("d127", "r4 w4"), "rol8": ("d007", "r1 w1"),
    "shld": ("0fa40703", "r4 w4"), "imul": ("0faf07", "r4"), "mul": ("f727", "r4"),
    "push": ("ff37", "r4"), "pop": ("8f07", "w4"), "setz": ("0f9407", "w1"), "cmov": ("0f4407", "r4"),
    "movs from": ("a5", "r4"), "lods": ("ad", "r4"),
    "stos": ("ab", "w4"), "scas": ("af", "r4"), "xlat": ("d7", "r1"), "16-bit": ("67668b05", "r2"),
    "lgdt": ("0f0117", "r2 r4"), "sgdt": ("0f0107", "w2 w4"), "smsw": ("0f0127", "w2"), "bound": ("6207", "r4 r4"),
}  # fmt: skip


def form(name: str) -> tuple[bytes, dict[str, int], list[str]]:
    code, calls = FORMS[name]
    regs = {"edi": MMIO + 0x10, "eax": 0x12345678, "ecx": 0x77777777, "eflags": 2}
    if name in ("movs from", "lods"):
        regs["esi"], regs["edi"] = MMIO + 0x10, DATA
    if name == "xlat":
        regs["ebx"], regs["eax"] = MMIO, 0x10
    if name in ("bts", "bt"):
        regs["eax"] = 5
    return bytes.fromhex(code), regs, calls.split()


def prepared(name: str) -> tuple[Machine, Ram, bytes]:
    m, device = bare(), Ram(0x1000)
    code, regs, _ = form(name)
    if name == "16-bit":  # [di] with a segment that begins at the device
        m.regs.set_segment("ds", Segment(16, MMIO + 0x10 - 0x20, 0xFFFFFFFF, 0xC093))
        regs["edi"] = 0x20
    if name == "bound":
        device.data[0x10:0x18] = b"\0\0\0\0\xff\xff\xff\x7f"
    for register, value in regs.items():
        setattr(m.regs, register, value)
    m.memory.write(STACK, bytes(range(16)))
    m.memory.write(CODE, code + b"\xf4")
    m.regs.eip = CODE
    return m, device, code


@pytest.mark.parametrize("name", FORMS)
def test_each_form_calls_once(name: str) -> None:
    m, device, code = prepared(name)
    with m:
        m.on_mmio(range(MMIO, MMIO + 0x1000), device.read, device.write)
        go_on(m, len(code))
    assert [f"{call[0]}{call[2]}" for call in device.log] == form(name)[2]


@pytest.mark.parametrize("name", FORMS)
def test_a_device_that_is_memory_is_like_memory(name: str) -> None:
    results = []
    for plain in (False, True):
        m, device, code = prepared(name)
        with m:
            if plain:
                m.map(MMIO, 0x1000)
                m.memory.write(MMIO, device.data)
            else:
                m.on_mmio(range(MMIO, MMIO + 0x1000), device.read, device.write)
            go_on(m, len(code))
            memory = m.memory.read(MMIO, 0x1000) if plain else bytes(device.data)
            results.append((list(m.regs), m.icount, memory, m.memory.read(0, 0x20000)))
    assert results[0] == results[1]


class Boom(Exception):
    pass


@pytest.mark.parametrize("name", FORMS)
def test_a_handler_that_fails_loses_nothing(name: str) -> None:
    """The instruction is tried again, with the same outcome, whichever of its calls failed."""
    m, device, code = prepared(name)
    with m:
        m.on_mmio(range(MMIO, MMIO + 0x1000), device.read, device.write)
        go_on(m, len(code))
        expected = list(m.regs), m.icount, bytes(device.data), m.memory.read(0, 0x20000)
    for fails in range(len(form(name)[2])):
        m, device, code = prepared(name)
        calls = [0]

        def flaky(function: Function, calls: list[int] = calls, fails: int = fails) -> Function:
            def served(*args: int) -> object:
                calls[0] += 1
                if calls[0] == fails + 1:
                    raise Boom
                return function(*args)

            return served

        with m:
            m.on_mmio(range(MMIO, MMIO + 0x1000), flaky(device.read), flaky(device.write))  # type: ignore[arg-type]
            before = list(m.regs), m.icount
            with pytest.raises(Boom):
                m.run(max_instructions=100)
            if name not in ("sgdt", "bound", "lgdt"):  # of two accesses the first has happened
                assert bytes(device.data) == bytes(Ram(0x1000).data)
            assert (list(m.regs), m.icount) == before
            go_on(m, len(code))
            assert (list(m.regs), m.icount, bytes(device.data), m.memory.read(0, 0x20000)) == expected


ACCESSES = "8a07 668b07 8b07 8807 668907 8907 0107 ff0f 8707 0fc107 0fab07 ad ab af a5".split()


@pytest.mark.parametrize("seed", range(8))
def test_ranges_anywhere(seed: int) -> None:
    """Devices of odd sizes over RAM, accesses of all kinds across their ends and page ends, against plain RAM."""
    rng = random.Random(seed)
    base = DATA
    plain, m = bare(), bare()
    content = rng.randbytes(0x3000)
    with plain, m:
        for machine in (plain, m):
            machine.memory.write(base, content)
        at = base + rng.randrange(20)
        while at < base + 0x2FF0:
            size = rng.choice([1, 2, 3, 4, 5, 7, 64, 1000, 4096])
            size = min(size, base + 0x3000 - at)
            device = Ram(size, at)
            device.data[:] = content[at - base : at - base + size]
            m.on_mmio(range(at, at + size), device.read, device.write)
            at += size + rng.choice([0, 0, 1, 2, 3, 50, 800])
        code = b"".join(
            b"\xbf" + (base + spot()).to_bytes(4, "little") + b"\xbe" + (base + spot()).to_bytes(4, "little")
            + b"\x83\xe0\x1f" + bytes.fromhex(rng.choice(ACCESSES)) + b"\x05" + rng.randbytes(4)
            for spot in [lambda: rng.choice([0x1000, 0x2000, rng.randrange(4, 0x2FF0)]) - rng.randrange(4)]
            for _ in range(200)
        )  # fmt: skip
        for machine in (plain, m):
            machine.regs.eflags = 2
            machine.memory.write(0x40000, code + b"\xf4")
            machine.regs.eip = 0x40000
            assert machine.run(max_instructions=10000).reason is StopReason.HALT
        assert list(plain.regs) == list(m.regs)
        assert plain.icount == m.icount


@pytest.mark.parametrize(
    ("code", "regs", "calls"),
    [
        ("f3a4", {"esi": MMIO, "edi": DATA, "ecx": 3}, ["r1 0", "r1 1", "r1 2"]),
        ("f3a5", {"esi": DATA, "edi": MMIO, "ecx": 2}, ["w4 0", "w4 4"]),
        ("f366a5", {"esi": MMIO, "edi": MMIO + 8, "ecx": 2}, ["r2 0", "w2 8", "r2 2", "w2 10"]),
        ("fdf3ab", {"edi": MMIO + 8, "ecx": 3}, ["w4 8", "w4 4", "w4 0"]),
        ("f3ac", {"esi": MMIO + 1, "ecx": 2}, ["r1 1", "r1 2"]),
        ("f3a6", {"esi": MMIO, "edi": MMIO, "ecx": 2}, ["r1 0", "r1 0", "r1 1", "r1 1"]),
        ("f2ae", {"edi": MMIO, "ecx": 2, "eax": 0x101}, ["r1 0", "r1 1"]),
        ("f3a5", {"esi": MMIO + 0xFFE, "edi": DATA, "ecx": 1}, ["r2 4094"]),
        ("f36d", {"edx": 0x999, "edi": MMIO, "ecx": 2}, ["w4 0", "w4 4"]),
        ("f36e", {"edx": 0x999, "esi": MMIO, "ecx": 2}, ["r1 0", "r1 1"]),
    ],
)
def test_string_instructions(m: Machine, code: str, regs: dict[str, int], calls: list[str]) -> None:
    device = Ram(0x1000)
    m.on_mmio(range(MMIO, MMIO + 0x1000), device.read, device.write)
    run(m, code, **regs)
    assert [f"{call[0]}{call[2]} {call[1]}" for call in device.log] == calls
    assert m.regs.ecx == 0


def test_a_failing_iteration_of_a_string_instruction(m: Machine) -> None:
    device, calls = Ram(0x1000), [0]

    def read(address: int, size: int) -> int:
        calls[0] += 1
        if calls[0] == 3:
            raise Boom
        return device.read(address, size)

    m.on_mmio(range(MMIO, MMIO + 0x1000), read)
    with pytest.raises(Boom):
        run(m, "f3a5", esi=MMIO, edi=DATA, ecx=4)
    assert (m.regs.esi, m.regs.edi, m.regs.ecx, m.regs.eip) == (MMIO + 8, DATA + 8, 2, CODE)
    go_on(m, 2)
    assert m.memory.read(DATA, 16) == device.data[:16]
    assert m.icount == 5


def test_a_device_hides_ram_until_it_is_removed(m: Machine) -> None:
    m.memory.write(DATA, b"abcdefgh")
    run(m, "8b07", edi=DATA)  # the page is in the TLB now
    device = m.on_mmio(range(DATA + 2, DATA + 3), read=lambda address, size: 0x21)
    run(m, "8b07", edi=DATA)
    assert m.regs.eax.to_bytes(4, "little") == b"ab!d"
    run(m, "8907", edi=DATA, eax=0x30303030)  # write=None swallows
    assert m.memory.read(DATA, 4) == b"00c0"
    device.remove()
    run(m, "8b07", edi=DATA)
    assert m.regs.eax.to_bytes(4, "little") == b"00c0"


def test_a_device_that_can_only_be_written_reads_all_ones(m: Machine) -> None:
    m.on_mmio(range(MMIO, MMIO + 2), write=lambda address, size, value: None)
    run(m, "8b07", edi=MMIO)
    assert m.regs.eax == 0xFFFFFFFF


# Where devices are not expected


def test_code_in_a_device(m: Machine) -> None:
    m.on_mmio(range(MMIO, MMIO + 0x400), read=lambda address, size: 0x90)
    m.memory.write(CODE, b"\xff\xe0")
    m.regs.eip, m.regs.eax = CODE, MMIO + 0x800
    stop = m.run(max_instructions=10)
    assert (stop.reason, stop.eip, stop.icount) == (StopReason.DEVICE, MMIO + 0x800, 1)
    assert "memory-mapped device" in str(stop)
    assert m.run(max_instructions=10).reason is StopReason.DEVICE


def test_an_instruction_that_reaches_into_a_device(m: Machine) -> None:
    m.memory.write(DATA - 1, b"\xb8")
    m.on_mmio(range(DATA, DATA + 4), read=lambda address, size: 0)
    m.regs.eip = DATA - 1
    stop = m.run(max_instructions=10)
    assert (stop.reason, stop.eip, stop.icount) == (StopReason.DEVICE, DATA - 1, 0)


def test_code_where_a_device_comes_and_goes(m: Machine) -> None:
    run(m, "4040", eax=0)
    device = m.on_mmio(range(CODE + 0x800, CODE + 0x801), read=lambda address, size: 0)
    m.regs.eip = CODE
    assert m.run(max_instructions=10).reason is StopReason.DEVICE
    device.remove()
    run(m, "48", eax=5)
    assert m.regs.eax == 4


def test_nothing_there_is_not_remembered(m: Machine) -> None:
    """Code fetched from where nothing is: afterwards memory is there."""
    m.regs.eip = 0x40000000
    m.regs.idtr_limit = 0
    assert m.run(max_instructions=10).reason is StopReason.SHUTDOWN
    m.map(0x40000000, 4096)
    m.memory.write(0x40000000, b"\xf4")
    m.regs.eip = 0x40000000
    assert m.run(max_instructions=10).reason is StopReason.HALT


@pytest.mark.parametrize("directory", [True, False])
def test_page_tables_in_a_device(m: Machine, directory: bool) -> None:
    """The walk does not reach devices: it reads all ones, which is present, user, writable, frame FFFFFh."""
    seen: Log = []
    m.on_mmio(range(MMIO, MMIO + 0x1000), lambda *a: seen.append(a) or 0, lambda *a: seen.append(a))
    m.memory.write_u32(0x20000, 0x21003)
    for i in range(64):
        m.memory.write_u32(0x21000 + 4 * i, i << 12 | 3)
    m.memory.write_u32(0x20004, MMIO | 3)
    m.regs.cr3 = 0x20000
    m.regs.cr0 = 0x80000011
    if directory:
        run(m, "8b07 8907", edi=0x400000, eax=1)
        assert m.regs.eax == 0xFFFFFFFF
    else:
        m.memory.write(CODE, bytes.fromhex("b80000c0fe 0f22d8"))
        m.regs.eip = CODE
        m.regs.idtr_limit = 0
        assert m.run(max_instructions=50).reason is StopReason.SHUTDOWN
    assert not seen


def test_an_idt_and_a_stack_in_a_device(m: Machine) -> None:
    device = Ram(0x1000)
    device.data[:] = bytes(0x1000)
    device.data[0x80 * 8 : 0x80 * 8 + 8] = bytes.fromhex("0050 0800 008e 0000")
    device.data[0x808:0x818] = bytes.fromhex("ffff0000009bcf00 ffff00000093cf00")
    m.on_mmio(range(MMIO, MMIO + 0x1000), device.read, device.write)
    m.memory.write(0x5000, b"\xcf")
    m.regs.idtr_base, m.regs.idtr_limit = MMIO, 0x7FF
    m.regs.gdtr_base, m.regs.gdtr_limit = MMIO + 0x800, 0x17
    run(m, "cd80", esp=MMIO + 0xF00)
    assert device.data[0xEF4 : 0xEF4 + 4] == (CODE + 2).to_bytes(4, "little")
    assert m.icount == 3


@pytest.mark.parametrize("fails", range(1, 12))
def test_a_handler_that_fails_during_delivery(fails: int) -> None:
    """INT n and a queued interrupt through tables and a stack in a device: after the exception they still come."""
    for external in (False, True):
        with bare() as m:
            device, calls = Ram(0x1000), [0]
            device.data[:] = bytes(0x1000)
            device.data[0x80 * 8 : 0x80 * 8 + 8] = bytes.fromhex("0050 0800 008e 0000")
            device.data[0x808:0x818] = bytes.fromhex("ffff0000009bcf00 ffff00000093cf00")

            def flaky(function: Function, calls: list[int] = calls) -> Function:
                def served(*args: int) -> object:
                    calls[0] += 1
                    if calls[0] == fails:
                        raise Boom
                    return function(*args)

                return served

            m.on_mmio(range(MMIO, MMIO + 0x1000), flaky(device.read), flaky(device.write))  # type: ignore[arg-type]
            m.memory.write(0x5000, b"\x43\xf4")
            m.regs.idtr_base, m.regs.idtr_limit = MMIO, 0x7FF
            m.regs.gdtr_base, m.regs.gdtr_limit = MMIO + 0x800, 0x17
            m.memory.write(CODE, b"\x90\xf4" if external else b"\xcd\x80")
            m.regs.esp, m.regs.eip, m.regs.eflags = MMIO + 0xF00, CODE, 0x202
            if external:
                m.interrupt(0x80)
            raised = False
            try:
                stop = m.run(max_instructions=10)
            except Boom:
                raised = True
                stop = m.run(max_instructions=10)
            assert (stop.reason, stop.eip, m.regs.ebx) == (StopReason.HALT, 0x5002, 1)
            assert raised == (fails <= calls[0] and calls[0] >= fails)
            assert m.icount == (2 if external else 3)


# Handlers that use the machine


def test_stop_in_a_handler_ends_the_run_behind_the_instruction(m: Machine) -> None:
    m.on_port(range(0x190, 0x191), read=lambda port, size: m.stop() or 9)
    m.memory.write(CODE, b"\xec\x40\xf4")
    m.regs.eip, m.regs.edx = CODE, 0x190
    stop = m.run(max_instructions=10)
    assert (stop.reason, stop.eip, stop.icount, m.regs.al) == (StopReason.STOPPED, CODE + 1, 1, 9)
    assert m.run(max_instructions=10).reason is StopReason.HALT
    assert m.regs.al == 10


def test_handlers_see_the_machine_before_the_instruction(m: Machine) -> None:
    seen: Log = []

    def read(address: int, size: int) -> int:
        seen.append((m.regs.eip - CODE, m.icount, m.regs.eflags & 0x8D5, m.regs.ecx))
        return 0

    m.on_mmio(range(MMIO, MMIO + 4), read)
    run(m, "b907000000 31c0 f9 8b07 41 0307 f36c f3ad", edi=MMIO, edx=0, esi=MMIO)
    assert seen[:2] == [(8, 3, 0x45, 7), (11, 5, 0x01, 8)]


def test_handlers_may_change_registers_memory_and_devices(m: Machine) -> None:
    m.map(0x40000000, 0x1000)
    devices: list[object] = []

    def read(address: int, size: int) -> int:
        m.unmap(0x40000000, 0x1000)  # the other half of the access
        devices[0].remove()  # type: ignore[attr-defined]
        m.regs.ecx = 55
        m.on_port(range(0x190, 0x191), read=lambda port, size: 1)
        m.memory.write(CODE + 2, b"\x41")  # inc ecx, instead of what comes next
        return 0x2211

    devices.append(m.on_mmio(range(0x3FFFF000, 0x40000000), read))
    run(m, "8b07 90", edi=0x3FFFFFFE)
    assert (m.regs.eax, m.regs.ecx) == (0xFFFF2211, 56)


def test_handlers_may_call_guest_functions() -> None:
    """And devices may use devices: each call has its own value."""
    with Machine(memory=1 << 20) as m:
        m.load(bytes.fromhex("8b442404 ba90010000 ee ec 0fb6c0 40 c3"), at=0x6000)  # out al; in al; inc; ret
        m.load(bytes.fromhex("8b07 05e8030000 f4"), at=CODE)
        last = [0]

        def out(port: int, size: int, value: int) -> None:
            last[0] = value

        m.on_port(range(0x190, 0x191), read=lambda port, size: last[0], write=out)
        m.on_mmio(range(MMIO, MMIO + 4), read=lambda address, size: m.call(0x6000, 41) * 100)
        m.regs.eip, m.regs.edi, m.regs.ecx = CODE, MMIO, 7
        before = m.regs.esp
        stop = m.run(max_instructions=100)
        assert (stop.reason, m.regs.eax, m.regs.ecx, m.regs.esp) == (StopReason.HALT, 5200, 7, before)
        with pytest.raises(ValueError, match="overlaps a device"):
            m.map(MMIO, 0x1000)
        with pytest.raises(ValueError, match="the built-in kernel side"):
            m.on_mmio(range(m._core.layout.window, m._core.layout.window + 1), read=lambda a, s: 0)  # type: ignore[union-attr]


def test_a_failure_inside_a_call_inside_a_handler() -> None:
    with Machine(memory=1 << 20) as m:
        m.load(bytes.fromhex("ba90010000 ec c3"), at=0x6000)
        m.load(bytes.fromhex("8b07 f4"), at=CODE)
        fail = [True]

        def inner(port: int, size: int) -> int:
            if fail[0]:
                raise Boom
            return 3

        m.on_port(range(0x190, 0x191), read=inner)
        m.on_mmio(range(MMIO, MMIO + 4), read=lambda address, size: m.call(0x6000) & 0xFF)
        m.regs.eip, m.regs.edi = CODE, MMIO
        with pytest.raises(Boom):
            m.run(max_instructions=100)
        assert m.regs.eip == CODE
        fail[0] = False
        assert m.run(max_instructions=100).reason is StopReason.HALT
        assert m.regs.eax == 3


def test_a_device_beside_the_built_in_kernel_sides_frames() -> None:
    """Its page tables and mapped memory lie behind RAM: a device neither hides them nor is hidden by later ones."""
    with Machine(memory=1 << 20) as m:
        with pytest.raises(ValueError, match="built-in kernel side"):
            m.on_mmio(range(1 << 20, (1 << 20) + 4), read=lambda address, size: 0)
        top = next(at for at in range(1 << 20, 1 << 30, 4096) if not _refused(m, at))
        m.map(0x50000000, 0x20000)
        m.memory.fill(0x50000000, 0x20000, 0x5A)
        m.load(bytes.fromhex("8b07 f4"), at=CODE)
        m.regs.eip, m.regs.edi = CODE, top
        assert m.run(max_instructions=10).reason is StopReason.HALT
        assert m.regs.eax == 0x12345678
        m.regs.eip, m.regs.edi = CODE, 0x5001F000
        assert m.run(max_instructions=10).reason is StopReason.HALT
        assert m.regs.eax == 0x5A5A5A5A


def _refused(m: Machine, at: int) -> bool:
    """Is a frame the kernel side's? If not, a device is there now."""
    try:
        m.on_mmio(range(at, at + 4096), read=lambda address, size: 0x12345678)
    except ValueError:
        return True
    return False
