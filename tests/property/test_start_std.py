"""What sampling starts from where the grid begins before t = 1."""

from __future__ import annotations

import pytest
import torch

from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import PROCESSES, EDMProcess
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample


@pytest.mark.parametrize("name", PROCESSES)
def test_the_whole_range_starts_from_the_prior(name: str) -> None:
    process = PROCESSES[name]()
    assert process.start_std(1.0) == process.prior_std
    assert process.start_std(0.5) < process.prior_std


def test_a_grid_that_begins_late_starts_with_the_noise_of_its_time() -> None:
    process = EDMProcess(sigma_max=1000.0)
    mixture = GaussianMixture.gaussian(torch.zeros(1), torch.full((1,), 0.25))
    times = torch.tensor([0.08, 0.04])
    start = sample(mixture.denoiser(process), make_sampler("ddim"), times, shape=(1,), seeds=range(400), finish=False).x
    assert float(start.std()) == pytest.approx(40.0, rel=0.1)
