"""Registers by name: the CPU's, and the frame that a handler sees."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter, index
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from ._core import Frame
    from ._core import PtRegs as FrameRegs
    from .binding import Core
    from .binding_cpu import CpuCore
    from .segments import Segment

GPR = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
# Numbers 8 and on, in the order of enum reg_id in csrc/cdef.h.
OTHER = (
    "eip", "eflags", "es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr",
    "cr0", "cr2", "cr3", "cr4", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7",
    "gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit", "cpl",
)  # fmt: skip
NUMBERS = {name: number for number, name in enumerate(GPR + OTHER)}
FRAME = (
    "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "orig_eax", "eip", "cs", "eflags", "esp", "ss",
)  # fmt: skip
SLOTS = {"esp": 52, "ss": 56}


def one_of_eight(i: int, name: str) -> int:
    """A register's number from an index that may count from the end; IndexError with what ``name`` calls it.

    >>> one_of_eight(-1, "xmm{}")
    7
    """
    i = index(i)
    if not -8 <= i < 8:
        raise IndexError(f"{name.format(i)}: there are eight registers, 0 to 7")
    return i % 8


def word(value: int, bits: int = 32) -> int:
    """A value as unsigned bits; ValueError when it does not fit, signed or unsigned.

    >>> word(-1), word(0xFF, 8)
    (4294967295, 255)
    """
    value = index(value)
    if not -(1 << (bits - 1)) <= value < 1 << bits:
        raise ValueError(f"{value:#x} does not fit into {bits} bits")
    return value & ((1 << bits) - 1)


class _Register:
    """A register of the CPU, or some bits of one."""

    def __init__(self, name: str, shift: int = 0, bits: int = 32) -> None:
        self.number = NUMBERS[name]
        self.shift = shift
        self.bits = bits

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, regs: Registers, owner: type | None = None) -> int:
        value = regs._core.get_reg(self.number)
        return value if self.bits == 32 else value >> self.shift & ((1 << self.bits) - 1)

    def __set__(self, regs: Registers, value: int) -> None:
        value = word(value, self.bits)
        if self.bits != 32:
            mask = ((1 << self.bits) - 1) << self.shift
            value = regs._core.get_reg(self.number) & ~mask | value << self.shift
        if regs._core.set_reg(self.number, value):
            raise ValueError(f"{self.name} cannot hold {value:#x}")


class Registers:
    """The CPU's registers, read and written at once: ``m.regs.eax``, ``m.regs.cr0``, ``m.regs.al``.

    Selectors are checked as the CPU checks them: a value that would fault is a ValueError.
    """

    __slots__ = ("_core",)

    def __init__(self, core: Core | CpuCore) -> None:
        self._core = core

    eax, ecx, edx, ebx = _Register("eax"), _Register("ecx"), _Register("edx"), _Register("ebx")
    esp, ebp, esi, edi = _Register("esp"), _Register("ebp"), _Register("esi"), _Register("edi")
    ax, cx, dx, bx = (_Register(n, 0, 16) for n in ("eax", "ecx", "edx", "ebx"))
    sp, bp, si, di = (_Register(n, 0, 16) for n in ("esp", "ebp", "esi", "edi"))
    al, cl, dl, bl = (_Register(n, 0, 8) for n in ("eax", "ecx", "edx", "ebx"))
    ah, ch, dh, bh = (_Register(n, 8, 8) for n in ("eax", "ecx", "edx", "ebx"))
    eip, eflags = _Register("eip"), _Register("eflags")
    es, cs, ss = _Register("es"), _Register("cs"), _Register("ss")
    ds, fs, gs = _Register("ds"), _Register("fs"), _Register("gs")
    ldtr, tr, cpl = _Register("ldtr"), _Register("tr"), _Register("cpl")
    cr0, cr2, cr3, cr4 = _Register("cr0"), _Register("cr2"), _Register("cr3"), _Register("cr4")
    dr0, dr1, dr2, dr3 = _Register("dr0"), _Register("dr1"), _Register("dr2"), _Register("dr3")
    dr6, dr7 = _Register("dr6"), _Register("dr7")
    gdtr_base, gdtr_limit = _Register("gdtr_base"), _Register("gdtr_limit")
    idtr_base, idtr_limit = _Register("idtr_base"), _Register("idtr_limit")

    def segment(self, name: str) -> Segment:
        """A copy of a segment register with its hidden part; set_segment stores it."""
        from .segments import Segment, segment_number

        return Segment(*self._core.get_segment(segment_number(name)))

    def set_segment(self, name: str, segment: Segment) -> None:
        """Set a segment register and its hidden part at once, without a look at descriptor tables.

        ValueError, with nothing changed, for what the register could not hold. The DPL of CS is the CPL.
        """
        from .segments import REFUSED, Segment, segment_number

        number = segment_number(name)
        if not isinstance(segment, Segment):
            raise TypeError(f"{name} takes a Segment, not {type(segment).__name__}")
        good = segment.checked()
        error = self._core.set_segment(number, good.selector, good.base, good.limit, good.attributes)
        if error:
            raise ValueError(f"{name} cannot hold {good}: {REFUSED[error](good)}")

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return ((name, self._core.get_reg(number)) for name, number in NUMBERS.items())

    def __repr__(self) -> str:
        names = (*GPR, "eip", "eflags")
        return "<Registers " + " ".join(f"{name}={getattr(self, name):#x}" for name in names) + ">"


class _Word(Protocol):
    """What _word makes, as type checkers see it."""

    def __get__(self, regs: PtRegs, owner: type | None = None) -> int: ...

    def __set__(self, regs: PtRegs, value: int) -> None: ...


def _word(name: str) -> _Word:
    def setter(self: PtRegs, value: int) -> None:
        try:
            setattr(self._regs, name, value)
        except OverflowError:
            setattr(self._regs, name, word(value))

    # attrgetter keeps a read within C: a handler's reads are on the path that is measured in nanoseconds.
    return cast(_Word, property(attrgetter("_regs." + name), setter, doc=f"{name} of the interrupted code"))


class _Unknown:
    """Stands in for the frame, or its registers, until somebody wants to know: most hits of a probe look at neither."""

    def __init__(self, regs: PtRegs, slot: str) -> None:
        self.__dict__.update(owner=regs, slot=slot)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.owner._find()
        return getattr(getattr(self.owner, self.slot), name)

    def __setattr__(self, name: str, value: int) -> None:
        self.owner._find()
        setattr(getattr(self.owner, self.slot), name, value)


class PtRegs:
    """The interrupted registers as a handler sees them: live, and written back when the handler returns.

    ``esp`` is the slot of the kernel's frame. A trap in ring 0 pushes no stack pointer, so that slot is the word
    on top of the interrupted stack, and ``sp`` is the interrupted stack pointer itself.
    """

    __slots__ = ("_core", "_frame", "_regs", "_unknown")

    def __init__(self, core: Core) -> None:
        self._core = core
        self._unknown = cast("Frame", _Unknown(self, "_frame")), cast("FrameRegs", _Unknown(self, "_regs"))
        self._frame, self._regs = self._unknown

    def _forget(self) -> None:
        """Another handler's frame may come next."""
        self._frame, self._regs = self._unknown

    def _find(self) -> None:
        """Point to the frame of the handler that is running. At one depth of runs it is always the same."""
        frame = self._core.frame()
        if frame is None:
            raise RuntimeError("regs are those of a running handler: keep the values, not the object")
        self._frame, self._regs = frame, frame.regs

    ebx, ecx, edx, esi = _word("ebx"), _word("ecx"), _word("edx"), _word("esi")
    edi, ebp, eax = _word("edi"), _word("ebp"), _word("eax")
    ds, es, orig_eax = _word("ds"), _word("es"), _word("orig_eax")
    eip, cs, eflags = _word("eip"), _word("cs"), _word("eflags")
    ip = _word("eip")

    @property
    def retval(self) -> int:
        """eax: in a return handler what the function returns."""
        return self.eax

    @retval.setter
    def retval(self, value: int) -> None:
        self.eax = value

    @property
    def user_mode(self) -> bool:
        """Did the trap interrupt ring 3 or virtual-8086 code?"""
        regs = self._regs
        return bool(regs.cs & 3 or regs.eflags & 0x20000)

    @property
    def esp(self) -> int:
        """The esp slot of the frame; see the class."""
        return self._get_slot("esp")

    @esp.setter
    def esp(self, value: int) -> None:
        self._set_slot("esp", value)

    @property
    def ss(self) -> int:
        """The ss slot of the frame: in ring 0 the second word of the interrupted stack."""
        return self._get_slot("ss")

    @ss.setter
    def ss(self, value: int) -> None:
        self._set_slot("ss", value)

    def _get_slot(self, name: str) -> int:
        """In ring 0 the slots are the interrupted stack itself: memory is right even when a handler wrote to it."""
        found = None if self.user_mode else self._core.peek32(self._frame.address + SLOTS[name] & 0xFFFFFFFF)
        return int(getattr(self._regs, name)) if found is None else found

    def _set_slot(self, name: str, value: int) -> None:
        value = word(value)
        if self.user_mode:
            setattr(self._regs, name, value)
        else:
            self._core.poke(self._frame.address + SLOTS[name] & 0xFFFFFFFF, value.to_bytes(4, "little"))

    @property
    def sp(self) -> int:
        """The interrupted stack pointer."""
        return self._frame.sp

    @sp.setter
    def sp(self, value: int) -> None:
        if not self.user_mode:
            raise ValueError("a trap in ring 0 has no stack pointer in its frame: sp cannot be changed")
        self._regs.esp = word(value)

    def __repr__(self) -> str:
        if self._core.frame() is None:
            return "<PtRegs, no handler is running>"
        names = [name for name in FRAME if name not in ("orig_eax", "ss")]
        return "<PtRegs " + " ".join(f"{name}={getattr(self, name):#x}" for name in names) + f" sp={self.sp:#x}>"
