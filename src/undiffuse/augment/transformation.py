"""The parts of a transformation: its random numbers, its matrix, and its conditioning label.

The random numbers are deterministic functions of uniform draws passed by the caller. The numbers of a batch are
(B, 1 + n): first 1 if the transformation is applied to the image and 0 otherwise, then n numbers, which are zero if it
is not applied. All zeros is always the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Kind = Literal["uniform", "normal"]

#: Maps a number in (0, 1) to a sample of each kind: uniform in [-1, 1], or normal with unit variance.
KINDS: Mapping[Kind, Callable[[Tensor], Tensor]] = {"uniform": lambda u: 2 * u - 1, "normal": torch.special.ndtri}


class Uniforms(Protocol):
    """A source of random numbers, such as ``core.random.StepRandom``."""

    def uniform(self, count: int, purpose: str) -> Tensor:
        """``(count,)`` float64 in (0, 1), always the same for the same purpose."""


class Transformation(NamedTuple):
    """One transformation.

    Args:
        draws: the kinds of its random numbers.
        matrix: maps numbers (B, 1 + n), strength and (height, width) to (B, 3, 3) geometric or (B, 4, 4) colour
            matrices; ``None`` if it is not a linear map.
        label: maps numbers and strength to the conditioning label (B, L), zero for the identity.
        num_labels: L.
        strength: name of its strength option, or "".
    """

    draws: tuple[Kind, ...]
    matrix: Callable[[Tensor, float, tuple[int, int]], Tensor] | None
    label: Callable[[Tensor, float], Tensor]
    num_labels: int
    strength: str


def draw_numbers(name: str, part: Transformation, probability: float, rng: Uniforms, count: int) -> Tensor:
    """Draw the numbers of ``count`` images, (count, 1 + n) float64."""
    coin = (rng.uniform(count, name) < probability).double()
    numbers = [KINDS[kind](rng.uniform(count, f"{name} {index}")) for index, kind in enumerate(part.draws)]
    return coin[:, None] * torch.stack([torch.ones_like(coin), *numbers], dim=1)


def one_number(numbers: Tensor, strength: float) -> Tensor:
    """The label of a transformation with one random number: that number."""
    return numbers[:, 1:2]


def all_numbers(numbers: Tensor, strength: float) -> Tensor:
    """The label of a transformation with several random numbers: all of them."""
    return numbers[:, 1:]


def rotation_label(numbers: Tensor, strength: float) -> Tensor:
    """The label of a rotation by ``strength`` degrees a: (cos - 1, sin), which is continuous around the circle."""
    angle = torch.deg2rad(strength * numbers[:, 1])
    return torch.stack([angle.cos() - 1, angle.sin()], dim=1)


def matrices(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """(B, k, k) from entries that are tensors (B,) or floats."""
    table = [[entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for entry in row] for row in rows]
    return torch.stack([torch.stack(row, dim=1) for row in table], dim=1)
