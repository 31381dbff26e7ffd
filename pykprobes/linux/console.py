"""The serial console of a PC board: what a guest prints, and what is typed to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..binding import RUN_SLICE
from ..binding_pc import console_feed, console_fetch
from ..errors import MachineFault
from ..stop import StopReason

if TYPE_CHECKING:
    from ..machine import Machine

KEPT = 16 << 20  # bytes of output kept for read and expect
TAIL_LINES = 12
PROMPT = rb"[#$] (?:\x1b\[6n)?$"  # BusyBox asks the terminal where its cursor is
PATIENCE = 20_000_000_000  # instructions
Listener = Callable[[bytes], object]


class Console:
    """`Machine.console`: bytes from and to the guest's first serial port.

    Output is collected while the machine runs, whoever runs it; the last 16 MiB that nobody has read are kept.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._output = bytearray()
        self._input = bytearray()
        self._tail = bytearray()
        self._listeners: list[Listener] = []

    def read(self) -> bytes:
        """What the guest has printed since the last read or expect."""
        self.pump()
        output = bytes(self._output)
        self._output.clear()
        return output

    def write(self, data: bytes | str) -> None:
        """Type: the guest reads it when it runs. Lines end with a newline; text is sent as UTF-8."""
        raw = data.encode() if isinstance(data, str) else bytes(data)
        self._input += raw
        self.pump()

    def expect(
        self,
        pattern: bytes | re.Pattern[bytes],
        max_instructions: int | None = PATIENCE,
        progress: Callable[[int], object] | None = None,
    ) -> re.Match[bytes]:
        """Run until the output matches a regular expression; what is before and in the match counts as read.

        MachineFault when the machine stops before, TimeoutError when ``max_instructions`` are used up; both with the
        last lines. ValueError for a bad pattern.
        """
        compiled = _compile(pattern)
        self.pump()
        left = max_instructions
        while (found := compiled.search(self._output)) is None:
            size = RUN_SLICE if left is None else min(RUN_SLICE, left)
            if not size:
                raise TimeoutError(
                    f"no {compiled.pattern!r} within {max_instructions:,} instructions{self._last_words()}"
                )
            before = self._machine.icount
            stop = self._machine.run(max_instructions=size)
            if stop.reason is not StopReason.LIMIT and compiled.search(self._output) is None:
                raise MachineFault(f"{stop} while waiting for {compiled.pattern!r}{self._last_words()}", stop)
            if left is not None:
                left -= (self._machine.icount - before) or size
            if progress is not None:
                progress(self._machine.icount)
        match = compiled.search(bytes(self._output))
        assert match is not None
        del self._output[: found.end()]
        return match

    def run(self, command: str, prompt: bytes = PROMPT, max_instructions: int | None = PATIENCE) -> str:
        """Type a command to the guest's shell and return what it prints up to the next prompt, without the echo."""
        self.read()
        self.write(command + "\n")
        match = self.expect(prompt, max_instructions)
        text = match.string[: match.start()].decode("utf-8", "replace").replace("\r\n", "\n")
        _, _, printed = text.partition("\n")
        head, newline, _ = printed.rpartition("\n")
        return head + newline

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of output, read or not."""
        text = self._tail.decode("utf-8", "replace").replace("\r\n", "\n").rstrip("\n")
        return "\n".join(text.split("\n")[-lines:])

    def listen(self, listener: Listener) -> None:
        """Call ``listener(bytes)`` with what the guest prints, as it comes."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Call it no more."""
        self._listeners.remove(listener)

    def pump(self) -> None:
        """Take what the guest has printed from the port, and give it what was typed as there is room."""
        core = self._machine._core
        while data := console_fetch(core):
            self._output += data
            del self._output[:-KEPT]
            self._tail += data
            del self._tail[: -(1 << 16)]
            for listener in self._listeners:
                listener(data)
        if self._input:
            del self._input[: console_feed(core, self._input)]

    def _last_words(self) -> str:
        tail = self.tail()
        return f"; the console's last lines:\n{tail}" if tail else "; nothing was printed"

    def __repr__(self) -> str:
        return f"<Console, {len(self._output):,} bytes not read, {len(self._input):,} to be typed>"


def _compile(pattern: bytes | re.Pattern[bytes]) -> re.Pattern[bytes]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    if not isinstance(compiled.pattern, bytes):
        raise TypeError("the console is bytes: give a bytes pattern, as rb'# '")
    return compiled
