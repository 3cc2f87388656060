"""LSUN's LMDB folders, such as ``church_outdoor_train_lmdb/data.mdb``, whose values are encoded images.

Published by Yu, Seff, Zhang, Song, Funkhouser and Xiao (2015, arXiv:1506.03365): one database per category and split;
keys are hashes of the images in hex, values the files (WebP; JPEG in some copies).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import LmdbConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.readers.lmdb_pages import Values, read_values
from undiffuse.data.storage.encoded import load_encoded
from undiffuse.data.storage.encoded_files import EncodedFiles
from undiffuse.data.storage.skips import Skips
from undiffuse.errors import UsageError

MAX_IMAGE_BYTES = 2**28
_FOLDER = re.compile(r"(?P<category>.+?)(_(?P<split>train|val|test))?_lmdb")


class LmdbFiles(EncodedFiles):
    """Values of several databases, one database after another.

    Args:
        location: path given by the user.
        files: the databases.
        values: index of the values of each database.
    """

    def __init__(self, location: Path, files: Sequence[FileAt], values: Sequence[Values]) -> None:
        super().__init__(location)
        self._files, self._values = list(files), list(values)
        self._ends = np.cumsum([len(found.keys) for found in values])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def title(self, index: int) -> str:
        number, row = self._locate(index)
        return f"{self._files[number].path}!{self._values[number].keys[row]}"

    def read(self, index: int) -> bytes:
        number, row = self._locate(index)
        start, size = self._values[number].places[row].tolist()
        if size > MAX_IMAGE_BYTES:
            raise UsageError(f"{self.title(index)}: {size} bytes exceed the limit of {MAX_IMAGE_BYTES} for an image")
        content = self._files[number].read(start, size)
        if len(content) != size:
            raise UsageError(f"{self.title(index)}: cut short; fetch the file again")
        return content

    def release(self) -> None:
        for file in self._files:
            file.close()

    def _locate(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - (int(self._ends[number - 1]) if number else 0)


def load(config: LmdbConfig) -> Dataset:
    """Load the images of one database in the order of their keys, or of several, whose categories are the classes.

    Raises:
        UsageError: if there is no database, or (unless ``on_error=skip``) a database or an image is damaged; the
            message names file and key.
    """
    skips = Skips(config.on_error)
    found = [(path, *database) for path in _databases(config) if (database := _open(path, skips)) is not None]
    if not found or not any(len(values.keys) for _, _, values in found):
        skips.check_images_left(0, 0) if skips.count else None
        raise UsageError(f"{config.location}: no images in the database; expected LSUN's keys and images")
    files = LmdbFiles(config.location, [file for _, file, _ in found], [values for *_, values in found])
    names = [_category(path) for path, *_ in found]
    labels, classes = _labels([len(values.keys) for *_, values in found], names)
    if config.labels == "none" or len(classes) < 2:
        labels, classes = None, ()
    about = {"categories": ", ".join(sorted(set(names))), **_unread_note(config, [path for path, *_ in found])}
    return load_encoded(config, files, labels, classes, None, about, skips)


def _unread_note(config: LmdbConfig, used: Sequence[Path]) -> dict[str, str]:
    """Provenance note on the databases of a folder that are not read."""
    others = sorted(set(_subfolders(config.location)) - set(used)) if len(_subfolders(config.location)) > 1 else []
    unused = ", ".join(path.name for path in others)
    read = ", ".join(path.name for path in used)
    return (
        {"splits": f"databases by split: {read} used, {unused} left out (data.split= selects others)"} if others else {}
    )


def _labels(counts: Sequence[int], names: Sequence[str]) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    classes = tuple(sorted(set(names)))
    return np.repeat([classes.index(name) for name in names], counts).astype(np.int64), classes


def _open(path: Path, skips: Skips) -> tuple[FileAt, Values] | None:
    try:
        file = FileAt(path / "data.mdb" if path.is_dir() else path)
        return file, read_values(file)
    except UsageError as error:
        skips.take(error)
        return None


def _databases(config: LmdbConfig) -> list[Path]:
    """The database at the location, or the databases of a split in that folder."""
    location = config.location
    if location.is_file() or (location / "data.mdb").is_file():
        known = _split(location if location.is_dir() else location.parent)
        if config.split is not None and known and known != config.split:
            raise UsageError(f"{location}: is of the split {known!r}, not {config.split!r}; name another folder")
        return [location]
    subfolders = _subfolders(location)
    if not subfolders:
        raise UsageError(
            f"{location}: no LMDB database; expected data.mdb, or folders such as church_outdoor_train_lmdb"
        )
    requested = config.split or (
        "train" if any(_split(path) == "train" for path in subfolders) else _split(subfolders[0])
    )
    chosen = [path for path in subfolders if _split(path) == requested]
    if not chosen:
        raise UsageError(
            f"{location}: no folder of the split {requested!r}; it has {', '.join(p.name for p in subfolders)}"
        )
    return chosen


def _subfolders(location: Path) -> list[Path]:
    """Databases in the subfolders of a folder."""
    return sorted(path.parent for path in location.glob("*_lmdb/data.mdb")) if location.is_dir() else []


def _category(path: Path) -> str:
    folder = path.parent if path.is_file() else path
    match = _FOLDER.fullmatch(folder.resolve().name)
    return folder.resolve().name if match is None else match["category"]


def _split(folder: Path) -> str:
    match = _FOLDER.fullmatch(folder.resolve().name)
    return "" if match is None else match["split"] or ""
