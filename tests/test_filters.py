"""Filters: the grammar, its errors, and the values that C computes, against Python's own arithmetic."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykprobes import Count, Hist, Machine, Record, When, parse_fetch
from pykprobes.filters import compile_filter

M64 = (1 << 64) - 1
REGISTERS = {"%ax": "eax", "%bx": "ebx", "%cx": "ecx", "%dx": "edx"}


def no_symbols(name: str) -> int:
    raise KeyError(name)


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("", 1, "a number, a field or ("),
        ("len >", 6, "a number, a field or ("),
        ("len > 4096 &&", 14, "a number, a field or ("),
        ("len > 40 &&& 3", 12, "a number, a field or ("),
        ("(len", 5, "')'"),
        ("len)", 4, "an operator"),
        ("len 5", 5, "an operator"),
        ("%zx == 3", 2, "no register"),
        ("%ax == %zx", 9, "no register"),
        ("%ax = 3", 5, "an operator"),
        ("+4(%sp == 3", 7, "')'"),
        ("+4(%sp):u7 == 3", 9, "type"),
        ("+0(%sp):string == 3", 1, "arrays and strings"),
        ("1 + +0(%sp):u8[4]", 5, "arrays and strings"),
        ("0x1ffffffffffffffff", 1, "out of range"),
        ("12ab > 3", 1, "number"),
        ("3 ** 4", 4, "a number, a field or ("),
        ("$comm == 3", 1, "$stack"),
        ("-" * 30 + "1", 25, "too deeply"),
        ("(" * 30 + "1" + ")" * 30, 25, "too deeply"),
        ("1" * 5000, 1, "at most 4096"),
        ("é", 1, "a number, a field or ("),
    ],
)
def test_errors_point_at_the_column(text: str, column: int, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"column {column}: ")) as caught:
        When(text)
    head, line, caret = str(caught.value).split("\n")
    assert says in head
    assert line == "    " + text
    assert caret == " " * (4 + column - 1) + "^"


def test_not_text() -> None:
    with pytest.raises(TypeError, match="text"):
        When(4)  # type: ignore[arg-type]


def test_unknown_names_are_told_at_registration(machine: Machine) -> None:
    machine.load(b"\x90", at=0x2000)
    with pytest.raises(ValueError, match=r"column 5: no field is called size; there are: len") as caught:
        machine.kprobe(0x2000, action=Hist("len", "%ax"), filter="1 + size > 3")
    assert str(caught.value).endswith("    1 + size > 3\n        ^")
    assert machine.kprobes == []
    with pytest.raises(ValueError, match=r"unknown symbol: no symbol .nowhere."):
        machine.kprobe(0x2000, action=Count(), filter="@nowhere > 3")
    with pytest.raises(ValueError, match="a filter is for actions"):
        machine.kprobe(0x2000, filter="1")


def test_too_deep_for_the_stack(machine: Machine) -> None:
    machine.load(b"\x90", at=0x2000)
    deep = "".join(f"{i}-(" for i in range(20)) + "1" + ")" * 20
    probe = machine.kprobe(0x2000, action=Count(), filter=deep)
    machine.regs.eip = 0x2000
    machine.run(until=0x2001)
    assert probe.action.count == (1 if eval(deep) else 0)


def evaluate(machine: Machine, text: str, **registers: int) -> int | None:
    """The value of an expression: the probed instruction's registers are given."""
    ops, _ = compile_filter(text, {}, no_symbols)
    results: list[int | None] = []
    for name, value in registers.items():
        setattr(machine.regs, name, value)
    machine.regs.eip = 0x2000
    probe = machine.kprobe(0x2000, pre_handler=lambda p, regs: results.append(machine._core.fetch(ops)))
    machine.run(until=0x2001)
    machine.unregister_kprobe(probe)
    return results[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("1 << 4 + 1", 32),
        ("1 | 6 & 3 ^ 1", 3),
        ("5 & 4 == 4", 1),
        ("2 < 3 == 1", 1),
        ("3 > 2 && 2 >= 2", 1),
        ("0 || 5", 1),
        ("0 || 0", 0),
        ("7 && 0", 0),
        ("7 && 9", 1),
        ("1 || 1 / 0", 1),
        ("0 && 1 / 0", 0),
        ("1 / 0", None),
        ("1 % 0 || 1", None),
        ("0 || 1 || 1 / 0", 1),
        ("1 && 2 && 0 || 3", 1),
        ("!0", 1),
        ("!5", 0),
        ("!!5", 1),
        ("~0", M64),
        ("-1 < 0", 1),
        ("- 1 < +1", 1),
        ("-8 >> 1", M64 - 3),
        ("-7 / 2", M64 - 2),
        ("-7 % 3", M64),
        ("(-9223372036854775807 - 1) / -1", 1 << 63),
        ("(-9223372036854775807 - 1) % -1", 0),
        ("1 << 63", 1 << 63),
        ("1 << 64", 0),
        ("1 << -1", 0),
        ("-1 >> 64", M64),
        ("0x10 == 16", 1),
        ("18446744073709551615 > 1", 1),
        ("18446744073709551615 >> 60", 15),
        ("18446744073709551615 / 2", M64 // 2),
        ("18446744073709551615 % 10", 5),
        ("%ax", 0xFFFFFFFF),
        ("%ax:s32 == -1", 1),
        ("%ax == -1", 0),
        ("%ax % 10", 5),
        ("%ax %bx", None),
        ("%bx - 4", M64 - 3),
        ("-4(%si):u8 == 0x90", 1),
        ("+0(%si):u16 & 0xff", 0x55),
        ("- +0(%si):u8 + 1", M64 + 2 - 0x55),
        ("2-+0(%si):u8", M64 + 3 - 0x55),
        ("+0(%di) == 0", None),
        ("+0(%di) == 0 || 1", None),
        ("1 || +0(%di)", 1),
        ("+0(%si):u64 > 1 << 62", 1),
        ("+0(%si):s64 > 0", 0),
        ("@0x2104:u8 == 0x55", 1),
        ("\\5 == 5", 1),
        ("$stack1 == 2", 1),
    ],
)
def test_values(machine: Machine, text: str, value: int | None) -> None:
    machine.load(b"\x90\x90", at=0x2000)
    machine.memory.write(0x2100, b"\x90\0\0\0" + b"\x55" + b"\xff" * 7)
    machine.push(2, 1)
    registers = {"eax": 0xFFFFFFFF, "ebx": 0, "esi": 0x2104, "edi": 0x70000000}
    if text == "%ax %bx":  # modulo needs no blanks around it
        with pytest.raises(ValueError, match="field"):
            evaluate(machine, "%ax %", **registers)
        text = "%ax %%bx"
    assert evaluate(machine, text, **registers) == value


# Random expressions, against Python

BINARY = ["+", "-", "*", "&", "|", "^", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "/", "%", "<<", ">>"]
UNARY = ["-", "~", "!"]
FIELDS = [*REGISTERS, "%ax:s32", "%bx:s8"]
leaves = st.one_of(st.integers(0, 20), st.integers(0, (1 << 63) - 1), st.sampled_from(FIELDS))
trees = st.recursive(
    leaves,
    lambda t: st.tuples(st.sampled_from(BINARY), t, t) | st.tuples(st.sampled_from(UNARY), t),
    max_leaves=12,
)


def text_of(tree: object) -> str:
    if not isinstance(tree, tuple):
        return str(tree)
    if len(tree) == 2:
        return f"{tree[0]}({text_of(tree[1])})"
    return f"({text_of(tree[1])} {tree[0]} {text_of(tree[2])})"


def wrap(value: int) -> int:
    value &= M64
    return value - (1 << 64) if value >> 63 else value


def expected(tree: object, registers: dict[str, int]) -> int:
    """Signed 64-bit arithmetic; ZeroDivisionError where C has no value."""
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        name, _, kind = tree.partition(":")
        value = registers[REGISTERS[name]]
        bits = int(kind[1:]) if kind else 0
        return (value & ((1 << bits) - 1)) - (((value >> (bits - 1)) & 1) << bits) if bits else value
    assert isinstance(tree, tuple)
    if len(tree) == 2:
        x = expected(tree[1], registers)
        return wrap({"-": -x, "~": ~x, "!": int(not x)}[tree[0]])
    x = expected(tree[1], registers)
    if tree[0] == "&&":
        return int(bool(x and expected(tree[2], registers)))
    if tree[0] == "||":
        return int(bool(x or expected(tree[2], registers)))
    y = expected(tree[2], registers)
    if tree[0] in "/%":
        quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        return wrap(quotient if tree[0] == "/" else x - quotient * y)
    if tree[0] == "<<":
        return wrap(x << y) if 0 <= y < 64 else 0
    if tree[0] == ">>":
        return x >> y if 0 <= y < 64 else x >> 63
    plain = {
        "+": x + y, "-": x - y, "*": x * y, "&": x & y, "|": x | y, "^": x ^ y,
        "==": x == y, "!=": x != y, "<": x < y, "<=": x <= y, ">": x > y, ">=": x >= y,
    }  # fmt: skip
    return wrap(int(plain[tree[0]]))


def test_random_expressions() -> None:
    word = st.integers(0, (1 << 32) - 1)
    with Machine(memory=1 << 20) as machine:
        machine.load(b"\x90", at=0x2000)

        @given(trees, word, word, word, word)
        def check(tree: object, eax: int, ebx: int, ecx: int, edx: int) -> None:
            registers = {"eax": eax, "ebx": ebx, "ecx": ecx, "edx": edx}
            try:
                wanted: int | None = expected(tree, registers) & M64
            except ZeroDivisionError:
                wanted = None
            assert evaluate(machine, text_of(tree), **registers) == wanted

        check()


@given(st.text(alphabet="%@$+-\\()u01x&|!<>=~*/^ absplen", max_size=30))
def test_any_text_compiles_or_is_a_value_error(text: str) -> None:
    try:
        ops, names = compile_filter(text, {}, lambda name: 0, strict=False)
    except ValueError:
        return
    assert ops
    assert all(name in text for name in names)


# Filters at probes

LOOP = bytes.fromhex("40 83 f8 64 75 fa f4")  # inc eax; cmp eax, 100; jne; hlt: eax is 0 ... 99 at the inc


def looped(machine: Machine, **probe: object) -> None:
    machine.load(LOOP, at=0x2000)
    machine.kprobe(0x2000, **probe)
    machine.regs.eip, machine.regs.eax = 0x2000, 0
    machine.run()


def test_a_filter_uses_the_fields_of_its_chain(machine: Machine) -> None:
    count, hist, rec = Count(), Hist("n", "%ax", bins=10, range=(0, 100)), Record("low=%ax:b2@0/8")
    looped(machine, action=[hist, count, rec], filter="n >= 10 && n < 20 && low == 1")
    assert (count.count, hist.count, len(rec)) == (2, 2, 2)
    assert hist.counts.tolist() == [0, 2, *[0] * 8]
    drained = rec.drain()
    assert drained["low"].tolist() == [1, 1]
    assert drained["icount"].tolist() == [3 * 13, 3 * 17]


def test_a_when_in_the_middle(machine: Machine) -> None:
    before, when, behind = Count(), When("%ax % k == 0", k="\\10"), Count()
    looped(machine, action=[before, when, behind])
    assert (before.count, when.count, when.passed, behind.count) == (100, 100, 10, 10)
    assert repr(when) == "<When %ax % k == 0, 100 hits, 10 passed>"


def test_what_cannot_be_read_does_not_pass(machine: Machine) -> None:
    when, behind = When("+0x70000000(%ax) == 0 || 1"), Count()
    looped(machine, action=[when, behind])
    assert (when.count, when.faults, when.passed, behind.count) == (100, 100, 0, 0)


def test_a_shared_filter_must_mean_the_same(machine: Machine) -> None:
    machine.load(LOOP, at=0x2000)
    when = When("n > 5")
    machine.kprobe(0x2000, action=[when, Hist("n", "%ax")])
    machine.kprobe(0x2001, action=[when, Hist("n", "%ax")])
    with pytest.raises(ValueError, match="mean something else"):
        machine.kprobe(0x2004, action=[when, Hist("n", "%bx")])
    assert len(machine.kprobes) == 2


def test_unsigned_fields() -> None:
    assert parse_fetch("+0(%ax):u64").unsigned64
    assert not parse_fetch("+0(%ax):b63@0/64").unsigned64
