"""Another emulator as the judge: one boot image with hundreds of small scenarios runs here and under QEMU.

Every scenario ends in an exception or interrupt; the handler appends registers, frame, CR2 and DR6 to a log, cleans up
and goes to the next. QEMU leaves out RF in the image of a fault, EXT, limits of data segments, and the checks of CR0.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pykprobes import Machine, StopReason

from .guest_code import *

START, END = 0x10000, 0x98000
HEADER = LDT + 0x800  # of the multiboot loader: it has to lie within the first 8 KiB
ENTRY, COMMON, DUMP, TARGET = CODE + 0x1000, CODE + 0x2000, CODE + 0x3000, CODE + 0x3800
POINTER, INDEX, JUMPS, LOG = DATA + 0x800, DATA + 0x804, DATA + 0x1000, 0x60000
SCENARIOS, SIZE = 0x70000, 0x100
DIRECTORY, TABLE = DATA + 0x4000, DATA + 0x5000
HOLE, READ_ONLY, SUPERVISOR = 0x58000, 0x59000, 0x5A000  # pages
WORDS = 22  # of a record: gs ds, PUSHA's eight, vector, nine of the stack, cr2, dr6
NAMES = "gs ds edi esi ebp esp ebx edx ecx eax vector".split() + [f"stack{i}" for i in range(9)] + ["cr2", "dr6"]
WITH_CODE = {8, 10, 11, 12, 13, 14, 17}
CR0 = 0x80010031  # PG WP NE ET PE


def define(selector: int, data: bytes) -> bytes:
    """Guest code that writes a descriptor."""
    at = (LDT if selector & 4 else GDT) + (selector & ~7)
    low, high = (int.from_bytes(data[i : i + 4], "little") for i in (0, 4))
    return store_imm(at, low) + store_imm(at + 4, high)


def flat(access: int, flags: int = 0xC, base: int = 0, limit: int = 0xFFFFF) -> bytes:
    return descriptor(base, limit, access, flags)


def in_ring_3(flags: int = FIXED) -> bytes:
    """Go on in ring 3: an IRET to the next instruction."""
    data = mov("eax", U_DS) + mov_sreg("ds") + mov_sreg("es") + mov("eax", 0)
    return data + push(U_DS, STACKS[3], flags, U_CS) + b"\xe8" + imm(0) + b"\x83\x04\x24\x05" + IRET


def in_ring(ring: int) -> bytes:
    return in_ring_3() if ring else b""


SELECTORS = [0, 3, GDT_END, LDT_END | 4, LDT_DATA, LDT_CODE, K_CS, K_DS, U_CS, U_DS, U_DS & ~3, R1_DS, CONFORMING | 3]
SELECTORS += [TSS_SELECTOR, LDT_SELECTOR, SPARE, SPARE | 3, K_DS | 3]
ACCESSES = [DATA_RW, DATA_RO, DOWN_RW, CODE_X, CODE_RX, CODE_CONFORMING, 0x9C, DATA_RW & 0x7F, CODE_RX & 0x7F]


def segment_loads() -> list[bytes]:
    out = []
    for ring in (0, 3):
        for name in ("ss", "gs"):
            for selector in SELECTORS:
                out.append(in_ring(ring) + set_sreg(name, selector))
            for access in [a for a in ACCESSES if (name, a) != ("ss", DOWN_RW)]:
                for dpl in (0, 0x60):
                    selector = SPARE | (ring if name == "ss" else 0)
                    out.append(define(SPARE, flat(access | dpl)) + in_ring(ring) + set_sreg(name, selector))
    return out


def inspections() -> list[bytes]:
    undefined = b"\x81\xe1" + imm(0xFFF0FFFF)  # and ecx: bits that LAR leaves undefined
    look = mov("ecx", 0x55) + b"\x0f\x02\xc8" + PUSHF + undefined + b"\x0f\x03\xd0" + PUSHF
    look += system(4) + PUSHF + system(5) + PUSHF + b"\x5f\x5e\x5d\x5b"
    out = [in_ring(ring) + mov("eax", selector) + look for ring in (0, 3) for selector in SELECTORS]
    out += [define(SPARE, flat(0x80 | kind, 0)) + mov("eax", SPARE) + look for kind in range(16)]
    return out + [in_ring_3() + mov("eax", a) + mov("ecx", b) + b"\x63\xc8" for a in (0x10, 0x13) for b in (1, 3)]


def gates() -> list[bytes]:
    out = []
    at = IDT + 8 * 0x40
    for ring in (0, 3):
        for kind in range(16):
            if kind in (TASK, INT16, TRAP16):
                continue
            for present in (False, True):
                words = gate(K_CS, HANDLERS + 16 * 0x40, kind, 3, present)
                low, high = (int.from_bytes(words[i : i + 4], "little") for i in (0, 4))
                out.append(store_imm(at, low) + store_imm(at + 4, high) + in_ring(ring) + interrupt(0x40))
        for selector in (0, 3, GDT_END, K_DS, U_CS, R1_CS, TSS_SELECTOR, LDT_CODE, K_CS | 3):
            words = gate(selector, HANDLERS + 16 * 0x40, TRAP32, 3)
            low, high = (int.from_bytes(words[i : i + 4], "little") for i in (0, 4))
            out.append(store_imm(at, low) + store_imm(at + 4, high) + in_ring(ring) + interrupt(0x40))
        out += [
            in_ring(ring) + code for code in (INT3, UD2, interrupt(0x41), interrupt(PROTECTION), HLT if ring else UD2)
        ]
    return out


def far_transfers() -> list[bytes]:
    out = []
    for ring in (0, 3):
        for far in (far_jmp, far_call):
            for selector in (
                0,
                3,
                GDT_END,
                K_CS,
                K_CS | 3,
                K_DS,
                U_CS,
                U_CS & ~3,
                CONFORMING,
                CONFORMING | 3,
                LDT_SELECTOR,
            ):
                out.append(in_ring(ring) + far(selector, TARGET))
            for access in (CODE_RX, CODE_X, CODE_RX | 0x60, CODE_RX & 0x7F, CODE_CONFORMING | 0x60):
                out.append(define(SPARE, flat(access)) + in_ring(ring) + far(SPARE, TARGET))
            for target in (0, K_CS, U_CS, CONFORMING, K_DS, GDT_END, R1_CS):
                for dpl in (0, 3):
                    if (ring, target, far) == (3, CONFORMING, far_call):
                        continue  # QEMU takes the RPL of CS from the DPL there, which the SDM does not
                    words = gate(target, TARGET, CALL32, dpl, params=3)
                    out.append(define(SPARE, words) + in_ring(ring) + push(3, 2, 1) + far(SPARE | ring, 0xBAD))
    for code in (RETF, retf(8), IRET):
        for cs in (0, K_CS, K_CS | 3, K_DS, U_CS, U_CS & ~3, CONFORMING | 3, GDT_END | 3, TSS_SELECTOR):
            for ss in (U_DS, 0, K_DS, U_DS & ~3, U_CS, GDT_END | 3):
                if cs in (U_CS, CONFORMING | 3) or ss == U_DS:
                    middle = push(0x33, 0x44) if code == retf(8) else push(FIXED | CF) if code == IRET else b""
                    out.append(push(ss, STACKS[3]) + middle + push(cs, TARGET) + code)
    return out + [in_ring_3() + push(U_DS, STACKS[3], FIXED, cs, TARGET) + IRET for cs in (K_CS, R1_CS, U_CS)]


def flags() -> list[bytes]:
    out = []
    for iopl in (0, 3):
        for value in (0x003F7ED7, 0x00244ED7, 0):  # no TF, no VM, no NT
            value &= ~(VM | NT | RF | 0x180000)
            for enter in (push(FIXED | iopl << 12) + POPF, in_ring_3(FIXED | iopl << 12)):
                out.append(enter + push(value) + POPF + PUSHF + b"\x5b")
                out.append(enter + push(value) + O16 + POPF + PUSHF + b"\x5b")
                out.append(enter + CLI + PUSHF + b"\x5b" if value else enter + b"\xe4\x80")
    return out


def steps() -> list[bytes]:
    on = push(FIXED | TF) + POPF
    plain = [NOP, INTO, PUSHF, b"\xeb\x00", push(FIXED) + POPF, b"\xe8\x00\x00\x00\x00", mov("ecx", 0) + b"\xf3\xa4"]
    codes = [NOP * 2, interrupt(0x41), INT3, UD2, mov_sreg("ds") + NOP * 3, mov_sreg("ss", "edi") + NOP * 3, *plain]
    return [mov("edi", K_DS) + mov("eax", K_DS) + on + code for code in codes]


def pages() -> list[bytes]:
    out = []
    for ring in (0, 3):
        for page in (HOLE, READ_ONLY, SUPERVISOR):
            for code in (b"\xa1", b"\xa3"):  # a read-modify-write is a read first in QEMU, a write in CPUs
                out.append(in_ring(ring) + code + imm(page + 0x123))
        out.append(in_ring(ring) + b"\xa3" + imm(HOLE - 2))
        out.append(in_ring(ring) + mov("eax", HOLE) + b"\xff\xe0")
    return out


def system_code() -> list[bytes]:
    codes = [
        to_control(0),
        from_control(3),
        to_debug(0),
        system(2),
        system(3),
        table(2, DATA),
        CLI,
        STI,
        b"\x0f\x06",
        HLT,
    ]
    out = [in_ring_3() + mov("eax", 0) + code for code in codes]
    out += [
        mov("eax", selector) + system(field) for field in (2, 3) for selector in (LDT_DATA, K_DS, GDT_END, TSS_SELECTOR)
    ]
    for n in (6, 7):
        out.append(mov("eax", 0) + to_debug(n) + from_debug(n, "ebx"))
    return out


ALL = {f.__name__: f() for f in (segment_loads, inspections, gates, far_transfers, flags, steps, pages, system_code)}


def image() -> bytes:
    """Tables as in Guest, handlers that log, and all scenarios; entered in 32-bit mode without paging."""
    g = Guest()
    memory = g.m.memory
    g.descriptor(TSS_SELECTOR, TSS, 0x67, TSS32, 0)
    for vector in range(256):
        stub = b"\x68" + imm(vector)
        memory.write(g.handler(vector), stub + b"\xe9" + imm(COMMON - g.handler(vector) - len(stub) - 5))
    g.gate(0x41, dpl=3)
    segments = mov("eax", K_DS) + b"".join(mov_sreg(name) for name in ("ds", "es", "fs", "gs", "ss"))
    onward = mov("ebx", 0) + b"\x8b\x1d" + imm(INDEX) + b"\xff\x05" + imm(INDEX)
    clean = (
        mov("esp", STACKS[0])
        + push(FIXED)
        + POPF
        + onward
        + b"".join(mov(r, 0) for r in ("eax", "ecx", "edx", "esi", "edi", "ebp"))
    )
    log = b"\x60\x1e\x0f\xa8" + mov("eax", K_DS) + mov_sreg("ds") + mov_sreg("es") + b"\x89\xe6" + load("edi", POINTER)
    log += mov("ecx", WORDS - 2) + b"\xfc\x36\xf3\xa5" + from_control(2) + b"\xab" + from_debug(6) + b"\xab"
    log += mov("eax", 0) + to_debug(6) + to_control(2) + store(POINTER, "edi")
    for n in (SPARE, SPARE2):
        log += define(n, bytes(8))
    memory.write(COMMON, log + segments + clean + b"\xff\x24\x9d" + imm(JUMPS))
    # QEMU's timer must not interrupt: all lines of both controllers are masked first.
    start = b"\xb0\xff\xe6\x21\xe6\xa1" + mov("eax", 0x11) + to_control(0)
    start += table(2, DATA) + table(3, DATA + 8) + far_jmp(K_CS, ENTRY + 0x80)
    memory.write(ENTRY, start)
    first = segments + mov("eax", TSS_SELECTOR) + system(3) + mov("eax", LDT_SELECTOR) + system(2)
    first += mov("eax", DIRECTORY) + to_control(3) + mov("eax", CR0) + to_control(0) + mov("eax", 0) + to_debug(6)
    memory.write(ENTRY + 0x80, first + clean + b"\xff\x24\x9d" + imm(JUMPS))
    memory.write(DATA, imm(GDT_END - 1, 2) + imm(GDT) + imm(0, 2) + imm(256 * 8 - 1, 2) + imm(IDT))
    memory.write(POINTER, imm(LOG))
    memory.write(TARGET, interrupt(DONE))
    rights = {HOLE: 0, READ_ONLY: 5, SUPERVISOR: 3}
    memory.write(DIRECTORY, imm(TABLE | 7))
    memory.write(
        TABLE, b"".join(imm(n << 12 | rights.get(n << 12, 7) if rights.get(n << 12, 7) else 0) for n in range(1024))
    )
    codes = [code for group in ALL.values() for code in group]
    for n, code in enumerate(codes):
        assert len(code) + 2 <= SIZE
        memory.write(SCENARIOS + SIZE * n, code + interrupt(DONE))
    jumps = [SCENARIOS + SIZE * n for n in range(len(codes))] + [DUMP]
    memory.write(JUMPS, b"".join(imm(j) for j in jumps))
    dump = (
        mov("esi", LOG)
        + load("ecx", POINTER)
        + b"\x29\xf1"
        + mov("edx", 0xE9)
        + b"\xf3\x6e"
        + mov("edx", 0xF4)
        + b"\xee"
        + HLT
    )
    memory.write(DUMP, dump)
    flag = 0x10000  # the header says where to load
    header = [0x1BADB002, flag, -(0x1BADB002 + flag), HEADER, START, END, END, ENTRY]
    memory.write(HEADER, b"".join(imm(word) for word in header))
    return memory.read(START, END - START)


def records(log: bytes) -> list[list[int]]:
    words = [int.from_bytes(log[i : i + 4], "little") for i in range(0, len(log), 4)]
    return [words[i : i + WORDS] for i in range(0, len(words), WORDS)]


def comparable(record: list[int]) -> dict[str, int]:
    """Without RF and EXT."""
    out = dict(zip(NAMES, record, strict=True))
    code = out["vector"] in WITH_CODE and out["stack0"] < CODE
    if code:
        out["stack0"] &= ~1
    out["stack3" if code else "stack2"] &= ~RF
    return out


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[int]], list[list[int]]]:
    qemu = shutil.which("qemu-system-i386")
    if not qemu:
        pytest.skip("qemu-system-i386 is not installed")
    data = image()
    kernel = Path(tmp_path_factory.mktemp("qemu")) / "boot.img"
    kernel.write_bytes(data)
    command = [qemu, "-kernel", str(kernel), "-display", "none", "-serial", "none", "-monitor", "none", "-net", "none"]
    command += [
        "-cpu",
        "pentium3",
        "-no-reboot",
        "-debugcon",
        "stdio",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=1",
    ]
    try:
        theirs = subprocess.run(command, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL).stdout
    except (subprocess.TimeoutExpired, OSError) as error:
        pytest.skip(f"qemu does not run the image here: {error}")
    with Machine(memory=MEMORY, kprobes=None) as m:
        m.memory.write(START, data)
        m.regs.eip = ENTRY
        stop = m.run(max_instructions=1_000_000)
        assert stop.reason is StopReason.HALT, stop
        ours = m.memory.read(LOG, m.memory.u32(POINTER) - LOG)
    return records(ours), records(theirs)


@pytest.mark.parametrize("group", ALL)
def test_the_same_traps_as_qemu(logs: tuple[list[list[int]], list[list[int]]], group: str) -> None:
    ours, theirs = logs
    total = sum(map(len, ALL.values()))
    assert (len(ours), len(theirs)) == (total, total)
    first = sum(len(codes) for name, codes in ALL.items() if list(ALL).index(name) < list(ALL).index(group))
    wrong = []
    for n, code in enumerate(ALL[group], first):
        mine, other = comparable(ours[n]), comparable(theirs[n])
        different = {k: (hex(mine[k]), hex(other[k])) for k in NAMES if mine[k] != other[k]}
        if different:
            wrong.append(f"{code.hex()} at {SCENARIOS + SIZE * n:#x}: {different}")
    assert not wrong, "\n".join(wrong)
