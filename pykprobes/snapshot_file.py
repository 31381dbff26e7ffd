"""Snapshots as .npz files.

An archive of plain arrays, so that numpy.load reads it without pickle: `version`; `about`, JSON in bytes with setup,
regions, images, digest and board; `cpus`, a JSON list of objects of registers by name; `frames` and `flags` (1 ROM, 2
not all zeros) of all physical memory; `pages`, the bytes of those that are not zeros.
"""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy

from .binding import CPUS, KERNELS, KPROBES, OPTIMIZE, Core
from .binding_snapshot import BOARD, CPU, CPUS_MAX, NONZERO, PAGE, PC, ROM, CoreSnapshot, pc_state_valid, state_limits
from .image import Image
from .memory import TOP
from .pc import Pc
from .regions import Region
from .snapshot import Setup, Snapshot, World
from .symbols import Symbol

if TYPE_CHECKING:
    from numpy.typing import NDArray

# 1: the first.
VERSION = 1
PAGES_MAX = 1 << 19  # as many as a machine's RAM may have
EXTRA_MAX = 1 << 17  # pages besides: page tables, mapped memory, ROM
BYTES_MAX = (PAGES_MAX + EXTRA_MAX) * PAGE + PAGE
TEXT_MAX = 256 << 20
PARTS = {"version", "about", "cpus", "frames", "flags", "pages"}
CR0_DEFINED, CR4_DEFINED = 0xE005003F, 0x000001BC | 1 << 9 | 1 << 10
CR0_PG, CR0_PE = 1 << 31, 1
MXCSR_DEFINED = 0xFFFF

File = str | PathLike[str] | BinaryIO


def save(snapshot: Snapshot, file: File) -> None:
    """Write a snapshot; ValueError while a probe's hit is running."""
    if snapshot._core.hits():
        raise ValueError("a probe's hit is running: run on to its end, then take the snapshot to be saved")
    world, core = snapshot._world, snapshot._core
    plain = core
    if core.probes():
        spare = Core(*world.setup.core, core)
        plain = CoreSnapshot.take(spare)
        spare.close()
    board, pool = plain.board()
    pc, typed = plain.pc()
    about = {
        "setup": world.setup._asdict() | {"board": _board(world.setup.board)},
        "digest": Snapshot(world, plain).hash(),
        "board": board,
        "pool": pool,
        "pc": pc,
        "typed": typed.hex(),
        "regions": [list(world.regions[0]), *world.regions[1:]],
        "images": [[i.name, i.base, i.size, i.entry, i.symbols, i.imports, i.initializers] for i in world.images],
        "symbols": [list(symbol) for symbol in world.symbols],
        "imports": world.imports,
    }
    frames, flags = plain.pages()
    parts: dict[str, Any] = {
        "version": numpy.array(VERSION),
        "about": _text(about),
        "cpus": _text([plain.cpu(i) for i in range(world.setup.cpus)]),
        "frames": frames,
        "flags": flags,
        "pages": plain.contents(frames[(flags & NONZERO) != 0]),
    }
    if hasattr(file, "write"):
        numpy.savez_compressed(file, **parts)
    else:
        with open(file, "wb") as opened:  # numpy would add .npz to a name
            numpy.savez_compressed(opened, **parts)


def load(file: File) -> Snapshot:
    """Read a snapshot; ValueError says what is wrong with the file."""
    try:
        with numpy.load(file, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise ValueError("it is a single array")
            parts = _read(archive)
        return _snapshot(parts)
    except (MemoryError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # the readers of ZIP, zlib and array headers have many of their own for damaged data
        raise BadSnapshot(f"no snapshot can be read from {_name(file)}: {error}") from error


class BadSnapshot(ValueError):
    """A file that is no snapshot of this version, or a damaged one."""


def _name(file: File) -> str:
    return str(getattr(file, "name", file))


def _text(value: Any) -> NDArray[numpy.uint8]:
    return numpy.frombuffer(json.dumps(value).encode(), numpy.uint8)


def _read(archive: Any) -> dict[str, Any]:
    if "version" not in archive.files:
        raise ValueError("it has no version")
    version = int(archive["version"])
    if version != VERSION:
        raise ValueError(f"its version is {version}, this library reads {VERSION}")
    missing = PARTS - set(archive.files)
    if missing:
        raise ValueError(f"it has no {min(missing)}")
    for member in archive.zip.infolist():
        if member.file_size > (BYTES_MAX if member.filename == "pages.npy" else TEXT_MAX):
            raise ValueError(f"{member.filename} is too large")
    parts = {name: archive[name] for name in PARTS}
    for name in ("about", "cpus"):
        parts[name] = json.loads(bytes(parts[name]))
    return parts


def _snapshot(parts: dict[str, Any]) -> Snapshot:
    about = parts["about"]
    setup = _setup(about["setup"])
    frames, flags, pages = _pages(parts["frames"], parts["flags"], parts["pages"])
    cpus, board = [_state(CPU, cpu) for cpu in parts["cpus"]], _state(BOARD, about["board"])
    pc, typed = _state(PC, about["pc"]), bytes.fromhex(about["typed"])
    if setup.board is not None and (not pc_state_valid(pc) or len(typed) != pc["typed"]):
        raise ValueError("the PC's board is in a state that it cannot be in")
    pool = [_number(frame, TOP // PAGE) for frame in about["pool"]]
    if len(cpus) != setup.cpus or board["cpu"] >= setup.cpus:
        raise ValueError(f"it has {len(cpus)} CPUs instead of {setup.cpus}")
    for cpu in cpus:
        _check_cpu(cpu)
    if board["timer_period"] >> 63 or board["timer_next"] >> 63 or board["timer_vector"] > 255 or board["intr"] > 1:
        raise ValueError("the timer is out of range")
    if board["pool"] != len(pool) or set(pool) & set(frames.tolist()) or len(set(pool)) < len(pool):
        raise ValueError("its free frames are not free")
    if board["top"] > TOP // PAGE:
        raise ValueError("its frames are out of range")
    world = World(
        setup,
        _regions(about["regions"]),
        tuple(_image(*image) for image in about["images"]),
        tuple(_symbol(*symbol) for symbol in about["symbols"]),
        tuple(str(name) for name in about["imports"]),
    )
    snapshot = Snapshot(world, CoreSnapshot.load(setup.core, (frames, flags, pages), cpus, board, pool, (pc, typed)))
    if snapshot.hash() != about["digest"]:
        raise ValueError("its contents do not have the digest that it names: it is damaged")
    return snapshot


def _setup(values: dict[str, Any]) -> Setup:
    setup = Setup(**values | {"board": None})
    board = values["board"]
    memory = _number(setup.memory, PAGES_MAX * PAGE + 1)
    if (
        _number(setup.cpus, CPUS_MAX + 1) < 1
        or memory % PAGE
        or not memory
        or setup.kernel not in KERNELS
        or setup.cpu not in CPUS
        or setup.kprobes not in KPROBES
        or setup.optimize not in OPTIMIZE
    ):
        raise ValueError(f"there is no machine with {values}")
    if board is not None:
        if setup.kernel is not None or setup.cpus != 1:
            raise ValueError("a PC's board has one CPU and no built-in kernel side")
        board = Pc(_number(board[0], TOP << 8), datetime.fromisoformat(board[1]))
    return Setup(memory, setup.cpus, setup.kernel, setup.kprobes, setup.optimize, setup.cpu, board)


def _board(board: Pc | None) -> tuple[int, str] | None:
    return None if board is None else (board.clock, board.date.isoformat())


def _number(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{value!r} is not a number below {limit:#x}")
    return value


def _pages(frames: Any, flags: Any, pages: Any) -> tuple[Any, Any, Any]:
    if frames.dtype != numpy.uint32 or flags.dtype != numpy.uint8 or pages.dtype != numpy.uint8:
        raise ValueError("its memory has other types")
    if frames.ndim != 1 or frames.shape != flags.shape or len(frames) > PAGES_MAX + EXTRA_MAX:
        raise ValueError("its memory has another shape")
    if pages.shape != (numpy.count_nonzero(flags & NONZERO), PAGE) or (flags & ~numpy.uint8(NONZERO | ROM)).any():
        raise ValueError("its pages do not fit their flags")
    if (numpy.diff(frames.astype(numpy.int64)) <= 0).any() or (len(frames) and frames[-1] >= TOP // PAGE):
        raise ValueError("its frames are not in order")
    return frames, flags, pages


def _state(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a C structure, all there and in range."""
    limits = state_limits(name)
    found: dict[str, Any] = {}
    if set(values) != set(limits):
        raise ValueError(f"{name} has other fields")
    for field, (length, limit) in limits.items():
        value = values[field]
        if length:
            if not isinstance(value, list) or len(value) != length:
                raise ValueError(f"{field} is not {length} numbers")
            found[field] = [_number(number, limit) for number in value]
        else:
            found[field] = _number(value, limit)
    return found


def _check_cpu(cpu: dict[str, Any]) -> None:
    """What no CPU can hold."""
    bad = {
        "cr0": cpu["cr0"] & ~CR0_DEFINED or (cpu["cr0"] & CR0_PG and not cpu["cr0"] & CR0_PE),
        "cr4": cpu["cr4"] & ~CR4_DEFINED,
        "mxcsr": cpu["mxcsr"] & ~MXCSR_DEFINED,
        "cpl": cpu["cpl"] > 3,
        "shadow": cpu["shadow"] > 2,
        "irq_count": cpu["irq_count"] > 256,
        "halted": max(cpu[name] for name in ("halted", "parked", "nmi_blocked", "nmi")) > 1,
    }
    for name, wrong in bad.items():
        if wrong:
            raise ValueError(f"{name} is {cpu[name]:#x}, which no CPU holds")
    if len(set(cpu["irqs"][: cpu["irq_count"]])) != cpu["irq_count"]:
        raise ValueError("the same interrupt is pending twice")


def _regions(values: list[Any]) -> tuple[list[Region], int, int]:
    regions = [Region(_number(start, TOP + 1), _number(end, TOP + 1), str(kind)) for start, end, kind in values[0]]
    if sorted(regions) != regions or any(a.end > b.start for a, b in pairwise(regions)):
        raise ValueError("its regions are not in order")
    return regions, _number(values[1], TOP + 1), _number(values[2], TOP + 1)


def _image(name: str, base: int, size: int, entry: int | None, symbols: dict[str, int], *rest: list[Any]) -> Image:
    imports, initializers = rest
    if not isinstance(name, str) or not all(isinstance(n, str) and _fits(a) for n, a in symbols.items()):
        raise ValueError(f"{name!r} is no image")
    if not all(map(_fits, (base, size, entry or 0, *initializers))) or not all(isinstance(i, str) for i in imports):
        raise ValueError(f"{name!r} is no image")
    return Image(name, base, size, entry, symbols, tuple(imports), tuple(initializers))


def _symbol(name: str, address: int, size: int, image: str, is_code: bool, is_global: bool) -> Symbol:
    if not isinstance(name, str) or not isinstance(image, str) or not _fits(address) or not _fits(size):
        raise ValueError(f"{name!r} is no symbol")
    return Symbol(name, address, size, image, bool(is_code), bool(is_global))


def _fits(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= TOP
