"""The symbol table, against a plain search."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykprobes import AmbiguousSymbol, Symbol, SymbolTable, UnknownSymbol


def test_lookup_and_find() -> None:
    table = SymbolTable([Symbol("inflate", 0x1000, 16, "z"), Symbol("inflateEnd", 0x1010, 16, "z")])
    assert table["inflate"] == 0x1000
    assert table["z:inflateEnd"] == 0x1010
    assert table.find("inflate*") == {"inflate": 0x1000, "inflateEnd": 0x1010}
    assert table.find("x*") == {}
    assert "inflate" in table
    assert "z:inflate" in table
    assert "other:inflate" not in table
    assert table.get("nothing") is None
    assert len(table) == 2
    with pytest.raises(KeyError):
        table["nothing"]


def test_missing_suggests() -> None:
    table = SymbolTable([Symbol("inflate", 0x1000)])
    assert table.missing("inflte") == "no symbol 'inflte'; did you mean inflate?"
    assert "no image" in SymbolTable().missing("x")


def test_an_unknown_name_is_a_bad_argument() -> None:
    table = SymbolTable([Symbol("inflate", 0x1000)])
    for kind in (KeyError, ValueError, UnknownSymbol):
        with pytest.raises(kind, match=r"^no symbol 'inflte'; did you mean inflate\?$"):
            table["inflte"]
    assert table.get("inflte") is None and "inflte" not in table


def test_nearest_uses_sizes() -> None:
    table = SymbolTable([Symbol("a", 0x1000, 0x10), Symbol("b", 0x1020, 0x10)])
    assert table.nearest(0x0FFF) is None
    assert table.nearest(0x1000) == ("a", 0)
    assert table.nearest(0x100F) == ("a", 15)
    assert table.nearest(0x1010) is None
    assert table.nearest(0x102F) == ("b", 15)
    assert table.nearest(0x1030) is None
    assert table.describe(0x1024) == "b+0x4"
    assert table.describe(0x1010) == "0x1010"


def test_unknown_sizes_reach_to_the_next_symbol() -> None:
    table = SymbolTable([Symbol("start", 0x1000), Symbol("loop", 0x1010), Symbol("f", 0x1020, 0x10)])
    assert table.nearest(0x100F) == ("start", 15)
    assert table.nearest(0x101F) == ("loop", 15)
    assert table.nearest(0x102F) == ("f", 15)
    assert table.nearest(0x1030) is None


def test_inner_symbols_win() -> None:
    table = SymbolTable([Symbol("outer", 0x1000, 0x100), Symbol("inner", 0x1010, 0x10), Symbol("label", 0x1050)])
    assert table.nearest(0x100F) == ("outer", 15)
    assert table.nearest(0x1010) == ("inner", 0)
    assert table.nearest(0x1020) == ("outer", 0x20)
    assert table.nearest(0x1051) == ("outer", 0x51)


def test_globals_hide_locals_and_locals_can_be_ambiguous() -> None:
    table = SymbolTable(
        [
            Symbol("f", 0x1000, 4, "one", is_global=False),
            Symbol("f", 0x2000, 4, "two"),
            Symbol("g", 0x3000, 4, "one", is_global=False),
            Symbol("g", 0x4000, 4, "two", is_global=False),
        ]
    )
    assert table["f"] == 0x2000
    assert table["one:f"] == 0x1000
    with pytest.raises(AmbiguousSymbol, match=r"0x3000.*0x4000"):
        table["g"]
    assert table["two:g"] == 0x4000
    assert table.find("g") == {"g@0x3000": 0x3000, "g@0x4000": 0x4000}


def test_first_image_hides_later_ones() -> None:
    table = SymbolTable([Symbol("f", 0x1000, 4, "one")])
    assert table.nearest(0x1000) == ("f", 0)
    table.add([Symbol("f", 0x2000, 4, "two")])
    assert table["f"] == 0x1000
    assert table["two:f"] == 0x2000
    assert table.nearest(0x2001) == ("f", 1)
    table.remove_image("one")
    assert table["f"] == 0x2000
    assert table.nearest(0x1000) is None


SYMBOLS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12, unique_by=lambda s: s)


@given(SYMBOLS)
def test_nearest_agrees_with_a_plain_search(spans: list[tuple[int, int]]) -> None:
    """Where ranges nest, the innermost covers; where they merely overlap, the one that begins last."""
    symbols = [Symbol(f"s{start}_{size}", start, size) for start, size in spans]
    table = SymbolTable(symbols)
    for address in range(90):
        covering = [s for s in symbols if s.address <= address < s.address + s.size]
        found = table.covering(address)
        if not covering:
            assert found is None
        else:
            best = max(covering, key=lambda s: (s.address, -s.size))
            assert found is not None
            assert found[0] == best
