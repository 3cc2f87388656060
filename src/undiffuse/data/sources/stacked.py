"""Stacked MNIST: three random digits as the channels of one image, so that its 1,000 modes can be counted.

Stack i depends only on (seed, i) and the digits. Modes that a generator drops are missing classes: a digit classifier
classifies each channel of a sample.

Source: Metz et al. 2016, "Unrolled generative adversarial networks", arXiv:1611.02163, sec. 3.3.1; Srivastava et al.
2017, arXiv:1705.07761.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import IdxConfig, StackedMnistConfig
from undiffuse.data.dataset import HASH_BYTES, Dataset, Hashes, Indices, hash_item
from undiffuse.data.sources.idx import load as load_idx
from undiffuse.errors import UsageError

CHANNELS = 3
#: Maximal number of classes of a channel; the number of class names is its cube.
MAX_CLASSES = 21


class StackedDataset(Dataset):
    """Stacks of three images of another data set, created when they are loaded.

    Args:
        name: registry name of the source.
        base: grey images (1, H, W).
        triples: (N, 3) positions in ``base``: red, green and blue.
        provenance: see ``Dataset``.
    """

    def __init__(self, name: str, base: Dataset, triples: Indices, provenance: Mapping[str, str]) -> None:
        super().__init__(name, (CHANNELS, *base.shape[1:]), _names(base), provenance)
        self._base, self._triples = base, triples
        self._labels = None if base.labels is None else _codes(base.labels[triples], base.num_classes)
        self._hashes: Hashes | None = None

    def __len__(self) -> int:
        return len(self._triples)

    @property
    def labels(self) -> Indices | None:
        return self._labels

    def hashes(self) -> Hashes:
        """Hashes whose first half is the red digit's, which decides the split; the second half depends on all three."""
        if self._hashes is None:
            base = self._base.hashes()
            combined = b"".join(hash_item(row.tobytes()) for row in base[self._triples].reshape(len(self), -1))
            hashes = np.frombuffer(combined, dtype=np.uint8).reshape(-1, HASH_BYTES).copy()
            hashes[:, : HASH_BYTES // 2] = base[self._triples[:, 0], : HASH_BYTES // 2]
            self._hashes = hashes
        return self._hashes

    def items(self, indices: Indices) -> npt.NDArray[Any]:
        parts = [self._base.items(self._triples[indices, channel])[:, 0] for channel in range(CHANNELS)]
        return np.stack(parts, axis=1)


def load(config: StackedMnistConfig) -> Dataset:
    """Load the stacks (3, H, W); if the digits have labels, the class is the three digits, such as ``"407"``.

    Raises:
        UsageError: as the IDX source; if grey stacks are requested, or there are too many classes.
    """
    if config.channels == 1:
        raise UsageError("stacked images have 3 channels, got channels=1; use the source 'idx' for grey images")
    keys = ("path", "split", "size", "fit", "upscale", "background")
    base = load_idx(IdxConfig(channels=1, **{key: getattr(config, key) for key in keys}))
    if base.num_classes > MAX_CLASSES:
        raise UsageError(f"{config.path} has {base.num_classes} classes, expected at most {MAX_CLASSES}; use digits")
    held_out = base.hashes()[:, :8].copy().view(">u8")[:, 0] < np.uint64(int(config.validation_fraction * 2**64))
    triples = draw_triples(held_out, config.num_pictures, config.seed)  # data
    provenance = {
        "source": f"stacks of three of {base.provenance['source']}",
        "labels": base.provenance["labels"],
        "licence": base.provenance["licence"],
        "options": f"num_pictures={config.num_pictures} seed={config.seed} digits={base.provenance['options']}",
    }
    return StackedDataset(config.name, base, triples, provenance)


def draw_triples(held_out: npt.NDArray[np.bool_], num: int, seed: int) -> Indices:
    """Draw the positions (num, 3) of the stacked images; row i depends only on (seed, i) and ``held_out``.

    The first image of a row is drawn from all, the others from the same side of the split, so that no digit is used on
    both sides.

    Args:
        held_out: (M,) mask of the images held out from training.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 1], dtype=np.uint64)))
    u = rng.random((num, CHANNELS))
    triples = (u * len(held_out)).astype(np.int64)
    for side in (False, True):
        pool, rows = np.flatnonzero(held_out == side), held_out[triples[:, 0]] == side
        triples[rows, 1:] = pool[(u[rows, 1:] * len(pool)).astype(np.int64)] if rows.any() else 0
    return triples


def _codes(labels: Indices, num_classes: int) -> Indices:
    """Combine (N, 3) labels into one number each, such as 407 for 4, 0, 7 with ten classes."""
    codes: Indices = labels @ np.array([num_classes**2, num_classes, 1], dtype=np.int64)
    return codes


def _names(base: Dataset) -> list[str]:
    joint = "" if all(len(name) == 1 for name in base.class_names) else "-"
    return [joint.join(names) for names in product(base.class_names, repeat=CHANNELS)] if base.class_names else []
