"""DiffAugment: the same kinds of differentiable transformations on real and on generated images.

Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training", arXiv:2006.10738, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from undiffuse.augment.transformation import Uniforms
from undiffuse.errors import UsageError
from undiffuse.registry import lookup


def _across(u: Tensor) -> Tensor:
    return u[:, None, None, None]


def random_colour(x: Tensor, u: Tensor) -> Tensor:
    """Add U(-1/2, 1/2); scale by U(0, 2) about each pixel's mean; scale by U(1/2, 3/2) about the image's mean."""
    x = x + _across(u[:, 0] - 0.5)
    pixel = x.mean(dim=1, keepdim=True)
    x = torch.lerp(pixel, x, _across(2 * u[:, 1]))
    image = x.mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(image, x, _across(u[:, 2] + 0.5))


def random_translation(x: Tensor, u: Tensor, share: float = 1 / 8) -> Tensor:
    """Translate by whole pixels, up to ``share`` of each side in either direction, with zero padding."""
    for axis, number in ((2, u[:, 0]), (3, u[:, 1])):
        side = x.shape[axis]
        limit = int(side * share + 0.5)
        by = (number * (2 * limit + 1)).floor().long().clamp(max=2 * limit) - limit  # (B,)
        source = torch.arange(side, device=x.device) - by[:, None]  # (B, side)
        shape = (len(x), 1, side, 1) if axis == 2 else (len(x), 1, 1, side)
        index = source.clamp(0, side - 1).reshape(shape).expand_as(x)
        inside = ((source >= 0) & (source < side)).reshape(shape)
        x = x.gather(axis, index) * inside
    return x


def random_cutout(x: Tensor, u: Tensor, share: float = 1 / 2) -> Tensor:
    """Set a rectangle of ``share`` of each side to zero, its centre uniform over the pixels."""
    inside = torch.ones((), dtype=torch.bool, device=x.device)
    for axis, number in ((2, u[:, 0]), (3, u[:, 1])):
        side = x.shape[axis]
        length = int(side * share + 0.5)
        start = (number * (side + 1 - length % 2)).floor().long() - length // 2
        place = torch.arange(side, device=x.device) - start[:, None]
        near = (place >= 0) & (place < length)
        inside = inside & (near[:, None, :, None] if axis == 2 else near[:, None, None, :])
    return x.masked_fill(inside, 0.0)


class Step(NamedTuple):
    """A transformation and the number of uniform random numbers it uses per image."""

    apply: Callable[[Tensor, Tensor], Tensor]
    num_uniforms: int


STEPS: dict[str, Step] = {
    "colour": Step(random_colour, 3),
    "translation": Step(random_translation, 2),
    "cutout": Step(random_cutout, 2),
}


class DiffAugment:
    """The steps of a policy, in sequence; all are applied to every image, with different random numbers.

    Args:
        policy: names out of ``colour``, ``translation``, ``cutout``, in the order in which they are applied.
    Raises:
        UsageError: an unknown name.
    Example:
        >>> augment = DiffAugment(("translation",))
        >>> augment(torch.ones(1, 1, 8, 8), torch.tensor([[0.99, 0.5]])).sum()  # one row of eight leaves the image
        tensor(56.)
    """

    def __init__(self, policy: Sequence[str] = ("colour", "translation", "cutout")) -> None:
        self.policy = tuple(policy)
        self._steps: list[Step] = [lookup(STEPS, name, "step of DiffAugment") for name in self.policy]

    @property
    def num_uniforms(self) -> int:
        """Random numbers used per image."""
        return sum(step.num_uniforms for step in self._steps)

    def draw(self, rng: Uniforms, count: int, what: str) -> Tensor:
        """(count, num_uniforms) in (0, 1); ``what`` selects separate streams for real and generated images."""
        columns = [rng.uniform(count, f"DiffAugment {what} {number}") for number in range(self.num_uniforms)]
        return torch.stack(columns, dim=1) if columns else torch.empty(count, 0)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Transform the images; twice differentiable in ``x``.

        Args:
            x: (B, C, H, W) float.
            u: (B, num_uniforms) in (0, 1).
        Raises:
            UsageError: ``u`` has another shape.
        """
        if u.shape != (len(x), self.num_uniforms):
            raise UsageError(
                f"expected random numbers of shape {(len(x), self.num_uniforms)} for the policy "
                f"{','.join(self.policy)}, got {tuple(u.shape)}; take them from draw"
            )
        numbers = torch.split(u.to(x), [step.num_uniforms for step in self._steps], dim=1)
        for step, columns in zip(self._steps, numbers, strict=True):
            x = step.apply(x, columns)
        return x
