"""The toy of Metz et al. 2016: a GAN loses modes of eight Gaussians on a ring, and one that looks ahead holds them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import train_run
from undiffuse.data.sources.modes import known_modes
from undiffuse.metrics.modes import Modes, assign_points, equal_shares, good_of_gaussian, measure_modes
from undiffuse.models.saved import load

QUIET = ("preview_every_images=0", "validate_every_images=0", "checkpoint_every_images=0")


def modes_of(recipe: str, folder: Path) -> Modes:
    config = configure(recipe, [*QUIET], None, None, False)
    assert train_run(config, folder, device="cpu")
    known = known_modes(config.data)  # type: ignore[arg-type]
    assert known is not None
    points = load(folder).sample(2000).double().numpy()
    located = assign_points(torch.from_numpy(known.distances(points)), good_of_gaussian(2))
    return measure_modes(located, equal_shares(known.num))


@pytest.mark.slow
def test_looking_ahead_holds_the_modes_that_the_plain_gan_loses(tmp_path: Path) -> None:
    ahead = modes_of("unrolled-gan-rings", tmp_path / "ahead")
    plain = modes_of("gan-rings", tmp_path / "plain")
    assert ahead.found == 8 and not ahead.collapsed, ahead.summary
    assert plain.found < 8 or plain.collapsed, plain.summary
    assert ahead.kl < plain.kl
