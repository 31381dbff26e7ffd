"""A pytest plugin that keeps every SHARE-th test: -p tests.oracle.sample."""

from __future__ import annotations

import pytest

SHARE = 15


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = items[::SHARE]
