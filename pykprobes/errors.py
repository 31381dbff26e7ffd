"""The exceptions of pykprobes. Plain misuse is ValueError, TypeError or RuntimeError."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .stop import Stop


class KprobeError(OSError):
    """A probe could not be registered or unregistered; ``errno`` is what the kernel would return.

    >>> import errno
    >>> error = KprobeError(errno.EEXIST, "crc32+4 is probed already")
    >>> error.errno == errno.EEXIST, str(error)
    (True, '[Errno 17] crc32+4 is probed already')
    """


class MachineFault(RuntimeError):
    """A function called with `Machine.call` did not return; ``stop`` says what happened instead.

    ``regs`` holds the registers by name at that moment: the machine itself is back where it was before the call.
    """

    def __init__(self, message: str, stop: Stop, regs: dict[str, int] | None = None) -> None:
        super().__init__(message)
        self.stop = stop
        self.regs = regs or {}


class MemoryFault(ValueError):
    """An access to guest memory that is not mapped; ``address`` is the first byte without memory."""

    def __init__(self, message: str, address: int) -> None:
        super().__init__(message)
        self.address = address


class ImportUnbound(LookupError):
    """The guest called an imported function that nothing provides; ``name`` is the import."""

    def __init__(self, name: str, caller: str) -> None:
        super().__init__(f'{name} was called from {caller}, but nothing provides it: m.bind("{name}", function) does')
        self.name = name
