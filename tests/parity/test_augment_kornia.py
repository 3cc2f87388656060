"""Our matrices and our resampling against kornia's, which does each by functions of its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from late import late
from undiffuse.augment import Augmentation, NoAugmentConfig
from undiffuse.augment.warp import supersampling_factor, warp

enhance, geometry = late("kornia.enhance"), late("kornia.geometry")

GENERATOR = torch.Generator().manual_seed(0)
#: Four images in [0.2, 0.8], smooth enough that resampling them says something.
UNIT = torch.nn.functional.interpolate(
    torch.rand(4, 3, 7, 9, dtype=torch.float64, generator=GENERATOR), (21, 27), mode="bicubic"
).clamp(0.2, 0.8)
X = 2 * UNIT - 1
ANGLE = math.radians(23.0)


def numbers(*rows: float) -> Tensor:
    return torch.tensor([[1.0, *rows]] * len(X), dtype=torch.float64)


def ours(name: str, drawn: Tensor, **options: float) -> Tensor:
    augmentation = Augmentation(NoAugmentConfig(**{name: 1.0}, **options), tuple(X.shape[1:]))  # type: ignore[arg-type]
    return augmentation(X, {name: drawn})


def in_pixels(*rows: tuple[float, float, float]) -> Tensor:
    """A map of centred coordinates as one of kornia's, whose pixel centres are whole numbers from the upper left."""
    centre = torch.tensor([[1.0, 0, (27 - 1) / 2], [0, 1, (21 - 1) / 2], [0, 0, 1]], dtype=torch.float64)
    return centre @ torch.tensor(rows, dtype=torch.float64) @ torch.linalg.inv(centre)


def assert_same_inside(found: Tensor, expected: Tensor) -> None:
    """Equal but at the border, where kornia reflects about pixel centres."""
    inside = (..., slice(8, -8), slice(8, -8))
    assert (found[inside] - expected[inside]).abs().max() < 1e-9
    assert (found - X)[inside].abs().max() > 0.01, "nothing was moved"


def theirs(matrix: Tensor) -> Tensor:
    whole = matrix.expand(len(X), 3, 3)
    return geometry().warp_perspective(
        X, whole, (21, 27), mode="bicubic", padding_mode="reflection", align_corners=True
    )


def test_rotation_is_kornias_the_other_way_round() -> None:
    """Theirs is against the clock where y points down."""
    found = ours("rotate", numbers(23 / 180))
    angle = torch.full((4,), -23.0, dtype=torch.float64)
    rotation = geometry().get_rotation_matrix2d(
        torch.tensor([[13.0, 10.0]], dtype=torch.float64).expand(4, 2), angle, torch.ones(4, 2, dtype=torch.float64)
    )
    expected = geometry().warp_affine(
        X, rotation, (21, 27), mode="bicubic", padding_mode="reflection", align_corners=True
    )
    assert_same_inside(found, expected)


def test_an_affine_map_of_all_kinds() -> None:
    config = NoAugmentConfig(scale=1, rotate=1, translate=1, shear=1)
    draws = {
        "scale": numbers(0.7),
        "rotate": numbers(23 / 180),
        "translate": numbers(0.4, -0.6),
        "shear": numbers(-0.5),
    }
    found = Augmentation(config, tuple(X.shape[1:]))(X, draws)
    factor, slant = 2**0.14, math.tan(math.radians(-7.5))
    steps = [
        in_pixels((factor, 0, 0), (0, factor, 0), (0, 0, 1)),
        in_pixels((math.cos(ANGLE), -math.sin(ANGLE), 0), (math.sin(ANGLE), math.cos(ANGLE), 0), (0, 0, 1)),
        in_pixels((1, 0, 0.4 * 27 / 8), (0, 1, -0.6 * 21 / 8), (0, 0, 1)),
        in_pixels((1, slant, 0), (0, 1, 0), (0, 0, 1)),
    ]
    assert_same_inside(found, theirs(steps[3] @ steps[2] @ steps[1] @ steps[0]))


def test_a_tilted_image_is_a_projection_of_its_corners() -> None:
    """kornia finds the map from where the corners go, which a look along the optical axis gives us."""
    found = ours("tilt", numbers(0.5, 0.0))
    angle, distance = math.radians(0.5 * 25), 2 * 27
    before, after = [], []
    for x in (-13.0, 13.0):
        for y in (-10.0, 10.0):
            before.append([x + 13, y + 10])
            nearer = distance / (distance + x * math.sin(angle))
            after.append([x * math.cos(angle) * nearer + 13, y * nearer + 10])
    corners = (torch.tensor([points], dtype=torch.float64) for points in (before, after))
    assert_same_inside(found, theirs(geometry().get_perspective_transform(*corners)))


def test_warp_equals_kornia_for_any_projective_map() -> None:
    rows = ((1.1, 0.15, 2.0), (-0.2, 1.05, -1.5), (0.002, -0.003, 1.0))
    map_ = torch.tensor([rows] * 4, dtype=torch.float64)
    assert bool((supersampling_factor(torch.linalg.inv(map_), (21, 27)) == 1).all())
    assert_same_inside(warp(X, map_), theirs(in_pixels(*rows)))


@pytest.mark.parametrize("octaves", [-1.0, 0.5])
def test_saturation_is_the_distance_from_luma(octaves: float) -> None:
    found = (ours("saturation", numbers(octaves)) + 1) / 2
    expected = enhance().adjust_saturation_with_gray_subtraction(UNIT, 2**octaves)
    assert (found - expected).abs().max() < 1e-4  # kornia rounds the weights of luma
    assert (found - UNIT).abs().max() > 0.05


@pytest.mark.parametrize("thirds", [-1, 1])
def test_hue_turned_by_a_third_takes_each_primary_to_the_next(thirds: int) -> None:
    """A turn about the grey axis and kornia's, of the hue in HSV, agree where the cube falls on itself."""
    found = (ours("hue", numbers(thirds * 2 / 3)) + 1) / 2
    expected = enhance().adjust_hue(UNIT, thirds * 2 * math.pi / 3)
    assert (found - expected).abs().max() < 1e-6
    assert (found - UNIT).abs().max() > 0.05


def test_a_small_turn_of_hue_goes_the_same_way_as_kornias() -> None:
    found = (ours("hue", numbers(20 / 180)) + 1) / 2 - UNIT
    expected = enhance().adjust_hue(UNIT, math.radians(20)) - UNIT
    assert (
        torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.75
    )  # they differ by definition between the thirds


def test_brightness_and_contrast() -> None:
    brighter = (ours("brightness", numbers(0.5)) + 1) / 2
    assert (brighter - enhance().adjust_brightness(UNIT, 0.05)).abs().max() < 1e-9
    flatter = (ours("contrast", numbers(-1.0)) + 1) / 2
    expected = enhance().adjust_contrast(UNIT - 0.5 + 1e-12, 2**-0.5, clip_output=False) + 0.5  # theirs is about black
    assert (flatter - expected).abs().max() < 1e-9
