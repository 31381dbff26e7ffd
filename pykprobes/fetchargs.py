r"""Fetch arguments: the kernel's probe-event syntax for values, compiled for C.

::

    arg   := [NAME "="] fetch [":" TYPE]
    fetch := "%" REG | "@" ADDR | "@" SYM [("+"|"-") OFFS] | "$stack" [N] | "$arg" N | "$retval" | "$latency" | "$" NAME
           | ("+"|"-") ["u"] OFFS "(" fetch ")" | "\" IMM
    TYPE  := BASE ["[" N "]"] | "b" WIDTH "@" BITOFFS "/" CONTAINER
    BASE  := u8 ... u64 | s8 ... s64 | x8 ... x64 | char | symbol | string | ustring

``%sp`` is the interrupted stack pointer. ``$argN`` is right at a function's first instruction, with arguments
on the stack (cdecl). The type is x32 where none is given. Arrays and strings are memory: their fetch ends with an
access, and names its first byte. ``string[N]`` is an array of pointers to strings. User memory is where kernel memory
is: "u" and ustring make no difference.

In return probes ``$retval`` is what the function returns, ``$latency`` the instructions since its entry (u64 where no
type is given), ``$NAME`` a value that the probe kept at entry, and ``$argN`` is the argument as it was at entry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

WORDS = {  # index of a register in struct pt_regs, by the kernel's name
    "bx": 0, "cx": 1, "dx": 2, "si": 3, "di": 4, "bp": 5, "ax": 6,
    "ds": 7, "es": 8, "orig_ax": 9, "ip": 10, "cs": 11, "flags": 12,
}  # fmt: skip
SP, KEPT, LATENCY = -1, -2, -3
MAX_DEREFS = 8
MAX_ARRAY = 64
NOT_IN_FRAME = ("ss", "fs", "gs")
NOT_HERE = ("symstr", "%pd", "%pD")


@dataclass(frozen=True, slots=True)
class FetchArg:
    """One parsed fetch argument, made by parse_fetch.

    ``register`` is a word of pt_regs, SP, or None for an immediate, which is ``value`` or the address of
    ``symbol`` plus ``value``. Every number in ``offsets`` is added before memory is followed once. ``count`` is the
    length of an array, 0 for a single value; ``size`` is in bytes, of one element, and 1 for strings.

    >>> arg = parse_fetch("len=+12(%sp):u32")
    >>> arg.name, arg.register == SP, arg.offsets, arg.size
    ('len', True, (12,), 4)
    >>> str(arg)
    'len=+12(%sp):u32'
    """

    text: str
    name: str
    register: int | None = None
    symbol: str | None = None
    value: int = 0
    offsets: tuple[int, ...] = ()
    size: int = 4
    signed: bool = False
    hexadecimal: bool = False
    bit_width: int = 0
    bit_offset: int = 0
    count: int = 0
    kind: str = "number"  # or char, symbol, string
    variable: str = ""  # $argN, $retval, $latency or $NAME

    def __str__(self) -> str:
        return f"{self.name}={self.text}" if self.name else self.text

    @property
    def bits(self) -> int:
        """Width of the value in bits."""
        return self.bit_width or 8 * self.size

    @property
    def at_return(self) -> bool:
        """Is it for return probes only?"""
        return bool(self.variable) and not self.variable.startswith("$arg")

    @property
    def scalar(self) -> bool:
        """Is it one number?"""
        return not self.count and self.kind != "string"

    @property
    def unsigned64(self) -> bool:
        """Can it be beyond a signed 64-bit number?"""
        return self.scalar and not self.signed and self.bits == 64

    def format(self, value: int) -> str:
        """A value as the kernel prints it: x in hexadecimal, u and s in decimal, char as a character.

        >>> parse_fetch("%ax").format(255), parse_fetch("%ax:u8").format(255), parse_fetch("%ax:char").format(65)
        ('0xff', '255', "'A'")
        """
        if self.kind == "char":
            return repr(chr(value))
        return f"{value:#x}" if self.hexadecimal else str(value)


def parse_fetch(text: str, name: str = "") -> FetchArg:
    """Parse ``[NAME=]fetch[:TYPE]``. A ValueError names the column at which it goes wrong."""
    return Parser(text).argument(name)


class Type(NamedTuple):
    """What a TYPE says; see FetchArg."""

    size: int = 4
    signed: bool = False
    hexadecimal: bool = True
    bit_width: int = 0
    bit_offset: int = 0
    length: int = 0
    kind: str = "number"


class Parser:
    """Recursive descent over one argument; ``at`` is the column of the next character."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a fetch argument is text such as '+4(%sp):u32', not {type(text).__name__}")
        self.text = text
        self.at = 0
        self.name = ""  # of the variable that was read last

    def fail(self, message: str, at: int | None = None) -> ValueError:
        column = self.at if at is None else at
        return ValueError(f"bad fetch argument {self.text!r}, column {column + 1}: {message}")

    def match(self, pattern: str) -> str | None:
        """Take what a pattern matches here."""
        found = re.compile(pattern, re.ASCII).match(self.text, self.at)
        if not found or not found.group():
            return None
        self.at = found.end()
        return found.group()

    def number(self, what: str, low: int, high: int) -> int:
        start = self.at
        digits = self.match(r"0[xX][0-9a-fA-F]+|[0-9]+")
        if digits is None:
            raise self.fail(f"{what} is expected here")
        if re.match(r"[0-9a-zA-Z_]", self.text[self.at :]):
            raise self.fail(f"{what} is a number such as 12 or 0x0c", start)
        value = int(digits, 16 if digits[:2] in ("0x", "0X") else 10)
        if not low <= value <= high:
            raise self.fail(f"{what} is out of range ({low} to {high:#x})", start)
        return value

    def argument(self, name: str) -> FetchArg:
        named = self.match(r"[A-Za-z_]\w*=")
        if named:
            name = named[:-1]
        parsed = self.typed_fetch(name)
        if self.at < len(self.text):
            raise self.fail("nothing more is expected here")
        return parsed

    def typed_fetch(self, name: str) -> FetchArg:
        """``fetch[:TYPE]`` from here on."""
        start, self.name = self.at, ""
        register, symbol, value, offsets = self.fetch(0)
        kind = Type(8, False, False) if register == LATENCY else Type()
        if self.match(":"):
            at = self.at
            kind = self.type()
            if (kind.length or kind.kind == "string") and not offsets:
                raise self.fail("arrays and strings are memory: the fetch must be +OFFSET(...) or @ADDRESS", at)
        text = self.text[start : self.at]
        return FetchArg(text, name, register, symbol, value, offsets, *kind, self.name)

    def fetch(self, depth: int) -> tuple[int | None, str | None, int, tuple[int, ...]]:
        start = self.at
        lead = self.match(r"[%@$+\-\\]")
        if lead == "%":
            return self.register(), None, 0, ()
        if lead == "$":
            return self.variable(start)
        if lead == "@":
            symbol, value = self.address()
            return None, symbol, value, (0,)
        if lead == "\\":
            return None, None, self.immediate(), ()
        if lead is None:
            raise self.fail("a fetch begins with % @ $ + - or \\")
        if depth == MAX_DEREFS:
            raise self.fail(f"memory is followed at most {MAX_DEREFS} times", start)
        self.match("u")
        offset = self.number("an offset", 0, (1 << 31) - 1)
        if not self.match(r"\("):
            raise self.fail("'(' and a fetch are expected here")
        register, symbol, value, offsets = self.fetch(depth + 1)
        if not self.match(r"\)"):
            raise self.fail("')' is expected here")
        if len(offsets) == MAX_DEREFS:
            raise self.fail(f"memory is followed at most {MAX_DEREFS} times", start)
        return register, symbol, value, (*offsets, -offset if lead == "-" else offset)

    def register(self) -> int:
        start = self.at
        name = self.match(r"\w+") or ""
        short = name[1:] if name[:1] == "e" and name != "es" else name
        short = {"orig_eax": "orig_ax"}.get(name, short)
        if short == "sp":
            return SP
        if short in NOT_IN_FRAME:
            raise self.fail(f"%{name} is not in the frame of a trap in ring 0", start)
        if short not in WORDS or (name != short and short in ("ds", "cs")):
            known = " ".join([*WORDS, "sp"])
            raise self.fail(f"no register %{name}; there are {known} (ax or eax style)", start)
        return WORDS[short]

    def variable(self, start: int) -> tuple[int | None, str | None, int, tuple[int, ...]]:
        if self.match("stack"):
            if re.match("[0-9]", self.text[self.at :]):
                return SP, None, 0, (4 * self.number("N of $stackN", 0, 0xFFFF),)
            return SP, None, 0, ()
        if self.match("arg(?=[0-9])"):
            number = self.number("N of $argN", 1, 128)
            self.name = f"$arg{number}"
            return SP, None, 0, (4 * number,)
        name = self.match(r"[A-Za-z_]\w*")
        if name is None or name == "comm":
            raise self.fail("there are $stack, $stackN, $argN, and in return probes $retval, $latency, $NAME", start)
        self.name = f"${name}"
        return {"retval": WORDS["ax"], "latency": LATENCY}.get(name, KEPT), None, 0, ()

    def address(self) -> tuple[str | None, int]:
        if re.match("[0-9]", self.text[self.at :]):
            return None, self.number("an address", 0, 0xFFFFFFFF)
        symbol = self.match(r"[A-Za-z_.][\w.$]*")
        if symbol is None:
            raise self.fail("an address or a symbol is expected here")
        sign = self.match(r"[+\-]")
        offset = self.number("an offset", 0, (1 << 31) - 1) if sign else 0
        return symbol, -offset if sign == "-" else offset

    def immediate(self) -> int:
        if self.match('"'):
            raise self.fail("only a number can follow \\")
        negative = self.match("-")
        value = self.number("an immediate", 0, 0xFFFFFFFF)
        return -value & 0xFFFFFFFF if negative else value

    def type(self) -> Type:
        start = self.at
        if self.match(r"b(?=[0-9])"):
            kind = self.bit_field(start)
            if self.text[self.at : self.at + 1] == "[":
                raise self.fail("there are no arrays of bit fields")
            return kind
        name = self.match(r"[%\w]+") or ""
        simple = re.fullmatch(r"([usx])(8|16|32|64)", name, re.ASCII)
        if simple:
            kind = Type(int(simple[2]) // 8, simple[1] == "s", simple[1] == "x")
        elif name in ("string", "ustring"):
            kind = Type(1, False, False, kind="string")
        elif name in ("char", "symbol"):
            kind = Type(1 if name == "char" else 4, False, name == "symbol", kind=name)
        elif name in NOT_HERE:
            raise self.fail(f"{name} needs a kernel's own tables, which are not known here", start)
        else:
            known = "u8 to u64, s8 to s64, x8 to x64, char, symbol, string or bWIDTH@OFFSET/CONTAINER"
            raise self.fail(f"a type is {known}", start)
        return kind._replace(length=self.array()) if self.match(r"\[") else kind

    def array(self) -> int:
        count = self.number("an array's length", 1, MAX_ARRAY)
        if not self.match(r"\]"):
            raise self.fail("']' is expected here")
        return count

    def bit_field(self, start: int) -> Type:
        found = re.compile(r"([0-9]{1,3})@([0-9]{1,3})/([0-9]{1,3})", re.ASCII).match(self.text, self.at)
        if not found:
            raise self.fail("a bit field is bWIDTH@OFFSET/CONTAINER, such as b4@8/32", start)
        width, offset, container = map(int, found.groups())
        if container not in (8, 16, 32, 64):
            raise self.fail("a bit field's container has 8, 16, 32 or 64 bits", start)
        if not width or width + offset > container:
            raise self.fail(f"the bit field does not fit into {container} bits", start)
        self.at = found.end()
        return Type(container // 8, False, False, width, offset)
