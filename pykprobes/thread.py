"""The thread that ELF code believes to run in: its control block, behind GS, and its thread-local variables."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .machine import Machine

VARIABLES = 16384  # bytes for thread-local variables, below the control block
BLOCK = 4096  # bytes of the control block
DTV_AT, MODULES_MAX = 0x808, 128
CODE_AT = 0xE00
CANARY = 0xFF0A0D00
TID_AT, TID = 0x68, 1  # a C library takes a lock whose owner is 0 for its own
THREAD_ENTRY = 33  # of the GDT

# The i386 ABI's look-up of a thread-local variable, by the module and offset in a pair of words, which ___tls_get_addr
# has in eax and __tls_get_addr on the stack.
LOOKUPS = {
    "__tls_get_addr": "8b442404",  # mov eax, [esp+4]; then as the next
    "___tls_get_addr": "658b15 04000000 8b08 8b4004 0304ca c3",
}
_SYSTEM_CALL = "cd80 c3"
"""What a C library calls through the block's word 10h: int 80h; ret."""


class Thread:
    """The only thread of a machine: the layout is that of the ABI's variant II, with the words a C library looks at.

    All variables are in static places below the block, those of the first image nearest to it.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.base = 0
        self.functions: dict[str, int] = {}
        self._offsets: list[int] = [0]

    @property
    def possible(self) -> bool:
        """Is the block there, or can it be?"""
        return bool(self.base) or (self.machine._core.layout is not None and not self.machine.regs.gs)

    def give(self) -> None:
        """Make the control block and point GS to it; nothing where GS is the guest's own business.

        Compiled code finds the stack protector's canary in it. The descriptor is SDM vol. 3, 3.4.5: a flat 4 GiB
        writable data segment of DPL 3 that begins at the block and wraps round.
        """
        machine, layout = self.machine, self.machine._core.layout
        if layout is None or machine.regs.gs or self.base:
            return
        base = self.base = machine.alloc(VARIABLES + BLOCK, align=4096) + VARIABLES
        code = b""
        for name, text in LOOKUPS.items():
            self.functions[name] = base + CODE_AT + len(code)
            code += bytes.fromhex(text)
        system_call = base + CODE_AT + len(code)
        machine.memory.write(base + CODE_AT, code + bytes.fromhex(_SYSTEM_CALL))
        machine.memory.write(base, struct.pack("<6I", base, base + DTV_AT, base, 0, system_call, CANARY))
        machine.memory.write_u32(base + TID_AT, TID)
        machine.memory.write_u32(base + DTV_AT - 8, MODULES_MAX)
        low, high = base << 16 & 0xFFFF0000 | 0xFFFF, base & 0xFF000000 | 0x00CFF300 | base >> 16 & 0xFF
        machine.memory.write(layout.gdt + 8 * THREAD_ENTRY, struct.pack("<II", low, high))
        machine.regs.gs = 8 * THREAD_ENTRY | 3

    def place(self, address: int, size: int, align: int) -> int:
        """How far below the block the variables of one more image lie; ValueError where there is no room."""
        offset = self._offsets[-1] + size
        offset += -(offset + address) % align
        if offset > VARIABLES or len(self._offsets) >= MODULES_MAX:
            taken = f"{self._offsets[-1]:#x} of {VARIABLES:#x} are taken, by {self.modules} images"
            raise ValueError(f"no room for {size:#x} bytes of thread-local variables: {taken}")
        return offset

    def add(self, offset: int) -> None:
        """The place is taken: the image is the next module."""
        module = len(self._offsets)
        self._offsets.append(offset)
        self.machine.memory.write_u32(self.base + DTV_AT + 8 * module, self.base - offset)

    @property
    def modules(self) -> int:
        """How many images have variables."""
        return len(self._offsets) - 1

    def module_of(self, address: int) -> tuple[int, int]:
        """The module whose variable lies at an address, and the variable's offset in it; ValueError where none does."""
        below = self.base - address
        module = bisect_right(self._offsets, below - 1) if below > 0 else 0
        if not 0 < module < len(self._offsets):
            raise ValueError(f"the variable at {address:#x} is no thread-local one")
        return module, self._offsets[module] - below
