"""Debian's i386 kernel and BusyBox for the tests, fetched by apt once and kept; a shell to boot into."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from pykprobes.linux.initramfs import Node, directory, executable, symlink

from .libraries.fetch import apt
from .oracle.native import cache_dir

KERNEL, BUSYBOX = "linux-image-686", "busybox-static"
INIT = """#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
export PS1='# '
exec setsid cttyhack sh
"""


def _package(root: Path, name: str) -> Path:
    """Download one package, or the one that a package without files stands for."""
    apt(root, "download", name)
    found = next(root.glob(f"{name}_*.deb"), None)
    if found is None:
        raise FileNotFoundError(name)
    depends = subprocess.run(["dpkg-deb", "-f", str(found), "Depends"], capture_output=True, text=True, check=True)
    first = depends.stdout.split(" ")[0].strip().rstrip(",")
    return _package(root, first) if name == KERNEL else found


@cache
def guest_files() -> tuple[Path, Path]:
    """The paths of vmlinuz and busybox; skips the calling test where they cannot be had."""
    kernel, busybox = cache_dir() / "vmlinuz-686", cache_dir() / "busybox-i386"
    if kernel.exists() and busybox.exists():
        return kernel, busybox
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            apt(root, "update")
            for name, pattern, target in ((KERNEL, "boot/vmlinuz-*", kernel), (BUSYBOX, "bin/busybox", busybox)):
                subprocess.run(["dpkg-deb", "-x", str(_package(root, name)), str(root / "x")], check=True)
                partial = target.with_suffix(".partial")
                partial.write_bytes(next((root / "x").glob(pattern)).read_bytes())
                partial.replace(target)
        except (OSError, StopIteration, subprocess.SubprocessError) as error:
            pytest.skip(f"{KERNEL} and {BUSYBOX} for i386 could not be fetched: {error}")
    return kernel, busybox


def shell_files(**more: Node | bytes | str) -> dict[str, Node | bytes | str]:
    """An initial RAM file system that ends in a BusyBox shell on the console."""
    _, busybox = guest_files()
    files: dict[str, Node | bytes | str] = {
        "bin/busybox": executable(busybox.read_bytes()),
        "bin/sh": symlink("busybox"),
        "init": executable(INIT),
    }
    files |= dict.fromkeys(("proc", "sys", "tmp"), directory())
    return files | more
