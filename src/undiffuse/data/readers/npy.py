"""Arrays in NumPy files: one in a ``.npy``, memory-mapped; several named ones in a ``.npz``, a zip of ``.npy`` files.

Layout after NumPy's "NEP 1": a magic string, a version, a header as a Python literal, then the values. Object arrays,
which are pickles, raise UsageError.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.errors import UsageError

MAX_BYTES = 4 * 2**30  # of the arrays of a .npz, which are loaded into memory
Array = npt.NDArray[Any]


class Header(NamedTuple):
    """Shape and dtype of an array, known before its values are read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def map_npy(path: Path) -> Array:
    """Memory-map the array of a ``.npy`` file.

    Raises:
        UsageError: no such file, not a NumPy file, truncated, or an object array.
    """
    try:
        with path.open("rb") as file:
            header = _header(file, str(path))
            expected = file.tell() + math.prod(header.shape) * header.dtype.itemsize
        if path.stat().st_size < expected:
            raise UsageError(f"{path}: cut short: {path.stat().st_size} bytes of {expected}; fetch it again")
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise _damaged(str(path), error) from None


class Npz:
    """The arrays of a ``.npz`` by name; ``headers`` has their shapes and dtypes before they are read.

    Args:
        path: the file.

    Raises:
        UsageError: no such file, or not a zip of arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._left = path, MAX_BYTES
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise _damaged(str(path), error) from None
        self.headers = {
            name.removesuffix(".npy"): self._header(name) for name in self._archive.namelist() if name.endswith(".npy")
        }
        if not self.headers:
            raise UsageError(f"{path}: holds no arrays; expected a zip of .npy files as numpy.savez writes it")

    def title(self, name: str) -> str:
        """Name of an array in messages."""
        return f"{self.path}!{name}"

    def read(self, name: str) -> Array:
        """Read an array into memory.

        Raises:
            UsageError: corrupt, truncated, an object array, or larger than ``MAX_BYTES``.
        """
        shape, dtype = self.headers[name]
        size = math.prod(shape) * dtype.itemsize
        if size > self._left:
            raise UsageError(
                f"{self.title(name)}: {size} bytes are more than the {MAX_BYTES} held in memory; save it as .npy, "
                "which is read in place"
            )
        self._left -= size
        try:
            with self._archive.open(f"{name}.npy") as file:
                found = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):  # reading to the end also verifies the zip checksum
                    raise ValueError("more bytes follow than its header states")
                return found
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise _damaged(self.title(name), error) from None

    def _header(self, name: str) -> Header:
        title = self.title(name)
        try:
            with self._archive.open(name) as file:
                return _header(file, title)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            if isinstance(error, UsageError):
                raise
            raise _damaged(title, error) from None


def _header(file: IO[bytes], title: str) -> Header:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not supported")
    try:
        shape, _, dtype = readers[version](file)
    except (MemoryError, RecursionError, TypeError) as error:  # raised by Python for invalid literals
        raise ValueError(f"an invalid header: {type(error).__name__}") from None
    if dtype.hasobject:
        raise UsageError(
            f"{title}: an array of Python objects, which are pickles and not supported; save plain numbers"
        )
    return Header(tuple(int(side) for side in shape), dtype)


def _damaged(title: str, error: Exception) -> UsageError:
    if isinstance(error, UsageError):
        return error
    first = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return UsageError(f"{title}: damaged, cut short or not a NumPy file ({first}); write it again with numpy.save")
