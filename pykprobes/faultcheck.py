"""What can be said of faults before an experiment: whether they can be, when they strike, what nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy

from .binding import Core
from .binding_inject import (
    FAULT,
    REGISTERS_END,
    TARGET_END,
    TARGET_ST,
    TRACE_EXCEPTION,
    TRACE_EXECUTE,
    TRACE_WRITE,
)  # fmt: skip
from .memory import PAGE, TOP
from .registers import NUMBERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .inject import Golden

GROUP_MAX = 64
NEVER = (1 << 62) - 1
TIME, HIT, ACCESS, EXCEPTION = range(4)
REGISTER, MEMORY, CF, RREG, WREG, RVAL, WVAL, RADDR, WADDR, TXT, RETURN = range(11)
FLIP, SET0, SET1, OVERWRITE, SKIP, JUMP = range(6)
ONCE, SPAN, OVERWRITTEN, PERMANENT = range(4)
CR0_PG = 1 << 31

# Targets of REGISTER, RREG and WREG by name. st0 to st7 are mantissas, se0 to se7 signs and exponents; xmm0l and xmm0h
# are halves.
REGISTERS = {
    **NUMBERS,
    **{f"st{i}": TARGET_ST + i for i in range(8)},
    **{f"se{i}": TARGET_ST + 8 + i for i in range(8)},
    **{name: TARGET_ST + 16 + i for i, name in enumerate(("fcw", "fsw", "ftw", "mxcsr"))},
    **{f"xmm{i // 2}{'lh'[i % 2]}": TARGET_END - 16 + i for i in range(16)},
}


def check_faults(golden: Golden, faults: NDArray[Any]) -> NDArray[Any]:
    """A copy of the faults by group; TypeError or ValueError, which names a row, for those that cannot be."""
    if not isinstance(faults, numpy.ndarray) or not _is_fault(faults.dtype):
        given = getattr(faults, "dtype", type(faults))
        raise TypeError(f"faults are an array of dtype pykprobes.inject.FAULT, not {given}")
    if faults.ndim != 1:
        raise ValueError(f"faults are an array of one dimension, not of {faults.ndim}")
    f = faults.astype(FAULT)
    state = numpy.isin(f["kind"], (REGISTER, MEMORY, RREG, WREG))
    registers = numpy.isin(f["kind"], (REGISTER, RREG, WREG))
    sized = numpy.isin(f["kind"], (MEMORY, TXT))
    width = numpy.where(sized, numpy.minimum(f["size"], 8).astype(numpy.uint64) * 8, 64)
    width = numpy.where(numpy.isin(f["kind"], (CF, RVAL, WVAL, RADDR, WADDR)), 32, width)
    width = numpy.where(registers & (f["target"] < REGISTERS_END), 32, width)
    fits = (width >= 64) | (f["mask"] >> numpy.minimum(width, 63).astype(numpy.uint64) == 0)
    refused = {
        "its trigger is none": f["trigger"] > EXCEPTION,
        "its kind is none": f["kind"] > RETURN,
        "its model is none": f["model"] > JUMP,
        "its lifespan is none": f["lifespan"] > PERMANENT,
        "only CF can SKIP and JUMP": (f["model"] >= SKIP) & (f["kind"] != CF),
        "only registers and memory can hold a value for a SPAN or PERMANENTly": (f["lifespan"] % 2 == 1) & ~state,
        "an access, a jump or a return happens ONCE": (f["lifespan"] == OVERWRITTEN)
        & numpy.isin(f["kind"], (CF, RVAL, WVAL, RADDR, WADDR, RETURN)),
        "a SPAN and a SKIP have a number of instructions from 1 on": (f["span"] == 0)
        & ((f["lifespan"] == SPAN) | (f["model"] == SKIP)),
        "it skips more than 1,024 instructions": (f["model"] == SKIP) & (f["span"] > 1024),
        "its mask has no bit": (f["mask"] == 0) & (f["model"] < SKIP) & (f["kind"] != RETURN),
        "its mask is wider than the target": ~fits & (f["model"] < SKIP) & (f["kind"] != RETURN),
        "its size is not 1 to 8": sized & ((f["size"] < 1) | (f["size"] > 8)),
        "there is no such register": registers & ~numpy.isin(f["target"], list(REGISTERS.values())),
        "it lies beyond an instruction's 15 bytes": (f["kind"] == TXT) & (f["target"].astype(int) + f["size"] > 15),
        "hits, accesses and exceptions are counted from 1": (f["trigger"] != TIME) & (f["time"] == 0),
        "its time is out of range": f["time"] > NEVER,
        "an access is a read (1), a write (2) or either (3)": (f["trigger"] == ACCESS)
        & ((f["access"] < 1) | (f["access"] > 3)),
        "an exception's vector is not 0 to 255": (f["trigger"] == EXCEPTION) & (f["where"] > 255),
    }
    for why, rows in refused.items():
        if rows.any():
            raise ValueError(f"fault {int(numpy.argmax(rows))}: {why}")
    _check_memory(golden, f)
    ordered = f[numpy.argsort(f["group"], kind="stable")]
    sizes = numpy.diff(first_rows(ordered).astype(numpy.int64))
    if len(sizes) and sizes.max() > GROUP_MAX:
        raise ValueError(f"a group has {sizes.max()} faults, the most is {GROUP_MAX}")
    return ordered


def _is_fault(dtype: Any) -> bool:
    """FAULT, or what numpy makes of it when it joins arrays."""
    return dtype.names == FAULT.names and all(dtype[name] == FAULT[name] for name in FAULT.names or ())


def _check_memory(golden: Golden, f: NDArray[Any]) -> None:
    """Are the bytes of memory faults mapped at the start?"""
    rows = numpy.flatnonzero(f["kind"] == MEMORY)
    if not len(rows):
        return
    world = golden.snapshot._world
    core = Core(*world.setup.core, golden.snapshot._core)
    try:
        first = f["target"][rows].astype(numpy.int64)
        last = first + f["size"][rows] - 1
        pages = numpy.unique(numpy.concatenate([first, last]) // PAGE)
        mapped = [page for page in pages.tolist() if page * PAGE < TOP and core.peek(page * PAGE, 1)]
    finally:
        core.close()
    bad = ~(numpy.isin(first // PAGE, mapped) & numpy.isin(last // PAGE, mapped))
    if bad.any():
        row = rows[int(numpy.argmax(bad))]
        raise ValueError(f"fault {row}: no memory is mapped at {int(f['target'][row]):#x}")


def first_rows(ordered: NDArray[Any]) -> NDArray[numpy.uint64]:
    """Where each group begins, and behind them the end."""
    groups = ordered["group"]
    begins = numpy.ones(len(groups), bool)
    begins[1:] = groups[1:] != groups[:-1]
    return numpy.append(numpy.flatnonzero(begins), len(groups)).astype(numpy.uint64)


def resolve(golden: Golden, ordered: NDArray[Any], early: bool) -> NDArray[Any]:
    """Up to its first fault an experiment is the golden run: that fault's trigger is a time."""
    first = first_rows(ordered)[:-1].astype(numpy.int64)
    heads = ordered[first]
    for trigger, where, access in {
        (int(h["trigger"]), int(h["where"]), int(h["access"])) for h in heads[heads["trigger"] != TIME]
    }:
        rows = (heads["trigger"] == trigger) & (heads["where"] == where)
        if trigger == ACCESS:
            rows &= heads["access"] == access
        times = _times(golden.trace, trigger, where, access)
        which = heads["time"][rows].astype(numpy.int64) - 1
        heads["time"][rows] = numpy.append(times, NEVER)[numpy.minimum(which, len(times))]
        heads["trigger"][rows] = TIME
    if early:
        single = numpy.diff(numpy.append(first, len(ordered))) == 1
        heads["unread"] = _unread(golden, heads) & single
    ordered[first] = heads
    return ordered


def _times(trace: NDArray[Any], trigger: int, where: int, access: int) -> NDArray[numpy.int64]:
    """When a trigger fires in the golden run."""
    kind, address = trace["kind"], trace["address"].astype(numpy.int64)
    if trigger == HIT:
        found = (kind == TRACE_EXECUTE) & (address == where)
    elif trigger == EXCEPTION:
        found = (kind == TRACE_EXCEPTION) & (address == where)
    else:
        found = ((kind & access) != 0) & (kind <= TRACE_WRITE) & (address <= where) & (where < address + trace["size"])
    times: NDArray[numpy.int64] = trace["time"][found].astype(numpy.int64) + (trigger != HIT)
    return times


def _unread(golden: Golden, heads: NDArray[Any]) -> NDArray[numpy.bool_]:
    """Memory faults whose bytes the golden run writes before it reads, executes or walks them."""
    none = numpy.zeros(len(heads), bool)
    memory = (heads["kind"] == MEMORY) & (heads["lifespan"] % 2 == 0)
    setup = golden.snapshot._world.setup
    # Page tables that lie where faults can be are read by the CPU without a trace.
    if not memory.any() or (setup.kernel is None and golden.snapshot.cpu["cr0"] & CR0_PG):
        return none
    trace = golden.trace
    access = trace[trace["kind"] != TRACE_EXCEPTION]
    position = numpy.arange(len(access))
    sizes = access["size"].astype(numpy.int64)
    offset = numpy.arange(sizes.sum()) - numpy.repeat(numpy.cumsum(sizes) - sizes, sizes)
    owner = numpy.repeat(position, sizes)
    inside = (access["phys"][owner] % PAGE).astype(numpy.int64) + offset < PAGE  # the rest of a crossing one: unknown
    byte = access["address"][owner].astype(numpy.int64) + offset
    frame = access["phys"][owner].astype(numpy.int64) // PAGE
    crossing = numpy.unique(byte[~inside] // PAGE)
    owner, byte, frame = owner[inside], byte[inside], frame[inside]
    aliased = _aliases(byte // PAGE, frame)
    order = numpy.lexsort((owner, byte))
    keys = byte[order] * (len(access) + 1) + owner[order]
    writes = access["kind"][owner[order]] == TRACE_WRITE
    since = numpy.searchsorted(access["time"], heads["time"])
    result: NDArray[numpy.bool_] = memory.copy()
    for i in range(8):
        used = memory & (i < heads["size"])
        target = heads["target"].astype(numpy.int64) + i
        at = numpy.minimum(numpy.searchsorted(keys, target * (len(access) + 1) + since), max(len(keys) - 1, 0))
        if not len(keys):
            return none
        good = (byte[order][at] == target) & (keys[at] >= target * (len(access) + 1) + since) & writes[at]
        good &= ~numpy.isin(target // PAGE, crossing) & ~numpy.isin(target // PAGE, aliased)
        result &= good | ~used
    return result


def _aliases(pages: NDArray[numpy.int64], frames: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """Linear pages that share a frame with another, or had several."""
    pairs = numpy.unique(numpy.stack([pages, frames]), axis=1) if len(pages) else numpy.zeros((2, 0), numpy.int64)
    page, many = numpy.unique(pairs[0], return_counts=True)
    frame, shared = numpy.unique(pairs[1], return_counts=True)
    return numpy.union1d(page[many > 1], pairs[0][numpy.isin(pairs[1], frame[shared > 1])])
