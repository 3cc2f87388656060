"""Per-sample guidance: each sample of a batch has its own terms, weights, negative condition and interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from undiffuse.core.condition import DROP, Condition, DropPolicy, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.limits import ALL_LOG_SNRS, check_guidance_weight, check_interval
from undiffuse.core.per_sample import PerSample
from undiffuse.core.rows import per_row, where_rows
from undiffuse.guidance.refinement import Refinement


@dataclass(frozen=True)
class Term(PerSample):
    """A guidance condition and its weight (B,) float64, 0 for samples without this term."""

    condition: Condition = field(default_factory=Condition)
    weight: Tensor | None = None


@dataclass(frozen=True)
class Guidance(PerSample):
    """x_0-hat = x_0-hat(negative) + sum_k w_k (x_0-hat(c_k) - x_0-hat(negative)), within an interval of log-SNRs.

    One term is classifier-free guidance, several terms are the conjunction of their conditions. Outside of the
    interval, and with a single weight of 1, the result is x_0-hat(c_0). Weights and intervals stay on the CPU. A
    refinement changes the guided result.

    Args:
        low, high: (B,) float64, the log-SNR interval of guidance, both included.
        negative: the negative condition; by default ``c_0`` with fields dropped by the drop policy.
        terms: at least one.
        refinement: see ``Refinement``; absent for none.
    Source: Ho & Salimans 2022, arXiv:2207.12598, eq. 6, whose w + 1 is the one weight here; Liu et al. 2022,
        "Compositional Visual Generation with Composable Diffusion Models", arXiv:2206.01714, eq. 11, for several;
        Kynkaanniemi et al. 2024, arXiv:2404.07724, eq. 5, for the interval, whose sigma is exp(-log-SNR / 2).
    """

    low: Tensor | None = None
    high: Tensor | None = None
    negative: Condition = field(default_factory=Condition)
    terms: tuple[Term, ...] = ()
    refinement: Refinement = field(default_factory=Refinement)

    def __len__(self) -> int:
        return 0 if self.low is None else len(self.low)

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the samples of several parts, padded to the same number of terms."""
        count = max((len(part.terms) for part in parts), default=0)
        return super().join([part.padded(count) for part in parts])

    def padded(self, count: int) -> Self:
        """A copy padded to ``count`` terms with terms of weight 0."""
        padding = [Term(term.condition, torch.zeros_like(_weight(term))) for term in self.terms[:1]]
        return replace(self, terms=(*self.terms, *padding * (count - len(self.terms))))

    def to(self, device: torch.device | str) -> Self:
        """A copy with the conditions on another device."""
        terms = tuple(Term(term.condition.to(device), term.weight) for term in self.terms)
        return replace(self, negative=self.negative.to(device), terms=terms)

    @property
    def weights(self) -> Tensor:
        """(terms, B) float64."""
        return torch.stack([_weight(term) for term in self.terms])

    @property
    def inactive(self) -> bool:
        """Whether no sample is guided at any time."""
        weights = self.weights
        return bool((weights[0] == 1).all() & (weights[1:] == 0).all())


def build_guidance(
    conditions: Sequence[tuple[Condition, float | Tensor]],
    count: int,
    *,
    interval: tuple[float, float] = ALL_LOG_SNRS,
    negative: Condition | None = None,
    policy: DropPolicy = DROP,
) -> Guidance:
    """Guidance with the same terms and interval for all samples of a batch.

    Args:
        conditions: (condition of all samples, weight or weights (B,)) of each term.
        count: B, the number of samples.
        interval: (smallest, largest) log-SNR of guidance, both included.
        negative: see ``Guidance``; None drops fields of the first condition.
        policy: which fields of the first condition are dropped if ``negative`` is None.
    Raises:
        UsageError: a weight that is negative or not finite, an empty interval.
    """
    low, high = check_interval(interval)
    if negative is None:
        negative = conditions[0][0].drop(torch.ones(count, dtype=torch.bool), policy)
    return Guidance(
        torch.full((count,), low, dtype=torch.float64),
        torch.full((count,), high, dtype=torch.float64),
        negative,
        tuple(Term(condition, _check_weights(weight).expand(count)) for condition, weight in conditions),
    )


class ConditionedDenoiser(Denoiser):
    """A denoiser bound to the conditions of a batch of samples, without guidance.

    Args:
        denoiser: the wrapped denoiser.
        condition: condition of the samples.
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
    """A denoiser bound to the guidance of a batch of samples; all evaluations of a step are one batch.

    A learned variance is taken from the first term.

    Args:
        denoiser: trained with and without its conditions; with a fixed batch size if samples must be independent of the
            batch.
        guidance: guidance of the samples.
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
        return apply_guidance(self.denoiser, self.guidance, x_t, t, evaluation)


def apply_guidance(
    denoiser: Denoiser, guidance: Guidance, x_t: Tensor, t: Tensor, evaluation: Evaluation | None = None
) -> Denoised:
    """Guided x_0-hat of every sample.

    Args:
        denoiser: trained with and without its conditions.
        guidance: guidance of the samples.
        x_t: (B, ...) noisy data.
        t: (B,) times in [0, 1].
        evaluation: solver inputs, such as a target time.
    Note:
        The NFE of a sample is 1; a guided sample adds one for each further term and one for the negative condition.
    """
    first = guidance.terms[0].condition
    active = None if guidance.inactive else _active_rows(denoiser, guidance, t)
    if active is None or not bool(active.any()):
        plain: Denoised = denoiser(x_t, t, first, evaluation)
        return plain
    weights = guidance.weights
    guided_rows = active.nonzero().flatten()
    term_rows = [(active & (weight != 0)).nonzero().flatten() for weight in weights[1:]]
    groups = [torch.arange(len(x_t)), guided_rows, *term_rows]
    conditions = [first, guidance.negative.select(guided_rows)]
    conditions += [term.condition.select(rows) for term, rows in zip(guidance.terms[1:], term_rows, strict=True)]
    evaluated = _evaluate_together(denoiser, groups, conditions, x_t, t, evaluation)
    (conditional, _, nfe), (negative, _, negative_nfe), *other_terms = evaluated
    guided_x_0 = negative + per_row(weights[0][guided_rows], x_t) * (conditional[guided_rows.to(x_t.device)] - negative)
    position = torch.full((len(x_t),), -1)  # of each sample among the guided ones
    position[guided_rows] = torch.arange(len(guided_rows))
    nfe = nfe.index_add(0, guided_rows.to(nfe.device), negative_nfe)
    further = [
        _FurtherTerm(weight[rows], position[rows].to(x_t.device), x_0)
        for weight, rows, (x_0, _, _) in zip(weights[1:], term_rows, other_terms, strict=True)
    ]
    for term in further:
        difference = term.x_0 - negative[term.indices]
        guided_x_0 = guided_x_0.index_add(0, term.indices, per_row(term.weight, x_t) * difference)
    for rows, (_, _, term_nfe) in zip(term_rows, other_terms, strict=True):
        nfe = nfe.index_add(0, rows.to(nfe.device), term_nfe)
    refinement = guidance.refinement.select(guided_rows)
    if (refined_rows := refinement.rows) is not None:
        own, weight = conditional[guided_rows.to(x_t.device)], weights[0][guided_rows]
        guided_x_0 = where_rows(refined_rows, _refined(refinement, weight, own, negative, further), guided_x_0)
    return Denoised(conditional.index_copy(0, guided_rows.to(x_t.device), guided_x_0), evaluated[0][1], nfe)


class _FurtherTerm(NamedTuple):
    """A term after the first: its weights, its samples among the guided ones, and their x_0-hat."""

    weight: Tensor
    indices: Tensor
    x_0: Tensor


def _refined(
    refinement: Refinement, weight: Tensor, conditional: Tensor, negative: Tensor, further: Sequence[_FurtherTerm]
) -> Tensor:
    """The guided x_0-hat with a refinement; a neutral one gives the weighted sum of differences up to rounding."""
    update = per_row(weight - 1, conditional) * refinement.limited(conditional - negative)
    for term in further:
        limited = refinement.select(term.indices).limited(term.x_0 - negative[term.indices])
        update = update.index_add(0, term.indices, per_row(term.weight, update) * limited)
    return refinement.refined(update, conditional)


def _active_rows(denoiser: Denoiser, guidance: Guidance, t: Tensor) -> Tensor:
    """Mask of samples that are guided at their times, (B,) on the CPU."""
    assert guidance.low is not None and guidance.high is not None
    log_snr, weights = denoiser.process.log_snr(t).cpu(), guidance.weights
    has_guidance = (weights[0] != 1) | (weights[1:] != 0).any(0)
    return has_guidance & (log_snr >= guidance.low) & (log_snr <= guidance.high)


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
    indices, inputs = rows.to(x_t.device), evaluation.select(rows) if evaluation is not None else None
    joined = Condition.join(list(conditions))
    denoised: Denoised = denoiser.of_rows(rows)(x_t[indices], t[indices], joined, inputs)
    nfe = torch.as_tensor(denoised.nfe, device=x_t.device).expand(len(rows))
    parts, start = [], 0
    for group in groups:
        part = slice(start, start + len(group))
        mix = denoised.variance_mix[part] if denoised.variance_mix is not None else None
        parts.append((denoised.x_0[part], mix, nfe[part]))
        start = part.stop
    return parts


def _weight(term: Term) -> Tensor:
    assert term.weight is not None
    return term.weight


def _check_weights(weight: float | Tensor) -> Tensor:
    weights = torch.as_tensor(weight, dtype=torch.float64)
    for value in weights.flatten().tolist():
        check_guidance_weight(value)
    return weights
