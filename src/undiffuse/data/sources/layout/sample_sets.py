"""Sample sets, as written by ``undiffuse sample``, among the files of a source: their grids are not samples.

``samples.json`` records how each image was generated. It does not affect the pixels, but a sample set whose record was
changed is an error.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np

from undiffuse.checksums import CHECKSUM, is_modified, parse_json
from undiffuse.data.dataset import Indices
from undiffuse.data.sources.layout.captions import SidecarReader
from undiffuse.data.sources.layout.folder_files import Names
from undiffuse.data.sources.layout.ignored_items import Kind
from undiffuse.data.storage.skips import Skips
from undiffuse.errors import UsageError

RECORD, FIRST = "samples.json", "000000.png"
GRIDS = frozenset({"grid.png", "progressive.png"})
GRID = Kind("sample grid", "sample grids", warned=False)

#: Half a million rows; the checksum of a larger record is not verified.
_MAX_BYTES = 2**28
#: A record with this key was written with a checksum.
_SEALED_SINCE = "computed_with"
#: Keys of a row that differ between the samples.
_PER_SAMPLE = frozenset({"file", "row", "seed", "class"})
_NUM_NAMED = 3

_log = logging.getLogger("undiffuse.data")


def without_grids(reader: SidecarReader, names: Names, skips: Skips) -> tuple[Names, Indices]:
    """Remove the grids of sample sets from a listing; also return the indices of the remaining images.

    Raises:
        UsageError: unless ``skips`` skips it, if a record was changed after it was written.
    """
    every = np.arange(len(names.images))
    recorded = {name.removesuffix(RECORD) for name in names.others if split_name(name)[1] == RECORD}
    if not recorded:
        return names, every
    sets = valid_sets(reader, names.images, recorded, skips)
    kept = np.ones(len(every), dtype=bool)
    for row, name in enumerate(names.images):
        if is_grid(name, sets):
            names.left_out.add(GRID, name)
            kept[row] = False
    return names._replace(images=names.images.select(every[kept])), every[kept]


def valid_sets(reader: SidecarReader, images: Iterable[str], recorded: Set[str], skips: Skips) -> set[str]:
    """Folders, with their slash, that contain a sample set.

    Args:
        reader: reads the records.
        images: names of all images.
        recorded: folders with a file named like a record.
    Raises:
        UsageError: unless ``skips`` skips it, if a record was changed after it was written.
    """
    known = {FIRST, *GRIDS}
    sets = {folder for folder, file in map(split_name, images) if file in known} & recorded
    for folder in sorted(sets):
        try:
            if not _is_valid(reader, f"{folder}{RECORD}"):
                sets.discard(folder)
        except UsageError as error:
            skips.take(error)
    return sets


def is_grid(name: str, sets: Set[str]) -> bool:
    """Whether an image is the grid of a sample set in one of these folders."""
    folder, file = split_name(name)
    return file in GRIDS and folder in sets


def split_name(name: str) -> tuple[str, str]:
    """Split a name into the folder, with its slash, and the file."""
    folder, slash, file = name.rpartition("/")
    return folder + slash, file


def _is_valid(reader: SidecarReader, name: str) -> bool:
    """Whether the record is that of a sample set, unchanged.

    Raises:
        UsageError: if it is damaged, or was changed.
    """
    try:
        content = reader.read_sidecar(name, _MAX_BYTES)
    except UsageError as error:
        _log.warning("%s; its checksum is not verified", error)
        return True
    try:
        record = parse_json(content)
    except ValueError as error:
        raise UsageError(f"{reader.title_of(name)}: damaged after it was written ({error})") from None
    if not isinstance(record, dict):
        raise UsageError(f"{reader.title_of(name)}: damaged: expected a JSON object, got {type(record).__name__}")
    unsealed = CHECKSUM not in record and _SEALED_SINCE in record
    if unsealed or is_modified(record):
        inconsistent = list(_inconsistent_values(record))
        more = f"; and {len(inconsistent) - _NUM_NAMED} more" if len(inconsistent) > _NUM_NAMED else ""
        named = f" ({'; '.join(inconsistent[:_NUM_NAMED])}{more})" if inconsistent else ""
        raise UsageError(
            f"{reader.title_of(name)}: changed after it was written{named}: it does not match its checksum"
        )
    return "images" in record


def _inconsistent_values(record: Mapping[str, Any]) -> Iterator[str]:
    """Values that are inconsistent with the rest of the record, such as ``images[3].steps: 50 -> 51``.

    Values common to all samples are repeated in every row, and seeds ascend by one.
    """
    rows = record.get("images")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return
    for key in sorted(set().union(*rows) - _PER_SAMPLE):
        (usual, _), *_ = Counter(repr(row.get(key)) for row in rows).most_common(1)
        records = [("", record), *((f"images[{number}].", row) for number, row in enumerate(rows))]
        yield from (
            f"{where}{key}: {usual} -> {item.get(key)!r}" for where, item in records if repr(item.get(key)) != usual
        )
    for number, row in enumerate(rows):
        if row.get("file") != f"{number:06d}.png":
            yield f"images[{number}].file: '{number:06d}.png' -> {row.get('file')!r}"
    seeds = [row.get("seed") for row in rows]
    starts = Counter(seed - number for number, seed in enumerate(seeds) if isinstance(seed, int))
    first = starts.most_common(1)[0][0] if starts else 0
    for number, seed in enumerate(seeds):
        if seed != first + number:
            yield f"images[{number}].seed: {first + number} -> {seed!r}"
