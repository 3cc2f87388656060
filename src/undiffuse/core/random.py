"""Counter-based randomness of training: every draw is a function of (seed, stream, step, micro-batch, purpose).

No generator's state has to be saved: a run resumed at a step draws what the uninterrupted run drew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from any integers and words.

    CUDA's generator (Philox) uses all of it; the CPU's (Mersenne twister) is started from its low 32 bits alone, so two
    of n draws there share their numbers with probability about n^2 / 2^33. That does no harm to training, where the
    same noise meets other images.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class StepRandom:
    """The randomness of one micro-batch.

    Args:
        seed: of the run.
        step: number of the optimizer step.
        micro_batch: number within the step.
        stream: keeps training, validation and the like apart.
        device: where noise is drawn; the draws differ between kinds of devices.
    """

    def __init__(
        self, seed: int, step: int, micro_batch: int = 0, *, stream: str = "train", device: torch.device | str = "cpu"
    ) -> None:
        self.key = (seed, stream, step, micro_batch)
        self.device = torch.device(device)

    @property
    def step(self) -> int:
        """Number of the optimizer step."""
        return self.key[2]

    def branch(self, purpose: str, device: torch.device | str = "cpu") -> StepRandom:
        """Another source for the same micro-batch, which shares no number with this one.

        Args:
            purpose: keeps the branch apart from other branches.
            device: where the branch draws.
        """
        seed, stream, step, micro_batch = self.key
        return StepRandom(seed, step, micro_batch, stream=f"{stream} {purpose}", device=device)

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derived_seed(*self.key, purpose))

    def uniform(self, count: int, purpose: str) -> Tensor:
        """Uniform numbers in the open interval (0, 1).

        Args:
            count: N, how many.
            purpose: keeps the draw apart from others of the micro-batch.
        Returns:
            (N,) float64.
        """
        u = torch.rand(count, dtype=torch.float64, device=self.device, generator=self._generator(purpose))
        return u.clamp(min=2.0**-54)

    def normal(self, like: Tensor, purpose: str) -> Tensor:
        """Standard normal noise.

        Args:
            like: (B, ...) whose shape and dtype are taken.
            purpose: keeps the draw apart from others of the micro-batch.
        """
        generator = self._generator(purpose)
        return torch.randn(like.shape, dtype=like.dtype, device=self.device, generator=generator)

    @contextmanager
    def layers(self) -> Iterator[None]:
        """Seed torch's global generator, which dropout draws from, and restore it afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(derived_seed(*self.key, "layers"))
            yield
