"""Captions and labels of images, from the files next to them.

For each image the nearest word counts: its caption is that of the ``.txt`` file of its name (``x.txt`` or
``x.png.txt``), else of the ``.json`` file of its name, else of its line in ``metadata.jsonl`` or ``metadata.csv``; its
label that of its ``.json`` file, else of its line in ``metadata.jsonl`` or ``metadata.csv``, else in ``dataset.json``.
A list that gives an image two labels is refused; of two captions the last is taken, and the others are counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import TreeConfig
from undiffuse.data.dataset import Indices
from undiffuse.data.readers.text import composed
from undiffuse.data.sources.layout.classes import Classes, LabelColumn, depth_note, folder_classes, prefix_of
from undiffuse.data.sources.layout.folder_files import Names, is_image_file
from undiffuse.data.sources.layout.left_out import Kind
from undiffuse.data.sources.layout.metadata import (
    DATASET,
    MAX_LIST_BYTES,
    MAX_SIDECAR_BYTES,
    METADATA,
    METADATA_CSV,
    Annotation,
    Line,
    annotation_in,
    caption_text,
    parse_json,
    read_dataset_json,
    read_metadata,
    read_metadata_csv,
)
from undiffuse.data.sources.layout.splits import Folders
from undiffuse.data.storage.skips import Skips
from undiffuse.data.storage.string_array import StringArray, StringIndex
from undiffuse.errors import UsageError

_DOCUMENTS = frozenset(
    {"readme", "license", "licence", "copying", "copyright", "notice", "changelog", "citation", "authors"}
)
_LISTS = (DATASET, METADATA_CSV, METADATA)  # the last one counts
_TABLES = frozenset({METADATA, DATASET, "metadata.json", "manifest.json", "package.json", "info.json", "config.json"})


EARLIER_CAPTION = Kind("caption of an image that has a later one", "captions of images that have a later one")


class SidecarReader(ABC):
    """Where the small texts among some images are read from: a folder, or an archive of one."""

    location: Path

    @abstractmethod
    def read_sidecar(self, name: str, most: int) -> bytes:
        """The content of the file of this name.

        Raises:
            UsageError: it cannot be read, or is longer than ``most`` bytes; the message begins with its title.
        """

    @abstractmethod
    def title_of(self, name: str) -> str:
        """What to call the file in a message."""


class AnnotatedFiles(NamedTuple):
    """The images that are kept, by their place in the listing, and what is known of them."""

    rows: Indices
    classes: Classes
    captions: StringArray | None
    notes: dict[str, str]
    unread: StringArray  # names of other files that tell nothing of an image


def annotate(reader: SidecarReader, names: Names, config: TreeConfig, skips: Skips) -> AnnotatedFiles:
    """Labels and captions of listed images, as the configuration asks for them.

    An image without the caption or label that others have, and a caption or label without its image, is given to
    ``skips``.

    Raises:
        UsageError: what ``skips`` does not take; labels that are asked for and not there; a damaged list.
    """
    parts = Folders(names.images, config.split, reader.location)
    chosen = np.fromiter(map(parts.takes, names.images), np.bool_) if not parts.all_taken else None
    annotations = _Annotations(reader, names, config, skips, chosen)
    notes = dict(parts.notes)
    if config.labels == "metadata" and not annotations.labelled:
        raise UsageError(
            f"{reader.location}: labels=metadata, but neither {DATASET} nor {METADATA} nor a .json file next to an "
            "image gives a label; take another, data.labels=folders, leaf, prefix or none"
        )
    if config.labels in ("folders", "leaf") or (config.labels == "auto" and not annotations.decided):
        paths = annotations.paths if parts.all_taken else StringArray(map(parts.class_path, annotations.paths))
        folders = folder_classes(paths, config.labels, reader.location)
        if folders is not None:
            annotations.label_all(folders)
        else:
            notes |= depth_note(paths)
    if config.labels == "prefix":
        annotations.label_all(_prefixes(annotations.paths))
    rows = annotations.complete_rows()
    captions = annotations.captions.select(annotations.caption_of[rows]) if annotations.captions else None
    classes = annotations.column.classes(annotations.codes, annotations.class_names, reader.location)
    labels = classes.labels if classes.labels is None or len(rows) == len(names.images) else classes.labels[rows]
    notes |= annotations.column.notes
    return AnnotatedFiles(rows, Classes(labels, classes.names), captions, notes, annotations.unread)


def _prefixes(images: Sequence[str]) -> Iterator[str | UsageError]:
    for name in images:
        try:
            yield prefix_of(name)
        except UsageError as error:
            yield error


class _Annotations:
    """What is found, by the image's place in the listing: -1 where nothing is."""

    def __init__(
        self,
        reader: SidecarReader,
        names: Names,
        config: TreeConfig,
        skips: Skips,
        chosen: npt.NDArray[np.bool_] | None,
    ) -> None:
        self._reader, self._images, self._skips, self._left_out = reader, names.images, skips, names.left_out
        count = len(names.images)
        self._absent = np.zeros(count, dtype=bool) if chosen is None else ~chosen
        self.captions, self.caption_of = StringArray(), np.full(count, -1, dtype=np.int32)
        self.column, self.codes = LabelColumn(), np.full(count, -1, dtype=np.int32)
        self._rejected = self._absent.copy()
        self.class_names: tuple[str, ...] = ()
        self._others, self._was_read = names.others, np.zeros(len(names.others), dtype=bool)
        self.decided = False  # there is a list of labels, which may say that there are none
        self._wants_labels = config.labels in ("auto", "metadata")
        self._wants_captions = config.captions == "auto"
        if self._wants_labels or self._wants_captions:
            self._read()

    @property
    def unread(self) -> StringArray:
        """The other files that were not read for an image."""
        return self._others.select(np.flatnonzero(~self._was_read))

    @property
    def labelled(self) -> bool:
        """Whether a label is known of any image."""
        return bool((self.codes >= 0).any())

    @property
    def paths(self) -> StringArray:
        """The names of the images that are wanted."""
        return self._images.select(np.flatnonzero(~self._absent)) if self._absent.any() else self._images

    def label_all(self, labels: Iterable[str | UsageError]) -> None:
        """Give each image that is wanted the label that its own name says, or reject it."""
        self.column = LabelColumn()
        for place, label in zip(np.flatnonzero(~self._absent).tolist(), labels, strict=True):
            title = self._title(place)
            if isinstance(label, UsageError):
                self._reject(place, UsageError(f"{title}: {label}"))
            else:
                self.codes[place] = self.column.code(label, title)

    def complete_rows(self) -> Indices:
        """The places of the images that have all that others have."""
        columns = {"label": self.codes, "caption": self.caption_of}
        return complete_rows(columns, self._rejected, self._title, self._skips)

    def _title(self, place: int) -> str:
        return self._reader.title_of(self._images[place])

    def _reject(self, place: int, error: UsageError) -> None:
        self._skips.take(error)
        self._rejected[place] = True

    def _read(self) -> None:
        """From the farthest to the nearest, so that the nearest word is the last."""
        lists = [row for row, name in enumerate(self._others) if name.rpartition("/")[2] in _LISTS]
        place_of = StringIndex.of(self._images if lists else (), composed)
        for row in sorted(lists, key=self._rank_of_list):
            self._was_read[row] = self._read_list(self._others[row], place_of)
        for ending in (".json", ".txt"):
            self._read_sidecars(ending)

    def _rank_of_list(self, row: int) -> tuple[int, int, str]:
        name = self._others[row]
        return _LISTS.index(name.rpartition("/")[2]), name.count("/"), name

    def _read_list(self, name: str, place_of: StringIndex) -> bool:
        """Take up what a list says; ``False`` where it is a file of another kind."""
        folder, _, basename = name.rpartition("/")
        title = self._reader.title_of(name)
        lines = self._lines(basename, self._reader.read_sidecar(name, MAX_LIST_BYTES), folder, title)
        listed = _Listed(len(self._images)) if lines is not None else None
        for line in lines or ():
            place = self._place(line.image, place_of)
            if place is None:
                self._skips.take(UsageError(f"{title}: names {line.image}, and there is no such image"))
            elif not self._absent[place] and listed is not None and self._agrees(place, line, listed, title):
                self._note(place, line.annotation, f"{title}: {line.image}")
                listed.add(place, line, int(self.codes[place]), int(self.caption_of[place]))
        return lines is not None

    def _place(self, image: str, place_of: StringIndex) -> int | None:
        """Of the image of this name, else of one whose name looks the same."""
        alike = list(place_of.all_of(composed(image)))
        return next((place for place in alike if self._images[place] == image), alike[0] if alike else None)

    def _agrees(self, place: int, line: Line, listed: _Listed, title: str) -> bool:
        """Whether an earlier line of the list, if any, gives no other label; an image with two is rejected."""
        earlier, code, caption = listed.of(place)
        word = "entry" if title.endswith(DATASET) else "line"
        if self._wants_labels and code >= 0 and line.annotation.label is not None:
            label = self.column.label_of(code)
            if composed(str(label)) != composed(str(line.annotation.label)):
                where = f"{label!r} in {word} {earlier}, {line.annotation.label!r} in {word} {line.number}"
                self._reject(place, UsageError(f"{title}: gives {line.image} two labels: {where}"))
                return False
        if self._wants_captions and caption >= 0 and line.annotation.caption not in (None, self.captions[caption]):
            self._left_out.add(EARLIER_CAPTION, f"{line.image} ({word}s {earlier} and {line.number} of {title})")
        return True

    def _lines(self, basename: str, content: bytes, folder: str, title: str) -> Iterable[Line] | None:
        if basename == METADATA:
            return read_metadata(content, folder, title, self._skips.take)
        if basename == METADATA_CSV:
            return read_metadata_csv(content, folder, title, self._skips.take)
        found = read_dataset_json(content, folder, title) if self._wants_labels else None
        if found is None:
            return None
        self.decided, self.class_names = True, found.class_names
        return found.labels

    def _read_sidecars(self, ending: str) -> None:
        """Files of the images' own names; another such file among them lacks its image."""
        if not self._wants_captions and ending != ".json":
            return
        rows = [row for row, name in enumerate(self._others) if name.lower().endswith(ending) and not is_document(name)]
        notes = [self._others[row][: -len(ending)] for row in rows]
        by_stem = StringIndex.of(self._images if notes else (), lambda name: composed(_stem(name)))
        by_name = StringIndex.of(self._images if any(map(is_image_file, notes)) else (), composed)
        owners = [[*by_stem.all_of(composed(note)), *by_name.all_of(composed(note))] for note in notes]
        used = {note.rpartition("/")[0] for note, places in zip(notes, owners, strict=True) if places}
        for row, note, places in zip(rows, notes, owners, strict=True):
            name = self._others[row]
            if not places and note.rpartition("/")[0] in used:
                self._skips.take(
                    UsageError(f"{self._reader.title_of(name)}: lies among notes on images without its image")
                )
            self._was_read[row] = bool(places)
            for place in places:
                self._read_note(place, name)

    def _read_note(self, place: int, name: str) -> None:
        if self._absent[place]:
            return
        title = self._reader.title_of(name)
        try:
            content = self._reader.read_sidecar(name, MAX_SIDECAR_BYTES)
            if name.lower().endswith(".txt"):
                annotation = Annotation(caption_text(content, title), None)
            else:
                annotation = annotation_in(parse_json(content, title), title)
        except UsageError as error:
            self._reject(place, error)
        else:
            self._note(place, annotation, title)

    def _note(self, place: int, annotation: Annotation, title: str) -> None:
        if self._wants_captions and annotation.caption is not None:
            self.caption_of[place] = len(self.captions)
            self.captions.append(annotation.caption)
        if self._wants_labels and annotation.label is not None:
            try:
                self.codes[place] = self.column.code(annotation.label, title)
                self.decided = True
            except UsageError as error:
                self._reject(place, error)


class _Listed:
    """Which line of a list spoke of each image last, and its annotation: twelve bytes per image."""

    def __init__(self, count: int) -> None:
        self._lines = np.zeros((count, 3), dtype=np.int32)  # of nothing: memory that is not touched is not taken

    def add(self, place: int, line: Line, code: int, caption: int) -> None:
        """A line that was taken up, with the numbers that stand for its label and its caption."""
        annotation = line.annotation
        self._lines[place] = (
            line.number,
            code + 1 if annotation.label is not None else self._lines[place, 1],
            caption + 1 if annotation.caption is not None else self._lines[place, 2],
        )

    def of(self, place: int) -> tuple[int, int, int]:
        """(number of the line, number of its label, of its caption) of an image; -1 where it had none."""
        number, code, caption = self._lines[place].tolist()
        return number, code - 1, caption - 1


def complete_rows(
    columns: Mapping[str, npt.NDArray[np.integer[Any]]],
    rejected: npt.NDArray[np.bool_],
    title_of: Callable[[int], str],
    skips: Skips,
) -> Indices:
    """The places of the images that have all that others have; the rest is given to ``skips``.

    Args:
        columns: of each thing that an image may have, (N,) numbers that are -1 where it has none.
        rejected: (N,) which are left out already.
        title_of: what to call an image.
        skips: what takes the others.
    """
    missing = np.zeros(len(rejected), dtype=bool)
    for what, numbers in columns.items():
        lacking = (numbers < 0) & ~rejected & ~missing if (numbers >= 0).any() else missing[:0]
        for place in np.flatnonzero(lacking):
            title = title_of(int(place))
            skips.take(UsageError(f"{title}: has no {what} though others have one (data.{what}s=none reads none)"))
            missing[place] = True
    rows = np.flatnonzero(~rejected & ~missing)
    skips.check_images_left(len(rows), len(rejected))
    return rows


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def is_document(name: str) -> bool:
    """Whether a file tells of the whole set, by its name."""
    basename = name.rpartition("/")[2].lower()
    return basename in _TABLES or basename.rpartition(".")[0] in _DOCUMENTS
