"""Code that changes: what runs is always what is in memory now, at the linear address now."""

from __future__ import annotations

import pytest

from pykprobes import StopReason

from .guest_code import *

DIRECTORY, TABLE = TABLES, TABLES + 0x1000
FAR, FAR2 = 0x400000, 0x401000
PAGE_A, PAGE_B = DATA, DATA + 0x1000
INC_EBX, DEC_EBX, INC_ESI = b"\x43", b"\x4b", b"\x46"


@pytest.fixture
def g() -> Guest:
    return Guest()


def store_byte(address: int, value: int) -> bytes:
    return b"\xc6\x05" + imm(address) + bytes([value])


def counted(g: Guest, *parts: bytes) -> int:
    """Run to the end; the instructions retired, without the INT and its handler's HLT."""
    start = g.m.icount
    g.passes(*parts)
    return g.m.icount - start - 2


STORES = {
    "byte": lambda at, new: store_byte(at, new[0]),
    "word": lambda at, new: O16 + b"\xc7\x05" + imm(at) + (new + NOP)[:2],
    "register": lambda at, new: mov("eax", new[0]) + b"\xa2" + imm(at),
    "alu": lambda at, new: b"\x80\x35" + imm(at) + bytes([INC_EBX[0] ^ new[0]]),  # xor
    "xchg": lambda at, new: mov("eax", new[0]) + b"\x86\x05" + imm(at),
    "stosb": lambda at, new: mov("edi", at) + mov("eax", new[0]) + b"\xaa",
    "bts": lambda at, new: b"\x0f\xba\x2d" + imm(at) + b"\x03",  # 43h becomes 4Bh
    "push": lambda at, new: (
        b"\x87\xe5" + mov("esp", at + 4) + push(int.from_bytes(new + NOP * 3, "little")) + b"\x87\xe5"
    ),
}


@pytest.mark.parametrize("how", STORES)
def test_a_store_into_the_next_instruction(g: Guest, how: str) -> None:
    make = STORES[how]
    length = len(make(0, DEC_EBX))
    count = counted(g, make(CODE + length, DEC_EBX), INC_EBX, NOP, NOP, NOP)
    assert g.m.regs.ebx == 0xFFFFFFFF
    instructions = {"register": 2, "xchg": 2, "stosb": 3, "push": 4}.get(how, 1)
    assert count == instructions + 4
    assert g.m.regs.esp == STACKS[0] - 12


@pytest.mark.parametrize("distance", [0, 1, 5, 30, 60, 70])
def test_a_store_further_on_in_the_running_block(g: Guest, distance: int) -> None:
    store = store_byte(CODE + 7 + distance, DEC_EBX[0])
    assert counted(g, store, NOP * distance, INC_EBX) == distance + 2
    assert g.m.regs.ebx == 0xFFFFFFFF


def test_a_store_behind_in_the_running_block(g: Guest) -> None:
    """A loop whose body is rewritten by itself after each turn."""
    body = INC_EBX + store_byte(CODE + 5, INC_ESI[0]) + b"\xe2\xf6"
    g.passes(mov("ecx", 10), body)
    assert (g.m.regs.ebx, g.m.regs.esi) == (1, 9)


def test_a_store_into_itself_takes_effect_the_next_time(g: Guest) -> None:
    """mov byte [its own immediate], 1: the instruction that runs is the old one."""
    code = b"\xc6\x05" + imm(CODE + 5 + 6) + b"\x01"
    g.passes(mov("ecx", 3), code, b"\xe2" + bytes([256 - 9]))
    assert g.m.memory.u8(CODE + 11) == 1


def test_a_part_of_an_instruction(g: Guest) -> None:
    """Its immediate is counted up by the loop that uses it."""
    loop = b"\x81\xc3" + imm(1) + b"\xff\x05" + imm(CODE + 7) + b"\xe2" + bytes([256 - 14])
    assert counted(g, mov("ecx", 5), loop) == 1 + 15
    assert g.m.regs.ebx == 1 + 2 + 3 + 4 + 5


def test_another_block_on_the_same_page(g: Guest) -> None:
    function = CODE + 0x100
    g.m.memory.write(function, INC_EBX + RET)
    call = b"\xe8" + imm(function - CODE - 5)
    again = b"\xe8" + imm(function - CODE - 17)
    assert counted(g, call, store_byte(function, INC_ESI[0]), again) == 7
    assert (g.m.regs.ebx, g.m.regs.esi) == (1, 1)


@pytest.mark.parametrize("at", [0xFFD, 0xFFE, 0xFFF, 0x1000, 0x1001])
def test_a_block_that_crosses_a_page_end(g: Guest, at: int) -> None:
    """add ebx, imm32 at 0xFFC of a page: any of its bytes may change."""
    start = DATA + 0xFFC
    code = b"\x81\xc3" + imm(0x01010101) + RET
    g.m.memory.write(start, code)
    call = mov("eax", start) + b"\xff\xd0"
    value = int.from_bytes(code[2:6], "little")
    index = at - 0xFFC
    new = {0xFFD: 0xC6}.get(at, 2)  # the ModRM byte: esi instead
    g.passes(call, store_byte(DATA + at, new), call, call)
    changed = code[:index] + bytes([new]) + code[index + 1 :]
    other = int.from_bytes(changed[2:6], "little")
    if at == 0xFFD:
        assert (g.m.regs.ebx, g.m.regs.esi) == (value, 2 * value)
    else:
        assert g.m.regs.ebx == value + 2 * other & 0xFFFFFFFF


def test_a_chain_of_blocks_over_a_page_end(g: Guest) -> None:
    """A loop whose two halves lie on two pages; the second one's page changes."""
    first = DATA + 0x1000 - 3
    code = INC_EBX + b"\x90\x90" + INC_ESI + b"\xe2\xfa" + RET
    g.m.memory.write(first, code)
    call = mov("ecx", 500) + mov("eax", first) + b"\xff\xd0"
    g.passes(call, store_byte(DATA + 0x1000, DEC_EBX[0]), call)
    assert (g.m.regs.ebx, g.m.regs.esi) == (500, 500)


def test_a_rep_movs_over_its_own_successors(g: Guest) -> None:
    new = INC_ESI * 8
    g.m.memory.write(DATA, new)
    setup = mov("esi", DATA) + mov("edi", CODE + 17) + mov("ecx", 8)
    g.passes(setup, b"\xf3\xa4", INC_EBX * 8)
    assert (g.m.regs.ebx, g.m.regs.esi) == (0, DATA + 16)


def test_a_rep_stos_over_the_instruction_itself(g: Guest) -> None:
    """From its own bytes on: what is left of it by then decides how it goes on (here NOPs: it ends)."""
    g.put(mov("eax", 0x90), mov("edi", CODE + 15), mov("ecx", 20), b"\xf3\xaa", INC_EBX * 18, interrupt(DONE))
    g.m.regs.eip = CODE
    stop = g.m.run(max_instructions=100)
    assert stop.reason is StopReason.HALT
    assert g.vector() == DONE
    assert g.m.regs.ecx in (0, 18, 19)  # real CPUs may finish iterations that they began
    assert g.m.memory.read(CODE + 15, 20 - g.m.regs.ecx) == NOP * (20 - g.m.regs.ecx)


def test_a_handler_that_changes_the_code_it_returns_to(g: Guest) -> None:
    g.m.memory.write(CODE + 0x1000, store_byte(CODE + 2, DEC_EBX[0]) + IRET)
    g.gate(0x40, offset=CODE + 0x1000)
    g.passes(interrupt(0x40), INC_EBX)
    assert g.m.regs.ebx == 0xFFFFFFFF


def test_a_trap_frame_pushed_over_code(g: Guest) -> None:
    """The stack lies in the code that comes next."""
    target = CODE + 0x100
    g.m.memory.write(target, INC_EBX * 12)
    g.gate(0x40, offset=CODE + 0x1000)
    g.m.memory.write(CODE + 0x1000, mov("esp", STACKS[0]) + b"\xe9" + imm(target - (CODE + 0x100A)))
    jump = b"\xe8" + imm(target - CODE - 5)
    g.m.memory.write(target + 12, RET)
    g.run(jump, mov("esp", target + 12), interrupt(0x40))
    assert g.m.memory.read(target, 12) == imm(CODE + 12) + imm(K_CS) + imm(FIXED | PF)
    assert g.m.regs.ebx == 12  # the frame is no INC


def test_memory_written_from_python(g: Guest) -> None:
    g.put(INC_EBX, b"\xeb\xfd")
    g.m.regs.eip = CODE
    g.m.run(max_instructions=200)
    assert g.m.regs.ebx == 100
    g.m.memory.write(CODE, DEC_EBX)
    g.m.run(max_instructions=200)
    assert g.m.regs.ebx == 0


# Two addresses for one page, and two pages for one address


def paged(g: Guest) -> None:
    entries = [n << 12 | 7 for n in range(MEMORY >> 12)]
    g.m.memory.write(TABLE, b"".join(imm(e) for e in entries))
    g.m.memory.write(DIRECTORY, imm(TABLE | 7) + imm((TABLE + 0x1000) | 7))
    g.m.memory.write(TABLE + 0x1000, imm(PAGE_A | 7) + imm(PAGE_A | 7))
    g.m.regs.cr3 = DIRECTORY


def call_far(address: int) -> bytes:
    return mov("eax", address) + b"\xff\xd0"


@pytest.mark.parametrize("through", [PAGE_A, FAR, FAR2])
def test_code_aliased_at_two_addresses(g: Guest, through: int) -> None:
    paged(g)
    g.m.memory.write(PAGE_A, INC_EBX + RET)
    calls = call_far(FAR) + call_far(FAR2)
    g.passes(calls, store_byte(through, INC_ESI[0]), calls)
    assert (g.m.regs.ebx, g.m.regs.esi) == (2, 2)


def test_aliased_code_keeps_its_own_eip(g: Guest) -> None:
    paged(g)
    g.m.memory.write(PAGE_A, b"\xe8\x00\x00\x00\x00\x5b" + RET)  # call next; pop ebx
    for address in (FAR, FAR2, FAR):
        g.m.regs.esp = STACKS[0]
        g.passes(call_far(address))
        assert g.m.regs.ebx == address + 5


def test_a_running_block_written_through_its_alias(g: Guest) -> None:
    paged(g)
    g.m.memory.write(PAGE_A, store_byte(FAR2 + 7, DEC_EBX[0]) + INC_EBX + RET)
    g.passes(call_far(FAR))
    assert g.m.regs.ebx == 0xFFFFFFFF


@pytest.mark.parametrize("flush", [invlpg(FAR), from_control(3, "edx") + to_control(3, "edx")])
@pytest.mark.parametrize("turns", [1, 100])
def test_a_remapped_page_changes_what_runs(g: Guest, flush: bytes, turns: int) -> None:
    paged(g)
    g.m.memory.write(PAGE_A, INC_EBX + RET)
    g.m.memory.write(PAGE_B, INC_ESI + RET)
    entry = TABLE + 0x1000
    swap = b"\x81\x35" + imm(entry) + imm(PAGE_A ^ PAGE_B)  # xor dword [entry], ...
    body = call_far(FAR) + swap + flush
    g.passes(mov("ecx", turns), body, b"\x49\x0f\x85" + imm(-(len(body) + 7)))
    assert (g.m.regs.ebx, g.m.regs.esi) == ((turns + 1) // 2, turns // 2)


def test_a_remapped_second_page_of_an_instruction(g: Guest) -> None:
    paged(g)
    code = b"\x81\xc3" + imm(0x01010101) + RET
    g.m.memory.write(PAGE_A + 0xFFC, code[:4])
    g.m.memory.write(DATA + 0x3000, code[4:])
    g.m.memory.write(DATA + 0x4000, b"\x02\x02" + RET)
    g.m.memory.write(TABLE + 0x1004, imm((DATA + 0x3000) | 7))
    remap = store_imm(TABLE + 0x1004, (DATA + 0x4000) | 7) + invlpg(FAR2)
    g.passes(call_far(FAR + 0xFFC), remap, call_far(FAR + 0xFFC))
    assert g.m.regs.ebx == 0x01010101 + 0x02020101


def test_an_unmapped_page_stops_running(g: Guest) -> None:
    paged(g)
    g.m.memory.write(PAGE_A, store_imm(TABLE + 0x1000, 0) + invlpg(FAR) + INC_EBX)
    g.run(call_far(FAR))
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip, g.m.regs.ebx) == (PAGE, 0, FAR + 17, 0)


def test_rights_of_code_are_looked_at_again_after_a_change(g: Guest) -> None:
    paged(g)
    g.m.memory.write(PAGE_A, interrupt(DONE))
    g.enter(3)
    g.run(call_far(FAR))
    assert g.vector() == DONE
    g.m.memory.write(TABLE + 0x1000, imm(PAGE_A | 3))
    g.m.regs.cr3 = DIRECTORY
    g.enter(3)
    g.run(call_far(FAR))
    frame = g.frame(True)
    assert (frame.vector, frame.error, frame.eip) == (PAGE, 5, FAR)


def test_the_same_bytes_in_another_mode_are_other_code(g: Guest) -> None:
    """In a 16-bit segment the immediate is a word."""
    g.descriptor(CODE16, 0, 0xFFFFF, CODE_RX, 0x8)
    g.m.memory.write(0x8000, b"\xb8\x01\x00\x43\x46" + interrupt(DONE))
    g.m.regs.eax = 0
    g.run(far_jmp(K_CS, 0x8000))
    assert (g.m.regs.eax, g.m.regs.ebx, g.m.regs.esi) == (0x46430001, 0, 0)
    g.m.regs.esp = STACKS[0]
    g.run(far_jmp(CODE16, 0x8000))
    assert (g.m.regs.eax, g.m.regs.ebx, g.m.regs.esi) == (0x46430001, 1, 1)
