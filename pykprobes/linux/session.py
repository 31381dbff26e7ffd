"""A booted guest at a terminal: its console, the hits of probes beside it, and a prompt to change them."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..probespec import parse_probe
from ..record import Record
from ..stop import Stop, StopReason

if TYPE_CHECKING:
    from ..machine import Machine
    from ..probes import Kprobe

SLICE = 300_000  # instructions between two looks at the keyboard
AHEAD = 0.05  # seconds that the guest's time may be ahead of the user's, who reads and types
PROMPT = "pykprobes> "
HELP = """\
probe SPEC        put a probe: 'p:open do_sys_openat2 name=+0(%dx):ustring'
remove NAME       take a probe out
probes            list probes and their hits
symbols PATTERN   find names, as 'symbols *openat*'
disasm PLACE      disassemble at a symbol or address
regs              the registers
continue, Enter   run on
quit              end"""


class Session:
    """A machine whose console is this terminal. ``hits`` and ``console`` take text to show."""

    def __init__(self, machine: Machine, console: Callable[[bytes], object], hits: Callable[[str], object]) -> None:
        self.machine = machine
        self.hits = hits
        self.probes: dict[str, tuple[Kprobe, Record]] = {}
        machine.console.listen(console)

    def add(self, text: str) -> None:
        """Put a probe whose hits are shown; ValueError when the text is none or the name is taken."""
        spec = parse_probe(text)
        if spec.name in self.probes:
            raise ValueError(f"there is a probe {spec.name} already: begin with p:NAME")
        record = Record(*spec.fields)
        self.probes[spec.name] = self.machine.kprobe(spec.place, spec.offset, action=record), record

    def remove(self, name: str) -> None:
        """Take a probe out; ValueError when there is none of that name."""
        if name not in self.probes:
            raise ValueError(f"no probe {name}; there are {', '.join(self.probes) or 'none'}")
        self.machine.unregister_kprobe(self.probes.pop(name)[0])

    def show_hits(self) -> None:
        """Show what the probes have recorded, in the order in which it happened."""
        lines = []
        for name, (_, record) in self.probes.items():
            for row in record.drain():
                fields = " ".join(f"{field}={_text(row[field], record, field)}" for field in record.fields)
                lines.append((int(row["icount"]), f"{name}: {fields}".rstrip(": ")))
        for _, line in sorted(lines):
            self.hits(line)

    def run(self, limit: int | None = None, keys: Callable[[float], bytes | None] | None = None) -> Stop:
        """Run until the machine stops or ``limit`` instructions are done. KeyboardInterrupt comes out of it.

        ``keys(seconds)`` waits that long for something typed and gives it; None: nothing will ever come again.
        """
        machine = self.machine
        begin, start = time.monotonic(), machine.seconds
        while True:
            size = SLICE if limit is None else min(SLICE, limit)
            before = machine.icount
            stop = machine.run(max_instructions=size)
            self.show_hits()
            if limit is not None:
                limit -= machine.icount - before or size
            if stop.reason is not StopReason.LIMIT or limit == 0:
                return stop
            if keys is not None:
                ahead = machine.seconds - start - (time.monotonic() - begin)
                typed = keys(max(0.0, min(ahead, 1.0)) if ahead > AHEAD else 0.0)
                if typed is None:
                    keys = None
                elif typed:
                    machine.console.write(typed)

    def command(self, line: str) -> str | None:
        """Do what a line at the prompt asks; what to show, or None to run on. EOFError: end."""
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word in ("", "c", "continue"):
            return None
        if word in ("q", "quit", "exit"):
            raise EOFError
        if word not in self.COMMANDS:
            return HELP
        try:
            return self.COMMANDS[word](self, rest)
        except (ValueError, LookupError, OSError) as error:
            return f"{error}"

    def _probe(self, text: str) -> str:
        self.add(text.strip("'\""))
        return self._list("")

    def _remove(self, name: str) -> str:
        self.remove(name)
        return self._list("")

    def _list(self, _: str) -> str:
        return "\n".join(f"{name}: {probe!r}" for name, (probe, _) in self.probes.items()) or "no probes"

    def _symbols(self, pattern: str) -> str:
        found = sorted(self.machine.symbols.find(pattern or "*").items(), key=lambda item: item[1])
        more = f"\n... {len(found) - 40:,} more" if len(found) > 40 else ""
        return "\n".join(f"{address:08x} {name}" for name, address in found[:40]) + more or "no such names"

    def _disasm(self, place: str) -> str:
        lines = self.machine.disasm(place or self.machine.regs.eip, 12)
        return "\n".join(f"{line.address:08x}  {line.code.hex(' '):<24} {line.text}" for line in lines)

    def _regs(self, _: str) -> str:
        regs = self.machine.regs
        names = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp", "eip", "eflags", "cr0", "cr2", "cr3", "cr4")
        words = [f"{name}={getattr(regs, name):08x}" for name in names]
        return "\n".join("  ".join(words[i : i + 4]) for i in range(0, len(words), 4))

    COMMANDS = {
        "probe": _probe, "remove": _remove, "probes": _list, "symbols": _symbols, "disasm": _disasm, "regs": _regs,
    }  # fmt: skip


def _text(value: Any, record: Record, field: str) -> str:
    if isinstance(value, bytes):
        return f'"{value.decode("utf-8", "replace")}"'
    if getattr(value, "shape", ()):
        return "{" + ",".join(_text(part, record, field) for part in value) + "}"
    return record.fields[field].format(int(value))


@contextmanager
def keyboard() -> Iterator[Callable[[float], bytes | None]]:
    """The keyboard, key by key and without echo where it is a terminal: what is typed goes to the guest.

    Ctrl-C still interrupts. From a pipe or file all of the input is given, then None.
    """
    descriptor = sys.stdin.fileno()
    ended = False

    def keys(seconds: float) -> bytes | None:
        nonlocal ended
        if ended:
            return None
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            return b""
        data = os.read(descriptor, 4096)
        ended = not data
        return data or None

    if not sys.stdin.isatty():
        yield keys
        return
    import termios

    kept = termios.tcgetattr(descriptor)
    raw = termios.tcgetattr(descriptor)
    raw[0] &= ~termios.ICRNL
    raw[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, raw)
    try:
        yield keys
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, kept)
