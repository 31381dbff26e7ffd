"""m.watch: data, execution and ports, exactly what was accessed, when and how often."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pykprobes import Access, Count, Hist, Machine, Segment, StopReason, StopRun, Watch
from tests.test_devices import CODE, DATA, FORMS, MMIO, STACK, bare, form, prepared, run

Log = list[Access]


@pytest.fixture
def m() -> Iterator[Machine]:
    with bare() as machine:
        yield machine


def log_of(m: Machine, address: int, length: int, kind: str) -> Log:
    log: Log = []
    m.watch(address, length, kind, lambda watch, regs, access: log.append(access))
    return log


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_told_as_a_device_is_asked(name: str) -> None:
    """The accesses of every form are those that a device at the same place serves."""
    m, device, _ = prepared(name)
    with m:
        m.on_mmio(range(MMIO, MMIO + 0x1000), device.read, device.write)
        m.run(max_instructions=100)
    m, source, _ = prepared(name)
    with m:
        m.map(MMIO, 0x1000)
        m.memory.write(MMIO, source.data)
        log, writes = log_of(m, MMIO + 0x10, 8, "rw"), log_of(m, MMIO + 0x10, 8, "w")
        m.run(max_instructions=100)
        values = [call[3] if call[0] == "w" else None for call in device.log]
    assert [(a.kind, a.address - MMIO, a.size) for a in log] == [call[:3] for call in device.log]
    assert all(v is None or a.value == v for a, v in zip(log, values, strict=True))
    assert writes == [a for a in log if a.kind == "w"]
    assert {a.eip for a in log} == {CODE}
    assert len(form(name)[2]) == len(log)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 4096, 5000])
def test_exact_ends(m: Machine, size: int, length: int) -> None:
    code = {1: "8807 8a07", 2: "668907 668b07", 4: "8907 8b07"}[size]
    start = 0x20FFE
    log = log_of(m, start, length, "rw")
    for at in (start - size, start - size + 1, start - 1, start, start + length - 1, start + length):
        log.clear()
        run(m, code, edi=at, eax=0x44332211)
        hit = at + size > start and at < start + length
        value = 0x44332211 & (1 << 8 * size) - 1
        second = CODE + len(bytes.fromhex(code)) // 2
        expected = [Access("w", at, size, value, CODE), Access("r", at, size, value, second)]
        assert log == (expected if hit else [])


def test_the_ends_of_the_address_space(m: Machine) -> None:
    m.map(0xFFFFF000, 0x1000)
    log = log_of(m, 0xFFFFFFFF, 1, "w")
    run(m, "8907", edi=0xFFFFFFFC)
    run(m, "8807", edi=0xFFFFFFFE)
    run(m, "8907", edi=0)
    assert [a.address for a in log] == [0xFFFFFFFC]
    low = log_of(m, 0, 1 << 32, "w")
    run(m, "8907", edi=0x100)
    assert [a.address for a in low] == [0x100]


def test_several_watches_and_unwatch(m: Machine) -> None:
    watches = [m.watch(DATA + at, 4, kind, Count()) for at, kind in ((0, "w"), (2, "rw"), (3, "w"), (8, "rw"))]
    run(m, "8907 8b07", edi=DATA + 2)
    assert [w.hits for w in watches] == [1, 2, 1, 0]
    m.unwatch(watches[1])
    run(m, "8907 8b07", edi=DATA + 2)
    assert [w.hits for w in watches] == [2, 2, 2, 0]
    assert repr(watches[1]).endswith("2 hits, ended>")
    with pytest.raises(ValueError, match="no watch of this machine"):
        m.unwatch(watches[1])
    for watch in (watches[0], *watches[2:]):
        m.unwatch(watch)
    run(m, "8907 8b07", edi=DATA + 2)
    assert watches[0].hits == 2
    assert m._core.watches == {}


def test_hot_code_that_was_running_before_and_after(m: Machine) -> None:
    """Translations are dropped both ways."""
    loop = "8907 8b0f 48 75f9"  # mov [edi], eax; mov ecx, [edi]; dec eax; jnz
    run(m, loop, edi=DATA, eax=100)
    watch = m.watch(DATA, 1, "rw", Count())
    run(m, loop, edi=DATA, eax=100)
    assert watch.hits == 200
    m.unwatch(watch)
    run(m, loop, edi=DATA, eax=100)
    watch = m.watch(CODE + 4, 1, "x", Count())
    run(m, loop, edi=DATA, eax=100)
    assert watch.hits == 100


# Execution


def test_execution_comes_before_the_instruction(m: Machine) -> None:
    seen: list[tuple[object, ...]] = []
    m.watch(CODE + 1, 2, "x", lambda w, regs, access: seen.append((access, regs.eip, regs.eax, m.icount)))
    run(m, "40 40 40 40", eax=0)
    assert seen == [
        (Access("x", CODE + 1, 1, 0, CODE + 1), CODE + 1, 1, 1),
        (Access("x", CODE + 2, 1, 0, CODE + 2), CODE + 2, 2, 2),
    ]


def test_execution_counts_only_where_instructions_begin(m: Machine) -> None:
    watch = m.watch(CODE + 1, 4, "x", Count())
    run(m, "b801000000 90")
    assert watch.hits == 0


def test_a_handler_may_go_elsewhere(m: Machine) -> None:
    def skip(watch: Watch, regs: object, access: Access) -> None:
        m.regs.eip = CODE + 2

    m.watch(CODE + 1, 1, "x", skip)
    run(m, "40 40 40", eax=0)
    assert m.regs.eax == 2


def test_stop_and_go_on_at_a_watched_instruction(m: Machine) -> None:
    watch = m.watch(CODE + 1, 1, "x", StopRun())
    m.memory.write(CODE, bytes.fromhex("40 40 ebfc"))
    m.regs.eip = CODE
    for i in range(3):
        stop = m.run(max_instructions=100)
        assert (stop.reason, stop.eip, stop.icount, watch.hits) == (StopReason.STOPPED, CODE + 1, 1 + 3 * i, i + 1)
    m.regs.eip = CODE + 1
    assert m.run(max_instructions=100).icount == 7  # a new arrival


def test_a_jump_to_itself_executes_each_time(m: Machine) -> None:
    watch = m.watch(CODE, 1, "x", Count())
    m.memory.write(CODE, b"\xeb\xfe")
    m.regs.eip = CODE
    m.run(max_instructions=50)
    assert watch.hits == 50


def test_a_repeated_instruction_executes_once_and_its_elements_count(m: Machine) -> None:
    executed = m.watch(CODE, 1, "x", Count())
    log = log_of(m, DATA + 4, 8, "w")
    run(m, "f3ab", edi=DATA, ecx=5, eax=7)
    assert executed.hits == 1
    assert log == [Access("w", DATA + 4, 4, 7, CODE), Access("w", DATA + 8, 4, 7, CODE)]
    assert m.icount == 6


def test_handlers_run_behind_each_element(m: Machine) -> None:
    seen: list[tuple[int, ...]] = []
    m.watch(DATA, 16, "rw", lambda w, regs, a: seen.append((a.address - DATA, regs.esi - DATA, regs.ecx)))
    run(m, "f3a5", esi=DATA, edi=DATA + 8, ecx=2)
    assert seen == [(0, 4, 1), (8, 4, 1), (4, 8, 0), (12, 8, 0)]


def test_code_that_changes_itself(m: Machine) -> None:
    """A write to a watched instruction, in the very block that runs it."""
    written, executed = log_of(m, CODE + 6, 1, "w"), log_of(m, CODE + 6, 1, "x")
    m.memory.write(CODE, bytes.fromhex("c605") + (CODE + 7).to_bytes(4, "little") + bytes.fromhex("48 90 f4"))
    run(m, "c605" + (CODE + 7).to_bytes(4, "little").hex() + "48 90", eax=5)
    assert (m.regs.eax, written, executed) == (4, [], [])
    written, executed = log_of(m, CODE + 7, 1, "w"), log_of(m, CODE + 7, 1, "x")
    for code, result in (("40", 6), ("48", 4)):
        run(m, "c605" + (CODE + 7).to_bytes(4, "little").hex() + code + "90", eax=5)
        assert m.regs.eax == result
    assert [a.value for a in written] == [0x40, 0x48]
    assert len(executed) == 2


# Faults and exceptions


def test_what_faulted_is_not_told(m: Machine) -> None:
    """push [esi] reads and then cannot write: told once, when it runs to its end."""
    m.regs.set_segment("ss", Segment(16, 0, 0x7FFF, 0x4093))
    m.regs.idtr_limit = 0
    log = log_of(m, DATA, 4, "rw")
    m.memory.write(CODE, b"\xff\x36\xf4")
    m.regs.eip, m.regs.esi, m.regs.esp = CODE, DATA, 0x9000
    assert m.run(max_instructions=10).reason is StopReason.SHUTDOWN
    assert log == []
    run(m, "ff36", esi=DATA, esp=0x7000)
    assert len(log) == 1


def test_delivery_of_exceptions_is_watched(m: Machine) -> None:
    m.memory.write(0x2000, bytes(8) + bytes.fromhex("ffff0000009bcf00 ffff00000093cf00"))
    m.memory.write(0x3000 + 8 * 0x80, bytes.fromhex("0050 0800 008e 0000"))
    m.memory.write(0x5000, b"\xcf")
    m.regs.gdtr_base, m.regs.gdtr_limit, m.regs.idtr_base, m.regs.idtr_limit = 0x2000, 0x17, 0x3000, 0x7FF
    pushed, gate = log_of(m, STACK - 12, 12, "rw"), log_of(m, 0x3000, 0x800, "rw")
    run(m, "cd80", eflags=2)
    assert [(a.kind, a.address, a.value) for a in pushed[:3]] == [
        ("w", STACK - 4, 2), ("w", STACK - 8, 8), ("w", STACK - 12, CODE + 2),
    ]  # fmt: skip
    assert [a.kind for a in pushed[3:]] == ["r"] * 3
    assert [(a.kind, a.address) for a in gate] == [("r", 0x3400), ("r", 0x3404)]


class Boom(Exception):
    pass


def test_an_exception_of_a_handler_comes_out_behind_the_instruction(m: Machine) -> None:
    log: Log = []

    def handler(watch: Watch, regs: object, access: Access) -> None:
        log.append(access)
        if len(log) == 1:
            raise Boom

    watch = m.watch(DATA, 4, "rw", handler)
    with pytest.raises(Boom) as caught:
        run(m, "ff07", edi=DATA)
    assert caught.value.__notes__ == [f"in the handler of {watch!r}".replace("2 hits", "1 hits")]
    assert (m.regs.eip, m.memory.u32(DATA), [a.kind for a in log]) == (CODE + 2, 1, ["r"])
    assert m.run(max_instructions=10).reason is StopReason.HALT
    assert ([a.kind for a in log], m.memory.u32(DATA)) == (["r", "w"], 1)


def test_stop_in_a_handler(m: Machine) -> None:
    m.watch(DATA, 4, "w", lambda w, regs, access: m.stop())
    m.memory.write(CODE, bytes.fromhex("8907 40 f4"))
    m.regs.eip, m.regs.edi = CODE, DATA
    stop = m.run(max_instructions=10)
    assert (stop.reason, stop.eip) == (StopReason.STOPPED, CODE + 2)
    assert m.run(max_instructions=10).reason is StopReason.HALT


def test_handlers_may_watch_and_unwatch(m: Machine) -> None:
    second: Log = []

    def handler(watch: Watch, regs: object, access: Access) -> None:
        m.unwatch(watch)
        m.watch(DATA, 4, "w", lambda w, r, a: second.append(a))

    first = m.watch(DATA, 4, "rw", handler)
    run(m, "ff07 ff07", edi=DATA)
    assert (first.hits, [a.value for a in second]) == (1, [2])


def test_handlers_may_change_registers_and_call_guest_functions() -> None:
    with Machine(memory=1 << 20) as m:
        m.load(bytes.fromhex("8b442404 a300000200 40 c3"), at=0x6000)  # stores its argument at 0x20000
        m.load(bytes.fromhex("8907 8b07 f4"), at=CODE)
        log: Log = []

        def handler(watch: Watch, regs: object, access: Access) -> None:
            log.append(access)
            if access.eip != 0x6004:
                m.regs.eax = m.call(0x6000, 41)

        m.watch(0x20000, 4, "w", handler)
        m.regs.eip, m.regs.edi, m.regs.eax = CODE, 0x20000, 5
        assert m.run(max_instructions=100).reason is StopReason.HALT
        assert [a.value for a in log] == [5, 41]
        assert m.regs.eax == 41


def test_probes_and_watches_together() -> None:
    with Machine(memory=1 << 20) as m:
        m.load(bytes.fromhex("40 40 40 f4"), at=CODE)
        probe, watch = m.kprobe(CODE + 1, action=Count()), m.watch(CODE + 1, 1, "x", Count())
        for i in range(1, 4):
            m.regs.eip = CODE
            m.run(max_instructions=100)
            assert (probe.hits, watch.hits) == (i, i)


# Ports and actions


def test_ports(m: Machine) -> None:
    m.on_port(range(0x191, 0x192), read=lambda port, size: 0x5A)
    log = log_of(m, 0x191, 2, "io")
    run(m, "ec 66ef ed 42 ec", edx=0x190, eax=0x11223344)
    assert [(a.kind, a.address, a.size) for a in log] == [("out", 0x190, 2), ("in", 0x190, 4), ("in", 0x191, 1)]
    assert [a.value for a in log] == [0x33FF, 0xFFFF5AFF, 0x5A]
    log.clear()
    run(m, "f36e", edx=0x192, esi=DATA, ecx=3)
    assert len(log) == 3


def test_an_access_that_failed_is_not_told(m: Machine) -> None:
    calls = [0]

    def read(port: int, size: int) -> int:
        calls[0] += 1
        if calls[0] == 1:
            raise Boom
        return 1

    m.on_port(range(0x190, 0x191), read=read)
    log = log_of(m, 0x190, 1, "io")
    with pytest.raises(Boom):
        run(m, "ec", edx=0x190)
    assert log == []
    m.run(max_instructions=10)
    assert len(log) == 1


def test_actions(m: Machine) -> None:
    hist, count = Hist("cx", "%cx:u8", bins=4, range=(0, 4)), Count()
    watch = m.watch(DATA, 4, "w", [count, hist])
    run(m, "b900000000 8907 b103 8907 8907", edi=DATA)
    assert (watch.hits, count.count, hist.counts.tolist()) == (3, 3, [1, 0, 0, 2])
    with Machine(kernel=None) as other, pytest.raises(ValueError, match="another machine"):
        other.watch(DATA, 4, "w", count)
    m.unwatch(watch)
    m.watch(DATA, 4, "w", count)


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ((DATA, 0, "w", Count()), ValueError, "0 bytes"), ((DATA, -1, "w", Count()), ValueError, "-1 bytes"),
        ((DATA, 4, "r", Count()), ValueError, "'w', 'rw', 'x' or 'io'"),
        ((DATA, 4, "w", None), TypeError, "a handler or an action"),
        ((DATA, 4, "w", []), TypeError, "a handler or an action"), ((DATA, 4, "w", 5), TypeError, "iterable"),
        ((0xFFFFFFFF, 2, "w", Count()), ValueError, "beyond 4 GiB"), ((-1, 2, "w", Count()), ValueError, "outside"),
        ((0xFFFF, 2, "io", Count()), ValueError, "not in 0 to 0xffff"), (("x", 2, "io", Count()), TypeError, "str"),
        (("nothing", 2, "w", Count()), KeyError, "nothing"), ((DATA, 1.5, "w", Count()), TypeError, "float"),
    ],
)  # fmt: skip
def test_bad_arguments(m: Machine, arguments: tuple[object, ...], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        m.watch(*arguments)  # type: ignore[arg-type]
    assert m._core.watches == {}


def test_the_guest_cannot_see_watches(m: Machine) -> None:
    m.watch(DATA, 4, "rw", Count())
    m.watch(CODE, 1, "x", Count())
    run(m, "8907 0f21f0 0f21fb", edi=DATA)
    assert (m.regs.eax, m.regs.ebx) == (0xFFFF0FF0, 0x400)
