"""Putting images into a machine: ELF programs, ELF shared libraries and flat code."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .binding import RIGHT_USER, RIGHT_WRITE
from .elf import MAGIC, Elf
from .elf_loader import ElfLoader
from .image import Image, place
from .memory import PAGE, address_range
from .multiboot import find_header, load_multiboot

if TYPE_CHECKING:
    from .machine import Machine

FILE_MAX = 1 << 29
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]


def read_source(source: Source, name: str | None) -> tuple[bytes, str]:
    """The bytes and the name of what was given: path, bytes or binary file."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, default = bytes(source), "image"
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_file() and path.stat().st_size > FILE_MAX:
            raise ValueError(f"{path} is larger than {FILE_MAX >> 20} MiB")
        with path.open("rb") as file:
            data, default = file.read(FILE_MAX + 1), path.name
    elif hasattr(source, "read"):
        data, default = source.read(FILE_MAX + 1), Path(str(getattr(source, "name", "image"))).name
        if not isinstance(data, bytes):
            raise TypeError("the file must be open in binary mode")
    else:
        raise TypeError(f"an image is a path, bytes or a binary file, not {type(source).__name__}")
    if len(data) > FILE_MAX:
        raise ValueError(f"{default} is larger than {FILE_MAX >> 20} MiB")
    return data, name or default


def load(machine: Machine, source: Source, at: int | None, name: str | None) -> Image:
    """Load an image; ValueError, with nothing changed, when that cannot be."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"an image's name is text, not {type(name).__name__}")
    data, name = read_source(source, name)
    names = {image.name for image in machine.images}
    if name in names:
        name = next(numbered for n in count(2) if (numbered := f"{name}.{n}") not in names)
    multiboot = find_header(data) if at is None and machine._core.layout is None else None
    if multiboot is not None:
        image = load_multiboot(machine, data, multiboot, name)
    elif data[:4] != MAGIC and at is not None:
        image = _load_flat(machine, data, at, name)
    else:
        image, symbols = ElfLoader(machine, Elf(data, name), at).load()
        machine.symbols.add(symbols)
    machine.images.append(image)
    return image


def _load_flat(machine: Machine, data: bytes, at: int, name: str) -> Image:
    at, size = address_range(at, len(data))
    if not size:
        raise ValueError(f"{name} is empty")
    place(machine, dict.fromkeys(range(at // PAGE, (at + size - 1) // PAGE + 1), RIGHT_WRITE | RIGHT_USER), name)
    machine.memory.write(at, data)
    return Image(name, at, size, at, {})
