"""Augmentation: what happens to an image is a function of the step and its place; nothing else happens to it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.augment import AUGMENTATIONS, Augmentation, AugmentConfig, NoAugmentConfig
from undiffuse.augment.config import TRANSFORMATION_NAMES
from undiffuse.augment.grid import GRID_ROWS, WHOLE, augmentation_grid, grid_columns
from undiffuse.augment.pipeline import TRANSFORMATIONS
from undiffuse.augment.transformation import KINDS
from undiffuse.augment.warp import supersampling_factor, warp
from undiffuse.config import validate
from undiffuse.core.random import StepRandom
from undiffuse.data.dataset import ArrayDataset, Batch
from undiffuse.data.given import Given
from undiffuse.errors import UsageError
from undiffuse.recipes import get_recipe
from undiffuse.training.augment import Augmenter, random_flip
from undiffuse.training.config import RunConfig

IMAGES = torch.randint(0, 256, (1000, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BATCH = Batch(IMAGES, Given(label=torch.arange(1000)), torch.arange(1000))
SMOOTH = torch.nn.functional.interpolate(IMAGES[:64].float(), (12, 16), mode="bicubic").clamp(0, 255).byte()
each_transformation = pytest.mark.parametrize("name", TRANSFORMATIONS)
OCTAVES = ("scale", "stretch", "contrast", "saturation")


def mirrored(step: int, micro_batch: int = 0) -> Tensor:
    """Which images were mirrored, ``(1000,)`` bool."""
    flipped = random_flip(BATCH, StepRandom(3, step, micro_batch))
    same, mirror = ((flipped.items == items).flatten(1).all(1) for items in (IMAGES, IMAGES.flip(-1)))
    assert bool((same ^ mirror).all())
    assert flipped.given is BATCH.given and torch.equal(flipped.indices, BATCH.indices)
    return mirror


def test_about_half_of_the_images_are_mirrored_by_the_step() -> None:
    first = mirrored(7)
    assert 420 < int(first.sum()) < 580  # five standard deviations
    assert torch.equal(first, mirrored(7))
    assert not torch.equal(first, mirrored(8))
    assert not torch.equal(first, mirrored(7, micro_batch=1))


def config_of(**options: object) -> AugmentConfig:
    return NoAugmentConfig(**options)  # type: ignore[arg-type]


def drawn(config: AugmentConfig, images: Tensor, step: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Transformed images and what the network is conditioned on."""
    augmentation = Augmentation(config, tuple(images.shape[1:]))
    draws = augmentation.draw(StepRandom(seed, step, stream="augment"), len(images))
    return augmentation(images, draws), augmentation.label(draws)


def plain(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def test_the_options_are_the_parts() -> None:
    assert set(TRANSFORMATIONS) == set(TRANSFORMATION_NAMES)
    strengths = {part.strength for part in TRANSFORMATIONS.values()} - {""}
    assert set(AugmentConfig.model_fields) == {*TRANSFORMATIONS, *strengths, "name", "condition", "padding"}
    assert all(kind in KINDS for part in TRANSFORMATIONS.values() for kind in part.draws)


@each_transformation
def test_each_transformation_changes_about_its_share_of_the_images_and_leaves_the_others_bit_for_bit(
    name: str,
) -> None:
    images = SMOOTH[torch.arange(1000) % 64]
    out, label = drawn(config_of(**{name: 0.25}), images)
    changed = (out != plain(images)).flatten(1).any(1)
    labelled = label.any(1)
    assert out.dtype == torch.float32 and out.shape == images.shape
    assert out.abs().max() <= 1
    assert 170 < int(labelled.sum()) < 330  # five standard deviations
    assert not bool((changed & ~labelled).any()), "a change that the network is not conditioned on"
    assert int((labelled & ~changed).sum()) <= 2, "an image may be its own image, but hardly ever is"


@each_transformation
def test_the_label_is_zero_for_probability_zero_and_a_function_of_the_numbers_drawn(name: str) -> None:
    part = TRANSFORMATIONS[name]
    augmentation = Augmentation(config_of(**{name: 1.0}), (3, 8, 8))
    nothing = torch.zeros(5, 1 + len(part.draws), dtype=torch.float64)
    assert not bool(augmentation.label({name: nothing}).any())
    draws = augmentation.draw(StepRandom(0, 0), 200)
    label = augmentation.label(draws)
    assert label.shape == (200, part.num_labels) == (200, len(augmentation.label_names))
    assert torch.equal(label[17:40], augmentation.label({name: draws[name][17:40]}))
    if part.draws:
        distances = torch.cdist(label, label, compute_mode="donot_use_mm_for_euclid_dist") + torch.eye(200)
        assert distances.min() > 0, "two different draws look the same to the network"


@each_transformation
def test_numbers_are_uniform_from_minus_one_to_one_or_normal_and_independent(name: str) -> None:
    numbers = Augmentation(config_of(**{name: 1.0}), (3, 8, 8)).draw(StepRandom(0, 0), 4000)[name][:, 1:]
    for kind, column in zip(TRANSFORMATIONS[name].draws, numbers.T, strict=True):
        expected = {"uniform": stats.uniform(-1, 2), "normal": stats.norm()}[kind]
        assert stats.kstest(column.numpy(), expected.cdf).pvalue > 1e-4
    if numbers.shape[1] > 1:
        assert (numbers.T.corrcoef() - torch.eye(numbers.shape[1])).abs().max() < 5 / 4000**0.5


def test_labels_join_where_the_circle_does() -> None:
    augmentation = Augmentation(config_of(rotate=1.0, hue=1.0), (3, 8, 8))
    both = {name: torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) for name in ("rotate", "hue")}
    first, second = augmentation.label(both)
    assert torch.allclose(first, second, atol=1e-6) and torch.allclose(first, torch.tensor([-2.0, 0, -2, 0]), atol=1e-6)


@pytest.mark.parametrize("row", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_image_depends_on_seed_step_and_place_alone(row: str, channels: int) -> None:
    config, images = AUGMENTATIONS[row](), SMOOTH[:, :channels]
    augmentation = Augmentation(config, tuple(images.shape[1:]))
    draws = augmentation.draw(StepRandom(3, 5, stream="augment"), 64)
    whole = augmentation(images, draws)
    assert torch.equal(whole, augmentation(images, draws))
    for start, end in pairwise((0, 1, 17, 64)):
        part = augmentation(images[start:end], {name: rows[start:end] for name, rows in draws.items()})
        assert torch.equal(part, whole[start:end])
    if config.any:
        assert not torch.equal(whole, drawn(config, images, step=6, seed=3)[0])
        assert not torch.equal(whole, drawn(config, images, step=5, seed=4)[0])
    empty = augmentation(images[:0], {name: rows[:0] for name, rows in draws.items()})
    assert empty.shape == images[:0].shape


def run_config(*overrides: str) -> RunConfig:
    return apply_overrides(get_recipe("ddpm-digits"), ["batch_images=48", *overrides])


def batches(config: RunConfig, step: int) -> Batch:
    """All micro-batches of a step, of the first 48 images."""
    dataset = ArrayDataset("images", SMOOTH.numpy())
    augmenter, size = Augmenter(config, dataset), config.batch_images // config.num_micro_batches
    parts = [
        augmenter(dataset.fetch(np.arange(start, start + size)), StepRandom(0, step, number), step, number)
        for number, start in enumerate(range(0, config.batch_images, size))
    ]
    given = Given.join([part.given for part in parts])
    return Batch(torch.cat([part.x_0 for part in parts]), given, torch.cat([part.indices for part in parts]))


@pytest.mark.parametrize("options", [("augment=karras",), ("augment=document", "augment.rotate=1")])
def test_the_cut_into_micro_batches_changes_nothing(options: tuple[str, ...]) -> None:
    whole = batches(run_config(*options), 3)
    parts = batches(run_config(*options, "micro_batch_images=12"), 3)
    assert torch.equal(whole.x_0, parts.x_0)
    assert whole.given.augment is not None and parts.given.augment is not None
    assert torch.equal(whole.given.augment, parts.given.augment)
    assert not torch.equal(whole.x_0, batches(run_config(*options), 4).x_0)


def test_random_flip_is_what_it_always_was() -> None:
    config = run_config("random_flip=true", "micro_batch_images=24")
    found = batches(config, 9).x_0
    expected = [
        random_flip(Batch(SMOOTH[start : start + 24], Given(), torch.arange(24)), StepRandom(0, 9, number)).x_0
        for number, start in enumerate((0, 24))
    ]
    assert torch.equal(found, torch.cat(expected))
    assert batches(config, 9).given == Given()


def test_the_network_is_conditioned_on_nothing_unless_requested() -> None:
    assert batches(run_config("augment=flip"), 0).given.augment is None
    assert batches(run_config("augment=karras", "augment.condition=false"), 0).given.augment is None
    assert torch.equal(batches(run_config(), 0).x_0, plain(SMOOTH[:48]))


def test_grey_images_get_what_makes_sense_and_the_rest_is_named() -> None:
    augmentation = Augmentation(AUGMENTATIONS["document"](), (1, 8, 8))
    assert augmentation.left_out == ["colour", "hue", "saturation"]
    assert {"brightness", "contrast"} < set(augmentation.transformations)
    note = Augmenter(run_config("augment=document"), ArrayDataset("grey", SMOOTH[:, :1].numpy())).note
    assert "colour, hue, saturation" in note and "grey" in note
    assert Augmenter(run_config("augment=document"), ArrayDataset("images", SMOOTH.numpy())).note == ""


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_a_grey_image_is_treated_as_a_colour_image_with_equal_channels(name: str) -> None:
    grey = SMOOTH[:, :1]
    one, _ = drawn(config_of(**{name: 1.0}), grey)
    three, _ = drawn(config_of(**{name: 1.0}), grey.expand(-1, 3, -1, -1))
    assert torch.allclose(three, one.expand_as(three), atol=1e-6)


def test_points_and_two_mirrors_are_rejected() -> None:
    points = ArrayDataset("points", np.zeros((5, 2), dtype=np.float32))
    with pytest.raises(UsageError, match="random_flip=true is for images"):
        Augmenter(run_config("random_flip=true"), points)
    with pytest.raises(UsageError, match="augment=none"):
        Augmenter(run_config("augment=karras"), points)
    with pytest.raises(UsageError, match="both flip"):
        run_config("random_flip=true", "augment=karras")
    with pytest.raises(UsageError, match="did you mean 'rotate'"):
        run_config("augment.rotat=0.5")
    with pytest.raises(UsageError, match="less than or equal to 1"):
        run_config("augment.hue=2")
    with pytest.raises(UsageError, match="did you mean 'karras'"):
        run_config("augment=karas")


@pytest.mark.parametrize("row", AUGMENTATIONS)
def test_a_configuration_survives_json_and_older_ones_have_none(row: str) -> None:
    config = run_config(f"augment={row}", "augment.translate=0.5", "augment.translate_share=0.25")
    assert config.augment.translate_share == 0.25
    assert validate(RunConfig, json.loads(json.dumps(config.model_dump(mode="json")))) == config
    older = {key: value for key, value in run_config().model_dump(mode="json").items() if key != "augment"}
    assert validate(RunConfig, older) == run_config()


# moving pixels


def maps_of(*rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("padding", ["reflect", "edge"])
def test_whole_pixels_and_quarter_turns_move_values_as_they_are(padding: str) -> None:
    x = plain(SMOOTH[:1])
    moved = warp(x, maps_of([[1, 0, 3], [0, 1, -2], [0, 0, 1]]), padding)  # type: ignore[arg-type]
    assert torch.allclose(moved[:, :, :-2, 3:], x[:, :, 2:, :-3], atol=1e-5)
    square = x[..., :12]
    turned = warp(square, maps_of([[0, -1, 0], [1, 0, 0], [0, 0, 1]]))  # x to the right goes down: clockwise
    assert torch.allclose(turned, square.rot90(-1, (2, 3)), atol=1e-5)
    assert torch.allclose(warp(x, torch.eye(3, dtype=torch.float64)[None]), x, atol=1e-6)


def test_the_border_is_reflected_or_repeated() -> None:
    x = plain(SMOOTH[:1])
    right = maps_of([[1, 0, 4], [0, 1, 0], [0, 0, 1]])
    assert torch.allclose(warp(x, right)[..., :4], x[..., :4].flip(-1), atol=1e-5)
    assert torch.allclose(warp(x, right, "edge")[..., :4], x[..., :1].expand(-1, -1, -1, 4), atol=1e-5)


@pytest.mark.parametrize(("factor", "places"), [(2.0, 1), (1.0, 1), (0.85, 1), (0.5, 2), (0.3, 4), (0.05, 4)])
def test_shrinking_looks_at_as_many_places_as_it_passes_over(factor: float, places: int) -> None:
    maps = maps_of([[factor, 0, 0], [0, factor, 0], [0, 0, 1]])
    assert int(supersampling_factor(torch.linalg.inv(maps), (20, 30))) == places
    turned = torch.linalg.inv(maps) @ maps_of([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    assert int(supersampling_factor(turned, (20, 30))) == places
    for one_way in ([[factor, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, factor, 0], [0, 0, 1]]):
        assert int(supersampling_factor(torch.linalg.inv(maps_of(one_way)), (20, 30))) == places


def test_stripes_fade_when_they_are_shrunk_instead_of_turning_coarse() -> None:
    stripes = torch.ones(1, 1, 32, 32)
    stripes[..., ::2] = -1
    shrunk = warp(stripes, maps_of([[0.45, 0, 0], [0, 0.45, 0], [0, 0, 1]]))
    assert shrunk.abs().max() < 0.4
    naive = torch.nn.functional.grid_sample(
        stripes,
        torch.nn.functional.affine_grid(torch.tensor([[[1 / 0.45, 0, 0], [0, 1 / 0.45, 0]]]), [1, 1, 32, 32], False),
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    assert naive.abs().max() > 0.9


def test_the_product_of_all_maps_is_resampled_once() -> None:
    """Scale, turn and move one after the other blur three times; together they are one map."""
    config = config_of(scale=1.0, rotate=1.0, translate=1.0)
    augmentation = Augmentation(config, (3, 12, 16))
    draws = augmentation.draw(StepRandom(0, 0), 64)
    maps = torch.eye(3, dtype=torch.float64)
    for name in ("scale", "rotate", "translate"):
        maps = augmentation._matrix(name, draws[name], (12, 16)) @ maps
    assert torch.allclose(augmentation(SMOOTH, draws), warp(plain(SMOOTH), maps).clamp(-1, 1), atol=1e-6)


def test_the_strengths_are_in_the_units_of_their_names() -> None:
    augmentation = Augmentation(config_of(**dict.fromkeys(TRANSFORMATIONS, 1.0)), (3, 20, 40))

    def matrix(name: str, *numbers: float) -> Tensor:
        return augmentation._matrix(name, torch.tensor([[1.0, *numbers]], dtype=torch.float64), (20, 40))[0]

    assert torch.allclose(matrix("scale", 2.0)[:2, :2], 2**0.4 * torch.eye(2, dtype=torch.float64))
    assert torch.allclose(matrix("translate", 1.0, -1.0)[:2, 2], torch.tensor([5.0, -2.5], dtype=torch.float64))
    assert torch.allclose(matrix("rotate", 0.5)[:2, 0], torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-12)
    stretched = matrix("stretch", 1.0, 0.5)  # along y
    assert torch.allclose(stretched.diag()[:2].log2(), torch.tensor([-0.2, 0.2], dtype=torch.float64))
    assert matrix("shear", 1.0)[0, 1] == pytest.approx(np.tan(np.radians(15)))
    # the right border of an image tilted back by a about the vertical axis, seen from 80 pixels
    right = matrix("tilt", 1.0, 0.0) @ torch.tensor([20.0, 10.0, 1.0], dtype=torch.float64)
    depth = 20 * np.sin(np.radians(25))
    assert right[0] / right[2] == pytest.approx(20 * np.cos(np.radians(25)) * 80 / (80 + depth))
    assert right[1] / right[2] == pytest.approx(10 * 80 / (80 + depth))
    colours = {
        name: matrix(name, *[1.0] * len(TRANSFORMATIONS[name].draws))
        for name in ("brightness", "contrast", "saturation")
    }
    red, grey = torch.tensor([0.5, 0.0, 0.0, 1.0]).double(), torch.tensor([0.3, 0.3, 0.3, 1.0]).double()
    assert torch.allclose((colours["brightness"] @ red)[:3], red[:3] + 0.2)
    assert torch.allclose((colours["contrast"] @ red)[:3], red[:3] * 2**0.5)
    luma = 0.299 * 0.5
    assert torch.allclose((colours["saturation"] @ red)[:3], luma + 2 * (red[:3] - luma))
    assert torch.allclose(colours["saturation"] @ grey, grey)
    assert torch.allclose(matrix("hue", 1.0) @ grey, grey)


def test_a_hole_has_its_share_and_its_place() -> None:
    augmentation = Augmentation(config_of(cutout=1.0), (3, 12, 16))
    middle = {"cutout": torch.tensor([[1.0, 0.0, 0.0], [1.0, -1.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)}
    white = torch.full((3, 3, 12, 16), 255, dtype=torch.uint8)
    found = augmentation(white, middle) == 0
    assert found[0].sum() == 3 * 6 * 8 and bool(found[0, :, 3:9, 4:12].all())
    assert found[1].sum() == 3 * 3 * 4 and bool(found[1, :, :3, :4].all())
    assert not bool(found[2].any())


def test_gradients_flow_through_the_pipeline() -> None:
    everything = dict.fromkeys(TRANSFORMATIONS, 1.0)
    augmentation = Augmentation(config_of(**everything, contrast_octaves=0.01, brightness_shift=0.01), (3, 4, 4))
    draws = augmentation.draw(StepRandom(1, 0), 2)
    x = 0.05 * torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda value: augmentation(value, draws), x.requires_grad_(), atol=1e-4)


def test_adaptive_augmentation_scales_every_probability() -> None:
    augmentation = Augmentation(AUGMENTATIONS["document"](), (3, 12, 16))
    none, half = (augmentation.draw(StepRandom(0, 0), 1000, scale=p) for p in (0.0, 0.5))
    assert not any(bool(rows.any()) for rows in none.values())
    assert 170 < int(half["flip"][:, 0].sum()) < 330


# the image grid


def test_the_grid_has_a_column_a_name_and_a_row_an_image() -> None:
    images = SMOOTH[:GRID_ROWS]
    config = AUGMENTATIONS["karras"]()
    columns = grid_columns(config, tuple(images.shape[1:]))
    assert columns == [
        "as it is",
        *Augmentation(config, tuple(images.shape[1:])).transformations,
        *["all together"] * WHOLE,
    ]
    grid = augmentation_grid(images, config, seed=1, smallest_side=16)
    assert grid.dtype == np.uint8 and grid.shape == (3, GRID_ROWS * (12 + 2) + 2, len(columns) * (16 + 2) + 2)
    assert np.array_equal(grid[:, 2:14, 2:18], images[0].numpy())
    assert np.array_equal(grid[:, 2:14, 20:36], images[0].numpy()[..., ::-1])  # the column "flip"
    assert np.array_equal(grid, augmentation_grid(images, config, seed=1, smallest_side=16))
    assert not np.array_equal(grid, augmentation_grid(images, config, seed=2, smallest_side=16))


def test_a_configuration_is_read_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, undiffuse.augment.config, undiffuse.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", OCTAVES)
def test_strengths_that_no_arithmetic_survives_are_rejected(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}_octaves"):
        validate(NoAugmentConfig, {f"{name}_octaves": 30.0}, "augment")
    config = config_of(**{name: 1.0, f"{name}_octaves": 8.0})
    assert bool(torch.isfinite(drawn(config, IMAGES)[0]).all())
