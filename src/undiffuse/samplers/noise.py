"""Noise sources of samplers: counter-based, so that sample i depends on seed i only.

Noise is drawn on the CPU as float32, one sample at a time, by a Philox generator with the sample's seed as key and
(step, draw within the step, stream) as counter. A draw does not depend on the batch, the device or the order of draws.

SDE samplers draw increments of a Brownian path instead, one path per seed for all grids; see ``samplers.brownian``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.samplers.brownian import increments

_KEY = 0x756E646966667573  # separates sampling from other uses of the same seed


class NoiseSource:
    """Standard normal noise for the samples of a batch; ``at`` selects the step."""

    def at(self, index: Tensor) -> NoiseSource:
        """The source for one step.

        Args:
            index: (B,) step index of each sample.
        """
        raise NotImplementedError

    def prior(self, like: Tensor) -> Tensor:
        """The initial noise of each sample.

        Args:
            like: (B, ...) tensor that gives shape, dtype and device.
        """
        raise NotImplementedError

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise; each call within a step is an independent draw.

        Args:
            like: (B, ...) tensor that gives shape, dtype and device.
        """
        raise NotImplementedError

    def numbered(self, like: Tensor, number: int) -> Tensor:
        """Noise by number, for draws outside of sampling: the first draw of the step with this index.

        Args:
            like: (B, ...) tensor that gives shape, dtype and device.
            number: number of the draw.
        """
        return self.at(torch.full((len(like),), number)).normal(like)

    def brownian(self, snr_t: Tensor, snr_s: Tensor, like: Tensor) -> Tensor:
        """Normalised increment (W(snr_s) - W(snr_t)) / sqrt(snr_s - snr_t) of each sample's Brownian path W.

        Standard normal, and independent for disjoint intervals. The time of W is SNR = alpha^2 / sigma^2, in which
        q(x_s | x_t, x_0) is w_s = w_t + (SNR_s - SNR_t) x_0 + W(SNR_s) - W(SNR_t) with w = alpha x / sigma^2; so all
        time grids can share a path.

        Args:
            snr_t: (B,), at least 0.
            snr_s: (B,), at least ``snr_t``, possibly infinite.
            like: (B, ...) tensor that gives shape, dtype and device.
        """
        raise NotImplementedError


class SeededNoise(NoiseSource):
    """Noise from (seed, stream, step, draw).

    Args:
        seeds: one integer in [0, 2**64) per sample.
        index: step index of each sample; the draw of the prior comes before step 0.
        stream: one for all samples or one per sample, at least 0; streams of the same seed are independent, as required
            for the stages of a cascade.
    """

    def __init__(
        self, seeds: Sequence[int], index: Sequence[int] | None = None, stream: int | Sequence[int] = 0
    ) -> None:
        if any(not 0 <= seed < 2**64 for seed in seeds):
            raise UsageError(f"seeds must be integers from 0 to 2**64 - 1, got {list(seeds)[:4]} ...")
        self.seeds = [int(seed) for seed in seeds]
        self.index = index
        self.streams = [stream] * len(self.seeds) if isinstance(stream, int) else list(stream)
        self.draws = 0

    def at(self, index: Tensor) -> SeededNoise:
        return SeededNoise(self.seeds, index.tolist(), self.streams)

    def select(self, rows: Sequence[int]) -> SeededNoise:
        """The source of a subset of the samples."""
        return SeededNoise([self.seeds[row] for row in rows], stream=[self.streams[row] for row in rows])

    def prior(self, like: Tensor) -> Tensor:
        return self._draw(like, [0] * len(self.seeds), 0)

    def normal(self, like: Tensor) -> Tensor:
        if self.index is None:
            raise UsageError("noise for a step needs the step index: call at(index) first")
        self.draws += 1
        return self._draw(like, [step + 1 for step in self.index], self.draws)

    def brownian(self, snr_t: Tensor, snr_s: Tensor, like: Tensor) -> Tensor:
        """See ``NoiseSource.brownian``; the path depends on seed and stream only, so no step has to be set.

        Raises:
            UsageError: a negative or NaN SNR, or ``snr_s`` below ``snr_t``.
        """
        self._check_rows(like)
        out = increments(self.seeds, snr_t.tolist(), snr_s.tolist(), tuple(like.shape[1:]), self.streams)
        return torch.from_numpy(out).to(device=like.device, dtype=like.dtype)

    def _check_rows(self, like: Tensor) -> None:
        if len(like) != len(self.seeds):
            raise UsageError(f"{len(self.seeds)} seeds for {len(like)} samples")

    def _draw(self, like: Tensor, steps: Sequence[int], draw: int) -> Tensor:
        self._check_rows(like)
        out = np.empty(tuple(like.shape), dtype=np.float32)
        for row, (seed, step, stream) in enumerate(zip(self.seeds, steps, self.streams, strict=True)):
            key = np.array([seed, _KEY], dtype=np.uint64)  # numpy would convert a list with seeds >= 2**63 to float64
            bits = np.random.Philox(key=key, counter=[0, draw, step, stream])
            out[row] = np.random.Generator(bits).standard_normal(out.shape[1:], dtype=np.float32)
        return torch.from_numpy(out).to(device=like.device, dtype=like.dtype)
