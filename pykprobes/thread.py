"""The thread that ELF code believes to run in: its control block, behind GS, and its thread-local variables."""

from __future__ import annotations

import struct
from bisect import bisect_right
from itertools import takewhile
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
PRESENT = 0x8000

# The i386 ABI's look-up of a thread-local variable, by the module and offset in a pair of words, which ___tls_get_addr
# has in eax and __tls_get_addr on the stack.
LOOKUPS = {
    "__tls_get_addr": "8b442404",  # mov eax, [esp+4]; then as the next
    "___tls_get_addr": "658b15 04000000 8b08 8b4004 0304ca c3",
}
_LOOKUP_CODE = b"".join(bytes.fromhex(text) for text in LOOKUPS.values())
_PLACES = {"__tls_get_addr": 0, "___tls_get_addr": len(bytes.fromhex(LOOKUPS["__tls_get_addr"]))}
_SYSTEM_CALL = "cd80 c3"
"""What a C library calls through the block's word 10h: int 80h; ret."""


class Thread:
    """The only thread of a machine: the layout is that of the ABI's variant II, with the words a C library looks at.

    All variables are in static places below the block, those of the first image nearest to it. What is known of it is
    in guest memory alone, the descriptor and the table of modules, so that it comes and goes with the guest's state.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @property
    def base(self) -> int:
        """Where the control block is; 0: nowhere."""
        layout = self.machine._core.layout
        if layout is None:
            return 0
        low, high = struct.unpack("<II", self.machine.memory.read(layout.gdt + 8 * THREAD_ENTRY, 8))
        return (high & 0xFF000000 | (high & 0xFF) << 16 | low >> 16) if high & PRESENT else 0

    @property
    def functions(self) -> dict[str, int]:
        """The look-ups by name."""
        base = self.base
        return {name: base + CODE_AT + at for name, at in _PLACES.items()}

    @property
    def _offsets(self) -> list[int]:
        """How far below the block each module's variables lie; those of module 0, which there is not, 0."""
        base = self.base
        table = self.machine.memory.read(base + DTV_AT, 8 * (MODULES_MAX + 1)) if base else bytes(16)
        places = (int.from_bytes(table[i : i + 4], "little") for i in range(8, len(table), 8))
        return [0, *(base - place for place in takewhile(bool, places))]

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
        base = machine.alloc(VARIABLES + BLOCK, align=4096) + VARIABLES
        system_call = base + CODE_AT + len(_LOOKUP_CODE)
        machine.memory.write(base + CODE_AT, _LOOKUP_CODE + bytes.fromhex(_SYSTEM_CALL))
        machine.memory.write(base, struct.pack("<6I", base, base + DTV_AT, base, 0, system_call, CANARY))
        machine.memory.write_u32(base + TID_AT, TID)
        machine.memory.write_u32(base + DTV_AT - 8, MODULES_MAX)
        low, high = base << 16 & 0xFFFF0000 | 0xFFFF, base & 0xFF000000 | 0x00CFF300 | base >> 16 & 0xFF
        machine.memory.write(layout.gdt + 8 * THREAD_ENTRY, struct.pack("<II", low, high))
        machine.regs.gs = 8 * THREAD_ENTRY | 3

    def place(self, address: int, size: int, align: int) -> int:
        """How far below the block the variables of one more image lie; ValueError where there is no room."""
        offsets = self._offsets
        offset = offsets[-1] + size
        offset += -(offset + address) % align
        if offset > VARIABLES or len(offsets) >= MODULES_MAX:
            taken = f"{offsets[-1]:#x} of {VARIABLES:#x} are taken, by {len(offsets) - 1} images"
            raise ValueError(f"no room for {size:#x} bytes of thread-local variables: {taken}")
        return offset

    def add(self, offset: int) -> None:
        """The place is taken: the image is the next module."""
        module = len(self._offsets)
        self.machine.memory.write_u32(self.base + DTV_AT + 8 * module, self.base - offset)

    @property
    def modules(self) -> int:
        """How many images have variables."""
        return len(self._offsets) - 1

    def module_of(self, address: int) -> tuple[int, int]:
        """The module whose variable lies at an address, and the variable's offset in it; ValueError where none does."""
        below, offsets = self.base - address, self._offsets
        module = bisect_right(offsets, below - 1) if below > 0 else 0
        if not 0 < module < len(offsets):
            raise ValueError(f"the variable at {address:#x} is no thread-local one")
        return module, offsets[module] - below
