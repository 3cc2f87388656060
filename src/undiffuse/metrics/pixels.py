"""The image check of all extractors, the bilinear resize, and pixels as features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from undiffuse.errors import UsageError
from undiffuse.images import uint8_advice
from undiffuse.metrics.extractor import FeatureExtractor


def check_images(images: Tensor, channels: int | None = None, what: str = "images") -> Tensor:
    """``images`` unchanged, if they are uint8 (B, C, H, W) with at least one pixel and ``channels`` channels.

    Raises:
        UsageError: anything else; non-finite values are reported as such.
    """
    if not isinstance(images, Tensor) or images.ndim != 4:
        received = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"{what} must be a uint8 tensor (B, C, H, W), got {received}")
    if images.is_floating_point() and not bool(torch.isfinite(images).all()):
        bad = int((~torch.isfinite(images)).flatten(1).any(1).sum())
        raise UsageError(f"{bad} of {len(images)} {what} hold NaN or infinite values; drop them or fix the sampler")
    if images.dtype != torch.uint8:
        raise UsageError(f"{what} must be uint8 in 0..255, got {images.dtype}{_advice(images)}")
    if 0 in images.shape[1:]:
        raise UsageError(f"{what} must have at least one pixel, got shape {tuple(images.shape)}")
    if channels is not None and images.shape[1] != channels:
        raise UsageError(
            f"{what} must have {channels} channel{'s' if channels > 1 else ''}, got {images.shape[1]}; "
            f"convert them to grey or take other features"
        )
    return images


def _advice(images: Tensor) -> str:
    """How to convert the images, by their range of values."""
    if images.numel() == 0 or images.is_complex():
        return ""
    low, high = float(images.min()), float(images.max())
    return f" from {low:.4g} to {high:.4g}; make them {uint8_advice(low, high)}"


def resize_images(images: Tensor, size: int) -> Tensor:
    """Float images (B, C, H, W) at ``size`` x ``size`` by the bilinear filter, antialiased when it shrinks."""
    if images.shape[-2:] == (size, size) or len(images) == 0:
        return images if len(images) else images.new_zeros(0, images.shape[1], size, size)
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


class PixelFeatures(FeatureExtractor):
    """The pixel values in [0, 1], channels first: D = C * H * W for any size."""

    name = "pixels"

    def features(self, images: Tensor) -> Tensor:
        return check_images(images).flatten(1).float() / 255
