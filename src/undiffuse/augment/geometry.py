"""Geometric transformations as 3 x 3 matrices, in the order in which they are applied.

They map points (x, y, 1), in pixels from the image's centre, x to the right and y down, from the input image to the
output image.

Source: Karras et al. 2020, arXiv:2006.06676, appendix B; Karras et al. 2022, arXiv:2206.00364, appendix F.2. Shear and
tilt are additions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.augment.transformation import Transformation, all_numbers, matrices, one_number, rotation_label

Size = tuple[int, int]

#: Distance of the viewer from a tilted image, in units of its longer side.
VIEWING_DISTANCE = 2.0


def linear(xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor) -> Tensor:
    """(B, 3, 3) linear maps, which fix the centre, from entries (B,)."""
    return matrices([[xx, xy, 0.0], [yx, yy, 0.0], [0.0, 0.0, 1.0]], xx)


def rotation(angle: Tensor) -> Tensor:
    """Rotations by angles in radians; with y down a positive angle is clockwise."""
    cos, sin = angle.cos(), angle.sin()
    return linear(cos, -sin, sin, cos)


def _scale(numbers: Tensor, octaves: float, size: Size) -> Tensor:
    factor, zero = torch.exp2(octaves * numbers[:, 1]), torch.zeros_like(numbers[:, 1])
    return linear(factor, zero, zero, factor)


def _rotate(numbers: Tensor, degrees: float, size: Size) -> Tensor:
    return rotation(torch.deg2rad(degrees * numbers[:, 1]))


def _stretch(numbers: Tensor, octaves: float, size: Size) -> Tensor:
    factor, zero = torch.exp2(octaves * numbers[:, 1]), torch.zeros_like(numbers[:, 1])
    direction = rotation(torch.pi * numbers[:, 2])
    return direction @ linear(factor, zero, zero, 1 / factor) @ direction.mT


def _stretch_label(numbers: Tensor, octaves: float) -> Tensor:
    size, direction = numbers[:, 1], torch.pi * numbers[:, 2]
    return torch.stack([size * direction.cos(), size * direction.sin()], dim=1)


def _translate(numbers: Tensor, share: float, size: Size) -> Tensor:
    by = share * numbers[:, 1:] * torch.tensor([size[1], size[0]], dtype=numbers.dtype)
    return matrices([[1.0, 0.0, by[:, 0]], [0.0, 1.0, by[:, 1]], [0.0, 0.0, 1.0]], numbers[:, 1])


def _shear(numbers: Tensor, degrees: float, size: Size) -> Tensor:
    slant = torch.deg2rad(degrees * numbers[:, 1]).tan()
    one, zero = torch.ones_like(slant), torch.zeros_like(slant)
    return linear(one, slant, zero, one)


def _tilt(numbers: Tensor, degrees: float, size: Size) -> Tensor:
    """Depth z = x sin about one axis and y sin about the other; a point at depth z is scaled by d / (d + z)."""
    distance = VIEWING_DISTANCE * max(size)
    angle = torch.deg2rad(degrees * numbers[:, 1:])
    cos, sin = angle.cos(), angle.sin() / distance
    about_y = matrices([[cos[:, 0], 0.0, 0.0], [0.0, 1.0, 0.0], [sin[:, 0], 0.0, 1.0]], cos[:, 0])
    about_x = matrices([[1.0, 0.0, 0.0], [0.0, cos[:, 1], 0.0], [0.0, sin[:, 1], 1.0]], cos[:, 0])
    return about_x @ about_y


GEOMETRY: dict[str, Transformation] = {
    "scale": Transformation(("normal",), _scale, one_number, 1, "scale_octaves"),
    "rotate": Transformation(("uniform",), _rotate, rotation_label, 2, "rotate_degrees"),
    "stretch": Transformation(("normal", "uniform"), _stretch, _stretch_label, 2, "stretch_octaves"),
    "translate": Transformation(("normal", "normal"), _translate, all_numbers, 2, "translate_share"),
    "shear": Transformation(("uniform",), _shear, one_number, 1, "shear_degrees"),
    "tilt": Transformation(("uniform", "uniform"), _tilt, all_numbers, 2, "tilt_degrees"),
}
