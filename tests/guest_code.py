"""A guest with descriptor tables of its own, and the few encodings that tests of traps and privilege need.

Linear addresses equal physical ones. Every vector has a handler that halts, so that where a run ends tells which
exception came, and the frame can be read from the stack.
"""

from __future__ import annotations

from dataclasses import dataclass

from pykprobes import Machine, Stop, StopReason

GDT, LDT, IDT, TSS, HANDLERS, OUTER_HANDLERS = 0x10000, 0x11000, 0x12000, 0x13000, 0x14000, 0x15000
CODE, DATA, TABLES = 0x20000, 0x50000, 0x60000  # programs; scratch; free pages for page tables
STACKS = (0x30000, 0x38000, 0x3C000, 0x40000)  # top of the stack of each ring
MEMORY = 1 << 20

K_CS, K_DS, U_CS, U_DS, R1_CS, R1_DS = 0x08, 0x10, 0x1B, 0x23, 0x29, 0x31
CONFORMING, TSS_SELECTOR, LDT_SELECTOR, CODE16 = 0x38, 0x40, 0x48, 0x50
SPARE, SPARE2, SPARE3, GDT_END = 0x58, 0x60, 0x68, 0x70  # descriptors that tests fill; the first one outside
LDT_CODE, LDT_DATA, LDT_END = 0x04, 0x0C, 0x18

DATA_RW, CODE_RX, CODE_X, DATA_RO, DOWN_RW, CODE_CONFORMING = 0x92, 0x9A, 0x98, 0x90, 0x96, 0x9E  # DPL 0, present
TSS32, TSS32_BUSY, TSS16, LDT_TYPE = 0x89, 0x8B, 0x81, 0x82
INT16, TRAP16, INT32, TRAP32, CALL16, CALL32, TASK = 6, 7, 14, 15, 4, 12, 5
DIVIDE, DEBUG, BREAK, OVERFLOW, INVALID, DEVICE, DOUBLE = 0, 1, 3, 4, 6, 7, 8
BAD_TSS, ABSENT, STACK, PROTECTION, PAGE = 10, 11, 12, 13, 14
DONE = 0x7F  # the interrupt by which a program of any ring says that it got to its end
CF, PF, AF, ZF, SF, TF, IF = (1 << n for n in (0, 2, 4, 6, 7, 8, 9))
DF, OF, NT, RF, VM, AC, ID = (1 << n for n in (10, 11, 14, 16, 17, 18, 21))
FIXED = 2

GPR = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
SREG = ("es", "cs", "ss", "ds", "fs", "gs")
NOP, HLT, IRET, RETF, RET, PUSHF, POPF, CLI, STI, INT3, INTO, INT1, UD2, PUSHA = (
    bytes([n]) if n < 256 else n.to_bytes(2, "big")
    for n in (0x90, 0xF4, 0xCF, 0xCB, 0xC3, 0x9C, 0x9D, 0xFA, 0xFB, 0xCC, 0xCE, 0xF1, 0x0F0B, 0x60)
)
O16 = b"\x66"


def imm(value: int, size: int = 4) -> bytes:
    return (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def mov(register: str, value: int) -> bytes:
    return bytes([0xB8 + GPR.index(register)]) + imm(value)


def load(register: str, address: int) -> bytes:
    """mov register, [address]"""
    return bytes([0x8B, GPR.index(register) << 3 | 5]) + imm(address)


def store(address: int, register: str) -> bytes:
    """mov [address], register"""
    return bytes([0x89, GPR.index(register) << 3 | 5]) + imm(address)


def store_imm(address: int, value: int) -> bytes:
    """mov dword [address], value"""
    return b"\xc7\x05" + imm(address) + imm(value)


def mov_sreg(segment: str, register: str = "eax") -> bytes:
    return bytes([0x8E, 0xC0 | SREG.index(segment) << 3 | GPR.index(register)])


def set_sreg(segment: str, selector: int) -> bytes:
    return mov("eax", selector) + mov_sreg(segment)


def push(*values: int) -> bytes:
    return b"".join(b"\x68" + imm(value) for value in values)


def interrupt(vector: int) -> bytes:
    return bytes([0xCD, vector])


def far_jmp(selector: int, offset: int = 0) -> bytes:
    return b"\xea" + imm(offset) + imm(selector, 2)


def far_call(selector: int, offset: int = 0) -> bytes:
    return b"\x9a" + imm(offset) + imm(selector, 2)


def retf(release: int) -> bytes:
    return b"\xca" + imm(release, 2)


def to_control(n: int, register: str = "eax") -> bytes:
    """mov crN, register"""
    return bytes([0x0F, 0x22, 0xC0 | n << 3 | GPR.index(register)])


def to_debug(n: int, register: str = "eax") -> bytes:
    return bytes([0x0F, 0x23, 0xC0 | n << 3 | GPR.index(register)])


def from_control(n: int, register: str = "eax") -> bytes:
    return bytes([0x0F, 0x20, 0xC0 | n << 3 | GPR.index(register)])


def from_debug(n: int, register: str = "eax") -> bytes:
    return bytes([0x0F, 0x21, 0xC0 | n << 3 | GPR.index(register)])


def invlpg(address: int) -> bytes:
    return b"\x0f\x01\x3d" + imm(address)


def system(field: int, register: str = "eax") -> bytes:
    """Group 6 on a register: sldt str lldt ltr verr verw."""
    return bytes([0x0F, 0x00, 0xC0 | field << 3 | GPR.index(register)])


def table(field: int, address: int) -> bytes:
    """Group 7 on memory: sgdt sidt lgdt lidt."""
    return bytes([0x0F, 0x01, field << 3 | 5]) + imm(address)


def descriptor(base: int, limit: int, access: int, flags: int = 0xC) -> bytes:
    """flags: G, B/D, 0, AVL; limit in units of G."""
    low = limit & 0xFFFF | (base & 0xFFFF) << 16
    high = base >> 16 & 0xFF | access << 8 | limit & 0xF0000 | flags << 20 | base & 0xFF000000
    return imm(low) + imm(high)


def gate(selector: int, offset: int, kind: int, dpl: int = 0, present: bool = True, params: int = 0) -> bytes:
    low = selector << 16 | offset & 0xFFFF
    return imm(low) + imm(offset & 0xFFFF0000 | present << 15 | dpl << 13 | kind << 8 | params)


@dataclass(frozen=True)
class Frame:
    """What delivery pushed, and on which stack."""

    vector: int
    error: int | None
    eip: int
    cs: int
    eflags: int
    esp: int | None  # None: no change of privilege
    ss: int | None
    at: int  # address of the lowest word


class Guest:
    """Ring 0 code at CODE with tables of its own, reached by guest code from where a fresh machine starts."""

    def __init__(self, kprobes: str | None = None, cpu: str = "p4") -> None:
        self.m = Machine(memory=MEMORY, kprobes=kprobes, cpu=cpu)
        for selector, access in ((K_CS, CODE_RX), (K_DS, DATA_RW), (CONFORMING, CODE_CONFORMING)):
            self.descriptor(selector, 0, 0xFFFFF, access)
        for ring, code, data in ((3, U_CS, U_DS), (1, R1_CS, R1_DS)):
            self.descriptor(code, 0, 0xFFFFF, CODE_RX | ring << 5)
            self.descriptor(data, 0, 0xFFFFF, DATA_RW | ring << 5)
        self.descriptor(TSS_SELECTOR, TSS, 0x67, TSS32, 0)
        self.descriptor(LDT_SELECTOR, LDT, LDT_END - 1, LDT_TYPE, 0)
        self.descriptor(CODE16, 0, 0xFFFFF, CODE_RX, 0x8)
        self.descriptor(LDT_CODE, 0, 0xFFFFF, CODE_RX)
        self.descriptor(LDT_DATA, 0, 0xFFFFF, DATA_RW)
        self.stack_of_ring(0, K_DS)
        self.stack_of_ring(1, R1_DS)
        self.m.memory.write(TSS + 0x66, imm(0x68, 2))
        for vector in range(256):
            self.gate(vector)
            self.m.memory.write(self.handler(vector), b"\xf4\xeb\xfd")  # hlt; jmp back to it
            self.m.memory.write(OUTER_HANDLERS + 16 * vector, b"\xeb\xfe")  # jmp to itself
        self.gate(DONE, dpl=3)
        self._boot()

    def _boot(self) -> None:
        m = self.m
        m.memory.write(DATA, imm(GDT_END - 1, 2) + imm(GDT) + imm(0, 2) + imm(256 * 8 - 1, 2) + imm(IDT))
        start = table(2, DATA) + table(3, DATA + 8) + far_jmp(K_CS, CODE + 0x100)
        m.memory.write(CODE, start)
        segments = mov("eax", K_DS) + b"".join(mov_sreg(name) for name in ("es", "ds", "fs", "gs", "ss"))
        rest = segments + mov("eax", TSS_SELECTOR) + system(3) + mov("eax", LDT_SELECTOR) + system(2)
        m.memory.write(CODE + 0x100, rest)
        m.regs.eip = CODE
        assert m.run(until=CODE + 0x100 + len(rest), max_instructions=100).reason is StopReason.UNTIL
        assert (m.regs.cs, m.regs.ss, m.regs.tr, m.regs.ldtr) == (K_CS, K_DS, TSS_SELECTOR, LDT_SELECTOR)
        m.memory.fill(CODE, 0x200)
        m.memory.fill(DATA, 16)
        m.regs.esp = STACKS[0]
        m.regs.eflags = FIXED
        m.regs.eax = 0
        self.code_end = CODE

    # Tables

    @staticmethod
    def handler(vector: int) -> int:
        return HANDLERS + 16 * vector

    def descriptor(self, selector: int, base: int, limit: int, access: int, flags: int = 0xC) -> None:
        self.m.memory.write((LDT if selector & 4 else GDT) + (selector & ~7), descriptor(base, limit, access, flags))

    def access_byte(self, selector: int) -> int:
        return self.m.memory.u8((LDT if selector & 4 else GDT) + (selector & ~7) + 5)

    def gate(
        self,
        vector: int,
        kind: int = INT32,
        dpl: int = 0,
        selector: int = K_CS,
        offset: int | None = None,
        present: bool = True,
    ) -> None:
        where = self.handler(vector) if offset is None else offset
        self.m.memory.write(IDT + 8 * vector, gate(selector, where, kind, dpl, present))

    def call_gate(
        self, selector: int, target: int, offset: int = CODE + 0x800, kind: int = CALL32, dpl: int = 3, params: int = 0
    ) -> None:
        self.m.memory.write(GDT + (selector & ~7), gate(target, offset, kind, dpl, params=params))

    def stack_of_ring(self, ring: int, selector: int, esp: int | None = None) -> None:
        self.m.memory.write(TSS + 4 + 8 * ring, imm(STACKS[ring] if esp is None else esp) + imm(selector))

    def code16(self, vectors: range = range(256), base: int = HANDLERS) -> None:
        """Gates of 16 bits: handlers have to lie below 64 KiB in a segment of their own."""
        self.descriptor(SPARE3, base, 0xFFFFF, CODE_RX)
        for vector in vectors:
            self.gate(vector, INT16, 3, SPARE3, 16 * vector)

    # Running

    def enter(self, ring: int) -> None:
        """Go to a ring the way a debugger would."""
        if ring:
            code, data = (U_CS, U_DS) if ring == 3 else (R1_CS, R1_DS)
            self.m.regs.cs = code
            for name in ("ss", "ds", "es"):
                setattr(self.m.regs, name, data)
            self.m.regs.esp = STACKS[ring]

    def put(self, *parts: bytes, at: int = CODE) -> int:
        """Write code; the address of its last part, where a fault is expected."""
        self.m.memory.write(at, b"".join(parts))
        self.code_end = at + sum(map(len, parts))
        return self.code_end - len(parts[-1])

    def run(self, *parts: bytes, at: int = CODE, limit: int = 10000) -> Stop:
        self.put(*parts, at=at)
        self.m.regs.eip = at
        return self.m.run(max_instructions=limit)

    def vector(self) -> int:
        """Whose handler the CPU is in."""
        eip = self.m.regs.eip
        assert HANDLERS <= eip < OUTER_HANDLERS + 0x1000, f"no handler at {eip:#x}: {self.m.regs}"
        return eip - HANDLERS >> 4 & 0xFF

    def frame(self, error: bool = False, size: int = 4) -> Frame:
        """The frame on top of the stack, read in units of `size` bytes."""
        m = self.m
        at = m.regs.esp
        words = [int.from_bytes(m.memory.read(at + i * size, size), "little") for i in range(6)]
        code = words.pop(0) if error else None
        eip, cs, flags, esp, ss = words[:5]
        inner = cs & 3 > m.regs.cpl
        return Frame(self.vector(), code, eip, cs, flags, esp if inner else None, ss if inner else None, at)

    def fault(self, *parts: bytes, vector: int, error: int | None = None, ring: int = 0) -> Frame:
        """The last part must raise this exception, and nothing before it; the frame."""
        self.enter(ring)
        esp = None
        where = self.put(*parts)
        self.m.regs.eip = CODE
        if where > CODE:
            stop = self.m.run(until=where, max_instructions=10000)
            assert (stop.reason, stop.eip) == (StopReason.UNTIL, where), stop
        before, esp = self.m.icount, self.m.regs.esp
        stop = self.m.run(max_instructions=100)
        frame = self.frame(error is not None)
        assert (frame.vector, frame.error) == (vector, error), f"{self.describe(frame)} {stop}"
        assert frame.eip == where
        if stop.reason is StopReason.HALT:
            assert stop.icount == before + 1  # the HLT of the handler; nothing for what faulted
            size = (12 if frame.esp is None else 20) + (4 if error is not None else 0)
            assert frame.at == (esp if frame.esp is None else STACKS[0]) - size
        return frame

    def passes(self, *parts: bytes, ring: int = 0) -> Frame:
        """All of it must run without a fault; the frame of the interrupt behind it."""
        self.enter(ring)
        self.run(*parts, interrupt(DONE))
        assert self.vector() == DONE, self.describe(self.frame(True))
        return self.frame()

    @staticmethod
    def describe(frame: Frame) -> str:
        return f"vector {frame.vector}, first word {frame.error or 0:#x}, then {frame.eip:#x} {frame.cs:#x}"
