"""Mode coverage of a generator: the modes of the data it reaches, their balance, and whether it has collapsed.

With n samples, p the share of them in each of K modes and q that of the data:

    found = number of modes with at least one sample,   good = fraction of samples that belong to a mode,
    KL(p || q) = sum_k p_k ln(p_k / q_k)  nats.

All three depend on n even for perfect samples, so each is reported with its value for real data of the same size: 1,000
draws of n from q, with a fixed seed.

Source: Srivastava et al. 2017, "VEEGAN", arXiv:1705.07761, sec. 4 (points and stacked MNIST); Metz et al. 2016,
arXiv:1611.02163, sec. 3.3.1 (KL of stacked MNIST); Lin et al. 2018, "PacGAN", arXiv:1712.04086.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.classification import CONFIDENT
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.pixels import check_images

#: Standard deviations from its mode within which a point is good.
WITHIN = 3.0
#: KL above that of real data that counts as collapse, in nats: the KL of half of the modes with equal shares.
COLLAPSE_KL = math.log(2)
#: Modes whose share of the data is below this fraction of an equal share are ignored as classification errors.
MIN_SHARE = 0.2
RULE = (
    "collapsed where fewer than half as many modes are found as in real data of the same size, or where KL(samples || "
    "data) exceeds that of such data by ln 2 = 0.69 nats, what keeping half of the modes evenly costs; never within "
    "what 999 of 1,000 draws of real data show"
)
_DRAWS = 1000


@dataclass(frozen=True)
class ModeAssignments:
    """The modes of some samples.

    Attributes:
        counts: (K,) number of samples whose nearest, or most probable, mode is k.
        valid: (K,) number of these that count towards finding the mode.
        good: number of samples that belong to a mode.
        good_of_real: fraction of real data that is good.
        valid_of_real: fraction of real data that is valid.
    """

    counts: Tensor
    valid: Tensor
    good: int
    good_of_real: float
    valid_of_real: float


@dataclass(frozen=True)
class Modes:
    """Statistics of the samples' modes; the ``real_`` values are those of real data of the same size.

    Attributes:
        num_samples: n.
        num_modes: number of modes of the data.
        found: number of modes with samples.
        found_error: its jackknife standard error over samples.
        good_share, good_share_error: fraction of good samples and its binomial standard error.
        kl, kl_error: in nats, and its standard error over samples, of first order plus the variance at equality.
        real_found, real_found_least: mean and second-smallest value of 1,000 draws.
        real_good_share: expected.
        real_kl, real_kl_most: mean and second-largest value of 1,000 draws.
        histogram: number of samples of each mode.
        missing: indices of the modes without samples.
    """

    num_samples: int
    num_modes: int
    found: int
    found_error: float
    good_share: float
    good_share_error: float
    kl: float
    kl_error: float
    real_found: float
    real_found_least: int
    real_good_share: float
    real_kl: float
    real_kl_most: float
    histogram: list[int]
    missing: list[int]

    @property
    def collapsed(self) -> bool:
        """Whether the samples have collapsed according to ``RULE``."""
        few = self.found < 0.5 * self.real_found and self.found < self.real_found_least
        uneven = self.kl > self.real_kl + COLLAPSE_KL and self.kl > self.real_kl_most
        return few or uneven

    @property
    def summary(self) -> str:
        """The conclusion and the numbers in one line."""
        conclusion = "collapsed" if self.collapsed else "no collapse found"
        return (
            f"{conclusion}: {self.found} of {self.num_modes} modes in {self.num_samples:,} samples "
            f"(real data {self.real_found:.4g}), KL {self.kl:.3g} nats (real data {self.real_kl:.2g}), "
            f"{self.good_share:.1%} good samples (real data {self.real_good_share:.1%})"
        )


def measure_modes(assigned: ModeAssignments, shares: Tensor) -> Modes:
    """Modes found, good samples and balance of n samples.

    Args:
        assigned: the samples' modes.
        shares: (K,) of the data in each mode, with sum 1; modes below ``MIN_SHARE`` of an equal share are ignored.
    Raises:
        UsageError: no samples, or invalid shares.
    """
    counts, num = assigned.counts.double().cpu(), int(assigned.counts.sum())
    shares = _checked_shares(shares, len(counts), num)
    count_noun = shares >= MIN_SHARE / len(shares)
    found = (assigned.valid.cpu() >= 1) & count_noun
    draws = np.random.Generator(np.random.Philox(0)).multinomial(num, (shares / shares.sum()).numpy(), size=_DRAWS)
    rng = np.random.Generator(np.random.Philox(1))
    real = rng.binomial(draws, assigned.valid_of_real) >= 1
    real_found = (real & count_noun.numpy()).sum(1)
    real_kl = kl_of(torch.from_numpy(draws), shares)
    good = assigned.good / num
    return Modes(
        num_samples=num,
        num_modes=int(count_noun.sum()),
        found=int(found.sum()),
        found_error=_found_error(assigned.valid, num),
        good_share=good,
        good_share_error=math.sqrt(good * (1 - good) / num),
        kl=float(kl_of(counts, shares)),
        kl_error=_kl_error(counts, shares),
        real_found=float(real_found.mean()),
        real_found_least=int(np.sort(real_found)[1]),
        real_good_share=assigned.good_of_real,
        real_kl=float(real_kl.mean()),
        real_kl_most=float(real_kl.sort().values[-2]),
        histogram=[int(count) for count in counts],
        missing=(count_noun & ~found).nonzero()[:, 0].tolist(),
    )


def _checked_shares(shares: Tensor, num_modes: int, num: int) -> Tensor:
    shares = shares.double().cpu()
    if num < 1:
        raise UsageError("modes need at least 1 sample, got 0")
    if shares.shape != (num_modes,) or not bool((shares > 0).all()) or abs(float(shares.sum()) - 1) > 1e-6:
        raise UsageError(f"expected {num_modes} positive shares of the modes that sum to 1, got {tuple(shares.shape)}")
    return shares


def kl_of(counts: Tensor, shares: Tensor) -> Tensor:
    """KL(p || q) in nats of counts (..., K) from shares q (K,): ``(...)`` float64; the counts' sums must not be 0."""
    p = counts.double() / counts.double().sum(-1, keepdim=True)
    kl: Tensor = (torch.special.xlogy(p, p) - p * shares.log()).sum(-1)
    return kl


def _kl_error(counts: Tensor, shares: Tensor) -> float:
    """First-order (delta method) variance plus that of the chi-squared remainder, (K - 1) / (2 n^2), K modes found."""
    num, seen = float(counts.sum()), int((counts > 0).sum())
    p = counts / num
    log_ratio = torch.where(p > 0, p.clamp(min=1e-300).log() - shares.log(), 0.0)
    mean = (p * log_ratio).sum()
    first = float((p * (log_ratio - mean) ** 2).sum()) / num
    return math.sqrt(first + (seen - 1) / (2 * num**2))


def _found_error(valid: Tensor, num: int) -> float:
    """Jackknife over samples: leaving out the only sample of a mode loses that mode."""
    single = int((valid == 1).sum())
    return math.sqrt((num - 1) / num * single * (1 - single / num))


def equal_shares(num_modes: int) -> Tensor:
    """Equal shares (K,) of all modes."""
    return torch.full((num_modes,), 1 / num_modes, dtype=torch.float64)


def assign_points(distances: Tensor, good_of_real: float) -> ModeAssignments:
    """Assign points by their distances (B, K) from the modes in standard deviations; good within ``WITHIN``."""
    nearest, mode = distances.double().min(1)
    good, num = nearest <= WITHIN, distances.shape[1]
    valid = torch.bincount(mode[good], minlength=num)
    return ModeAssignments(torch.bincount(mode, minlength=num), valid, int(good.sum()), good_of_real, good_of_real)


def good_of_gaussian(dimensions: int) -> float:
    """P(|z| <= 3) of z ~ N(0, I) in 1 or 2 dimensions: 0.9973, 0.9889."""
    return math.erf(WITHIN / math.sqrt(2)) if dimensions == 1 else -math.expm1(-(WITHIN**2) / 2)


def assign_images(extractor: FeatureExtractor, images: Tensor, good_of_real: float = 1.0) -> ModeAssignments:
    """Assign images by the class of each channel from a classifier of grey images: K = num_classes ** channels.

    Every image counts towards its most probable mode, as in the literature; it is good if each of its channels is
    classified with a probability of at least 0.9.

    Args:
        extractor: a classifier of grey images.
        images: uint8 (B, C, H, W), C = 1 or 3.
    """
    labels, confident = classify_channels(extractor, images)
    num = int(extractor.num_classes or 0)
    code = torch.zeros(len(labels), dtype=torch.int64)
    for channel in range(labels.shape[1]):
        code = code * num + labels[:, channel]
    counts = torch.bincount(code, minlength=num ** labels.shape[1])
    return ModeAssignments(counts, counts, int(confident.sum()), good_of_real, valid_of_real=1.0)


def classify_channels(extractor: FeatureExtractor, images: Tensor) -> tuple[Tensor, Tensor]:
    """(class of each channel (B, C), whether all channels are classified with confidence (B,))."""
    check_images(images)
    if extractor.num_classes is None or extractor.channels != 1:
        raise UsageError(f"features {extractor.name!r} do not name grey images; take 'handwriting' or 'fashion'")
    probabilities = extractor.classify(images.flatten(0, 1)[:, None])
    best, label = probabilities.max(1)
    shape = images.shape[:2]
    return label.reshape(shape), (best >= CONFIDENT).reshape(shape).all(1)


def smoothed(counts: Tensor) -> Tensor:
    """Shares (K,) of counts with 1/2 added to each, so that none is 0."""
    added = counts.double() + 0.5
    return added / added.sum()


def product_shares(labels: Tensor, num_classes: int) -> Tensor:
    """Shares of all stacks of independent channels, (num_classes ** C,), from the classes (N, C) of real images.

    All channels are drawn from one set, so they have a common histogram.
    """
    channel = smoothed(torch.bincount(labels.flatten(), minlength=num_classes))
    shares = channel
    for _ in range(labels.shape[1] - 1):
        shares = (shares[:, None] * channel).flatten()
    return shares


def to_details(modes: Modes) -> dict[str, Any]:
    """All numbers as plain values, with the conclusion and its rule."""
    fields = {key: getattr(modes, key) for key in modes.__dataclass_fields__}
    return {**fields, "collapsed": modes.collapsed, "verdict": modes.summary, "rule": RULE}  # data
