"""What the SDM leaves undefined, and where processors differ from it: the only source of masks in comparisons.

A row of UNDEFINED names instructions, the condition under which it holds, what is undefined then (flags, or DEST for
the destination), and why. EFFECTS says which flags instructions read and write, so that an undefined flag can be
followed through a run: a case in which one is read says nothing from there on. Rows with a VENDOR hold where
the answers are of that processor alone; on all others the machine's own behaviour is demanded.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from . import silicon
from .case import AF, ARITH, CF, DF, OF, PF, SF, ZF
from .encode import ADSIZE, CONDITIONS, FORMS, OPSIZE, REP, REPNE, Form

DEST = 1 << 31


class Context(NamedTuple):
    """What conditions look at: operand size in bits, the shift count masked to five bits, and what lies below esp."""

    size: int
    count: int
    slot_clear: bool


CONDITION = {
    "always": lambda c: True,
    "count > 0": lambda c: c.count > 0,
    "count > 1": lambda c: c.count > 1,
    "count >= size": lambda c: c.count >= c.size,
    "count > size": lambda c: c.count > c.size,
    "size = 16": lambda c: c.size == 16,
    "slot not zero": lambda c: c.size == 32 and not c.slot_clear,
}

UNDEFINED = (
    ("and or xor test", "always", AF, "SDM vol. 2 AND, OR, XOR, TEST: the state of AF is undefined"),
    ("shl shr sar", "count > 0", AF, "SDM vol. 2 SAL/SAR/SHL/SHR: for a non-zero count AF is undefined"),
    ("shl shr sar", "count > 1", OF, "SDM vol. 2 SAL/SAR/SHL/SHR: OF is affected only on 1-bit shifts, else undefined"),
    ("shl shr", "count >= size", CF, "SDM vol. 2 SAL/SAR/SHL/SHR: CF is undefined where the count is the size or more"),
    ("rol ror rcl rcr", "count > 1", OF, "SDM vol. 2 RCL/RCR/ROL/ROR: OF is defined only for 1-bit rotates"),
    ("shld shrd", "count > 0", AF, "SDM vol. 2 SHLD, SHRD: for a count of 1 or more AF is undefined"),
    ("shld shrd", "count > 1", OF, "SDM vol. 2 SHLD, SHRD: for shifts of more than one bit OF is undefined"),
    (
        "shld shrd",
        "count > size",
        ARITH | DEST,
        "SDM vol. 2 SHLD, SHRD: count beyond the size: operand and flags undefined",
    ),
    ("mul imul", "always", SF | ZF | AF | PF, "SDM vol. 2 MUL, IMUL: SF, ZF, AF and PF are undefined"),
    ("div idiv", "always", ARITH, "SDM vol. 2 DIV, IDIV: CF, OF, SF, ZF, AF and PF are undefined"),
    ("bt bts btr btc", "always", OF | SF | AF | PF, "SDM vol. 2 BT, BTC, BTR, BTS: OF, SF, AF and PF are undefined"),
    ("bsf bsr", "always", CF | OF | SF | AF | PF, "SDM vol. 2 BSF, BSR: CF, OF, SF, AF and PF are undefined"),
    ("bswap", "size = 16", DEST, "SDM vol. 2 BSWAP: on a 16-bit register the result is undefined"),
    (
        "push_seg",
        "slot not zero",
        DEST,
        "SDM vol. 2 PUSH: a selector is zero-extended, or only half of the slot written",
    ),
    ("daa das", "always", OF, "SDM vol. 2 DAA, DAS: OF is undefined"),
    ("aaa aas", "always", OF | SF | ZF | PF, "SDM vol. 2 AAA, AAS: OF, SF, ZF and PF are undefined"),
    ("aam aad", "always", OF | AF | CF, "SDM vol. 2 AAM, AAD: OF, AF and CF are undefined"),
)

SEVERAL = (
    (
        "pusha enter callf",
        "SDM vol. 2 PUSHA, ENTER, CALL: a fault leaves registers alone, but which slots were written",
    ),
    ("retf iret", "SDM vol. 2 RET, IRET: they read several words; which one of two that fault is not said"),
)
"""Instructions of several accesses, which leave open what they have stored and which address a page fault reports."""

AMD = "AuthenticAMD"
HALF_DONE = (
    ("popa", AMD, "SDM vol. 2 POPA: restartable; there registers popped before the one that faults are loaded"),
)
"""Instructions whose fault leaves general registers that do not compare."""


VENDOR = silicon.vendor()

UNFINISHED = (
    (
        "cmpsb cmpsv scasb scasv",
        AMD,
        ARITH,
        "SDM vol. 2 REP: EFLAGS change with the last iteration; there each iteration shows its own comparison",
    ),
)
"""Flags after an iteration of a repeated instruction that is not its last one."""


class FaultRow(NamedTuple):
    """Two exceptions that may stand for each other. names empty: any instruction; prefix 0: with or without."""

    names: str
    prefix: int
    ours: int
    theirs: int
    lowest: int
    vendor: str
    reason: str


FAULTS = (
    FaultRow("bound", 0, 5, 14, 0, AMD, "SDM vol. 2 BOUND checks as it reads; there both bounds are read before"),
    FaultRow("retf iret", 0, 13, 14, 0, AMD, "SDM vol. 2 RET checks CS first; there the outer SS:ESP is read before"),
    FaultRow("retf iret", 0, 13, 17, 0, AMD, "and its alignment checked (see the row before)"),
    FaultRow("ud", 0, 14, 6, 0, AMD, "SDM vol. 2 UD: UD0 and UD1 have a ModRM byte, which must be there; not so there"),
    FaultRow("mov_cr", 0xF0, 6, 13, 0, AMD, "LOCK MOV CR0 is MOV CR8 there, and privilege is what it lacks"),
    FaultRow("", 0, 14, 13, 0xFFFFFFF1, "", "SDM vol. 3, 5.3: an access across offset FFFFFFFFh may or may not fault"),
)
"""lowest: least address of our page fault for which the row holds."""


def fault_differs(d: Decoded | None, ours: int, address: int, theirs: int) -> bool:
    """May this exception of ours (address: CR2) be that one of the CPU, for the instruction d?"""
    return any(
        (row.ours, row.theirs) == (ours, theirs)
        and address >= row.lowest
        and row.vendor in ("", VENDOR)
        and (not row.names or (d is not None and d.form.name in row.names.split()))
        and (not row.prefix or (d is not None and row.prefix in d.prefixes))
        for row in FAULTS
    )


def half_done(d: Decoded | None) -> bool:
    """Has the instruction, which faulted, a row in HALF_DONE here?"""
    return d is not None and any(d.form.name in names.split() and vendor == VENDOR for names, vendor, _ in HALF_DONE)


NULL_RPL = "SDM vol. 2 IRET: a null selector is 0 after a return to an outer ring; some keep the RPL bits it had"
"""Every return from the stepper is such an IRET, so null selectors compare as equal (selector())."""


def selector(value: int) -> int:
    """What is compared of a data segment's selector."""
    return 0 if value < 4 else value


_CC_READS = (OF, OF, CF, CF, ZF, ZF, CF | ZF, CF | ZF, SF, SF, PF, PF, SF | OF, SF | OF, ZF | SF | OF, ZF | SF | OF)

EFFECTS: dict[str, tuple[int, int]] = {
    # name: (flags read, flags written)
    **dict.fromkeys("add sub cmp and or xor test neg xadd cmpxchg popf iret".split(), (0, ARITH)),
    **dict.fromkeys("cmpsb cmpsv scasb scasv mul imul div idiv bsf bsr aam aad".split(), (0, ARITH)),
    **dict.fromkeys("adc sbb".split(), (CF, ARITH)),
    **dict.fromkeys("inc dec".split(), (0, ARITH & ~CF)),
    **dict.fromkeys("shl shr sar shld shrd".split(), (0, ARITH)),
    **dict.fromkeys("rol ror".split(), (0, CF | OF)),
    **dict.fromkeys("rcl rcr".split(), (CF, CF | OF)),
    **dict.fromkeys("bt bts btr btc".split(), (0, ARITH & ~ZF)),
    **dict.fromkeys("cmpxchg8b arpl lar lsl verr verw".split(), (0, ZF)),
    **dict.fromkeys("daa das".split(), (CF | AF, ARITH)),
    **dict.fromkeys("aaa aas".split(), (AF, ARITH)),
    **dict.fromkeys("clc stc".split(), (0, CF)),
    "cmc": (CF, CF),
    "salc": (CF, 0),
    "sahf": (0, ARITH & ~OF),
    "lahf": (ARITH & ~OF, 0),
    "pushf": (ARITH, 0),
    "into": (OF, 0),
    **dict.fromkeys("loope loopne".split(), (ZF, 0)),
    **{prefix + cc: (_CC_READS[i], 0) for prefix in ("j", "set", "cmov") for i, cc in enumerate(CONDITIONS)},
}
"""Arithmetic flags only; instructions that are not here leave them alone."""

_SHIFTS = frozenset("rol ror rcl rcr shl shr sar shld shrd".split())


class Effect(NamedTuple):
    """Of one executed instruction: masks of arithmetic flags, DEST possibly in undefined."""

    name: str
    reads: int
    writes: int
    undefined: int


_PREFIXES = frozenset((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3))


def _index() -> dict[bytes, dict[int | None, Form]]:
    table: dict[bytes, dict[int | None, Form]] = {}
    for form in FORMS:
        width = 8 if any(o[0] == "Z" for o in form.operands) else 1
        for i in range(width):
            opcode = form.opcode[:-1] + bytes([form.opcode[-1] + i])
            key = None if form.name.startswith("set") else form.ext
            table.setdefault(opcode, {})[key] = form
    return table


_FORMS = _index()


class Decoded(NamedTuple):
    """What identify finds: the form, its prefixes, and where ModRM or the immediate begins."""

    form: Form
    prefixes: bytes
    at: int


@lru_cache(maxsize=1 << 16)
def identify(insn: bytes) -> Decoded | None:
    """The form that bytes encode, None if there is no row for it."""
    at = 0
    while at < len(insn) and insn[at] in _PREFIXES:
        at += 1
    length = 2 if insn[at : at + 1] == b"\x0f" else 1
    rows = _FORMS.get(insn[at : at + length])
    if not rows:
        return None
    modrm = insn[at + length] if at + length < len(insn) else 0
    form = rows.get(None) or rows.get(modrm >> 3 & 7)
    return Decoded(form, insn[:at], at + length) if form else None


def _modrm_end(insn: bytes, at: int, addr16: bool) -> int:
    mod, rm = insn[at] >> 6, insn[at] & 7
    at += 1
    if mod == 3:
        return at
    if addr16:
        return at + (2 if mod == 2 or (mod == 0 and rm == 6) else mod)
    sib = rm == 4
    base = insn[at] & 7 if sib else rm
    return at + sib + (4 if mod == 2 or (mod == 0 and base == 5) else mod)


def _count(d: Decoded, insn: bytes, ecx: int) -> int:
    if "Ib" in d.form.operands:
        return insn[_modrm_end(insn, d.at, ADSIZE in d.prefixes)] & 31
    if d.form.opcode[0] in (0xD0, 0xD1):
        return 1
    return ecx & 31


def effect(
    insn: bytes, regs: tuple[int, ...] | list[int], slot_clear: bool = True, repeats: bool = False
) -> Effect | None:
    """Effect of the instruction in bytes with these general registers before it; None: no instruction of ours.

    slot_clear: zeros lie below esp. repeats: a repeated instruction that has iterations to go.
    """
    d = identify(insn)
    if d is None:
        return None
    name, operands = d.form.name, d.form.operands
    byte = any(o in ("Eb", "Gb", "Zb") for o in operands[:1]) or (name in ("imul", "mul") and operands[0] == "Eb")
    size = 8 if byte else 16 if OPSIZE in d.prefixes else 32
    reads, writes = EFFECTS.get(name, (0, 0))
    count = 0
    if name in _SHIFTS:
        count = _count(d, insn, regs[1])
        if count == 0:
            return Effect(name, 0, 0, 0)
    repeated = REP in d.prefixes or REPNE in d.prefixes
    none_left = not regs[1] & (0xFFFF if ADSIZE in d.prefixes else 0xFFFFFFFF)
    if name[:4] in ("cmps", "scas") and repeated and (repeats or none_left):
        return Effect(name, 0, 0, _unfinished(name) if repeats else 0)
    return Effect(name, reads, writes, _undefined(name, Context(size, count, slot_clear)))


def _unfinished(name: str) -> int:
    return sum(mask for names, vendor, mask, _reason in UNFINISHED if name in names.split() and vendor == VENDOR)


@lru_cache(maxsize=4096)
def _undefined(name: str, context: Context) -> int:
    mask = 0
    for names, condition, flags, _reason in UNDEFINED:
        if name in names.split() and CONDITION[condition](context):
            mask |= flags
    return mask


COMPARED = ARITH | DF | 0x200 | 0x4000 | 0x200000
"""EFLAGS bits that are compared at all: arithmetic, DF, IF, NT, ID. TF is the stepper's own, AC and RF the host's."""

class X87Row(NamedTuple):
    """What is not compared of the x87 after an instruction.

    what and mask: bits of status or eflags; pointers to the last instruction in a stored environment; or ulp, the last
    place of an inexact result (mask: by how much), with C1, which tells of its rounding. unmasked: only with an invalid
    or denormal exception that is not masked.
    """

    names: str
    unmasked: bool
    what: str
    mask: int
    vendor: str
    reason: str


X87 = (
    X87Row(
        "fcom fcomp fcompp fucom fucomp fucompp ftst",
        True,
        "status",
        0x4500,
        AMD,
        "SDM vol. 2 FCOM, FUCOM, FTST: an exception that is not masked leaves the condition codes; there it sets them",
    ),
    X87Row(
        "fcomi fcomip fucomi fucomip",
        True,
        "eflags",
        ARITH,
        AMD,
        "SDM vol. 2 FCOMI, FUCOMI: an exception that is not masked leaves the flags; there it sets them",
    ),
    X87Row(
        "fnstenv fnsave",
        False,
        "pointers",
        -1,
        "",
        "SDM vol. 1, 8.1.8: processors differ in when they record the last instruction, and in whether its selectors",
    ),
    X87Row(
        "f2xm1 fyl2x fyl2xp1 fptan fpatan fsin fcos fsincos",
        False,
        "ulp",
        1,
        "",
        "SDM vol. 1, 8.3.10: transcendental results err by less than one unit in the last place, each in its way",
    ),
)


class SseRow(NamedTuple):
    """What is not compared of MMX and SSE: a part of the state, or pointers to the last x87 instruction in memory.

    names: forms as in the manual's tables, such as "66 0F 6F m", separated by "; ".
    """

    names: str
    what: str
    vendor: str
    reason: str


SSE_ROWS: tuple[SseRow, ...] = (
    SseRow("0F AE/0 m", "pointers", AMD, "AMD's FXSAVE stores the last x87 instruction only if an exception pends"),
    SseRow("0F AE/0 m", "mask", AMD, "AMD's MXCSR has a bit 17 for misaligned operands, so that MXCSR_MASK has it"),
    SseRow("0F AE/0 m; 0F AE/1 m", "cr2", AMD, "the parts of an image are accessed in an order of its own"),
    SseRow(
        "0F 52 r; 0F 52 m; F3 0F 52 r; F3 0F 52 m; 0F 53 r; 0F 53 m; F3 0F 53 r; F3 0F 53 m",
        "approximate",
        "",
        "SDM vol. 2 RCPPS, RSQRTPS: every processor has its own table, with a relative error of 1.5 * 2^-12 at most",
    ),
    SseRow("0F 2A m", "x87", AMD, "SDM vol. 2 CVTPI2PS makes the x87 an MMX unit, CVTPI2PD not; there both do not"),
    SseRow("0F F7 r", "faulted", AMD, "there MASKMOVQ makes the x87 an MMX unit before its page fault"),
)

SSE_NEWER = (
    SseRow(
        "F2 0F 12 r; F2 0F 12 m; F3 0F 12 r; F3 0F 12 m; F3 0F 16 r; F3 0F 16 m", "", "", "SSE3: MOVDDUP and its kin"
    ),
    SseRow(
        "66 0F 7C r; 66 0F 7C m; F2 0F 7C r; F2 0F 7C m; 66 0F 7D r; 66 0F 7D m; F2 0F 7D r; F2 0F 7D m",
        "",
        "",
        "SSE3: HADDPD and its kin",
    ),
    SseRow("66 0F D0 r; 66 0F D0 m; F2 0F D0 r; F2 0F D0 m; F2 0F F0 m", "", "", "SSE3: ADDSUBPS, ADDSUBPD, LDDQU"),
    SseRow(
        "66 0F 78 r; F2 0F 78 r; 66 0F 79 r; F2 0F 79 r; F2 0F 2B m; F3 0F 2B m; 0F 78 r; 0F 78 m; 0F 79 r; 0F 79 m",
        "",
        "",
        "SSE4a: EXTRQ, INSERTQ, MOVNTSD, MOVNTSS; VMREAD and VMWRITE",
    ),
    SseRow(
        "0F AE/4 m; 0F AE/5 m; 0F AE/6 m; 66 0F AE/6 m; 66 0F AE/7 m; F3 0F AE/6 m",
        "",
        "",
        "XSAVE and its kin, CLWB, CLFLUSHOPT, CLRSSBSY",
    ),
)
