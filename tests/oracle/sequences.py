"""Random programs of 5 to 30 instructions: forward branches, loops, calls, stores into the code that runs."""

from __future__ import annotations

import random
from itertools import count

from .case import CODE, DATA, IF, LOW, READONLY, STACK_TOP, Case
from .encode import (
    ADSIZE,
    CONDITIONS,
    FORMS,
    LOCK,
    LOCKABLE,
    OPSIZE,
    REP,
    REPNE,
    SEGMENTS,
    STRINGS,
    Form,
    Insn,
    Mem,
    Ref,
    assemble,
    forms_named,
)
from .operands import flags, value
from .pool import (
    CALL_NEAR,
    CALL_RM,
    DEC,
    FREE,
    INC,
    JMP_NEAR,
    JMP_RM,
    JMP_SHORT,
    MAYBE,
    MOV_IMM,
    MOV_MEM8_IMM,
    MOV_MEM_IMM,
    MOVZX,
    PLAIN_FORMS,
    PUSH_IMM,
    RET,
    SOMETIMES,
    WEIGHTS,
    one,
)
from .undefined import EFFECTS

END = "end"


class Program:
    """A random program in the making."""

    def __init__(self, rng: random.Random, tame: bool = False) -> None:
        self.rng = rng
        self.tame = tame
        self.items = _TAME if tame else _ITEMS
        self.out: list[Insn] = []
        self.taint = 0
        self.keys = count()
        self.frames = 0
        self.low = rng.random() < 0.15
        origin = rng.choice((0x100, 0x100, 0x101, 0xFF0, 0xFE1, 0xFFB))
        self.origin = (LOW if self.low else CODE) + origin
        self.length = rng.randrange(5, 31)

    def key(self) -> int:
        return next(self.keys)

    def add(self, form: Form, *, key: object = None, **fields: object) -> None:
        """Append an instruction and follow the flags that it may leave undefined."""
        insn = Insn(form, key=key, **fields)  # type: ignore[arg-type]
        self.out.append(insn)
        name = form.name
        if name not in SOMETIMES:
            self.taint &= ~EFFECTS.get(name, (0, 0))[1]
        self.taint |= MAYBE.get(name, 0)

    def clear_flags(self, reads: int) -> None:
        """Define the flags that the next instruction reads."""
        if self.taint & reads:
            self.add(one("cmp", "Gv", "Ev"), reg=self.rng.choice(FREE), rm=self.rng.choice(FREE))

    def build(self) -> Case:
        rng = self.rng
        while len(self.out) < self.length:
            self.item()
        for _ in range(self.frames):
            self.add(forms_named("leave")[0])
        code, _ = assemble(self.out, self.origin, END)
        regs = [value(rng) for _ in range(8)]
        regs[4] = STACK_TOP - 8 * rng.randrange(3)
        regs[5] = DATA + 0x1000
        regs[6] = DATA + 0x800 + rng.randrange(64) if rng.random() < 0.6 else regs[6]
        regs[7] = DATA + 0xC00 + rng.randrange(64) if rng.random() < 0.6 else regs[7]
        return Case(code, regs, flags(rng), self.origin, notes=self.out)

    def item(self) -> None:
        pick = self.rng.random()
        for share, method in self.items:
            pick -= share
            if pick < 0:
                method(self)
                return
        self.plain()

    def body(self, longest: int = 4) -> None:
        """A few straight-line instructions."""
        for _ in range(self.rng.randrange(1, longest)):
            self.plain()

    # -- straight-line instructions

    def plain(self) -> None:
        rng = self.rng
        form = rng.choices(PLAIN_FORMS, WEIGHTS)[0]
        reads = EFFECTS.get(form.name, (0, 0))[0]
        self.clear_flags(reads)
        prefixes = bytes([OPSIZE]) if form.sized and rng.random() < 0.2 else b""
        narrow_shift = form.name in ("shld", "shrd") and prefixes
        if form.name == "bswap" or (narrow_shift and "Ib" not in form.operands):
            prefixes = b""
        byte = form.operands[:1] in (("Eb",), ("Gb",), ("Zb",))
        reg = rng.choice(FREE) if not byte else rng.randrange(8)
        imm = rng.randrange(17) if narrow_shift else value(rng)
        if form.name == "aam":
            imm = rng.choice((10, 10, 1, 255, rng.randrange(256)))
        if form.operands[:1] in (("Ob",), ("Ov",)):
            imm = DATA + rng.randrange(0x1FF0)
        rm: int | Mem = rng.choice(FREE) if form.rm != "Eb" else rng.randrange(8)
        if form.rm and (form.rm[0] == "M" or rng.random() < 0.45):
            rm, prefixes = self.memory(form, prefixes, reg)
            if form.name in LOCKABLE and rng.random() < 0.1:
                rm = Mem(disp=DATA + 8 * rng.randrange(0x3F0))
                prefixes = bytes(p for p in prefixes if p != ADSIZE) + bytes([LOCK])
        self.add(form, reg=reg, rm=rm, imm=imm, prefixes=prefixes)

    def memory(self, form: Form, prefixes: bytes, reg: int) -> tuple[Mem, bytes]:
        """A memory operand that mostly hits memory."""
        rng = self.rng
        aligned = form.name == "xchg"
        disp = rng.randrange(-0x40, 0x40) * (8 if aligned else rng.choice((1, 4)))
        pick = rng.random()
        if form.name in ("bt", "bts", "btr", "btc") and form.reg:
            self.add(one("movsx", "Gv", "Ew"), reg=reg, rm=reg)
            return Mem(5, disp=disp * 4, disp_size=4), prefixes
        if rng.random() < 0.04:
            prefixes += bytes([rng.choice(list(SEGMENTS.values()))])
        if pick < 0.3:
            return Mem(disp=DATA + 0x1000 + disp), prefixes
        if pick < 0.6 or aligned:
            return Mem(
                5, disp=disp & ~7 if aligned else max(-128, min(127, disp)), disp_size=4 if aligned else 1
            ), prefixes
        if pick < 0.68:
            return Mem(4, disp=disp & 0x3C, disp_size=1), prefixes
        if pick < 0.8:
            index = rng.choice([r for r in FREE if r != reg])
            if rng.random() < 0.9:
                self.add(MOVZX, reg=index, rm=rng.randrange(8))
            return Mem(5, index, rng.randrange(4), disp, 4), prefixes
        if pick < 0.9:
            base = rng.choice([r for r in FREE if r != reg])
            self.add(MOV_IMM, reg=base, imm=DATA + 0x1000 + disp)
            return Mem(base, disp=rng.randrange(-128, 128), disp_size=rng.choice((0, 1))), prefixes
        if pick < 0.95:
            return Mem(disp=LOW + 0x1000 + disp + 0x200, disp_size=2, addr16=True), prefixes + bytes([ADSIZE])
        if pick < 0.97:
            return Mem(disp=READONLY + 0x200 + disp), prefixes
        if pick < 0.99:
            return Mem(disp=rng.choice((DATA + 0x2000, DATA)) - rng.randrange(9)), prefixes
        return Mem(rng.choice((0, 1, 2, 3)), disp=disp, disp_size=1 if abs(disp) < 128 else 4), prefixes

    # -- groups

    def branch(self) -> None:
        rng, end = self.rng, self.key()
        cc = rng.randrange(16)
        form = rng.choice(forms_named("j" + CONDITIONS[cc]))
        self.clear_flags(EFFECTS[form.name][0])
        if rng.random() < 0.4:
            self.add(rng.choice(forms_named("cmp", "test", "sub")[2:4]), reg=rng.choice(FREE), rm=rng.choice(FREE))
            self.clear_flags(EFFECTS[form.name][0])
        self.add(form, imm=Ref(end))
        before = self.taint
        self.body(5)
        self.taint |= before
        self.add(INC, reg=rng.choice(FREE), key=end)

    def counted_loop(self) -> None:
        rng, top, out = self.rng, self.key(), self.key()
        self.add(MOV_IMM, reg=1, imm=rng.randrange(1, 6))
        self.add(forms_named("push")[0], reg=1, key=top)
        self.body()
        self.add(forms_named("pop")[0], reg=1)
        kind = rng.random()
        if kind < 0.4:
            self.add(DEC, reg=1)
            self.add(rng.choice(forms_named("jne")), imm=Ref(top))
        elif kind < 0.7:
            self.add(forms_named("loop")[0], imm=Ref(top))
        else:
            self.clear_flags(EFFECTS["loope"][0])
            self.add(rng.choice(forms_named("loope", "loopne")), imm=Ref(top))
            self.add(forms_named("jcxz")[0], imm=Ref(out))
            self.body(2)
            self.add(DEC, reg=rng.choice(FREE), key=out)

    def string(self) -> None:
        rng = self.rng
        form = rng.choice([f for f in FORMS if f.name in STRINGS])
        back = rng.random() < 0.3
        self.add(forms_named("std" if back else "cld")[0])
        self.add(MOV_IMM, reg=6, imm=DATA + 0x800 + rng.randrange(0x40))
        gap = rng.choice((1, 2, 4, 0x40, 0x400, 0x7F0, -1, -4))
        self.add(MOV_IMM, reg=7, imm=DATA + 0x800 + gap)
        prefixes = b""
        if rng.random() < 0.7:
            self.add(MOV_IMM, reg=1, imm=rng.choice((0, 1, 2, 3, 7, 12)))
            prefixes = bytes([rng.choice((REP, REPNE))])
        if rng.random() < 0.15:
            prefixes += bytes([OPSIZE])
        self.add(form, prefixes=prefixes)

    def divide(self) -> None:
        rng = self.rng
        form = rng.choice(forms_named("div", "idiv"))
        reg = rng.choice((1, 3))
        if rng.random() < 0.85:
            self.add(one("or", "Ev", "Is"), rm=reg, imm=0x7F)
            self.add(MOV_IMM, reg=2, imm=0)
            self.add(one("movzx", "Gv", "Eb"), reg=0, rm=rng.choice((0, 1, 2, 3)))
        self.add(form, rm=reg, prefixes=bytes([OPSIZE]) if form.sized and rng.random() < 0.2 else b"")

    def stack(self) -> None:
        rng = self.rng
        pushes = rng.randrange(1, 4)
        forms = [f for f in forms_named("push", "pusha", "pushf") if f.rm == ""]
        for _ in range(pushes):
            form = rng.choice(forms)
            if form.name == "pusha":
                self.add(form)
                self.plain()
                self.add(forms_named("popa")[0])
                continue
            if form.name == "pushf":
                self.clear_flags(EFFECTS["pushf"][0])
            self.add(form, reg=rng.randrange(8), imm=value(rng))
            if rng.random() < 0.5:
                self.plain()
            if form.name == "pushf" or rng.random() < 0.1:
                # clear TF, NT, AC and ID: the program must not step or align-check itself
                self.add(one("and", "Ev", "Iv"), rm=Mem(4, disp_size=0), imm=0x8EFF if self.tame else 0xBEFF)
                if self.tame:
                    self.add(one("or", "Ev", "Iv"), rm=Mem(4, disp_size=0), imm=IF)
                self.add(forms_named("popf")[0])
            else:
                self.add(forms_named("pop")[0], reg=rng.choice(FREE))

    def frame(self) -> None:
        if self.frames < 2:
            self.frames += 1
            self.add(forms_named("enter")[0], imm=4 * self.rng.randrange(8), imm2=self.rng.choice((0, 0, 0, 1, 2)))
            self.body()
        else:
            self.frames -= 1
            self.add(forms_named("leave")[0])

    def call(self) -> None:
        rng, function, after = self.rng, self.key(), self.key()
        kind = rng.random()
        if kind < 0.6:
            self.add(CALL_NEAR, imm=Ref(function))
        else:
            reg = rng.choice(FREE)
            self.add(MOV_IMM, reg=reg, imm=Ref(function))
            self.add(CALL_RM, rm=reg)
        self.add(rng.choice((JMP_SHORT, JMP_NEAR)), imm=Ref(after))
        self.add(DEC, reg=rng.choice(FREE), key=function)
        self.body(3)
        self.add(RET)
        self.add(INC, reg=rng.choice(FREE), key=after)

    def jump(self) -> None:
        rng, end = self.rng, self.key()
        kind = rng.random()
        if kind < 0.4:
            self.add(rng.choice((JMP_SHORT, JMP_NEAR)), imm=Ref(end))
        elif kind < 0.6:
            reg = rng.choice(FREE)
            self.add(MOV_IMM, reg=reg, imm=Ref(end))
            self.add(JMP_RM, rm=reg)
        elif kind < 0.8:
            self.add(PUSH_IMM, imm=Ref(end))
            self.add(RET)
        else:
            self.add(forms_named("jcxz")[0], imm=Ref(end))
        self.body(3)
        self.add(INC, reg=rng.choice(FREE), key=end)

    def modify(self) -> None:
        """A store into an instruction: before, behind, or in the same loop as this one."""
        rng, victim = self.rng, self.key()
        kind = rng.random()
        if kind < 0.4:
            insn: dict[str, object] = {"form": MOV_IMM, "reg": rng.choice(FREE), "imm": value(rng)}
            store: dict[str, object] = {"form": MOV_MEM_IMM, "imm": value(rng), "disp_ref": Ref(victim, 1)}
            if rng.random() < 0.5:
                store.update(form=MOV_MEM8_IMM, disp_ref=Ref(victim, 1 + rng.randrange(4)))
        elif kind < 0.7:
            insn = {"form": INC, "reg": rng.choice(FREE)}
            opcode = rng.choice((0x40, 0x41, 0x4B, 0x48, 0x90, 0x98, 0x92, 0xF5, 0x99))
            store = {"form": MOV_MEM8_IMM, "imm": opcode, "disp_ref": Ref(victim)}
        else:
            insn = {"form": one("add", "Eb", "Ib"), "rm": rng.randrange(8), "imm": value(rng)}
            store = {"form": rng.choice((MOV_MEM8_IMM, one("xor", "Eb", "Ib"), one("add", "Eb", "Ib"))),
                     "imm": value(rng), "disp_ref": Ref(victim, 2)}  # fmt: skip
        store["rm"] = Mem()
        parts = [store, {"form": None}, {**insn, "key": victim}]
        if rng.random() < 0.3:
            parts.reverse()
        top = self.key() if rng.random() < 0.4 else None
        if top is not None:
            self.add(MOV_IMM, reg=1, imm=2)
            self.add(forms_named("push")[0], reg=1, key=top)
        for part in parts:
            if part["form"] is None:
                if rng.random() < 0.5:
                    self.body(3)
            else:
                self.add(**part)  # type: ignore[arg-type]
        if top is not None:
            self.add(forms_named("pop")[0], reg=1)
            self.add(forms_named("loop")[0], imm=Ref(top))

    def odd(self) -> None:
        """Instructions that seldom stand in a program, faults among them."""
        rng = self.rng
        name = rng.choice(
            ("xlat", "push_seg", "into", "int3", "ud", "cli", "bound", "lar", "mov_from_seg", "seg", "arpl")
        )
        if name == "xlat":
            self.add(MOV_IMM, reg=3, imm=DATA + 0x100)
            self.add(forms_named(name)[0])
        elif name == "push_seg":
            # the upper half of the slot is left alone or cleared: clear it before
            self.add(PUSH_IMM, imm=0)
            self.add(forms_named("pop")[0], reg=0)
            self.add(rng.choice(forms_named(name)))
            self.add(forms_named("pop")[0], reg=rng.choice(FREE))
        elif name == "seg":
            seg = rng.choice((0, 2, 3, 4, 5))
            self.add(MOV_IMM, reg=0, imm=0x2B if seg in (2, 3) or rng.random() < 0.5 else 0)
            self.add(forms_named("mov_to_seg")[0], reg=seg, rm=0)
            self.add(INC, reg=rng.choice(FREE))
        elif name == "lar":
            # other selectors mean other descriptors natively
            self.add(MOV_IMM, reg=0, imm=rng.choice((0x2B, 0x23, 0, 0xFFFF)))
            self.add(rng.choice(forms_named("lar", "lsl", "verr", "verw")), reg=rng.choice(FREE), rm=0)
        elif name in ("arpl", "bound"):
            self.add(forms_named(name)[0], reg=rng.choice(FREE), rm=Mem(5, disp=8 * rng.randrange(-8, 8), disp_size=1))
        elif name == "mov_from_seg":
            self.add(forms_named(name)[0], reg=rng.randrange(6), rm=rng.choice(FREE))
        elif name in ("into",) or rng.random() < 0.3:
            self.clear_flags(EFFECTS["into"][0])
            self.add(forms_named(name)[0])
        else:
            self.plain()


_ITEMS = (
    (0.10, Program.branch),
    (0.06, Program.counted_loop),
    (0.05, Program.string),
    (0.02, Program.divide),
    (0.06, Program.stack),
    (0.03, Program.frame),
    (0.04, Program.call),
    (0.05, Program.jump),
    (0.06, Program.modify),
    (0.03, Program.odd),
)
_WILD = (Program.frame, Program.modify, Program.odd)
_TAME = tuple(item for item in _ITEMS if item[1] not in _WILD)


def sequence(seed: object, tame: bool = False) -> Case:
    """The random program of a seed. A tame one does not change its code, look below esp or care for its ring."""
    return Program(random.Random(f"sequence {seed}"), tame).build()


def rebuild(case: Case, program: list[Insn]) -> Case:
    """The same case with another program."""
    code, _ = assemble(program, case.eip, END)
    return Case(
        code, list(case.regs), case.eflags, case.eip, -1, list(case.patches), case.max_steps, case.fs, case.gs, program
    )
