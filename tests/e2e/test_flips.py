"""Single bits flipped in every file of a run and of a model folder: a whole round, which takes minutes."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest


@pytest.mark.slow
def test_no_flipped_bit_is_silent(tmp_path: Path) -> None:
    path = Path(__file__).resolve().parents[2] / "tools" / "flip_bits.py"
    spec = importlib.util.spec_from_file_location("flip_bits", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["flip_bits"] = module  # what its dataclasses look for
    spec.loader.exec_module(module)
    counts, bad = module.flips(tmp_path)
    assert bad == []
    assert sum(sum(files.values(), Counter()).total() for files in counts.values()) >= 500
