"""Processor models: what each has works, and what it has not is undefined or reserved, as CPUID tells."""

from __future__ import annotations

import pytest

from pykprobes import Machine, StopReason

from .guest_code import *

MODELS = ("386", "486", "pentium", "ppro", "p3", "p4")
SINCE: dict[str, tuple[str, ...]] = {
    "386": ("0f20c0", "0fa3c0", "0fbcc1", "0fafc1", "d9e8", "9b", "0f90c0", "0fa5c0", "0f06", "dbe3"),
    # bswap xadd xadd cmpxchg cmpxchg invlpg invd wbinvd
    "486": ("0fc8", "0fcf", "0fc0c1", "0fc1c1", "0fb0c1", "0fb1c1", "0f0138", "0f08", "0f09"),
    # rdtsc rdmsr wrmsr cmpxchg8b cpuid mov-from-cr4 mov-to-cr4
    "pentium": ("0f31", "0f32", "0f30", "0fc708", "0fa2", "0f20e0", "0f22e0"),
    # cmovs fcmovs fcomi and its kin, nop with an operand, rdpmc
    "ppro": ("0f40c1", "0f4fc1", "dac1", "dad9", "dbc1", "dbd9", "dbe9", "dbf1", "dfe9", "dff1", "0f1f00", "0f1800",
             "0f33"),
    # sysenter sysexit; MMX; what SSE adds to MMX; SSE; fxsave fxrstor ldmxcsr stmxcsr sfence
    "p3": ("0f34", "0f35", "0ffcc1", "0f6fc1", "0f6f00", "0f7ec0", "0f77", "0f71d101", "0f60c1",
           "0f70c100", "0fe0c1", "0fdac1", "0fc4c001", "0fc5c001", "0fd7c1", "0ff6c1", "0fe700", "0ff7c1",
           "0f10c1", "f30f10c1", "0f28c1", "0f57c1", "0fc6c100", "0f50c1", "0f2b00", "0f16c1",
           "0fae00", "0fae08", "0fae10", "0fae18", "0faef8"),
    # SSE2, on MMX registers too; lfence mfence clflush movnti
    "p4": ("660ffcc1", "0fd4c1", "0ffbc1", "0ff4c1", "660f6fc1", "f30f6fc1", "660f70c100", "f20f70c100", "660f73d901",
           "f20f10c1", "660f28c1", "660f57c1", "f30fd6c1", "f20fd6c1", "f30f7ec1", "660f6ec0", "660f7ec0", "660fe700",
           "660ff7c1", "660fc6c100", "660f50c1", "0faee8", "0faef0", "0fae38", "0fc300"),
}  # fmt: skip
NEVER = ("f20f12c1", "660f7cc1", "f20ff000", "660fd0c1", "660f3800c1", "660f3a0fc100", "f30fb8c1", "0fae20")
FEATURES = {
    "386": None,
    "486": None,
    "pentium": (0, 2, 3, 4, 5, 8),
    "ppro": (0, 2, 3, 4, 5, 6, 8, 13, 15),
    "p3": (0, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 23, 24, 25),
    "p4": (0, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 19, 23, 24, 25, 26),
}
SIGNATURES = {"386": 0x308, "486": 0x404, "pentium": 0x525, "ppro": 0x619, "p3": 0x673, "p4": 0xF24}
CR4 = {"pentium": 0x1C, "ppro": 0x1BC, "p3": 0x7BC, "p4": 0x7BC}
CR0_486 = 0x60050020  # CD NW AM WP NE


def has(model: str, since: str) -> bool:
    return MODELS.index(model) >= MODELS.index(since)


def run(model: str, code: str) -> int:
    """The vector that an instruction raises in ring 0, DONE if none."""
    g = Guest(cpu=model)
    g.m.regs.cr0 &= ~8
    g.m.regs.eax = g.m.regs.edi = DATA
    g.m.memory.write(DATA, bytes(24) + imm(0x1F80) + bytes(500))
    g.run(bytes.fromhex(code), interrupt(DONE))
    return g.vector()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("since", "code"), [(since, code) for since, codes in SINCE.items() for code in codes])
def test_instructions(model: str, since: str, code: str) -> None:
    vector = run(model, code)
    if not has(model, since):
        assert vector == INVALID
    elif code in ("0f32", "0f30", "0f33", "0f34", "0f35", "0f22e0"):
        assert vector == PROTECTION  # no such MSR or counter, no SYSENTER_CS, reserved bits
    else:
        assert vector == DONE


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("code", NEVER)
def test_what_came_later(model: str, code: str) -> None:
    assert run(model, code) == INVALID


@pytest.mark.parametrize("model", MODELS)
def test_reset(model: str) -> None:
    with Machine(memory=MEMORY, kernel=None, cpu=model) as m:
        assert (m.regs.edx, m.regs.cr4) == (SIGNATURES[model], 0)
        assert m.regs.cr0 == (0x10 if model == "386" else 0x60000010)


@pytest.mark.parametrize("model", MODELS[2:])
def test_cpuid(model: str) -> None:
    g = Guest(cpu=model)
    features = FEATURES[model]
    assert features
    leaves = 1 if model == "pentium" else 2
    seen = []
    for leaf in (0, 1, leaves, leaves + 5, 0x80000000, 0x80000008):
        g.m.regs.esp = STACKS[0]
        g.passes(mov("eax", leaf), b"\x0f\xa2")
        seen.append((g.m.regs.eax, g.m.regs.ebx, g.m.regs.ecx, g.m.regs.edx))
    assert seen[0] == (leaves, 0x756E6547, 0x6C65746E, 0x49656E69)
    line = 0x800 if model == "p4" else 0
    assert seen[1] == (SIGNATURES[model], line, 0, sum(1 << n for n in features))
    assert seen[3] == seen[2]
    if model == "pentium":
        assert seen[4] == seen[5] == seen[1]
    else:
        assert (seen[4][0], seen[5][0]) == (0x80000008, 0x2020)


@pytest.mark.parametrize("model", MODELS[2:])
@pytest.mark.parametrize("bit", range(32))
def test_bits_of_cr4(model: str, bit: int) -> None:
    g = Guest(cpu=model)
    parts = (mov("eax", 1 << bit), to_control(4))
    if CR4[model] >> bit & 1 and bit != 5:
        g.passes(*parts)
        assert g.m.regs.cr4 == 1 << bit
    else:  # PAE finds no pointers here
        g.fault(*parts, vector=PROTECTION, error=0)


@pytest.mark.parametrize("model", MODELS)
def test_bits_of_cr0(model: str) -> None:
    g = Guest(cpu=model)
    g.passes(mov("eax", 0xFFFFFFFF & ~0x20000000), to_control(0), from_control(0, "ecx"))
    extra = 0 if model == "386" else CR0_486 & ~0x20000000
    assert g.m.regs.cr0 == g.m.regs.ecx == 0x8000001F | extra


@pytest.mark.parametrize("model", MODELS)
def test_bits_of_eflags(model: str) -> None:
    """The tests by which programs tell a 386 from a 486 (AC) and from what has CPUID (ID)."""
    g = Guest(cpu=model)
    frame = g.passes(push(FIXED | AC | ID), POPF, PUSHF, b"\x59")
    wanted = (AC if has(model, "486") else 0) | (ID if has(model, "pentium") else 0)
    assert g.m.regs.ecx & (AC | ID) == frame.eflags & (AC | ID) == wanted
    g.m.regs.esp = STACKS[0]
    before = g.m.regs.eflags
    for flag in (AC, ID):
        if wanted & flag:
            g.m.regs.eflags = FIXED | flag
        else:
            with pytest.raises(ValueError, match="eflags"):
                g.m.regs.eflags = FIXED | flag
            assert g.m.regs.eflags == before
        before = g.m.regs.eflags


@pytest.mark.parametrize("model", MODELS)
def test_the_built_in_kernel_runs_on_each(model: str) -> None:
    with Machine(memory=MEMORY, cpu=model) as m:
        m.load(bytes.fromhex("d9e8 d9e8 dec1 db5c2404 8b442404 c3"), at=CODE)
        assert m.call(CODE) == 2
        assert m.regs.cr4 == (0x600 if has(model, "p3") else 0)
        m.memory.write(CODE, UD2)
        m.regs.eip = CODE
        stop = m.run()
        assert (stop.reason, stop.vector) == (StopReason.TRAP, INVALID)


@pytest.mark.parametrize("cpu", ["p5", "", None, 386, "P4"])
def test_bad_names(cpu: object) -> None:
    with pytest.raises(ValueError, match="'386', '486', 'pentium', 'ppro', 'p3', 'p4'"):
        Machine(memory=MEMORY, cpu=cpu)  # type: ignore[arg-type]


def test_cpuid_of_the_model_is_what_runs() -> None:
    assert [Machine(memory=MEMORY, cpu=name).cpu_model for name in MODELS] == list(MODELS)
    assert Machine(memory=MEMORY).cpu_model == "p4"
