"""Evaluation of networks in padded batches of a fixed size, so that no result depends on the caller's batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.pixels import check_images

GREY_REPEATED = "three channels, grey repeated"


@torch.no_grad()
def in_fixed_batches(images: Tensor, size: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """``compute`` of all images, ``size`` at a time; the last batch is padded with black images.

    Args:
        images: (B, C, H, W); B may be 0.
        size: images per batch.
        compute: (size, C, H, W) -> (size, ...), independent for each image.
    Returns:
        (B, ...) in the dtype that ``compute`` returns.
    """
    result = torch.empty(0)
    for start in range(0, max(len(images), 1), size):  # one block is computed even if B is 0, for the shape
        part = images[start : start + size].cpu()
        block = part.new_zeros(size, *images.shape[1:])
        block[: len(part)] = part
        rows = compute(block)[: len(part)]
        result = rows.new_empty(len(images), *rows.shape[1:]) if start == 0 else result
        result[start : start + size] = rows
    return result


def check_grey_or_colour(images: Tensor, what: str = "images") -> Tensor:
    """``images`` unchanged, if they are uint8 (B, 1 or 3, H, W).

    Raises:
        UsageError: anything else.
    """
    check_images(images, what=what)
    if images.shape[1] not in (1, 3):
        raise UsageError(f"{what} must have 1 or 3 channels, got {images.shape[1]}; convert them to grey or RGB")
    return images


def to_three_channels(images: Tensor) -> Tensor:
    """Grey images (B, 1, H, W) with their channel repeated three times; colour images unchanged."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
