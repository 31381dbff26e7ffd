"""Filters: expressions over fields, compiled once to a field program.

::

    "len > 4096 && %ax == 3"        "(flags & 0x40) || !$arg2"        "+8(%si):s16 - 1 < low"

Operators, precedence and 64-bit arithmetic are C's, with a result of 1 or 0 for comparisons; operations with a u64 or
x64 operand are unsigned. Operands are numbers, fetch arguments and names of fields. && and || look at their right side
only if they must. What cannot be read, or divides by zero, makes the whole filter fail: the hit does not pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .fetchargs import FetchArg, Parser
from .programs import Code, Kept, Op, Symbols, compile_field, constant, names_of, op

TEXT_MAX = 4096
NESTING_MAX = 24
FETCH = re.compile(r"[%@$\\]|[+-]u?(0[xX][0-9a-fA-F]+|[0-9]+)\(")

# By precedence, loosest first: token -> (signed code, unsigned code, is the result that of the negation?)
LEVELS: list[dict[str, tuple[Code, Code, bool]]] = [
    {"|": (Code.OR, Code.OR, False)},
    {"^": (Code.XOR, Code.XOR, False)},
    {"&": (Code.AND, Code.AND, False)},
    {"==": (Code.EQ, Code.EQ, False), "!=": (Code.NE, Code.NE, False)},
    {
        "<=": (Code.LES, Code.LEU, False),
        ">=": (Code.LTS, Code.LTU, True),
        "<": (Code.LTS, Code.LTU, False),
        ">": (Code.LES, Code.LEU, True),
    },
    {"<<": (Code.SHL, Code.SHL, False), ">>": (Code.SHRS, Code.SHRU, False)},
    {"+": (Code.ADD, Code.ADD, False), "-": (Code.SUB, Code.SUB, False)},
    {
        "*": (Code.MUL, Code.MUL, False),
        "/": (Code.DIVS, Code.DIVU, False),
        "%": (Code.MODS, Code.MODU, False),
    },
]
COMPARISONS, SHIFTS = (3, 4), 5
TOKENS = [r"\|(?!\|)", r"\^", r"&(?!&)", r"==|!=", r"<=|>=|<(?!<)|>(?!>)", r"<<|>>", r"[+-]", r"[*/%]"]
UNARY = {"-": Code.NEG, "~": Code.INVERT, "!": Code.NOT}


def compile_filter(
    text: str, fields: Mapping[str, FetchArg], symbols: Symbols, kept: Kept | None = None, *, strict: bool = True
) -> tuple[list[Op], set[str]]:
    """The program of a filter, and the names that it uses.

    ``fields`` are the names it may use; unless `strict`, other names pass as 32-bit ones. ValueError points at the
    column at which the text goes wrong.

    >>> ops, names = compile_filter("len > 4", {}, {}.__getitem__, strict=False)
    >>> names
    {'len'}
    >>> compile_filter("len >", {}, {}.__getitem__, strict=False)
    Traceback (most recent call last):
    ...
    ValueError: bad filter, column 6: a number, a field or ( is expected here
        len >
             ^
    """
    parser = _Filter(text, fields, symbols, kept if strict else lambda name: 0, strict)
    parser.whole()
    return parser.ops, parser.names


class _Filter(Parser):
    """Emits instructions while it parses; its methods return whether their value is unsigned."""

    def __init__(
        self, text: str, fields: Mapping[str, FetchArg], symbols: Symbols, kept: Kept | None, strict: bool
    ) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a filter is text such as 'len > 4096', not {type(text).__name__}")
        super().__init__(text)
        self.fields, self.symbols, self.kept, self.strict = fields, symbols, kept, strict
        self.ops: list[Op] = []
        self.names: set[str] = set()
        self.depth = 0

    def fail(self, message: str, at: int | None = None) -> ValueError:
        column = self.at if at is None else at
        line = self.text.replace("\n", " ").replace("\t", " ")
        return ValueError(f"bad filter, column {column + 1}: {message}\n    {line}\n    {' ' * column}^")

    def blanks(self) -> None:
        self.match(r"\s+")

    def token(self, pattern: str) -> str | None:
        self.blanks()
        return self.match(pattern)

    def emit(self, *ops: Op) -> None:
        self.ops += ops

    def whole(self) -> None:
        if len(self.text) > TEXT_MAX:
            raise self.fail(f"a filter has at most {TEXT_MAX} characters", 0)
        self.either()
        self.blanks()
        if self.at < len(self.text):
            raise self.fail("an operator is expected here")

    def either(self) -> bool:
        return self.logical(r"\|\|", self.both, Code.OR_ELSE)

    def both(self) -> bool:
        return self.logical("&&", lambda: self.binary(0), Code.AND_ELSE)

    def logical(self, pattern: str, operand: object, code: Code) -> bool:
        assert callable(operand)
        unsigned: bool = operand()
        while self.token(pattern):
            self.emit(op(Code.BOOL))
            at = len(self.ops)
            self.emit(op(code))
            operand()
            self.emit(op(Code.BOOL))
            self.ops[at] = op(code, to=len(self.ops))
            unsigned = False
        return unsigned

    def binary(self, level: int) -> bool:
        if level == len(LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while token := self.token(TOKENS[level]):
            right = self.binary(level + 1)
            signed, unsigned, negated = LEVELS[level][token]
            as_unsigned = left if level == SHIFTS else left or right
            self.emit(op(unsigned if as_unsigned else signed))
            if negated:
                self.emit(op(Code.NOT))
            left = as_unsigned and level not in COMPARISONS
        return left

    def unary(self) -> bool:
        self.depth += 1
        if self.depth > NESTING_MAX:
            raise self.fail("this is nested too deeply")
        self.blanks()
        token = None if FETCH.match(self.text, self.at) else self.match("[-~!+]")
        if token:
            unsigned = self.unary()
            if token != "+":
                self.emit(op(UNARY[token]))
            unsigned = unsigned and token != "!"
        else:
            unsigned = self.operand()
        self.depth -= 1
        return unsigned

    def operand(self) -> bool:
        start = self.at
        if self.match(r"\("):
            unsigned = self.either()
            if not self.token(r"\)"):
                raise self.fail("')' is expected here")
            return unsigned
        if FETCH.match(self.text, self.at):
            return self.field(self.typed_fetch(""), start)
        if re.match("[0-9]", self.text[self.at :]):
            value = self.number("a number", 0, (1 << 64) - 1)
            self.emit(*constant(value))
            return value >> 63 != 0
        name = self.match(r"[A-Za-z_]\w*")
        if name is None:
            raise self.fail("a number, a field or ( is expected here")
        self.names.add(name)
        if name in self.fields:
            return self.field(self.fields[name], start)
        if self.strict:
            raise self.fail(f"no field is called {name}; there are: {names_of(self.fields)}", start)
        self.emit(op(Code.IMM))
        return False

    def field(self, arg: FetchArg, start: int) -> bool:
        if not arg.scalar:
            raise self.fail("arrays and strings cannot be compared: use one element of them", start)
        if arg.at_return and self.kept is None:
            raise self.fail(f"{arg.variable} is known in return probes only", start)
        self.emit(*compile_field(arg, self.symbols, self.kept))
        return arg.unsigned64
