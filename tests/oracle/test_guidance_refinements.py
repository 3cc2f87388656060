"""Refinements of guidance and thresholds of x_0-hat: limits that are known exactly, and each sample by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.processes import PROCESSES
from undiffuse.errors import UsageError
from undiffuse.guidance.guided import Guidance, apply_guidance, build_guidance
from undiffuse.guidance.refinement import Refinement
from undiffuse.guidance.thresholding import ThresholdedDenoiser, Thresholds
from undiffuse.models.rules import check_refinement
from undiffuse.registry import resolve

SHAPE, COUNT = (3, 8, 8), 5


class Table(Denoiser):
    """x_0-hat of a class is an image of its own; no class is the last one. Batches are given together."""

    def __init__(self) -> None:
        super().__init__()
        self.process = resolve(PROCESSES["flow"])()
        self.images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0)) * torch.tensor(
            [0.4, 0.6, 0.5, 0.3]
        ).reshape(-1, 1, 1, 1)

    def of_rows(self, rows: Tensor) -> Denoiser:
        return self

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        assert cond is not None and cond.label is not None
        return Denoised(self.images[cond.label] + 0.1 * x_t, None, torch.ones(len(x_t)))


def guided(weight: float, count: int = COUNT, terms: int = 1, **options: float) -> Tensor:
    """Guided x_0-hat of ``count`` samples, of one term or more."""
    label = torch.arange(count) % 3
    conditions = [(Condition(label=(label + shift) % 3), weight / (shift + 1)) for shift in range(terms)]
    return result(replace(build_guidance(conditions, count), refinement=refinement(count, **options)))


def refinement(count: int, rescale: float = 0.0, parallel: float = 1.0, norm: float = torch.inf) -> Refinement:
    return Refinement(*(torch.full((count,), value, dtype=torch.float64) for value in (rescale, parallel, norm)))


def result(guidance: Guidance) -> Tensor:
    count = len(guidance)
    x = torch.randn(COUNT, *SHAPE, generator=torch.Generator().manual_seed(1))[:count]
    return apply_guidance(Table(), guidance, x, torch.full((count,), 0.5)).x_0


def plain() -> Tensor:
    """The conditional x_0-hat."""
    return guided(1.0)


@pytest.mark.parametrize("terms", [1, 2])
def test_neutral_values_change_no_bit(terms: int) -> None:
    guidance = build_guidance([(Condition(label=torch.arange(COUNT) % 3), 3.0)] * terms, COUNT)
    without = result(guidance)
    assert torch.equal(without, result(replace(guidance, refinement=refinement(COUNT))))


def test_rescale_1_restores_the_standard_deviation() -> None:
    deviation = [x.flatten(1).std(1, correction=0) for x in (plain(), guided(6.0), guided(6.0, rescale=1.0))]
    assert (deviation[1] > 1.5 * deviation[0]).all()
    torch.testing.assert_close(deviation[2], deviation[0])


def test_rescale_between_is_a_mixture() -> None:
    none, full, half = (guided(4.0, rescale=value) for value in (0.0, 1.0, 0.5))
    torch.testing.assert_close(half, (none + full) / 2)


@pytest.mark.parametrize("terms", [1, 2])
def test_parallel_0_leaves_an_orthogonal_update(terms: int) -> None:
    update = guided(4.0, terms=terms, parallel=0.0) - plain()
    cosine = torch.nn.functional.cosine_similarity(update.flatten(1), plain().flatten(1))
    assert cosine.abs().max() < 1e-6 and update.flatten(1).norm(dim=1).min() > 1
    unchanged = guided(4.0, terms=terms) - plain()
    parallel = unchanged - update
    assert torch.nn.functional.cosine_similarity(parallel.flatten(1), plain().flatten(1)).abs().min() > 1 - 1e-5


def test_norm_limits_each_difference() -> None:
    update = (guided(3.0, norm=0.05) - plain()).flatten(1)
    torch.testing.assert_close(update.square().mean(1).sqrt(), torch.full((COUNT,), 2 * 0.05))
    torch.testing.assert_close(guided(3.0, norm=1e3), guided(3.0))


def test_samples_do_not_depend_on_their_batch() -> None:
    kinds = [(0.0, 1.0, torch.inf), (0.7, 1.0, torch.inf), (0.0, 0.0, 0.1), (0.5, 0.3, 0.2), (0.0, 1.0, 0.3)]
    label = torch.arange(COUNT) % 3
    whole = build_guidance([(Condition(label=label), 5.0), (Condition(label=(label + 1) % 3), 1.0)], COUNT)
    columns = (torch.tensor(column, dtype=torch.float64) for column in zip(*kinds, strict=True))
    whole = replace(whole, refinement=Refinement(*columns))
    together = result(whole)
    x = torch.randn(COUNT, *SHAPE, generator=torch.Generator().manual_seed(1))
    for row in range(COUNT):
        alone = apply_guidance(Table(), whole.select(slice(row, row + 1)), x[row : row + 1], torch.tensor([0.5])).x_0
        assert torch.equal(alone[0], together[row])


class Given(Table):
    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        return Denoised(x_t, None, 1)


def thresholded(x: Tensor, kinds: list[tuple[bool, float]]) -> Tensor:
    active, quantile = zip(*kinds, strict=True)
    thresholds = Thresholds(torch.tensor(active), torch.tensor(quantile, dtype=torch.float64))
    return ThresholdedDenoiser(Given(), thresholds)(x, torch.ones(len(x))).x_0


def test_thresholds_of_each_kind() -> None:
    x = torch.linspace(-3, 3, 601).expand(4, 601).clone()
    x[3] /= 6
    none, static, dynamic, small = thresholded(x, [(False, 0.0), (True, 0.0), (True, 0.9), (True, 0.9)])
    assert torch.equal(none, x[0]) and torch.equal(static, x[1].clamp(-1, 1))
    torch.testing.assert_close(dynamic, (x[2] / 2.7).clamp(-1, 1), rtol=1e-5, atol=1e-5)
    assert torch.equal(small, x[3])  # within the range: the threshold is at least 1


def test_thresholds_do_not_depend_on_the_batch() -> None:
    x, kinds = 2 * torch.randn(4, *SHAPE), [(True, 0.95), (False, 0.0), (True, 0.5), (True, 0.0)]
    together = thresholded(x, kinds)
    assert all(torch.equal(thresholded(x[row : row + 1], kinds[row : row + 1])[0], together[row]) for row in range(4))


@pytest.mark.parametrize(
    ("scale", "given", "rejected"),
    [
        (1.0, {"guidance_rescale": 0.7}, True),
        (1.0, {"guidance_parallel": 0.0}, True),
        (1.0, {"guidance_rescale": 0.0, "guidance_norm": None}, False),
        (2.0, {"guidance_norm": 0.1}, False),
    ],
)
def test_refinements_need_guidance(scale: float, given: dict[str, Any], rejected: bool) -> None:
    if not rejected:
        check_refinement(scale, given)
        return
    with pytest.raises(UsageError, match="guidance is 1; add --guidance 3"):
        check_refinement(scale, given)
