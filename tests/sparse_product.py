"""Sparse products of parameters: each pair of values in the fast suite, and every cell by ``-m slow``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest


def sparse_product(*axes: Iterable[Any], every: int | None = None) -> list[Any]:
    """The cells of a product, for ``pytest.mark.parametrize``; of each row along the last axis all but one are slow.

    The values of the last axis alternate: a cell is fast where its places add up to a multiple of that axis's length.
    So every combination of the other axes comes up once, and a value of one of them meets each value of the last where
    yet another axis is as long as the last.

    Args:
        axes: their values.
        every: one in so many along the last axis is fast instead.
    """
    *others, last = map(list, axes)
    cells = []
    for places in product(*(range(len(axis)) for axis in others)):
        for place, value in enumerate(last):
            marks = () if (place + sum(places)) % (every or len(last)) == 0 else pytest.mark.slow
            cell = [*(axis[at] for axis, at in zip(others, places, strict=True)), value]
            cells.append(pytest.param(*cell, marks=marks, id="-".join(map(str, cell))))
    return cells


def mostly_slow(values: Iterable[Any], *fast: Any) -> list[Any]:
    """The values, for ``pytest.mark.parametrize``; all but ``fast`` are slow."""
    cells = list(values)
    assert all(value in cells for value in fast), [value for value in fast if value not in cells]
    return [pytest.param(value, marks=() if value in fast else pytest.mark.slow, id=str(value)) for value in cells]
