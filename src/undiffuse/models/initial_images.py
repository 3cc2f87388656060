"""Images that sampling begins from, as they are given: arrays, tensors or Pillow images, of the model's own size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse.core.space import Space
from undiffuse.errors import UsageError


def initial_images(given: Any, space: Space, num: int) -> Tensor | None:
    """x_0 (num, C, H, W) in [-1, 1], the images given in turn; None for nothing.

    Args:
        given: one image or several: uint8 tensors or arrays (C, H, W), (H, W, C), (H, W) of grey or (N, C, H, W), or
            Pillow images.
        space: of the model.
        num: of the samples that begin from them.
    Raises:
        UsageError: of another size or type, or for a model that makes no images.
    Example:
        >>> space = Space.of_data((1, 2, 2))
        >>> initial_images(torch.full((1, 2, 2), 255, dtype=torch.uint8), space, 3).shape
        torch.Size([3, 1, 2, 2])
    """
    if given is None:
        return None
    if not space.is_image:
        raise UsageError("this model makes no images, so it begins from none; leave image out")
    several = given if isinstance(given, list | tuple) else [given]
    arrays = [part for one in several for part in _arrays(one, space.shape[0])]
    for array in arrays:
        if array.dtype != np.uint8 or array.shape != space.shape:
            raise UsageError(
                f"an image to begin from must be uint8 {space.shape}, got {array.dtype} {tuple(array.shape)}; resize "
                "it, and give it the model's number of channels"
            )
    if not arrays:
        raise UsageError("there is no image to begin from; give at least one")
    x_0 = torch.from_numpy(np.stack(arrays)).float() / 127.5 - 1
    return x_0[torch.arange(num) % len(x_0)]


def _arrays(one: Any, channels: int) -> list[np.ndarray[Any, Any]]:
    if hasattr(one, "convert"):  # a Pillow image, whose numbers may be those of a palette
        one = one.convert("L" if channels == 1 else "RGB")
    array = one.cpu().numpy() if isinstance(one, Tensor) else np.asarray(one)
    if not isinstance(one, Tensor | np.ndarray):  # a Pillow image has its channels last, or none
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1) if array.ndim == 3 else array
    if array.ndim == 2 and channels == 1:
        array = array[None]
    if array.ndim == 3 and array.shape[0] != channels and array.shape[2] == channels:
        array = np.ascontiguousarray(array.transpose(2, 0, 1))
    return list(array) if array.ndim == 4 else [array]
