"""Return probes, on small functions whose calls, tails, recursions and longjmps are known."""

from __future__ import annotations

import errno
from typing import Any

import numpy
import pytest

from pykprobes import (
    Count,
    Hist,
    Kprobe,
    KprobeError,
    Kretprobe,
    Machine,
    MachineFault,
    Record,
    StopReason,
    StopRun,
    Symbol,
    When,
)
from pykprobes.cli import shipped_images

CODE = 0x10000
INC = "8b 44 24 04 40 c3"  # mov eax, [esp+4]; inc eax; ret
# fact: mov eax,[esp+4]; cmp eax,1; jbe out; dec eax; push eax; call fact; pop ecx; mov ecx,[esp+4]; imul eax,ecx; out:
# nop; ret
FACT = "8b 44 24 04 83 f8 01 76 10 48 50 e8 f0 ff ff ff 59 8b 4c 24 04 0f af c1 90 c3"


def loaded(code: str, **options: Any) -> Machine:
    m = Machine(memory=1 << 20, **options)
    m.load(bytes.fromhex(code), at=CODE)
    return m


def test_what_a_handler_sees() -> None:
    m = loaded(INC)
    seen: list[Any] = []

    @m.kretprobe(CODE)
    def on_return(ri: Any, regs: Any) -> None:
        seen.append((ri.retval, regs.eax, regs.retval, ri.ret_addr, ri.latency, ri.entered, regs.eip, ri.probe))

    start = m.icount
    assert m.call(CODE, 41) == 42
    layout = m._core.layout
    assert seen == [(42, 42, 42, layout.call_return, 3, start, layout.trampoline, on_return)]
    assert m.icount == start + 3  # the trampoline is no instruction
    assert (on_return.hits, on_return.nmissed, on_return.active) == (1, 0, 0)
    assert repr(on_return) == "<Kretprobe 0x10000, 1 returns, 0 missed>"


def test_the_guest_sees_the_trampoline() -> None:
    m = loaded("8b 04 24 c3")  # mov eax, [esp]; ret
    trampoline = m._core.layout.trampoline
    rp = m.kretprobe(CODE, action=Count())
    assert m.call(CODE) == trampoline
    m.unregister_kretprobe(rp)
    assert m.call(CODE) == m._core.layout.call_return


def test_a_handler_changes_what_is_returned() -> None:
    m = loaded(INC)

    def double(ri: Any, regs: Any) -> None:
        ri.retval *= 2
        regs.edx = 7

    m.kretprobe(CODE, double)
    m.kretprobe(CODE, lambda ri, regs: setattr(regs, "eax", regs.eax + 1))
    assert m.call(CODE, 4) == (4 + 1 + 1) * 2  # the newest instance first


def test_a_handler_goes_on_elsewhere() -> None:
    m = loaded(INC + "e8 f5 ff ff ff f4 40 f4")  # at +6: call CODE; hlt; inc eax; hlt

    def elsewhere(ri: Any, regs: Any) -> None:
        regs.eip = ri.ret_addr + 1

    m.kretprobe(CODE, elsewhere)
    m.push(1)
    m.regs.eip = CODE + 6
    assert m.run().reason is StopReason.HALT
    assert m.regs.eip == CODE + 14


def test_entry_handlers_and_data() -> None:
    m, seen = loaded(INC), []
    trampoline = m._core.layout.trampoline

    def entry(ri: Any, regs: Any) -> bool:
        ri.data["arg"] = m.memory.u32(regs.sp + 4)
        assert m.memory.u32(regs.sp) != trampoline
        with pytest.raises(RuntimeError, match="while the return handler runs"):
            ri.ret_addr  # noqa: B018
        return ri.data["arg"] == 13

    rp = m.kretprobe(CODE, lambda ri, regs: seen.append((ri.data["arg"], ri.retval)), entry)
    for value in (1, 13, 5):
        assert m.call(CODE, value) == value + 1
    assert seen == [(1, 2), (5, 6)]
    assert (rp.hits, rp.nmissed, rp.active) == (2, 0, 0)


def test_recursion_up_to_maxactive() -> None:
    m, seen = loaded(FACT), []
    calls: list[int] = []
    rp = m.kretprobe(
        CODE,
        lambda ri, regs: seen.append((ri.data["n"], ri.retval)),
        lambda ri, regs: (ri.data.update(n=m.memory.u32(regs.sp + 4)), calls.append(1))[0],
        maxactive=3,
    )
    assert m.call(CODE, 7) == 5040
    assert seen == [(5, 120), (6, 720), (7, 5040)]
    assert (rp.hits, rp.nmissed, rp.misses["maxactive"], len(calls), rp.active, rp.abandoned) == (3, 4, 4, 3, 0, 0)
    assert m.call(CODE, 3) == 6
    assert rp.hits == 6


def test_actions_at_return() -> None:
    m = loaded(FACT)
    values, latencies = Hist("ret", "$retval", bins="key"), Hist("time", "$latency")
    rec = Record("n=$arg1", "ret=$retval:s32", "dt=$latency", "half=$half", "wide=$arg1:u64")
    rp = m.kretprobe(CODE, action=[values, latencies, rec], entry=["half=+4(%sp):b31@1/32"])
    start = m.icount
    assert m.call(CODE, 5) == 120
    assert values.keys.tolist() == [1, 2, 6, 24, 120]
    rows = rec.drain()
    assert rows["n"].tolist() == [1, 2, 3, 4, 5]
    assert rows["ret"].tolist() == [1, 2, 6, 24, 120]
    assert rows["half"].tolist() == [0, 1, 1, 2, 2]
    assert (rows["wide"] & 0xFFFFFFFF == rows["n"]).all()
    assert (rows["probe"] == rp.number).all() and (rows["faults"] == 0).all()
    assert rows["icount"][-1] == m.icount
    assert rows["dt"][-1] == m.icount - start
    assert latencies.counts.sum() == 5


def test_filters_at_return() -> None:
    m = loaded(FACT)
    rec = Record("n=$arg1", "ret=$retval")
    chain = [When("$latency > 4"), rec]
    rp = m.kretprobe(CODE, action=chain, filter="ret > 1 && argument != 4", entry=["argument=$arg1"])
    m.call(CODE, 6)
    assert rec.drain()["n"].tolist() == [2, 3, 5, 6]
    assert rp.hits == 6


def test_values_kept_at_entry_may_fault() -> None:
    m = loaded(INC)
    rec, seen = Record("at=$at:s32", "a=$arg1"), []
    m.kretprobe(CODE, lambda ri, regs: seen.append(ri.entry), action=rec, entry=["at=+0(+4(%sp)):s32", "sp=%sp"])
    m.memory.write_u32(0x3000, 0xFFFFFFF0)
    m.call(CODE, 0x3000)
    m.call(CODE, 0x70000000)
    rows = rec.drain()
    assert rows["at"].tolist() == [-16, 0]
    assert rows["faults"].tolist() == [0, 1]
    assert [s["at"] for s in seen] == [-16, None]


def test_a_tail_call_between_followed_functions() -> None:
    # f: inc [esp+4]; jmp g.  g: mov eax,[esp+4]; ret
    m, order = loaded("ff 44 24 04 eb 00 8b 44 24 04 c3"), []
    m.kretprobe(CODE, lambda ri, regs: order.append(("f", ri.retval, ri.ret_addr)))
    m.kretprobe(CODE + 6, lambda ri, regs: order.append(("g", ri.retval, ri.ret_addr)))
    assert m.call(CODE, 9) == 10
    trampoline, end = m._core.layout.trampoline, m._core.layout.call_return
    assert order == [("g", 10, trampoline), ("f", 10, end)]


def test_arguments_that_the_callee_pops() -> None:
    # outer: push 5; push 4; call inner; ret.   inner: mov eax,[esp+4]; add eax,[esp+8]; ret 8
    m, seen = loaded("6a 05 6a 04 e8 01 00 00 00 c3 8b 44 24 04 03 44 24 08 c2 08 00"), []
    m.kretprobe(CODE, lambda ri, regs: seen.append("outer"))
    m.kretprobe(CODE + 10, lambda ri, regs: seen.append("inner"))
    assert m.call(CODE) == 9
    assert seen == ["inner", "outer"]


def test_instances_that_a_longjmp_leaves_behind() -> None:
    # outer: mov [0x3000], esp; call inner; ret.   inner: mov esp, [0x3000]; ret, past its own frame
    code = "89 25 00 30 00 00 e8 01 00 00 00 c3 8b 25 00 30 00 00 c3"
    m, seen = loaded(code), []
    outer = m.kretprobe(CODE, lambda ri, regs: seen.append("outer"))
    inner = m.kretprobe(CODE + 12, lambda ri, regs: seen.append("inner"), maxactive=2)
    for times in range(1, 20):
        m.call(CODE)
        assert (outer.hits, inner.hits, inner.nmissed, inner.abandoned, inner.active) == (times, 0, 0, times, 0)
    assert seen == ["outer"] * 19


def test_instances_of_calls_that_ended_by_a_fault() -> None:
    m = loaded("8b 44 24 04 8b 00 c3")  # mov eax, [esp+4]; mov eax, [eax]; ret
    rp = m.kretprobe(CODE, action=Count(), maxactive=4)
    for _ in range(20):
        with pytest.raises(MachineFault):
            m.call(CODE, 0x70000000)
    assert rp.nmissed == 0
    m.memory.write_u32(0x3000, 5)
    assert m.call(CODE, 0x3000) == 5
    assert (rp.hits, rp.abandoned + rp.active) == (1, 20)


def test_two_stacks_that_take_turns() -> None:
    """Coroutines: an instance on another stack is not taken for dead, however the stacks lie."""
    # f: xchg esp, [0x3000]; ret - it returns on the other stack
    m, seen = loaded("87 25 00 30 00 00 c3"), []
    rp = m.kretprobe(CODE, lambda ri, regs: seen.append(ri.ret_addr), maxactive=2)
    stack, end = 0x20000, CODE + 0x100
    m.memory.write(end, b"\xe8" + (CODE - end - 5).to_bytes(4, "little", signed=True) + b"\xf4")  # call f; hlt
    m.memory.write_u32(0x3000, stack)
    m.memory.write_u32(stack, end)
    # The first call goes to the other stack, whose code calls f and so comes back to the first one.
    m.regs.eip = end
    assert m.run().reason is StopReason.HALT
    assert m.regs.eip == end + 6
    assert seen == [end + 5]
    assert (rp.hits, rp.active, rp.nmissed) == (1, 1, 0)


def test_unregistered_while_calls_are_out() -> None:
    m, seen = loaded(FACT), []
    outer = m.kretprobe(CODE, lambda ri, regs: seen.append(ri.retval))

    def at_the_bottom(p: Any, regs: Any) -> None:
        if outer.registered:
            m.unregister_kretprobe(outer)

    bottom = m.kprobe(CODE + 25, pre_handler=at_the_bottom)
    assert m.call(CODE, 5) == 120
    assert (seen, outer.registered, bottom.hits) == ([], False, 5)
    assert outer.active == 5  # as it was when it was unregistered
    again = m.kretprobe(CODE, lambda ri, regs: seen.append(ri.retval))
    assert m.call(CODE, 3) == 6
    assert (seen, again.active) == ([1, 2, 6], 0)


def test_unregistered_by_its_own_handler() -> None:
    m, seen = loaded(FACT), []

    def once(ri: Any, regs: Any) -> None:
        seen.append(ri.retval)
        m.unregister_kretprobe(rp)

    rp = m.kretprobe(CODE, once)
    assert m.call(CODE, 5) == 120
    assert (seen, rp.hits, rp.registered) == ([1], 1, False)


def test_a_handler_that_raises() -> None:
    m = loaded("e8 02 00 00 00 40 f4 " + INC)  # call inc; inc eax; hlt
    rp = m.kretprobe(CODE + 7, lambda ri, regs: 1 / 0)
    m.push(5, 5)
    m.regs.eip = CODE
    with pytest.raises(ZeroDivisionError) as caught:
        m.run()
    assert any("Kretprobe 0x10007" in note for note in caught.value.__notes__)
    assert m.regs.eip == CODE + 5
    assert m.run().reason is StopReason.HALT
    assert (m.regs.eax, rp.hits, rp.active) == (7, 1, 0)


def test_an_action_that_stops() -> None:
    m = loaded("e8 02 00 00 00 40 f4 " + INC)
    m.kretprobe(CODE + 7, action=StopRun())
    m.push(5)
    m.regs.eip = CODE
    stop = m.run()
    assert (stop.reason, stop.eip) == (StopReason.STOPPED, CODE + 5)
    assert m.run().reason is StopReason.HALT


def test_m_stop_in_a_handler() -> None:
    m = loaded("e8 02 00 00 00 40 f4 " + INC)
    m.kretprobe(CODE + 7, lambda ri, regs: m.stop())
    m.push(5)
    m.regs.eip = CODE
    assert m.run().reason is StopReason.STOPPED
    assert m.run().reason is StopReason.HALT


def test_calls_inside_handlers_are_recursion() -> None:
    m, seen = loaded(INC), []
    plain = m.kprobe(CODE, action=Count())
    rp = m.kretprobe(CODE, lambda ri, regs: seen.append((ri.retval, m.call(CODE, ri.retval), ri.retval)))
    assert m.call(CODE, 1) == 2
    assert seen == [(2, 3, 2)]
    assert (rp.hits, rp.misses["recursion"], plain.hits, plain.misses["recursion"]) == (1, 1, 1, 1)


def test_with_other_probes_at_the_entry() -> None:
    m, order = loaded(INC), []
    m.kprobe(CODE, pre_handler=lambda p, regs: order.append("pre"), post_handler=lambda p, r, f: order.append("post"))
    m.kretprobe(CODE, lambda ri, regs: order.append("return"))
    m.kprobe(CODE + 5, pre_handler=lambda p, regs: order.append("ret instruction"))
    m.call(CODE, 1)
    assert order == ["pre", "post", "ret instruction", "return"]


def test_disable_and_enable() -> None:
    m = loaded(INC)
    rp = m.kretprobe(CODE, action=Count())
    rp.disable()
    m.call(CODE, 1)
    assert (rp.hits, rp.enabled, rp.path) == (0, False, "none")
    rp.enable()
    m.call(CODE, 1)
    assert rp.hits == 1


def test_a_jump_to_the_trampoline_is_no_return() -> None:
    m = loaded("c3")
    rp = m.kretprobe(CODE, action=Count())
    m.regs.eip = m._core.layout.trampoline
    stop = m.run()
    assert (stop.reason, stop.vector) == (StopReason.TRAP, 6)
    assert rp.hits == 0


def test_every_call_of_a_program() -> None:
    with Machine() as m:
        m.load(shipped_images()["checksum"])
        rec = Record("len=$arg3", "ret=$retval", "dt=$latency")
        names = ("crc32", "adler32", "fletcher32")
        probes = [m.kretprobe(name, action=rec) for name in names]
        entries = [m.kprobe(name, action=Count()) for name in names]
        assert m.run().reason is StopReason.HALT
        icount = m.icount
        rows = rec.drain()
        assert [rp.hits for rp in probes] == [p.hits for p in entries] == [256] * 3
        assert (rows["dt"] >= rows["len"]).all()
    with Machine() as plain:
        plain.load(shipped_images()["checksum"])
        plain.run()
        assert plain.icount == icount


def test_the_table() -> None:
    m = loaded(INC)
    assert repr(m.probes) == "no probes"
    m.symbols.add([Symbol("increment", CODE, 6)])
    p = m.kprobe("increment", action=Count())
    rp = m.kretprobe("increment", action=Count(), maxactive=1)
    q = m.kprobe("increment+4", pre_handler=lambda p, regs: None)
    m.call("increment", 1)
    q.disable()
    lines = repr(m.probes).splitlines()
    assert lines[0].split() == ["number", "kind", "place", "address", "symbol", "path", "hits", "missed"]
    assert [line.split() for line in lines[1:]] == [
        ["0", "p", "increment", "0x00010000", "increment", "boosted", "1", "0"],
        ["1", "r", "increment", "0x00010000", "increment", "boosted", "1", "0"],
        ["2", "p", "increment+0x4", "0x00010004", "increment+0x4", "none", "1", "0"],
    ]
    assert list(m.probes) == [p, rp, q]
    assert (m.probes[1], len(m.probes), len(m.probes[1:])) == (rp, 3, 2)
    assert (m.kprobes, m.kretprobes) == ([p, q], [rp])
    for _ in range(30):
        m.kprobe(CODE, action=Count())
    assert repr(m.probes).endswith("... and 13 more")


# Many calls: the trampoline is a part of decoded code from the second return on

# mov ecx,100; again: push ecx; call f; pop ecx; dec ecx; jnz again; hlt.   f: inc eax; ret
LOOP = "b9 64 00 00 00 51 e8 05 00 00 00 59 49 75 f6 f4 40 c3"
F = CODE + 16


def looped(*actions: Any, **options: Any) -> tuple[Machine, Kretprobe]:
    m = loaded(LOOP)
    m.regs.eip = CODE
    return m, m.kretprobe(F, action=list(actions), **options)


def test_a_loop_of_calls() -> None:
    rec = Record("eax=$retval", "dt=$latency", "sp=%sp", "ip=%ip", "flags=%flags")
    m, rp = looped(rec)
    plain = loaded(LOOP)
    plain.regs.eip = CODE
    assert m.run().reason is plain.run().reason is StopReason.HALT
    assert (m.icount, list(m.regs)) == (plain.icount, list(plain.regs))
    rows = rec.drain()
    assert rows["eax"].tolist() == list(range(1, 101))
    for name, value in (("dt", 2), ("ip", m._core.layout.trampoline), ("sp", rows["sp"][0])):
        assert set(rows[name].tolist()) == {value}
    assert set(numpy.diff(rows["icount"].astype(int)).tolist()) == {7}
    assert (rp.hits, rp.nmissed, rp.active, rp.abandoned) == (100, 0, 0, 0)
    stepped, again = looped(one := Record("eax=$retval", "dt=$latency", "sp=%sp", "ip=%ip", "flags=%flags"))
    while stepped.step().reason is StopReason.LIMIT:
        pass
    assert again.hits == 100
    assert (one.drain() == rows).all()


@pytest.mark.parametrize("limit", [*range(640, 660), 300])
def test_limits_are_exact(limit: int) -> None:
    m, rp = looped(Count())
    stop = m.run(max_instructions=limit)
    assert (stop.reason, stop.icount) == (StopReason.LIMIT, limit)
    plain = loaded(LOOP)
    plain.regs.eip = CODE
    plain.run(max_instructions=limit)
    # Right behind the RET the guest is still at the trampoline, with the hit to come.
    at_trampoline = m.regs.eip == m._core.layout.trampoline
    assert m.regs.eip == plain.regs.eip or (at_trampoline and plain.regs.eip == CODE + 11)
    m.run()
    assert (rp.hits, m.regs.eax) == (100, 100)


def test_an_action_stops_some_return() -> None:
    m, rp = looped(When("$retval == 50"), StopRun())
    stop = m.run()
    assert (stop.reason, stop.eip, m.regs.eax, rp.hits, rp.active) == (StopReason.STOPPED, CODE + 11, 50, 50, 0)
    assert m.run().reason is StopReason.HALT
    assert rp.hits == 100


def test_until_the_place_where_functions_return_to() -> None:
    m, rp = looped(Count())
    for calls in range(1, 101):
        assert m.run(until=CODE + 11).reason is StopReason.UNTIL
        assert (rp.hits, m.regs.eax) == (calls, calls)


def test_unregistered_in_the_middle_of_a_loop() -> None:
    m, rp = looped(Count())
    m.kprobe(F, pre_handler=lambda p, regs: m.unregister_kretprobe(rp) if p.hits == 50 else None)
    assert m.run().reason is StopReason.HALT
    assert (rp.hits, rp.action[0].count, m.regs.eax) == (49, 49, 100)


def test_another_probe_of_the_loop_has_a_handler() -> None:
    m, rp = looped(Count())
    seen: list[int] = []
    other = m.kretprobe(F, lambda ri, regs: seen.append(ri.retval))
    m.run()
    assert (rp.hits, other.hits, seen) == (100, 100, list(range(1, 101)))


# Bad input

def test_errors_change_nothing() -> None:
    m = loaded(INC)
    m.symbols.add([Symbol("increment", CODE, 6)])
    count = Count()
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: m.kretprobe(CODE, "f"), TypeError, "must be a function"),
        (lambda: m.kretprobe(CODE, entry_handler=5, action=count), TypeError, "must be a function"),
        (lambda: m.kretprobe(CODE, action=count, maxactive=0), ValueError, "maxactive=0"),
        (lambda: m.kretprobe(CODE, action=count, maxactive=1 << 40), ValueError, "maxactive"),
        (lambda: m.kretprobe(CODE, action="count"), TypeError, "an action is"),
        (lambda: m.kretprobe(CODE, action=count, entry=["%ax"]), ValueError, "needs a name"),
        (lambda: m.kretprobe(CODE, action=count, entry=["a=%ax", "a=%bx"]), ValueError, "a name already"),
        (lambda: m.kretprobe(CODE, action=count, entry=["arg1=%ax"]), ValueError, "a name already"),
        (lambda: m.kretprobe(CODE, action=count, entry=["a=+0(%ax):string"]), ValueError, "only numbers"),
        (lambda: m.kretprobe(CODE, action=count, entry=["a=$retval"]), ValueError, "only numbers"),
        (lambda: m.kretprobe(CODE, action=count, entry=[f"a{i}=%ax" for i in range(33)]), ValueError, "at most 32"),
        (lambda: m.kretprobe(CODE, action=Hist("n", "$len")), ValueError, "nothing is kept"),
        (lambda: m.kretprobe(CODE, action=count, filter="len > 4"), ValueError, "no field is called len"),
        (lambda: m.kprobe(CODE, action=Hist("n", "$retval")), ValueError, "return probes only"),
        (lambda: m.kprobe(CODE, action=count, filter="$latency > 4"), ValueError, "return probes only"),
        (lambda: m.kretprobe("incremen", action=count), KprobeError, "did you mean increment"),
        (lambda: m.kretprobe("increment+4", action=count), KprobeError, "first instruction"),
        (lambda: m.kretprobe(0x70000000, action=count), KprobeError, "no memory is mapped"),
        (lambda: m.unregister_kretprobe(Kretprobe(CODE)), KprobeError, "not registered"),
        (lambda: m.register_kretprobe(Kprobe(CODE)), TypeError, "a Kretprobe is needed"),
        (lambda: m.register_kprobe(Kretprobe(CODE)), TypeError, "a Kprobe is needed"),
        (lambda: m.unregister_kretprobes([Kretprobe(CODE)]), ValueError, "not registered"),
    ]
    for use, error, says in cases:
        with pytest.raises(error, match=says):
            use()
        assert (len(m.probes), m.memory.read(CODE, 6)) == (0, bytes.fromhex(INC))
    m.kretprobe(CODE, action=count)
    assert m.call(CODE, 1) == 2
    assert count.count == 1


def test_batches_are_all_or_nothing() -> None:
    m = loaded(INC)
    probes = [Kretprobe(CODE, action=Count()), Kretprobe(0x70000000, action=Count())]
    with pytest.raises(KprobeError):
        m.register_kretprobes(probes)
    assert len(m.probes) == 0
    m.register_kretprobes(probes[:1])
    with pytest.raises(KprobeError) as caught:
        m.register_kretprobe(probes[0])
    assert caught.value.errno == errno.EINVAL
    m.unregister_kretprobes(probes[:1])
    assert len(m.probes) == 0
    m.register_kretprobe(probes[0])
    m.call(CODE, 1)
    assert probes[0].hits == 1


@pytest.mark.parametrize(("options", "says"), [
    ({"kprobes": "2.5.26"}, "no return probes"), ({"kprobes": None}, "off"), ({"kernel": None}, "trampoline")
])  # fmt: skip
def test_machines_without_return_probes(options: dict[str, Any], says: str) -> None:
    with Machine(memory=1 << 20, **options) as m, pytest.raises(KprobeError, match=says) as caught:
        m.kretprobe(CODE, action=Count())
    assert caught.value.errno == errno.ENOSYS


def test_many_return_probes_come_and_go() -> None:
    m = loaded(INC)
    for _ in range(300):
        rp = m.kretprobe(CODE, action=Count())
        assert m.call(CODE, 1) == 2
        m.unregister_kretprobe(rp)
        assert rp.hits == 1


def test_a_machine_is_closed_while_calls_are_out() -> None:
    m = loaded(FACT)
    rp = m.kretprobe(CODE, action=Count())
    m.kprobe(CODE + 25, action=StopRun())
    with pytest.raises(MachineFault):
        m.call(CODE, 5)
    m.close()
    assert (rp.active, rp.registered) == (5, False)
    with loaded(INC) as other:
        again = other.kretprobe(CODE, action=rp.action)
        other.call(CODE, 1)
        assert (again.hits, rp.action.count) == (1, 1)

