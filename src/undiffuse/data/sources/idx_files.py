"""Finding IDX files by name and recognizing them by their first bytes. Imports neither torch nor numpy.

The published names are ``train-images-idx3-ubyte.gz`` with ``train-labels-idx1-ubyte.gz``, ``t10k-...`` for the test
files, and ``emnist-balanced-train-images-idx3-ubyte.gz`` and similar names with ``test``; some copies have a dot
instead of the dash before ``idx``.
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import NamedTuple

from undiffuse.errors import UsageError

_NAME = re.compile(
    r"(?P<set>.*?)(?P<split>train|t10k|test)(?P<kind>[-_.]images)(?P<tail>[-.]idx3-ubyte)(?P<gz>\.gz)?", re.IGNORECASE
)


class IdxFiles(NamedTuple):
    """Pair of files of one split; ``labels`` is ``None`` if there is no label file."""

    images: Path
    labels: Path | None


def looks_like_idx(path: Path) -> bool:
    """Whether the file starts like an IDX file, gzipped or not."""
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if gzipped else path.open("rb") as file:
            magic = file.read(4)
    except (OSError, EOFError, zlib.error):
        return _NAME.fullmatch(path.name) is not None  # damaged, but named like one: the reader reports the error
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in range(0x08, 0x0F) and 1 <= magic[3] <= 8


def has_idx_files(folder: Path) -> bool:
    """Whether a folder contains image files with IDX names."""
    return any(_NAME.fullmatch(path.name) for path in folder.iterdir() if path.is_file())


def find_idx_files(path: Path, split: str | None) -> IdxFiles:
    """Find the image and label files of a split at ``path`` (a folder or file).

    Raises:
        UsageError: if the path does not exist, there is no file of the split, or a folder contains several sets.
    """
    if path.is_dir():
        images = _in_folder(path, split or "train")
    elif path.is_file():
        images = _sibling(path, split)
    else:
        raise UsageError(f"{path}: no such file or folder; expected MNIST-format (IDX) files there")
    return IdxFiles(images, _labels_of(images))


def _in_folder(folder: Path, split: str) -> Path:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):  # "x" sorts before "x.gz", and the first is used
        match = _NAME.fullmatch(path.name)
        if match and path.is_file() and _split_of(match) == split:
            found.setdefault(match["set"].lower(), path)
    if not found:
        others = [path for path in sorted(folder.iterdir()) if _NAME.fullmatch(path.name) and path.is_file()]
        instead = f", or name {others[0]} itself to use it" if others else ""
        raise UsageError(
            f"{folder} has no IDX images of the split {split!r}; expected a file such as "
            f"{'t10k' if split == 'test' else 'train'}-images-idx3-ubyte.gz there{instead}"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found.values())
        raise UsageError(f"{folder} contains several IDX sets ({names}); name the file of one of them")
    return next(iter(found.values()))


def _sibling(path: Path, split: str | None) -> Path:
    """The file itself, or the file of the requested split next to it."""
    match = _NAME.fullmatch(path.name)
    if split is None or match is None or _split_of(match) == split:
        return path
    for word in ("train",) if split == "train" else ("t10k", "test"):
        for ending in ("", ".gz"):
            other = path.with_name(f"{match['set']}{word}{match['kind']}{match['tail']}{ending}")
            if other.is_file():
                return other
    raise UsageError(f"{path} is of the split {_split_of(match)!r} and there is no {split!r} file next to it")


def _labels_of(images: Path) -> Path | None:
    stem = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    if "images" not in images.name:
        return None
    candidates = [images.with_name(stem), images.with_name(stem + ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _split_of(match: re.Match[str]) -> str:
    return "train" if match["split"].lower() == "train" else "test"
