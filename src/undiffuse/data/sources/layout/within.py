"""What to name instead of a folder that holds no images itself: the data in it that would be known if it were named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from undiffuse.data.readers.text import readable
from undiffuse.data.sources.layout.detection import FILES, FOLDERS

_DEEPEST, _MOST_LOOKED_AT, _NAMED = 3, 500, 3
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
    """``name what is in it: PATH`` of a folder or the folders in it; nothing where nothing is known there."""
    found = list(_found(folder))
    named = " or ".join(readable(str(path)) for path in found[:_NAMED])
    more = f" or one of {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"name what is in it: {named}{more}" if found else ""


def _found(folder: Path) -> Iterator[Path]:
    """Folders that are known as a whole, else files, the upper ones first; nothing that lies in a known folder."""
    looked_at, level = 0, [folder]
    for _ in range(_DEEPEST + 1):
        below: list[Path] = []
        for place in level:
            inner, files = _entries(place)
            looked_at += 1
            if looked_at > _MOST_LOOKED_AT:
                return
            if place != folder and any(recognises(place) for recognises, _ in FOLDERS):
                yield place
                continue
            likely = (path for path in files if path.name.lower().endswith(_ENDINGS))
            yield from (path for path in likely if any(recognises(path) for recognises, _ in FILES))
            below += inner
        level = below


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Folders and files directly in a folder, hidden ones apart."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
            inner = sorted(Path(entry.path) for entry in shown if entry.is_dir(follow_symlinks=False))
            return inner, sorted(Path(entry.path) for entry in shown if entry.is_file())
    except OSError:
        return [], []
