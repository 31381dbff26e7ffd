"""Analysis of records, against plain loops over the same rows, and on a program whose calls are known."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykprobes import Count, Hist, Machine, Record, Symbol
from pykprobes.analysis import (
    folded,
    frame_fields,
    latencies,
    merge,
    merge_histograms,
    per_address,
    per_function,
    quantiles,
    rates,
    stacks,
)
from pykprobes.cli import shipped_images

HEAD = [("icount", "u8"), ("cpu", "u2"), ("probe", "u4"), ("faults", "u8")]
AT = 0x2000


def rows_of(events: list[tuple[int, int]], cpu: int = 0) -> Any:
    return numpy.array([(time, cpu, probe, 0) for time, probe in events], dtype=HEAD)


events = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 3)), max_size=40)


@given(st.lists(events, min_size=1, max_size=4))
def test_merging_is_stable_sorting(parts: list[list[tuple[int, int]]]) -> None:
    merged = merge(*(rows_of(sorted(part)) for part in parts))
    flat = [event for part in parts for event in sorted(part)]
    assert merged[["icount", "probe"]].tolist() == sorted(flat, key=lambda event: event[0])


def test_merging_unlike_records() -> None:
    a = numpy.array([(1, 7, 2)], dtype=[("icount", "u8"), ("x", "u4"), ("only", "u1")])
    b = numpy.array([(0, -3)], dtype=[("icount", "u8"), ("x", "i4")])
    merged = merge(a, b)
    assert (merged.dtype.names, merged.tolist()) == (("icount", "x"), [(0, -3), (1, 7)])
    with pytest.raises(ValueError, match="icount"):
        merge(a, numpy.zeros(1, dtype=[("x", "u4")]))
    with pytest.raises(ValueError, match="nothing"):
        merge()


@given(events, st.integers(1, 300), st.none() | st.integers(0, 200), st.none() | st.integers(200, 600))
def test_rates(found: list[tuple[int, int]], window: int, start: int | None, end: int | None) -> None:
    result = rates(rows_of(found), window, start=start, end=end)
    first = min((t for t, _ in found), default=0) if start is None else start
    last = max((t for t, _ in found), default=first) if end is None else end
    assert result.edges.tolist() == list(range(first, first + window * len(result.edges), window))
    assert result.edges[-2] <= max(last, first) < result.edges[-1]
    assert result.keys.tolist() == sorted({probe for _, probe in found})
    for k, key in enumerate(result.keys.tolist()):
        for i, low in enumerate(result.edges.tolist()[:-1]):
            wanted = sum(p == key and low <= t < low + window and first <= t <= last for t, p in found)
            assert result.counts[k, i] == wanted
    assert (result.rates == result.counts * (1000 / window)).all()


def test_rates_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="window of 0"):
        rates(rows_of([]), 0)
    with pytest.raises(ValueError, match="longer window"):
        rates(rows_of([(0, 0), (1 << 40, 0)]), 1)


@given(st.lists(st.integers(0, (1 << 32) - 1) | st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 1))
def test_quantiles_of_log2_bins_are_within_a_bin_of_the_truth(values: list[int], q: float) -> None:
    edges = [0, *(1 << k for k in range(33))]
    counts, _ = numpy.histogram(values, bins=edges)
    estimate = float(quantiles(counts, q, edges=edges))
    exact = sorted(values)[max(0, int(numpy.ceil(q * len(values))) - 1)]
    low = 0 if exact == 0 else 1 << (exact.bit_length() - 1)
    high = 1 if exact == 0 else 2 * low
    assert low <= estimate < high or abs(estimate - exact) < 1e-6


def test_quantiles_of_a_histogram(machine: Machine) -> None:
    hist = Hist("n", "%ax")
    assert numpy.isnan(quantiles(hist, [0.5, 0.9])).all()
    machine.load(b"\x90", at=AT)
    machine.kprobe(AT, action=hist)
    for value in (1, 1, 1, 1000):
        machine.regs.eax, machine.regs.eip = value, AT
        machine.run(until=AT + 1)
    assert quantiles(hist, [0, 0.5, 0.75]).tolist() == [1, 1, 1]
    assert 512 <= float(quantiles(hist, 1.0)) <= 1023
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="within 0 and 1"):
            quantiles(hist, bad)
    with pytest.raises(ValueError, match="edges"):
        quantiles([1, 2], 0.5, edges=[1, 2])


def test_merging_histograms(machine: Machine) -> None:
    def filled(values: list[int], **options: Any) -> Hist:
        hist = Hist("n", "%ax", **options)
        with Machine(memory=1 << 20) as m:
            m.load(b"\x90", at=AT)
            m.kprobe(AT, action=hist)
            for value in values:
                m.regs.eax, m.regs.eip = value, AT
                m.run(until=AT + 1)
        return hist

    counts, edges = merge_histograms(filled([1, 5]), filled([5, 6, 7]))
    assert (counts[1], counts[3], edges[3], counts.sum()) == (1, 4, 4, 5)
    counts, keys = merge_histograms(filled([9, 5], bins="key"), filled([5, 6], bins="key"))
    assert dict(zip(keys.tolist(), counts.tolist(), strict=True)) == {5: 2, 6: 1, 9: 1}
    with pytest.raises(ValueError, match="different bins"):
        merge_histograms(filled([1]), filled([1], bins=[0, 5]))
    with pytest.raises(ValueError, match="by key or none"):
        merge_histograms(filled([1]), filled([1], bins="key"))


def test_tables(checksum: Machine) -> None:
    m = checksum
    rec = Record()
    for place in ("crc32", "crc32", "crc32+1", "adler32"):
        m.kprobe(place, action=rec)
    m.run()
    rows = rec.drain()
    table = per_address(m.probes)
    assert table[["name", "probes", "hits"]].tolist() == [("crc32", 2, 512), ("crc32+0x1", 1, 256), ("adler32", 1, 256)]
    assert (per_address(m.probes, rows) == table).all()
    functions = per_function(m.probes, m.symbols)
    assert functions[["name", "probes", "hits"]].tolist() == [("crc32", 3, 768), ("adler32", 1, 256)]
    assert functions["address"].tolist() == [m.symbols["crc32"], m.symbols["adler32"]]
    some = rows[rows["probe"] == 3]
    assert per_function(m.probes, m.symbols, some)["hits"].tolist() == [256, 0]
    assert len(per_address([])) == 0


# Latencies, against a stack

@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), max_size=50))
def test_latencies_agree_with_a_stack(steps: list[tuple[int, bool]]) -> None:
    """Random entries and returns on two CPUs, with returns that have no entry and calls that stay open."""
    entries, returns, wanted = [], [], []
    open_: dict[int, list[int]] = {0: [], 1: []}
    for time, (cpu, is_entry) in enumerate(steps):
        if is_entry:
            entries.append((time, cpu, 1, 0))
            open_[cpu].append(time)
        else:
            returns.append((time, cpu, 2, 0))
            if open_[cpu]:
                start = open_[cpu].pop()
                wanted.append((2, cpu, start, time, time - start, len(open_[cpu])))
    found = latencies(numpy.array(entries, dtype=HEAD), numpy.array(returns, dtype=HEAD))
    assert sorted(found.tolist()) == sorted(wanted)
    assert found["entered"].tolist() == sorted(found["entered"].tolist())


def test_latencies_are_those_that_return_probes_measure(checksum: Machine) -> None:
    entered, returned = Record(), Record("dt=$latency")
    for name in ("crc32", "adler32", "fletcher32"):
        checksum.kprobe(name, action=entered)
        checksum.kretprobe(name, action=returned)
    checksum.run()
    rows = returned.drain()
    calls = latencies(entered.drain(), rows)
    assert len(calls) == 3 * 256
    assert calls["latency"].tolist() == rows["dt"].tolist()
    assert set(calls["depth"].tolist()) == {0}


# Stacks

def test_stacks_by_frame_pointer(machine: Machine) -> None:
    """outer -> middle -> inner, each with a frame; inner's probe is at its first instruction."""
    code = bytearray(0x60)
    prologue = b"\x55\x89\xe5"  # push ebp; mov ebp, esp
    for at, target in ((0x00, 0x20), (0x20, 0x40)):
        call = b"\xe8" + (target - (at + 8)).to_bytes(4, "little")
        code[at : at + 10] = prologue + call + b"\x5d\xc3"
    code[0x40:0x45] = prologue + b"\x5d\xc3"
    machine.load(bytes(code), at=AT)
    machine.symbols.add([Symbol(name, AT + at, 0x20) for name, at in (("outer", 0), ("middle", 0x20), ("inner", 0x40))])
    rec = Record(*frame_fields(4))
    machine.kprobe("inner", action=rec)
    machine.regs.ebp = 0  # where the chain of frames ends
    machine.call("outer")
    machine.call("outer")
    machine.call("middle")
    found = stacks(rec.drain(), machine.symbols)
    assert found == Counter({("outer", "middle", "inner"): 2, ("middle", "inner"): 1})
    assert folded(found) == ["middle;inner 1", "outer;middle;inner 2"]
    assert frame_fields(1, at_entry=False) == ["f0=%ip", "f1=+4(%bp)"]
    with pytest.raises(ValueError, match="at most 8"):
        frame_fields(9)
    with pytest.raises(ValueError, match="frame_fields"):
        stacks(rows_of([]), machine.symbols)


# Plots

def test_plots_take_and_return_axes() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    from pykprobes.analysis import plot_heatmap, plot_histogram, plot_timeline

    with Machine() as m:
        m.load(shipped_images()["checksum"])
        rec, hist, keyed = Record(), Hist("length", "$arg3:u32"), Hist("length", "$arg3:u32", bins="key")
        probes = [m.kprobe(name, action=[rec, hist, keyed]) for name in ("crc32", "adler32")]
        m.run()
        rows = rec.drain()
    numbers = {p.number: p.place for p in probes}
    figure, axes = pyplot.subplots(2, 2)
    ax = axes[0, 0]
    assert plot_timeline(rows, ax=ax, names=numbers) is ax
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["crc32", "adler32"]
    assert plot_histogram(hist, axes[0, 1]) is axes[0, 1]
    heights = [patch.get_height() for patch in axes[0, 1].patches]
    assert sum(heights) == 512 and heights == [n for n in hist.counts.tolist() if n]
    assert plot_histogram(keyed, axes[1, 0]) is axes[1, 0]
    addresses = {p.number: p.address or 0 for p in probes}
    assert plot_heatmap(rows, addresses, axes[1, 1], windows=20) is axes[1, 1]
    grid = axes[1, 1].collections[0].get_array()
    assert grid.size == 40 and grid.sum() == 512
    figure.savefig("/dev/null", format="png")
    pyplot.close(figure)
    made = plot_timeline(rows)
    assert made.get_xlabel() == "instructions"
    pyplot.close(made.figure)
    for empty in (plot_timeline(rows[:0]), plot_heatmap(rows[:0], addresses), plot_histogram(Hist("n", "%ax"))):
        pyplot.close(empty.figure)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from pykprobes.analysis import plot_timeline

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pykprobes\[plot\]"):
        plot_timeline(rows_of([(1, 1)]))


def test_probes_that_are_gone_still_have_their_rows(machine: Machine) -> None:
    machine.load(b"\x90", at=AT)
    p = machine.kprobe(AT, action=Count())
    machine.regs.eip = AT
    machine.run(until=AT + 1)
    machine.unregister_kprobe(p)
    assert per_address([p]).tolist() == [(AT, "0x2000", 1, 1, 0)]
