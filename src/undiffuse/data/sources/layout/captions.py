"""Captions and labels of images, from annotation files next to them.

The most specific source takes precedence: the caption of an image is that of its ``.txt`` file (``x.txt`` or
``x.png.txt``), else of its ``.json`` file, else of its line in ``metadata.jsonl`` or ``metadata.csv``; its label is
that of its ``.json`` file, else of its line in ``metadata.jsonl`` or ``metadata.csv``, else in ``dataset.json``. A list
with two labels for an image is an error; the captions of several lines are alternatives, as are the lines of a
``.txt`` file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.captions import alternatives_of, join_alternatives
from undiffuse.data.config import TreeConfig
from undiffuse.data.dataset import Indices
from undiffuse.data.readers.text import composed
from undiffuse.data.sources.layout.caption_column import caption_column
from undiffuse.data.sources.layout.classes import Classes, LabelColumn, depth_note, folder_classes, prefix_of
from undiffuse.data.sources.layout.folder_files import Names, is_image_file
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
_LISTS = (DATASET, METADATA_CSV, METADATA)  # in ascending precedence
_TABLES = frozenset({METADATA, DATASET, "metadata.json", "manifest.json", "package.json", "info.json", "config.json"})


class SidecarReader(ABC):
    """Reads the annotation files next to images, in a folder or an archive."""

    location: Path

    @abstractmethod
    def read_sidecar(self, name: str, max_bytes: int) -> bytes:
        """Read the content of the file with this name.

        Raises:
            UsageError: if it cannot be read, or is longer than ``max_bytes`` bytes; the message starts with its title.
        """

    @abstractmethod
    def title_of(self, name: str) -> str:
        """Name of the file in messages."""


class AnnotatedFiles(NamedTuple):
    """Selected images, by their index in the listing, with their labels and captions."""

    rows: Indices
    classes: Classes
    captions: StringArray | None
    notes: dict[str, str]
    unused: StringArray  # names of other files that annotate no image


def annotate(reader: SidecarReader, names: Names, config: TreeConfig, skips: Skips) -> AnnotatedFiles:
    """Read the labels and captions of listed images, as configured.

    Images without the label that others have, and captions or labels without an image, are reported to ``skips``.

    Raises:
        UsageError: if ``skips`` raises; if requested labels are missing; if a list is damaged.
    """
    split_folders = Folders(names.images, config.split, reader.location)
    chosen = (
        np.fromiter(map(split_folders.includes, names.images), np.bool_) if not split_folders.includes_all else None
    )
    annotations = _Annotations(reader, names, config, skips, chosen)
    notes = dict(split_folders.notes)
    if config.labels == "metadata" and not annotations.labelled:
        raise UsageError(
            f"{reader.location}: labels=metadata, but neither {DATASET} nor {METADATA} nor a .json file next to an "
            "image gives a label; choose another, data.labels=folders, leaf, prefix or none"
        )
    if config.labels in ("folders", "leaf") or (config.labels == "auto" and not annotations.has_labels_source):
        paths = (
            annotations.paths
            if split_folders.includes_all
            else StringArray(map(split_folders.class_path, annotations.paths))
        )
        folders = folder_classes(paths, config.labels, reader.location)
        if folders is not None:
            annotations.label_all(folders)
        else:
            notes |= depth_note(paths)
    if config.labels == "prefix":
        annotations.label_all(_prefixes(annotations.paths))
    rows = annotations.complete_rows()
    captions, about_captions = caption_column(annotations.captions, annotations.caption_of[rows])
    classes = annotations.column.classes(annotations.codes, annotations.class_names, reader.location)
    labels = classes.labels if classes.labels is None or len(rows) == len(names.images) else classes.labels[rows]
    notes |= {**annotations.column.notes, **about_captions}
    return AnnotatedFiles(rows, Classes(labels, classes.names), captions, notes, annotations.unused)


def _prefixes(images: Sequence[str]) -> Iterator[str | UsageError]:
    for name in images:
        try:
            yield prefix_of(name)
        except UsageError as error:
            yield error


class _Annotations:
    """Labels and captions by index of the image in the listing; -1 if there is none."""

    def __init__(
        self,
        reader: SidecarReader,
        names: Names,
        config: TreeConfig,
        skips: Skips,
        chosen: npt.NDArray[np.bool_] | None,
    ) -> None:
        self._reader, self._images, self._skips = reader, names.images, skips
        count = len(names.images)
        self._absent = np.zeros(count, dtype=bool) if chosen is None else ~chosen
        self.captions, self.caption_of = StringArray(), np.full(count, -1, dtype=np.int32)
        self.column, self.codes = LabelColumn(), np.full(count, -1, dtype=np.int32)
        self._rejected = self._absent.copy()
        self.class_names: tuple[str, ...] = ()
        self._others, self._was_read = names.others, np.zeros(len(names.others), dtype=bool)
        self.has_labels_source = False  # a label or a list of labels was found; the list may be empty
        self._use_labels = config.labels in ("auto", "metadata")
        self._use_captions = config.captions == "auto"
        if self._use_labels or self._use_captions:
            self._read()

    @property
    def unused(self) -> StringArray:
        """The other files that were not read for an image."""
        return self._others.select(np.flatnonzero(~self._was_read))

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return bool((self.codes >= 0).any())

    @property
    def paths(self) -> StringArray:
        """Names of the images of the selected split."""
        return self._images.select(np.flatnonzero(~self._absent)) if self._absent.any() else self._images

    def label_all(self, labels: Iterable[str | UsageError]) -> None:
        """Label each image of the selected split from its name, or reject it."""
        self.column = LabelColumn()
        for index, label in zip(np.flatnonzero(~self._absent).tolist(), labels, strict=True):
            title = self._title(index)
            if isinstance(label, UsageError):
                self._reject(index, UsageError(f"{title}: {label}"))
            else:
                self.codes[index] = self.column.code(label, title)

    def complete_rows(self) -> Indices:
        """Indices of the images that have a label if any image has one."""
        return complete_rows({"label": self.codes}, self._rejected, self._title, self._skips)

    def _title(self, index: int) -> str:
        return self._reader.title_of(self._images[index])

    def _reject(self, index: int, error: UsageError) -> None:
        self._skips.take(error)
        self._rejected[index] = True

    def _read(self) -> None:
        """Read from the least to the most specific source, so that the most specific one is applied last."""
        lists = [row for row, name in enumerate(self._others) if name.rpartition("/")[2] in _LISTS]
        index_of = StringIndex.of(self._images if lists else (), composed)
        for row in sorted(lists, key=self._rank_of_list):
            self._was_read[row] = self._read_list(self._others[row], index_of)
        for ending in (".json", ".txt"):
            self._read_sidecars(ending)

    def _rank_of_list(self, row: int) -> tuple[int, int, str]:
        name = self._others[row]
        return _LISTS.index(name.rpartition("/")[2]), name.count("/"), name

    def _read_list(self, name: str, index_of: StringIndex) -> bool:
        """Apply the entries of a list; ``False`` if it is a file of another kind."""
        folder, _, basename = name.rpartition("/")
        title = self._reader.title_of(name)
        lines = self._lines(basename, self._reader.read_sidecar(name, MAX_LIST_BYTES), folder, title)
        entries = _ListEntries(len(self._images)) if lines is not None else None
        for line in lines or ():
            index = self._index_of(line.image, index_of)
            if index is None:
                self._skips.take(UsageError(f"{title}: lists {line.image}, but there is no such image"))
            elif not self._absent[index] and entries is not None and self._agrees(index, line, entries, title):
                annotation = self._with_earlier_captions(line.annotation, entries.of(index)[2])
                self._add_annotation(index, annotation, f"{title}: {line.image}")
                entries.add(index, line, int(self.codes[index]), int(self.caption_of[index]))
        return lines is not None

    def _index_of(self, image: str, index_of: StringIndex) -> int | None:
        """Index of the image with this name, else of one whose name differs only in Unicode normalization."""
        alike = list(index_of.all_of(composed(image)))
        return next((index for index in alike if self._images[index] == image), alike[0] if alike else None)

    def _agrees(self, index: int, line: Line, entries: _ListEntries, title: str) -> bool:
        """Whether no earlier line of the list gives another label; an image with two labels is rejected."""
        earlier, code, _ = entries.of(index)
        word = "entry" if title.endswith(DATASET) else "line"
        if self._use_labels and code >= 0 and line.annotation.label is not None:
            label = self.column.label_of(code)
            if composed(str(label)) != composed(str(line.annotation.label)):
                where = f"{label!r} in {word} {earlier}, {line.annotation.label!r} in {word} {line.number}"
                self._reject(index, UsageError(f"{title}: gives {line.image} two labels: {where}"))
                return False
        return True

    def _with_earlier_captions(self, annotation: Annotation, earlier: int) -> Annotation:
        """The annotation of a line, with the captions of earlier lines of the same list for the image."""
        if not self._use_captions or earlier < 0 or annotation.caption is None:
            return annotation
        captions = [*alternatives_of(self.captions[earlier]), *alternatives_of(annotation.caption)]
        return annotation._replace(caption=join_alternatives(captions))

    def _lines(self, basename: str, content: bytes, folder: str, title: str) -> Iterable[Line] | None:
        if basename == METADATA:
            return read_metadata(content, folder, title, self._skips.take)
        if basename == METADATA_CSV:
            return read_metadata_csv(content, folder, title, self._skips.take)
        found = read_dataset_json(content, folder, title) if self._use_labels else None
        if found is None:
            return None
        self.has_labels_source, self.class_names = True, found.class_names
        return found.labels

    def _read_sidecars(self, ending: str) -> None:
        """Read the annotation files named like images; such a file without an image is an error."""
        if not self._use_captions and ending != ".json":
            return
        rows = [row for row, name in enumerate(self._others) if name.lower().endswith(ending) and not is_document(name)]
        targets = [self._others[row][: -len(ending)] for row in rows]
        by_stem = StringIndex.of(self._images if targets else (), lambda name: composed(_stem(name)))
        by_name = StringIndex.of(self._images if any(map(is_image_file, targets)) else (), composed)
        owners = [[*by_stem.all_of(composed(target)), *by_name.all_of(composed(target))] for target in targets]
        used = {target.rpartition("/")[0] for target, indices in zip(targets, owners, strict=True) if indices}
        for row, target, indices in zip(rows, targets, owners, strict=True):
            name = self._others[row]
            if not indices and target.rpartition("/")[0] in used:
                self._skips.take(UsageError(f"{self._reader.title_of(name)}: an annotation file without an image"))
            self._was_read[row] = bool(indices)
            for index in indices:
                self._read_annotation(index, name)

    def _read_annotation(self, index: int, name: str) -> None:
        if self._absent[index]:
            return
        title = self._reader.title_of(name)
        try:
            content = self._reader.read_sidecar(name, MAX_SIDECAR_BYTES)
            if name.lower().endswith(".txt"):
                annotation = Annotation(caption_text(content, title), None)
            else:
                annotation = annotation_in(parse_json(content, title), title)
        except UsageError as error:
            self._reject(index, error)
        else:
            self._add_annotation(index, annotation, title)

    def _add_annotation(self, index: int, annotation: Annotation, title: str) -> None:
        if self._use_captions and annotation.caption is not None:
            self.caption_of[index] = len(self.captions)
            self.captions.append(annotation.caption)
        if self._use_labels and annotation.label is not None:
            try:
                self.codes[index] = self.column.code(annotation.label, title)
                self.has_labels_source = True
            except UsageError as error:
                self._reject(index, error)


class _ListEntries:
    """Last line of a list for each image, with its label and caption: twelve bytes per image."""

    def __init__(self, count: int) -> None:
        self._lines = np.zeros((count, 3), dtype=np.int32)  # zeros: untouched memory is not allocated

    def add(self, index: int, line: Line, code: int, caption: int) -> None:
        """Record an applied line, with the codes of its label and caption."""
        annotation = line.annotation
        self._lines[index] = (
            line.number,
            code + 1 if annotation.label is not None else self._lines[index, 1],
            caption + 1 if annotation.caption is not None else self._lines[index, 2],
        )

    def of(self, index: int) -> tuple[int, int, int]:
        """(line number, code of the label, index of the caption) of an image; -1 if it has none."""
        number, code, caption = self._lines[index].tolist()
        return number, code - 1, caption - 1


def complete_rows(
    columns: Mapping[str, npt.NDArray[np.integer[Any]]],
    rejected: npt.NDArray[np.bool_],
    title_of: Callable[[int], str],
    skips: Skips,
) -> Indices:
    """Indices of the images that have every annotation that any image has; the others are reported to ``skips``.

    Args:
        columns: (N,) codes of each kind of annotation, -1 if an image has none.
        rejected: (N,) mask of images that are already left out.
        title_of: name of an image in messages.
        skips: receives the errors of incomplete images.
    """
    missing = np.zeros(len(rejected), dtype=bool)
    for what, numbers in columns.items():
        lacking = (numbers < 0) & ~rejected & ~missing if (numbers >= 0).any() else missing[:0]
        for index in np.flatnonzero(lacking):
            title = title_of(int(index))
            skips.take(UsageError(f"{title}: has no {what} though others have one (data.{what}s=none reads none)"))
            missing[index] = True
    rows = np.flatnonzero(~rejected & ~missing)
    skips.check_images_left(len(rows), len(rejected))
    return rows


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def is_document(name: str) -> bool:
    """Whether a file documents the whole data set, judged by its name."""
    basename = name.rpartition("/")[2].lower()
    return basename in _TABLES or basename.rpartition(".")[0] in _DOCUMENTS
