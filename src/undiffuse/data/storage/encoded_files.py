"""Access to encoded image files in any container: their number, contents and titles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from undiffuse.data.dataset import Indices


class EncodedFiles(ABC):
    """A fixed sequence of encoded image files; ``read`` may be called by several threads and after a fork.

    Args:
        location: the file or folder that contains them, for messages.
    """

    def __init__(self, location: Path) -> None:
        self.location = location

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The content of one file.

        Raises:
            UsageError: the file cannot be read; the message starts with its title.
        """

    @abstractmethod
    def title(self, index: int) -> str:
        """Name of one file in messages: its path, or ``archive!member``."""

    def source(self, index: int) -> Path | bytes:
        """Input for Pillow: the content, or a path if only a part of the file may be needed."""
        return self.read(index)

    def split_hash(self, index: int) -> bytes:
        """The leading bytes of the hash of the original image that this one was made from; empty if unknown.

        They determine the side of the training/validation split, so that it is the same as in the original set.
        """
        return b""

    def release(self) -> None:  # noqa: B027 (most subclasses hold no resources)
        """Release resources needed only for reading, once all images are in memory."""


class Titles(Sequence[str]):
    """Titles of a selection of files, created on access."""

    def __init__(self, files: EncodedFiles, rows: Indices) -> None:
        self._files, self._rows = files, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Titles: ...
    def __getitem__(self, index: int | slice) -> str | Titles:
        if isinstance(index, slice):
            return Titles(self._files, self._rows[index])
        return self._files.title(int(self._rows[index]))
