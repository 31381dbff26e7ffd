"""The examples in the docstrings of the package."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import pykprobes

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(pykprobes.__path__, "pykprobes.")
    if module.name not in ("pykprobes._core", "pykprobes.__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES) > 30
