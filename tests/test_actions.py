"""Counters, samples, histograms and chains, at the hits of a loop in which eax is 0 to 99."""

from __future__ import annotations

import gc
from bisect import bisect_right
from itertools import pairwise

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykprobes import Action, Count, Hist, Machine, Sample, StopReason, StopRun, When

LOOP = bytes.fromhex("40 83 f8 64 75 fa f4")  # inc eax; cmp eax, 100; jne; hlt
AT = 0x2000


def looped(machine: Machine, *actions: Action) -> None:
    """Run the loop with a chain at its inc."""
    machine.load(LOOP, at=AT)
    machine.kprobe(AT, action=actions)
    machine.regs.eip, machine.regs.eax = AT, 0
    assert machine.run().reason is StopReason.HALT


def hits_of(values: list[int], *actions: Action) -> None:
    """One hit for each value of eax."""
    with Machine(memory=1 << 20) as m:
        m.load(b"\x90", at=AT)
        m.kprobe(AT, action=actions)
        for value in values:
            m.regs.eax, m.regs.eip = value, AT
            m.run(until=AT + 1)


# Samples

@pytest.mark.parametrize(("n", "passed"), [(1, 100), (2, 50), (7, 14), (100, 1), (101, 0)])
def test_every_nth(machine: Machine, n: int, passed: int) -> None:
    sample, hist = Sample(n), Hist("n", "%ax", bins=100, range=(0, 100))
    looped(machine, sample, hist)
    assert (sample.count, sample.passed, hist.count) == (100, passed, passed)
    assert numpy.flatnonzero(hist.counts).tolist() == list(range(n - 1, 100, n))


def test_random_samples_follow_from_the_seed() -> None:
    def chosen(seed: int, probability: float = 0.3) -> list[int]:
        sample, hist = Sample(probability=probability, seed=seed), Hist("n", "%ax", bins=1000, range=(0, 1000))
        hits_of(list(range(1000)), sample, hist)
        first = numpy.flatnonzero(hist.counts).tolist()
        sample.reset(), hist.reset()
        hits_of(list(range(1000)), sample, hist)
        assert numpy.flatnonzero(hist.counts).tolist() == first
        return first

    assert chosen(1) != chosen(2)
    assert abs(len(chosen(3)) - 300) < 60  # four standard deviations
    assert chosen(1, 0.0) == []
    assert len(chosen(1, 1.0)) == 1000


# Chains

def test_a_filter_ends_the_chain_and_not_the_hit(machine: Machine) -> None:
    before, stop, behind, seen = Count(), StopRun(), Count(), []
    machine.load(LOOP, at=AT)
    actions = [before, When("%ax == 50"), stop, behind]
    machine.kprobe(AT, pre_handler=lambda p, regs: seen.append(regs.eax), action=actions)
    machine.regs.eip, machine.regs.eax = AT, 0
    assert machine.run().reason is StopReason.STOPPED
    assert (machine.regs.eax, before.count, stop.count, behind.count) == (50, 51, 1, 1)
    assert machine.run().reason is StopReason.HALT
    assert (before.count, stop.count, seen) == (100, 1, list(range(100)))


def test_one_action_in_many_chains(machine: Machine) -> None:
    total, first, second = Count(), Count(), Count()
    machine.load(LOOP, at=AT)
    p = machine.kprobe(AT, action=[first, total])
    q = machine.kprobe(AT + 4, action=[total, second])
    machine.regs.eip, machine.regs.eax = AT, 0
    machine.run()
    assert (total.count, first.count, second.count, p.hits, q.hits) == (200, 100, 100, 100, 100)


def test_an_action_outlives_its_probe_and_its_machine() -> None:
    count, hist = Count(), Hist("n", "%ax")
    with Machine(memory=1 << 20) as m:
        looped(m, count, hist)
    with Machine(memory=1 << 20) as m:
        looped(m, count, hist)
    assert (count.count, hist.counts.sum()) == (200, 200)


def test_an_action_is_of_one_machine(machine: Machine) -> None:
    count = Count()
    machine.load(LOOP, at=AT)
    machine.kprobe(AT, action=count)
    with Machine(memory=1 << 20) as other:
        other.load(LOOP, at=AT)
        with pytest.raises(ValueError, match="in use by another machine"):
            other.kprobe(AT, action=count)
    watch = machine.watch(AT, 1, "x", count)
    machine.regs.eip, machine.regs.eax = AT, 99
    machine.run()
    assert (watch.hits, count.count) == (1, 2)


def test_chains_of_64_and_more(machine: Machine) -> None:
    counts = [Count() for _ in range(64)]
    looped(machine, *counts)
    assert {count.count for count in counts} == {100}
    with pytest.raises(ValueError, match="at most 64"):
        machine.kprobe(AT + 1, action=[Count() for _ in range(65)])
    count = Count()
    with pytest.raises(ValueError, match="twice"):
        machine.kprobe(AT + 1, action=[count, count])


# Histograms

def test_keys(machine: Machine) -> None:
    hist = Hist("n", "%ax:b3@0/32", bins="key", capacity=8)
    looped(machine, hist)
    assert hist.keys.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert hist.counts.tolist() == [13, 13, 13, 13, 12, 12, 12, 12]
    assert hist.top(2) == [(3, 13), (2, 13)]
    assert (hist.over, hist.under) == (0, 0)
    assert hist.text(10)[0].startswith("3")
    hist.reset()
    assert (hist.keys.tolist(), hist.counts.tolist()) == ([], [])


@given(st.lists(st.integers(-3, 40), max_size=60), st.integers(1, 12))
def test_keys_are_exact_while_there_is_room(values: list[int], capacity: int) -> None:
    hist = Hist("n", "%ax:s32", bins="key", capacity=capacity)
    hits_of(values, hist)
    known = list(dict.fromkeys(values))[:capacity]
    assert hist.keys.tolist() == known
    assert hist.counts.tolist() == [values.count(v) for v in known]
    assert hist.over == sum(v not in known for v in values)
    assert hist.count == len(values)


@given(
    st.lists(st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-5, 30), max_size=60),
    st.lists(st.integers(-10, 30), min_size=2, max_size=9, unique=True),
    st.booleans(),
)
def test_edges_agree_with_bisection(values: list[int], edges: list[int], signed: bool) -> None:
    edges.sort()
    hist = Hist("n", "%ax:s32" if signed else "%ax:u32", bins=edges)
    hits_of(values, hist)
    seen = values if signed else [v & 0xFFFFFFFF for v in values]
    places = [bisect_right(edges, v) for v in seen]
    assert hist.counts.tolist() == [places.count(i) for i in range(1, len(edges))]
    assert (hist.under, hist.over) == (places.count(0), places.count(len(edges)))


@given(
    st.lists(st.integers(0, (1 << 64) - 1) | st.integers(0, 20), min_size=1, max_size=20),
    st.sampled_from([(0, 16, 4), (3, 20, 3), (-5, 11, 4), (0, 1 << 62, 2), (1 << 40, 1 << 41, 7)]),
)
def test_64_bit_values(values: list[int], spec: tuple[int, int, int]) -> None:
    low, high, bins = spec
    texts = {"u": "+0(%bx):u64", "s": "+0(%bx):s64"}
    hists = {k: Hist("n", text, bins=bins, range=(low, high)) for k, text in texts.items()}
    edged = {k: Hist("n", text, bins=[low, high]) for k, text in texts.items()}
    log2, keys = Hist("n", texts["u"]), Hist("n", texts["s"], bins="key")
    with Machine(memory=1 << 20) as m:
        m.load(b"\x90", at=AT)
        m.kprobe(AT, action=[*hists.values(), *edged.values(), log2, keys])
        for value in values:
            m.memory.write(0x3000, value.to_bytes(8, "little"))
            m.regs.ebx, m.regs.eip = 0x3000, AT
            m.run(until=AT + 1)
    signed = [v - (1 << 64) if v >> 63 else v for v in values]
    for k, seen in (("u", values), ("s", signed)):
        edges = hists[k].edges.tolist()
        assert hists[k].counts.tolist() == [sum(a <= v < b for v in seen) for a, b in pairwise(edges)]
        assert hists[k].under == sum(v < edges[0] for v in seen)
        assert hists[k].over == sum(v >= edges[-1] for v in seen)
        assert edged[k].counts.tolist() == [sum(low <= v < high for v in seen)]
    assert log2.counts.tolist() == [sum(v.bit_length() == i for v in values) for i in range(65)]
    assert sorted(keys.keys.tolist()) == sorted(set(signed))


def test_views_stay_valid_and_live(machine: Machine) -> None:
    hist = Hist("n", "%ax", bins=4, range=(0, 100))
    keyed = Hist("n", "%ax", bins="key")
    counts = hist.counts
    looped(machine, hist, keyed)
    keys = keyed.keys
    assert counts.tolist() == [25, 25, 25, 25]
    with pytest.raises(ValueError, match="read-only"):
        counts[0] = 1
    machine.close()
    del hist, keyed
    gc.collect()
    assert (counts.sum(), keys.sum()) == (100, sum(range(100)))


def test_what_cannot_be_read_is_counted(machine: Machine) -> None:
    hists = [Hist("n", "+0x70000000(%ax)", bins=kind) for kind in ("log2", "key", [0, 1])]
    looped(machine, *hists)
    for hist in hists:
        assert (hist.count, hist.faults, int(hist.counts.sum()), hist.under, hist.over) == (100, 100, 0, 0, 0)
        assert hist.text() == ["unreadable: 100"]


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Sample(), ValueError, "every n-th"),
        (lambda: Sample(2, probability=0.5), ValueError, "every n-th"),
        (lambda: Sample(0), ValueError, "1 or more"),
        (lambda: Sample(2.5), TypeError, "integer"),
        (lambda: Sample(probability=1.5), ValueError, "within 0 and 1"),
        (lambda: Sample(probability=float("nan")), ValueError, "within 0 and 1"),
        (lambda: Hist("n", "+0(%ax):string"), ValueError, "no number"),
        (lambda: Hist("n", "+0(%ax):u8[4]"), ValueError, "no number"),
        (lambda: Hist(5, "%ax"), TypeError, "name"),
        (lambda: Hist("n", "%ax", bins="keys"), ValueError, "'key'"),
        (lambda: Hist("n", "%ax", bins="key", capacity=0), ValueError, "different values"),
        (lambda: Hist("n", "%ax", bins="key", capacity=1 << 40), ValueError, "different values"),
        (lambda: Hist("n", "%ax", bins="log2", capacity=5), ValueError, "capacity"),
        (lambda: Hist("n", "%ax", bins="key", range=(0, 5)), ValueError, "no range"),
        (lambda: Hist("n", "%ax", bins=[1]), ValueError, "edges"),
        (lambda: Hist("n", "%ax", bins=[1, 1]), ValueError, "ascend"),
        (lambda: Hist("n", "%ax", bins=[2, 1]), ValueError, "ascend"),
        (lambda: Hist("n", "%ax", bins=[0, 1 << 63]), ValueError, "64 bits"),
        (lambda: Hist("n", "%ax", bins=[0, 1.5]), TypeError, "integer"),
        (lambda: Hist("n", "%ax").top(), ValueError, "'key'"),
        (lambda: When("len", len="%zz"), ValueError, "no register"),
    ],
)
def test_bad_arguments(make: object, error: type[Exception], says: str) -> None:
    assert callable(make)
    with pytest.raises(error, match=says):
        make()
