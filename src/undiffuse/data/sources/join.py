"""Several sets of images of the same things as one, such as emoji of several vendors or drawings in several styles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.captions import alternatives_of, join_alternatives
from undiffuse.data.config.join import JoinConfig
from undiffuse.data.dataset import Dataset, hash_item
from undiffuse.data.sources.layout.folder_files import is_shown
from undiffuse.data.sources.layout.ignored_items import IgnoredItems, Kind
from undiffuse.data.sources.layout.name_list import Entry, NameList, read_name_list, words_of_stem
from undiffuse.data.storage.encoded import load_encoded
from undiffuse.data.storage.encoded_files import EncodedFiles
from undiffuse.data.storage.listing import FileListing
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError
from undiffuse.wording import count_noun

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".parquet")
_SPLIT_BYTES = 8  # leading bytes of a hash, which decide the split
_UNNAMED = Kind("image that is not in the list of names", "images that are not in the list of names")

#: Lists the images of a part: its place and ``on_error`` to a data set.
ListPart = Callable[[Path, str], Dataset]


class JoinedFiles(EncodedFiles):
    """The images of several parts, one part after the other.

    Args:
        location: the folder of the parts.
        parts: files of each part.
        table: (N, 2) int64: part, index of the image in it.
        names: name of each image, which decides its split.
    """

    def __init__(
        self, location: Path, parts: Sequence[EncodedFiles], table: npt.NDArray[np.int64], names: StringArray
    ) -> None:
        super().__init__(location)
        self._parts, self._table, self._names = parts, table, names

    def __len__(self) -> int:
        return len(self._table)

    def read(self, index: int) -> bytes:
        part, row = self._place(index)
        return part.read(row)

    def title(self, index: int) -> str:
        part, row = self._place(index)
        return part.title(row)

    def source(self, index: int) -> Path | bytes:
        part, row = self._place(index)
        return part.source(row)

    def split_hash(self, index: int) -> bytes:
        return hash_item(self._names[index].encode())[:_SPLIT_BYTES]

    def release(self) -> None:
        for part in self._parts:
            part.release()

    def _place(self, index: int) -> tuple[EncodedFiles, int]:
        part, row = self._table[index].tolist()
        return self._parts[part], row


class _Image(NamedTuple):
    """An image of a part, and what it shows."""

    row: int
    entry: Entry


def load(config: JoinConfig, list_part: ListPart) -> Dataset:
    """Load the images of all parts, one part after the other.

    Args:
        config: the parts, the list of names and the templates.
        list_part: lists the images of a part.

    Raises:
        UsageError: a part or the list is missing, a part holds no encoded images, no image is in the list, or the
            reader of a part raises.
    """
    path = config.names_location
    names = None if path is None else read_name_list(path, config.ignored_words)
    places = _places(config)
    listed = {name: _listed(list_part(path, config.on_error), path) for name, path in places.items()}
    left_out, found, counts = IgnoredItems(), list[tuple[int, str, _Image]](), dict[str, str]()
    for number, (name, part) in enumerate(listed.items()):
        images = list(_images(part, names, config.ignored_words, left_out))
        counts[name] = f"{name}: {count_noun(len(images))} of {len(part):,}"
        found += [(number, name, image) for image in images]
    if not found:
        raise UsageError(f"{config.location}: no image is in the list {config.names}; its keys must be file names")
    table = np.array([(number, image.row) for number, _, image in found], dtype=np.int64)
    keys = StringArray(image.entry.name.casefold() for _, _, image in found)
    files = JoinedFiles(config.location, [part.files for part in listed.values()], table, keys)
    texts = None
    if config.captions == "auto":
        texts = StringArray(_captions(config.templates, part, image.entry) for _, part, image in found)
    about = {"parts": "; ".join(counts.values()), "names": f"{len(set(keys)):,} different", **left_out.notes}
    labels, class_names = (table[:, 0], tuple(listed)) if config.labels == "auto" else (None, ())
    return load_encoded(config, files, labels, class_names, texts, about)


def _places(config: JoinConfig) -> dict[str, Path]:
    """Name and location of each part."""
    root = config.location
    if not root.is_dir():
        raise UsageError(f"{root}: {'a file' if root.exists() else 'no such folder'}; expected the folder of the parts")
    if config.parts:
        places = {name: root / Path(place).expanduser() for name, place in config.parts.items()}
        for name, path in places.items():
            if not path.exists():
                raise UsageError(f"{path}: no such file or folder; expected the part {name!r} of data.parts")
        return places
    found = [path for path in sorted(root.iterdir()) if is_shown(path.name) and _can_be_part(path)]
    if not found:
        raise UsageError(f"{root}: no sub-folders or archives; expected one for each part")
    return {_part_name(path): path for path in found}


def _can_be_part(path: Path) -> bool:
    return path.is_dir() or path.name.lower().endswith(_ARCHIVES)


def _part_name(path: Path) -> str:
    ending = next((ending for ending in _ARCHIVES if path.is_file() and path.name.lower().endswith(ending)), "")
    return path.name[: len(path.name) - len(ending)]


def _listed(part: Dataset, path: Path) -> FileListing:
    if not isinstance(part, FileListing):
        raise UsageError(f"{path}: an array of images; the parts of a join are folders, archives or tables of images")
    return part


def _images(
    part: FileListing, names: NameList | None, ignored_words: Sequence[str], left_out: IgnoredItems
) -> Iterator[_Image]:
    captions = part.captions or StringArray([""] * len(part))
    for row, caption in enumerate(captions):
        title = part.files.title(row)
        stem = PurePosixPath(title.rpartition("!")[2].replace("\\", "/")).stem
        if names is None:
            yield _Image(row, Entry(caption or words_of_stem(stem, ignored_words), ()))
        elif (entry := names.find(stem, alternatives_of(caption)[0])) is not None:
            yield _Image(row, entry)
        else:
            left_out.add(_UNNAMED, PurePosixPath(title).name)


def _captions(templates: Sequence[str], part: str, entry: Entry) -> str:
    """The captions of an image: each template with each of its names."""
    tags = ", ".join(entry.tags)
    usable = [template for template in templates if tags or "{tags}" not in template]
    return join_alternatives(
        template.replace("{part}", part).replace("{name}", name).replace("{tags}", tags)
        for template in usable
        for name in alternatives_of(entry.name)
    )
