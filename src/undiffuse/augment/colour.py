"""Colour transformations as 4 x 4 matrices, in the order in which they are applied.

They act on (red, green, blue, 1) with values in [-1, 1]. Brightness and contrast map grey to grey and apply to grey
images too; the others would change nothing or introduce colour, and are disabled for grey images.

Source: Karras et al. 2020, arXiv:2006.06676, appendix B; luma by ITU-R BT.601, as is usual for saturation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from undiffuse.augment.transformation import Transformation, all_numbers, matrices, one_number, rotation_label

Size = tuple[int, int]

LUMA = (0.299, 0.587, 0.114)


Entry = Tensor | float


def _on_colours(rows: Sequence[Sequence[Entry]], added: Sequence[Entry], like: Tensor) -> Tensor:
    """(B, 4, 4) affine maps of a 3 x 3 matrix and an offset."""
    top: list[list[Entry]] = [[*row, by] for row, by in zip(rows, added, strict=True)]
    return matrices([*top, [0.0, 0.0, 0.0, 1.0]], like)


def shift(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    """(B, 4, 4) that add (B,) to each channel."""
    identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    return _on_colours(identity, (red, green, blue), red)


def spread(factor: Tensor, axis: tuple[float, float, float]) -> Tensor:
    """(B, 4, 4) that scale a colour's distance from the grey ``axis`` . colour; with (0, 0, 0), from mid-grey."""
    rows = [[factor * (row == column) + (1 - factor) * axis[column] for column in range(3)] for row in range(3)]
    return _on_colours(rows, (0.0, 0.0, 0.0), factor)


def grey_axis_rotation(angle: Tensor) -> Tensor:
    """(B, 4, 4) that rotate the RGB cube about its grey diagonal; 120 degrees map red to green to blue."""
    near, far = (1 + 2 * angle.cos()) / 3, (1 - angle.cos()) / 3
    lift = angle.sin() / 3**0.5
    rows = [[near, far - lift, far + lift], [far + lift, near, far - lift], [far - lift, far + lift, near]]
    return _on_colours(rows, (0.0, 0.0, 0.0), angle)


def _brightness(numbers: Tensor, by: float, size: Size) -> Tensor:
    added = by * numbers[:, 1]
    return shift(added, added, added)


def _contrast(numbers: Tensor, octaves: float, size: Size) -> Tensor:
    return spread(torch.exp2(octaves * numbers[:, 1]), (0.0, 0.0, 0.0))


def _colour(numbers: Tensor, by: float, size: Size) -> Tensor:
    return shift(*(by * numbers[:, 1:]).unbind(1))


def _hue(numbers: Tensor, degrees: float, size: Size) -> Tensor:
    return grey_axis_rotation(torch.deg2rad(degrees * numbers[:, 1]))


def _saturation(numbers: Tensor, octaves: float, size: Size) -> Tensor:
    return spread(torch.exp2(octaves * numbers[:, 1]), LUMA)


COLOUR: dict[str, Transformation] = {
    "brightness": Transformation(("normal",), _brightness, one_number, 1, "brightness_shift"),
    "contrast": Transformation(("normal",), _contrast, one_number, 1, "contrast_octaves"),
    "colour": Transformation(("normal", "normal", "normal"), _colour, all_numbers, 3, "colour_shift"),
    "hue": Transformation(("uniform",), _hue, rotation_label, 2, "hue_degrees"),
    "saturation": Transformation(("normal",), _saturation, one_number, 1, "saturation_octaves"),
}
#: Transformations disabled for grey images.
NOT_FOR_GREY = ("colour", "hue", "saturation")


def recolour(x: Tensor, maps: Tensor) -> Tensor:
    """Apply (B, 4, 4) colour maps to images (B, C, H, W) of 1 or 3 channels; grey as three equal channels."""
    if x.shape[1] == 1:
        factor, added = maps[:, 0, :3].sum(1), maps[:, 0, 3]
        return x * factor.to(x)[:, None, None, None] + added.to(x)[:, None, None, None]
    flat = torch.baddbmm(maps[:, :3, 3:].to(x), maps[:, :3, :3].to(x), x.flatten(2))
    return flat.reshape(x.shape)
