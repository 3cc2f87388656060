"""Data sets in MNIST's IDX format: images and their labels.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (1998). EMNIST (Cohen et al., 2017,
arXiv:1702.05373) stores its images transposed; they are transposed back here, and the mapping file next to them has the
class names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import IdxConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.idx import Bytes, read_idx
from undiffuse.data.sources.array_images import image_dataset
from undiffuse.data.sources.emnist_mapping import find_mapping, read_mapping
from undiffuse.data.sources.idx_files import find_idx_files
from undiffuse.errors import UsageError

_MERGED_LETTERS = "abdefghnqrt"  # the lower-case letters that EMNIST does not merge with their capitals
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
    """Load the images (1, H, W) of one split, with labels if a label file is next to them.

    Raises:
        UsageError: if a file is missing, damaged or of another type, or counts disagree.
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


def _images(path: Path) -> Bytes:
    images = read_idx(path)
    if images.ndim != 3:
        hint = "; this looks like the label file" if images.ndim == 1 else ""
        raise UsageError(f"{path}: {images.ndim} axes; expected 3 (count, rows, columns) of an image file{hint}")
    if 0 in images.shape:
        raise UsageError(f"{path}: empty: its shape is {images.shape}; expected at least one image")
    return images


def _labels(path: Path, images: Path, count: int) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Class indices and class names; EMNIST's letters are numbered from 1 in the file and from 0 here.

    A mapping file next to the images takes precedence over the classes inferred from the file name.
    """
    labels = read_idx(path).astype(np.int64)
    if labels.ndim != 1:
        raise UsageError(f"{path}: {labels.ndim} axes; expected 1 for a label file")
    if len(labels) != count:
        raise UsageError(
            f"{path}: {len(labels)} labels for {count} images in {images.name}; expected one label per image"
        )
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
