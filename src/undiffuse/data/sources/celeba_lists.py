"""CelebA's lists: the forty attributes of each face, and its split.

Layout of ``list_attr_celeba.txt`` and ``CelebAMask-HQ-attribute-anno.txt``: a line with the number of faces, a line
with the names of the attributes, then one line per face: its file and 1 or -1 for each attribute.
``list_eval_partition.txt``: one line per face: its file and 0 (train), 1 (validation) or 2 (test). Kaggle's copies
are CSV tables with a header, ``image_id,5_o_Clock_Shadow,...`` and ``image_id,partition``. Liu, Luo, Wang and Tang
(2015, arXiv:1411.7766).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.data.readers.text import as_utf8
from undiffuse.errors import UsageError

MAX_BYTES = 2**28
_FIRST_COLUMN = "image_id"
_PARTITION = {"0": "train", "1": "validation", "2": "test"}
Take = Callable[[UsageError], None]


class Attributes(NamedTuple):
    """Attribute names, the row of each file, and the (N, num_names) attribute mask."""

    names: list[str]
    row_of: dict[str, int]
    has: npt.NDArray[np.bool_]

    def caption(self, row: int) -> str:
        """Caption that lists the attributes of a face: ``arched eyebrows, smiling, young``."""
        held = [self.names[place].replace("_", " ").lower() for place in np.flatnonzero(self.has[row])]
        return ", ".join(held) or "no attributes"


def read_attributes(content: bytes, title: str, take: Take) -> Attributes:
    """Parse the list of attributes.

    Args:
        content: content of the file.
        title: name of the file in messages.
        take: called with the error of an invalid line; the line is skipped if it returns.

    Raises:
        UsageError: if the file is of another kind, or its number of lines does not match its first line.
    """
    names, rows = _table(list(_lines(content, title)), title)
    row_of: dict[str, int] = {}
    has = np.zeros((len(rows), len(names)), dtype=bool)
    for number, line in rows:
        file, *values = _values(line)
        if len(values) != len(names) or not set(values) <= {"1", "-1", "0"}:
            take(UsageError(f"{title} line {number}: expected a file and 1 or -1 for each of {len(names)} attributes"))
        elif file in row_of:
            take(UsageError(f"{title} line {number}: {file} is listed twice"))
        else:
            has[len(row_of)] = np.array(values) == "1"
            row_of[file] = len(row_of)
    return Attributes(names, row_of, has[: len(row_of)])


def read_partition(content: bytes, title: str, take: Take) -> dict[str, str]:
    """Parse the split of each file; a file with two splits is reported to ``take`` and keeps the first."""
    found: dict[str, str] = {}
    for number, line in _lines(content, title):
        file, *values = _values(line)
        if number == 1 and file == _FIRST_COLUMN:
            continue
        if len(values) != 1 or values[0] not in _PARTITION:
            take(UsageError(f"{title} line {number}: expected a file and 0 (train), 1 (validation) or 2 (test)"))
        elif found.setdefault(file, _PARTITION[values[0]]) != _PARTITION[values[0]]:
            take(UsageError(f"{title} line {number}: {file} is in {_PARTITION[values[0]]}, but in {found[file]} above"))
    return found


def _table(lines: list[tuple[int, str]], title: str) -> tuple[list[str], list[tuple[int, str]]]:
    """Attribute names, and the lines of faces with their line numbers."""
    first = _values(lines[0][1]) if lines else []
    if first[:1] == [_FIRST_COLUMN] and len(first) > 1:
        return first[1:], lines[1:]
    count = " ".join(first)
    if not count.isascii() or not count.isdecimal() or len(lines) < 2:
        raise UsageError(f"{title}: starts with {count[:40]!r}; expected the number of faces, then the attribute names")
    names, rows = lines[1][1].split(), lines[2:]
    if len(rows) != int(count):
        raise UsageError(f"{title}: {len(rows)} faces, but its first line states {count}; fetch it again")
    return names, rows


def _values(line: str) -> list[str]:
    """Split a line at commas or spaces."""
    return [value.strip() for value in line.split(",")] if "," in line else line.split()


def _lines(content: bytes, title: str) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of each non-blank line."""
    try:
        text = as_utf8(content).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{title}: not UTF-8 text; expected CelebA's list") from None
    return ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())
