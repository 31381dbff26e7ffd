"""Systematic cases: every form, register and memory operands, both operand and address sizes, prefixes, faults."""

from __future__ import annotations

import random
from collections.abc import Iterator

from .case import ARITH, CODE, DATA, DF, IF, LOW, NT, REGIONS, STACK, STACK_TOP, Case
from .encode import (
    ADSIZE,
    CONDITIONS,
    FORMS,
    LOCK,
    LOCKABLE,
    OPSIZE,
    PRIVILEGED,
    REP,
    REPNE,
    SEGMENTS,
    STRINGS,
    UNDEFINED_OPCODES,
    Form,
    Insn,
    Mem,
    Ref,
    assemble,
    forms_named,
)
from .operands import EDGES, SELECTORS, flags, memory_operand, operand_size, value

END = "end"
NOP = Insn(forms_named("xchg")[-1], 0)
_DRAWS = {
    **dict.fromkeys("rol ror rcl rcr shl shr sar shld shrd".split(), 24),
    **dict.fromkeys("div idiv imul mul adc sbb".split(), 16),
    **dict.fromkeys("bt bts btr btc daa das aaa aas aam aad enter bound cmpxchg8b".split(), 16),
}
_FAR = ("les", "lds", "lss", "lfs", "lgs")


class Draft:
    """A case in the making."""

    def __init__(self, rng: random.Random, form: Form, prefixes: bytes) -> None:
        self.rng = rng
        self.form = form
        self.prefixes = prefixes
        self.regs = [value(rng) for _ in range(8)]
        self.regs[4] = STACK_TOP + rng.choice((0, 0, 0, 4, -4, 2, 1))
        self.eflags = flags(rng)
        self.patches: list[tuple[int, bytes]] = []
        self.address = -1
        self.origin = CODE + rng.choice((0x100, 0x101, 0xFF8, 0xFFC, 0xFFF))
        self.before: list[Insn] = []
        self.after: list[Insn] = []
        self.fields: dict[str, object] = {}

    @property
    def size(self) -> int:
        return 2 if OPSIZE in self.prefixes else 4

    def patch(self, address: int, *words: int, size: int = 4) -> None:
        """Words in memory, as far as there is memory."""
        data = b"".join((w & (1 << 8 * size) - 1).to_bytes(size, "little") for w in words)
        for region in (LOW, DATA, STACK):
            if region <= address and address + len(data) <= region + 0x2000:
                self.patches.append((address, data))

    def finish(self) -> Case:
        insn = Insn(self.form, prefixes=self.prefixes, **self.fields)  # type: ignore[arg-type]
        program = [*self.before, insn, *self.after]
        code, _ = assemble(program, self.origin, END)
        return Case(code, self.regs, self.eflags, self.origin, patches=self.patches, notes=program)


def _memory_content(d: Draft, size: int, reg: int) -> None:
    form = d.form
    if form.name in _FAR:
        selector = d.rng.choice(SELECTORS)
        d.patch(d.address, value(d.rng), size=size - 2)
        d.patch(d.address + size - 2, selector, size=2)
    elif form.name in ("lar", "lsl", "verr", "verw", "mov_to_seg"):
        d.patch(d.address, d.rng.choice(SELECTORS), size=2)
    elif form.name == "cmpxchg8b" and d.rng.random() < 0.6:
        d.patch(d.address, d.regs[0], d.regs[2])
    elif size in (1, 2, 4):
        d.patch(d.address, value(d.rng), size=size)
    elif form.name == "bound":
        index = d.regs[reg]
        d.patch(d.address, index - d.rng.choice((0, 1, 5, -1)), index + d.rng.choice((0, 1, 7, -1)), size=size // 2)


def _operands(d: Draft, in_memory: bool) -> None:
    """Draw ModRM operands and immediates."""
    rng, form = d.rng, d.form
    reg = rng.choice((0, 2, 3, 4, 5) if form.name == "mov_from_seg" else range(8))
    if form.name == "mov_to_seg":
        reg = rng.choice((0, 2, 3, 4, 5))
    if form.reg in ("Gv", "Gw") and reg == 4 and rng.random() < 0.8:
        reg = 0
    rm: int | Mem = rng.choice((0, 1, 2, 3, 3, 5, 6, 7, 4 if form.rm == "Eb" else 0))
    if in_memory:
        if form.name in ("bt", "bts", "btr", "btc") and form.reg and rng.random() < 0.9:
            d.regs[reg] = rng.randrange(-0x200, 0x200) & (0xFFFFFFFF if d.size == 4 else 0xFFFF)
        fixed = (4, reg) if form.reg else (4,)
        rm, d.address = memory_operand(rng, d.regs, form, d.prefixes, fixed)
        _memory_content(d, operand_size(form, d.size == 2), reg)
    elif form.name in ("lar", "lsl", "verr", "verw", "mov_to_seg"):
        rm = 0
        d.regs[0] = d.regs[0] & 0xFFFF0000 | rng.choice(SELECTORS)
    imm = value(rng)
    if form.operands and form.operands[0][0] == "O":
        imm = (LOW if ADSIZE in d.prefixes else DATA) + rng.randrange(0x1FFC)
    d.fields.update(reg=reg, rm=rm, imm=imm)
    if form.name == "mov_to_seg" and reg == 2:
        d.after.append(NOP)


def _dividend(d: Draft) -> None:
    if d.form.name in ("div", "idiv") and d.rng.random() < 0.7:
        d.regs[2] = d.rng.choice((0, 0, 1, 0xFFFFFFFF, d.rng.randrange(256)))
        d.regs[0] = d.rng.choice((value(d.rng), d.rng.randrange(0x8000)))


def _count(d: Draft) -> None:
    if "Ib" in d.form.operands and d.form.rm:
        d.fields["imm"] = d.rng.choice(
            (0, 1, 2, 7, 8, 9, 15, 16, 17, 18, 27, 31, 32, 33, 0x80, 0xFF, d.rng.randrange(256))
        )
    elif d.fields.get("rm") != 1:
        d.regs[1] = d.regs[1] & ~0xFF | d.rng.choice(
            (0, 1, 2, 7, 8, 9, 16, 17, 27, 31, 32, 33, 0xFF, d.rng.randrange(34))
        )


def _string(d: Draft) -> None:
    rng = d.rng
    low = ADSIZE in d.prefixes
    start = LOW if low else DATA
    for reg in (6, 7):
        address = start + rng.choice((0x800, 0x800, 0x803, 0xFFE, 0x1FF8, 0x1FFD, 2, 0))
        d.regs[reg] = address | (rng.getrandbits(16) << 16 if low else 0)
    if any(p in d.prefixes for p in (REP, REPNE)) or rng.random() < 0.2:
        d.regs[1] = rng.choice((0, 1, 2, 3, 5, 9)) | (rng.getrandbits(16) << 16 if low else 0)
    d.eflags = d.eflags & ~DF | (DF if rng.random() < 0.4 else 0)
    if rng.random() < 0.6:
        d.regs[0] = int.from_bytes(b"\xff" * 4 if rng.random() < 0.5 else bytes(4), "little")
        data = d.regs[0].to_bytes(4, "little") * 3
        d.patches.append((start + 0x800, data + b"\x5a"))
        d.patches.append((start + 0x7F8, data[:8]))


def _stack(d: Draft) -> None:
    rng, name = d.rng, d.form.name
    if rng.random() < 0.3:
        d.regs[4] = STACK + rng.choice((0, 2, 4, 8, 0x1C, 0x1FFC, 0x1FFE, 0x2000, 0x1FF0, 0x1000, 0x1002))
    if name == "leave":
        d.regs[5] = STACK_TOP + rng.choice((0, 0x40, 0x1000, 0xFFE, -2))
    if name == "enter":
        d.regs[5] = STACK_TOP + rng.choice((0x40, 0x80, 0x81, -0x1000))
        d.fields["imm2"] = rng.choice((0, 0, 1, 2, 3, 31, 33))
        d.fields["imm"] = rng.choice((0, 4, 8, 0x100, 0xFF0, 0x1008, 0xFFFF))
    if name == "popf":
        d.patch(d.regs[4], rng.getrandbits(32) & (ARITH | DF | IF | NT | 0x203000) | rng.choice((0, 2)), size=d.size)
    if name == "pop_seg":
        # whether the unused half of the slot is read is not said: not where it lies beyond the stack
        d.regs[4] = min(d.regs[4], STACK + 0x1FFC)
        d.patch(d.regs[4], rng.choice(SELECTORS), size=2)
        if d.form.opcode == b"\x17":
            d.after.append(NOP)
    if name == "push_seg":
        # newer processors leave the upper half of the slot alone where the Pentium Pro writes zero
        d.patch(d.regs[4] - 4, 0)


def _branch(d: Draft) -> None:
    rng, form = d.rng, d.form
    if OPSIZE in d.prefixes and rng.random() < 0.8:
        d.origin = LOW + rng.choice((0x100, 0xFF8, 0x801))
    rel = [o for o in form.operands if o[0] == "J"]
    body = [NOP] * rng.choice((1, 2, 5))
    if rel and rng.random() < 0.3:
        # backwards over code that ends the case by another way
        target = Insn(forms_named("jmp")[1], imm=Ref(END), key="back")
        d.before = [Insn(forms_named("jmp")[0], imm=Ref("insn")), target]
        d.fields.update(imm=Ref("back"), key="insn")
        d.after = body
        return
    d.after = body
    if rel:
        d.fields["imm"] = Ref(END)
    _transfer_operands(d)
    if form.name in ("loop", "loope", "loopne", "jcxz"):
        d.regs[1] = rng.choice((0, 1, 2, 0x10000, 0x10001, 0xFFFFFFFF))


def _transfer_operands(d: Draft) -> None:
    """Targets of indirect and far transfers: the end of the case, or somewhere bad."""
    rng, form = d.rng, d.form
    program = [Insn(form, prefixes=d.prefixes, **d.fields), *d.after]  # type: ignore[arg-type]
    end = d.origin + sum(len(i.encode()) for i in program)
    selector = rng.choice((0x23, 0x23, 0x23, 0x23, 0x2B, 0, 0xFFFF))
    if rng.random() < 0.1:
        end = rng.choice((0x50000000, 0, DATA - 1, 0xFFFFFFFF))
    if form.operands[:1] == ("Av",):
        d.fields.update(imm=end, imm2=selector)
    elif form.rm == "Ev" and isinstance(d.fields["rm"], int):
        d.regs[d.fields["rm"]] = end
    elif form.rm and d.address >= 0:
        d.patch(d.address, end, size=d.size)
        if form.rm == "Mp":
            d.patch(d.address + d.size, selector, size=2)
    elif form.name == "ret":
        d.patch(d.regs[4], end, size=d.size)
    elif form.name == "retf":
        d.patch(d.regs[4], end, selector, size=d.size)
    elif form.name == "iret":
        image = rng.getrandbits(12) & (ARITH | DF) | rng.choice((2, IF | 2, 0x200002))
        d.patch(d.regs[4], end, selector, image, size=d.size)


_BRANCHES = frozenset(
    [*("j" + cc for cc in CONDITIONS), *"jmp call ret loop loope loopne jcxz jmpf callf retf iret".split()]
)
_STACKERS = frozenset("push pop push_seg pop_seg pusha popa pushf popf enter leave ret call retf callf iret".split())


def _refine(d: Draft) -> None:
    name = d.form.name
    _dividend(d)
    if name in _DRAWS and _DRAWS[name] == 24:
        _count(d)
    if name in STRINGS:
        _string(d)
    if name in _STACKERS:
        _stack(d)
    if name in _BRANCHES:
        _branch(d)
    if name == "xlat":
        low = ADSIZE in d.prefixes
        d.regs[3] = (LOW if low else DATA) + d.rng.choice((0x100, 0x1000, 0x1F80))
    if name == "int":
        d.fields["imm"] = d.rng.choice((3, 4))
    if name == "cmpxchg" and d.rng.random() < 0.5 and d.address >= 0:
        d.patch(d.address, d.regs[0], size=min(4, operand_size(d.form, d.size == 2)))
    if name == "into" or name == "bound":
        d.after = [NOP]


def _prefix_sets(form: Form) -> list[bytes]:
    memory = form.rm != "" or (form.operands and form.operands[0][0] == "O") or form.name == "xlat"
    strings = form.name in STRINGS
    sizes = [b"", bytes([OPSIZE])] if form.sized else [b""]
    addresses = (
        [b"", bytes([ADSIZE])] if memory or strings or form.name in ("loop", "loope", "loopne", "jcxz") else [b""]
    )
    repeats = [b"", bytes([REP]), bytes([REPNE])] if strings else [b""]
    sets = [s + a + r for s in sizes for a in addresses for r in repeats]
    if memory or strings:
        sets += [bytes([p]) for p in SEGMENTS.values()]
    sets.append(bytes([LOCK]))
    return sets


def _draws(form: Form, prefixes: bytes, scale: float) -> int:
    if form.name in PRIVILEGED or form.name in ("ud", "int3", "int"):
        return 1
    few = LOCK in prefixes or (len(prefixes) == 1 and prefixes[0] in SEGMENTS.values())
    number = 3 if few else _DRAWS.get(form.name, 24 if form.name in STRINGS else 6)
    return max(1, round(number * scale))


def _case(rng: random.Random, form: Form, prefixes: bytes, in_memory: bool) -> Case:
    d = Draft(rng, form, prefixes)
    _operands(d, in_memory)
    _refine(d)
    return d.finish()


def form_cases(form: Form, scale: float = 1.0, seed: object = "") -> Iterator[Case]:
    """All cases of one form; with another seed other operands."""
    for prefixes in _prefix_sets(form):
        places = [True] if form.rm[:1] == "M" else [False, True] if form.rm[:1] == "E" else [False]
        if form.name == "ud" or (LOCK in prefixes and not (form.name in LOCKABLE and True in places)):
            places = places[:1]
        for in_memory in places:
            for draw in range(_draws(form, prefixes, scale)):
                rng = random.Random(f"{seed}{form} {prefixes.hex()} {in_memory} {draw}")
                yield _case(rng, form, prefixes, in_memory)


def undefined_opcode_cases() -> Iterator[Case]:
    """Encodings that nothing defines: #UD."""
    regs = [*EDGES[:4], STACK_TOP, DATA, DATA, DATA]
    for code in UNDEFINED_OPCODES:
        yield Case(bytes.fromhex(code), list(regs))
    for code in (
        "90" * 14 + "90",
        "66" * 14 + "90",
        "66" * 15 + "90",
        "2e" * 10 + "81c078563412",
        "2e" * 9 + "81c078563412",
    ):
        yield Case(bytes.fromhex(code), list(regs))


def cut_instruction_cases() -> Iterator[Case]:
    """Instructions of all lengths, too long ones and undefined ones too, of which the last bytes are not mapped."""
    end = next(address + size for address, size, _ in REGIONS if address == CODE)
    texts = ["66" * 18, "2e" * 8 + "c78300000000" + "11223344", "3e" * 12 + "0fba2d", "f0c783", "c6c8", "0fbac0"]
    texts += ["f090", "0f0b", "0fff", "0fb9", "0f04", "8dc0", "fef8", "66" * 14 + "0f", "26" * 13 + "0fa2"]
    for text in texts:
        code = bytes.fromhex(text)
        for there in range(1, len(code) + 1):
            yield Case(code[:there], [*EDGES[:4], STACK_TOP, DATA, DATA, DATA], eip=end - there, until=end + 64)


def all_cases(scale: float = 1.0) -> Iterator[Case]:
    """Every form and every undefined encoding."""
    for form in FORMS:
        yield from form_cases(form, scale)
    yield from undefined_opcode_cases()
    yield from cut_instruction_cases()
