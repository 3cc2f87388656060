"""Linear and spherical interpolation between two images or two noise tensors.

Two independent draws of N(0, I) in D dimensions have norm sqrt(D) and are orthogonal, up to small deviations; under
linear interpolation the norm falls to sqrt(1/2) = 0.71 of that midway, which is atypical for N(0, I). Spherical
interpolation preserves it.

Source: Shoemake 1985, "Animating rotation with quaternion curves" (slerp); White 2016, arXiv:1609.04468.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from undiffuse.core.rows import per_row

#: Angles closer to 0 or pi than this do not define a plane of rotation.
_FLAT = 1e-6


def linear(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """(1 - w) a + w b; exactly ``a`` at 0 and ``b`` at 1."""
    return _ends(a, b, weight) if weight in (0, 1) else (1 - weight) * a + weight * b


def spherical(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """[sin((1 - w) o) a + sin(w o) b] / sin o, o the angle between the rows of ``a`` and ``b`` (B, ...).

    Exactly ``a`` at 0 and ``b`` at 1. Rows that are parallel, opposite or zero are mixed linearly.
    """
    if weight in (0, 1):
        return _ends(a, b, weight)
    angle = angles(a, b)
    flat = (angle.sin() < _FLAT) | ~angle.isfinite()
    sine = torch.where(flat, torch.ones_like(angle), angle.sin())
    of_a = torch.where(flat, torch.full_like(angle, 1 - weight), ((1 - weight) * angle).sin() / sine)
    of_b = torch.where(flat, torch.full_like(angle, weight), (weight * angle).sin() / sine)
    return per_row(of_a, a) * a + per_row(of_b, b) * b


def _ends(a: Tensor, b: Tensor, weight: float) -> Tensor:
    return b.clone() if weight else a.clone()


def angles(a: Tensor, b: Tensor) -> Tensor:
    """The angle between the rows of ``a`` and ``b`` (B, ...), ``(B,)`` float64; NaN for a row of zeros."""
    a, b = a.double().flatten(1), b.double().flatten(1)
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    # atan2 is accurate near 0 and pi, unlike the inverse cosine
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))


MIXES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"linear": linear, "spherical": spherical}


def mixed(a: Tensor, b: Tensor, weights: Sequence[float], mix: str) -> Tensor:
    """All mixes of the rows of ``a`` and ``b`` (B, ...), pair by pair: ``(B, len(weights), ...)``."""
    return torch.stack([MIXES[mix](a, b, weight) for weight in weights], dim=1)


def evenly(count: int) -> list[float]:
    """``count`` evenly spaced weights from 0 to 1, both ends exact."""
    return [number / (count - 1) for number in range(count)]
