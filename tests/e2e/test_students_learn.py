"""Students of one step learn, by mean flow and by distribution matching: far better than one step of a plain flow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from undiffuse.api import distilling
from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import split_data
from undiffuse.metrics.sliced import sliced_wasserstein
from undiffuse.models.base import DenoisingModel
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import load
from undiffuse.networks import MLPConfig
from undiffuse.objectives.mean_flow import MeanFlowConfig
from undiffuse.training.config import RunConfig
from undiffuse.training.trainer import Trainer

QUIET: tuple[str, ...] = ("data.num_points=4000", "log_every_images=5000", "validate_every_images=0")
QUIET += ("validation_images=0", "preview_every_images=0", "optimizer.warmup_images=5000", "ema.halflife_images=5000")
SMALL = ("system.network.width=64", "system.network.num_blocks=2")


def finished(config: RunConfig, folder: Path) -> DenoisingModel:
    assert Trainer(config, *split_data(config), folder).run()
    system = load(folder).module
    assert isinstance(system, DenoisingModel)
    return system


def distance(system: DenoisingModel, num_steps: int, sampler: str | None = None) -> float:
    """Sliced Wasserstein of 2,000 samples from as many points of the roll."""
    data = split_data(configure("flow-swissroll", QUIET, None, None, False))[0]
    drawn = system.sample(SampleRequest.of(range(2000), steps=num_steps, sampler=sampler, batch_size=2000)).x
    return float(sliced_wasserstein(drawn, data.fetch(np.arange(2000)).x_0))


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary flow on the Swiss roll."""
    folder = tmp_path_factory.mktemp("flow")
    options = [*QUIET, *SMALL, "num_images=100000", "batch_images=500", "optimizer.learning_rate=5e-3"]
    finished(configure("flow-swissroll", options, None, None, False), folder)
    return folder


def test_a_mean_flow_from_a_teacher(flow: Path, tmp_path: Path) -> None:
    options = [*QUIET, "num_images=75000", "batch_images=500"]
    student = finished(distilling.configure(flow, 1, "mean_flow", options, None), tmp_path)
    teacher = load(flow).module
    assert isinstance(teacher, DenoisingModel)
    untaught, one, two = distance(teacher, 1, "ddim"), distance(student, 1), distance(student, 2)
    assert one < 0.4 * untaught and two < 0.25 * untaught
    assert distance(student, 1, "ddim") > 0.7 * untaught, "without the time to reach it is the flow itself"


@pytest.mark.slow
def test_a_mean_flow_from_data_alone(flow: Path, tmp_path: Path) -> None:
    options = [*QUIET, "num_images=40000", "batch_images=250", "optimizer.learning_rate=2e-3"]
    network = MLPConfig(width=64, num_blocks=2, time_features="fourier", fourier_scale=0.001)
    run = configure("flow-swissroll", options, None, None, False)
    system = MeanFlowConfig(network=network, equal_share=0.5)
    model = finished(run.model_copy(update={"system": system}), tmp_path)
    plain = load(flow).module
    assert isinstance(plain, DenoisingModel)
    assert distance(model, 1) < 0.5 * distance(plain, 1, "ddim")


@pytest.mark.slow
def test_distribution_matching_and_what_it_adds_to_another_student(flow: Path, tmp_path: Path) -> None:
    """From the teacher's own weights, and from a consistency model that has hardly learned."""
    shared = [
        *QUIET,
        "batch_images=500",
        "ema.halflife_images=20000",
        'optimizer.phase_learning_rates={"student":1e-3}',
    ]
    teacher = load(flow).module
    assert isinstance(teacher, DenoisingModel)
    untaught = distance(teacher, 1, "ddim")
    briefly = [*shared, "num_images=40000", "optimizer.phase_learning_rates={}"]
    started = distilling.configure(flow, 1, "consistency", briefly, None)
    before = distance(finished(started, tmp_path / "begun"), 1)
    for start in (None, tmp_path / "begun"):
        options = [*shared, "num_images=150000", "optimizer.learning_rate=2e-3"]
        config = distilling.configure(flow, 1, "distribution_matching", options, None, start)
        one = distance(finished(config, tmp_path / f"matched-{start is None}"), 1)
        assert one < (0.4 * untaught if start is None else 0.5 * before)
