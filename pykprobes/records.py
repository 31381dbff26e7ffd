"""What the compiled module tells, as plain tuples."""

from __future__ import annotations

from typing import NamedTuple

MISSES = ("recursion", "disarmed", "lock", "fault_restart")


class Layout(NamedTuple):
    """Where the built-in kernel side lies; see struct kernel_layout in csrc/cdef.h."""

    gdt: int
    idt: int
    tss: int
    entry: int
    entry_size: int
    imports: int
    import_stride: int
    import_max: int
    call_return: int
    trampoline: int
    park_return: int
    stack_top: int
    stack_bottom: int
    stack_stride: int
    window: int
    window_end: int


class Stats(NamedTuple):
    """The counters of one probe."""

    hits: int = 0
    nmissed: int = 0
    misses: tuple[int, ...] = (0,) * len(MISSES)
    number: int = -1


class ReturnStats(NamedTuple):
    """The counters of one return probe."""

    hits: int = 0
    nmissed: int = 0
    abandoned: int = 0
    active: int = 0
