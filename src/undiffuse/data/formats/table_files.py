"""Which shards of a table a path and a split mean. Imports neither pyarrow nor numpy.

Hugging Face's names are ``train-00000-of-00002.parquet`` (a hash may follow the count), ``data-00000-of-00001.arrow``
in a folder for each split, and ``mnist-train.arrow`` in its cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from undiffuse.data.formats.published_files import TABLES, table_folders
from undiffuse.errors import UsageError

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?")


class Shard(NamedTuple):
    """A file of a table, by what its name says; a file alone is number 0 of 1."""

    path: Path
    split: str
    number: int
    of: int


def find_tables(location: Path, split: str | None, take: Callable[[UsageError], None]) -> list[Path]:
    """The shards of a split, in their order; a file is itself.

    Args:
        location: a file or folder.
        split: as its shards call it; ``None`` takes ``train``, or the only one.
        take: is given what is missing among numbered shards.

    Raises:
        UsageError: nothing there, or no such split.
    """
    if location.is_file():
        return [location]
    if not location.is_dir():
        raise UsageError(f"{location}: no such file or folder; expected Parquet or Arrow tables")
    shards = [_shard(path, folder, location) for folder in table_folders(location) for path in _tables_in(folder)]
    if not shards:
        raise UsageError(f"{location}: no tables in this folder; expected files that end in {' or '.join(TABLES)}")
    splits = sorted({shard.split for shard in shards})
    wanted = split or ("train" if len(splits) > 1 else splits[0])
    chosen = sorted((shard for shard in shards if shard.split == wanted), key=lambda s: (s.of, s.number, s.path))
    if not chosen:
        raise UsageError(f"{location}: no table of the split {wanted!r}; take one of split={', '.join(splits)}")
    _tell_missing(location, chosen, take)
    return [shard.path for shard in chosen]


def _tables_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in TABLES and path.is_file() and not path.name.startswith(".")
    )


def _shard(path: Path, folder: Path, root: Path) -> Shard:
    """In a folder of its own, a split is called like the folder."""
    match = _SHARD.fullmatch(path.stem)
    stem = path.stem if match is None else match["stem"]
    named = folder.name if folder not in (root, root / "data") else stem.rpartition("-")[2]
    return Shard(path, named, *((0, 1) if match is None else (int(match["number"]), int(match["count"]))))


def _tell_missing(location: Path, shards: list[Shard], take: Callable[[UsageError], None]) -> None:
    for count in sorted({shard.of for shard in shards} - {1}):
        found = {shard.number for shard in shards if shard.of == count}
        missing = [number for number in range(min(count, 100_000)) if number not in found]
        if missing:
            first = f"{missing[0]:05}-of-{count:05}"
            take(UsageError(f"{location}: {len(missing)} of {count} shards are missing, the first {first}; fetch them"))
