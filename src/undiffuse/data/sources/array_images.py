"""Data set from an array of images of equal size, with the options of ``ImageConfig`` applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.data.config import ImageConfig
from undiffuse.data.dataset import ArrayDataset, Dataset, hash_rows
from undiffuse.errors import UsageError

MAX_BYTES = 4 * 2**30


def image_dataset(
    config: ImageConfig,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[Any] | None,
    class_names: Sequence[str],
    provenance: Mapping[str, str],
    captions: Sequence[str] | None = None,
) -> Dataset:
    """Create the data set of these images (N, C, H, W), converted to the size and number of channels in ``config``.

    Hashes are computed before the conversion, so that the split is the same at every training size.
    """
    channels = config.channels or images.shape[1]
    size = config.target or images.shape[2:]
    fitted, options = images, "as found"
    if (channels, *size) != images.shape[1:]:
        fitted = _fit_all(config, images, channels, (size[0], size[1]))
        options = config.options_text
    return ArrayDataset(
        name=config.name,
        array=fitted,
        labels=labels,
        class_names=class_names,
        provenance={**provenance, "options": options},
        hashes=hash_rows(images),
        captions=captions,
    )


def _fit_all(
    config: ImageConfig, images: npt.NDArray[np.uint8], channels: int, size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    from undiffuse.data.readers.decoding.image import fit_image, from_array, to_array, with_channels

    num_bytes = len(images) * channels * size[0] * size[1]
    if num_bytes > MAX_BYTES:
        raise UsageError(
            f"{len(images)} images of {size[0]}x{size[1]} make {num_bytes} bytes, more than the {MAX_BYTES} that are "
            f"held in memory; use a smaller size than {config.size}"
        )

    def fit(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        fitted = fit_image(from_array(image), size, config.fit, config.upscale, config.background)
        return to_array(with_channels(fitted, channels))

    return np.stack([fit(image) for image in images])
