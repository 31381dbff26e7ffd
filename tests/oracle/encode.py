"""An encoder of i386 instructions: a table of forms, and explicit ModRM, SIB, displacement and prefix encodings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

OPSIZE, ADSIZE, LOCK, REPNE, REP = 0x66, 0x67, 0xF0, 0xF2, 0xF3
SEGMENTS = {"es": 0x26, "cs": 0x2E, "ss": 0x36, "ds": 0x3E, "fs": 0x64, "gs": 0x65}
CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
_ALU = ("add", "or", "adc", "sbb", "and", "sub", "xor", "cmp")
_SHIFTS = ("rol", "ror", "rcl", "rcr", "shl", "shr", "shl", "sar")


class Form(NamedTuple):
    """One encoding: opcode bytes, /digit or None, and operand codes in the manual's notation.

    E r/m, G register in reg, Z register in the opcode, M memory only, R register only (in r/m), O absolute address,
    I immediate (Is: sign-extended byte), J relative, A far pointer, S segment register; b w v: byte, word, by
    operand size; q, p, a: 8-byte, far-pointer and bounds memory.
    """

    name: str
    opcode: bytes
    ext: int | None
    operands: tuple[str, ...]

    @property
    def has_modrm(self) -> bool:
        return self.ext is not None or any(o[0] in "EGMRS" for o in self.operands)

    @property
    def rm(self) -> str:
        """Code of the r/m operand, empty without one."""
        return next((o for o in self.operands if o[0] in "EMR"), "")

    @property
    def reg(self) -> str:
        return next((o for o in self.operands if o[0] in "GS"), "")

    @property
    def sized(self) -> bool:
        """Does the operand size matter?"""
        return any(o[-1] == "v" or o == "Is" for o in self.operands) or self.name in _SIZED_BY_PREFIX

    def __str__(self) -> str:
        ext = "" if self.ext is None else f"/{self.ext}"
        return f"{self.name}_{self.opcode.hex()}{ext}_{','.join(self.operands)}"


_SIZED_BY_PREFIX = frozenset(
    "pusha popa pushf popf enter leave ret cbw cwd movsv cmpsv stosv lodsv scasv push_seg pop_seg".split()
    + "retf iret jmpf callf insv outsv les lds lss lfs lgs".split()
)

_ROWS = """
test 84 Eb,Gb; test 85 Ev,Gv; test a8 Ib; test a9 Iv; test f6/0 Eb,Ib; test f6/1 Eb,Ib; test f7/0 Ev,Iv; test f7/1 Ev,Iv
inc 40 Zv; dec 48 Zv; inc fe/0 Eb; dec fe/1 Eb; inc ff/0 Ev; dec ff/1 Ev
not f6/2 Eb; neg f6/3 Eb; mul f6/4 Eb; imul f6/5 Eb; div f6/6 Eb; idiv f6/7 Eb
not f7/2 Ev; neg f7/3 Ev; mul f7/4 Ev; imul f7/5 Ev; div f7/6 Ev; idiv f7/7 Ev
imul 0faf Gv,Ev; imul 69 Gv,Ev,Iv; imul 6b Gv,Ev,Is
shld 0fa4 Ev,Gv,Ib; shld 0fa5 Ev,Gv; shrd 0fac Ev,Gv,Ib; shrd 0fad Ev,Gv
bt 0fa3 Ev,Gv; bts 0fab Ev,Gv; btr 0fb3 Ev,Gv; btc 0fbb Ev,Gv
bt 0fba/4 Ev,Ib; bts 0fba/5 Ev,Ib; btr 0fba/6 Ev,Ib; btc 0fba/7 Ev,Ib
bsf 0fbc Gv,Ev; bsr 0fbd Gv,Ev
mov 88 Eb,Gb; mov 89 Ev,Gv; mov 8a Gb,Eb; mov 8b Gv,Ev; mov c6/0 Eb,Ib; mov c7/0 Ev,Iv; mov b0 Zb,Ib; mov b8 Zv,Iv
mov a0 Ob; mov a1 Ov; mov a2 Ob; mov a3 Ov
movzx 0fb6 Gv,Eb; movzx 0fb7 Gv,Ew; movsx 0fbe Gv,Eb; movsx 0fbf Gv,Ew; lea 8d Gv,M
xchg 86 Eb,Gb; xchg 87 Ev,Gv; xchg 90 Zv; xadd 0fc0 Eb,Gb; xadd 0fc1 Ev,Gv
cmpxchg 0fb0 Eb,Gb; cmpxchg 0fb1 Ev,Gv; cmpxchg8b 0fc7/1 Mq; bswap 0fc8 Zv
push 50 Zv; push 68 Iv; push 6a Is; push ff/6 Ev; pop 58 Zv; pop 8f/0 Ev
push_seg 06; push_seg 0e; push_seg 16; push_seg 1e; push_seg 0fa0; push_seg 0fa8
pop_seg 07; pop_seg 17; pop_seg 1f; pop_seg 0fa1; pop_seg 0fa9
pusha 60; popa 61; pushf 9c; popf 9d; enter c8 Iw,Ib; leave c9
mov_from_seg 8c Ev,Sw; mov_to_seg 8e Sw,Ew
jmp eb Jb; jmp e9 Jv; jmp ff/4 Ev; call e8 Jv; call ff/2 Ev; ret c3; ret c2 Iw
loopne e0 Jb; loope e1 Jb; loop e2 Jb; jcxz e3 Jb
jmpf ea Av; callf 9a Av; jmpf ff/5 Mp; callf ff/3 Mp; retf cb; retf ca Iw; iret cf
cmc f5; clc f8; stc f9; cld fc; std fd; sahf 9e; lahf 9f; cbw 98; cwd 99; nop 0f1f/0 Ev
daa 27; das 2f; aaa 37; aas 3f; aam d4 Ib; aad d5 Ib; xlat d7; salc d6
movsb a4; movsv a5; cmpsb a6; cmpsv a7; stosb aa; stosv ab; lodsb ac; lodsv ad; scasb ae; scasv af
les c4 Gv,Mp; lds c5 Gv,Mp; lss 0fb2 Gv,Mp; lfs 0fb4 Gv,Mp; lgs 0fb5 Gv,Mp; bound 62 Gv,Ma
arpl 63 Ew,Gw; lar 0f02 Gv,Ew; lsl 0f03 Gv,Ew; verr 0f00/4 Ew; verw 0f00/5 Ew
int3 cc; int cd Ib; into ce; ud 0f0b; ud 0fb9 Gv,Ev; ud 0fff Gv,Ev
hlt f4; cli fa; sti fb; in e4 Ib; in e5 Ib; in ec; in ed; out e6 Ib; out e7 Ib; out ee; out ef
insb 6c; insv 6d; outsb 6e; outsv 6f; lgdt 0f01/2 M; lidt 0f01/3 M; lmsw 0f01/6 Ew; invlpg 0f01/7 M
lldt 0f00/2 Ew; ltr 0f00/3 Ew; clts 0f06; invd 0f08; wbinvd 0f09; rdmsr 0f32; wrmsr 0f30
mov_cr 0f20/0 Rv; mov_cr 0f20/2 Rv; mov_cr 0f20/3 Rv; mov_cr 0f22/0 Rv; mov_cr 0f22/3 Rv
mov_dr 0f21/0 Rv; mov_dr 0f21/7 Rv; mov_dr 0f23/6 Rv
"""

UNDEFINED_OPCODES = (
    *(
        f"0f{x:02x}"
        for x in (0x04, 0x0A, 0x0C, 0x24, 0x25, 0x26, 0x27, 0x36, 0x39, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F, 0x7A, 0x7B)
    ),
    *("0fa6c0", "0fa7c0", "0fb8c0", "0f00f0", "0f00f8", "0f003d00000020"),
    *(f"0fba{0xC0 + 8 * n:02x}05" for n in range(4)),
    *(f"0fc7{0xC8 + n:02x}" for n in range(8)),
    *(f"fe{0xC0 + 8 * n:02x}" for n in range(2, 8)),
    *(f"fe{0x05 + 8 * n:02x}00000020" for n in range(2, 8)),
    *("fff8", "ff3d00000020", "ffd8ff", "ffe8ff", "8dc0", "8dff", "c6c801", "c7c801000000", "8fc8", "8f0d00000020"),
    *("8cf0", "8cf8", "8ec8", "8ef0", "8ef8"),
    *("0fb2c0", "0fb4c1", "0fb5c2", "f0f3f2660f0b"),
)
"""Hex of encodings that every processor from the Pentium Pro to today's answers with #UD."""


def _parse(row: str) -> Form:
    name, code, *rest = row.split()
    code, _, ext = code.partition("/")
    return Form(name, bytes.fromhex(code), int(ext) if ext else None, tuple(rest[0].split(",")) if rest else ())


def _forms() -> Iterator[Form]:
    for i, name in enumerate(_ALU):
        for op, operands in enumerate(("Eb,Gb", "Ev,Gv", "Gb,Eb", "Gv,Ev", "Ib", "Iv")):
            yield _parse(f"{name} {8 * i + op:02x} {operands}")
        for op, operands in (("80", "Eb,Ib"), ("81", "Ev,Iv"), ("82", "Eb,Ib"), ("83", "Ev,Is")):
            yield _parse(f"{name} {op}/{i} {operands}")
    for i, name in enumerate(_SHIFTS):
        for op, operands in (("c0", "Eb,Ib"), ("c1", "Ev,Ib"), ("d0", "Eb"), ("d1", "Ev"), ("d2", "Eb"), ("d3", "Ev")):
            yield _parse(f"{name} {op}/{i} {operands}")
    for i, cc in enumerate(CONDITIONS):
        yield _parse(f"j{cc} {0x70 + i:02x} Jb")
        yield _parse(f"j{cc} 0f{0x80 + i:02x} Jv")
        yield _parse(f"set{cc} 0f{0x90 + i:02x}/{i % 8} Eb")
        yield _parse(f"cmov{cc} 0f{0x40 + i:02x} Gv,Ev")
    for row in _ROWS.replace("\n", ";").split(";"):
        if row.strip():
            yield _parse(row)


FORMS = tuple(_forms())
STRINGS = frozenset(name + size for name in ("movs", "cmps", "stos", "lods", "scas") for size in "bv")
PRIVILEGED = frozenset(
    "hlt cli sti in out insb insv outsb outsv lgdt lidt lmsw invlpg".split()
    + "lldt ltr clts invd wbinvd rdmsr wrmsr mov_cr mov_dr".split()
)
LOCKABLE = frozenset("add or adc sbb and sub xor inc dec not neg xchg xadd cmpxchg cmpxchg8b bts btr btc".split())


def forms_named(*names: str) -> list[Form]:
    """All forms of the given mnemonics."""
    return [form for form in FORMS if form.name in names]


@dataclass(frozen=True)
class Mem:
    """A memory operand. disp_size 0, 1, 2 or 4 picks the encoding; addr16 the 16-bit table."""

    base: int | None = None
    index: int | None = None
    scale: int = 0
    disp: int = 0
    disp_size: int = 4
    addr16: bool = False
    force_sib: bool = False


# SDM vol. 2, table 2-1: base and index of the 16-bit r/m values
PAIRS16 = ((3, 6), (3, 7), (5, 6), (5, 7), (6, None), (7, None), (5, None), (3, None))


def _modrm(reg: int, rm: int | Mem) -> bytes:
    if isinstance(rm, int):
        return bytes([0xC0 | reg << 3 | rm])
    if rm.addr16:
        return _modrm16(reg, rm)
    disp = (rm.disp & 0xFFFFFFFF).to_bytes(4, "little")
    if rm.base is None and rm.index is None and not rm.force_sib:
        return bytes([reg << 3 | 5]) + disp
    sib = rm.index is not None or rm.base == 4 or rm.force_sib
    mod = {0: 0, 1: 1, 4: 2}[rm.disp_size]
    if rm.base is None:
        mod = 0
    elif rm.base == 5 and mod == 0:
        raise ValueError("[ebp] needs a displacement")
    size = 4 if rm.base is None else rm.disp_size
    base = 5 if rm.base is None else rm.base
    index = 4 if rm.index is None else rm.index
    tail = bytes([rm.scale << 6 | index << 3 | base]) if sib else b""
    return bytes([mod << 6 | reg << 3 | (4 if sib else base)]) + tail + disp[:size]


def _modrm16(reg: int, rm: Mem) -> bytes:
    disp = (rm.disp & 0xFFFF).to_bytes(2, "little")
    if rm.base is None and rm.index is None:
        return bytes([reg << 3 | 6]) + disp
    mod = {0: 0, 1: 1, 2: 2}[rm.disp_size]
    row = PAIRS16.index((rm.base, rm.index) if rm.base in (3, 5) else (rm.base, None))
    if row == 6 and mod == 0:
        raise ValueError("[bp] needs a displacement")
    return bytes([mod << 6 | reg << 3 | row]) + disp[: rm.disp_size]


@dataclass(frozen=True)
class Ref:
    """The address of another instruction of a program (by identity), plus an addend."""

    target: object
    addend: int = 0


@dataclass(frozen=True)
class Insn:
    """One instruction: a form with its operands. imm and disp may be a Ref, resolved by assemble."""

    form: Form
    reg: int = 0
    rm: int | Mem = 0
    imm: int | Ref = 0
    imm2: int = 0
    prefixes: bytes = b""
    key: object = None
    disp_ref: Ref | None = None

    @property
    def size16(self) -> bool:
        return OPSIZE in self.prefixes

    @property
    def addr16(self) -> bool:
        return ADSIZE in self.prefixes

    def encode(self, address: int = 0, labels: dict[object, int] | None = None) -> bytes:
        """The bytes at an address; without labels Refs are left zero (their length does not depend on it)."""
        form, labels = self.form, labels or {}
        opcode = form.opcode
        rm = self.rm
        if self.disp_ref is not None and isinstance(rm, Mem):
            rm = replace(rm, disp=labels.get(self.disp_ref.target, 0) + self.disp_ref.addend)
        if any(o[0] == "Z" for o in form.operands):
            opcode = opcode[:-1] + bytes([opcode[-1] | self.reg])
        out = self.prefixes + opcode
        if form.has_modrm:
            out += _modrm(self.reg if form.ext is None else form.ext, rm)
        imm: int = 0
        if isinstance(self.imm, Ref):
            imm = labels.get(self.imm.target, 0) + self.imm.addend
        else:
            imm = self.imm
        for operand in form.operands:
            size = self._immediate_size(operand)
            if size and operand[0] == "J" and isinstance(self.imm, Ref):
                imm -= address + len(out) + size
            if size:
                out += (imm & (1 << 8 * size) - 1).to_bytes(size, "little")
                if operand[0] == "A":
                    out += self.imm2.to_bytes(2, "little")
                imm = self.imm2
        return out

    def _immediate_size(self, operand: str) -> int:
        kind, size = operand[0], operand[1:]
        if kind == "O":
            return 2 if self.addr16 else 4
        if kind not in "IJA":
            return 0
        if size in ("b", "s"):
            return 1
        return 2 if size == "w" or self.size16 else 4


def assemble(program: list[Insn], address: int, tail: object = None) -> tuple[bytes, list[int]]:
    """Bytes and addresses of a program; Refs name instructions by key, the end by tail; lost ones mean the end."""
    addresses = []
    at = address
    labels: dict[object, int] = {}
    for insn in program:
        addresses.append(at)
        if insn.key is not None:
            labels[insn.key] = at
        at += len(insn.encode())
    labels[tail] = at
    for insn in program:
        for ref in (insn.imm, insn.disp_ref):
            if isinstance(ref, Ref):
                labels.setdefault(ref.target, at)
    return b"".join(i.encode(a, labels) for i, a in zip(program, addresses, strict=True)), addresses
