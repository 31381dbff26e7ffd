"""Two ways to call functions of i386 libraries, with one interface: in the machine, and natively.

Both have the same memory for arguments at the same addresses, so that whatever a function leaves there can be compared.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

from pykprobes import Machine
from pykprobes.calls import INTEGERS, argument
from pykprobes.fpu import to_float

from ..oracle.native import build
from .fetch import library, library_folder

BASE, SIZE = 0x20000000, 64 << 20
GLIBC = ("ld-linux.so.2", "libc.so.6")
SOURCE = Path(__file__).with_name("caller.c")
_FLAGS = "-m32 -std=gnu11 -Wall -Wextra -O1 -fno-builtin -fno-pic -no-pie -fno-stack-protector -nostdlib".split()
_ANSWER = struct.Struct("<II10s2x")
ENOSYS, MMAP2, FUTEX = 38, 192, 240


class Side(Protocol):
    """What tests are written for: memory, and calls. A result is by its type of pykprobes.calls.RESULTS."""

    def write(self, address: int, data: bytes) -> None: ...
    def read(self, address: int, size: int) -> bytes: ...
    def call(self, name: str, *args: Any, returns: str = "u32") -> Any: ...


class Arena:
    """Hands out the memory that both sides have."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.at = BASE

    def room(self, size: int) -> int:
        """The address of so many bytes, 16-byte aligned."""
        address = self.at
        self.at += size + 15 & ~15
        assert self.at <= BASE + SIZE
        return address

    def put(self, data: bytes) -> int:
        address = self.room(len(data))
        self.side.write(address, data)
        return address

    def text(self, text: str) -> int:
        return self.put(text.encode() + b"\0")


def serve_system_call(m: Machine, regs: Any) -> bool:
    """All that the libraries need of a kernel: memory, and that nobody waits for locks; the rest is not there."""
    if regs.eax == MMAP2:
        regs.eax = m.alloc(regs.ecx + 4095 & ~4095, align=4096)
    else:
        regs.eax = 0 if regs.eax == FUTEX else -ENOSYS & 0xFFFFFFFF
    return True


class Guest:
    """The libraries loaded into a machine."""

    def __init__(self, *sonames: str, memory: int = 16 << 20, **options: Any) -> None:
        m = self.m = Machine(memory=memory, **options)
        m.on_trap(0x80, serve_system_call)
        m.map(BASE, SIZE)
        images = [m.load(library(soname)) for soname in sonames]
        if "libc.so.6" in sonames:
            m.call("__ctype_init")
        for image in images:
            image.initialize(m)

    def write(self, address: int, data: bytes) -> None:
        self.m.memory.write(address, data)

    def read(self, address: int, size: int) -> bytes:
        return self.m.memory.read(address, size)

    def call(self, name: str, *args: Any, returns: str = "u32") -> Any:
        return self.m.call(name, *args, returns=returns)


class Native:
    """The libraries in a process of the host, loaded by the fetched dynamic linker."""

    def __init__(self, *sonames: str, environment: dict[str, str] | None = None) -> None:
        libc = library("libc.so.6")
        try:
            caller = build("caller", ["gcc", *_FLAGS, str(SOURCE), str(libc)], [SOURCE, libc])
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"gcc -m32 does not work here: {str(getattr(error, 'stderr', error)).strip()[-200:]}")
        wanted = [str(library(name)) for name in sonames if name not in GLIBC]
        linker = [str(library("ld-linux.so.2")), "--inhibit-cache", "--library-path", str(library_folder())]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("LD_", "OPENSSL"))}
        self.process = subprocess.Popen(
            [*linker, str(caller), *wanted],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**clean, **(environment or {})},
        )
        self._send(struct.pack("<II", BASE, SIZE))

    def _send(self, data: bytes, reply: int = 0) -> bytes:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(data)
        self.process.stdin.flush()
        answer = self.process.stdout.read(reply) if reply else b""
        if len(answer) != reply:
            raise RuntimeError(f"the native process ended with {self.process.wait()}")
        return answer

    def write(self, address: int, data: bytes) -> None:
        self._send(struct.pack("<III", ord("w"), address, len(data)) + data)

    def read(self, address: int, size: int) -> bytes:
        return self._send(struct.pack("<III", ord("r"), address, size), size)

    def call(self, name: str, *args: Any, returns: str = "u32") -> Any:
        words = [argument(value) for value in args]
        text = name.encode()
        head = struct.pack("<II", ord("c"), len(text)) + text
        answer = self._send(head + struct.pack(f"<I{len(words)}I", len(words), *words), _ANSWER.size)
        eax, edx, st0 = _ANSWER.unpack(answer)
        if returns in INTEGERS:
            bits, signed = INTEGERS[returns]
            return int.from_bytes(struct.pack("<2I", eax, edx)[: bits // 8], "little", signed=signed)
        return to_float(st0) if returns == "f64" else st0

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def need_native() -> None:
    """Skip the calling test where i386 programs do not run."""
    if sys.platform != "linux" or os.uname().machine not in ("x86_64", "i686"):
        pytest.skip("i386 programs do not run here")
