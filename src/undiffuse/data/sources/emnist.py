"""EMNIST's MATLAB files: handwritten letters and digits of 28x28, with the training and test splits in one file.

Published by Cohen, Afshar, Tapson and van Schaik (2017, arXiv:1702.05373). Layout (MATLAB 5.0): a struct ``dataset``
with ``train`` and ``test``, each with ``images`` (N, 784) uint8, ``labels`` (N, 1) and ``writers``; and ``mapping``
(K, 2) or (K, 3), see ``emnist_mapping``. Images are stored column-major and are transposed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import EmnistConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.matlab import read_variables
from undiffuse.data.sources.array_images import image_dataset
from undiffuse.data.sources.emnist_mapping import mapping_of
from undiffuse.errors import UsageError

_SIDE = 28


def load(config: EmnistConfig) -> Dataset:
    """Load the images (1, 28, 28) of one split with their classes.

    Raises:
        UsageError: if the file is missing, damaged, not MATLAB 5.0 or without EMNIST's fields, or counts disagree.
    """
    path = config.location
    dataset = _field(read_variables(path), "dataset", str(path))
    part = _field(dataset, config.split, f"{path} dataset")
    where = f"{path} dataset.{config.split}"
    images = _images(_field(part, "images", where), where)
    labels = np.asarray(_field(part, "labels", where)).reshape(-1)
    if len(labels) != len(images) or labels.dtype.kind not in "uif":
        raise UsageError(f"{where}: {len(labels)} labels for {len(images)} images; expected one number per image")
    rows = np.asarray(_field(dataset, "mapping", f"{path} dataset"))
    if rows.ndim != 2 or rows.dtype.kind not in "uif":
        raise UsageError(f"{path} dataset.mapping: not a numeric matrix; expected rows of a label and a code")
    mapping = mapping_of(np.asarray(rows, dtype=np.int64).tolist(), f"{path} dataset.mapping")
    provenance = {"source": f"{path} ({config.split})", "licence": "not stated in the file", "transposed": "yes"}
    classes = mapping.classes(labels.astype(np.int64), f"{where}.labels")
    return image_dataset(config, images, classes, mapping.names, provenance)


def _images(images: Any, where: str) -> npt.NDArray[np.uint8]:
    """Convert column-major images (N, 784) to upright images (N, 1, 28, 28)."""
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != _SIDE**2 or not len(array):
        raise UsageError(
            f"{where}.images: {array.dtype} of {'x'.join(map(str, array.shape))}; expected unsigned bytes, Nx784"
        )
    return np.ascontiguousarray(array.reshape(-1, 1, _SIDE, _SIDE).swapaxes(2, 3))


def _field(found: Any, name: str, where: str) -> Any:
    """Get a field of a struct."""
    if not isinstance(found, dict) or found.get(name) is None:
        raise UsageError(f"{where}: has no field {name!r}; expected EMNIST's dataset.train.images and so on")
    return found[name]
