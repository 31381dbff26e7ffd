"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

# capstone opens its library with RTLD_DEEPBIND, which AddressSanitizer refuses.
if "libasan" in os.environ.get("LD_PRELOAD", ""):
    os.RTLD_DEEPBIND = 0

import pytest
from hypothesis import settings

from pykprobes import Machine
from pykprobes.cli import shipped_images

# Sanitizers are slow, and so is a busy host: time says nothing about the properties.
settings.register_profile("pykprobes", deadline=None)
settings.load_profile("pykprobes")


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with the built-in kernel side and 1 MiB of RAM."""
    with Machine(memory=1 << 20) as m:
        yield m


@pytest.fixture
def checksum() -> Iterator[Machine]:
    """A machine with the shipped image of checksum functions."""
    with Machine() as m:
        m.load(shipped_images()["checksum"])
        yield m
