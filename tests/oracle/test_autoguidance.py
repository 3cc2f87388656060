"""Guidance by a worse model, on Gaussians, where the guided ODE has a closed form up to one integral."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import FlowProcess
from undiffuse.errors import UsageError
from undiffuse.guidance.autoguidance import Autoguided
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import sample

PROCESS = FlowProcess()
VARIANCE, BLURRED = 0.25, 0.5  # of the data, and as the guide believes it to be


def exact(variance: float) -> Denoiser:
    return GaussianMixture.gaussian(torch.zeros(1), torch.tensor([variance])).denoiser(PROCESS)


class Saying(Denoiser):
    """A constant x_0-hat, a variance mix, and a price."""

    def __init__(self, value: float, nfe: int) -> None:
        super().__init__()
        self.process, self.value, self.nfe = PROCESS, value, nfe

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        return Denoised(torch.full_like(x_t, self.value), torch.full_like(x_t, self.value), self.nfe)


def test_it_goes_on_from_guide_to_model_and_costs_both() -> None:
    x, t = torch.zeros(3, 1), torch.full((3,), 0.5, dtype=torch.float64)
    message = Autoguided(Saying(3.0, 1), Saying(2.0, 2), 2.5)(x, t)
    assert torch.equal(message.x_0, torch.full((3, 1), 4.5))  # 2 + 2.5 (3 - 2)
    assert torch.equal(message.variance_mix, torch.full((3, 1), 3.0))  # the model's own
    assert message.nfe.tolist() == [3, 3, 3]


def test_one_is_the_model_and_nought_the_guide() -> None:
    x, t = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None], torch.full((5,), 0.6, dtype=torch.float64)
    model, guide = exact(VARIANCE), exact(BLURRED)
    assert torch.allclose(Autoguided(model, guide, 1.0)(x, t).x_0, model(x, t).x_0, rtol=1e-12, atol=0)
    assert torch.allclose(Autoguided(model, guide, 0.0)(x, t).x_0, guide(x, t).x_0, rtol=1e-12, atol=0)


def test_outside_of_the_interval_the_model_speaks_alone() -> None:
    x, log_snr = torch.ones(4, 1, dtype=torch.float64), torch.tensor([-3.0, -1.0, 2.0, 3.0], dtype=torch.float64)
    t, model, guide = PROCESS.time_of_log_snr(log_snr), exact(VARIANCE), exact(BLURRED)
    everywhere, plain = Autoguided(model, guide, 2.0)(x, t).x_0, model(x, t).x_0
    within = Autoguided(model, guide, 2.0, (-1.5, 2.5))(x, t)
    assert torch.equal(within.x_0[[0, 3]], plain[[0, 3]])
    assert torch.equal(within.x_0[[1, 2]], everywhere[[1, 2]])
    assert within.nfe.tolist() == [1, 2, 2, 1]
    assert Autoguided(model, guide, 2.0, (5.0, 9.0))(x, t).nfe == 1
    with pytest.raises(UsageError, match="LO < HI"):
        Autoguided(model, guide, 2.0, (1.0, 1.0))


def scale_of_samples(weight: float, first: float, last: float) -> float:
    """x(first) / x(last) on a path of dx/dt = (x - a(t) x) / t, a the guided factor of x_0-hat."""
    t = torch.linspace(first, last, 200_001, dtype=torch.float64)
    alpha, sigma = 1 - t, t

    def factor(variance: float) -> Tensor:
        return alpha * variance / (alpha**2 * variance + sigma**2)

    a = weight * factor(VARIANCE) + (1 - weight) * factor(BLURRED)
    return math.exp(-float(torch.trapezoid((1 - a) / t, t)))


@pytest.mark.parametrize("weight", [*(pytest.param(weight, marks=pytest.mark.slow) for weight in (1.0, 1.5)), 3.0])
def test_samples_of_a_gaussian_land_where_the_guided_ode_leads(weight: float) -> None:
    denoiser = Autoguided(exact(VARIANCE), exact(BLURRED), weight)
    times, x_1 = torch.linspace(0.999, 0.001, 2000, dtype=torch.float64), torch.tensor([[-1.0], [2.0]]).double()
    heun = make_sampler("heun")
    x = sample(denoiser, heun, times, shape=(1,), seeds=[0, 1], x_start=x_1, finish=False, dtype=x_1.dtype).x
    assert torch.allclose(x, scale_of_samples(weight, 0.001, 0.999) * x_1, rtol=1e-4)


def test_a_blurred_guide_sharpens() -> None:
    plain, guided = (scale_of_samples(weight, 1e-3, 0.999) for weight in (1.0, 2.0))
    assert guided < plain
    assert plain == pytest.approx(math.sqrt(VARIANCE), rel=5e-3)


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_senseless_weights_are_rejected(weight: float) -> None:
    with pytest.raises(UsageError, match="at least 0 and finite"):
        Autoguided(exact(VARIANCE), exact(BLURRED), weight)
