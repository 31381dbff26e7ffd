"""Fault injection: each kind of fault and end, against the same done by hand, and independent of how it is done."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest

from pykprobes import Machine, Snapshot, StopReason
from pykprobes.inject import (
    REGISTERS,
    RESULT,
    BadGolden,
    Early,
    Golden,
    Kind,
    Lifespan,
    Model,
    Outcome,
    Trigger,
    faults,
    inject,
    memory_flips,
    register_flips,
)  # fmt: skip

CODE, DATA, OUT = 0x10000, 0x20000, 0x21000
# Sum of squares of DATA[0..15], by a function; the sum goes to OUT. It checks a second sum and goes to FAILED if they
# differ.
#   xor esi, esi; mov ecx, 15; mov edi, 0
# L: push [DATA + ecx*4]; call square; add esp, 4; add esi, eax; add edi, eax; dec ecx; jns L
#   mov [OUT], esi; cmp esi, edi; jne FAILED; hlt; FAILED: hlt; square: mov eax, [esp+4]; imul eax, eax; ret
PARTS = [
    b"\x31\xf6\xb9\x0f\0\0\0\xbf\0\0\0\0",
    b"\xff\x34\x8d" + DATA.to_bytes(4, "little") + b"\xe8\x18\0\0\0\x83\xc4\x04\x01\xc6\x01\xc7\x49\x79\xea",
    b"\x89\x35" + OUT.to_bytes(4, "little") + b"\x39\xfe\x75\x01\xf4\xf4" + b"\x90" * 1,
    b"\x8b\x44\x24\x04\x0f\xaf\xc0\xc3",
]
LOOP = CODE + len(PARTS[0])
TAIL = LOOP + len(PARTS[1])
END, FAILED, SQUARE = TAIL + 10, TAIL + 11, TAIL + 13


def program() -> Machine:
    code = bytearray(b"".join(PARTS))
    at = LOOP + 7 - CODE
    code[at + 1 : at + 5] = (SQUARE - (CODE + at + 5)).to_bytes(4, "little", signed=True)
    m = Machine(memory=1 << 20)
    m.load(bytes(code), at=CODE)
    for i in range(16):
        m.memory.write_u32(DATA + 4 * i, 3 * i + 1)
    m.regs.eip = CODE
    return m


@pytest.fixture(scope="module")
def start() -> Snapshot:
    m = program()
    m.memory.write(m.regs.esp - 64, bytes(64))
    return m.snapshot()


@pytest.fixture(scope="module")
def golden(start: Snapshot) -> Golden:
    return Golden(start, end=END, output=[(OUT, 4)], detected=[FAILED])


def one(**columns: Any) -> Any:
    made = faults(1)
    for name, value in columns.items():
        made[name] = value
    return made


def result(golden: Golden, *parts: Any, **options: Any) -> Any:
    made = numpy.concatenate(parts)
    made["group"] = 0
    return golden.inject(made, **options)[0]


def assert_same(a: Any, b: Any) -> None:
    for name in RESULT.names or ():
        if name != "early":
            different = numpy.flatnonzero(a[name] != b[name])
            assert not len(different), (name, different[:5], a[different[:5]], b[different[:5]])


def test_the_golden_run(golden: Golden) -> None:
    assert int.from_bytes(golden.output, "little") == sum((3 * i + 1) ** 2 for i in range(16))
    trace = golden.trace
    assert (trace["kind"] == 4).sum() == golden.length
    assert trace["time"].tolist() == sorted(trace["time"].tolist())
    calls = trace[(trace["kind"] == 4) & (trace["address"] == SQUARE)]
    assert len(calls) == 16
    squares = trace[(trace["kind"] == 1) & (trace["eip"] == LOOP)]
    assert squares["address"].tolist() == [DATA + 4 * i for i in range(15, -1, -1)]
    assert repr(golden).startswith(f"<Golden of {golden.length} instructions to {END:#x}")


# By hand


def by_hand(start: Snapshot, golden: Golden, time: int, change: Any, budget: int = 10) -> tuple[Outcome, int, int]:
    """Outcome, end and eip of a fault that strikes between two instructions, with the machine's ordinary functions."""
    m = start.machine()
    if time:
        m.run(max_instructions=time)
    change(m)
    limit = budget * golden.length
    seen = None
    while m.icount < limit:
        if m.regs.eip in (END, FAILED):
            break
        seen = m.run(until=END, max_instructions=1)
        if seen.reason is not StopReason.LIMIT:
            break
    eip, end = m.regs.eip, m.icount
    if eip == END and (seen is None or seen.reason in (StopReason.LIMIT, StopReason.UNTIL)):
        if m.memory.read(OUT, 4) != golden.output:
            return Outcome.SDC, end, eip
        good = start.machine()
        good.run(until=END)
        same = dict(m.regs) == dict(good.regs) and all(
            m.memory.read(a, n) == good.memory.read(a, n)
            for a, n in ((CODE, 0x1000), (DATA, 0x2000), (good.regs.esp - 4096, 4096 + 16))
        )
        return Outcome.MASKED if same else Outcome.LATENT, end, eip
    if eip == FAILED and (seen is None or seen.reason is StopReason.LIMIT):
        return Outcome.DETECTED, end, eip
    if seen is not None and seen.reason in (StopReason.TRAP, StopReason.SHUTDOWN):
        fetch = seen.vector == 14 and seen.address == eip
        return Outcome.LEFT if fetch else Outcome.TRAP, end, eip
    return Outcome.HANG, end, eip


def test_flips_by_hand(start: Snapshot, golden: Golden) -> None:
    chance = random.Random(7)
    rows, changes = faults(160), []
    names = ["eax", "ecx", "edx", "esi", "edi", "esp", "ebp", "eip", "eflags"]
    for i in range(len(rows)):
        rows[i]["time"] = time = chance.randrange(golden.length)
        if chance.random() < 0.6:
            name, bit = chance.choice(names), chance.randrange(32)
            bit = chance.choice((0, 2, 6, 7, 10, 11)) if name == "eflags" else bit
            rows[i]["kind"], rows[i]["target"], rows[i]["mask"] = Kind.REGISTER, REGISTERS[name], 1 << bit

            def change(m: Machine, name: str = name, bit: int = bit) -> None:
                setattr(m.regs, name, getattr(m.regs, name) ^ 1 << bit)

        else:
            address = chance.choice((DATA, OUT, 0xBFFFFFF0 - 40, CODE)) + chance.randrange(48)
            bit = chance.randrange(8)
            rows[i]["kind"], rows[i]["target"], rows[i]["mask"] = Kind.MEMORY, address, 1 << bit

            def change(m: Machine, address: int = address, bit: int = bit) -> None:
                m.memory.write_u8(address, m.memory.u8(address) ^ 1 << bit)

        changes.append((time, change))
    found = golden.inject(rows)
    for row, (time, change) in enumerate(changes):
        expected = by_hand(start, golden, time, change)
        r = found[row]
        assert (Outcome(r["outcome"]), int(r["end"]), int(r["eip"])) == expected, (rows[row], r)
        assert r["injected"] == time
        assert r["latency"] == r["end"] - time
    assert len(set(found["outcome"].tolist())) >= 5


# Kinds


def stop_values(golden: Golden, row: Any) -> Snapshot:
    return golden.replay(row)[0]


def test_values_and_addresses_of_accesses(golden: Golden) -> None:
    first = int(golden.trace["time"][(golden.trace["kind"] == 1) & (golden.trace["eip"] == LOOP)][0])
    value = 3 * 15 + 1
    for model, mask, given, after in [
        (Model.FLIP, 0xFF, 0, value ^ 0xFF), (Model.SET0, 0xF, 0, value & ~0xF),
        (Model.SET1, 1 << 8, 0, value | 1 << 8), (Model.OVERWRITE, 0xFF00, 0x1234, value & ~0xFF00 | 0x1200),
    ]:  # fmt: skip
        r = result(golden, one(time=first, kind=Kind.RVAL, model=model, mask=mask, value=given))
        assert (r["before"], r["after"], r["fired"], r["outcome"]) == (value, after, 1, Outcome.SDC)
    replayed = stop_values(golden, one(time=first, kind=Kind.RVAL, model=Model.OVERWRITE, mask=0xFFFFFFFF, value=0))
    wrong = int.from_bytes(replayed.page(OUT >> 12)[:4], "little")
    assert wrong == int.from_bytes(golden.output, "little") - value**2
    assert replayed.page(DATA >> 12)[60:64] == value.to_bytes(4, "little"), "memory itself is as it was"
    r = result(golden, one(time=first, kind=Kind.RADDR, model=Model.FLIP, mask=4))
    assert (r["before"], r["after"], r["outcome"]) == (DATA + 60, DATA + 56, Outcome.SDC)
    r = result(golden, one(time=first, kind=Kind.WVAL, model=Model.FLIP, mask=2))
    assert (r["before"], r["outcome"]) == (value, Outcome.SDC)
    r = result(golden, one(time=first, kind=Kind.WADDR, model=Model.OVERWRITE, mask=0xFFFFFFFF, value=0x70000000))
    assert (r["outcome"], r["vector"], r["cr2"], r["error_code"]) == (Outcome.TRAP, 14, 0x70000000, 2)
    r = result(golden, one(time=first, kind=Kind.RVAL, target=1, mask=1))
    assert (r["outcome"], r["fired"]) == (Outcome.NOT_FIRED, 0)


def test_registers_before_and_after(golden: Golden) -> None:
    hit = {"trigger": Trigger.HIT, "where": SQUARE + 4, "time": 3, "target": REGISTERS["eax"], "mask": 1}
    before = result(golden, one(kind=Kind.RREG, **hit))
    after = result(golden, one(kind=Kind.WREG, **hit))
    value = 3 * 13 + 1
    assert (before["before"], before["after"], before["at"]) == (value, value ^ 1, SQUARE + 4)
    assert (after["before"], after["after"], after["at"]) == (value**2, value**2 ^ 1, SQUARE + 4)
    assert before["outcome"] == after["outcome"] == Outcome.SDC


def test_control_flow(golden: Golden) -> None:
    call = {"trigger": Trigger.HIT, "where": LOOP + 7, "time": 1, "kind": Kind.CF}
    r = result(golden, one(model=Model.SKIP, span=1, **call))
    assert (r["before"], r["after"], r["outcome"]) == (LOOP + 7, LOOP + 12, Outcome.SDC)
    r = result(golden, one(model=Model.SKIP, span=3, **call))
    assert r["after"] == LOOP + 17
    r = result(golden, one(model=Model.JUMP, value=FAILED, **call))
    assert (r["after"], r["outcome"], r["eip"]) == (FAILED, Outcome.DETECTED, FAILED)
    r = result(golden, one(model=Model.JUMP, value=0x90000000, **call))
    assert (r["outcome"], r["vector"], r["cr2"]) == (Outcome.LEFT, 14, 0x90000000)
    r = result(golden, one(model=Model.FLIP, mask=4, **call))
    assert (r["before"], r["after"]) == (SQUARE, SQUARE ^ 4)


def test_text(golden: Golden) -> None:
    add = LOOP + 15  # add esi, eax: 01 c6; with 29 it subtracts
    when = {"trigger": Trigger.HIT, "where": add, "time": 1, "kind": Kind.TXT, "model": Model.OVERWRITE, "mask": 0xFF}
    value = (3 * 15 + 1) ** 2
    total = int.from_bytes(golden.output, "little")
    for lifespan, wrong in [(Lifespan.ONCE, -2 * value), (Lifespan.OVERWRITTEN, -2 * total)]:
        state, r = golden.replay(one(value=0x29, lifespan=lifespan, **when))
        assert (r["before"], r["after"], r["at"]) == (0x01, 0x29, add)
        assert r["outcome"] == Outcome.DETECTED
        expected = int.from_bytes(golden.output, "little") + wrong & 0xFFFFFFFF
        assert int.from_bytes(state.page(OUT >> 12)[:4], "little") == expected
        assert state.page(CODE >> 12)[add - CODE] == (0x01 if lifespan == Lifespan.ONCE else 0x29)
    r = result(golden, one(value=0x0F, **when))
    assert r["outcome"] in (Outcome.TRAP, Outcome.SDC, Outcome.DETECTED, Outcome.LEFT)


def test_functions_that_return_at_once(golden: Golden) -> None:
    state, r = golden.replay(one(trigger=Trigger.HIT, where=SQUARE, time=1, kind=Kind.RETURN, value=0))
    value = (3 * 15 + 1) ** 2
    assert int.from_bytes(state.page(OUT >> 12)[:4], "little") == int.from_bytes(golden.output, "little") - value
    assert (r["outcome"], r["after"]) == (Outcome.SDC, 0)
    assert r["end"] == golden.length - 3


def test_other_registers() -> None:
    m = Machine(memory=1 << 20, cpu="p4")
    # fld1; fld1; faddp; fistp [OUT]; movd xmm0, eax; movd [OUT + 4], xmm0; mov eax, ds; hlt
    m.load(b"\xd9\xe8\xd9\xe8\xde\xc1\xdb\x1d" + OUT.to_bytes(4, "little") + b"\x66\x0f\x6e\xc0\x66\x0f\x7e\x05"
           + (OUT + 4).to_bytes(4, "little") + b"\x8c\xd8\xf4", at=CODE)  # fmt: skip
    m.regs.eip, m.regs.cr4, m.regs.cr0 = CODE, 0x600, m.regs.cr0 & ~8
    g = Golden(m.snapshot(), output=[(OUT, 8)])
    assert g.output[:4] == b"\x02\0\0\0"
    for name, time, mask, outcome in [
        ("st0", 3, 1 << 62, Outcome.SDC), ("se0", 1, 4, Outcome.SDC), ("xmm0l", 5, 1, Outcome.SDC),
        ("xmm3h", 5, 1, Outcome.LATENT), ("fcw", 0, 0x800, Outcome.LATENT), ("dr0", 0, 4, Outcome.LATENT),
        ("cr2", 0, 4, Outcome.LATENT), ("mxcsr", 0, 0x2000, Outcome.LATENT), ("ds", 6, 1 << 15, Outcome.MASKED),
    ]:  # fmt: skip
        r = g.inject(one(kind=Kind.REGISTER, target=REGISTERS[name], time=time, mask=mask))[0]
        assert Outcome(r["outcome"]) is outcome, name
        # A selector that no descriptor stands for cannot be held: evidence that nothing happened.
        assert (r["before"] == r["after"]) == (name == "ds"), name


# Triggers, lifespans, groups


def test_triggers(golden: Golden) -> None:
    access = one(trigger=Trigger.ACCESS, where=DATA + 41, access=1, time=1, kind=Kind.REGISTER, target=1, mask=0)
    access["mask"] = 1 << 20
    r = result(golden, access)
    when = int(golden.trace["time"][(golden.trace["address"] == DATA + 40) & (golden.trace["kind"] == 1)][0])
    assert (r["injected"], r["at"]) == (when + 1, LOOP + 7)
    for n, fired in [(16, 1), (17, 0)]:
        r = result(golden, one(trigger=Trigger.HIT, where=SQUARE, time=n, kind=Kind.REGISTER, target=2, mask=1))
        assert r["fired"] == fired
        assert (r["outcome"] == Outcome.NOT_FIRED) == (not fired)


def test_exceptions_as_triggers() -> None:
    m = Machine(memory=1 << 20, kernel=None)
    m.memory.write(0x500, b"\x40\xcd\x20\x40\xcd\x20\x40\xf4")  # inc; int 20h; inc; int 20h; inc; hlt
    m.memory.write(0x600, b"\x43\x43\xcf")  # inc ebx; inc ebx; iret
    m.memory.write(0x20 * 4, b"\x00\x06\0\0")
    m.regs.cs, m.regs.eip, m.regs.esp = 0, 0x500, 0x1000
    g = Golden(m.snapshot())
    for n, injected in [(1, 2), (2, 7)]:
        r = g.inject(one(trigger=Trigger.EXCEPTION, where=0x20, time=n, kind=Kind.REGISTER, target=3, mask=0x80))[0]
        assert (r["at"], r["fired"], r["injected"]) == (0x600, 1, injected)


def test_lifespans(golden: Golden) -> None:
    at = {"time": 5, "kind": Kind.MEMORY, "target": OUT, "size": 4, "mask": 0xFFFF, "value": 7}
    at["model"] = Model.OVERWRITE
    for lifespan, outcome in [(Lifespan.ONCE, Outcome.MASKED), (Lifespan.PERMANENT, Outcome.SDC)]:
        # The store to OUT comes last: only a value that is put there again behind it is seen.
        assert result(golden, one(lifespan=lifespan, **at))["outcome"] == outcome
    r = result(golden, one(time=5, kind=Kind.REGISTER, target=REGISTERS["esi"], mask=1, lifespan=Lifespan.PERMANENT))
    assert r["outcome"] in (Outcome.DETECTED, Outcome.SDC)
    five = {"kind": Kind.REGISTER, "target": REGISTERS["ecx"], "mask": 0xFF, "model": Model.OVERWRITE, "value": 5}
    held = result(golden, one(time=3, lifespan=Lifespan.PERMANENT, **five))
    assert held["outcome"] == Outcome.HANG, "the counter never comes to its end"
    span = result(golden, one(time=3, lifespan=Lifespan.SPAN, span=100, **five))
    assert span["outcome"] == Outcome.SDC
    assert span["end"] < held["end"]


def test_groups(golden: Golden) -> None:
    flip = {"kind": Kind.REGISTER, "target": REGISTERS["esi"], "mask": 4}
    both = result(golden, one(time=20, **flip), one(time=40, **flip))
    assert (both["fired"], both["injected"]) == (2, 20)
    assert both["outcome"] != Outcome.NOT_FIRED
    undone = result(golden, one(time=20, **flip), one(time=20, **flip))
    assert (undone["fired"], undone["outcome"]) == (2, Outcome.MASKED)
    hit = result(golden, one(time=20, **flip), one(trigger=Trigger.HIT, where=SQUARE, time=2, **flip))
    assert hit["fired"] == 2
    late = result(golden, one(time=20, **flip), one(time=10, **flip))
    assert late["fired"] == 1
    access = one(trigger=Trigger.ACCESS, where=DATA + 20, access=1, time=1, **flip)
    assert result(golden, one(time=20, **flip), access)["fired"] == 2


# Ends


def test_hangs_are_proven_or_time_out() -> None:
    m = Machine(memory=1 << 20)
    m.load(b"\x90\x90\x48\x75\xfd\xf4", at=CODE)  # nop; nop; L: dec eax; jnz L; hlt
    m.regs.eip, m.regs.eax = CODE, 100
    g = Golden(m.snapshot())
    jump = one(time=1, kind=Kind.TXT, model=Model.OVERWRITE, mask=0xFFFF, value=0xFEEB, size=2)
    jump["lifespan"] = Lifespan.OVERWRITTEN
    long = g.inject(jump, budget=100_000.0)[0]
    full = g.inject(jump, budget=100_000.0, early=False)[0]
    assert long["outcome"] == full["outcome"] == Outcome.HANG
    assert long["early"] == Early.LOOP
    assert not full["early"]
    for name in ("end", "eip", "latency", "reason", "before", "after"):
        assert long[name] == full[name]
    # A counter that goes round changes its state each time: no loop is proven before it ends.
    count = one(time=1, kind=Kind.REGISTER, target=0, mask=1 << 20)
    for early in (True, False):
        assert g.inject(count, budget=10.0, early=early)[0]["outcome"] == Outcome.HANG
        assert g.inject(count, budget=100_000.0, early=early)[0]["outcome"] == Outcome.MASKED


def test_waiting_for_the_clock_is_no_loop() -> None:
    m = Machine(memory=1 << 20)
    # L: rdtsc; cmp eax, ebx; mov eax, 0; mov edx, 0; jb L; hlt
    m.load(b"\x0f\x31\x39\xd8\xb8\0\0\0\0\xba\0\0\0\0\x72\xf0\xf4", at=CODE)
    m.regs.eip, m.regs.ebx = CODE, 10
    g = Golden(m.snapshot())
    later = one(time=1, kind=Kind.REGISTER, target=3, mask=1 << 20)
    assert g.inject(later, budget=10.0**6)[0]["outcome"] == Outcome.LATENT


def test_traps_say_everything(golden: Golden) -> None:
    r = result(golden, one(time=13, kind=Kind.REGISTER, target=REGISTERS["ecx"], mask=1 << 29))
    assert (r["outcome"], r["vector"], r["reason"]) == (Outcome.TRAP, 14, StopReason.TRAP.value)
    esp = {"kind": Kind.REGISTER, "target": REGISTERS["esp"], "model": Model.OVERWRITE, "mask": 0xFFFFFFFF, "value": 8}
    r = result(golden, one(time=0, **esp))
    assert r["outcome"] == Outcome.TRAP
    assert r["reason"] == StopReason.SHUTDOWN.value, "no stack to deliver the page fault on"


def test_the_image(start: Snapshot) -> None:
    g = Golden(start, end=END, output=[(OUT, 4)], image=[(CODE, 0x100)])
    r = g.inject(one(time=4, kind=Kind.CF, model=Model.JUMP, value=DATA + 0x800))[0]
    assert r["outcome"] == Outcome.LEFT
    inside = Golden(start, end=END, output=[(OUT, 4)])
    assert inside.inject(one(time=4, kind=Kind.CF, model=Model.JUMP, value=DATA + 0x800))[0]["outcome"] == Outcome.TRAP


# Independent of how it is done


def everything(golden: Golden, count: int, seed: int) -> Any:
    """Faults of all kinds, at random."""
    chance = numpy.random.default_rng(seed)
    f = faults(count)
    f["kind"] = chance.integers(0, 11, count)
    f["time"] = chance.integers(0, golden.length + 3, count)
    f["mask"] = numpy.uint64(1) << chance.integers(0, 8, count).astype(numpy.uint64)
    f["value"] = chance.integers(0, 256, count)
    f["model"] = numpy.where(f["kind"] == Kind.CF, chance.integers(0, 6, count), chance.integers(0, 4, count))
    f["span"] = chance.integers(1, 5, count)
    f["target"] = 0
    registers = numpy.isin(f["kind"], (Kind.REGISTER, Kind.RREG, Kind.WREG))
    f["target"][registers] = chance.integers(0, 10, registers.sum())
    memory = f["kind"] == Kind.MEMORY
    places = chance.choice([DATA, OUT, 0xBFFFFFD0, CODE], memory.sum())
    f["target"][memory] = places + chance.integers(0, 32, memory.sum())
    f["lifespan"][registers | memory] = chance.choice([0, 0, 0, 1, 3], (registers | memory).sum())
    hits = chance.random(count) < 0.3
    f["trigger"][hits], f["where"][hits] = Trigger.HIT, chance.choice([SQUARE, LOOP, SQUARE + 7], hits.sum())
    f["time"][hits] = chance.integers(1, 18, hits.sum())
    pairs = chance.random(count) < 0.2
    f["group"][1:][pairs[1:]] = f["group"][:-1][pairs[1:]]
    return f


def test_early_exits_change_nothing(golden: Golden) -> None:
    f = everything(golden, 4000, 1)
    early, full = golden.inject(f), golden.inject(f, early=False)
    assert_same(early, full)
    assert not full["early"].any()
    assert (early["early"] & Early.OVERWRITTEN).any()
    assert len(set(early["outcome"].tolist())) == 8


def test_a_long_run_meets_its_checkpoints() -> None:
    m = Machine(memory=1 << 20)
    # mov ecx, 3000; L: mov eax, [DATA]; xor ebx, eax; mov ebx, 0; inc dword [DATA + 4]; dec ecx; jnz L; hlt
    m.load(b"\xb9\xb8\x0b\0\0\xa1\0\0\x02\0\x31\xc3\xbb\0\0\0\0\xff\x05\x04\0\x02\0\x49\x75\xeb\xf4", at=CODE)
    m.regs.eip = CODE
    g = Golden(m.snapshot(), output=[(DATA + 4, 4)])
    f = register_flips([0, 3], times=range(5, 2000, 37), bits=[0, 31])
    early, full = g.inject(f), g.inject(f, early=False)
    assert_same(early, full)
    assert (early["outcome"] == Outcome.MASKED).all()
    assert (early["early"] == Early.GOLDEN).mean() > 0.9


def test_threads_order_and_repetition_change_nothing(golden: Golden) -> None:
    f = everything(golden, 3000, 2)
    expected = golden.inject(f)
    for threads in (1, 2, 5):
        assert_same(golden.inject(f, threads=threads), expected)
    groups = numpy.unique(f["group"])
    order = numpy.random.default_rng(3).permutation(len(groups))
    shuffled = f.copy()
    shuffled["group"] = order[numpy.searchsorted(groups, f["group"])]
    assert_same(golden.inject(shuffled)[order], expected)
    again = Golden(golden.snapshot, end=END, output=[(OUT, 4)], detected=[FAILED])
    assert_same(again.inject(f[::1]), expected)
    single = numpy.concatenate([golden.inject(f[f["group"] == group]) for group in groups[:200]])
    assert_same(single, expected[:200])


def test_from_a_file_and_from_a_probed_machine(golden: Golden, tmp_path: Any) -> None:
    f = everything(golden, 500, 4)
    expected = golden.inject(f)
    golden.snapshot.save(tmp_path / "s.npz")
    loaded = Golden(Snapshot.load(tmp_path / "s.npz"), end=END, output=[(OUT, 4)], detected=[FAILED])
    assert_same(loaded.inject(f), expected)
    m = golden.snapshot.machine()
    m.kprobe(LOOP, pre_handler=lambda p, regs: None)
    probed = m.snapshot()
    m.close()
    assert_same(inject(probed, f, end=END, output=[(OUT, 4)], detected=[FAILED], threads=2), expected)


def test_audit(golden: Golden) -> None:
    f = memory_flips(range(DATA, DATA + 64), times=range(0, golden.length, 20))
    plain = golden.inject(f)
    audited = golden.inject(f, audit=0.1, seed=5)
    assert_same(plain, audited)
    share = (audited["early"] & Early.AUDITED != 0).mean()
    assert 0.05 < share < 0.15
    assert not (audited["early"] & Early.WRONG).any()
    assert ((audited["early"] & Early.AUDITED) == (golden.inject(f, audit=0.1, seed=5)["early"] & Early.AUDITED)).all()


def test_audit_finds_a_wrong_exit(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exit that claims what is not so: all memory faults are said to be overwritten unread."""
    monkeypatch.setattr("pykprobes.faultcheck._unread", lambda golden, heads: heads["kind"] == Kind.MEMORY)
    f = memory_flips(range(DATA, DATA + 16), times=[0])
    r = golden.inject(f, audit=1.0)
    assert (r["early"] & Early.WRONG).all()
    assert not (r["outcome"] == Outcome.MASKED).any(), "the result is that of the full run"


def test_exhaustive_flips_of_memory_count_what_def_use_says(golden: Golden) -> None:
    """Bytes of DATA are read once: flips before are silent corruptions, flips behind stay in memory."""
    f = memory_flips(range(DATA, DATA + 64), times=[0, golden.length - 1], bits=[0, 7])
    r = golden.inject(f).reshape(2, 64, 2)
    assert (r["outcome"][0] == Outcome.SDC).mean() > 0.8
    assert (r["outcome"][1] == Outcome.LATENT).all()


# Bad input


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"mask": 0}, "its mask has no bit"),
        ({"kind": 11, "mask": 1}, "its kind is none"),
        ({"trigger": 4, "mask": 1}, "its trigger is none"),
        ({"model": 6, "mask": 1}, "its model is none"),
        ({"lifespan": 4, "mask": 1}, "its lifespan is none"),
        ({"model": Model.SKIP, "mask": 1}, "only CF"),
        ({"mask": 1 << 32}, "wider than the target"),
        ({"kind": Kind.MEMORY, "target": DATA, "mask": 256}, "wider than the target"),
        ({"kind": Kind.MEMORY, "target": 0, "mask": 1}, "no memory is mapped at 0x0"),
        ({"kind": Kind.MEMORY, "target": 0xFFFFE, "size": 4, "mask": 1}, "no memory is mapped"),
        ({"kind": Kind.MEMORY, "target": DATA, "size": 9, "mask": 1}, "its size"),
        ({"target": 50, "mask": 1}, "no such register"),
        ({"kind": Kind.TXT, "target": 15, "mask": 1}, "beyond an instruction's"),
        ({"trigger": Trigger.HIT, "mask": 1}, "counted from 1"),
        ({"trigger": Trigger.ACCESS, "time": 1, "mask": 1}, "an access is"),
        ({"trigger": Trigger.EXCEPTION, "time": 1, "where": 256, "mask": 1}, "vector"),
        ({"kind": Kind.RVAL, "lifespan": Lifespan.PERMANENT, "mask": 1}, "only registers and memory"),
        ({"kind": Kind.CF, "lifespan": Lifespan.OVERWRITTEN, "mask": 1}, "ONCE"),
        ({"lifespan": Lifespan.SPAN, "mask": 1}, "from 1 on"),
        ({"time": 1 << 63, "mask": 1}, "out of range"),
    ],
)
def test_faults_that_cannot_be(golden: Golden, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        golden.inject(numpy.concatenate([register_flips([0], [0], [0]), one(**columns)]))


def test_arrays_and_options_that_cannot_be(golden: Golden) -> None:
    good = register_flips([0], [0], [0])
    for bad in (numpy.zeros(3), [1, 2], numpy.zeros(2, [("kind", "u1")])):
        with pytest.raises(TypeError, match="dtype"):
            golden.inject(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one dimension"):
        golden.inject(good.reshape(1, 1))
    for options, message in [({"threads": 0}, "threads"), ({"budget": 0.5}, "budget"), ({"audit": 2.0}, "audit")]:
        with pytest.raises(ValueError, match=message):
            golden.inject(good, **options)  # type: ignore[arg-type]
    many = register_flips([0], range(65), [0])
    many["group"] = 1
    with pytest.raises(ValueError, match="a group has 65 faults"):
        golden.inject(many)
    assert len(golden.inject(good[:0])) == 0
    with pytest.raises(ValueError, match="one experiment"):
        golden.replay(register_flips([0], [0, 1], [0]))


def test_golden_runs_that_are_none() -> None:
    m = program()
    s = m.snapshot()
    forever = Machine(memory=1 << 20)
    forever.load(b"\xeb\xfe", at=CODE)
    forever.regs.eip = CODE
    endless = forever.snapshot()
    with pytest.raises(BadGolden, match="did not come to 0x20000 within"):
        Golden(endless, end=0x20000, limit=10_000)
    with pytest.raises(BadGolden, match="HALT"):
        Golden(s, end=0x30000)
    with pytest.raises(BadGolden, match="not mapped"):
        Golden(s, end=END, output=[(0x60000000, 4)])
    m.memory.write(CODE, b"\x0f\x0b")
    crash = m.snapshot()
    with pytest.raises(BadGolden, match="invalid opcode at 0x10000"):
        Golden(crash, end=END)
    with pytest.raises(BadGolden, match="UNTIL"):
        Golden(s, end=0x30000, detected=[END])
    with pytest.raises(TypeError, match="Snapshot"):
        Golden(m)  # type: ignore[arg-type]
    for options, message in [
        ({"end": "nowhere"}, "no symbol"), ({"end": 1 << 32}, "no address"),
        ({"output": [(0xFFFFFFFF, 2)]}, "no range"), ({"limit": 0}, "limit"),
        ({"detected": list(range(20))}, "the most is"), ({"end": 5, "detected": [5]}, "both"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Golden(s, **options)  # type: ignore[arg-type]


def test_a_golden_run_that_needs_python() -> None:
    m = Machine(memory=1 << 20)
    m.bind("helper", lambda machine: 1, 0)
    stub = m.imports.stub("helper")
    m.load(b"\xe8" + (stub - CODE - 5 & 0xFFFFFFFF).to_bytes(4, "little") + b"\xf4", at=CODE)
    m.regs.eip = CODE
    s = m.snapshot()
    with pytest.raises(BadGolden, match="needs a Python function"):
        Golden(s)
