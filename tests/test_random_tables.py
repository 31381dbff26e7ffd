"""Random descriptor tables, task state segments and page tables: whatever comes of them, it comes the same way in one
run and in single instructions, ends, and harms nothing outside the guest."""

from __future__ import annotations

import random

import pytest

from pykprobes import Machine, MemoryFault, StopReason

from .guest_code import *

SELECTORS = [K_CS, K_DS, U_CS, U_DS, R1_CS, R1_DS, CONFORMING, TSS_SELECTOR, LDT_SELECTOR, CODE16]
SELECTORS += [SPARE, SPARE2, SPARE3, GDT_END, LDT_CODE, LDT_DATA, LDT_END | 4, 0, 3]
ACCESSES = [DATA_RW, CODE_RX, DATA_RO, DOWN_RW, CODE_CONFORMING, CODE_X, 0x81, 0x83, 0x89, 0x8B, 0x82, 0x85, 0x84, 0x8C]
ENDS = {StopReason.LIMIT, StopReason.HALT, StopReason.SHUTDOWN}
LIMIT = 400


def selector(r: random.Random) -> int:
    return r.choice(SELECTORS) ^ (r.randrange(4) if r.random() < 0.3 else 0)


def entry(r: random.Random) -> bytes:
    access = r.choice(ACCESSES) | r.choice((0, 0, 0x60)) ^ (0x80 if r.random() < 0.1 else 0)
    if access & 0x1F in (5, 4, 12):
        offset = r.choice((CODE, CODE + 0x40, 0x123456))
        return gate(selector(r), offset, access & 0x1F, access >> 5 & 3, True, r.randrange(4))
    system = not access & 0x10
    base = r.choice((TSS, TSS + 0x400, TSS + 0xFC0, TABLES, LDT, GDT)) if system else r.choice((0, 0, 0, DATA))
    limit = r.choice((0x67, 0x2B, 0x66, 0xFFFF)) if system else r.choice((0xFFFFF, 0xFFFFF, 0x3F))
    return descriptor(base, limit, access, 0 if system else r.choice((0xC, 0xC, 0x4, 0x0)))


def tss(r: random.Random, cr3: int) -> bytes:
    """A 32-bit one, mostly good."""
    good = [selector(r), STACKS[0], K_DS, STACKS[1], R1_DS, 0, 0, cr3, CODE]
    good += [FIXED | r.choice((0, IF, TF, NT, VM))]
    good += [r.getrandbits(32) for _ in range(4)] + [STACKS[r.choice((0, 1, 3))]]
    good += [r.getrandbits(16) for _ in range(3)]
    ring = r.choice((0, 0, 3))
    data = U_DS if ring else K_DS
    good += [data, U_CS if ring else K_CS, data, data, 0, 0, LDT_SELECTOR, r.randrange(2) | 0x680000]
    for _ in range(r.randrange(3)):
        good[r.randrange(len(good))] = r.choice((selector(r), r.getrandbits(32), TABLES))
    return b"".join(imm(word) for word in good)


def instruction(r: random.Random) -> bytes:
    load = mov("eax", selector(r))
    choices = [
        far_jmp(selector(r), CODE), far_call(selector(r), CODE), interrupt(r.randrange(0x40, 0x44)), IRET, RETF,
        INT3, UD2,
        load + mov_sreg(r.choice(("ds", "es", "fs", "gs", "ss"))), load + system(3), load + system(2), NOP, STI, PUSHF,
        push(selector(r), CODE), push(FIXED | r.choice((NT, IF, TF, VM))) + POPF, b"\x0f\x34", b"\x0f\x35",
        from_control(3) + to_control(3), store_imm(TABLES + 4 * r.randrange(0x800), r.getrandbits(32)), invlpg(DATA),
    ]  # fmt: skip
    return r.choice(choices)


def build(seed: int) -> Guest:
    r = random.Random(seed)
    g = Guest()
    m = g.m
    if seed % 3 == 0:
        m.memory.write(TABLES, imm((TABLES + 0x1000) | 7) + bytes(4092))
        m.memory.write(TABLES + 0x1000, b"".join(imm(n << 12 | r.choice((7,) * 40 + (0, 5, 3))) for n in range(1024)))
    cr3 = m.regs.cr3 if seed % 3 else TABLES
    for _ in range(r.randrange(1, 8)):
        m.memory.write(GDT + (r.choice(SELECTORS[:13]) & ~7), entry(r))
    for at in (TSS, TSS + 0x400, TSS + 0xFC0):
        m.memory.write(at, tss(r, cr3))
    for vector in [*range(0x40, 0x44), *range(16)]:
        if r.random() < 0.5:
            kind, offset = r.choice((INT32, TRAP32, INT16, TASK, CALL32)), r.choice((CODE, CODE + 0x20))
            m.memory.write(IDT + 8 * vector, gate(selector(r), offset, kind, r.choice((0, 3, 3))))
    m.memory.write(CODE, b"".join(instruction(r) for _ in range(30)) + HLT)
    m.regs.eip = CODE
    m.regs.cr3 = cr3
    return g


def view(m: Machine, at: int) -> bytes | None:
    try:
        return m.memory.read(at, 0x1000)
    except MemoryFault:
        return None


def outcome(m: Machine) -> tuple[object, ...]:
    return dict(m.regs), [view(m, at) for at in range(GDT, 0x70000, 0x1000)]


@pytest.mark.parametrize("block", range(8))
def test_one_run_and_single_instructions_agree(block: int) -> None:
    for seed in range(40 * block, 40 * block + 40):
        whole, steps = build(seed).m, build(seed).m
        start = whole.icount
        stop = whole.run(max_instructions=LIMIT)
        assert stop.reason in ENDS, (seed, stop)
        assert whole.icount - start <= LIMIT
        for _ in range(LIMIT):
            single = steps.run(max_instructions=1)
            if single.reason is not StopReason.LIMIT:
                break
        assert (stop.reason, stop.eip, stop.vector) == (single.reason, single.eip, single.vector), seed
        assert whole.icount == steps.icount, seed
        assert outcome(whole) == outcome(steps), seed
        whole.close()
        steps.close()
