"""pykprobes boot: a Linux kernel, its console in the terminal, and the hits of probes beside it."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from .linux.session import HELP, PROMPT, Session, keyboard
from .machine import Machine
from .pc import QUICK, Pc
from .probespec import number
from .stop import Stop, StopReason

MIB = 1 << 20
ENDS = (StopReason.HALT, StopReason.RESET, StopReason.LIMIT)


def add_boot(commands: argparse._SubParsersAction[Any]) -> None:
    """The arguments of ``boot``."""
    boot = commands.add_parser("boot", help="boot a Linux kernel, with its console here and probes on it")
    boot.add_argument("kernel", metavar="VMLINUZ", help="an i386 bzImage or vmlinux")
    boot.add_argument("--initrd", metavar="FILE", help="an initial RAM file system: an archive, or a directory to pack")
    boot.add_argument("--append", default="", metavar="TEXT", help="more for the kernel's command line")
    boot.add_argument("--cmdline", default=QUICK, metavar="TEXT", help="all of it (default: what boots fast)")
    boot.add_argument("--memory", type=number, default=128, metavar="MIB", help="RAM (default: 128)")
    boot.add_argument("--clock", type=number, default=Pc().clock, metavar="HZ", help="instructions in a second")
    boot.add_argument("--probe", action="append", default=[], metavar="SPEC", help="'p:name symbol f=+0(%%dx):ustring'")
    boot.add_argument("--max-instructions", type=number, metavar="N", help="stop after N instructions")
    boot.set_defaults(execute=command_boot)


def command_boot(args: argparse.Namespace) -> int:
    """pykprobes boot"""
    with Machine(board=Pc(clock=args.clock), memory=args.memory * MIB) as machine:
        image = machine.load_linux(args.kernel, args.initrd, f"{args.cmdline} {args.append}".strip())
        session = Session(machine, _show, _hit)
        for text in args.probe:
            session.add(text)
        _say(f"{image!r}; Ctrl-C leads to a prompt")
        begin = time.monotonic()
        try:
            stop = _run(session, args.max_instructions)
        finally:
            for name, (probe, _) in session.probes.items():
                _say(f"{name}: {probe.hits:,} hits, {probe.nmissed:,} missed")
            seconds = time.monotonic() - begin
            _say(f"{machine.icount:,} instructions, {machine.icount / seconds / 1e6:,.0f} million a second")
        if stop is not None:
            _say(str(stop))
        return 0 if stop is None or stop.reason in ENDS else 1


def _run(session: Session, limit: int | None) -> Stop | None:
    """Run, with the prompt at each Ctrl-C; the Stop, or None when the user ended it."""
    while True:
        start = session.machine.icount
        try:
            with keyboard() as keys:
                return session.run(limit, keys)
        except KeyboardInterrupt:
            if limit is not None:
                limit = max(0, limit - (session.machine.icount - start))
            session.show_hits()
            if not sys.stdin.isatty() or not _prompt(session):
                return None


def _prompt(session: Session) -> bool:
    """Take commands; False to end."""
    _say(f"\nstopped at {session.machine.symbols.describe(session.machine.regs.eip)}; help tells what can be done")
    while True:
        try:
            line = input(PROMPT)
            text = HELP if line.strip() == "help" else session.command(line)
        except (EOFError, KeyboardInterrupt):
            return False
        if text is None:
            return True
        print(text)


def _show(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _hit(line: str) -> None:
    before, behind = ("\r\033[2m", "\033[0m\r\n") if sys.stderr.isatty() else ("", "\n")
    sys.stderr.write(f"{before}[{line}]{behind}")
    sys.stderr.flush()


def _say(line: str) -> None:
    sys.stderr.write(f"pykprobes: {line}\n")
    sys.stderr.flush()
