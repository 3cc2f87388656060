"""Spaces: what a tensor is decides on clipping, levels and files, not how many axes it has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from undiffuse.core.random import StepRandom
from undiffuse.core.space import Space
from undiffuse.data.given import Given
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model
from undiffuse.networks import UNetConfig
from undiffuse.objectives.diffusion import DiffusionConfig, DiffusionObjective

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "undiffuse"
LATENT = Space.latent((4, 8, 8))
#: Axes of arrays in files of others, which are known by their number alone.
RAW_ARRAYS = ("core/space.py", "data/sources/arrays.py")


def objective_of(space: Space, **config: Any) -> DiffusionObjective:
    torch.manual_seed(0)
    network = UNetConfig(channels=8, multipliers=(1,), num_blocks=1)
    objective = DiffusionConfig(network=network, **config).build(space.shape, ())
    objective.model.space = space
    for parameter in objective.model.network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    assert isinstance(objective, DiffusionObjective)
    return objective.eval()


def test_images_and_points_are_known_by_their_shape() -> None:
    image, points = Space.of_data((3, 16, 12)), Space.of_data([2])
    assert (image.kind, image.value_range, image.levels) == ("image", (-1.0, 1.0), 256)
    assert (points.kind, points.value_range, points.levels) == ("points", None, None)
    assert image.is_image and image.is_spatial and not points.is_image and not points.is_spatial
    assert LATENT.is_spatial and not LATENT.is_image and LATENT.value_range is None and LATENT.levels is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "image", "shape": (2,)}, r"image has a shape \(C, H, W\), got \(2,\)"),
        ({"kind": "points", "shape": (1, 2, 3)}, r"points has a shape \(D,\)"),
        ({"kind": "latent", "shape": (4, 8, 8), "value_range": (1.0, 1.0)}, "low < high"),
        ({"kind": "latent", "shape": (4, 8, 8), "levels": 256}, "need the value_range"),
    ],
)
def test_what_makes_no_sense_is_rejected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Space(**values)


def test_a_latent_is_neither_clipped_nor_rounded(tmp_path: Path) -> None:
    request = SampleRequest.of(seeds=range(2), steps=2, sampler="euler")
    latent, image = (objective_of(space).model.sample(request).x for space in (LATENT, Space.of_data(LATENT.shape)))
    assert latent.abs().max() > 1 and image.abs().max() <= 1
    model = Model(objective_of(LATENT).model, {}, tmp_path, "")
    assert torch.equal(model.finish(latent), latent) and model.finish(latent).dtype == torch.float32
    assert Model(objective_of(Space.of_data(LATENT.shape)).model, {}, tmp_path, "").finish(image).dtype == torch.uint8


def test_the_bound_of_a_latent_has_no_levels() -> None:
    config: dict[str, Any] = {
        "objective": "variational", "learned_variance": True, "process": {"name": "ddpm_linear", "num_steps": 4},
        "parameterization": "eps", "time_density": {"name": "knots"},
    }  # fmt: skip

    class Batch:
        x_0, given, row_weights = torch.full((64, 4, 8, 8), 0.25), Given(), None

    losses = [
        float(objective_of(space, **config)(Batch(), "main", StepRandom(0, 0, 0)).loss.detach())
        for space in (LATENT, Space.of_data(LATENT.shape))
    ]
    assert losses[0] != losses[1]  # a density where there are no levels, the mass of one of 256 where there are


def test_nobody_reports_an_image_by_the_number_of_axes() -> None:
    pattern = re.compile(r"len\([\w.]*shape\) *[!=]= *[13]\b")
    files = [path for path in PACKAGE.rglob("*.py") if str(path.relative_to(PACKAGE)) not in RAW_ARRAYS]
    assert [f"{path.name}: {found.group()}" for path in files for found in pattern.finditer(path.read_text())] == []


def test_spaces_need_no_torch() -> None:
    code = "import sys, undiffuse.core.space; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
