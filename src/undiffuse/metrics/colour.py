"""Brightness and contrast of a set of images, from exact counts of its 256 levels.

A drifting sampler is visible here first: grey images lower the contrast, saturation accumulates values at 0 and 255.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.pixels import check_images

LEVELS = 256


class ColourAccumulator:
    """A histogram of the levels 0..255 of each channel, in integers, so sums are exact.

    Args:
        num_channels: C.
    Example:
        >>> accumulator = ColourAccumulator(1)
        >>> accumulator.update(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1))
        >>> accumulator.mean, accumulator.contrast, accumulator.share_at_255
        ([127.5], 127.5, 0.5)
    """

    def __init__(self, num_channels: int) -> None:
        if num_channels < 1:
            raise UsageError(f"num_channels must be at least 1, got {num_channels}")
        self.histogram = torch.zeros(num_channels, LEVELS, dtype=torch.int64)

    def update(self, images: Tensor) -> None:
        """Add uint8 images (B, C, H, W); B may be 0."""
        check_images(images, len(self.histogram))
        for index, channel in enumerate(images.cpu().unbind(1)):
            self.histogram[index] += torch.bincount(channel.flatten(), minlength=LEVELS)

    def merge(self, other: ColourAccumulator) -> ColourAccumulator:
        """The accumulator of both sets of images; neither operand changes."""
        if len(other.histogram) != len(self.histogram):
            raise UsageError(f"cannot merge accumulators of {len(self.histogram)} and {len(other.histogram)} channels")
        merged = ColourAccumulator(len(self.histogram))
        merged.histogram = self.histogram + other.histogram
        return merged

    @property
    def mean(self) -> list[float]:
        """The mean level of each channel, in 0..255."""
        return [_moments(levels)[0] for levels in self.histogram]

    @property
    def contrast_by_channel(self) -> list[float]:
        """The standard deviation of each channel over all its pixels, in levels."""
        return [_moments(levels)[1] for levels in self.histogram]

    @property
    def contrast(self) -> float:
        """The standard deviation over all values of all channels, in levels: 0 for a uniform grey."""
        return _moments(self.histogram.sum(0))[1]

    @property
    def share_at_0(self) -> float:
        """Fraction of values that are 0."""
        return self._share(0)

    @property
    def share_at_255(self) -> float:
        """Fraction of values that are 255."""
        return self._share(LEVELS - 1)

    def to_dict(self) -> dict[str, Any]:
        """All values as plain numbers."""
        return {
            "mean": self.mean,
            "contrast": self.contrast,
            "contrast_by_channel": self.contrast_by_channel,
            "share_at_0": self.share_at_0,
            "share_at_255": self.share_at_255,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The counts by name, see ``from_tensors``."""
        return {"histogram": self.histogram}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> ColourAccumulator:
        """The accumulator from the output of ``tensors()``."""
        accumulator = cls(len(tensors["histogram"]))
        accumulator.histogram = tensors["histogram"].clone()
        return accumulator

    def _share(self, level: int) -> float:
        _moments(self.histogram[0])
        return int(self.histogram[:, level].sum()) / int(self.histogram.sum())


def _moments(levels: Tensor) -> tuple[float, float]:
    """Mean and standard deviation from counts (256,), with the sums in Python integers."""
    counts = levels.tolist()
    total = sum(counts)
    if total == 0:
        raise UsageError("a mean level needs at least 1 image, got 0")
    first = sum(level * count for level, count in enumerate(counts))
    second = sum(level * level * count for level, count in enumerate(counts))
    return first / total, math.sqrt(total * second - first * first) / total
