"""A data set whose images, hashes, labels and texts are memory-mapped files: opening it takes no memory.

Layout of the folder, all numbers little-endian: ``pixels.u8`` (N, C, H, W); ``pixels.crc32`` (N,), a checksum of each
image, verified whenever the image is fetched; ``hashes.u8`` (N, 16); ``labels.i64`` (N,) if there are classes; for
``titles`` and, if present, ``captions``: ``*.utf8``, the concatenated texts, and ``*.i64`` (N+1,), their offsets;
``info.json``: everything else, with the size of each file and the CRC-32 of all files but the pixels, which are
verified when the set is opened.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from undiffuse.checksums import is_modified, read_json, with_checksum
from undiffuse.data.dataset import HASH_BYTES, Dataset, Hashes, Indices
from undiffuse.data.storage.string_array import StringArray
from undiffuse.errors import UsageError

INFO, PIXELS, HASHES, LABELS = "info.json", "pixels.u8", "hashes.u8", "labels.i64"
CHECKS = "pixels.crc32"
FORMAT = 2
_INFO_TYPES = {
    "stamp": str,
    "name": str,
    "count": int,
    "shape": list,
    "class_names": list,
    "provenance": dict,
    "crc32": dict,
}
_CHUNK = 2**22
_RELEASE_AFTER = 256  # images; Linux maps up to 64 KiB around each


class MappedSet(Dataset):
    """The data set in a folder of this layout.

    Args:
        folder: its files must not change while the set is in use.

    Raises:
        UsageError: a file is missing or does not match ``info.json``.
    """

    def __init__(self, folder: Path) -> None:
        info = read_info(folder)
        _check_files(folder, info)
        super().__init__(info["name"], info["shape"], info["class_names"], info["provenance"])
        self._folder, self._count = folder, int(info["count"])
        self._maps: list[mmap.mmap] = []
        self._num_accessed = 0
        self._pixels = self._mapped(PIXELS, "u1").reshape(-1, *self.shape)
        self._checks = self._mapped(CHECKS, "<u4")
        self._hashes = self._mapped(HASHES, "u1").reshape(-1, HASH_BYTES)
        self._labels = self._mapped(LABELS, "<i8") if LABELS in info["bytes"] else None
        self._titles = self._texts("titles")
        self._captions = self._texts("captions") if "captions.i64" in info["bytes"] else None

    def __len__(self) -> int:
        return self._count

    def hashes(self) -> Hashes:
        return self._hashes

    def items(self, indices: Indices) -> npt.NDArray[Any]:
        pixels = self._pixels.take(indices, axis=0)
        for row, image in zip(indices, pixels, strict=True):
            if zlib.crc32(image) != self._checks[row]:
                raise self._damaged(int(row))
        self._num_accessed += len(indices)
        if self._num_accessed >= _RELEASE_AFTER:
            self._release_pages()
        return pixels

    def item_name(self, index: int) -> str:
        return self._titles[index]

    def __reduce__(self) -> tuple[type[MappedSet], tuple[Path]]:
        return MappedSet, (self._folder,)

    def _damaged(self, row: int) -> UsageError:
        """The error for an image that does not match its checksum; also invalidates the cache."""
        with contextlib.suppress(OSError):
            (self._folder / INFO).unlink()
        return UsageError(
            f"{self._folder / PIXELS}: {self.item_name(row)} does not match its checksum: the disk changed it; run the "
            "command again (training with --resume) to decode the set again"
        )

    def _mapped(self, name: str, dtype: str) -> npt.NDArray[Any]:
        with (self._folder / name).open("rb") as file:
            if not file.read(1):
                return np.empty(0, dtype=dtype)
            self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return np.frombuffer(self._maps[-1], dtype=dtype)

    def _texts(self, name: str) -> MappedStringArray:
        return MappedStringArray(self._mapped(f"{name}.utf8", "u1"), self._mapped(f"{name}.i64", "<i8"))

    def _release_pages(self) -> None:
        """Unmap accessed pages: they stay in the page cache but no longer count as memory of this process."""
        self._num_accessed = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapping in self._maps:
                mapping.madvise(mmap.MADV_DONTNEED)


class MappedStringArray(StringArray):
    """Strings in a memory-mapped buffer, or a selection of them.

    Args:
        buffer: the concatenated strings.
        bounds: (N+1,) offsets.
        rows: indices of the selected strings; all by default.
    """

    def __init__(
        self, buffer: npt.NDArray[np.uint8], bounds: Indices, rows: npt.NDArray[np.integer[Any]] | None = None
    ) -> None:
        self._bytes, self._bounds, self._rows = buffer, bounds, rows

    def append(self, text: str) -> None:
        raise TypeError("mapped texts cannot grow")

    def __len__(self) -> int:
        return len(self._bounds) - 1 if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> StringArray: ...
    def __getitem__(self, index: int | slice) -> str | StringArray:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        row = range(len(self))[index] if self._rows is None else int(self._rows[index])
        text = self._bytes[self._bounds[row] : self._bounds[row + 1]].tobytes()
        return text.decode("utf-8", "surrogateescape")

    def select(self, rows: npt.NDArray[np.integer[Any]]) -> StringArray:
        return MappedStringArray(self._bytes, self._bounds, rows if self._rows is None else self._rows[rows])


def read_info(folder: Path) -> dict[str, Any]:
    """Read ``info.json`` of a folder and check the sizes of all files.

    Raises:
        UsageError: ``info.json`` is corrupt, or a file is missing or has another size.
    """
    try:
        info: dict[str, Any] = read_json(folder / INFO)
        if is_modified(info):
            raise UsageError(f"{folder / INFO}: damaged: it does not match its checksum")
        if info["format"] != FORMAT:
            raise UsageError(f"{folder / INFO}: format {info['format']!r}; expected {FORMAT}")
        if any(not isinstance(info[key], kind) for key, kind in _INFO_TYPES.items()):
            raise UsageError(f"{folder / INFO}: damaged: its values have other types")
        expected = info["count"] * math.prod(info["shape"])
        fixed = {PIXELS: expected, HASHES: info["count"] * HASH_BYTES, CHECKS: info["count"] * 4}
        for name, size in {**info["bytes"], **fixed}.items():
            found = (folder / Path(name).name).stat().st_size
            if found != size:
                raise UsageError(f"{folder / name}: {found} bytes; expected {size}")
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder / INFO}: damaged ({type(error).__name__}: {error})") from None
    return info


def _check_files(folder: Path, info: Mapping[str, Any]) -> None:
    for name in info["bytes"]:
        if name != PIXELS and _crc32_of(folder / Path(name).name) != info["crc32"].get(name):
            raise UsageError(f"{folder / name}: damaged: it does not match its checksum")


def _crc32_of(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found


def write_strings(folder: Path, name: str, texts: Iterable[str]) -> None:
    """Write the two files of a sequence of strings."""
    end = 0
    with (folder / f"{name}.utf8").open("wb") as content, (folder / f"{name}.i64").open("wb") as bounds:
        bounds.write(np.array([0], dtype="<i8").tobytes())
        for text in texts:
            end += content.write(text.encode("utf-8", "surrogateescape"))
            bounds.write(np.array([end], dtype="<i8").tobytes())


def write_info(folder: Path, dataset: Dataset, stamp: str) -> None:
    """Write ``info.json`` for the files in the folder, after all of them."""
    info = {
        "format": FORMAT,
        "stamp": stamp,
        "name": dataset.name,
        "count": len(dataset),
        "shape": list(dataset.shape),
        "class_names": list(dataset.class_names),
        "provenance": dataset.provenance,
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "crc32": {path.name: _crc32_of(path) for path in sorted(folder.iterdir()) if path.name != PIXELS},
    }
    (folder / INFO).write_text(json.dumps(with_checksum(info), indent=1), encoding="utf-8")
