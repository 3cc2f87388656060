"""The cache of results and summaries stays within its limit, whoever else writes; a run has one hash of its code."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from undiffuse import user_cache
from undiffuse.evaluation import cache as caching
from undiffuse.evaluation import provenance
from undiffuse.evaluation.cache import Cache

ROW = {"metric": "x", "value": 1.0, "protocol": {}}
LIMIT = 18_000  # four summaries of ``kept``


def kept(cache: Cache, number: int, size: int = 1000) -> Tensor:
    """An entry of some 4 kB."""
    return cache.tensors({"number": number}, lambda: {"x": torch.full((size,), float(number))})["x"]


def has(cache: Cache, number: int) -> bool:
    def make() -> dict[str, Tensor]:
        raise LookupError

    try:
        cache.tensors({"number": number}, make)
    except LookupError:
        return False
    return True


def held(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in held(folder))


def age(folder: Path, seconds: int) -> None:
    """Make every entry look that much older."""
    for path in held(folder):
        before = path.stat().st_mtime_ns - seconds * 10**9
        os.utime(path, ns=(before, before))


def test_what_was_not_used_for_longest_makes_package(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    for number in range(4):
        kept(cache, number)
        age(tmp_path, 10)
    assert len(held(tmp_path)) == 4
    assert has(cache, 0)  # used, and so the newest
    kept(cache, 4)
    assert num_bytes(tmp_path) <= LIMIT
    assert [has(cache, number) for number in range(5)] == [True, False, True, True, True]


def test_results_are_entries_too_and_are_used_when_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    cache.results({"a": 1}, lambda: [ROW])
    age(tmp_path, 10)
    kept(cache, 0)
    age(tmp_path, 10)
    assert cache.results({"a": 1}, lambda: [ROW])[0]["cached"]
    for number in range(1, 5):
        kept(cache, number)
    assert not has(cache, 0)
    (result,) = tmp_path.rglob("*.json")
    os.utime(result, (1, 1))
    kept(cache, 5)
    assert not result.exists()


def test_a_summary_above_a_quarter_of_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path, LIMIT)
    kept(cache, 0)
    assert kept(cache, 1, size=LIMIT // 4 // 4 + 1).tolist()[0] == 1
    kept(cache, 2, size=LIMIT // 4 // 4)
    assert [has(cache, number) for number in range(3)] == [True, False, True]


def test_the_summary_of_the_largest_network_is_kept(tmp_path: Path) -> None:
    scatters, features, pixels = 10 * 2048**2 * 8, 10_000 * 2048 * 4, 128 * 2**20
    assert 1.05 * (scatters + features + pixels) < caching.MAX_BYTES / 4


def test_leftovers_grow_old_and_other_files_stay(tmp_path: Path) -> None:
    weights, leftover = tmp_path / "weights" / "large.bin", tmp_path / "summaries" / ".x.safetensors.1.tmp"
    for path in (weights, leftover):
        path.parent.mkdir()
        path.write_bytes(bytes(LIMIT))
        os.utime(path, (1, 1))
    kept(Cache(tmp_path, LIMIT), 0)
    assert weights.exists() and not leftover.exists()
    assert has(Cache(tmp_path), 0)


def test_a_file_that_somebody_else_removed_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, old = tmp_path / "summaries" / "gone", tmp_path / "summaries" / "old"
    old.parent.mkdir()
    old.write_bytes(bytes(10))
    monkeypatch.setattr(
        user_cache, "_entries", lambda files: [(0, 5, missing), (1, 10, old), (2, 4000, tmp_path / "new")]
    )
    user_cache.evict([], 4000)
    assert not old.exists()
    caching._touch(missing)
    assert not missing.exists()


def work(folder: Path, first: int) -> int:
    """Ask for twelve entries again and again, of which four find room; returns the wrong ones."""
    cache = Cache(folder, LIMIT)
    numbers = [(first + 5 * step) % 12 for step in range(60)]
    return sum(not bool((kept(cache, number) == number).all()) for number in numbers)


def check_intact(folder: Path) -> None:
    assert num_bytes(folder) <= LIMIT and all(path.suffix == ".safetensors" for path in held(folder))
    assert sum(has(Cache(folder), number) for number in range(12)) == len(held(folder)) > 0


def test_two_threads_write_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda first: work(tmp_path, first), (0, 5))) == [0, 0]
    check_intact(tmp_path)


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; "
    code += "from test_kept_results import work; raise SystemExit(work(Path(sys.argv[1]), int(sys.argv[2])))"
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), first]) for first in ("0", "5")]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    check_intact(tmp_path)


def module_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("provenance_of_another_package", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_code_that_changes_while_it_runs_does_not_change_the_hash_of_what_runs(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "evaluation").mkdir(parents=True)
    copy = package / "evaluation" / "provenance.py"
    copy.write_bytes(Path(provenance.__file__).read_bytes())
    (package / "other.py").write_text("x = 1\n")
    before = provenance.modules_sha256(package)
    loaded = module_of(copy)
    (package / "other.py").write_text("x = 2\n")
    assert loaded.source_sha256() == before == loaded.software()["source_sha256"]
    assert provenance.modules_sha256(package) != before
    assert module_of(copy).source_sha256() == provenance.modules_sha256(package)
