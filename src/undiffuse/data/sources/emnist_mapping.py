"""What EMNIST's labels mean: each label with the code, or the codes, of the character it stands for.

The table is a text next to the IDX files (``emnist-balanced-mapping.txt``: a label and a code, or two, a line) and a
matrix in the MATLAB files. Cohen, Afshar, Tapson and van Schaik (2017, arXiv:1702.05373). Where a label has two codes,
of a capital and of its small letter, the class is called by the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.errors import UsageError

MAX_BYTES = 2**20


class Mapping(NamedTuple):
    """The labels that occur in the files, ascending, and the name of each."""

    labels: npt.NDArray[np.int64]
    names: list[str]

    def classes(self, found: npt.NDArray[np.int64], title: str) -> npt.NDArray[np.int64]:
        """Class indices in 0..len(names)-1 of labels as they are in the files.

        Raises:
            UsageError: a label that the table lacks; the message begins with ``title``.
        """
        places = np.searchsorted(self.labels, found).clip(max=len(self.labels) - 1)
        wrong = np.flatnonzero(self.labels[places] != found)
        if len(wrong):
            raise UsageError(f"{title}: label {found[wrong[0]]} is not in the mapping of {len(self.names)} labels")
        return places


def find_mapping(images: Path) -> Path | None:
    """The text of the mapping next to a file of images, or ``None``: ``emnist-balanced-train-images-...`` has
    ``emnist-balanced-mapping.txt``.
    """
    for word in ("-train-", "-test-"):
        start, found, _ = images.name.partition(word)
        path = images.with_name(f"{start}-mapping.txt")
        if found and path.is_file():
            return path
    return None


def read_mapping(path: Path) -> Mapping:
    """The table in a text.

    Raises:
        UsageError: it cannot be read, or a line is no label with one code or two.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: more than {MAX_BYTES} bytes; expected a mapping of labels, a line each")
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text of numbers; expected a label and a code a line") from None
    return mapping_of([line.split() for line in lines if line.strip()], str(path))


def mapping_of(rows: Sequence[Sequence[object]], title: str) -> Mapping:
    """The table of rows (label, code) or (label, code, code).

    Raises:
        UsageError: a row of another form, a code that is no character, a label twice, or no row; the message begins
            with ``title``.
    """
    found: dict[int, str] = {}
    for number, row in enumerate(rows, start=1):
        try:
            label, *codes = (int(str(value)) for value in row)
        except ValueError:
            label, codes = -1, []
        if not 0 <= label < 256 or len(codes) not in (1, 2) or not all(32 < code < 127 for code in codes):
            raise UsageError(f"{title} row {number}: expected a label and the code of its character, or two codes")
        if label in found:
            raise UsageError(f"{title} row {number}: label {label} is there twice")
        found[label] = chr(codes[-1])
    if not found:
        raise UsageError(f"{title}: empty; expected a label and a code a line")
    labels = sorted(found)
    return Mapping(np.array(labels, dtype=np.int64), [found[label] for label in labels])
