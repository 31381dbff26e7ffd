"""Imported functions that Python provides."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING, Any

from .errors import ImportUnbound

if TYPE_CHECKING:
    from .machine import Machine

Function = Callable[..., Any]
ARGUMENTS_MAX = 64


def argument_count(function: Function) -> int:
    """How many arguments a bound function takes after the machine.

    >>> argument_count(lambda m, target, source, n: target)
    3
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise TypeError(f"{function!r} has no signature: give bind its number of arguments, args=n") from None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TypeError(f"{function!r} takes any number of arguments: give bind their number, args=n")
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise TypeError(f"{function!r} has a keyword-only argument: a guest's arguments have no names")
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not positional:
        raise TypeError(f"{function!r} takes no argument: the first is the machine")
    return len(positional) - 1


class Imports:
    """Names that images import, each with a stub of the kernel side that calls Python."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._numbers: dict[str, int] = {}
        self._bound: dict[str, tuple[Function, int]] = {}

    def bind(self, name: str, function: Function, args: int | None) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError("an import has a name")
        if not callable(function):
            raise TypeError(f"{function!r} cannot be called")
        count = argument_count(function) if args is None else index(args)
        if not 0 <= count <= ARGUMENTS_MAX:
            raise ValueError(f"a bound function takes 0 to {ARGUMENTS_MAX} arguments, not {count}")
        self._bound[name] = (function, count)

    def names(self) -> tuple[str, ...]:
        """The imports that have stubs, in the stubs' order."""
        return tuple(self._numbers)

    def functions(self) -> dict[str, tuple[Function, int]]:
        """What is bound, with its number of arguments."""
        return dict(self._bound)

    def adopt(self, names: tuple[str, ...]) -> None:
        """The stubs are those of these imports now."""
        if names == tuple(self._numbers):
            return
        self._numbers = {name: number for number, name in enumerate(names)}
        self._machine._core.imports[:] = [self._server(name) for name in names]

    def is_bound(self, name: str) -> bool:
        return name in self._bound

    def unbound(self) -> list[str]:
        """Names of stubs that nothing serves yet."""
        return sorted(set(self._numbers) - set(self._bound))

    def room_for(self, names: set[str]) -> bool:
        layout = self._machine._core.layout
        return layout is not None and len(self._numbers.keys() | names) <= layout.import_max

    def stub(self, name: str) -> int:
        """The address that stands for an import."""
        layout = self._machine._core.layout
        if layout is None:
            raise ValueError(f"{name} cannot be imported: a bare machine has no built-in kernel side")
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._numbers)
            self._machine._core.imports.append(self._server(name))
        return layout.imports + number * layout.import_stride

    def name_at(self, address: int) -> str | None:
        """The import whose stub is at an address."""
        layout = self._machine._core.layout
        if layout is None or not layout.import_stride:
            return None
        number, rest = divmod(address - layout.imports, layout.import_stride)
        return next((name for name, n in self._numbers.items() if n == number and not rest), None)

    def _server(self, name: str) -> Callable[[], int]:
        machine = self._machine

        def serve() -> int:
            esp = machine.regs.esp
            if name not in self._bound:
                raise ImportUnbound(name, machine.symbols.describe(machine.memory.u32(esp)))
            function, count = self._bound[name]
            raw = machine.memory.read(esp + 4, 4 * count)
            words = (int.from_bytes(raw[i : i + 4], "little") for i in range(0, 4 * count, 4))
            try:
                value = function(machine, *words)
                return 0 if value is None else index(value) & 0xFFFFFFFF
            except BaseException as error:
                error.add_note(f"in the function bound to {name}")
                raise

        return serve
