"""ELF core files, which gdb opens: registers, and memory at its linear addresses (System V ABI; Linux elfcore.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from os import PathLike
from typing import TYPE_CHECKING, BinaryIO

from .memory import PAGE

if TYPE_CHECKING:
    from .snapshot import Snapshot

ET_CORE, EM_386 = 4, 3
PT_LOAD, PT_NOTE = 1, 4
NT_PRSTATUS, NT_FPREGSET = 1, 2
HEADER, PROGRAM_HEADER = 52, 32
HEADERS_MAX = 0xFFF0  # e_phnum has 16 bits
CR0_PG, CR4_PSE, CR4_PAE = 1 << 31, 0x10, 0x20
P, RW, PS = 1, 2, 0x80
# pr_reg in the order of struct pt_regs' ptrace cousin, user_regs_struct
GPRS = (3, 1, 2, 6, 7, 5, 0)
ES, CS, SS, DS, FS, GS = range(6)
Mapping = tuple[int, int, bool]  # linear page, frame, writable


def mappings(snapshot: Snapshot) -> Iterator[Mapping]:
    """Linear pages that are mapped, in ascending order; only those whose frames are not all zeros."""
    cpu = snapshot.cpu
    used = set(snapshot.frames.tolist())
    if not cpu["cr0"] & CR0_PG:
        yield from ((frame * PAGE, frame, True) for frame in sorted(used))
        return
    pae = bool(cpu["cr4"] & CR4_PAE)
    if not pae:
        yield from _directory(snapshot, used, cpu["cr3"] & ~0xFFF, 0, False, bool(cpu["cr4"] & CR4_PSE))
        return
    for i, pointer in enumerate(cpu["pdpte"]):
        if pointer & P:
            yield from _directory(snapshot, used, pointer & ~0xFFF, i << 30, True, True)


def _entries(snapshot: Snapshot, table: int, pae: bool) -> list[int]:
    data = snapshot.page(table // PAGE)
    return list(struct.unpack("<1024I", data))[:: 2 if pae else 1]


def _directory(snapshot: Snapshot, used: set[int], at: int, base: int, pae: bool, large: bool) -> Iterator[Mapping]:
    size = 1 << (21 if pae else 22)
    for i, entry in enumerate(_entries(snapshot, at, pae)):
        lin = base + i * size
        if not entry & P:
            continue
        if entry & PS and large:
            first = (entry & ~(size - 1)) // PAGE
            for k in range(size // PAGE):
                if first + k in used:
                    yield lin + k * PAGE, first + k, bool(entry & RW)
        elif entry // PAGE in used:
            for k, low in enumerate(_entries(snapshot, entry & ~0xFFF, pae)):
                if low & P and low // PAGE in used:
                    yield lin + k * PAGE, low // PAGE, bool(entry & low & RW)


def _segments(snapshot: Snapshot) -> list[list[Mapping]]:
    """Runs of pages that follow each other with the same rights."""
    found: list[list[Mapping]] = []
    for page in mappings(snapshot):
        last = found[-1][-1] if found else None
        if last and last[0] + PAGE == page[0] and last[2] == page[2]:
            found[-1].append(page)
        else:
            found.append([page])
    if len(found) > HEADERS_MAX:
        raise ValueError(f"a core file has room for {HEADERS_MAX} pieces of memory, the snapshot has {len(found)}")
    return found


def _note(kind: int, data: bytes) -> bytes:
    return struct.pack("<3I", 5, len(data), kind) + b"CORE\0\0\0\0" + data + bytes(-len(data) % 4)


def _registers(snapshot: Snapshot) -> bytes:
    """struct elf_prstatus of i386: 144 bytes, with the registers at 72."""
    cpu = snapshot.cpu
    segments = cpu["seg_selector"]
    regs = [cpu["gpr"][i] for i in GPRS]
    regs += [segments[i] for i in (DS, ES, FS, GS)]
    regs += [0xFFFFFFFF, cpu["eip"], segments[CS], cpu["eflags"], cpu["gpr"][4], segments[SS]]
    pid = struct.pack("<i", 1)
    return bytes(24) + pid + bytes(44) + struct.pack("<17I", *regs) + bytes(4)


def _fpu(snapshot: Snapshot) -> bytes:
    """struct user_i387_struct: the image of FNSAVE in 32-bit protected mode (SDM vol. 1, figure 8-9)."""
    cpu = snapshot.cpu
    top, full = cpu["fpu_status"] >> 11 & 7, cpu["fpu_full"]
    tags = sum((0 if full >> i & 1 else 3) << 2 * i for i in range(8))
    words = (cpu["fpu_control"], cpu["fpu_status"], tags)
    head = struct.pack("<3I", *(0xFFFF0000 | word for word in words))
    head += struct.pack("<4I", cpu["fpu_ip"], cpu["fpu_cs"] | cpu["fpu_opcode"] << 16, cpu["fpu_dp"], cpu["fpu_ds"])
    order = [(top + i) & 7 for i in range(8)]
    return head + b"".join(struct.pack("<QH", cpu["st_mantissa"][i], cpu["st_exponent"][i]) for i in order)


def write_core(snapshot: Snapshot, file: str | PathLike[str] | BinaryIO) -> None:
    """Write a core file; pages of zeros are left out."""
    if not hasattr(file, "write"):
        with open(file, "wb") as opened:
            write_core(snapshot, opened)
        return
    segments = _segments(snapshot)
    notes = _note(NT_PRSTATUS, _registers(snapshot)) + _note(NT_FPREGSET, _fpu(snapshot))
    count = len(segments) + 1
    at = HEADER + PROGRAM_HEADER * count
    headers = struct.pack("<8I", PT_NOTE, at, 0, 0, len(notes), 0, 0, 4)
    at = -(-(at + len(notes)) // PAGE) * PAGE
    first = at
    for pages in segments:
        size = len(pages) * PAGE
        headers += struct.pack("<8I", PT_LOAD, at, pages[0][0], 0, size, size, 7 if pages[0][2] else 5, PAGE)
        at += size
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    start = ident + struct.pack("<2H5I6H", ET_CORE, EM_386, 1, 0, HEADER, 0, 0, HEADER, PROGRAM_HEADER, count, 0, 0, 0)
    file.write((start + headers + notes).ljust(first, b"\0"))
    for pages in segments:
        for _, frame, _ in pages:
            file.write(snapshot.page(frame))
