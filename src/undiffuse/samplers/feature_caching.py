"""Feature caching: a sampler wrapper that evaluates the full network only on some steps.

The inner, coarse levels of a U-Net change little between adjacent steps. On every K-th step the full network is
evaluated and their features are cached; on the other steps only the finest level is computed, from the cached features.
The features are part of the sampler's per-sample memory, like the previous x_0-hat of a multistep method: a sampler
remains a step function, samples may be at different steps, and they do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.limits import check_cache_interval
from undiffuse.core.rows import where_rows
from undiffuse.errors import UsageError
from undiffuse.samplers.base import Memory, Sampler, Steps
from undiffuse.samplers.noise import NoiseSource


class _CachedDenoiser(Denoiser):
    """``denoiser`` with cached ``features``; a full evaluation updates the features of the samples in ``refresh``."""

    def __init__(self, denoiser: Denoiser, features: Tensor, refresh: Tensor) -> None:
        super().__init__()
        self.denoiser, self.features, self.refresh = denoiser, features, refresh
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        if len(x_t) == 0 or bool(self.refresh.all()):
            return self._evaluate_full(x_t, t, cond)
        cached = self.features
        self.denoiser.count_for(~self.refresh)
        partial: Denoised = self.denoiser(x_t, t, cond, Evaluation(cached_features=cached))
        self.denoiser.count_for(None)
        if not bool(self.refresh.any()):
            return partial
        # samples at different steps: the batch is evaluated both ways, and each sample selects its result
        self.denoiser.count_for(self.refresh)
        full = self._evaluate_full(x_t, t, cond)
        self.denoiser.count_for(None)
        self.features = where_rows(self.refresh, self.features, cached)
        mix = partial.variance_mix
        if mix is not None and full.variance_mix is not None:
            mix = where_rows(self.refresh, full.variance_mix, mix)
        return full._replace(
            x_0=where_rows(self.refresh, full.x_0, partial.x_0), variance_mix=mix, partial_nfe=partial.partial_nfe
        )

    def count_for(self, rows: Tensor | None) -> None:
        self.denoiser.count_for(rows)

    def _evaluate_full(self, x_t: Tensor, t: Tensor, cond: Condition | None) -> Denoised:
        denoised: Denoised = self.denoiser(x_t, t, cond)
        if denoised.features is not None:
            self.features = denoised.features.to(self.features.dtype)
        return denoised


def with_feature_caching(sampler: Sampler, every: int, cached_features_shape: Sequence[int]) -> Sampler:
    """``sampler`` with full evaluations on steps 0, ``every``, 2 ``every``, ... and partial ones on the other steps.

    Args:
        sampler: a sampler with a fixed grid; all evaluations of a step are either full or partial.
        every: the cache interval, at least 1; with 1 all evaluations are full.
        cached_features_shape: (C, h, w) of one sample's features.
    Raises:
        UsageError: an interval below 1, or an adaptive sampler.
    Note:
        The order of the solver is unchanged, but the denoiser is approximated; measure the effect on sample quality.
    Source: Ma et al. 2023, "DeepCache: Accelerating Diffusion Models for Free", arXiv:2312.00858, sec. 3.3.
    """
    check_cache_interval(every)
    if sampler.adaptive:
        raise UsageError(f"feature caching needs a sampler with a fixed time grid, got the adaptive {sampler.name!r}")

    def init(x: Tensor) -> Memory:
        # a sample may start at any step, so whether it has cached features is stored as well
        has_features = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return (
            *sampler.init(x),
            has_features,
            torch.zeros(len(x), *cached_features_shape, dtype=x.dtype, device=x.device),
        )

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        *inner, has_features, features = memory
        cached = _CachedDenoiser(denoiser, features, ~has_features | (steps.index % every == 0))
        x, new_inner = sampler.step(cached, x, steps, tuple(inner), noise)
        return x, (*new_inner, torch.ones_like(has_features), cached.features)

    return replace(sampler, step=step, init=init)
