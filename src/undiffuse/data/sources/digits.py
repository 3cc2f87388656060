"""The handwritten digits bundled with scikit-learn: real scans, no download."""

from __future__ import annotations

import numpy as np

from undiffuse.data.config import DigitsConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources.array_images import image_dataset


def load(config: DigitsConfig) -> Dataset:
    """Load 1,797 grey images of 8x8 in ten classes; levels 0..16 are scaled to round(level * 255 / 16)."""
    from sklearn.datasets import load_digits  # takes a second to import

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None]
    provenance = {
        "source": "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, UCI, 1998), test part, as bundled "
        "with scikit-learn",
        "licence": "CC BY 4.0",
    }
    return image_dataset(config, images, found.target, [str(digit) for digit in range(10)], provenance)
