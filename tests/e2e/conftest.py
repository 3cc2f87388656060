"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import TINY, CommandLine


@pytest.fixture
def undiffuse(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line."""
    return CommandLine(capsys)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional model of digits, barely trained; not to be changed."""
    return train_tiny(tmp_path_factory.mktemp("trained"), "ddpm-digits")


@pytest.fixture(scope="session")
def trained_bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without classes, in bf16 and of fewer images; not to be changed."""
    options = ("system.precision=bf16", "system.class_conditional=false", "num_images=64")
    return train_tiny(tmp_path_factory.mktemp("trained"), "ddpm-digits", *options)


@pytest.fixture(scope="session")
def with_guide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of 320 images that kept its average after 96 as a guide, with all its checkpoints; not to be changed."""
    guide = ("system.guide_images=90", "system.sampling.autoguidance=3", "ema.halflife_images=64")
    kept = ("num_images=320", "checkpoint_every_images=32", "keep_checkpoints=99")
    return train_tiny(tmp_path_factory.mktemp("trained"), "ddpm-digits", *guide, *kept)


@pytest.fixture(scope="session")
def trained_points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of points in the plane, barely trained; not to be changed."""
    options = ("system.network.width=16", "num_images=2000", "data.num_points=500", "batch_images=100")
    return train_tiny(tmp_path_factory.mktemp("trained"), "ddpm-swissroll", *options, base=())


def train_tiny(folder: Path, recipe: str, *overrides: str, base: tuple[str, ...] = TINY) -> Path:
    """Train ``recipe`` in ``folder``/tiny."""
    from undiffuse.api.configuration.runs import configure
    from undiffuse.api.training import train_run

    out = folder / "tiny"
    config = configure(recipe, [*base, *overrides, "preview_every_images=0"], None, out, False)
    assert train_run(config, out, device="cpu")
    return out
