"""Retrieval: how often the right entry of a gallery is among the k most similar ones (recall at k, R@k)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.caption_agreement import Share, wilson_interval

#: The k of recall at k.
DEPTHS = (1, 5, 10)


def ranks(similarity: Tensor, own: Tensor) -> Tensor:
    """Rank of the right entry of each query, 0 for the most similar; of entries equally similar it is the last, (N,).

    Args:
        similarity: (N, M) of queries and gallery entries.
        own: (N,) int64, the right entry of each query.
    Example:
        >>> import torch
        >>> ranks(torch.tensor([[0.9, 0.1], [0.7, 0.7]]), torch.tensor([0, 1])).tolist()
        [0, 1]
    """
    if similarity.ndim != 2 or len(similarity) != len(own) or not bool(similarity.isfinite().all()):
        raise UsageError(f"expected finite similarities (N, M) of {len(own)} queries, got {tuple(similarity.shape)}")
    right = similarity.gather(1, own[:, None])
    at_least: Tensor = (similarity >= right).sum(1) - 1
    return at_least


def recalls(found: Tensor, groups: Tensor | None = None) -> dict[int, Share]:
    """R@k for each of ``DEPTHS``, with 95 % intervals (Wilson).

    Args:
        found: (N,) ranks.
        groups: (N,) int64, queries of one group depend on each other, such as samples of one caption; the interval is
            that of as many independent trials as there are groups. None for independent queries.
    """
    count = len(found) if groups is None else len(set(groups.tolist()))
    means = {k: float((found < k).double().mean()) for k in DEPTHS}
    return {k: Share(mean, *wilson_interval(mean, count), count) for k, mean in means.items()}


def chance(gallery: int, depths: Sequence[int] = DEPTHS) -> dict[int, float]:
    """R@k of random ranks.

    Args:
        gallery: number of entries.
        depths: k.
    """
    return {k: min(k / gallery, 1.0) for k in depths}
