"""A run too short to come to anything says so once, and none of the recipes as they stand does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.planning import plan_training
from undiffuse.api.short_runs import note_noisy_preview, note_short_run
from undiffuse.api.training import split_data, train_run
from undiffuse.cli.terminal import Terminal
from undiffuse.diagnostics.noise import assess_noise, neighbour_correlation
from undiffuse.images import grid_of, image_of, images_in, save_png
from undiffuse.observer import observing
from undiffuse.recipes import RECIPES, get_recipe
from undiffuse.training.config import RunConfig

_TINY = (
    *("system.network.channels=8", "system.network.multipliers=[1]", "system.sampling.num_steps=4"),
    *("quality_every_images=0", "batch_images=32", "validate_every_images=0"),
)


@pytest.fixture(autouse=True)
def _received() -> Iterator[None]:
    with observing(Terminal()):
        yield


def digits(*overrides: str) -> RunConfig:
    return apply_overrides(get_recipe("ddpm-digits"), [*_TINY, *overrides])


def message(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_is_too_short(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not note_short_run(get_recipe(recipe))
    assert not message(capsys)


@pytest.mark.parametrize(
    ("recipe", "overrides", "lines"),
    [
        (
            "photos-48",
            ["num_images=1000"],
            "the learning rate is still rising at the end, optimizer.warmup_images=3000",
        ),
        ("photos-48", ["num_images=3000"], ""),  # its last step sees image 3,008
        ("photos-48", ["num_images=1000", "optimizer.warmup_images=500"], ""),
        ("photos-48", ["num_images=5000", "ema.rampup=null"], "averaged weights are immature at the end"),
        ("photos-48", ["num_images=100000", "ema.rampup=null"], ""),
        ("meanflow-mnist", ["num_images=64"], "optimizer.warmup_images=10000"),
    ],
)
def test_what_is_certain_beforehand_is_reported_beforehand(
    recipe: str, overrides: list[str], lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert note_short_run(apply_overrides(get_recipe(recipe), overrides)) is bool(lines)
    line = message(capsys)
    assert lines in line and bool(line) is bool(lines)
    assert not lines or f"the recipe {recipe} sees {get_recipe(recipe).num_images:,} images" in line


def test_it_is_reported_once_by_a_training_and_by_its_dry_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warming = digits("num_images=64", "preview_every_images=64")
    plan_training(warming, "cpu")
    assert message(capsys).count("more than noise") == 1
    train_run(warming, tmp_path / "a", device="cpu")
    assert message(capsys).count("more than noise") == 1
    train_run(
        digits("num_images=64", "preview_every_images=64", "optimizer.warmup_images=0"), tmp_path / "b", device="cpu"
    )
    line = message(capsys)
    assert line.count("more than noise") == 1 and "neighbouring pixels correlate by" in line
    assert "the recipe ddpm-digits sees 100,000 images" in line


def test_a_preview_that_looks_like_the_data_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = digits("num_images=64", "preview_every_images=64")
    training, _ = split_data(config)
    (preview := tmp_path / "previews" / "images_000000000064.png").parent.mkdir()
    save_png(preview, image_of(training.fetch(range(16)).items.numpy()))
    note_noisy_preview(config, training, tmp_path)
    assert not message(capsys)
    save_png(preview, image_of(np.random.default_rng(0).integers(0, 256, (16, 1, 8, 8), dtype=np.uint8)))
    note_noisy_preview(config, training, tmp_path)
    assert "more than noise" in message(capsys)


@pytest.mark.parametrize("count", [1, 5, 16])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 20), (3, 64, 64)])
def test_images_come_out_of_a_grid_as_they_went_in(shape: tuple[int, int, int], count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    assert np.array_equal(images_in(grid_of(images), shape, count), images)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0])
def test_white_noise_takes_its_share_of_the_correlation(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.randn(256, 3, 34, 34, generator=generator, dtype=torch.float64).unfold(2, 3, 1).unfold(3, 3, 1)
    smooth = smooth.sum((-1, -2)) / 3  # variance 1; neighbours share 6 of 9 terms
    white = torch.randn(smooth.shape, generator=generator, dtype=torch.float64)
    mixed = (1 - share) ** 0.5 * smooth + share**0.5 * white
    assert neighbour_correlation(mixed) == pytest.approx((1 - share) * 2 / 3, abs=0.01)


def test_one_image_again_and_again_is_no_noise() -> None:
    field = torch.linspace(0, 255, 32).expand(16, 1, 32, 32).to(torch.uint8)
    noise = torch.randint(0, 256, (16, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert assess_noise(field, field).severity == "ok"
    assert assess_noise(noise, field).severity == "problem"
    assert assess_noise(noise, noise).severity == "ok"  # data that look like noise tell nothing
    assert neighbour_correlation(torch.zeros(3, 1, 1, 1)) == 1.0
