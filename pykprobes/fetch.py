"""Fetch arguments as Python values, for handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .fetchargs import FetchArg
from .programs import compile_field

if TYPE_CHECKING:
    from .binding import Core

STRING_MAX = 4096
Value = int | bytes


def fetch(core: Core, arg: str | FetchArg, symbols: Callable[[str], int]) -> Value | list[Value | None] | None:
    """The value for the running handler: int, bytes of a string, or a list; None where memory is missing."""
    from .actions import as_field

    field = as_field(arg)
    value = core.fetch(compile_field(field, symbols))
    if value is None or field.scalar:
        return None if value is None else _number(value, field)
    if field.kind == "string":
        if not field.count:
            return core.string(value, STRING_MAX)
        count = field.count if field.count > 1 else 0
        pointers = core.peek(value, 4 * count) if count else value.to_bytes(4, "little")
        if len(pointers) < 4 * count:
            return None
        return [core.string(pointer, STRING_MAX) for pointer in memoryview(pointers).cast("I")]
    data = core.peek(value, field.size * field.count)
    if len(data) < field.size * field.count:
        return None
    return [
        int.from_bytes(data[i : i + field.size], "little", signed=field.signed) for i in range(0, len(data), field.size)
    ]


def _number(value: int, field: FetchArg) -> int:
    return value - (1 << 64) if field.signed and value >> 63 else value
