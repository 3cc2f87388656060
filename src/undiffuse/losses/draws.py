"""How a micro-batch's uniform numbers are drawn: maps from independent u (B,) in (0, 1) to (B,) numbers in (0, 1).

Each number is marginally uniform in every entry of the table; the entries differ in the joint distribution of a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: The largest float64 below 1, and the positive number that replaces 0.
_BELOW_1, _ABOVE_0 = 1 - 2.0**-53, 2.0**-54


def independent(u: Tensor) -> Tensor:
    """Independent numbers, as they are.

    Args:
        u: (B,) independent, in (0, 1).
    """
    return u


def stratified(u: Tensor) -> Tensor:
    """One number in each of B equal strata of (0, 1): (i + u_i) / B.

    Args:
        u: (B,) independent, in (0, 1).
    """
    return ((torch.arange(len(u), device=u.device) + u) / max(len(u), 1)).clamp(max=_BELOW_1)


def low_discrepancy(u: Tensor) -> Tensor:
    """B equally spaced numbers with one random offset: (u_0 + i / B) mod 1.

    Args:
        u: (B,) independent, in (0, 1).
    Source: Kingma et al. 2021, "Variational Diffusion Models", arXiv:2107.00630, appendix I.1.
    """
    steps = torch.arange(len(u), dtype=u.dtype, device=u.device) / max(len(u), 1)
    return ((u[:1] + steps) % 1).clamp(_ABOVE_0, _BELOW_1)


UNIFORM_DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "independent": independent,
    "stratified": stratified,
    "low_discrepancy": low_discrepancy,
}
