"""Finding the shards of a table for a path and a split. Imports neither pyarrow nor numpy.

Hugging Face's names are ``train-00000-of-00002.parquet`` (a hash may follow the count), ``data-00000-of-00001.arrow``
in a folder for each split, and ``mnist-train.arrow`` in its cache.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from undiffuse.data.sources.layout.published_files import TABLES, is_table, table_folders
from undiffuse.data.sources.layout.splits import ALL, TRAIN, matches_split
from undiffuse.errors import UsageError

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?")


class Shard(NamedTuple):
    """File of a table with the split and number from its name; a single file is number 0 of 1."""

    path: Path
    split: str
    number: int
    of: int


class TableShards(NamedTuple):
    """Shards that are read, in order; those of other splits; and provenance notes on the selection."""

    paths: list[Path]
    others: list[Path]
    notes: dict[str, str]


def find_tables(location: Path, split: str | None, take: Callable[[UsageError], None]) -> TableShards:
    """Find the shards of a split, in order; a file is its only shard.

    Args:
        location: a file or folder.
        split: name of the split, case-insensitive, a synonym (``validation`` for ``val``), or ``all``; ``None``
            selects ``train``, or the only split.
        take: called with an error if numbered shards are missing.

    Raises:
        UsageError: if there is no table, or no such split.
    """
    if location.is_file():
        return TableShards([location], [], {})
    if not location.is_dir():
        raise UsageError(f"{location}: no such file or folder; expected Parquet or Arrow tables")
    shards = [_shard(path, folder, location) for folder in table_folders(location) for path in _tables_in(folder)]
    if not shards:
        raise UsageError(f"{location}: no tables in this folder; expected files that end in {' or '.join(TABLES)}")
    counts = Counter(shard.split for shard in shards)
    selected = _selected_splits(counts, split, location)
    chosen = sorted((s for s in shards if s.split in selected), key=lambda s: (s.split, s.of, s.number, s.path))
    for name in sorted(selected):
        _note_missing(location, [shard for shard in chosen if shard.split == name], take)
    others = [shard.path for shard in shards if shard.split not in selected]
    return TableShards([shard.path for shard in chosen], others, _notes(counts, selected))


def _selected_splits(counts: Mapping[str, int], split: str | None, location: Path) -> set[str]:
    """Names of the selected splits."""
    if split == ALL and ALL not in counts:
        return set(counts)
    if split is None and len(counts) == 1:
        return set(counts)
    name = split or TRAIN
    matches_by_rule = [
        {found for found in counts if matches(found)}
        for matches in (
            lambda found: found == name,
            lambda found: found.casefold() == name.casefold(),
            lambda found: matches_split(found, name),
        )
    ]
    selected = next(filter(None, matches_by_rule), None)
    if selected is None:
        choices = ", ".join(sorted(counts))
        raise UsageError(f"{location}: no table of the split {name!r}; choose one of data.split={choices}")
    return selected


def _notes(counts: Mapping[str, int], selected: set[str]) -> dict[str, str]:
    if len(counts) < 2:
        return {}
    used, left = (
        ", ".join(f"{name} ({counts[name]:,})" for name in sorted(counts) if (name in selected) is is_used)
        for is_used in (True, False)
    )
    text = f"tables by split: {used} used" + (
        f", {left} left out (data.split=NAME selects another, or all)" if left else ""
    )
    return {"splits": text}


def _tables_in(folder: Path) -> list[Path]:
    return sorted(filter(is_table, folder.iterdir()))


def _shard(path: Path, folder: Path, root: Path) -> Shard:
    """Parse the file name; in a subfolder, the split is named like the folder."""
    match = _SHARD.fullmatch(path.stem)
    stem = path.stem if match is None else match["stem"]
    named = folder.name if folder not in (root, root / "data") else stem.rpartition("-")[2]
    return Shard(path, named, *((0, 1) if match is None else (int(match["number"]), int(match["count"]))))


def _note_missing(location: Path, shards: list[Shard], take: Callable[[UsageError], None]) -> None:
    for count in sorted({shard.of for shard in shards} - {1}):
        found = {shard.number for shard in shards if shard.of == count}
        missing = [number for number in range(min(count, 100_000)) if number not in found]
        if missing:
            first = f"{missing[0]:05}-of-{count:05}"
            take(UsageError(f"{location}: {len(missing)} of {count} shards are missing, the first {first}; fetch them"))
