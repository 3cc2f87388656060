"""Where samplers get their noise: counter-based, so that sample i depends on seed i alone.

Draws are made on the CPU as float32, one sample at a time, by a Philox generator keyed with the sample's seed and
counted by (step, draw within the step, stream). So a draw is the same whatever the batch, the device and the order.

SDE samplers draw increments of a Brownian path instead, one path per seed for all grids; see ``samplers.brownian``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.samplers.brownian import increments

_KEY = 0x756E646966667573  # keeps sampling apart from every other use of the same seed


class NoiseSource:
    """Standard normal noise for the samples of a batch; ``at`` selects the step."""

    def at(self, index: Tensor) -> NoiseSource:
        """The source for one step.

        Args:
            index: (B,) each sample's own step number.
        """
        raise NotImplementedError

    def prior(self, like: Tensor) -> Tensor:
        """The noise that each sample starts from.

        Args:
            like: (B, ...) whose shape, dtype and device are taken.
        """
        raise NotImplementedError

    def normal(self, like: Tensor) -> Tensor:
        """Fresh standard normal noise; each call within a step is another draw.

        Args:
            like: (B, ...) whose shape, dtype and device are taken.
        """
        raise NotImplementedError

    def numbered(self, like: Tensor, number: int) -> Tensor:
        """Noise by number, whatever steps there are: for draws outside of sampling.

        Args:
            like: (B, ...) whose shape, dtype and device are taken.
            number: of the draw; it is the first draw of the step of that number.
        """
        return self.at(torch.full((len(like),), number)).normal(like)

    def brownian(self, snr_t: Tensor, snr_s: Tensor, like: Tensor) -> Tensor:
        """Normalised increment (W(snr_s) - W(snr_t)) / sqrt(snr_s - snr_t) of each sample's Brownian path W.

        Standard normal, and independent for intervals that do not overlap. W runs in SNR = alpha^2 / sigma^2, in
        which q(x_s | x_t, x_0) reads w_s = w_t + (SNR_s - SNR_t) x_0 + W(SNR_s) - W(SNR_t) with w = alpha x / sigma^2;
        so grids of any fineness can share a path.

        Args:
            snr_t: (B,), at least 0.
            snr_s: (B,), at least ``snr_t``, infinity included.
            like: (B, ...) whose shape, dtype and device are taken.
        """
        raise NotImplementedError


class SeededNoise(NoiseSource):
    """Noise from (seed, stream, step, draw).

    Args:
        seeds: one integer in [0, 2**64) per sample.
        index: each sample's step number; the prior's own draw comes before step 0.
        stream: one for all samples or one per sample, from 0 on; the noises of one seed's streams are independent, as
            the stages of a cascade need them.
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
        """The source of these samples alone."""
        return SeededNoise([self.seeds[row] for row in rows], stream=[self.streams[row] for row in rows])

    def prior(self, like: Tensor) -> Tensor:
        return self._draw(like, [0] * len(self.seeds), 0)

    def normal(self, like: Tensor) -> Tensor:
        if self.index is None:
            raise UsageError("noise for a step needs the step's number: call at(index) first")
        self.draws += 1
        return self._draw(like, [step + 1 for step in self.index], self.draws)

    def brownian(self, snr_t: Tensor, snr_s: Tensor, like: Tensor) -> Tensor:
        """See ``NoiseSource.brownian``; the path depends on seed and stream alone, so no step has to be set.

        Raises:
            UsageError: a negative SNR or one that is not a number, or ``snr_s`` below ``snr_t``.
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
            key = np.array([seed, _KEY], dtype=np.uint64)  # a list would pass seeds from 2**63 on through float64
            bits = np.random.Philox(key=key, counter=[0, draw, step, stream])
            out[row] = np.random.Generator(bits).standard_normal(out.shape[1:], dtype=np.float32)
        return torch.from_numpy(out).to(device=like.device, dtype=like.dtype)
