"""Suggestions for a folder without images: data sets inside it that could be given instead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from undiffuse.data.readers.text import readable
from undiffuse.data.sources.layout.detection import FILES, FOLDERS

_MAX_DEPTH, _MAX_FOLDERS, _NUM_NAMED = 3, 500, 3
_ENDINGS = (
    ".zip",
    ".tar",
    ".tar.gz",
    ".tgz",
    ".npz",
    ".npy",
    ".mat",
    ".parquet",
    ".arrow",
    ".mdb",
    "ubyte",
    "ubyte.gz",
)


def sources_within(folder: Path) -> str:
    """Advice ``name what is in it: PATH`` with the data found in a folder or its folders; empty if there is none."""
    found = list(_found(folder))
    named = " or ".join(readable(str(path)) for path in found[:_NUM_NAMED])
    more = f" or one of {len(found) - _NUM_NAMED} more" if len(found) > _NUM_NAMED else ""
    return f"name what is in it: {named}{more}" if found else ""


def _found(folder: Path) -> Iterator[Path]:
    """Folders that are data sets, else files, the least nested first; the content of such a folder is not searched."""
    num_visited, level = 0, [folder]
    for _ in range(_MAX_DEPTH + 1):
        below: list[Path] = []
        for place in level:
            subfolders, files = _entries(place)
            num_visited += 1
            if num_visited > _MAX_FOLDERS:
                return
            if place != folder and any(matches(place) for matches, _ in FOLDERS):
                yield place
                continue
            candidates = (path for path in files if path.name.lower().endswith(_ENDINGS))
            yield from (path for path in candidates if any(matches(path) for matches, _ in FILES))
            below += subfolders
        level = below


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and files directly in a folder, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
            subfolders = sorted(Path(entry.path) for entry in shown if entry.is_dir(follow_symlinks=False))
            return subfolders, sorted(Path(entry.path) for entry in shown if entry.is_file())
    except OSError:
        return [], []
