"""Classifier guidance: sampling follows the gradient of log p(y | x_t) of a classifier in addition to the score.

    score(x_t | y) = score(x_t) + w grad log p(y | x_t),   in terms of x_0-hat:
    x_0-hat(y) = x_0-hat + w (sigma^2 / alpha) grad log p(y | x_t),   by score = (alpha x_0-hat - x_t) / sigma^2.

The classifier is any function of log-probabilities, so that other models of p(y | x_t), such as a contrastive model of
images and texts, guide in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser, matched_level
from undiffuse.core.limits import check_classifier_scale, check_classifier_through
from undiffuse.core.per_sample import PerSample
from undiffuse.core.process import Process
from undiffuse.core.rows import per_row
from undiffuse.samplers.grids import WIDEST_LOG_SNR


class LogProbability(Protocol):
    """log p(y | x_t) of samples, each with its own y; differentiable in x_t, and no sample depends on another."""

    def __call__(self, x_t: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """Log-probabilities in nats, (N,).

        Args:
            x_t: (N, ...) noisy data, or x_0-hat with times 0.
            t: (N,) times of the process of the denoiser.
            rows: (N,) int64 indices of the samples in the batch that the guidance was built for.
        """
        ...


class NoisyClassifier(Protocol):
    """A classifier p(y | x_t) of noisy data."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, (C, H, W) or (D,)."""
        ...

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """(smallest, largest) log-SNR of training."""
        ...

    @property
    def batch_size(self) -> int:
        """Fixed size of its evaluations."""
        ...

    def log_prob(self, x_t: Tensor, t: Tensor, labels: Tensor, process: Process) -> Tensor:
        """log p(y | x_t), (B,) in nats.

        Args:
            x_t: (B, *shape) noisy data under ``process``.
            t: (B,) times of ``process``.
            labels: (B,) int64 classes y, or (B, D) embeddings of texts.
            process: the process of x_t, which may differ from that of training.
        """
        ...


@runtime_checkable
class TextGuide(Protocol):
    """A model of log p(text | x_t) - log p(text), up to a constant; its ``log_prob`` takes embeddings for classes."""

    @property
    def noise_aware(self) -> bool:
        """Whether it knows noisy images."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (B, D) of texts, which are independent of each other.

        Args:
            texts: B texts.
        """
        ...


@dataclass(frozen=True)
class ClassifierWeights(PerSample):
    """What each sample is guided to, and its scale (B,) float64, on the CPU.

    Args:
        label: classes (B,) int64, -1 for none; None for a guide of texts.
        scale: factors of the gradient; 0 for samples that are not guided.
        embedding: (B, D) embeddings of texts; None for a classifier.
    """

    label: Tensor | None = None
    scale: Tensor | None = None
    embedding: Tensor | None = None

    def to(self, device: torch.device | str) -> ClassifierWeights:
        """Returns ``self``: the weights stay on the CPU."""
        return self


class ClassifierGuided(Denoiser):
    """x_0-hat + w (sigma^2 / alpha) grad log p(y | .), the gradient taken in x_t.

    Through ``x_t``, the classifier is evaluated at x_t and must know noisy data. Through ``x_0``, it is evaluated at
    x_0-hat(x_t) and time 0, and the gradient passes through the denoiser; the classifier may then know clean data
    alone, and the result is exact only in the limit of low noise. A learned variance is that of the denoiser. At lower
    log-SNRs than the smallest of ``log_snr_range``, where sigma^2 / alpha diverges, the gradient is taken at that one.

    Args:
        denoiser: the denoiser, with or without other guidance; with a fixed batch size if samples must be independent
            of the batch.
        log_prob: see ``LogProbability``.
        scale: w, one for all samples or ``(B,)``; 0 leaves a sample unchanged, at no cost.
        through: ``x_t`` or ``x_0``.
        log_snr_range: (smallest, largest) log-SNR of the classifier; has no effect through ``x_0``.
        batch_size: fixed, padded size of the evaluations of ``log_prob``; None for all samples at once.
        rows: (B,) int64, indices of the samples in ``log_prob``; 0, 1, ... by default.
    Raises:
        UsageError: a scale that is negative or not finite, or another ``through``.
    Note:
        An evaluation of the classifier, including its gradient, counts as one NFE.
    Source: Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", arXiv:2105.05233, sec. 4, eq. 14;
        through x_0-hat: Bansal et al. 2023, "Universal Guidance for Diffusion Models", arXiv:2302.07121, sec. 3.1.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        log_prob: LogProbability,
        scale: float | Tensor,
        through: str = "x_t",
        log_snr_range: tuple[float, float] = WIDEST_LOG_SNR,
        batch_size: int | None = None,
        rows: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.log_prob, self.batch_size, self.rows = denoiser, log_prob, batch_size, rows
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range
        self.through = check_classifier_through(through)
        self.scale = torch.as_tensor(scale, dtype=torch.float64)
        for value in self.scale.flatten().tolist():
            check_classifier_scale(value)
        # at x_0-hat the classifier is evaluated without noise, whatever the noise of x_t
        self.lowest_log_snr = max(log_snr_range[0], WIDEST_LOG_SNR[0]) if through == "x_t" else WIDEST_LOG_SNR[0]

    def of_rows(self, rows: Tensor) -> Denoiser:
        scale = self.scale[rows] if self.scale.ndim else self.scale
        known = rows if self.rows is None else self.rows[rows]
        return ClassifierGuided(
            self.denoiser.of_rows(rows),
            self.log_prob,
            scale,
            self.through,
            (self.lowest_log_snr, float("inf")),
            self.batch_size,
            known,
        )

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        guided = (self.scale != 0).expand(len(t))
        if not bool(guided.any()):
            plain: Denoised = self.denoiser(x_t, t, cond, evaluation)
            return plain
        rows = guided.nonzero().flatten()
        if self.through == "x_0":
            return self._through_x_0(x_t, t, cond, evaluation, rows, (~guided).nonzero().flatten())
        denoised: Denoised = self.denoiser(x_t, t, cond, evaluation)
        shifts = [self._shift(x_t, t, block) for block in self._blocks(rows)]
        x_0 = denoised.x_0.index_add(0, rows.to(x_t.device), torch.cat(shifts))
        nfe = torch.as_tensor(denoised.nfe, device=x_t.device) + guided.to(x_t.device).long()
        return denoised._replace(x_0=x_0, nfe=nfe)

    def _shift(self, x_t: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """w (sigma^2 / alpha) grad log p(y | x_t) of some samples, (N, ...)."""
        x, t = self._bounded(x_t, t, rows)
        with torch.enable_grad():
            x = x.requires_grad_()
            slope = _gradient(self._log_probability(x, t, rows), x)
        return self._scaled(slope, t, rows)

    def _through_x_0(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None,
        evaluation: Evaluation | None,
        guided: Tensor,
        plain: Tensor,
    ) -> Denoised:
        """The guided samples block by block, with gradients of the denoiser; the other samples without."""
        parts = [self._evaluate(x_t[_on(plain, x_t)], t[_on(plain, t)], cond, evaluation, plain)] if len(plain) else []
        for rows in self._blocks(guided):
            x, bounded = self._bounded(x_t, t, rows)
            with torch.enable_grad():
                x = x.requires_grad_()
                denoised = self._evaluate(x, bounded, cond, evaluation, rows)
                value = self._log_probability(denoised.x_0, torch.zeros_like(bounded), rows)
                slope = _gradient(value, x)
            mix = denoised.variance_mix
            nfe = torch.as_tensor(denoised.nfe, device=x.device) + 1
            x_0 = denoised.x_0.detach() + self._scaled(slope, bounded, rows)
            parts.append(Denoised(x_0, None if mix is None else mix.detach(), nfe))
        return _in_order(parts, torch.cat([*([plain] if len(plain) else []), guided]), x_t.device)

    def _evaluate(
        self, x: Tensor, t: Tensor, cond: Condition | None, evaluation: Evaluation | None, rows: Tensor
    ) -> Denoised:
        """The denoiser at some of its samples."""
        condition = None if cond is None else cond.select(rows)
        inputs = None if evaluation is None else evaluation.select(rows)
        denoised: Denoised = self.denoiser.of_rows(rows)(x, t, condition, inputs)
        return denoised

    def _bounded(self, x_t: Tensor, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x and times of some samples, moved to the smallest log-SNR where theirs is smaller."""
        x, t = x_t[_on(rows, x_t)].detach(), t[_on(rows, t)]
        too_low = self.process.log_snr(t) < self.lowest_log_snr
        if not bool(too_low.any()):
            return x, t
        ratio, bounded = matched_level(self.process, self.process, t, (self.lowest_log_snr, float("inf")))
        ratio = torch.where(too_low, ratio, 1.0)
        return per_row(ratio, x) * x, torch.where(too_low, bounded, t.double())

    def _log_probability(self, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """log p of at most ``batch_size`` samples, padded to that size."""
        index = torch.arange(self.batch_size or len(rows)).clamp(max=len(rows) - 1)
        known = rows if self.rows is None else self.rows[rows]
        return self.log_prob(x[_on(index, x)], t[_on(index, t)], known[index])[: len(rows)]

    def _scaled(self, slope: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """w (sigma^2 / alpha) times a gradient."""
        weight = self.scale[rows] if self.scale.ndim else self.scale
        factor = self.process.sigma(t) ** 2 / self.process.alpha(t)
        return per_row(weight.to(factor.device) * factor, slope) * slope

    def _blocks(self, rows: Tensor) -> tuple[Tensor, ...]:
        return torch.split(rows, self.batch_size or max(len(rows), 1))


def guided_by_classifier(
    denoiser: Denoiser, classifier: NoisyClassifier, weights: ClassifierWeights, through: str = "x_t"
) -> Denoiser:
    """``denoiser`` guided to the class or text of each sample; samples without a class are not guided.

    Args:
        denoiser: see ``ClassifierGuided``; its process may differ from that of the classifier.
        classifier: its classes are those that ``weights.label`` numbers, or it is a ``TextGuide``.
        weights: class or text and scale of each sample.
        through: ``x_t`` or ``x_0``.
    """
    target, scale, process = weights.label, weights.scale, denoiser.process
    if weights.embedding is not None:
        target = weights.embedding
    elif target is not None and scale is not None:
        scale = torch.where(target >= 0, scale, 0.0)
    assert target is not None and scale is not None

    def log_prob(x_t: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        return classifier.log_prob(x_t, t, target[rows], process)

    return ClassifierGuided(denoiser, log_prob, scale, through, classifier.log_snr_range, classifier.batch_size)


def _on(rows: Tensor, like: Tensor) -> Tensor:
    return rows.to(like.device)


def _gradient(value: Tensor, x: Tensor) -> Tensor:
    """d value_i / d x_i of every sample i, in the dtype of x."""
    (slope,) = torch.autograd.grad(value.sum(), x)
    return slope


def _in_order(parts: list[Denoised], rows: Tensor, device: torch.device) -> Denoised:
    """The samples of several parts, sorted by their index."""
    order = torch.argsort(rows).to(device)
    sizes = [len(part.x_0) for part in parts]
    nfe, partial_nfe = (
        torch.cat([torch.as_tensor(n, device=device).expand(size) for n, size in zip(counts, sizes, strict=True)])
        for counts in ([part.nfe for part in parts], [part.partial_nfe for part in parts])
    )
    mixes = [part.variance_mix for part in parts if part.variance_mix is not None]
    mix = torch.cat(mixes)[order] if mixes else None
    return Denoised(torch.cat([part.x_0 for part in parts])[order], mix, nfe[order], partial_nfe[order])
