"""Debian's i386 packages, fetched by apt when a test wants them, and kept between test runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from ..oracle.native import cache_dir

PACKAGES = {
    "ld-linux.so.2": ("libc6",), "libc.so.6": ("libc6",), "libm.so.6": ("libc6",), "libz.so.1": ("zlib1g",),
    "libcrypto.so.3": ("libssl3", "libssl3t64"), "libpng16.so.16": ("libpng16-16", "libpng16-16t64"),
    "libturbojpeg.so.0": ("libturbojpeg0",), "libsqlite3.so.0": ("libsqlite3-0",),
}  # fmt: skip
"""Which package has a library; its names in different releases."""
SECONDS = 120


def apt(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """apt-get for i386 with a state of its own: the system's is not touched, and nobody need be root."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    options = {
        "Dir::State": root / "state", "Dir::State::status": root / "status", "Dir::Cache": root / "cache",
        "APT::Architecture": "i386", "APT::Architectures::": "i386", "Acquire::Languages": "none",
        "APT::Sandbox::User": "", "Debug::NoLocking": "true",
    }  # fmt: skip
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    environment.pop("LD_PRELOAD", None)
    return subprocess.run(
        ["apt-get", *flags, *command],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def _store(package: Path, root: Path, folder: Path) -> None:
    """Copy a package's libraries into one folder, under the names by which they are loaded."""
    subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
    for found in root.glob("**/i386-linux-gnu/*.so*"):
        if found.is_file():
            partial = folder / f".{found.name}.{os.getpid()}"
            shutil.copy(found, partial)
            partial.replace(folder / found.name)


def _download(root: Path, folder: Path, names: tuple[str, ...]) -> str:
    """Store the first of some packages that there is; else why there is none."""
    error = ""
    for name in names:
        try:
            error = apt(root, "download", name).stderr.strip()[-200:]
        except subprocess.TimeoutExpired:
            return f"apt took more than {SECONDS} seconds"
        for package in root.glob(f"{name}_*.deb"):
            _store(package, root / name, folder)
            return ""
    return error


@cache
def _fetch_all() -> dict[tuple[str, ...], str]:
    """Have all libraries in the folder; what went wrong, by packages."""
    folder = library_folder()
    missing = dict.fromkeys(names for soname, names in PACKAGES.items() if not (folder / soname).exists())
    if not missing:
        return {}
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return dict.fromkeys(missing, "there is no apt-get and dpkg-deb")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        try:
            apt(root, "update")
        except subprocess.TimeoutExpired:
            return dict.fromkeys(missing, f"apt took more than {SECONDS} seconds")
        return {names: _download(root, folder, names) for names in missing}


def library_folder() -> Path:
    """Where fetched libraries are."""
    folder = cache_dir() / "i386-libraries"
    folder.mkdir(exist_ok=True)
    return folder


def library(soname: str) -> Path:
    """The path of a library; skips the calling test where it cannot be had."""
    reason = _fetch_all().get(PACKAGES[soname])
    if reason:
        pytest.skip(f"{soname} for i386 could not be fetched: {reason}")
    return library_folder() / soname
