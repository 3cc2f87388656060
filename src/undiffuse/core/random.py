"""Counter-based randomness of training: every draw is a function of (seed, stream, step, micro-batch, purpose).

No generator state has to be saved: a resumed run draws the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derived_seed(*parts: int | str) -> int:
    """Hash integers and strings to a 63-bit seed.

    CUDA's generator (Philox) uses all bits; the CPU's (Mersenne twister) is seeded with the low 32 bits only, so two of
    n draws there collide with probability about n^2 / 2^33. This is harmless in training, where the same noise is
    applied to different images.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class StepRandom:
    """The randomness of one micro-batch.

    Args:
        seed: seed of the run.
        step: index of the optimizer step.
        micro_batch: index within the step.
        stream: separates training, validation and other uses.
        device: device of the generator; draws differ between device types.
    """

    def __init__(
        self, seed: int, step: int, micro_batch: int = 0, *, stream: str = "train", device: torch.device | str = "cpu"
    ) -> None:
        self.key = (seed, stream, step, micro_batch)
        self.device = torch.device(device)

    @property
    def step(self) -> int:
        """Index of the optimizer step."""
        return self.key[2]

    def branch(self, purpose: str, device: torch.device | str = "cpu") -> StepRandom:
        """An independent source for the same micro-batch.

        Args:
            purpose: name of the branch, distinct from other branches.
            device: device of the branch's generator.
        """
        seed, stream, step, micro_batch = self.key
        return StepRandom(seed, step, micro_batch, stream=f"{stream} {purpose}", device=device)

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derived_seed(*self.key, purpose))

    def uniform(self, count: int, purpose: str) -> Tensor:
        """Uniform numbers in the open interval (0, 1).

        Args:
            count: N, the number of draws.
            purpose: name of the draw, distinct from other draws of the micro-batch.
        Returns:
            (N,) float64.
        """
        u = torch.rand(count, dtype=torch.float64, device=self.device, generator=self._generator(purpose))
        return u.clamp(min=2.0**-54)

    def normal(self, like: Tensor, purpose: str) -> Tensor:
        """Standard normal noise.

        Args:
            like: (B, ...) tensor that gives shape and dtype.
            purpose: name of the draw, distinct from other draws of the micro-batch.
        """
        generator = self._generator(purpose)
        return torch.randn(like.shape, dtype=like.dtype, device=self.device, generator=generator)

    @contextmanager
    def layers(self) -> Iterator[None]:
        """Seed torch's global generator, which dropout uses, and restore it afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(derived_seed(*self.key, "layers"))
            yield
