"""External interrupts: the queue of m.interrupt, the INTR pin and its controller, HLT."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pykprobes import Machine, Segment, StopReason

CODE = 0x4000


@pytest.fixture
def m() -> Iterator[Machine]:
    """Real mode; each vector's handler stores its number at [bx], moves bx on, and returns."""
    with Machine(memory=1 << 20, kernel=None, kprobes=None) as machine:
        for vector in range(256):
            machine.memory.write(4 * vector, (0x1000 + 16 * vector).to_bytes(4, "little"))
            machine.memory.write(0x1000 + 16 * vector, b"\xc6\x07" + bytes([vector]) + b"\x43\xcf")
        machine.regs.set_segment("cs", Segment(0, 0, 0xFFFF, 0x93))
        machine.regs.sp, machine.regs.bx = 0x8000, 0x9000
        yield machine


def start(m: Machine, code: str, eflags: int = 2) -> None:
    m.memory.write(CODE, bytes.fromhex(code))
    m.regs.eip, m.regs.eflags = CODE, eflags


def taken(m: Machine) -> list[int]:
    return list(m.memory.read(0x9000, m.regs.bx - 0x9000))


def test_interrupts_wait_for_if_and_keep_their_order(m: Machine) -> None:
    start(m, "40 fb 40 40 f4")  # inc; sti; inc; inc; hlt
    assert [m.interrupt(v) for v in (0x40, 0x21, 0x40, 0xFF, 0x21)] == [True, True, False, True, False]
    m.step(2)
    assert taken(m) == []
    m.step()  # the instruction in the shadow of STI
    assert (m.regs.ax, taken(m)) == (2, [])
    m.step(3)
    assert (m.regs.ax, taken(m)) == (2, [0x40])
    assert m.interrupt(0x40)  # the last now
    stop = m.run(max_instructions=100)
    assert stop.reason is StopReason.HALT
    assert taken(m) == [0x40, 0x21, 0xFF, 0x40]


def test_all_vectors_fit_into_the_queue(m: Machine) -> None:
    start(m, "fbf4")
    order = [(37 * i + 11) % 256 for i in range(256)]
    assert all(m.interrupt(v) for v in order)
    assert not any(m.interrupt(v) for v in order)
    m.run(max_instructions=2000)
    assert taken(m) == order
    assert all(m.interrupt(v) for v in order)


def test_hlt_wakes(m: Machine) -> None:
    start(m, "f4 40 f4", 0x202)
    assert m.run(max_instructions=10).reason is StopReason.HALT
    m.interrupt(0x30)
    stop = m.run(max_instructions=10)
    assert (stop.reason, stop.eip, m.regs.ax, taken(m)) == (StopReason.HALT, CODE + 3, 1, [0x30])
    m.regs.eflags = 2
    m.interrupt(0x31)
    assert m.run(max_instructions=10).reason is StopReason.HALT
    assert taken(m) == [0x30]


def test_a_device_interrupts_behind_its_instruction(m: Machine) -> None:
    m.on_port(range(0x20, 0x21), write=lambda port, size, value: m.interrupt(value))
    start(m, "e620 40 40 f4", 0x202)
    m.regs.ax = 0x55
    m.step(1)
    m.step(3)
    assert (taken(m), m.regs.ax) == ([0x55], 0x55)
    assert m.run(max_instructions=10).reason is StopReason.HALT


def test_the_controller_gives_vectors_while_intr_is_high(m: Machine) -> None:
    vectors = [0x33, 0x44, 0x55]

    def controller() -> int:
        vector = vectors.pop(0)
        if not vectors:
            m.lower_intr()
        return vector

    m.intr = controller
    assert m.intr is controller
    start(m, "40 fb 40 f4")
    m.raise_intr()
    stop = m.run(max_instructions=100)
    assert (stop.reason, taken(m), vectors) == (StopReason.HALT, [0x33, 0x44, 0x55], [])
    assert m.run(max_instructions=100).reason is StopReason.HALT


def test_a_queued_vector_comes_before_the_controllers(m: Machine) -> None:
    m.intr = lambda: m.lower_intr() or 0x33
    start(m, "90f4", 0x202)
    m.raise_intr()
    m.interrupt(0x44)
    m.run(max_instructions=100)
    assert taken(m) == [0x44, 0x33]


def test_intr_wakes_hlt_and_a_spurious_one_does_not(m: Machine) -> None:
    answers: list[int | None] = [None, 0x33]
    m.intr = lambda: answers.pop(0)
    start(m, "f4 40 f4", 0x202)
    m.raise_intr()
    m.lower_intr()
    assert m.run(max_instructions=10).reason is StopReason.HALT
    assert len(answers) == 2
    m.raise_intr()
    stop = m.run(max_instructions=10)
    assert (stop.reason, stop.eip, len(answers), taken(m)) == (StopReason.HALT, CODE + 1, 1, [])
    m.raise_intr()
    m.intr, controller = None, m.intr
    assert m.run(max_instructions=10).eip == CODE + 1  # nobody answers
    m.intr = lambda: m.lower_intr() or controller()  # type: ignore[misc]
    stop = m.run(max_instructions=10)
    assert (stop.eip, taken(m), m.regs.ax) == (CODE + 3, [0x33], 1)


def test_a_device_raises_intr(m: Machine) -> None:
    m.intr = lambda: m.lower_intr() or 0x77
    m.on_port(range(0x20, 0x21), write=lambda port, size, value: m.raise_intr())
    start(m, "e620 43 f4", 0x202)
    m.step(2)
    assert m.regs.eip != CODE + 3  # in the handler
    m.run(max_instructions=10)
    assert taken(m)[0] == 0x77


@pytest.mark.parametrize("bad", [256, -1, "x", 1.5])
def test_a_controller_that_fails(m: Machine, bad: object) -> None:
    answers = [bad, 0x66]
    m.intr = lambda: answers.pop(0)  # type: ignore[return-value]
    start(m, "90 f4", 0x202)
    m.raise_intr()
    with pytest.raises((ValueError, TypeError)) as caught:
        m.run(max_instructions=10)
    assert caught.value.__notes__ == ["in the interrupt controller"]
    assert (m.regs.eip, m.icount) == (CODE, 0)
    m.step()
    assert answers == []
    m.lower_intr()
    m.run(max_instructions=10)
    assert taken(m) == [0x66]


def test_stop_in_a_controller(m: Machine) -> None:
    m.intr = lambda: m.lower_intr() or m.stop() or 0x33
    start(m, "90 f4", 0x202)
    m.raise_intr()
    stop = m.run(max_instructions=10)
    assert (stop.reason, stop.eip) == (StopReason.STOPPED, 0x1000 + 16 * 0x33)
    assert m.run(max_instructions=10).reason is StopReason.HALT
    assert taken(m) == [0x33]


def test_bad_arguments(m: Machine) -> None:
    with pytest.raises(TypeError, match="must be a function"):
        m.intr = 5  # type: ignore[assignment]
    for bad in (-1, 256):
        with pytest.raises(ValueError, match="not in 0 to 255"):
            m.interrupt(bad)
    m.close()
    with pytest.raises(RuntimeError, match="closed"):
        m.raise_intr()


def test_the_timer_keeps_its_time_with_other_interrupts(m: Machine) -> None:
    start(m, "ebfe", 0x202)
    m.timer(0x20, 50)
    m.interrupt(0x21)
    m.run(max_instructions=500)
    assert taken(m)[0] == 0x21
    assert taken(m).count(0x20) in (9, 10)
