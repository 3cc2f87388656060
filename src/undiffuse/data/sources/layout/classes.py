"""The classes of images: from the names of their folders and files, or from labels that are given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.data.dataset import Indices
from undiffuse.data.readers.text import composed, readable
from undiffuse.data.sources.layout.splits import common_depth
from undiffuse.errors import UsageError

Label = int | str

MAX_CLASSES = 1_000_000  # stops a stray number from making a name for each number below it
_NUMBERED = re.compile(r"\d{5,}")  # 00000/, 01000/ ... of FFHQ and of StyleGAN's tools: storage, not classes
_PREFIX = re.compile(r"(?P<prefix>.+)[_-]\d+")


class Classes(NamedTuple):
    """The class index of each image and the classes' names; or ``None`` and none."""

    labels: Indices | None
    names: tuple[str, ...]


NO_CLASSES = Classes(None, ())


def folder_classes(images: Sequence[str], labels: str, location: Path) -> Iterator[str] | None:
    """The class of each image by the folder it lies in, or ``None`` where there are no classes.

    Sub-folders are counted below the deepest folder that holds all the images, so that an archive with one folder
    around everything reads the same.

    Args:
        images: their names, with slashes.
        labels: ``auto``, ``folders`` (of the first level) or ``leaf`` (the whole way to the deepest folder).
        location: for messages.

    Raises:
        UsageError: ``folders`` or ``leaf`` where an image lies in no sub-folder.
    """
    depth = _common_depth(images)
    if labels != "auto" and any(name.count("/") == depth for name in images):
        depth = max(depth - 1, 0)  # one class only: its folder is the one that all have in common
    if labels == "auto" and not _are_plain_classes(images, depth):
        return None
    loose = next((name for name in images if name.count("/") <= depth), None)
    if loose is not None:
        problem = f"labels={labels}, but {readable(loose)} lies in no sub-folder"
        raise UsageError(f"{location}: {problem}; move it or take data.labels=none")
    last = None if labels == "leaf" else depth + 1
    return ("/".join(name.split("/")[:-1][depth:last]) for name in images)


def _are_plain_classes(images: Sequence[str], depth: int) -> bool:
    """Whether every image lies exactly one level down, in folders that are not mere numbers of storage."""
    if any(name.count("/") != depth + 1 for name in images):
        return False
    return not all(_NUMBERED.fullmatch(folder) for folder in {name.split("/")[depth] for name in images})


def depth_note(images: Sequence[str]) -> dict[str, str]:
    """What might be classes where the folders lie too deep to be taken for such unasked, for a set's provenance."""
    depth = _common_depth(images)
    if any(name.count("/") < depth + 2 for name in images):
        return {}
    first = {name.split("/")[depth] for name in images}
    leaves = {name.rpartition("/")[0] for name in images}
    outer = f"data.labels=folders makes {len(first)} of the outer folders"
    text = f"none read: {outer}, data.labels=leaf {len(leaves)} of the inner"
    return {"classes_possible": text}


def prefix_of(name: str) -> str:
    """The class that a file's name says: all before its final ``_`` or ``-`` and number, as in ``cat_001.png``.

    Raises:
        UsageError: a name of another form.
    """
    stem = name.rpartition("/")[2].rpartition(".")[0]
    match = _PREFIX.fullmatch(stem)
    if match is None:
        raise UsageError("data.labels=prefix expects a name such as cat_001.png: a class, _ or -, and a number")
    return match["prefix"]


def _common_depth(images: Sequence[str]) -> int:
    """How many folders all the images have in common, counted from the root."""
    return common_depth({name.rpartition("/")[0] for name in images})


class LabelColumn:
    """The label of each image as it is found, numbered at the end; 8 bytes per image.

    Labels are all names or all whole numbers from 0; numbers are the class indices, and their classes are called so
    unless names are given. Names that look the same (accents composed or apart) are one class, and a name that is no
    text is called as it can be read.
    """

    def __init__(self) -> None:
        self._numbers: dict[Label, int] = {}
        self._labels: list[Label] = []
        self._first: dict[type, str] = {}
        self._looks: dict[str, str] = {}
        self._joined: dict[str, None] = {}
        self._no_text: dict[str, None] = {}

    def code(self, label: object, title: str) -> int:
        """The number that stands for a label until ``classes``.

        Raises:
            UsageError: no label of a class, or a name among numbers; the message begins with ``title``.
        """
        if isinstance(label, (list, tuple, dict, float)):
            raise UsageError(f"{title}: its label {str(label)[:40]} is no class; expected one whole number or name")
        if not isinstance(label, (int, str)) or isinstance(label, bool) or label == "":
            raise UsageError(f"{title}: its label {label!r} is no class; expected a whole number from 0 or a name")
        if isinstance(label, int) and not 0 <= label < MAX_CLASSES:
            shown = str(label)[:40]
            raise UsageError(f"{title}: its label {shown} is no class; expected a number in 0..{MAX_CLASSES - 1}")
        self._first.setdefault(type(label), title)
        if len(self._first) > 1:
            other = next(where for kind, where in self._first.items() if kind is not type(label))
            kinds = ("name", "number") if isinstance(label, str) else ("number", "name")
            raise UsageError(f"{title}: its label {label!r} is a {kinds[0]}, but that of {other} a {kinds[1]}")
        if isinstance(label, str) and not label.isascii():
            label = self._as_met_first(label)
        if label not in self._numbers:
            self._numbers[label] = len(self._labels)
            self._labels.append(label)
        return self._numbers[label]

    def _as_met_first(self, name: str) -> str:
        """The spelling in which a name of this look was met first."""
        if readable(name) != name:
            self._no_text[readable(name)] = None
        look = readable(composed(name))
        first = self._looks.setdefault(look, name)
        if first != name:
            self._joined[look] = None
        return first

    def label_of(self, code: int) -> Label:
        """The label that a number stands for."""
        return self._labels[code]

    @property
    def notes(self) -> dict[str, str]:
        """Which classes have names of one look, or names that are no text, for a set's provenance."""
        joined = f"{', '.join(self._joined)}: spelled in two ways (accents composed and apart), one class each"
        shown = f"{', '.join(self._no_text)}: names that are no text (UTF-8), called by their bytes as shown"
        notes = {"classes_joined": joined if self._joined else "", "classes_called": shown if self._no_text else ""}
        return {key: text for key, text in notes.items() if text}

    def _shown(self, label: Label) -> str:
        name = readable(str(label))
        return composed(name) if composed(name) in self._joined else name

    def classes(
        self, codes: npt.NDArray[np.integer[Any]], names: Sequence[str] = (), location: Path | str = ""
    ) -> Classes:
        """Class indices and names of images with these codes.

        Raises:
            UsageError: a number for which there is no name among ``names``.
        """
        known = list(self._numbers)
        if not known or len(codes) == 0:
            return NO_CLASSES
        if int in self._first:
            numbers = np.array(known, dtype=np.int64)
            largest = int(numbers[codes].max())
            if names and largest >= len(names):
                raise UsageError(f"{location}: label {largest}, but only {len(names)} names of classes")
            return Classes(numbers[codes], tuple(names) or tuple(map(str, range(largest + 1))))
        used = sorted({self._shown(known[code]) for code in np.unique(codes)})
        place = {name: index for index, name in enumerate(used)}
        order = np.array([place.get(self._shown(name), -1) for name in known], dtype=np.int64)
        return Classes(order[codes], tuple(used))
