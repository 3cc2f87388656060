"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32.

Published by Alex Krizhevsky ("Learning Multiple Layers of Features from Tiny Images", 2009). Binary layout: records of
one label byte (CIFAR-100: a coarse and a fine one) and 3,072 bytes, the red, green and blue plane by rows; the names
of the classes in text files, one per line. Python layout: pickled dictionaries with ``data`` (N, 3072) of the same
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
from undiffuse.data.storage.cache import on_progress
from undiffuse.errors import UsageError

Bytes = npt.NDArray[np.uint8]

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_COARSE, _FINE = 20, 100
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Labelled(NamedTuple):
    """Images (N, 3, 32, 32), their class indices, and which label of which set these are."""

    images: Bytes
    labels: npt.NDArray[np.int64]
    kind: str  # "cifar10", "fine" or "coarse"


_NUM_CLASSES = {"cifar10": len(CIFAR10_CLASSES), "fine": _FINE, "coarse": _COARSE}


def load(config: CifarConfig) -> Dataset:
    """The images of one split, in the order of the files.

    Raises:
        UsageError: no such files, a damaged one, a label that is no class, or a pickle with anything in it that CIFAR's
            do not have.
    """
    files = find_batches(config.location, config.split)
    read = _read_binary if files.binary else _read_python
    parts = [read(files.store, name, config.label) for name in files.batches]
    kind = parts[0].kind
    if any(part.kind != kind for part in parts):
        raise UsageError(f"{config.location}: holds CIFAR-10 and CIFAR-100 side by side; name a folder of one")
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
    on_progress(files.store.location, provenance)
    return image_dataset(config, images, labels, names, provenance)


def _read_binary(store: Store, name: str, label: str) -> Labelled:
    title, content = store.title(name), store.read(name)
    hundred = _has_two_labels(store, name, content, title)
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _PIXELS + 1 + hundred)
    kinds = ("coarse", "fine") if hundred else ("cifar10",)
    columns = {kind: _checked(records[:, place], _NUM_CLASSES[kind], title) for place, kind in enumerate(kinds)}
    kind = label if hundred else "cifar10"
    return Labelled(records[:, len(kinds) :].reshape(-1, *_SHAPE), columns[kind], kind)


def _has_two_labels(store: Store, name: str, content: bytes, title: str) -> bool:
    """Whether the records are CIFAR-100's, by their length."""
    ten, hundred = len(content) % (_PIXELS + 1) == 0, len(content) % (_PIXELS + 2) == 0
    if not content or not (ten or hundred):
        raise UsageError(
            f"{title}: {len(content)} bytes are no whole number of CIFAR records ({_PIXELS + 1} bytes each, "
            f"{_PIXELS + 2} for CIFAR-100): cut short or another file; fetch it again"
        )
    return hundred and not (ten and "batch" in name)


def _read_python(store: Store, name: str, label: str) -> Labelled:
    title = store.title(name)
    found = read_pickle(store.read(name), title)
    data = found.get("data")
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS or not len(data):
        raise UsageError(f"{title}: has no images; expected 'data', an array of (N, {_PIXELS}) unsigned bytes")
    kind = "cifar10" if "labels" in found else label
    key = "labels" if kind == "cifar10" else f"{kind}_labels"
    labels = found.get(key)
    if not isinstance(labels, list) or not all(type(number) is int and 0 <= number < 256 for number in labels):
        raise UsageError(f"{title}: has no labels; expected {key!r}, a list of class numbers")
    if len(labels) != len(data):
        raise UsageError(f"{title}: {len(labels)} labels for {len(data)} images; they must be as many")
    checked = _checked(np.array(labels, dtype=np.uint8), _NUM_CLASSES[kind], title)
    return Labelled(data.reshape(-1, *_SHAPE), checked, kind)


def _checked(labels: Bytes, count: int, title: str) -> npt.NDArray[np.int64]:
    wrong = np.flatnonzero(labels >= count)
    if len(wrong):
        raise UsageError(
            f"{title}: record {wrong[0]} has the label {labels[wrong[0]]}; expected 0..{count - 1}: the file is "
            "damaged or of another kind"
        )
    return labels.astype(np.int64)


def _class_names(files: CifarFiles, kind: str) -> list[str]:
    """From the file of names where there is one; CIFAR-10's are known, CIFAR-100's are numbers then."""
    count = _NUM_CLASSES[kind]
    text = {"cifar10": "batches.meta.txt", "fine": "fine_label_names.txt", "coarse": "coarse_label_names.txt"}[kind]
    meta = "batches.meta" if kind == "cifar10" else "meta"
    if text in files.store.names:
        lines = files.store.read(text).decode("utf-8", "replace").split()
        return _named(lines, count, files.store.title(text))
    if meta in files.store.names:
        found = read_pickle(files.store.read(meta), files.store.title(meta))
        names = found.get("label_names" if kind == "cifar10" else f"{kind}_label_names")
        return _named(names, count, files.store.title(meta))
    return list(CIFAR10_CLASSES) if kind == "cifar10" else [str(number) for number in range(count)]


def _named(names: Any, count: int, title: str) -> list[str]:
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        found = len(names) if isinstance(names, list) else "no"
        raise UsageError(f"{title}: {found} names of classes; expected {count}")
    return names
