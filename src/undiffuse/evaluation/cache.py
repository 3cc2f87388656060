"""Results and summaries of real pictures kept by content: what was computed once is not computed again.

An entry's name is the SHA-256 of everything that determines it, the source of this package included, so nothing is ever
out of date; it is only no longer asked for. The folder may be deleted at any time. A damaged entry counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.errors import UndiffuseError
from undiffuse.evaluation.provenance import source_sha256
from undiffuse.files import write_json
from undiffuse.systems.saved import read_weights, save_weights
from undiffuse.version import __version__

Rows = list[dict[str, Any]]


def cache_folder() -> Path:
    """``undiffuse`` under ``XDG_CACHE_HOME``, or under ``~/.cache`` where that is not set."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "undiffuse"


def key_of(facts: Mapping[str, Any]) -> str:
    """64 hex digits that change with any of ``facts`` (plain values) and with the code that computes."""
    everything = {**facts, "undiffuse": __version__, "source": source_sha256(), "torch": torch.__version__}
    return _digest(everything)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Cache:
    """Entries in a folder, safe to share between processes: each is written under another name and renamed.

    Args:
        folder: where; ``None`` keeps nothing and finds nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def of_user(cls, enabled: bool = True) -> Cache:
        """The user's own, or one that keeps nothing."""
        return cls(cache_folder() if enabled else None)

    def results(self, facts: Mapping[str, Any], make: Callable[[], Rows]) -> Rows:
        """The rows of these facts, each with ``cached``: whether it was found here or made just now."""
        path = self._path("results", facts, ".json")
        if (found := _read_results(path)) is not None:
            return [{**row, "cached": True} for row in found]
        rows = make()
        if path is not None:
            _attempt(lambda: write_json(path, {"results": rows, "sha256": _digest(rows), "of": dict(facts)}))
        return [{**row, "cached": False} for row in rows]

    def tensors(self, facts: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of these facts, found here or made just now."""
        path = self._path("summaries", facts, ".safetensors")
        if (found := _read_tensors(path)) is not None:
            return found
        tensors = make()
        if path is not None:
            _attempt(lambda: save_weights(path, tensors))
        return tensors

    def forget(self, facts: Mapping[str, Any]) -> None:
        """Drop the summary of these facts, which was found and could not be used."""
        path = self._path("summaries", facts, ".safetensors")
        if path is not None:
            path.unlink(missing_ok=True)

    def _path(self, kind: str, facts: Mapping[str, Any], ending: str) -> Path | None:
        return None if self.folder is None else self.folder / kind / f"{key_of(facts)}{ending}"


def _attempt(write: Callable[[], object]) -> None:
    """A cache that cannot be written (a full disk, a read-only home) costs time and must not cost the result."""
    try:
        write()
    except (UndiffuseError, OSError):
        return


def _read_results(path: Path | None) -> Rows | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        rows = record["results"]
        sound = record["sha256"] == _digest(rows)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return list(rows) if sound else None


def _read_tensors(path: Path | None) -> dict[str, Tensor] | None:
    if path is None or not path.is_file():
        return None
    try:
        return read_weights(path)
    except UndiffuseError:
        return None
