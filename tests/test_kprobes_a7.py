"""docs/kprobes.md a.7: registering and unregistering."""

from __future__ import annotations

import errno
import random

import pytest

from pykprobes import Count, Kprobe, KprobeError, Machine, PtRegs, Symbol
from pykprobes.binding import probe_bucket

from .kprobe_lab import (
    BREAKPOINT,
    CODE,
    DATA,
    FIXED,
    HOLE,
    IF,
    NOP,
    SEED,
    SUB,
    Watch,
    both,
    code,
    entry,
    free,
    gate,
    machine,
    run_to,
    trapped,
)

pytestmark = both
BUCKETS = {  # a.1: test vectors of the kernel's hash
    0: 0, 1: 39, 0xC0100000: 48, 0xC0100001: 23, 0xC0107D50: 3, 0xC0123456: 4, 0xC012345A: 34, 0xC0200000: 48,
    0xD0800000: 52, 0xFFFFFFFF: 24, 0x08048000: 34,
}  # fmt: skip


def nothing(probe: Kprobe, regs: PtRegs) -> None:
    """A pre_handler."""


def refused(m: Machine, where: int | str) -> int | None:
    with pytest.raises(KprobeError) as caught:
        m.kprobe(where, pre_handler=nothing)
    return caught.value.errno


def deadlocks(m: Machine, mode: str) -> bool:
    """In 2.5.26 a handler that registers or unregisters waits for its own lock: the run ends with that."""
    if mode == SEED:
        with pytest.raises(KprobeError) as caught:
            m.run(max_instructions=100)
        assert caught.value.errno == errno.EDEADLK
        assert free(m)
    return mode == SEED


def test_a7_init_leaves_an_empty_table(mode: str) -> None:
    assert machine(mode).occupancy() == [0] * 64


@pytest.mark.parametrize(("address", "bucket"), BUCKETS.items())
def test_a7_buckets(mode: str, address: int, bucket: int) -> None:
    assert probe_bucket(address) == bucket


def test_a7_register_saves_the_byte_and_writes_a_breakpoint(mode: str) -> None:
    m = machine(mode, "40")
    p = m.kprobe(CODE, pre_handler=nothing)
    assert m.memory.u8(CODE) == BREAKPOINT
    m.unregister_kprobe(p)
    assert m.memory.u8(CODE) == 0x40


def test_a7_the_guest_reads_the_breakpoint(mode: str) -> None:
    m = machine(mode, "8a05", (CODE + 6).to_bytes(4, "little").hex(), "40")  # mov al,[CODE+6]
    m.kprobe(CODE + 6, pre_handler=nothing)
    run_to(m, CODE + 6)
    assert m.regs.al == BREAKPOINT


def test_a7_the_same_address_is_eexist(mode: str) -> None:
    m = machine(mode, "40")
    m.kprobe(CODE, pre_handler=nothing)
    if mode == SEED:
        assert refused(m, CODE) == errno.EEXIST
    else:
        m.kprobe(CODE, pre_handler=nothing)
    assert sum(m.occupancy()) == 1


def test_a7_unregistered_it_can_be_registered_again(mode: str) -> None:
    m = machine(mode, "40")
    p = Kprobe(CODE, pre_handler=nothing)
    for hits in (1, 2):
        m.register_kprobe(p)
        m.regs.eip = CODE
        run_to(m, CODE + 1)
        assert p.hits == 1
        m.unregister_kprobe(p)
        m.regs.eip = CODE
        run_to(m, CODE + 1)
        assert (p.hits, m.regs.eax) == (1, 2 * hits)


def test_a7_unmapped_memory_is_einval(mode: str) -> None:
    assert refused(machine(mode), HOLE) == errno.EINVAL
    assert refused(machine(mode), 0) == errno.EINVAL


def test_a7_data_and_the_middle_of_an_instruction_are_not_noticed(mode: str) -> None:
    m = machine(mode, "b800000000")
    m.kprobe(DATA, pre_handler=nothing)
    m.kprobe(CODE + 2, pre_handler=nothing)  # no symbol says where instructions begin
    run_to(m, CODE + 5)
    assert m.regs.eax == BREAKPOINT << 8


def test_a7_an_existing_breakpoint(mode: str) -> None:
    m = machine(mode, "cc")
    if mode == FIXED:
        assert refused(m, CODE) == errno.EINVAL
    else:
        m.kprobe(CODE, pre_handler=nothing)
    assert sum(m.occupancy()) == (mode == SEED)


@pytest.mark.parametrize("vector", [0, 1, 14, 0x80])
def test_a7_code_that_c_serves_is_einval(mode: str, vector: int) -> None:
    m = machine(mode)
    assert refused(m, entry(m, vector)) == errno.EINVAL


def test_a7_off_is_enosys_and_the_old_gates(mode: str) -> None:
    off = machine(None, "40", "f1")
    off.symbols.add([Symbol("f", CODE, 2)])
    off.memory.write(CODE, code("cdf1"))
    for where in (CODE, "f+1", "nosuch", HOLE):  # before anything else about the place
        assert refused(off, where) == errno.ENOSYS
        with pytest.raises(KprobeError, match="kprobes are off"):
            off.kprobe(where)  # a decorator says so at once
    off.memory.write(CODE, code("40f1"))
    assert (gate(off, 1), gate(off, 3)) == ((15, 0), (15, 3))
    m = machine(mode)
    assert (gate(m, 1), gate(m, 3)) == ((14, 3 if mode == SEED else 0), (14, 3))
    for vector in [*range(20), 0x80]:
        if vector not in (1, 3):
            assert gate(m, vector) == gate(off, vector)
    assert trapped(off, 1).eip == CODE + 2


def test_a7_unlocking_enables_interrupts(mode: str) -> None:
    m = machine(mode, "40", eflags=0)
    p = m.kprobe(CODE, pre_handler=nothing)
    assert m.regs.eflags & IF == (IF if mode == SEED else 0)
    m.regs.eflags = 0
    if mode == SEED:
        assert refused(m, CODE) == errno.EEXIST
    else:
        m.unregister_kprobe(m.kprobe(CODE, pre_handler=nothing))
    assert m.regs.eflags & IF == (IF if mode == SEED else 0)
    m.regs.eflags = 0
    m.unregister_kprobe(p)
    assert m.regs.eflags & IF == (IF if mode == SEED else 0)


def test_a7_register_in_a_handler_locks_itself_up(mode: str) -> None:
    m = machine(mode, "40", "41")
    errors = []

    def pre(probe: Kprobe, regs: PtRegs) -> None:
        try:
            m.kprobe(CODE + 1, pre_handler=nothing)
        except KprobeError as error:
            errors.append(error.errno)

    w = Watch(m, CODE, pre=pre)
    run_to(m, CODE + 2)
    assert errors == ([errno.EDEADLK] if mode == SEED else [])
    assert (m.memory.u8(CODE + 1) == BREAKPOINT) == (mode == FIXED)
    assert w.armed and free(m)


@pytest.mark.parametrize("phase", ["pre", "post", "fault"])
def test_a7_unregister_itself_in_a_handler(mode: str, phase: str) -> None:
    m = machine(mode, "a1" + HOLE.to_bytes(4, "little").hex(), "41")
    if phase != "fault":
        m.map(HOLE, 4096)
    errors = []

    def leave(probe: Kprobe, regs: PtRegs, trapnr: int = 0) -> bool:
        try:
            m.unregister_kprobe(probe)
        except KprobeError as error:
            errors.append(error.errno)
        return False

    w = Watch(m, CODE, **{phase: leave})
    if phase == "fault":
        assert trapped(m, 14).eip == CODE
        m.map(HOLE, 4096)
    run_to(m, CODE + 6)
    if mode == SEED:
        assert errors == [errno.EDEADLK]
        assert w.armed
    else:
        assert errors == []
        assert m.memory.u8(CODE) == 0xA1 and not w.probe.registered
        expected = {"pre": ["pre"], "post": ["pre", "post"], "fault": ["pre", "fault"]}
        assert w.phases == expected[phase]
    assert m.regs.ecx == 1 and free(m)


def test_a7_unregister_another_in_a_handler(mode: str) -> None:
    m = machine(mode, "40", "41")
    other = Watch(m, CODE + 1)
    errors = []

    def pre(probe: Kprobe, regs: PtRegs) -> None:
        try:
            m.unregister_kprobe(other.probe)
        except KprobeError as error:
            errors.append(error.errno)

    Watch(m, CODE, pre=pre)
    run_to(m, CODE + 2)
    assert errors == ([errno.EDEADLK] if mode == SEED else [])
    assert other.probe.hits == (mode == SEED)


def test_a7_replace_a_running_probe(mode: str) -> None:
    """The id of a probe that is being stepped is not given to another one."""
    m = machine(mode, "40", "41")
    later = []

    def replace(probe: Kprobe, regs: PtRegs) -> None:
        m.unregister_kprobe(probe)
        later.append(Watch(m, CODE + 1))

    w = Watch(m, CODE, post=replace)
    if deadlocks(m, mode):
        return
    run_to(m, CODE + 2)
    assert w.phases == later[0].phases == ["pre", "post"]
    assert m.memory.u8(CODE) == 0x40 and later[0].armed and free(m)


def test_a7_a_nested_run_may_unregister_the_outer_probe(mode: str) -> None:
    m = machine(mode, "40", "41")
    m.memory.write(SUB, code("cd80", "c3"))
    m.on_trap(0x80, lambda m, regs: m.unregister_kprobe(w.probe) or True)
    w = Watch(m, CODE, pre=lambda p, regs: m.call(SUB))
    if deadlocks(m, mode):
        return
    run_to(m, CODE + 2)
    assert w.phases == ["pre"]
    assert m.memory.u8(CODE) == 0x40 and m.regs.eax == 1 and free(m)


def test_a7_double_unregister_writes_a_stale_byte(mode: str) -> None:
    m = machine(mode, "40")
    p = m.kprobe(CODE, pre_handler=nothing)
    number = p._id
    m.unregister_kprobe(p)
    m.memory.write_u8(CODE, NOP)
    with pytest.raises(KprobeError) as caught:
        m.unregister_kprobe(p)  # Python's object knows
    assert caught.value.errno == errno.ENOENT
    result = m._core.unregister(number)  # the kernel's function does not
    assert result == (0 if mode == SEED else -errno.ENOENT)
    assert m.memory.u8(CODE) == (0x40 if mode == SEED else NOP)


def test_a7_unregister_writes_the_saved_byte_whatever_is_there(mode: str) -> None:
    m = machine(mode, "40")
    p = m.kprobe(CODE, pre_handler=nothing)
    m.memory.write_u8(CODE, 0x42)
    m.unregister_kprobe(p)
    assert m.memory.u8(CODE) == 0x40


def test_a7_many_probes_in_and_out_in_any_order(mode: str) -> None:
    m = machine(mode)
    m.memory.fill(DATA, 0x8000, 0xC3)  # ret
    random_ = random.Random(2002)
    places = random_.sample(range(DATA, DATA + 0x8000), 3000)
    probes = {at: m.kprobe(at, action=Count()) for at in places}
    random_.shuffle(places)
    for round_ in range(3):
        for at in places[round_ * 700 : round_ * 700 + 700]:
            m.unregister_kprobe(probes.pop(at))
        expected = [0] * 64
        for at in probes:
            expected[probe_bucket(at)] += 1
        assert m.occupancy() == expected
        for at in random_.sample(list(probes), 50):
            if mode == SEED:
                assert refused(m, at) == errno.EEXIST
            else:
                m.unregister_kprobe(m.kprobe(at, action=Count()))
    for at in random_.sample(list(probes), 50):
        m.call(at)
        assert probes[at].hits == 1
    m.unregister_kprobes(list(probes.values()))
    assert m.occupancy() == [0] * 64
