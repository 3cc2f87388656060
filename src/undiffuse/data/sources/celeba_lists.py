"""CelebA's lists: forty attributes of each face, and the split that it belongs to.

Layout of ``list_attr_celeba.txt`` and ``CelebAMask-HQ-attribute-anno.txt``: a line with the number of faces, a line
with the names of the attributes, then a line a face: its file and 1 or -1 for each attribute.
``list_eval_partition.txt``: a file and 0 (train), 1 (validation) or 2 (test) a line. Kaggle's copies are tables with
commas and one line of names, ``image_id,5_o_Clock_Shadow,...`` and ``image_id,partition``. Liu, Luo, Wang and Tang
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
    """The names of the attributes, the row of each file, and (N, names) which of them it has."""

    names: list[str]
    row_of: dict[str, int]
    has: npt.NDArray[np.bool_]

    def caption(self, row: int) -> str:
        """The attributes that a face has, as words: ``arched eyebrows, smiling, young``."""
        held = [self.names[place].replace("_", " ").lower() for place in np.flatnonzero(self.has[row])]
        return ", ".join(held) or "no attributes"


def read_attributes(content: bytes, title: str, take: Take) -> Attributes:
    """The list of attributes.

    Args:
        content: of the file.
        title: of the file, for messages.
        take: is given a line that is not as it should be; the line is skipped if it returns.

    Raises:
        UsageError: another kind of file, or fewer lines than its first says.
    """
    names, rows = _table(list(_lines(content, title)), title)
    row_of: dict[str, int] = {}
    has = np.zeros((len(rows), len(names)), dtype=bool)
    for number, line in rows:
        file, *values = _values(line)
        if len(values) != len(names) or not set(values) <= {"1", "-1", "0"}:
            take(UsageError(f"{title} line {number}: expected a file and 1 or -1 for each of {len(names)} attributes"))
        elif file in row_of:
            take(UsageError(f"{title} line {number}: {file} is there twice"))
        else:
            has[len(row_of)] = np.array(values) == "1"
            row_of[file] = len(row_of)
    return Attributes(names, row_of, has[: len(row_of)])


def read_partition(content: bytes, title: str, take: Take) -> dict[str, str]:
    """The split of each file; one with two splits is given to ``take`` and has the first."""
    found: dict[str, str] = {}
    for number, line in _lines(content, title):
        file, *values = _values(line)
        if number == 1 and file == _FIRST_COLUMN:
            continue
        if len(values) != 1 or values[0] not in _PARTITION:
            take(UsageError(f"{title} line {number}: expected a file and 0 (train), 1 (validation) or 2 (test)"))
        elif found.setdefault(file, _PARTITION[values[0]]) != _PARTITION[values[0]]:
            take(UsageError(f"{title} line {number}: {file} is of {_PARTITION[values[0]]}, and above of {found[file]}"))
    return found


def _table(lines: list[tuple[int, str]], title: str) -> tuple[list[str], list[tuple[int, str]]]:
    """The attributes' names, and the lines of faces with their numbers."""
    first = _values(lines[0][1]) if lines else []
    if first[:1] == [_FIRST_COLUMN] and len(first) > 1:
        return first[1:], lines[1:]
    count = " ".join(first)
    if not count.isascii() or not count.isdecimal() or len(lines) < 2:
        raise UsageError(
            f"{title}: begins with {count[:40]!r}; expected the number of faces, then the attributes' names"
        )
    names, rows = lines[1][1].split(), lines[2:]
    if len(rows) != int(count):
        raise UsageError(f"{title}: {len(rows)} faces where its first line says {count}; fetch it again")
    return names, rows


def _values(line: str) -> list[str]:
    """The values of a line, between spaces or commas."""
    return [value.strip() for value in line.split(",")] if "," in line else line.split()


def _lines(content: bytes, title: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of each line that is not blank."""
    try:
        text = as_utf8(content).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{title}: not UTF-8 text; expected CelebA's list") from None
    return ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())
