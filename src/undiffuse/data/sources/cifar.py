"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32.

Published by Alex Krizhevsky ("Learning Multiple Layers of Features from Tiny Images", 2009). Binary layout: records of
one label byte (CIFAR-100: a coarse and a fine label) and 3,072 bytes, the red, green and blue planes in row-major
order; class names in text files, one per line. Python layout: pickled dictionaries with ``data`` (N, 3072) in the same
order and lists ``labels``, or ``coarse_labels`` and ``fine_labels``; see ``pickled`` for how they are read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import CifarConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.pickled import read_pickle
from undiffuse.data.sources.array_images import image_dataset
from undiffuse.data.sources.cifar_files import CifarFiles, Store, find_batches
from undiffuse.data.storage.cache import log_provenance
from undiffuse.errors import UsageError

Bytes = npt.NDArray[np.uint8]

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_COARSE, _FINE = 20, 100
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Labelled(NamedTuple):
    """Images (N, 3, 32, 32), their class indices, and the kind of label."""

    images: Bytes
    labels: npt.NDArray[np.int64]
    kind: str  # "cifar10", "fine" or "coarse"


_NUM_CLASSES = {"cifar10": len(CIFAR10_CLASSES), "fine": _FINE, "coarse": _COARSE}


def load(config: CifarConfig) -> Dataset:
    """Load the images of one split, in the order of the files.

    Raises:
        UsageError: if the files are missing or damaged, a label is out of range, or a pickle contains anything that
            CIFAR's do not.
    """
    files = find_batches(config.location, config.split)
    read = _read_binary if files.binary else _read_python
    parts = [read(files.store, name, config.label) for name in files.batches]
    kind = parts[0].kind
    if any(part.kind != kind for part in parts):
        raise UsageError(f"{config.location}: contains both CIFAR-10 and CIFAR-100; name a folder with one of them")
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    names = _class_names(files, kind)
    provenance = {
        "source": f"{'CIFAR-10' if kind == 'cifar10' else 'CIFAR-100'} (Krizhevsky, 2009), {files.store.location}: "
        + ", ".join(files.batches),
        "licence": "none stated by its authors",
        "labels": kind,
        **files.store.left_out.notes,
    }
    log_provenance(files.store.location, provenance)
    return image_dataset(config, images, labels, names, provenance)


def _read_binary(store: Store, name: str, label: str) -> Labelled:
    title, content = store.title(name), store.read(name)
    is_cifar100 = _has_two_labels(store, name, content, title)
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _PIXELS + 1 + is_cifar100)
    kinds = ("coarse", "fine") if is_cifar100 else ("cifar10",)
    columns = {kind: _check_labels(records[:, place], _NUM_CLASSES[kind], title) for place, kind in enumerate(kinds)}
    kind = label if is_cifar100 else "cifar10"
    return Labelled(records[:, len(kinds) :].reshape(-1, *_SHAPE), columns[kind], kind)


def _has_two_labels(store: Store, name: str, content: bytes, title: str) -> bool:
    """Whether the records are those of CIFAR-100, judged by their length."""
    fits_cifar10, fits_cifar100 = len(content) % (_PIXELS + 1) == 0, len(content) % (_PIXELS + 2) == 0
    if not content or not (fits_cifar10 or fits_cifar100):
        raise UsageError(
            f"{title}: {len(content)} bytes are not a whole number of CIFAR records ({_PIXELS + 1} bytes each, "
            f"{_PIXELS + 2} for CIFAR-100): cut short or another file; fetch it again"
        )
    return fits_cifar100 and not (fits_cifar10 and "batch" in name)


def _read_python(store: Store, name: str, label: str) -> Labelled:
    title = store.title(name)
    found = read_pickle(store.read(name), title)
    data = found.get("data")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS or not len(data):
        raise UsageError(f"{title}: has no images; expected 'data', an (N, {_PIXELS}) array of unsigned bytes")
    kind = "cifar10" if "labels" in found else label
    key = "labels" if kind == "cifar10" else f"{kind}_labels"
    labels = found.get(key)
    if not isinstance(labels, list) or not all(type(number) is int and 0 <= number < 256 for number in labels):
        raise UsageError(f"{title}: has no labels; expected {key!r}, a list of class numbers")
    if len(labels) != len(data):
        raise UsageError(f"{title}: {len(labels)} labels for {len(data)} images; expected one label per image")
    checked = _check_labels(np.array(labels, dtype=np.uint8), _NUM_CLASSES[kind], title)
    return Labelled(data.reshape(-1, *_SHAPE), checked, kind)


def _check_labels(labels: Bytes, count: int, title: str) -> npt.NDArray[np.int64]:
    wrong = np.flatnonzero(labels >= count)
    if len(wrong):
        raise UsageError(
            f"{title}: record {wrong[0]} has the label {labels[wrong[0]]}; expected 0..{count - 1}: the file is "
            "damaged or of another kind"
        )
    return labels.astype(np.int64)


def _class_names(files: CifarFiles, kind: str) -> list[str]:
    """Class names from the file of names, if there is one; otherwise CIFAR-10's known names or CIFAR-100's numbers."""
    count = _NUM_CLASSES[kind]
    text = {"cifar10": "batches.meta.txt", "fine": "fine_label_names.txt", "coarse": "coarse_label_names.txt"}[kind]
    meta = "batches.meta" if kind == "cifar10" else "meta"
    if text in files.store.names:
        lines = files.store.read(text).decode("utf-8", "replace").split()
        return _check_names(lines, count, files.store.title(text))
    if meta in files.store.names:
        found = read_pickle(files.store.read(meta), files.store.title(meta))
        names = found.get("label_names" if kind == "cifar10" else f"{kind}_label_names")
        return _check_names(names, count, files.store.title(meta))
    return list(CIFAR10_CLASSES) if kind == "cifar10" else [str(number) for number in range(count)]


def _check_names(names: Any, count: int, title: str) -> list[str]:
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        found = len(names) if isinstance(names, list) else "no"
        raise UsageError(f"{title}: {found} class names; expected {count}")
    return names
