"""Classes of images, from the names of their folders and files or from given labels."""

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

MAX_CLASSES = 1_000_000  # prevents a stray large number from creating a name for every smaller one
_NUMBERED = re.compile(r"\d{5,}")  # 00000/, 01000/ ... as in FFHQ and StyleGAN's tools: storage folders, not classes
_PREFIX = re.compile(r"(?P<prefix>.+)[_-]\d+")


class Classes(NamedTuple):
    """Class index of each image and class names; ``None`` and empty if there are no classes."""

    labels: Indices | None
    names: tuple[str, ...]


NO_CLASSES = Classes(None, ())


def folder_classes(images: Sequence[str], labels: str, location: Path) -> Iterator[str] | None:
    """Class of each image by its folder, or ``None`` if there are no classes.

    Levels are counted below the deepest folder that contains all images, so that a single folder around everything
    makes no difference.

    Args:
        images: relative paths, with slashes.
        labels: ``auto``, ``folders`` (of the first level) or ``leaf`` (the full path to the deepest folder).
        location: for messages.

    Raises:
        UsageError: for ``folders`` or ``leaf``, if an image is not in a sub-folder.
    """
    depth = _common_depth(images)
    if labels != "auto" and any(name.count("/") == depth for name in images):
        depth = max(depth - 1, 0)  # a single class: its folder is the common one
    if labels == "auto" and not _are_plain_classes(images, depth):
        return None
    loose = next((name for name in images if name.count("/") <= depth), None)
    if loose is not None:
        problem = f"labels={labels}, but {readable(loose)} is not in a sub-folder"
        raise UsageError(f"{location}: {problem}; move it or set data.labels=none")
    last = None if labels == "leaf" else depth + 1
    return ("/".join(name.split("/")[:-1][depth:last]) for name in images)


def _are_plain_classes(images: Sequence[str], depth: int) -> bool:
    """Whether every image is exactly one level down, in folders that are not numbered storage folders."""
    if any(name.count("/") != depth + 1 for name in images):
        return False
    return not all(_NUMBERED.fullmatch(folder) for folder in {name.split("/")[depth] for name in images})


def depth_note(images: Sequence[str]) -> dict[str, str]:
    """Provenance note on possible classes if the folders are too deep to be read as classes by default."""
    depth = _common_depth(images)
    if any(name.count("/") < depth + 2 for name in images):
        return {}
    first = {name.split("/")[depth] for name in images}
    leaves = {name.rpartition("/")[0] for name in images}
    outer = f"data.labels=folders gives {len(first)} classes (outer folders)"
    text = f"none read: {outer}, data.labels=leaf {len(leaves)} (inner folders)"
    return {"classes_possible": text}


def prefix_of(name: str) -> str:
    """Class from a file name: everything before the final ``_`` or ``-`` and number, as in ``cat_001.png``.

    Raises:
        UsageError: if the name has another form.
    """
    stem = name.rpartition("/")[2].rpartition(".")[0]
    match = _PREFIX.fullmatch(stem)
    if match is None:
        raise UsageError("data.labels=prefix expects a name such as cat_001.png: a class, _ or -, and a number")
    return match["prefix"]


def _common_depth(images: Sequence[str]) -> int:
    """Number of leading folders that all images share."""
    return common_depth({name.rpartition("/")[0] for name in images})


class LabelColumn:
    """Encodes the labels of images as integer codes, and converts them to class indices at the end.

    Labels are either all names or all integers from 0; integers are the class indices, which also name the classes
    unless class names are given. Names that differ only in Unicode normalization are one class, and a name that is not
    valid UTF-8 is displayed with its bytes escaped.
    """

    def __init__(self) -> None:
        self._numbers: dict[Label, int] = {}
        self._labels: list[Label] = []
        self._first: dict[type, str] = {}
        self._spellings: dict[str, str] = {}
        self._merged: dict[str, None] = {}
        self._non_utf8: dict[str, None] = {}

    def code(self, label: object, title: str) -> int:
        """Code of a label, for ``classes``.

        Raises:
            UsageError: if it is not a valid label, or names and numbers are mixed; the message starts with ``title``.
        """
        if isinstance(label, (list, tuple, dict, float)):
            raise UsageError(f"{title}: its label {str(label)[:40]} is not a class; expected one whole number or name")
        if not isinstance(label, (int, str)) or isinstance(label, bool) or label == "":
            raise UsageError(f"{title}: its label {label!r} is not a class; expected a whole number from 0 or a name")
        if isinstance(label, int) and not 0 <= label < MAX_CLASSES:
            shown = str(label)[:40]
            raise UsageError(f"{title}: its label {shown} is not a class; expected a number in 0..{MAX_CLASSES - 1}")
        self._first.setdefault(type(label), title)
        if len(self._first) > 1:
            other = next(where for kind, where in self._first.items() if kind is not type(label))
            kinds = ("name", "number") if isinstance(label, str) else ("number", "name")
            raise UsageError(f"{title}: its label {label!r} is a {kinds[0]}, but that of {other} a {kinds[1]}")
        if isinstance(label, str) and not label.isascii():
            label = self._first_spelling(label)
        if label not in self._numbers:
            self._numbers[label] = len(self._labels)
            self._labels.append(label)
        return self._numbers[label]

    def _first_spelling(self, name: str) -> str:
        """First spelling of this name, up to Unicode normalization."""
        if readable(name) != name:
            self._non_utf8[readable(name)] = None
        normalized = readable(composed(name))
        first = self._spellings.setdefault(normalized, name)
        if first != name:
            self._merged[normalized] = None
        return first

    def label_of(self, code: int) -> Label:
        """Return the label of a code."""
        return self._labels[code]

    @property
    def notes(self) -> dict[str, str]:
        """Provenance notes on classes merged by Unicode normalization and on names that are not valid UTF-8."""
        merged = f"{', '.join(self._merged)}: spelled in two ways (accents composed and decomposed), one class each"
        shown = f"{', '.join(self._non_utf8)}: names that are not valid UTF-8, shown with their bytes escaped"
        notes = {"classes_joined": merged if self._merged else "", "classes_called": shown if self._non_utf8 else ""}
        return {key: text for key, text in notes.items() if text}

    def _display_name(self, label: Label) -> str:
        name = readable(str(label))
        return composed(name) if composed(name) in self._merged else name

    def classes(
        self, codes: npt.NDArray[np.integer[Any]], names: Sequence[str] = (), location: Path | str = ""
    ) -> Classes:
        """Class indices and class names of images with these codes.

        Raises:
            UsageError: if a number has no name in ``names``.
        """
        known = list(self._numbers)
        if not known or len(codes) == 0:
            return NO_CLASSES
        if int in self._first:
            numbers = np.array(known, dtype=np.int64)
            largest = int(numbers[codes].max())
            if names and largest >= len(names):
                raise UsageError(f"{location}: label {largest}, but only {len(names)} class names")
            return Classes(numbers[codes], tuple(names) or tuple(map(str, range(largest + 1))))
        used = sorted({self._display_name(known[code]) for code in np.unique(codes)})
        place = {name: index for index, name in enumerate(used)}
        order = np.array([place.get(self._display_name(name), -1) for name in known], dtype=np.int64)
        return Classes(order[codes], tuple(used))
