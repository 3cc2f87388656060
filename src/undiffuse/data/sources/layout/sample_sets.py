"""Sample sets, as ``undiffuse sample`` writes them, among the files of a source: their grids are no samples.

``samples.json`` says of each image how it was made. It bears on no pixel, but a set whose record was changed is not
measured as if nothing had happened.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np

from undiffuse.data.dataset import Indices
from undiffuse.data.sources.layout.captions import SidecarReader
from undiffuse.data.sources.layout.folder_files import Names
from undiffuse.data.sources.layout.left_out import Kind
from undiffuse.data.storage.skips import Skips
from undiffuse.errors import UsageError
from undiffuse.sealed import CHECKSUM, is_changed, parse_json

RECORD, FIRST = "samples.json", "000000.png"
SHEETS = frozenset({"grid.png", "progressive.png"})
SHEET = Kind("sheet of samples", "sheets of samples", warned=False)

#: Half a million rows; more are not parsed for a checksum.
_MOST_BYTES = 2**28
#: A record that has this key was written with a checksum.
_SEALED_SINCE = "computed_with"
#: Of a row, what is its own.
_OWN = frozenset({"file", "row", "seed", "class"})
_NAMED = 3

_log = logging.getLogger("undiffuse.data")


def without_grids(reader: SidecarReader, names: Names, skips: Skips) -> tuple[Names, Indices]:
    """The listing without the grids of the sample sets in it, and the places of the images that are kept.

    Raises:
        UsageError: unless ``skips`` takes it, a record that was changed after it was written; says which value.
    """
    every = np.arange(len(names.images))
    recorded = {name.removesuffix(RECORD) for name in names.others if split_name(name)[1] == RECORD}
    if not recorded:
        return names, every
    sets = valid_sets(reader, names.images, recorded, skips)
    kept = np.ones(len(every), dtype=bool)
    for row, name in enumerate(names.images):
        if is_grid(name, sets):
            names.left_out.add(SHEET, name)
            kept[row] = False
    return names._replace(images=names.images.select(every[kept])), every[kept]


def valid_sets(reader: SidecarReader, images: Iterable[str], recorded: Set[str], skips: Skips) -> set[str]:
    """The folders, with their slash, that hold a sample set.

    Args:
        reader: of the records.
        images: names of all images.
        recorded: folders with a file called as the record is.
    Raises:
        UsageError: unless ``skips`` takes it, a record that was changed after it was written; says which value.
    """
    known = {FIRST, *SHEETS}
    sets = {folder for folder, file in map(split_name, images) if file in known} & recorded
    for folder in sorted(sets):
        try:
            if not _is_valid(reader, f"{folder}{RECORD}"):
                sets.discard(folder)
        except UsageError as error:
            skips.take(error)
    return sets


def is_grid(name: str, sets: Set[str]) -> bool:
    """Whether an image is a grid of one of the sample sets in these folders."""
    folder, file = split_name(name)
    return file in SHEETS and folder in sets


def split_name(name: str) -> tuple[str, str]:
    """The folder, with its slash, and the file."""
    folder, slash, file = name.rpartition("/")
    return folder + slash, file


def _is_valid(reader: SidecarReader, name: str) -> bool:
    """Whether the record is one of ours, as it was written.

    Raises:
        UsageError: it is damaged, or was changed.
    """
    try:
        content = reader.read_sidecar(name, _MOST_BYTES)
    except UsageError as error:
        _log.warning("%s; it is not compared with its checksum", error)
        return True
    try:
        record = parse_json(content)
    except ValueError as error:
        raise UsageError(f"{reader.title_of(name)}: damaged after it was written ({error})") from None
    if not isinstance(record, dict):
        raise UsageError(f"{reader.title_of(name)}: damaged: expected a JSON object, got {type(record).__name__}")
    unsealed = CHECKSUM not in record and _SEALED_SINCE in record
    if unsealed or is_changed(record):
        odd = list(_odd_values(record))
        more = f"; and {len(odd) - _NAMED} more" if len(odd) > _NAMED else ""
        named = f" ({'; '.join(odd[:_NAMED])}{more})" if odd else ""
        raise UsageError(
            f"{reader.title_of(name)}: changed after it was written{named}: it does not match its checksum"
        )
    return "images" in record


def _odd_values(record: Mapping[str, Any]) -> Iterator[str]:
    """``images[3].steps: 50 -> 51`` where a value is not what the rest of the record says it was.

    All that the samples have in common stands in every row too, and seeds ascend by one.
    """
    rows = record.get("images")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return
    for key in sorted(set().union(*rows) - _OWN):
        (usual, _), *_ = Counter(repr(row.get(key)) for row in rows).most_common(1)
        records = [("", record), *((f"images[{number}].", row) for number, row in enumerate(rows))]
        yield from (
            f"{where}{key}: {usual} -> {said.get(key)!r}" for where, said in records if repr(said.get(key)) != usual
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
