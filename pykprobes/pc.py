"""The board of a PC, and Linux on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import index
from typing import TYPE_CHECKING

from .binding_pc import board_time, unclaimed
from .linux import boot
from .linux.console import PATIENCE, PROMPT, Console
from .linux.initramfs import Node, initramfs
from .linux.kernelimage import KernelImage
from .loader import Source, read_source

if TYPE_CHECKING:
    from .binding import Core

QUICK = (
    "console=ttyS0 panic=-1 acpi=off noapic nolapic pci=off reboot=t cryptomgr.notests noisapnp "
    "initcall_blacklist=load_system_certificate_list,init_blk_tracer"
)
Initrd = Source | Mapping[str, "Node | bytes | str | os.PathLike[str]"]


@dataclass(frozen=True)
class Pc:
    """What is settable about the board: how many instructions make a second of its time, and what its clock says first.

    Time passes with instructions, and at once while the CPU is in HLT. The time-stamp counter counts instructions, so
    that a guest measures a CPU of ``clock`` Hz.
    """

    clock: int = 100_000_000
    date: datetime = datetime(2002, 7, 29, 12, tzinfo=UTC)

    def __post_init__(self) -> None:
        if not 1_000_000 <= index(self.clock) <= 100_000_000_000:
            raise ValueError(f"clock={self.clock} is not in 1 MHz to 100 GHz")
        if not isinstance(self.date, datetime):
            raise TypeError(f"date is a datetime, not {type(self.date).__name__}")

    @property
    def seconds(self) -> int:
        """The date in seconds since 1970; a date without time zone is UTC."""
        return int((self.date if self.date.tzinfo else self.date.replace(tzinfo=UTC)).timestamp())


class PcBoard:
    """The part of `Machine` that needs ``board="pc"``: console, boot loader, port statistics."""

    _core: Core
    pc: Pc | None
    _console: Console | None

    @property
    def console(self) -> Console:
        """The first serial port; RuntimeError on a machine without a PC's board."""
        if self._console is None:
            raise RuntimeError('there is no console: make the machine with board="pc"')
        return self._console

    @property
    def seconds(self) -> float:
        """The board's time since the machine was made: instructions, and what HLT skipped, at ``Pc.clock`` a second."""
        self.console  # noqa: B018 - a machine without the board is reported first
        assert self.pc is not None
        return board_time(self._core) / self.pc.clock

    def load_linux(
        self, kernel: Source, initrd: Initrd | None = None, cmdline: str = "console=ttyS0", unpack: str = "host"
    ) -> boot.LinuxImage:
        """Load a bzImage or vmlinux by the 32-bit boot protocol, ready to run.

        ``initrd`` is an archive (path, bytes or file), a directory, or a mapping as `initramfs` takes it. The kernel is
        unpacked on the host, or by its own code with ``unpack="guest"``. Symbols come from the kernel's own table.
        ValueError, with nothing changed, when that cannot be.
        """
        self.console  # noqa: B018 - a machine without the board is reported first
        data, name = read_source(kernel, None)
        archive = b"" if initrd is None else _archive(initrd)
        if not isinstance(cmdline, str):
            raise TypeError(f"cmdline is text, not {type(cmdline).__name__}")
        return boot.load(self, KernelImage(name, data), archive, cmdline, unpack)  # type: ignore[arg-type]

    def boot(
        self,
        kernel: Source,
        initrd: Initrd | None = None,
        cmdline: str = QUICK,
        prompt: bytes = PROMPT,
        max_instructions: int = PATIENCE,
        progress: Callable[[int], object] | None = None,
    ) -> boot.LinuxImage:
        """Load a kernel and run to a shell's prompt; exceptions as those of `load_linux` and `Console.expect`.

        The command line leaves out what takes a kernel long on a machine without the hardware.
        """
        image = self.load_linux(kernel, initrd, cmdline)
        self.console.expect(prompt, max_instructions, progress)
        return image

    def unclaimed_ports(self) -> dict[tuple[str, int], int]:
        """How often the guest used a port that nothing answers, by ("read" or "write", port)."""
        self.console  # noqa: B018 - a machine without the board is reported first
        return {
            (kind, port): count
            for write, kind in enumerate(("read", "write"))
            for port, count in enumerate(unclaimed(self._core, write))
            if count
        }


def board_of(board: str | Pc | None) -> Pc | None:
    """What Machine's ``board=`` means."""
    if board is None or isinstance(board, Pc):
        return board
    if board == "pc":
        return Pc()
    raise ValueError(f"board={board!r} must be 'pc', a Pc or None")


def _archive(initrd: Initrd) -> bytes:
    if isinstance(initrd, Mapping) or (isinstance(initrd, (str, os.PathLike)) and os.path.isdir(initrd)):
        return initramfs(initrd)  # type: ignore[arg-type]
    return read_source(initrd, None)[0]
