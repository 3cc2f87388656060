"""``--image``: initial images of sampling, resized like the model's training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.api.datasets.reference_data import held_out_data
from undiffuse.config import validate
from undiffuse.data import source_config_for
from undiffuse.data.config import ImageConfig
from undiffuse.data.readers.decoding import heic
from undiffuse.data.readers.decoding.image import fit_image, read_image, to_array, with_channels
from undiffuse.data.sources.layout.folder_files import EXTENSIONS
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.models.saved import Model
from undiffuse.training.config import RunConfig


def init_from(model: Model, source: str, num: int) -> tuple[Tensor, dict[str, Any]]:
    """Read initial images, uint8 (N, C, H, W) with N <= ``num``, from a file or any data, and their record.

    Args:
        model: whose shape the images are resized to.
        source: an image file, a folder or other data.
        num: number of samples.
    Raises:
        UsageError: unreadable images, or a model that does not generate images.
    """
    if not model.module.space.is_image:
        raise UsageError("this model does not generate images, so it takes no initial ones; leave --image out")
    path = Path(source).expanduser()
    if path.is_file() and _is_image(path):
        return _read_one(model, path), {"source": path.name, "sha256": sha256_of(path)}
    if path.is_file() and path.suffix.lower() in EXTENSIONS | {f".{ending}" for ending in heic.ENDINGS}:
        read_image(path)  # raises the error that describes the problem
    fitting = isinstance(source_config_for(source), ImageConfig)
    options = [f"data.channels={model.module.shape[0]}", "data.on_error=skip"] if fitting else []
    dataset = held_out_data(model, source, options)
    images = dataset.fetch(range(min(num, len(dataset)))).items
    return images, {"source": source, "data_fingerprint": dataset.fingerprint}


def _is_image(path: Path) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return False


def _read_one(model: Model, path: Path) -> Tensor:
    channels, height, width = model.module.shape
    fit = getattr(validate(RunConfig, model.config["config"]).data, "fit", "crop")
    image = fit_image(read_image(path), (height, width), fit, upscale=True)
    return torch.from_numpy(to_array(with_channels(image, channels)).copy())[None]
