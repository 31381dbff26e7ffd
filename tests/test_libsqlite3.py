"""Debian's libsqlite3: a database in the guest's memory, as Python's sqlite3 and the CPU have it."""

from __future__ import annotations

import math
import sqlite3
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pykprobes import Count, Machine

from .libraries.fetch import library
from .libraries.sides import BASE, GLIBC, SIZE, Arena, Guest, Native, Side, need_native

ROW, DONE, ERROR, CONSTRAINT = 100, 101, 1, 19
INTEGER, FLOAT, TEXT, BLOB, NULL = range(1, 6)
SCHEMA = """
create table people(id integer primary key, name text not null, weight real, photo blob);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 500)
insert into people
    select i, 'person ' || i || ' ' || hex(i * i), i * 1.5 / 7, case i % 7 when 0 then zeroblob(i) end from n;
create index by_name on people(name);
create table visits(person references people, day integer, primary key(person, day)) without rowid;
insert into visits select id, id * 17 % 31 from people where id % 3 = 0;
insert into visits select id, id * 13 % 29 + 40 from people where id % 5 < 2;
update people set weight = weight * weight where name like '%9%';
delete from people where id between 100 and 110;
"""
QUERIES = (
    "select count(*), sum(weight), avg(weight), max(name), min(id), total(length(photo)) from people",
    "select p.id, p.name, v.day from people p join visits v on v.person = p.id where v.day > 50 order by v.day, p.id",
    "select day % 5, count(*), group_concat(person, '/') from visits group by 1 having count(*) > 3 order by 1 desc",
    "select id, name, weight, photo from people where name like 'person 1%' or weight > 2000 order by weight desc",
    "select round(weight, 3), printf('%.15g|%5d|%-9s|', weight, id, name), quote(photo), typeof(photo) from people",
    "select id, sum(weight) over (order by id rows 3 preceding), rank() over (order by name) from people limit 60",
    "select date(id * 86400, 'unixepoch'), strftime('%W %H', id * 5000 / 3.0) from people where id < 20",
    "with recursive f(a, b) as (select 0, 1 union all select b, a + b from f limit 80) select a from f",
    "select name from people where id in (select person from visits where day = 3) union select 'x' order by 1",
    "select 9223372036854775807 - 5, -9223372036854775808, 1e308 * 10, 2.5e-310, 0.1 + 0.2, 7 / 2, 7 % -3, null, x'ff'",
)
BAD = ("select * from nobody", "selec 1", "insert into people values (1, 'again', 0, 0)")


class Database:
    """A connection to a database in memory, by sqlite3's C interface."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.word = Arena(side).room(16)
        assert side.call("sqlite3_open", self._text(":memory:"), self.word) == 0
        self.handle = self._word()

    def _text(self, text: str) -> int:
        arena = Arena(self.side)
        arena.room(16)
        return arena.text(text)

    def _word(self) -> int:
        return int(struct.unpack("<I", self.side.read(self.word, 4))[0])

    def _bytes(self, name: str, statement: int, i: int) -> bytes:
        address = self.side.call(name, statement, i)
        size = self.side.call("sqlite3_column_bytes", statement, i)
        return self.side.read(address, size) if size else b""

    def _column(self, statement: int, i: int) -> Any:
        call = self.side.call
        kind = call("sqlite3_column_type", statement, i)
        if kind == INTEGER:
            return call("sqlite3_column_int64", statement, i, returns="s64")
        if kind == FLOAT:
            return call("sqlite3_column_double", statement, i, returns="f64")
        if kind == TEXT:
            return self._bytes("sqlite3_column_text", statement, i).decode()
        return self._bytes("sqlite3_column_blob", statement, i) if kind == BLOB else None

    def script(self, text: str) -> int:
        return int(self.side.call("sqlite3_exec", self.handle, self._text(text), 0, 0, 0))

    def query(self, text: str) -> list[tuple[Any, ...]]:
        call = self.side.call
        assert call("sqlite3_prepare_v2", self.handle, self._text(text), -1, self.word, 0) == 0, self.message()
        statement, rows = self._word(), []
        while call("sqlite3_step", statement) == ROW:
            rows.append(tuple(self._column(statement, i) for i in range(call("sqlite3_column_count", statement))))
        assert call("sqlite3_finalize", statement) == 0
        return rows

    def message(self) -> str:
        address, text = self.side.call("sqlite3_errmsg", self.handle), b""
        while not text.endswith(b"\0"):
            text += self.side.read(address + len(text), 1)
        return text[:-1].decode()


@pytest.fixture(scope="module")
def guest() -> Database:
    database = Database(Guest(*GLIBC, "libm.so.6", "libsqlite3.so.0"))
    assert database.script(SCHEMA) == 0, database.message()
    return database


@pytest.fixture(scope="module")
def native() -> Iterator[Database]:
    need_native()
    side = Native("libsqlite3.so.0")
    database = Database(side)
    assert database.script(SCHEMA) == 0
    yield database
    side.close()


def _same(ours: Any, theirs: Any) -> bool:
    """Equal, floats to 14 digits: the x87 computes in extended precision, and versions of SQLite sum in other ways."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return math.isclose(ours, theirs, rel_tol=1e-14)
    return type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("query", QUERIES)
def test_queries_are_the_cpus(guest: Database, native: Database, query: str) -> None:
    rows = guest.query(query)
    assert rows and rows == native.query(query)


@pytest.mark.parametrize("query", [q for q in QUERIES if "printf" not in q])
def test_queries_are_pythons(guest: Database, query: str) -> None:
    """Python's own SQLite may be another version: nothing here depends on it."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    expected, rows = connection.execute(query).fetchall(), guest.query(query)
    assert len(rows) == len(expected)
    for ours, theirs in zip(rows, expected, strict=True):
        assert all(_same(a, b) for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def test_errors(guest: Database, native: Database) -> None:
    for text, code in zip(BAD, (ERROR, ERROR, CONSTRAINT), strict=True):
        assert guest.script(text) == native.script(text) == code
        assert guest.message() == native.message()


def test_probes_count_what_happens(guest: Database) -> None:
    """Every row that a query yields is one call of sqlite3_step, and one more ends it; the results are the same."""
    side = guest.side
    assert isinstance(side, Guest)
    plain = guest.query(QUERIES[1])
    steps, allocations = (side.m.kprobe(name, action=Count()) for name in ("sqlite3_step", "malloc"))
    assert guest.query(QUERIES[1]) == plain
    assert steps.hits == len(plain) + 1
    assert allocations.hits > 0
    for probe in (steps, allocations):
        side.m.unregister_kprobe(probe)


# Without a C library: what SQLite imports is Python's


def _string(m: Machine, address: int) -> bytes:
    found = b""
    while b"\0" not in found:
        found += m.memory.read(address + len(found), 64 - (address + len(found)) % 64)
    return found[: found.index(b"\0")]


def _order(a: bytes, b: bytes) -> int:
    return (a > b) - (a < b)


def _copy(m: Machine, target: int, source: int, size: int) -> int:
    m.memory.write(target, m.memory.read(source, size))
    return target


def _fill(m: Machine, target: int, value: int, size: int) -> int:
    m.memory.write(target, bytes([value & 0xFF]) * size)
    return target


def _span(m: Machine, text: int, reject: int) -> int:
    data, bad = _string(m, text), _string(m, reject)
    return next((i for i, byte in enumerate(data) if byte in bad), len(data))


def _rightmost(m: Machine, text: int, byte: int) -> int:
    at = (_string(m, text) + b"\0").rfind(byte & 0xFF)
    return text + at if at >= 0 else 0


def _place_or_end(m: Machine, text: int, byte: int) -> int:
    data = _string(m, text)
    at = data.find(byte & 0xFF)
    return text + (at if at >= 0 else len(data))


def _now(m: Machine, target: int, zone: int) -> int:
    m.memory.write(target, struct.pack("<2I", int(time.time()), 0))
    return 0


class Bound:
    """SQLite with the functions that it needs of a C library bound to Python."""

    def __init__(self) -> None:
        m = self.m = Machine(memory=16 << 20)
        m.map(BASE, SIZE)
        sizes: dict[int, int] = {}

        def allocate(m: Machine, size: int) -> int:
            address = m.alloc(max(size, 1))
            sizes[address] = size
            return address

        def reallocate(m: Machine, address: int, size: int) -> int:
            fresh = allocate(m, size)
            return _copy(m, fresh, address, min(size, sizes[address])) if address else fresh

        errno = m.alloc(4)
        m.bind("malloc", allocate)
        m.bind("realloc", reallocate)
        for name, function in {
            "free": lambda m, address: 0, "memcpy": _copy, "memmove": _copy, "memset": _fill,
            "__memcpy_chk": lambda m, a, b, n, room: _copy(m, a, b, n),
            "memcmp": lambda m, a, b, n: _order(m.memory.read(a, n), m.memory.read(b, n)),
            "strcmp": lambda m, a, b: _order(_string(m, a), _string(m, b)),
            "strncmp": lambda m, a, b, n: _order(_string(m, a)[:n], _string(m, b)[:n]),
            "strlen": lambda m, a: len(_string(m, a)), "strcspn": _span, "strrchr": _rightmost,
            "strchrnul": _place_or_end,
            "open64": lambda m, path, flags, mode: -1, "__errno_location": lambda m: errno,
            "gettimeofday": _now, "sysconf": lambda m, name: 4096, "getenv": lambda m, name: 0,
            "time": lambda m, target: int(time.time()), "getpid": lambda m: 1,
            "pthread_mutexattr_init": lambda m, a: 0, "pthread_mutexattr_settype": lambda m, a, kind: 0,
            "pthread_mutexattr_destroy": lambda m, a: 0, "pthread_mutex_init": lambda m, mutex, a: 0,
            "pthread_mutex_destroy": lambda m, mutex: 0, "pthread_mutex_lock": lambda m, mutex: 0,
            "pthread_mutex_trylock": lambda m, mutex: 0, "pthread_mutex_unlock": lambda m, mutex: 0,
        }.items():  # fmt: skip
            m.bind(name, function)
        m.load(library("libsqlite3.so.0"))

    def write(self, address: int, data: bytes) -> None:
        self.m.memory.write(address, data)

    def read(self, address: int, size: int) -> bytes:
        return self.m.memory.read(address, size)

    def call(self, name: str, *args: Any, returns: str = "u32") -> Any:
        return self.m.call(name, *args, returns=returns)


def test_with_bound_imports(guest: Database) -> None:
    database = Database(Bound())
    assert database.script(SCHEMA) == 0, database.message()
    for query in QUERIES[:6]:
        assert database.query(query) == guest.query(query)
