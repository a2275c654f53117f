"""Cells of a notebook in this process, and what they register."""

import linecache
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from lab.config import resolve
from lab.core import registry

Cells = Callable[..., dict[str, Any]]  # runs texts as cells; returns the names of their module


@pytest.fixture
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    for kind in registry.ALL:
        monkeypatch.setattr(kind, "registered", {})
    monkeypatch.setattr(resolve, "_registered", {})


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch, nothing_registered: None):
    """Runs texts as cells, in a module `__main__` of their own, and keeps them as IPython does."""
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    before = dict(linecache.cache)

    def run(*texts: str) -> dict[str, Any]:
        for text in texts:
            name = f"<cell {len(linecache.cache)}>"
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
            exec(compile(text, name, "exec"), vars(module))
        return vars(module)

    yield run
    linecache.cache.clear()
    linecache.cache.update(before)
