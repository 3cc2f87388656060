"""What is written about pictures in files beside them: a caption, a label.

For each picture the nearest word counts: its caption is that of the ``.txt`` file of its name, else of the ``.json``
file of its name, else of its line in ``metadata.jsonl``; its label that of its ``.json`` file, else of its line in
``metadata.jsonl``, else in ``dataset.json``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import TreeConfig
from undiffuse.data.encoded import Skips
from undiffuse.data.formats.classes import Classes, LabelColumn, depth_remark, folder_classes, prefix_of
from undiffuse.data.formats.folder_files import Names
from undiffuse.data.formats.metadata import (
    DATASET,
    MAX_LIST_BYTES,
    MAX_NOTE_BYTES,
    METADATA,
    Said,
    caption_text,
    parse_json,
    read_dataset_json,
    read_metadata,
    said_in,
)
from undiffuse.data.source import Indices
from undiffuse.data.texts import TextIndex, Texts
from undiffuse.errors import UsageError

_DOCUMENTS = frozenset(
    {"readme", "license", "licence", "copying", "copyright", "notice", "changelog", "citation", "authors"}
)
_TABLES = frozenset({METADATA, DATASET, "metadata.json", "manifest.json", "package.json", "info.json", "config.json"})


class NoteReader(ABC):
    """Where the small texts among some pictures are read from: a folder, or an archive of one."""

    location: Path

    @abstractmethod
    def read_note(self, name: str, most: int) -> bytes:
        """The content of the file of this name.

        Raises:
            UsageError: it cannot be read, or is longer than ``most`` bytes; the message begins with its title.
        """

    @abstractmethod
    def title_of(self, name: str) -> str:
        """What to call the file in a message."""


class Annotated(NamedTuple):
    """The pictures that are kept, by their place in the listing, and what is known of them."""

    rows: Indices
    classes: Classes
    captions: Texts | None
    remarks: dict[str, str]
    num_notes: int  # files that were read for it


def annotate(reader: NoteReader, names: Names, config: TreeConfig, skips: Skips) -> Annotated:
    """Labels and captions of listed pictures, as the configuration asks for them.

    A picture without the caption or label that others have, and a caption or label without its picture, is given to
    ``skips``.

    Raises:
        UsageError: what ``skips`` does not take; labels that are asked for and not there; a damaged list.
    """
    notes = _Notes(reader, names, config, skips)
    remarks: dict[str, str] = {}
    if config.labels == "metadata" and not notes.labelled:
        raise UsageError(
            f"{reader.location}: labels=metadata, but neither {DATASET} nor {METADATA} nor a .json file beside a "
            "picture gives a label; take another of labels=folders, leaf, prefix, none"
        )
    if config.labels in ("folders", "leaf") or (config.labels == "auto" and not notes.decided):
        folders = folder_classes(names.pictures, config.labels, reader.location)
        if folders is not None:
            notes.label_all(folders)
        else:
            remarks = depth_remark(names.pictures)
    if config.labels == "prefix":
        notes.label_all(_prefixes(names.pictures))
    rows = notes.complete_rows()
    captions = notes.captions.select(notes.caption_of[rows]) if notes.captions else None
    classes = notes.column.classes(notes.codes, notes.class_names, reader.location)
    labels = classes.labels if classes.labels is None or len(rows) == len(names.pictures) else classes.labels[rows]
    return Annotated(rows, Classes(labels, classes.names), captions, remarks, notes.num_read)


def _prefixes(pictures: Sequence[str]) -> Iterator[str | UsageError]:
    for name in pictures:
        try:
            yield prefix_of(name)
        except UsageError as error:
            yield error


class _Notes:
    """What is found, by the picture's place in the listing: -1 where nothing is."""

    def __init__(self, reader: NoteReader, names: Names, config: TreeConfig, skips: Skips) -> None:
        self._reader, self._pictures, self._skips = reader, names.pictures, skips
        count = len(names.pictures)
        self.captions, self.caption_of = Texts(), np.full(count, -1, dtype=np.int32)
        self.column, self.codes = LabelColumn(), np.full(count, -1, dtype=np.int32)
        self._rejected = np.zeros(count, dtype=bool)
        self.class_names: tuple[str, ...] = ()
        self.num_read = 0
        self.decided = False  # there is a list of labels, which may say that there are none
        self._wants_labels = config.labels in ("auto", "metadata")
        self._wants_captions = config.captions == "auto"
        if self._wants_labels or self._wants_captions:
            self._read(names.others)

    @property
    def labelled(self) -> bool:
        """Whether a label is known of any picture."""
        return bool((self.codes >= 0).any())

    def label_all(self, labels: Iterable[str | UsageError]) -> None:
        """Give each picture the label that its own name says, or reject it."""
        self.column = LabelColumn()
        for place, label in enumerate(labels):
            title = self._title(place)
            if isinstance(label, UsageError):
                self._reject(place, UsageError(f"{title}: {label}"))
            else:
                self.codes[place] = self.column.code(label, title)

    def complete_rows(self) -> Indices:
        """The places of the pictures that have all that others have."""
        columns = {"label": self.codes, "caption": self.caption_of}
        return complete_rows(columns, self._rejected, self._title, self._skips)

    def _title(self, place: int) -> str:
        return self._reader.title_of(self._pictures[place])

    def _reject(self, place: int, error: UsageError) -> None:
        self._skips.take(error)
        self._rejected[place] = True

    def _read(self, others: Texts) -> None:
        """From the farthest to the nearest, so that the nearest word is the last."""
        lists = [name for name in others if name.rpartition("/")[2] in (DATASET, METADATA)]
        place_of = TextIndex.of(self._pictures if lists else ())
        for name in sorted(lists, key=lambda name: (name.rpartition("/")[2] != DATASET, name.count("/"), name)):
            self._read_list(name, place_of)
        for ending in (".json", ".txt"):
            self._read_beside(others, ending)

    def _read_list(self, name: str, place_of: TextIndex) -> None:
        folder, _, basename = name.rpartition("/")
        title, content = self._reader.title_of(name), self._reader.read_note(name, MAX_LIST_BYTES)
        self.num_read += 1
        for picture, said in self._lines(basename, content, folder, title):
            place = place_of.first(picture)
            if place is None:
                self._skips.take(UsageError(f"{title}: names {picture}, and there is no such picture"))
            else:
                self._note(place, said, f"{title}: {picture}")

    def _lines(self, basename: str, content: bytes, folder: str, title: str) -> Iterable[tuple[str, Said]]:
        if basename == METADATA:
            return read_metadata(content, folder, title, self._skips.take)
        found = read_dataset_json(content, folder, title) if self._wants_labels else None
        if found is None:
            return ()
        self.decided, self.class_names = True, found.class_names
        return ((name, Said(None, label)) for name, label in found.labels.items())

    def _read_beside(self, others: Texts, ending: str) -> None:
        """Files of the pictures' own names; another such file among them lacks its picture."""
        if not self._wants_captions and ending != ".json":
            return
        chosen = (row for row, name in enumerate(others) if name.lower().endswith(ending) and not is_document(name))
        notes = others.select(np.fromiter(chosen, np.int64))
        places = TextIndex.of(self._pictures if notes else (), _stem)
        used = {name.rpartition("/")[0] for name in notes if places.first(name[: -len(ending)]) is not None}
        for name in notes:
            owners = list(places.all_of(name[: -len(ending)]))
            if not owners and name.rpartition("/")[0] in used:
                self._skips.take(
                    UsageError(f"{self._reader.title_of(name)}: lies among notes on pictures without its picture")
                )
            self.num_read += bool(owners)
            for place in owners:
                self._read_note(place, name)

    def _read_note(self, place: int, name: str) -> None:
        title = self._reader.title_of(name)
        try:
            content = self._reader.read_note(name, MAX_NOTE_BYTES)
            if name.lower().endswith(".txt"):
                said = Said(caption_text(content, title), None)
            else:
                said = said_in(parse_json(content, title), title)
        except UsageError as error:
            self._reject(place, error)
        else:
            self._note(place, said, title)

    def _note(self, place: int, said: Said, title: str) -> None:
        if self._wants_captions and said.caption is not None:
            self.caption_of[place] = len(self.captions)
            self.captions.append(said.caption)
        if self._wants_labels and said.label is not None:
            try:
                self.codes[place] = self.column.code(said.label, title)
                self.decided = True
            except UsageError as error:
                self._reject(place, error)


def complete_rows(
    columns: Mapping[str, npt.NDArray[np.integer[Any]]],
    rejected: npt.NDArray[np.bool_],
    title_of: Callable[[int], str],
    skips: Skips,
) -> Indices:
    """The places of the pictures that have all that others have; the rest is given to ``skips``.

    Args:
        columns: of each thing that a picture may have, (N,) numbers that are -1 where it has none.
        rejected: (N,) which are left out already.
        title_of: what to call a picture.
        skips: what takes the others.
    """
    missing = np.zeros(len(rejected), dtype=bool)
    for what, numbers in columns.items():
        lacking = (numbers < 0) & ~rejected & ~missing if (numbers >= 0).any() else missing[:0]
        for place in np.flatnonzero(lacking):
            title = title_of(int(place))
            skips.take(UsageError(f"{title}: has no {what} though others have one ({what}s=none reads none)"))
            missing[place] = True
    rows = np.flatnonzero(~rejected & ~missing)
    skips.refuse_nothing_left(len(rows), len(rejected))
    return rows


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def is_document(name: str) -> bool:
    """Whether a file tells of the whole set, by its name."""
    basename = name.rpartition("/")[2].lower()
    return basename in _TABLES or basename.rpartition(".")[0] in _DOCUMENTS
