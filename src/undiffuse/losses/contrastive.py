"""Contrastive losses of image and text embeddings: N pairs of a batch, each text being a negative of the other images.

    z_ij = scale <f(x_i), g(c_j)> + bias,   embeddings of norm 1

Pairs (i, j) with i != j whose captions are equal are neither positives nor negatives.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

#: (logits (B, B) of images and texts, mask (B, B) of equal captions) -> losses (B,).
ContrastiveLoss = Callable[[Tensor, Tensor], Tensor]


def infonce(logits: Tensor, same: Tensor) -> Tensor:
    """Cross-entropy of the own text among all texts and of the own image among all images, their mean per pair, (B,).

        l_i = -(log softmax_j(z_ij)_i + log softmax_j(z_ji)_i) / 2

    Args:
        logits: (B, B), row i for image i, column j for text j.
        same: (B, B) bool, whether texts i and j are equal.
    Source: van den Oord et al. 2018, arXiv:1807.03748, eq. 4; symmetric: Radford et al. 2021, "CLIP", arXiv:2103.00020,
        fig. 3.
    """
    masked = without_duplicates(logits, same)
    own = torch.arange(len(logits), device=logits.device)
    images = F.cross_entropy(masked, own, reduction="none")
    texts = F.cross_entropy(masked.T, own, reduction="none")
    return (images + texts) / 2


def sigmoid(logits: Tensor, same: Tensor) -> Tensor:
    """Sum over texts of the binary cross-entropy of each pair, (B,).

        l_i = -sum_j log sigmoid(y_ij z_ij),   y_ii = 1, y_ij = -1

    Args:
        logits: (B, B), row i for image i, column j for text j.
        same: (B, B) bool, whether texts i and j are equal.
    Source: Zhai et al. 2023, "Sigmoid loss for language image pre-training", arXiv:2303.15343, eq. 2.
    """
    sign = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    losses = -F.logsigmoid(sign * without_duplicates(logits, same))  # 0 for a logit of -inf that should be negative
    return losses.sum(1)


CONTRASTIVE_LOSSES: dict[str, ContrastiveLoss] = {
    "infonce": infonce,
    "sigmoid": sigmoid,
}


def without_duplicates(logits: Tensor, same: Tensor) -> Tensor:
    """The logits with -inf for pairs of an image and the equal text of another image.

    Args:
        logits: (B, B).
        same: (B, B) bool.
    """
    other = ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(same & other, float("-inf"))
