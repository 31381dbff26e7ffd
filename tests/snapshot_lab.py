"""Machines that write and that modify themselves, for the tests of snapshots."""

from pykprobes import Machine, StopReason

CODE, DATA = 0x10000, 0x20000
# L: inc eax; mov [eax*4 + DATA], eax; and eax, 0xfff; jmp L
WRITER = b"\x40\x89\x04\x85" + DATA.to_bytes(4, "little") + b"\x25\xff\x0f\0\0\xeb\xf1"
# L: inc byte [L + 8]; mov eax, imm32 whose first byte is what inc changes; add ebx, eax; jmp L
MODIFIER = b"\xfe\x05" + (CODE + 7).to_bytes(4, "little") + b"\xb8\0\0\0\0\x01\xc3\xeb\xf1"


def make(code: bytes = WRITER, **options: object) -> Machine:
    machine = Machine(memory=1 << 20, **options)  # type: ignore[arg-type]
    machine.load(code, at=CODE)
    machine.regs.eip = CODE
    return machine


def steps(machine: Machine, n: int) -> None:
    assert machine.run(max_instructions=n).reason is StopReason.LIMIT


def paged_machine() -> Machine:
    """A bare machine in flat protected mode with page tables at 0x4000 and 0x5000; linear 0x7000 is frame 7."""
    m = Machine(memory=1 << 20, kernel=None)
    m.memory.write(0x1000, bytes(8) + b"\xff\xff\0\0\0\x9b\xcf\0" + b"\xff\xff\0\0\0\x93\xcf\0")
    m.regs.gdtr_base, m.regs.gdtr_limit = 0x1000, 0x17
    m.memory.write_u32(0x4000, 0x5003)
    for page in range(256):
        m.memory.write_u32(0x5000 + 4 * page, page << 12 | 3)
    m.regs.cr0 |= 1
    m.regs.cs = 8
    for name in ("ds", "es", "ss"):
        setattr(m.regs, name, 0x10)
    m.regs.cr3 = 0x4000
    m.regs.cr0 |= 0x80000000
    return m
