"""MNIST's own format: a magic number, the sizes as big-endian 32-bit numbers, then the bytes.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (1998). EMNIST (Cohen et al., 2017,
arXiv:1702.05373) stores each image with rows and columns exchanged; it is put upright here, and the mapping file
next to it names its classes.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import IdxConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources.array_images import image_dataset
from undiffuse.data.sources.emnist_mapping import find_mapping, read_mapping
from undiffuse.data.sources.idx_files import find_idx_files
from undiffuse.errors import UsageError

Bytes = npt.NDArray[np.uint8]

MAX_BYTES = 4 * 2**30  # more than any published set; stops a gzip bomb
_GZIP_BEST_RATIO = 1040  # deflate cannot do better than about 1032:1
_UNSIGNED_BYTE = 0x08
_MERGED_LETTERS = "abdefghnqrt"  # the lower-case letters that EMNIST keeps apart from their capitals
_DIGITS, _CAPITALS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
EMNIST_CLASSES = {
    "byclass": _DIGITS + _CAPITALS + _CAPITALS.lower(),
    "bymerge": _DIGITS + _CAPITALS + _MERGED_LETTERS,
    "balanced": _DIGITS + _CAPITALS + _MERGED_LETTERS,
    "letters": _CAPITALS.lower(),
    "digits": _DIGITS,
    "mnist": _DIGITS,
}


def load(config: IdxConfig) -> Dataset:
    """The images (1, H, W) of one split, with labels where a label file lies next to them.

    Raises:
        UsageError: a file that is missing, damaged, of another type, or counts that disagree.
    """
    files = find_idx_files(config.location, config.split)
    images = _images(files.images)
    transpose = "emnist" in files.images.name.lower() if config.transpose is None else config.transpose
    if transpose:
        images = np.ascontiguousarray(images.swapaxes(1, 2))
    labels, names = (None, []) if files.labels is None else _labels(files.labels, files.images, len(images))
    provenance = {
        "source": str(files.images),
        "labels": "none found" if files.labels is None else str(files.labels),
        "licence": "not stated in the files",
        "transposed": "yes" if transpose else "no",
    }
    return image_dataset(config, images[:, None], labels, names, provenance)


def read_idx(path: Path) -> Bytes:
    """The array of unsigned bytes in an IDX file, gzipped or not.

    Raises:
        UsageError: not an IDX file, not of bytes, cut short, or longer than its header says.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with cast(BinaryIO, gzip.open(path)) if zipped else path.open("rb") as file:
            sizes = _header(path, file)
            return _body(path, file, sizes, path.stat().st_size * (_GZIP_BEST_RATIO if zipped else 1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path}: the gzip file is damaged or cut short ({error}); fetch it again") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None


def _header(path: Path, file: BinaryIO) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4:
        raise UsageError(f"{path}: {len(magic)} bytes long; expected an IDX (MNIST-format) file")
    if magic[:2] != b"\0\0" or not 1 <= magic[3] <= 8:
        raise UsageError(
            f"{path}: begins with {magic.hex()}, which is no IDX magic number such as 00000803; check the file"
        )
    if magic[2] != _UNSIGNED_BYTE:
        raise UsageError(f"{path}: holds IDX values of type 0x{magic[2]:02x}; expected unsigned bytes (0x08)")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise UsageError(f"{path}: cut short within its header; fetch it again")
    return struct.unpack(f">{magic[3]}I", sizes)


def _body(path: Path, file: BinaryIO, sizes: tuple[int, ...], most: int) -> Bytes:
    expected = math.prod(sizes)
    shape = "x".join(map(str, sizes))
    if expected > most:  # refused before anything is read: a header may claim any number
        raise UsageError(
            f"{path}: cut short: its header says {shape} = {expected} bytes and the file has fewer; fetch it again"
        )
    if expected > MAX_BYTES:
        raise UsageError(f"{path}: {shape} = {expected} bytes are more than the {MAX_BYTES} that are read into memory")
    content = file.read(expected + 1)
    if len(content) != expected:
        found = f"only {len(content)} bytes follow" if len(content) < expected else "more bytes follow"
        raise UsageError(f"{path}: its header says {shape} = {expected} bytes but {found}; fetch it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(sizes)


def _images(path: Path) -> Bytes:
    images = read_idx(path)
    if images.ndim != 3:
        hint = "; this looks like the file of labels" if images.ndim == 1 else ""
        raise UsageError(f"{path}: {images.ndim} axes; expected 3 (count, rows, columns) of an image file{hint}")
    if 0 in images.shape:
        raise UsageError(f"{path}: empty: its sizes are {images.shape}; expected at least one image")
    return images


def _labels(path: Path, images: Path, count: int) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Class indices and names; EMNIST's letters are numbered from 1 in the file and from 0 here.

    A mapping file next to the images takes precedence over what is known of sets by their names.
    """
    labels = read_idx(path).astype(np.int64)
    if labels.ndim != 1:
        raise UsageError(f"{path}: {labels.ndim} axes; expected the 1 of a label file")
    if len(labels) != count:
        raise UsageError(f"{path}: {len(labels)} labels for {count} images in {images.name}; they must be as many")
    mapping = find_mapping(images)
    if mapping is not None:
        table = read_mapping(mapping)
        return table.classes(labels, str(path)), table.names
    known = _emnist_classes(images.name.lower())
    if known == EMNIST_CLASSES["letters"] and labels.min() >= 1:
        labels = labels - 1
    if known and labels.max() < len(known):
        return labels, list(known)
    return labels, [str(label) for label in range(int(labels.max()) + 1)]


def _emnist_classes(name: str) -> str:
    return next((names for key, names in EMNIST_CLASSES.items() if f"emnist-{key}" in name), "")
