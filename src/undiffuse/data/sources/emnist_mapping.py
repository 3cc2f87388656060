"""EMNIST's label mapping: each label with the character code, or codes, that it stands for.

The mapping is a text file next to the IDX files (``emnist-balanced-mapping.txt``: a label and one or two codes per
line) and a matrix in the MATLAB files. Cohen, Afshar, Tapson and van Schaik (2017, arXiv:1702.05373). If a label has
two codes, of a capital and of its small letter, the class is named by the last.
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
    """Labels used in the files, in ascending order, and the class name of each."""

    labels: npt.NDArray[np.int64]
    names: list[str]

    def classes(self, found: npt.NDArray[np.int64], title: str) -> npt.NDArray[np.int64]:
        """Class indices in 0..len(names)-1 of labels from the files.

        Raises:
            UsageError: if a label is not in the mapping; the message starts with ``title``.
        """
        places = np.searchsorted(self.labels, found).clip(max=len(self.labels) - 1)
        wrong = np.flatnonzero(self.labels[places] != found)
        if len(wrong):
            raise UsageError(f"{title}: label {found[wrong[0]]} is not in the mapping of {len(self.names)} labels")
        return places


def find_mapping(images: Path) -> Path | None:
    """Find the mapping next to a file of images, or ``None``: ``emnist-balanced-mapping.txt`` for
    ``emnist-balanced-train-images-...``.
    """
    for word in ("-train-", "-test-"):
        start, found, _ = images.name.partition(word)
        path = images.with_name(f"{start}-mapping.txt")
        if found and path.is_file():
            return path
    return None


def read_mapping(path: Path) -> Mapping:
    """Read a mapping from a text file.

    Raises:
        UsageError: if the file cannot be read, or a line is not a label with one or two codes.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: more than {MAX_BYTES} bytes; expected a mapping with one label per line")
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text of numbers; expected a label and a code per line") from None
    return mapping_of([line.split() for line in lines if line.strip()], str(path))


def mapping_of(rows: Sequence[Sequence[object]], title: str) -> Mapping:
    """Create a mapping from rows (label, code) or (label, code, code).

    Raises:
        UsageError: if a row has another form, a code is not a character, a label is repeated, or there are no rows;
            the message starts with ``title``.
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
            raise UsageError(f"{title} row {number}: label {label} is listed twice")
        found[label] = chr(codes[-1])
    if not found:
        raise UsageError(f"{title}: empty; expected a label and a code per line")
    labels = sorted(found)
    return Mapping(np.array(labels, dtype=np.int64), [found[label] for label in labels])
