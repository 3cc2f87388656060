"""Classifier guidance with exact classifiers: two Gaussians, whose guided ODE is integrated in one dimension."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import FlowProcess, make_process
from undiffuse.core.rows import per_row
from undiffuse.errors import UsageError
from undiffuse.guidance.classifier import ClassifierGuided
from undiffuse.guidance.classifier_free import ClassifierFreeGuidance
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser, sample
from undiffuse.samplers.grids import time_grid

MEAN, VARIANCE = 2.0, 0.4
#: The process and the grid of the numbers below: sigma / alpha from 80, 200 steps of Heun even in the log-SNR.
EDM, STEPS = make_process("edm:sigma_max=80"), 200
FLOW = FlowProcess()
#: Nodes and weights of the initial noise N(0, 1).
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
NODES, WEIGHTS = _NODES, _WEIGHTS / _WEIGHTS.sum()
MIXTURE = GaussianMixture(torch.tensor([[MEAN], [-MEAN]]), torch.tensor([VARIANCE] * 2, dtype=torch.float64))


class Exact:
    """log p(component | x_t) of the two Gaussians, and the sizes of its evaluations."""

    def __init__(self, process: Any, labels: Tensor | None = None) -> None:
        self.process, self.labels, self.calls = process, labels, list[int]()

    def __call__(self, x_t: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        self.calls.append(len(x_t))
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        log_odds = 2 * MEAN * alpha * x_t[:, 0].double() / (alpha**2 * VARIANCE + sigma**2)
        sign = torch.ones(len(rows)) if self.labels is None else 1 - 2 * self.labels[rows]
        return torch.nn.functional.logsigmoid(sign * log_odds)


def ends(scale: float, first: float = 80.0) -> np.ndarray[Any, Any]:
    """Ends of the guided ODE dy/dr = -r score(y, r), r = sigma / alpha, y = x / alpha, from y = 80 z, by LSODA."""

    def rate(r: float, y: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        total = VARIANCE + r**2
        other = 1 / (1 + np.exp(np.clip(2 * MEAN * y / total, -700, 700)))  # the share of the component at -2
        score = (MEAN * (1 - 2 * other) - y) / total
        return np.asarray(-r * (score + scale * other * 2 * MEAN / total))

    return np.asarray(
        [solve_ivp(rate, (first, 0), [first * z], "LSODA", rtol=1e-9, atol=1e-11).y[0, -1] for z in NODES]
    )


def moments(x: np.ndarray[Any, Any]) -> tuple[float, float]:
    mean = float(WEIGHTS @ x)
    return mean, float(WEIGHTS @ (x - mean) ** 2)


def drawn(denoiser: Denoiser, steps: int = STEPS) -> np.ndarray[Any, Any]:
    times = time_grid("log_snr", EDM, steps)
    x = torch.tensor(80.0 * NODES)[:, None]
    result = sample(denoiser, make_sampler("heun"), times, shape=(1,), seeds=range(len(NODES)), x_start=x)
    return result.x[:, 0].numpy()


@pytest.mark.parametrize(
    ("scale", "mean", "variance"), [(0.0, 0.0, None), (1.0, 1.984, 0.3996), (2.0, 2.388, 0.203), (4.0, 2.826, 0.130)]
)
def test_samples_of_two_gaussians_end_where_the_guided_ode_does(
    scale: float, mean: float, variance: float | None
) -> None:
    guided = ClassifierGuided(MIXTURE.denoiser(EDM), Exact(EDM), scale)
    found, expected = drawn(guided), ends(scale)
    inner = np.abs(NODES) < 4  # of the others the weights are below 1e-4
    assert np.abs(found - expected)[inner].max() < 5e-3
    assert moments(found) == pytest.approx(moments(expected), abs=2e-3)
    if variance is not None:
        assert moments(expected) == pytest.approx((mean, variance), abs=2e-3)


def test_scale_1_is_the_conditional_and_0_the_mixture() -> None:
    t, x = torch.linspace(0.05, 0.95, 9).double(), torch.linspace(-3, 3, 9).double()[:, None]
    mixture = MIXTURE.denoiser(FLOW)
    conditional = GaussianMixture.gaussian(
        torch.tensor([MEAN]), torch.tensor([VARIANCE], dtype=torch.float64)
    ).denoiser(FLOW)
    one = ClassifierGuided(mixture, Exact(FLOW), 1.0)(x, t).x_0
    assert torch.allclose(one, conditional(x, t).x_0, rtol=1e-9, atol=1e-12)
    classifier = Exact(FLOW)
    none = ClassifierGuided(mixture, classifier, 0.0)(x, t)
    assert torch.equal(none.x_0, mixture(x, t).x_0) and none.nfe == 1 and not classifier.calls
    mean, variance = moments(ends(1.0))  # the conditional, but for the 2 sqrt(v / (v + 80^2)) that the prior lacks
    assert mean == pytest.approx(MEAN - MEAN * math.sqrt(VARIANCE / (VARIANCE + 6400)), abs=1e-5)
    assert variance == pytest.approx(VARIANCE, abs=1e-4)


@pytest.mark.parametrize("process", [FLOW, make_process("cosine")])
def test_where_alpha_is_0_the_shift_is_that_at_sigma_over_alpha_80(process: Any) -> None:
    """There, sigma^2 / alpha is infinite and the slope of an exact classifier 0; their product tends to MEAN."""
    x, t, r = torch.linspace(-1, 1, 5).double()[:, None], torch.ones(5).double(), 80.0
    x_0 = ClassifierGuided(MIXTURE.denoiser(process), Exact(process), 1.0)(x, t).x_0
    expected = 2 * MEAN * torch.sigmoid(-2 * MEAN * r * x / (VARIANCE + r**2))
    assert torch.allclose(x_0 - MIXTURE.denoiser(process)(x, t).x_0, expected, rtol=1e-3)
    assert torch.allclose(expected, torch.full_like(expected, MEAN), atol=0.06)


def test_a_classifier_trained_with_less_noise_is_evaluated_at_its_noisiest_level() -> None:
    """Beyond it, the shift is that at its smallest log-SNR, at equal x / sigma; through x_0-hat nothing changes."""
    x, t, lowest = torch.linspace(-1, 1, 5).double()[:, None], torch.full((5,), 0.97).double(), -4.0
    denoiser = MIXTURE.denoiser(FLOW)
    there = FLOW.time_of_log_snr(torch.full((5,), lowest).double())
    x_there = (FLOW.sigma(there) / FLOW.sigma(t))[:, None] * x
    guided, whole = (
        ClassifierGuided(denoiser, Exact(FLOW), 2.0, log_snr_range=(low, 9.0)) for low in (lowest, -math.inf)
    )
    shift = guided(x, t).x_0 - denoiser(x, t).x_0
    assert torch.allclose(shift, whole(x_there, there).x_0 - denoiser(x_there, there).x_0, rtol=1e-6)
    assert not torch.allclose(shift, whole(x, t).x_0 - denoiser(x, t).x_0, rtol=1e-3)
    through = [ClassifierGuided(denoiser, Exact(FLOW), 2.0, "x_0", (low, 9.0))(x, t).x_0 for low in (lowest, -math.inf)]
    assert torch.equal(*through)


def test_through_x_0_the_slope_of_the_denoiser_is_a_factor() -> None:
    """x_0 ~ N(0, v), log p(y | x_0) = -(x_0 - y)^2 / 2: x_0-hat = g x_t, shift (sigma^2 / alpha) g (y - x_0-hat)."""
    v, y, scale = 0.5, 1.3, 0.7
    denoiser = GaussianMixture.gaussian(torch.zeros(1), torch.tensor([v], dtype=torch.float64)).denoiser(FLOW)
    t, x = torch.linspace(0.05, 0.95, 7).double(), torch.linspace(-2, 2, 7).double()[:, None]

    def log_prob(x_0: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        assert torch.equal(time, torch.zeros_like(time))
        return -((x_0[:, 0] - y) ** 2) / 2

    alpha, sigma = FLOW.alpha(t)[:, None], FLOW.sigma(t)[:, None]
    gain = alpha * v / (alpha**2 * v + sigma**2)
    expected = gain * x + scale * sigma**2 / alpha * gain * (y - gain * x)
    with torch.no_grad():
        denoised = ClassifierGuided(denoiser, log_prob, scale, "x_0")(x, t)
    assert torch.allclose(denoised.x_0, expected, rtol=1e-9)
    assert not denoised.x_0.requires_grad and torch.as_tensor(denoised.nfe).tolist() == [2] * 7


@pytest.mark.parametrize(("weight", "variance"), [(1.0, 0.4), (2.0, 0.1067), (4.0, 0.0076)])
def test_the_variance_of_classifier_free_guidance_is_a_product_of_powers(weight: float, variance: float) -> None:
    """Between N(m, v1) and N(0, v0) it is v1^w v0^(1-w), and not 1 / (w / v1 + (1 - w) / v0), the tilted density's."""
    v1, v0, m = 0.4, 1.5, 1.0

    class Two(Denoiser):
        process = EDM

        def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
            assert cond is not None and cond.label is not None
            known = (cond.label >= 0)[:, None]
            mean, v = torch.where(known, m, 0.0), torch.where(known, v1, v0)
            alpha, sigma = per_row(EDM.alpha(t), x_t), per_row(EDM.sigma(t), x_t)
            return Denoised(mean + alpha * v / (alpha**2 * v + sigma**2) * (x_t - alpha * mean))

    times, x = time_grid("log_snr", EDM, STEPS), 80.0 * torch.tensor([[-1.0], [1.0]]).double()
    denoiser, cond = ClassifierFreeGuidance(Two(), weight), Condition(label=torch.zeros(2, dtype=torch.int64))
    low, high = sample(
        denoiser, make_sampler("heun"), times, shape=(1,), seeds=range(2), x_start=x, cond=cond
    ).x.tolist()
    found = ((high[0] - low[0]) / 2) ** 2  # the ODE is linear: x = mean + standard deviation times z
    assert found == pytest.approx(v1**weight * v0 ** (1 - weight), rel=1e-2)
    assert v1**weight * v0 ** (1 - weight) == pytest.approx(variance, rel=2e-3)
    if weight > 1:
        assert abs(found - 1 / (weight / v1 + (1 - weight) / v0)) > 0.1


def mixed_rows(through: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(7, 1, generator=generator)
    scale = torch.tensor([0.0, 1.0, 2.5, 0.0, 4.0, 1.0, 0.5], dtype=torch.float64)
    return x, torch.linspace(0.1, 1, 7).double(), scale, torch.tensor([0, 1, 1, 0, 0, 0, 1])


@pytest.mark.parametrize("through", ["x_t", "x_0"])
def test_classes_and_scales_in_one_batch_equal_each_alone(through: str) -> None:
    x, t, scale, labels = mixed_rows(through)
    denoiser = FixedBatchDenoiser(MIXTURE.denoiser(FLOW), 4)
    together = ClassifierGuided(denoiser, Exact(FLOW, labels), scale, through, batch_size=3)
    result = together(x, t)
    assert torch.as_tensor(result.nfe).tolist() == [1, 2, 2, 1, 2, 2, 2]
    for row in range(7):
        part = slice(row, row + 1)
        alone = ClassifierGuided(denoiser, Exact(FLOW, labels[part]), scale[part], through, batch_size=3)
        assert torch.equal(alone(x[part], t[part]).x_0[0], result.x_0[row])
    rows = torch.tensor([4, 1, 3])
    assert torch.equal(together.of_rows(rows)(x[rows], t[rows]).x_0, result.x_0[rows])
    plain = denoiser(x, t).x_0
    assert torch.equal(result.x_0[scale == 0], plain[scale == 0])


def test_the_classifier_is_evaluated_in_fixed_blocks_for_guided_samples_alone() -> None:
    x, t, scale, labels = mixed_rows("x_t")
    classifier = Exact(FLOW, labels)
    ClassifierGuided(MIXTURE.denoiser(FLOW), classifier, scale, batch_size=3)(x, t)
    assert classifier.calls == [3, 3]  # five guided samples


@pytest.mark.parametrize("through", ["x_t", "x_0"])
def test_it_adds_to_classifier_free_guidance(through: str) -> None:
    x, t, scale, labels = mixed_rows(through)

    class Labelled(Denoiser):
        process = FLOW

        def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
            assert cond is not None and cond.label is not None
            shift = per_row(cond.label.double() + 1, x_t) * 0.1
            return Denoised(MIXTURE.denoiser(FLOW)(x_t, t).x_0 + shift)

    free = ClassifierFreeGuidance(Labelled(), 3.0)
    condition = Condition(label=labels)
    plain = free(x, t, condition)
    both = ClassifierGuided(free, Exact(FLOW, labels), scale, through)(x, t, condition)
    alone = ClassifierGuided(MIXTURE.denoiser(FLOW), Exact(FLOW, labels), scale, through)
    assert torch.as_tensor(both.nfe).tolist() == [2, 3, 3, 2, 3, 3, 3]
    if through == "x_t":
        shift = alone(x, t).x_0 - MIXTURE.denoiser(FLOW)(x, t).x_0
        assert torch.allclose(both.x_0, plain.x_0 + shift, atol=1e-5)
    assert torch.equal(both.x_0[scale == 0], plain.x_0[scale == 0])
    assert not torch.allclose(both.x_0[1:3], plain.x_0[1:3], atol=1e-3)


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf])
def test_a_senseless_scale_is_rejected(scale: float) -> None:
    with pytest.raises(UsageError, match="classifier_scale must be at least 0 and finite"):
        ClassifierGuided(MIXTURE.denoiser(FLOW), Exact(FLOW), scale)


def test_another_input_of_the_classifier_is_rejected() -> None:
    with pytest.raises(UsageError, match="classifier_through must be x_t or x_0, got 'x_1'"):
        ClassifierGuided(MIXTURE.denoiser(FLOW), Exact(FLOW), 1.0, "x_1")
