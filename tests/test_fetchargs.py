"""The fetch-argument grammar, and the values that C computes for it."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykprobes import Hist, Machine, parse_fetch
from pykprobes.fetchargs import KEPT, LATENCY, SP, WORDS


@pytest.mark.parametrize(
    ("text", "register", "offsets"),
    [
        ("%ax", 6, ()),
        ("%eax", 6, ()),
        ("%bx", 0, ()),
        ("%ecx", 1, ()),
        ("%sp", SP, ()),
        ("%esp", SP, ()),
        ("%ip", 10, ()),
        ("%eip", 10, ()),
        ("%flags", 12, ()),
        ("%eflags", 12, ()),
        ("%es", 8, ()),
        ("%ds", 7, ()),
        ("%cs", 11, ()),
        ("%orig_ax", 9, ()),
        ("$stack", SP, ()),
        ("$stack3", SP, (12,)),
        ("$arg1", SP, (4,)),
        ("$arg3", SP, (12,)),
        ("+4(%sp)", SP, (4,)),
        ("-0x10(%bp)", 5, (-16,)),
        ("+u8(%si)", 3, (8,)),
        ("+8(+4(%sp))", SP, (4, 8)),
        ("+0($stack1)", SP, (4, 0)),
        ("+1(+2(+3(+4(+5(+6(+7(+8(%di))))))))", 4, (8, 7, 6, 5, 4, 3, 2, 1)),
    ],
)
def test_fetches(text: str, register: int, offsets: tuple[int, ...]) -> None:
    arg = parse_fetch(text)
    assert (arg.register, arg.offsets, arg.size, arg.signed, arg.hexadecimal) == (register, offsets, 4, False, True)
    assert str(arg) == text


def test_addresses_and_immediates() -> None:
    assert parse_fetch("@0x8049000").value == 0x8049000
    assert parse_fetch("@0x8049000").offsets == (0,)
    named = parse_fetch("+4(@table-8):u16")
    assert (named.symbol, named.value, named.offsets, named.size) == ("table", -8, (0, 4), 2)
    assert parse_fetch("@counter:u32").symbol == "counter"
    assert parse_fetch("\\42").value == 42
    assert parse_fetch("\\-1").value == 0xFFFFFFFF
    assert parse_fetch("\\0x10:u8").offsets == ()


@pytest.mark.parametrize("kind", "usx")
@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_types(kind: str, bits: int) -> None:
    arg = parse_fetch(f"+0(%ax):{kind}{bits}")
    assert (arg.size, arg.signed, arg.hexadecimal) == (bits // 8, kind == "s", kind == "x")


def test_bit_fields_and_names() -> None:
    arg = parse_fetch("mode=+0(%ax):b4@8/32")
    assert (arg.name, arg.size, arg.bit_width, arg.bit_offset, arg.bits) == ("mode", 4, 4, 8, 4)
    assert parse_fetch("%ax:char").size == 1
    assert parse_fetch("%ax", "given").name == "given"


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("", 1, "begins with"),
        ("ax", 1, "begins with"),
        ("%zx", 2, "no register"),
        ("%eds", 2, "no register"),
        ("%ss", 2, "ring 0"),
        ("%fs", 2, "ring 0"),
        ("$comm", 1, "$stack"),
        ("$arg0", 5, "out of range"),
        ("+4", 3, "'('"),
        ("+4(%sp", 7, "')'"),
        ("+(%sp)", 2, "offset"),
        ("+4x(%sp)", 2, "number"),
        ("+0x100000000(%sp)", 2, "out of range"),
        ("@", 2, "address or a symbol"),
        ("@0x100000000", 2, "out of range"),
        ("%ax:u7", 5, "type"),
        ("%ax:string", 5, "memory"),
        ("$stack1x", 7, "number"),
        ("$5", 1, "$retval"),
        ("%ax:x8[4]", 5, "memory"),
        ("+0(%ax):x8[0]", 12, "out of range"),
        ("+0(%ax):x8[65]", 12, "out of range"),
        ("+0(%ax):x8[4", 13, "']'"),
        ("+0(%ax):b4@0/32[2]", 16, "arrays"),
        ("+0(%ax):symstr", 9, "tables"),
        ("%ax:b0@0/32", 5, "fit"),
        ("%ax:b9@24/32", 5, "fit"),
        ("%ax:b4@0/24", 5, "container"),
        ("%ax:b4", 5, "bit field"),
        ("%ax junk", 4, "nothing more"),
        ('\\"text"', 3, "number"),
        ("+1(+2(+3(+4(+5(+6(+7(+8(+9(%di)))))))))", 25, "at most 8"),
        ("+1(+2(+3(+4(+5(+6(+7(+8(@9))))))))", 1, "at most 8"),
    ],
)
def test_errors_point_at_the_column(text: str, column: int, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"column {column}: ")) as caught:
        parse_fetch(text)
    assert says in str(caught.value)


def test_arrays_and_strings() -> None:
    array = parse_fetch("+8($stack):x8[8]")
    assert (array.count, array.size, array.kind, array.scalar) == (8, 1, "number", False)
    assert parse_fetch("+0(%di):s32[64]").signed
    for text in ("+0(%di):string", "+u0(%di):ustring", "@0x3000:string"):
        assert (parse_fetch(text).kind, parse_fetch(text).scalar) == ("string", False)
    assert parse_fetch("+0(%di):string[3]").count == 3
    assert (parse_fetch("%ax:symbol").size, parse_fetch("%ax:char").kind) == (4, "char")
    assert parse_fetch("%ax:symbol").scalar
    assert parse_fetch("$retval:s32").at_return and not parse_fetch("%ax").at_return


def test_not_text() -> None:
    with pytest.raises(TypeError):
        parse_fetch(4)  # type: ignore[arg-type]


@given(st.text(alphabet="%@$+-\\()u0123456789xabspfigt:=_/ ", max_size=24))
def test_any_text_parses_or_is_a_value_error(text: str) -> None:
    try:
        arg = parse_fetch(text)
    except ValueError:
        return
    assert len(arg.offsets) <= 8
    assert arg.size in (1, 2, 4, 8)
    variable = arg.register in (KEPT, LATENCY) and arg.variable
    assert arg.register is None or arg.register == SP or arg.register in WORDS.values() or variable


# Values, as C fetches them in a handler

VALUES = bytes(range(0x80, 0xA0))


@pytest.fixture
def fetched(machine: Machine) -> dict[str, Any]:
    """Values of fetch arguments at a probe in a program with known registers and memory."""
    texts = [
        "%ax", "%ax:u8", "%ax:s8", "%ax:s16", "%ax:u64", "%ax:b4@4/32", "%sp", "$stack", "$stack0",
        "$stack1", "+0(%bx):u8", "+0(%bx):s8", "+1(%bx):u16", "+0(%bx):u32", "+0(%bx):s32", "+0(%bx):u64",
        "+0(%bx):s64", "+0(%bx):b8@8/16", "+0(%bx):b64@0/64", "+0(+0(%cx)):u8", "@0x3000:u16", "@0x3002:u8",
        "\\0x1234", "\\-2:s32", "%ip", "%flags:b1@1/32", "+0(%dx):u32", "-4(%si):u8",
        "+0(%bx):u8[3]", "+1(%bx):s16[2]", "+0x1000(%di):string", "+0x1004(%di):string[2]", "+0x1004(%di):string[1]",
        "+0(%dx):string", "+0(%dx):u8[2]", "+0(%dx):string[2]", "+4($stack):u32[1]", "+4($stack):u8[2]",
        "@0x4100:string",
    ]  # fmt: skip
    machine.load(b"\x90\xf4", at=0x2000)
    machine.memory.write(0x3000, VALUES)
    machine.memory.write_u32(0x3100, 0x3005)
    machine.memory.write(0x4100, b"probe\0" + bytes(3))
    machine.memory.write(0x4F00, b"at" + bytes(2) + (0x4100).to_bytes(4, "little") + (0x70000000).to_bytes(4, "little"))
    values: dict[str, Any] = {}

    def handler(p: object, regs: object) -> None:
        values.update({text: machine.fetch(text) for text in texts})

    machine.kprobe(0x2000, pre_handler=handler)
    machine.regs.eax, machine.regs.ebx, machine.regs.ecx = 0x89ABCDEF, 0x3000, 0x3100
    machine.regs.edx, machine.regs.esi, machine.regs.eip = 0x70000000, 0x3004, 0x2000
    machine.regs.edi = 0x3F00
    machine.push(0x22222222, 0x11111111)
    values["esp"] = machine.regs.esp
    machine.run(max_instructions=10)
    return values


def test_values(fetched: dict[str, Any]) -> None:
    esp = fetched["esp"]
    eight = int.from_bytes(VALUES[:8], "little")
    expected = {
        "%ax": 0x89ABCDEF, "%ax:u8": 0xEF, "%ax:s8": -0x11, "%ax:s16": 0xCDEF - 0x10000, "%ax:u64": 0x89ABCDEF,
        "%ax:b4@4/32": 0xE, "%sp": esp, "$stack": esp, "$stack0": 0x11111111, "$stack1": 0x22222222,
        "+0(%bx):u8": 0x80, "+0(%bx):s8": -0x80, "+1(%bx):u16": 0x8281, "+0(%bx):u32": 0x83828180,
        "+0(%bx):s32": 0x83828180 - (1 << 32), "+0(%bx):u64": eight, "+0(%bx):s64": eight - (1 << 64),
        "+0(%bx):b8@8/16": 0x81, "+0(%bx):b64@0/64": eight, "+0(+0(%cx)):u8": 0x85, "@0x3000:u16": 0x8180,
        "@0x3002:u8": 0x82, "\\0x1234": 0x1234, "\\-2:s32": -2, "%flags:b1@1/32": 1, "+0(%dx):u32": None,
        "-4(%si):u8": 0x80, "+0(%bx):u8[3]": [0x80, 0x81, 0x82], "+1(%bx):s16[2]": [0x8281 - 0x10000, 0x8483 - 0x10000],
        "+0x1000(%di):string": b"at", "+0x1004(%di):string[2]": [b"probe", None], "+0x1004(%di):string[1]": [b"probe"],
        "+0(%dx):string": None, "+0(%dx):u8[2]": None, "+0(%dx):string[2]": None, "+4($stack):u32[1]": [0x22222222],
        "+4($stack):u8[2]": [0x22, 0x22], "@0x4100:string": b"probe",
    }  # fmt: skip
    assert {text: fetched[text] for text in expected} == expected


def test_fetch_is_for_handlers(machine: Machine) -> None:
    with pytest.raises(RuntimeError, match="handlers only"):
        machine.fetch("%ax")


@given(
    values=st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=20),
    low=st.integers(-100, 100),
    width=st.integers(1, 1 << 20),
    bins=st.integers(1, 50),
)
def test_histograms_agree_with_counting(values: list[int], low: int, width: int, bins: int) -> None:
    log2 = Hist("v", "%ax:u32")
    linear = Hist("v", "%ax:u32", bins=bins, range=(low, low + width * bins))
    with Machine(memory=1 << 20) as m:
        m.load(b"\x90", at=0x2000)
        m.kprobe(0x2000, action=[log2, linear])
        for value in values:
            m.regs.eax, m.regs.eip = value, 0x2000
            m.run(until=0x2001)
    for hist in (log2, linear):
        edges = hist.edges.tolist()
        expected = [sum(a <= v < b for v in values) for a, b in pairwise(edges)]
        assert hist.counts.tolist() == expected
        assert hist.count == len(values)
    assert linear.under == sum(v < low for v in values)
    assert linear.over == sum(v >= low + width * bins for v in values)
