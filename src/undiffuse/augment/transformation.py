"""What a transformation is made of: the numbers it draws, the matrix they make, and what conditions a network.

Every number is a function of uniform draws that are given from outside, so that it depends on what those depend on and
on nothing else. An image's numbers are one row (B, 1 + n): first 1 where it gets the transformation and 0 where not,
then n numbers, which are zero where it does not. All zeros is always the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Kind = Literal["uniform", "normal"]

#: From a number in (0, 1) to one of the kind: uniform in [-1, 1], or normal with unit variance.
KINDS: Mapping[Kind, Callable[[Tensor], Tensor]] = {"uniform": lambda u: 2 * u - 1, "normal": torch.special.ndtri}


class Uniforms(Protocol):
    """Where random numbers come from; ``core.random.StepRandom`` is one."""

    def uniform(self, count: int, purpose: str) -> Tensor:
        """``(count,)`` float64 in (0, 1), the same whenever asked for the same purpose."""


class Transformation(NamedTuple):
    """One transformation.

    Args:
        draws: the kinds of its numbers.
        matrix: numbers (B, 1 + n), strength and (height, width) to (B, 3, 3) in the plane or (B, 4, 4) in colour;
            ``None`` for what is no linear map.
        label: numbers and strength to what conditions a network, (B, L), zero for the identity.
        num_labels: L.
        strength: the option that holds its strength, or "".
    """

    draws: tuple[Kind, ...]
    matrix: Callable[[Tensor, float, tuple[int, int]], Tensor] | None
    label: Callable[[Tensor, float], Tensor]
    num_labels: int
    strength: str


def draw_numbers(name: str, part: Transformation, probability: float, rng: Uniforms, count: int) -> Tensor:
    """The numbers of ``count`` images, (count, 1 + n) float64."""
    coin = (rng.uniform(count, name) < probability).double()
    numbers = [KINDS[kind](rng.uniform(count, f"{name} {index}")) for index, kind in enumerate(part.draws)]
    return coin[:, None] * torch.stack([torch.ones_like(coin), *numbers], dim=1)


def one_number(numbers: Tensor, strength: float) -> Tensor:
    """The label of what draws one number: that number."""
    return numbers[:, 1:2]


def all_numbers(numbers: Tensor, strength: float) -> Tensor:
    """The label of what draws several numbers: all of them."""
    return numbers[:, 1:]


def rotation_label(numbers: Tensor, strength: float) -> Tensor:
    """The label of a rotation by ``strength`` degrees a: (cos - 1, sin), which joins where the circle does."""
    angle = torch.deg2rad(strength * numbers[:, 1])
    return torch.stack([angle.cos() - 1, angle.sin()], dim=1)


def matrices(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """(B, k, k) from entries that are (B,) or numbers."""
    table = [[entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for entry in row] for row in rows]
    return torch.stack([torch.stack(row, dim=1) for row in table], dim=1)
