"""Classifier-free guidance on data whose conditional and unconditional means are known in closed form."""

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
from undiffuse.guidance.classifier_free import ClassifierFreeGuidance
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser, sample
from undiffuse.samplers.grids import time_grid

MEANS, VARIANCE = torch.tensor([[-1.0], [1.0]]), 0.25
PROCESS = FlowProcess()


class TwoClasses(Denoiser):
    """The exact denoiser of each class, N(-1, 1/4) and N(1, 1/4), and of label -1, N(0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.process = PROCESS
        self.calls: list[int] = []
        classes = [(mean, VARIANCE) for mean in MEANS] + [(torch.zeros(1), 1.0)]
        self.parts = [GaussianMixture.gaussian(mean, torch.tensor([v])).denoiser(PROCESS) for mean, v in classes]

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        self.calls.append(len(x_t))
        assert cond is not None and cond.label is not None
        x_0 = torch.stack([part(x_t, t).x_0 for part in self.parts])
        return Denoised(x_0[cond.label, torch.arange(len(x_t))], x_t)


def labels(*values: int) -> Condition:
    return Condition(label=torch.tensor(values))


def rows(count: int, t: float = 0.6) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-2, 2, count, dtype=torch.float64)[:, None]
    return x, torch.full((count,), t, dtype=torch.float64)


def test_it_is_the_paper_s_formula_row_by_row() -> None:
    x, t = rows(4)
    scale, cond = torch.tensor([0.0, 1.0, 2.0, 3.5], dtype=torch.float64), labels(0, 1, 0, 1)
    model = TwoClasses()
    conditional, unconditional = model(x, t, cond).x_0, model(x, t, labels(-1, -1, -1, -1)).x_0
    expected = unconditional + scale[:, None] * (conditional - unconditional)
    denoised = ClassifierFreeGuidance(model, scale)(x, t, cond)
    assert torch.allclose(denoised.x_0, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(denoised.x_0[1], conditional[1])
    assert torch.equal(denoised.variance_mix, x)  # the conditional side's


def test_samples_of_a_gaussian_land_where_the_guided_ode_leads() -> None:
    # classes N(+-1, v) and all N(0, v), one v: with y = x / alpha and r = sigma / alpha every x_0-hat is
    # (r^2 m + v y) / (r^2 + v), so guidance is a shift of the mean to w m, and the ODE ends at w m + sqrt(v) z
    class Shifted(Denoiser):
        process = PROCESS

        def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
            assert cond is not None and cond.label is not None
            mean = torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64)[cond.label][:, None]
            alpha, sigma = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
            gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
            return Denoised(mean + gain * (x_t - alpha * mean))

    times, w = time_grid("log_snr", PROCESS, 200), 2.5
    x = sample(
        ClassifierFreeGuidance(Shifted(), w),
        make_sampler("heun"),
        times,
        shape=(1,),
        seeds=range(6),
        cond=labels(0, 1, 0, 1, -1, -1),
        dtype=torch.float64,
    ).x
    z = sample(
        Shifted(), make_sampler("heun"), times, shape=(1,), seeds=range(6), cond=labels(*[-1] * 6), dtype=torch.float64
    ).x
    mean = torch.tensor([-w, w, -w, w, 0, 0], dtype=torch.float64)[:, None]
    assert torch.allclose(x, mean + z, atol=2e-4)


def test_without_guidance_it_is_the_model_itself_at_its_price() -> None:
    x, t = rows(5)
    model, cond = TwoClasses(), labels(0, 1, 0, 1, -1)
    plain = model(x, t, cond)
    model.calls.clear()
    guided = ClassifierFreeGuidance(model, 1.0)(x, t, cond)
    assert torch.equal(guided.x_0, plain.x_0)
    assert model.calls == [5]
    assert guided.nfe == 1


def test_outside_of_the_interval_nothing_is_guided_nor_paid() -> None:
    model, cond = TwoClasses(), labels(0, 1, 0)
    x, _ = rows(3)
    t = PROCESS.time_of_log_snr(torch.tensor([-4.0, 0.0, 4.0], dtype=torch.float64))
    plain, everywhere = model(x, t, cond).x_0, ClassifierFreeGuidance(model, 3.0)(x, t, cond).x_0
    model.calls.clear()
    within = ClassifierFreeGuidance(model, 3.0, (-1.0, 1.0))(x, t, cond)
    assert model.calls == [4]  # three rows and the second evaluation of the one in the middle
    assert within.nfe.tolist() == [1, 2, 1]
    assert torch.equal(within.x_0[[0, 2]], plain[[0, 2]])
    assert torch.equal(within.x_0[1], everywhere[1])
    assert ClassifierFreeGuidance(model, 3.0, (5.0, 9.0))(x, t, cond).nfe == 1


def test_evaluations_are_counted_two_where_guided() -> None:
    times = time_grid("uniform", PROCESS, 10)
    log_snr = PROCESS.log_snr(times[:-1])
    low, high = -2.0, 2.0
    inside = int(((log_snr >= low) & (log_snr <= high)).sum())
    assert 0 < inside < 10
    guided = ClassifierFreeGuidance(FixedBatchDenoiser(TwoClasses(), 4), 2.0, (low, high))
    result = sample(guided, make_sampler("euler"), times, shape=(1,), seeds=range(3), cond=labels(0, 1, 0))
    assert result.nfe == 10 + inside


def test_a_row_depends_on_itself_alone() -> None:
    guided = ClassifierFreeGuidance(FixedBatchDenoiser(TwoClasses(), 4), 2.0)
    x, t = rows(7)
    cond = labels(0, 1, 0, 1, 0, 1, -1)
    together = guided(x, t, cond).x_0
    alone = torch.cat([guided(x[i : i + 1], t[i : i + 1], cond.select(slice(i, i + 1))).x_0 for i in range(7)])
    assert torch.equal(together, alone)


def test_without_a_condition_there_is_nothing_to_be_guided_to() -> None:
    data = GaussianMixture.ring(3).denoiser(PROCESS)
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.5).double()
    assert torch.equal(ClassifierFreeGuidance(data, 4.0)(x, t).x_0, data(x, t).x_0)


@pytest.mark.parametrize("scale", [-0.5, math.nan, math.inf])
def test_a_senseless_weight_is_rejected(scale: float) -> None:
    with pytest.raises(UsageError, match="guidance must be at least 0 and finite"):
        ClassifierFreeGuidance(TwoClasses(), scale)


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, -2.0), (math.nan, 1.0)])
def test_an_empty_interval_is_rejected(interval: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="LO < HI"):
        ClassifierFreeGuidance(TwoClasses(), 2.0, interval)


def test_weights_for_other_rows_are_rejected() -> None:
    x, t = rows(3)
    with pytest.raises(UsageError, match="2 guidance weights for 3 samples"):
        ClassifierFreeGuidance(TwoClasses(), torch.tensor([1.0, 2.0]))(x, t, labels(0, 1, 0))
