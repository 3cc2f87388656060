"""Conversion of initial images of sampling: arrays, tensors or Pillow images of the model's image size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse.core.space import Space
from undiffuse.errors import UsageError


def initial_images(given: Any, space: Space, num: int) -> Tensor | None:
    """x_0 (num, C, H, W) in [-1, 1], using the given images cyclically; None for None.

    Args:
        given: one image or several: uint8 tensors or arrays (C, H, W), (H, W, C), (H, W) for greyscale or (N, C, H, W),
            or Pillow images.
        space: data space of the model.
        num: number of samples.
    Raises:
        UsageError: if the size or type is wrong, or the model does not generate images.
    Example:
        >>> space = Space.of_data((1, 2, 2))
        >>> initial_images(torch.full((1, 2, 2), 255, dtype=torch.uint8), space, 3).shape
        torch.Size([3, 1, 2, 2])
    """
    if given is None:
        return None
    if not space.is_image:
        raise UsageError("this model does not generate images and cannot start from one; leave image out")
    images = given if isinstance(given, list | tuple) else [given]
    arrays = [array for image in images for array in _arrays(image, space.shape[0])]
    for array in arrays:
        if array.dtype != np.uint8 or array.shape != space.shape:
            raise UsageError(
                f"an initial image must be uint8 {space.shape}, got {array.dtype} {tuple(array.shape)}; resize it, "
                "and convert it to the model's number of channels"
            )
    if not arrays:
        raise UsageError("there is no initial image; give at least one")
    x_0 = torch.from_numpy(np.stack(arrays)).float() / 127.5 - 1
    return x_0[torch.arange(num) % len(x_0)]


def _arrays(image: Any, channels: int) -> list[np.ndarray[Any, Any]]:
    """The images (C, H, W) in a tensor, an array or a Pillow image."""
    if hasattr(image, "convert"):  # a Pillow image, which may have a palette
        image = image.convert("L" if channels == 1 else "RGB")
    array = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if not isinstance(image, Tensor | np.ndarray):  # Pillow images have channels last, or no channel dimension
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1) if array.ndim == 3 else array
    if array.ndim == 2 and channels == 1:
        array = array[None]
    if array.ndim == 3 and array.shape[0] != channels and array.shape[2] == channels:
        array = np.ascontiguousarray(array.transpose(2, 0, 1))
    return list(array) if array.ndim == 4 else [array]
