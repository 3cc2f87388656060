"""Random-access reads of a file, safe for several threads and processes."""

from __future__ import annotations

import os
from pathlib import Path

from undiffuse.errors import UsageError


class FileAt:
    """An open file read by offset: it has no position shared between threads or forked processes.

    Unpickling in another process opens the file again.

    Args:
        path: a regular file.

    Raises:
        UsageError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._descriptor = path, -1
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no plain file" if path.exists() else "no such file"
            raise UsageError(f"{path}: {what}; expected a file")
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer at the end of the file."""
        parts: list[bytes] = []
        try:
            while size > 0 and (part := os.pread(self._descriptor, size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read ({error.strerror})") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the file; it cannot be read afterwards."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[FileAt], tuple[Path]]:
        return FileAt, (self.path,)
