"""Where encoded image files lie, whatever they lie in: how many there are, the content and the title of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from undiffuse.data.dataset import Indices


class EncodedFiles(ABC):
    """A fixed sequence of encoded image files; ``read`` may be called by several threads and after a fork.

    Args:
        location: the file or folder they lie in, for messages.
    """

    def __init__(self, location: Path) -> None:
        self.location = location

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The content of one file.

        Raises:
            UsageError: it cannot be read; the message begins with its title.
        """

    @abstractmethod
    def title(self, index: int) -> str:
        """What to call one file in a message: its path, or ``archive!member``."""

    def source(self, index: int) -> Path | bytes:
        """What Pillow opens: the content, or a path where only a part of the file may be wanted."""
        return self.read(index)

    def split_hash(self, index: int) -> bytes:
        """The leading bytes of the hash of the image that this one was made of, where that is known; else none.

        They decide on which side of the split it is: the same one on which the other is in its own set.
        """
        return b""

    def release(self) -> None:  # noqa: B027 (most have nothing to let go of)
        """Let go of what is needed for reading alone: all images are in memory now."""


class Titles(Sequence[str]):
    """The titles of some files, made when asked for."""

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
