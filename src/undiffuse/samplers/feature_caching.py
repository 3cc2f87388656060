"""Feature caching: a sampler made of another, whose network is evaluated whole on some steps only.

The inner, coarse levels of a U-Net change little between neighbouring steps. On every K-th step the network is
evaluated whole and their features are cached; on the steps between, only its finest level is computed and takes the
cached features. They are memory of the sampler, per sample, like the previous x_0-hat of a multistep method: a sampler
stays one step function, samples may be at different steps, and none depends on another.
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


class _Reusing(Denoiser):
    """``denoiser`` with cached ``features``; the samples that are ``fresh`` are evaluated whole and renew theirs."""

    def __init__(self, denoiser: Denoiser, features: Tensor, fresh: Tensor) -> None:
        super().__init__()
        self.denoiser, self.features, self.fresh = denoiser, features, fresh
        self.process, self.log_snr_range = denoiser.process, denoiser.log_snr_range

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        if len(x_t) == 0 or bool(self.fresh.all()):
            return self._whole(x_t, t, cond)
        kept = self.features
        self.denoiser.count_for(~self.fresh)
        partial: Denoised = self.denoiser(x_t, t, cond, Evaluation(cached_features=kept))
        self.denoiser.count_for(None)
        if not bool(self.fresh.any()):
            return partial
        # samples at different steps: all are evaluated both ways, and each takes its own
        self.denoiser.count_for(self.fresh)
        whole = self._whole(x_t, t, cond)
        self.denoiser.count_for(None)
        self.features = where_rows(self.fresh, self.features, kept)
        mix = partial.variance_mix
        if mix is not None and whole.variance_mix is not None:
            mix = where_rows(self.fresh, whole.variance_mix, mix)
        return whole._replace(
            x_0=where_rows(self.fresh, whole.x_0, partial.x_0), variance_mix=mix, partial_nfe=partial.partial_nfe
        )

    def count_for(self, rows: Tensor | None) -> None:
        self.denoiser.count_for(rows)

    def _whole(self, x_t: Tensor, t: Tensor, cond: Condition | None) -> Denoised:
        denoised: Denoised = self.denoiser(x_t, t, cond)
        if denoised.features is not None:
            self.features = denoised.features.to(self.features.dtype)
        return denoised


def with_feature_caching(sampler: Sampler, every: int, cached_features_shape: Sequence[int]) -> Sampler:
    """``sampler`` with the whole network on every ``every``-th step, its first included, and the finest level between.

    Args:
        sampler: with a fixed grid; all evaluations of a step are of one kind.
        every: the cache interval, at least 1; 1 evaluates the whole network always.
        cached_features_shape: (C, h, w) of one sample's features.
    Raises:
        UsageError: fewer than 1, or a sampler that chooses its own steps.
    Note:
        Not a solver of a higher or lower order, but of a slightly different denoiser; what it costs is to be measured.
    Source: Ma et al. 2023, "DeepCache: Accelerating Diffusion Models for Free", arXiv:2312.00858, sec. 3.3.
    """
    check_cache_interval(every)
    if sampler.adaptive:
        raise UsageError(f"features are reused between steps of a grid, and {sampler.name!r} chooses its own")

    def init(x: Tensor) -> Memory:
        has = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # features: a sample may begin at any step
        return (*sampler.init(x), has, torch.zeros(len(x), *cached_features_shape, dtype=x.dtype, device=x.device))

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        *inner, has, features = memory
        reused = _Reusing(denoiser, features, ~has | (steps.index % every == 0))
        x, remembered = sampler.step(reused, x, steps, tuple(inner), noise)
        return x, (*remembered, torch.ones_like(has), reused.features)

    return replace(sampler, step=step, init=init)
