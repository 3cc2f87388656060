"""Temperature: the noise that sampling begins with, times a number; nothing else."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from exact_moments import PathsOfGaussian

from undiffuse.config import validate
from undiffuse.core.gaussian import GaussianMixture, MixtureDenoiser
from undiffuse.core.processes import PROCESSES, make_process
from undiffuse.errors import UsageError
from undiffuse.models.options import SamplingConfig, SamplingOptions
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.noise import SeededNoise

MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
DATA = GaussianMixture.gaussian(MEAN, torch.tensor([0.25, 4.0], dtype=torch.float64))


def drawn(
    sampler: str,
    temperature: float,
    num_steps: int = 1,
    process: str = "flow",
    ends: tuple[float, float] = (-14.0, 14.0),
    num: int = 400,
) -> torch.Tensor:
    """Samples (num, 2) of the Gaussian's own model."""
    created = make_process(process)
    one_step = sampler == "consistency"
    denoiser = PathsOfGaussian(DATA, created) if one_step else MixtureDenoiser(DATA, created)
    times = time_grid("uniform" if one_step else "log_snr", created, num_steps, ends)
    return sample(
        denoiser,
        make_sampler(sampler),
        times,
        shape=(2,),
        seeds=range(num),
        temperature=temperature,
        dtype=torch.float64,
    ).x


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.3])
@pytest.mark.parametrize(("sampler", "num_steps"), [("consistency", 1), ("heun", 100)])
def test_paths_end_nearer_the_middle_by_just_so_much(sampler: str, num_steps: int, temperature: float) -> None:
    """All of a Gaussian's paths are lines through its mean in units of the marginal's deviation."""
    middle = drawn(sampler, 0.0, num_steps)
    assert torch.allclose(middle[:1].expand_as(middle), middle)
    assert torch.allclose(middle[0], MEAN, atol=0.05)
    whole = drawn(sampler, 1.0, num_steps) - middle
    torch.testing.assert_close(drawn(sampler, temperature, num_steps) - middle, temperature * whole)


@pytest.mark.parametrize("process", list(PROCESSES))
def test_one_is_the_prior_itself(process: str) -> None:
    created = make_process(process)
    times = time_grid("log_snr", created, 3, (-6.0, 6.0))
    prior = created.start_std(float(times[0])) * SeededNoise(range(400)).prior(torch.empty(400, 2, dtype=torch.float64))
    run = partial(sample, MixtureDenoiser(DATA, created), make_sampler("heun"), times, shape=(2,), seeds=range(400))
    assert torch.equal(run(x_start=prior).x, drawn("heun", 1.0, 3, process, (-6.0, 6.0)))
    assert not torch.equal(run(x_start=prior).x, drawn("heun", 0.9, 3, process, (-6.0, 6.0)))


def test_fresh_noise_is_not_cooled() -> None:
    """After enough of it, it is forgotten what sampling began with."""
    cold, warm = (drawn("ancestral", temperature, 200, num=100).std(0) for temperature in (0.0, 1.0))
    torch.testing.assert_close(cold, warm, rtol=0.02, atol=0)


def test_a_request_comes_before_the_model_s_own() -> None:
    own = SamplingConfig(temperature=0.9)
    assert SamplingOptions.of().over(own).temperature == 0.9
    assert SamplingOptions.of(temperature=0.0).over(own).temperature == 0.0


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_what_is_no_temperature_is_rejected(temperature: float) -> None:
    with pytest.raises(UsageError, match=r"at least 0 and finite, got .*; the default is 1"):
        SamplingOptions.of(temperature=temperature)
    with pytest.raises(UsageError, match="temperature"):
        validate(SamplingConfig, {"temperature": temperature})
    with pytest.raises(UsageError, match="at least 0 and finite"):
        drawn("heun", temperature)


def test_a_start_of_one_s_own_has_its_own_temperature() -> None:
    created = make_process("flow")
    times = time_grid("uniform", created, 2, (-6.0, 6.0))
    start = torch.zeros(3, 2)
    run = partial(sample, MixtureDenoiser(DATA, created), make_sampler("heun"), times, shape=(2,), seeds=range(3))
    assert torch.equal(run(x_start=start).x, run(x_start=start, temperature=1.0).x)
    with pytest.raises(UsageError, match="leave it at 1 and scale x_start"):
        run(x_start=start, temperature=0.9)
