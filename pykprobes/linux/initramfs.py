"""Initial RAM file systems: cpio archives in the "newc" format.

It is that of Documentation/driver-api/early-userspace/buffer-format.rst of the kernel: a 110-byte header of hexadecimal
digits before each name and its data; nobody need be root to write one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

MAGIC, TRAILER = b"070701", "TRAILER!!!"
FIELD_MAX = 0xFFFFFFFF
CONSOLE = (5, 1)


class Node(NamedTuple):
    """One file of an archive: st_mode, its bytes or a link's target, and a device's major and minor number."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(mode: int = 0o755) -> Node:
    """A directory."""
    return Node(stat.S_IFDIR | mode)


def symlink(target: str) -> Node:
    """A symbolic link."""
    return Node(stat.S_IFLNK | 0o777, os.fsencode(target))


def executable(data: bytes | str) -> Node:
    """A program or script."""
    return Node(stat.S_IFREG | 0o755, data.encode() if isinstance(data, str) else data)


def character_device(major: int, minor: int, mode: int = 0o600) -> Node:
    """A character device, as (5, 1) for the console."""
    return Node(stat.S_IFCHR | mode, b"", (major, minor))


def initramfs(files: str | os.PathLike[str] | Mapping[str, Node | bytes | str | Path]) -> bytes:
    """Pack a directory, or a mapping of names to what they hold, into an archive that the kernel takes as initrd.

    Values are nodes, text or bytes of a plain file, or the path of a file on the host, whose mode is kept. Directories
    above a name are made where they are missing, and /dev/console always. Owners are root and times are 0, so that the
    same files make the same archive.

    >>> archive = initramfs({"init": executable("#!/bin/sh\\n"), "etc/motd": "hello\\n"})
    >>> archive[:6], len(archive) % 4
    (b'070701', 0)
    """
    nodes = dict(_from_directory(Path(files))) if isinstance(files, (str, os.PathLike)) else _from_mapping(files)
    nodes.setdefault("dev", directory())
    nodes.setdefault("dev/console", character_device(*CONSOLE))
    for name in list(nodes):
        for parent in PurePosixPath(name).parents:
            if str(parent) != ".":
                nodes.setdefault(str(parent), directory())
    packed = [_entry(number, name, nodes[name]) for number, name in enumerate(sorted(nodes), 1)]
    return b"".join(packed) + _entry(0, TRAILER, Node(0))


def _from_mapping(files: Mapping[str, Node | bytes | str | Path]) -> dict[str, Node]:
    nodes = {}
    for name, value in files.items():
        path = PurePosixPath(name.lstrip("/"))
        if not path.parts or ".." in path.parts or "\0" in name:
            raise ValueError(f"{name!r} cannot be a file's name in the archive")
        nodes[str(path)] = _node(name, value)
    return nodes


def _node(name: str, value: Node | bytes | str | Path) -> Node:
    if isinstance(value, Node):
        return value
    if isinstance(value, Path):
        return _from_file(value)
    if isinstance(value, (bytes, str)):
        return Node(stat.S_IFREG | 0o644, value.encode() if isinstance(value, str) else value)
    raise TypeError(f"{name}: a file is a Node, bytes, text or a Path, not {type(value).__name__}")


def _from_file(path: Path) -> Node:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return symlink(os.readlink(path))
    if stat.S_ISDIR(mode):
        return directory(stat.S_IMODE(mode))
    if stat.S_ISREG(mode):
        return Node(mode, path.read_bytes())
    raise ValueError(f"{path} is neither a file nor a directory nor a link")


def _from_directory(root: Path) -> Iterator[tuple[str, Node]]:
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is no directory")
    for path in sorted(root.rglob("*")):
        yield path.relative_to(root).as_posix(), _from_file(path)


def _entry(number: int, name: str, node: Node) -> bytes:
    if len(node.data) > FIELD_MAX:
        raise ValueError(f"{name} is too large for the archive")
    raw = os.fsencode(name) + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    fields = (number, node.mode, 0, 0, links, 0, len(node.data), 0, 0, *node.device, len(raw), 0)
    head = MAGIC + b"".join(b"%08X" % field for field in fields) + raw
    return head + bytes(-len(head) % 4) + node.data + bytes(-len(node.data) % 4)
