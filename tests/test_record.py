"""Records: their columns, full rings, and draining while another thread runs the machine."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykprobes import Count, Machine, Record, StopReason
from pykprobes.cli import shipped_images

LOOP = bytes.fromhex("40 83 f8 64 75 fa f4")  # inc eax; cmp eax, 100; jne; hlt
ENDLESS = bytes.fromhex("40 eb fd")  # inc eax; jmp
AT = 0x2000


def looped(machine: Machine, *actions: Any, count: int = 100) -> None:
    """Hits with eax from 100 - count to 99."""
    machine.load(LOOP, at=AT)
    machine.kprobe(AT, action=actions)
    machine.regs.eip, machine.regs.eax = AT, 100 - count
    machine.run()


def test_columns(machine: Machine) -> None:
    fields = ("%ax", "low=%ax:u8", "neg=%ax:s16", "wide=+0(%bx):u64", "bytes=+1(%bx):x8[3]", "name=+0(+8(%bx)):string")
    rec = Record(*fields, "names=+8(%bx):string[2]", "c=+0(%bx):char", "b=%ax:b4@4/32", string=6)
    machine.load(b"\x90\x90", at=AT)
    first = machine.kprobe(AT, action=Count())
    second = machine.kprobe(AT + 1, action=rec)
    machine.memory.write(0x3000, b"ABCDEFGH" + (0x3100).to_bytes(4, "little") + (0x3103).to_bytes(4, "little"))
    machine.memory.write(0x3100, b"a string\0")
    machine.regs.eip, machine.regs.eax, machine.regs.ebx = AT, 0x8765F0E1, 0x3000
    start = machine.icount
    machine.run(until=AT + 2)
    (row,) = rec.drain()
    assert (first.number, second.number) == (0, 1)
    assert (row["icount"], row["cpu"], row["probe"], row["faults"]) == (start + 1, 0, 1, 0)
    assert (row["arg1"], row["low"], row["neg"]) == (0x8765F0E1, 0xE1, 0xF0E1 - 0x10000)
    assert row["wide"] == int.from_bytes(b"ABCDEFGH", "little")
    assert bytes(row["bytes"]) == b"BCD"
    assert (row["name"], row["names"].tolist(), row["c"], row["b"]) == (b"a stri", [b"a stri", b"tring"], b"A", 0xE)


def test_faults_are_marked_and_the_rest_is_right(machine: Machine) -> None:
    fields = ["%ax", "+0x70000000(%ax)", "%ax", "+0x70000000(%ax):string", "+0xffe(%bx):u8[4]", "+0xffe(%bx):string"]
    rec = Record(*fields, "+0(%bx):string[2]", string=8)
    machine.load(LOOP, at=AT)
    machine.map(0x50000000, 0x1000)
    machine.memory.write(0x50000FFE, b"ab")
    machine.memory.write(0x50000000, (0x50000FFE).to_bytes(4, "little"))
    machine.kprobe(AT, action=rec)
    machine.regs.eip, machine.regs.eax, machine.regs.ebx = AT, 99, 0x50000000
    machine.run()
    (row,) = rec.drain()
    assert row["faults"] == 0b1011010
    assert [row[f"arg{i}"].tolist() for i in range(1, 7)] == [99, 0, 99, b"", [0] * 4, b"ab"]
    assert row["arg7"].tolist() == [b"ab", b""]
    assert rec.faults == 1


def test_the_oldest_give_way(machine: Machine) -> None:
    rec = Record("n=%ax", capacity=30)
    looped(machine, rec)
    assert (rec.count, len(rec), rec.dropped) == (100, 30, 70)
    assert "30 waiting, 70 dropped" in repr(rec)
    assert rec.drain()["n"].tolist() == list(range(70, 100))
    assert (len(rec), rec.dropped, rec.drain().size) == (0, 70, 0)


def test_the_newest_give_way(machine: Machine) -> None:
    rec = Record("n=%ax", capacity=30, full="drop-newest")
    looped(machine, rec)
    assert (rec.count, len(rec), rec.dropped) == (100, 30, 70)
    assert rec.drain()["n"].tolist() == list(range(30))


def test_the_run_stops_and_nothing_is_lost(machine: Machine) -> None:
    rec = Record("n=%ax", capacity=30, full="stop")
    machine.load(LOOP, at=AT)
    machine.kprobe(AT, action=rec)
    machine.regs.eip, machine.regs.eax = AT, 0
    seen: list[int] = []
    while machine.run().reason is StopReason.STOPPED:
        assert len(rec) == 30
        seen += rec.drain()["n"].tolist()
    seen += rec.drain()["n"].tolist()
    assert (seen, rec.dropped) == (list(range(100)), 0)


def test_going_on_with_a_full_ring_stops_at_every_hit(machine: Machine) -> None:
    rec = Record("n=%ax", capacity=1, full="stop")
    machine.load(LOOP, at=AT)
    machine.kprobe(AT, action=rec)
    machine.regs.eip, machine.regs.eax = AT, 0
    for hits in range(1, 5):
        assert machine.run().reason is StopReason.STOPPED
        assert (rec.count, rec.dropped) == (hits, hits - 1)
    assert rec.drain()["n"].tolist() == [0]


def test_a_drained_array_is_the_callers(machine: Machine) -> None:
    rec = Record("n=%ax", capacity=100)
    looped(machine, rec)
    first = rec.drain()
    assert not first.flags.owndata  # the ring's own memory
    before = first.copy()
    machine.regs.eip, machine.regs.eax = AT, 40
    machine.run()
    second = rec.drain()
    machine.close()
    del rec
    gc.collect()
    assert (first == before).all()
    assert second["n"].tolist() == list(range(40, 100))
    first["n"] = 0  # and can be written


def test_reset(machine: Machine) -> None:
    rec = Record("n=%ax", capacity=10)
    looped(machine, rec)
    rec.reset()
    assert (rec.count, len(rec), rec.dropped) == (0, 0, 0)


@given(st.data())
def test_drains_in_between(data: st.DataObject) -> None:
    """Whatever the sizes, what comes out is what went in, less what was dropped."""
    capacity = data.draw(st.integers(1, 40))
    full = data.draw(st.sampled_from(["drop-oldest", "drop-newest"]))
    rec = Record("n=%ax", capacity=capacity, full=full)
    with Machine(memory=1 << 20) as m:
        m.load(LOOP, at=AT)
        m.kprobe(AT, action=rec)
        total = 0
        for hits in data.draw(st.lists(st.integers(1, 60), max_size=6)):
            m.regs.eip, m.regs.eax = AT, 100 - hits
            m.run()
            kept = min(hits, capacity)
            first = 100 - kept if full == "drop-oldest" else 100 - hits
            wanted = list(range(first, first + kept))
            total += hits - kept
            copied = data.draw(st.booleans())
            drained = rec._ring.drain(idle=False) if copied else rec.drain()
            assert drained["n"].tolist() == wanted
            assert rec.dropped == total


# Threads

@pytest.mark.parametrize("full", ["drop-oldest", "drop-newest"])
@pytest.mark.parametrize("capacity", [64, 4096])
def test_draining_while_another_thread_runs(full: str, capacity: int) -> None:
    """Every hit's record comes out once and whole, in order, or is counted as dropped."""
    rec = Record("n=%ax", "same=%ax", "again=%ax:u64", capacity=capacity, full=full)
    with Machine(memory=1 << 20) as m:
        m.load(ENDLESS, at=AT)
        m.kprobe(AT, action=rec)
        m.regs.eip, m.regs.eax = AT, 0
        runner = threading.Thread(target=m.run, kwargs={"max_instructions": 1_000_000})
        parts = []
        runner.start()
        while runner.is_alive():
            parts.append(rec.drain())
        runner.join()
        parts.append(rec.drain())
    rows = numpy.concatenate(parts)
    n = rows["n"].astype(numpy.int64)
    assert (numpy.diff(n) > 0).all()
    assert (rows["same"] == n).all() and (rows["again"] == n).all()
    assert (rows["icount"] == rows["icount"][0] + 2 * (n - n[0])).all()
    assert rec.count == 500_000
    assert len(rows) + rec.dropped == rec.count
    assert len(rows) > capacity


def test_draining_from_several_threads_at_once() -> None:
    rec = Record("n=%ax", capacity=1 << 16)
    parts: list[Any] = []
    with Machine(memory=1 << 20) as m:
        m.load(ENDLESS, at=AT)
        m.kprobe(AT, action=rec)
        m.regs.eip = AT
        runner = threading.Thread(target=m.run, kwargs={"max_instructions": 400_000})

        def drain() -> None:
            while runner.is_alive():
                parts.append(rec.drain())

        runner.start()
        drainers = [threading.Thread(target=drain) for _ in range(3)]
        for thread in drainers:
            thread.start()
        for thread in [runner, *drainers]:
            thread.join()
        parts.append(rec.drain())
    n = numpy.concatenate(parts)["n"]
    assert len(n) + rec.dropped == 200_000
    assert len(numpy.unique(n)) == len(n)


def test_draining_does_not_wait_for_the_run() -> None:
    rec, held = Record("n=%ax"), threading.Event()
    with Machine(memory=1 << 20) as m:
        m.load(LOOP, at=AT)
        m.kprobe(AT, action=rec)
        m.kprobe(AT + 1, pre_handler=lambda p, regs: held.wait(10))
        m.regs.eip, m.regs.eax = AT, 98
        runner = threading.Thread(target=m.run)
        runner.start()
        deadline = time.monotonic() + 5
        while not len(rec):
            assert time.monotonic() < deadline
        assert rec.drain()["n"].tolist() == [98]
        assert runner.is_alive()
        held.set()
        runner.join()
        assert rec.drain()["n"].tolist() == [99]


def test_draining_in_a_handler(machine: Machine) -> None:
    rec = Record("n=%ax", capacity=4)
    seen: list[int] = []
    machine.load(LOOP, at=AT)
    machine.kprobe(AT, pre_handler=lambda p, regs: seen.extend(rec.drain()["n"].tolist()), action=rec)
    machine.regs.eip, machine.regs.eax = AT, 0
    machine.run()
    assert (seen, rec.dropped) == (list(range(100)), 0)


def test_one_ring_for_many_probes() -> None:
    rec = Record("length=+12(%sp):u32")
    with Machine() as m:
        m.load(shipped_images()["checksum"])
        probes = {m.kprobe(name, action=rec).number: name for name in ("crc32", "adler32", "fletcher32")}
        m.run()
        rows = rec.drain()
    assert sorted(set(rows["probe"].tolist())) == sorted(probes)
    assert (numpy.diff(rows["icount"].astype(numpy.int64)) > 0).all()
    assert len(rows) == 3 * 256


# Bad input

@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Record(capacity=0), ValueError, "one record at least"),
        (lambda: Record(capacity=-5), ValueError, "one record at least"),
        (lambda: Record(capacity=1 << 40), ValueError, "64 GiB"),
        (lambda: Record(capacity=1.5), TypeError, "integer"),
        (lambda: Record("%ax", full="explode"), ValueError, "'drop-oldest'"),
        (lambda: Record("%ax", string=0), ValueError, "cut at"),
        (lambda: Record("%ax", string=1 << 20), ValueError, "cut at"),
        (lambda: Record(*["%ax"] * 65), ValueError, "at most 64"),
        (lambda: Record("a=%ax", "a=%bx"), ValueError, "two columns"),
        (lambda: Record("icount=%ax"), ValueError, "two columns"),
        (lambda: Record("arg2=%ax", "%bx"), ValueError, "two columns"),
        (lambda: Record("+0(%ax):string[64]", string=4096), ValueError, "the most is"),
        (lambda: Record("%zz"), ValueError, "no register"),
        (lambda: Record("%ax:u7"), ValueError, "a type is"),
        (lambda: Record("+1(" * 9 + "%ax" + ")" * 9), ValueError, "at most 8"),
        (lambda: Record(4), TypeError, "text"),
    ],
)
def test_bad_arguments(make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_a_record_without_fields_keeps_times(machine: Machine) -> None:
    rec = Record()
    looped(machine, rec, count=3)
    assert numpy.diff(rec.drain()["icount"]).tolist() == [3, 3]


def test_records_save_without_pickle(machine: Machine, tmp_path: Any) -> None:
    rec = Record("n=%ax", "b=+0(%sp):u8[4]", "s=@0x2000:string")
    looped(machine, rec)
    rows = rec.drain()
    numpy.savez(tmp_path / "rows.npz", rows=rows)
    again = numpy.load(tmp_path / "rows.npz", allow_pickle=False)["rows"]
    assert (again == rows).all()
    assert again.dtype.names == rows.dtype.names
