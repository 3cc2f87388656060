"""Guidance per sample: each has its own terms, weights, negative and interval, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from undiffuse.core.condition import DROP, Condition, DropPolicy, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.limits import ALL_LOG_SNRS, check_guidance_weight, check_interval
from undiffuse.core.per_sample import PerSample
from undiffuse.core.rows import per_row


@dataclass(frozen=True)
class Term(PerSample):
    """A condition that samples are guided by, and its weight (B,) float64, 0 for a sample without this term."""

    condition: Condition = field(default_factory=Condition)
    weight: Tensor | None = None


@dataclass(frozen=True)
class Guidance(PerSample):
    """x_0-hat = x_0-hat(negative) + sum_k w_k (x_0-hat(c_k) - x_0-hat(negative)), within an interval of log-SNRs.

    One term is classifier-free guidance, several are the conjunction of their conditions; outside of the interval, and
    where the one weight is 1, it is x_0-hat(c_0) alone. Weights and intervals stay on the CPU.

    Args:
        low, high: (B,) float64, the log-SNRs between which a sample is guided, both included.
        negative: what is guided away from; by default what the drop policy makes of ``c_0``.
        terms: at least one.
    Source: Ho & Salimans 2022, arXiv:2207.12598, eq. 6, whose w + 1 is the one weight here; Liu et al. 2022,
        "Compositional Visual Generation with Composable Diffusion Models", arXiv:2206.01714, eq. 11, for several;
        Kynkaanniemi et al. 2024, arXiv:2404.07724, eq. 5, for the interval, whose sigma is exp(-log-SNR / 2).
    """

    low: Tensor | None = None
    high: Tensor | None = None
    negative: Condition = field(default_factory=Condition)
    terms: tuple[Term, ...] = ()

    def __len__(self) -> int:
        return 0 if self.low is None else len(self.low)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Their samples, one part after the other; a sample has the terms of others with weight 0."""
        most = max((len(part.terms) for part in parts), default=0)
        return super().join([part.padded(most) for part in parts])

    def padded(self, count: int) -> Self:
        """The same with more terms, the added ones of weight 0."""
        none = [Term(term.condition, torch.zeros_like(_weight(term))) for term in self.terms[:1]]
        return type(self)(self.low, self.high, self.negative, (*self.terms, *none * (count - len(self.terms))))

    def to(self, device: torch.device | str) -> Self:
        """Conditions on another device."""
        terms = tuple(Term(term.condition.to(device), term.weight) for term in self.terms)
        return type(self)(self.low, self.high, self.negative.to(device), terms)

    @property
    def weights(self) -> Tensor:
        """(terms, B) float64."""
        return torch.stack([_weight(term) for term in self.terms])

    @property
    def does_nothing(self) -> bool:
        """Whether no sample is guided at any time."""
        weights = self.weights
        return bool((weights[0] == 1).all() & (weights[1:] == 0).all())


def guidance_of(
    conditions: Sequence[tuple[Condition, float | Tensor]],
    count: int,
    *,
    interval: tuple[float, float] = ALL_LOG_SNRS,
    negative: Condition | None = None,
    policy: DropPolicy = DROP,
) -> Guidance:
    """The same terms and interval for all samples of a batch, with a weight for all or of each.

    Args:
        conditions: (condition of all samples, weight or weights (B,)) of each term.
        count: B, the number of samples.
        interval: (smallest, largest) log-SNR that is guided, both included.
        negative: see ``Guidance``; None drops fields of the first condition.
        policy: which fields of the first condition are dropped where there is no other negative.
    Raises:
        UsageError: a weight that is negative or not finite, an interval without extent.
    """
    low, high = check_interval(interval)
    none = negative if negative is not None else conditions[0][0].drop(torch.ones(count, dtype=torch.bool), policy)
    return Guidance(
        torch.full((count,), low, dtype=torch.float64),
        torch.full((count,), high, dtype=torch.float64),
        none,
        tuple(Term(condition, _checked(weight).expand(count)) for condition, weight in conditions),
    )


class ConditionedDenoiser(Denoiser):
    """A denoiser bound to samples, each with its condition, unguided.

    Args:
        denoiser: that is evaluated.
        condition: of the samples.
    """

    def __init__(self, denoiser: Denoiser, condition: Condition) -> None:
        super().__init__()
        self.denoiser, self.condition = denoiser, condition
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range

    def of_rows(self, rows: Tensor) -> Denoiser:
        return ConditionedDenoiser(self.denoiser.of_rows(rows), self.condition.select(rows))

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        denoised: Denoised = self.denoiser(x_t, t, self.condition, evaluation)
        return denoised


class Guided(Denoiser):
    """A denoiser bound to samples, each with its own guidance; all evaluations of a step are made as one batch.

    Variance is taken from the first term.

    Args:
        denoiser: trained with and without its conditions; in fixed batches if samples are not to depend on each other.
        guidance: of the samples.
    """

    def __init__(self, denoiser: Denoiser, guidance: Guidance) -> None:
        super().__init__()
        self.denoiser, self.guidance = denoiser, guidance
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range

    def of_rows(self, rows: Tensor) -> Denoiser:
        return Guided(self.denoiser.of_rows(rows), self.guidance.select(rows))

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        return guided(self.denoiser, self.guidance, x_t, t, evaluation)


def guided(
    denoiser: Denoiser, guidance: Guidance, x_t: Tensor, t: Tensor, evaluation: Evaluation | None = None
) -> Denoised:
    """x_0-hat of every sample with its guidance.

    Args:
        denoiser: trained with and without its conditions.
        guidance: of the samples.
        x_t: (B, ...) noisy data.
        t: (B,) times in [0, 1].
        evaluation: the solver's requests, such as a target time.
    Note:
        The NFE of a sample is 1, and where it is guided one for each further term and one for the negative.
    """
    first = guidance.terms[0].condition
    works = None if guidance.does_nothing else _at_work(denoiser, guidance, t)
    if works is None or not bool(works.any()):
        plain: Denoised = denoiser(x_t, t, first, evaluation)
        return plain
    weights = guidance.weights
    guided_rows = works.nonzero().flatten()
    more = [(works & (weight != 0)).nonzero().flatten() for weight in weights[1:]]
    groups = [torch.arange(len(x_t)), guided_rows, *more]
    conditions = [first, guidance.negative.select(guided_rows)]
    conditions += [term.condition.select(rows) for term, rows in zip(guidance.terms[1:], more, strict=True)]
    evaluated = _evaluate_together(denoiser, groups, conditions, x_t, t, evaluation)
    (conditional, _, nfe), (negative, _, extra), *others = evaluated
    guided_x_0 = negative + per_row(weights[0][guided_rows], x_t) * (conditional[guided_rows.to(x_t.device)] - negative)
    where = torch.full((len(x_t),), -1)
    where[guided_rows] = torch.arange(len(guided_rows))
    nfe = nfe.index_add(0, guided_rows.to(nfe.device), extra)
    for weight, rows, (x_0, _, cost) in zip(weights[1:], more, others, strict=True):
        among = where[rows].to(x_t.device)
        guided_x_0 = guided_x_0.index_add(0, among, per_row(weight[rows], x_t) * (x_0 - negative[among]))
        nfe = nfe.index_add(0, rows.to(nfe.device), cost)
    return Denoised(conditional.index_copy(0, guided_rows.to(x_t.device), guided_x_0), evaluated[0][1], nfe)


def _at_work(denoiser: Denoiser, guidance: Guidance, t: Tensor) -> Tensor:
    """Which samples are guided at their times, (B,) on the CPU."""
    assert guidance.low is not None and guidance.high is not None
    log_snr, weights = denoiser.process.log_snr(t).cpu(), guidance.weights
    some = (weights[0] != 1) | (weights[1:] != 0).any(0)
    return some & (log_snr >= guidance.low) & (log_snr <= guidance.high)


def _evaluate_together(
    denoiser: Denoiser,
    groups: Sequence[Tensor],
    conditions: Sequence[Condition],
    x_t: Tensor,
    t: Tensor,
    evaluation: Evaluation | None,
) -> list[tuple[Tensor, Tensor | None, Tensor]]:
    """(x_0-hat, variance mix, NFE) of the samples of each condition, all evaluated as one batch."""
    rows = torch.cat(list(groups))
    here, requests = rows.to(x_t.device), evaluation.select(rows) if evaluation is not None else None
    joined = Condition.join(list(conditions))
    denoised: Denoised = denoiser.of_rows(rows)(x_t[here], t[here], joined, requests)
    nfe = torch.as_tensor(denoised.nfe, device=x_t.device).expand(len(rows))
    parts, start = [], 0
    for part in groups:
        its = slice(start, start + len(part))
        mix = denoised.variance_mix[its] if denoised.variance_mix is not None else None
        parts.append((denoised.x_0[its], mix, nfe[its]))
        start = its.stop
    return parts


def _weight(term: Term) -> Tensor:
    assert term.weight is not None
    return term.weight


def _checked(weight: float | Tensor) -> Tensor:
    weights = torch.as_tensor(weight, dtype=torch.float64)
    for value in weights.flatten().tolist():
        check_guidance_weight(value)
    return weights
