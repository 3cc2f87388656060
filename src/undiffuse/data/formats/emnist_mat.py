"""EMNIST's MATLAB files: handwritten letters and digits of 28x28, the training and the test part in one file.

Published by Cohen, Afshar, Tapson and van Schaik (2017, arXiv:1702.05373). Layout (MATLAB 5.0): a struct ``dataset``
with ``train`` and ``test``, each with ``images`` (N, 784) uint8, ``labels`` (N, 1) and ``writers``; and ``mapping``
(K, 2) or (K, 3), see ``emnist_mapping``. A picture is stored by columns and put upright here.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import EmnistConfig
from undiffuse.data.formats.arrays import picture_dataset
from undiffuse.data.formats.emnist_mapping import mapping_of
from undiffuse.data.source import Dataset
from undiffuse.errors import UsageError

MAX_BYTES = 4 * 2**30  # more than any published file unpacked; stops a bomb
_HEADER, _COMPRESSED = 128, 15
_SIDE = 28
_CHUNK = 2**20


def load(config: EmnistConfig) -> Dataset:
    """The pictures (1, 28, 28) of one split with their classes.

    Raises:
        UsageError: a file that is missing, damaged, not MATLAB 5.0, or without EMNIST's fields; counts that disagree.
    """
    path = config.location
    check_matlab(path)
    dataset = _field(_read(path), "dataset", str(path))
    part = _field(dataset, config.split, f"{path} dataset")
    where = f"{path} dataset.{config.split}"
    pictures = _pictures(_field(part, "images", where), where)
    labels = np.asarray(_field(part, "labels", where)).reshape(-1)
    if len(labels) != len(pictures) or labels.dtype.kind not in "uif":
        raise UsageError(f"{where}: {len(labels)} labels for {len(pictures)} pictures; they must be as many numbers")
    rows = np.asarray(_field(dataset, "mapping", f"{path} dataset"))
    if rows.ndim != 2 or rows.dtype.kind not in "uif":
        raise UsageError(f"{path} dataset.mapping: no matrix of numbers; expected a label and a code in a row")
    mapping = mapping_of(np.asarray(rows, dtype=np.int64).tolist(), f"{path} dataset.mapping")
    provenance = {"source": f"{path} ({config.split})", "licence": "not stated in the file", "transposed": "yes"}
    classes = mapping.classes(labels.astype(np.int64), f"{where}.labels")
    return picture_dataset(config, pictures, classes, mapping.names, provenance)


def _pictures(images: Any, where: str) -> npt.NDArray[np.uint8]:
    """(N, 1, 28, 28) upright, of (N, 784) by columns."""
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != _SIDE**2 or not len(array):
        raise UsageError(
            f"{where}.images: {array.dtype} of {'x'.join(map(str, array.shape))}; expected unsigned bytes of Nx784"
        )
    return np.ascontiguousarray(array.reshape(-1, 1, _SIDE, _SIDE).swapaxes(2, 3))


def _field(found: Any, name: str, where: str) -> Any:
    """A field of a struct; MATLAB's are matrices, so these are unwrapped."""
    inner = found
    if isinstance(found, np.ndarray):
        inner = found.reshape(-1)[0] if found.size == 1 and found.dtype.names else None
    try:
        return inner[name]
    except (TypeError, KeyError, ValueError, IndexError):
        raise UsageError(f"{where}: has no field {name!r}; expected EMNIST's dataset.train.images and so on") from None


def _read(path: Path) -> Any:
    from scipy.io import loadmat  # takes a while to import

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return loadmat(str(path), variable_names=["dataset"])
    except Exception as error:  # scipy meets damage with errors of a dozen types
        first = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UsageError(f"{path}: damaged ({first}); fetch it again") from None


def check_matlab(path: Path) -> None:
    """Refuse, before anything is held in memory, a file that is not MATLAB 5.0, is cut short, or is a bomb.

    Layout: 128 bytes of text, version and byte order, then elements of type, size and content, most of them compressed.

    Raises:
        UsageError: as said.
    """
    if not path.is_file():
        raise UsageError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a file emnist-*.mat")
    with path.open("rb") as file:
        header = file.read(_HEADER)
        if header[:10] != b"MATLAB 5.0" or len(header) < _HEADER or header[126:] not in (b"IM", b"MI"):
            kind = "cut short" if b"MATLAB 5.0".startswith(header[:10]) else "not a MATLAB 5.0 file"
            raise UsageError(f"{path}: {kind}; expected EMNIST's emnist-*.mat as published")
        order, left = "<" if header[126:] == b"IM" else ">", MAX_BYTES
        while tag := file.read(8):
            kind_of, size = struct.unpack(f"{order}2I", tag) if len(tag) == 8 else (0, 2**32)
            left -= _unpacked_size(path, file, size, left) if kind_of == _COMPRESSED else _skipped(path, file, size)


def _skipped(path: Path, file: BinaryIO, size: int) -> int:
    if file.tell() + size > path.stat().st_size:
        raise UsageError(f"{path}: cut short; fetch it again")
    file.seek(size, 1)
    return size


def _unpacked_size(path: Path, file: BinaryIO, size: int, most: int) -> int:
    """The bytes that a compressed element has, which is read to its end but not kept."""
    unpack, total = zlib.decompressobj(), 0
    while size:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise UsageError(f"{path}: cut short; fetch it again")
        size -= len(chunk)
        while chunk:
            try:
                total += len(unpack.decompress(chunk, _CHUNK))
            except zlib.error as error:
                raise UsageError(f"{path}: damaged ({error}); fetch it again") from None
            if total > most:
                raise UsageError(f"{path}: unpacks to more than the {MAX_BYTES} bytes that are read into memory")
            chunk = unpack.unconsumed_tail
    return total
