"""Packages that take seconds to import, imported by the tests that need them and not by each worker that collects."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest


def late(name: str) -> Callable[[], Any]:
    """A function that imports the module and returns it; the test that calls it is skipped where there is none."""

    @cache
    def module() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs
            return pytest.importorskip(name, reason=f"{name} is a test dependency: pip install .[test]")

    return module
