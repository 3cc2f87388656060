"""The harness that kills and resumes runs: a few rounds of each kind here, a hundred by hand."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    """``tools/kill_rounds.py``, which is no part of the package."""
    path = Path(__file__).resolve().parents[2] / "tools" / "kill_rounds.py"
    spec = importlib.util.spec_from_file_location("kill_rounds", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill_rounds"] = module  # what its dataclasses look for
    spec.loader.exec_module(module)
    return module


def test_a_difference_is_seen(harness: ModuleType, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "other")
    assert harness.differing(trained, tmp_path / "other") == []
    weights = tmp_path / "other" / "raw.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    rows = (tmp_path / "other" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "other" / "metrics.jsonl").write_text("".join(rows[:-1]))
    (tmp_path / "other" / "previews").mkdir(exist_ok=True)
    (tmp_path / "other" / "previews" / ".a.png.7-7.tmp").touch()
    assert harness.differing(trained, tmp_path / "other") == [str(weights), "metrics.jsonl", "left: .a.png.7-7.tmp"]
    assert harness.interrupted(tmp_path / "other") == "writing into previews/"


@pytest.mark.slow
def test_whatever_was_killed_ends_as_what_was_not(harness: ModuleType, tmp_path: Path) -> None:
    found = list(harness.rounds(harness.Ground(tmp_path), each=3, seed=1, jobs=2))
    assert [one for one in found if one.mismatches] == []
    assert all(one.kills for one in found)
