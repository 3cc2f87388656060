"""Per-sample arithmetic: one coefficient per sample of a batch, broadcast over a tensor of any shape."""

from __future__ import annotations

import torch
from torch import Tensor


def per_row(coefficient: Tensor, like: Tensor) -> Tensor:
    """View per-sample coefficients as (B, 1, ..., 1) in the dtype and on the device of ``like``.

    Coefficients are computed in float64 and cast here.

    Args:
        coefficient: (B,).
        like: (B, ...) tensor that is multiplied by the coefficients.
    """
    shaped = coefficient.reshape(-1, *([1] * (like.ndim - 1)))
    return shaped.to(device=like.device, dtype=like.dtype)


def where_rows(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Per-sample ``torch.where``.

    Args:
        rows: (B,) bool mask.
        yes: (B, ...) values where the mask is true.
        no: (B, ...) values where it is false.
    """
    return torch.where(rows.reshape(-1, *([1] * (yes.ndim - 1))).to(yes.device), yes, no)


def mean_over_features(x: Tensor) -> Tensor:
    """Mean over all axes but the first, (B,).

    Args:
        x: (B, ...).
    """
    return x.flatten(1).mean(dim=1)


def sum_over_features(x: Tensor) -> Tensor:
    """Sum over all axes but the first, (B,).

    Args:
        x: (B, ...).
    """
    return x.flatten(1).sum(dim=1)
