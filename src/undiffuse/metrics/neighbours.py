"""Nearest neighbours by Euclidean distance, as a measure of memorisation.

A model that memorises its training set generates images nearer to it than held-out real images are. So the distance of
each sample to its nearest training image is compared with the same distance of held-out real images.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undiffuse.errors import UsageError

SPARE = 8  # candidates beyond k in the approximate search, which are re-ranked by exact distances


class Neighbours(NamedTuple):
    """Distances (N, k) in float64, ascending, and indices (N, k) into the references."""

    distances: Tensor
    indices: Tensor


def nearest_neighbours(queries: Tensor, references: Tensor, k: int = 1, chunk: int = 2048) -> Neighbours:
    """The ``k`` nearest references of each query by L2 over all elements of a row.

    A matrix product finds the candidates; their distances are then computed from differences in float64, so a copy has
    distance exactly 0. Ties are in the order of the references.

    Args:
        queries: (N, ...) pixels of any type or features; N may be 0.
        references: (M, ...) rows of the same shape, M >= k.
        k: number of neighbours.
        chunk: rows of either side that are in memory as floats; memory is chunk * (chunk + 2 D) floats.
    Returns:
        Distances (N, k) in the units of the rows and indices (N, k).
    Raises:
        UsageError: rows of different shape, fewer than k references, NaN or infinite values.
    """
    _check_rows(queries, references, k, chunk)
    centre = _centre(references, chunk)
    parts = [_search(part, references, k, chunk, centre) for part in torch.split(queries, chunk) if len(part)]
    if not parts:
        return Neighbours(torch.zeros(0, k, dtype=torch.float64), torch.zeros(0, k, dtype=torch.int64))
    return Neighbours(torch.cat([p.distances for p in parts]), torch.cat([p.indices for p in parts]))


def _check_rows(queries: Tensor, references: Tensor, k: int, chunk: int) -> None:
    if queries.ndim < 2 or queries.shape[1:] != references.shape[1:]:
        raise UsageError(
            f"queries and references must have rows of one shape, got {tuple(queries.shape)} and "
            f"{tuple(references.shape)}; bring the images to one size and number of channels"
        )
    if k < 1 or chunk < 1:
        raise UsageError(f"k and chunk must be at least 1, got {k} and {chunk}")
    if len(references) < k:
        raise UsageError(f"{k} nearest neighbours need at least {k} reference images, got {len(references)}")
    for name, rows in (("queries", queries), ("references", references)):
        finite = all(bool(torch.isfinite(part).all()) for part in torch.split(rows, chunk))
        if not finite:
            raise UsageError(f"{name} hold NaN or infinite values; drop those images")


def _flatten(rows: Tensor, dtype: torch.dtype) -> Tensor:
    return rows.flatten(1).to(dtype)


def _centre(references: Tensor, chunk: int) -> Tensor:
    """The mean reference, subtracted to avoid cancellation in the matrix product."""
    total = torch.zeros(references[0].numel(), dtype=torch.float64)
    for part in torch.split(references, chunk):
        total += _flatten(part, torch.float64).sum(0)
    return (total / len(references)).float()


def _search(queries: Tensor, references: Tensor, k: int, chunk: int, centre: Tensor) -> Neighbours:
    """The neighbours of one chunk of queries, over all chunks of references."""
    centred = _flatten(queries, torch.float32) - centre
    keep = min(k + SPARE, len(references))
    scores = torch.full((len(queries), 0), 0.0)
    indices = torch.zeros(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(references), chunk):
        part = _flatten(references[start : start + chunk], torch.float32) - centre
        score = part.square().sum(1) - 2 * centred @ part.T  # the squared distance minus |query|^2
        best = score.topk(min(keep, len(part)), dim=1, largest=False)
        scores = torch.cat([scores, best.values], 1)
        indices = torch.cat([indices, best.indices + start], 1)
        kept = scores.topk(min(keep, scores.shape[1]), dim=1, largest=False).indices
        scores, indices = scores.gather(1, kept), indices.gather(1, kept)
    return _rerank(queries, references, indices, k)


def _rerank(queries: Tensor, references: Tensor, indices: Tensor, k: int) -> Neighbours:
    """Exact distances to the candidates ``indices`` (N, C), sorted; one candidate per query at a time for memory."""
    indices = indices.sort(1).values
    exact = torch.stack(
        [
            (_flatten(queries, torch.float64) - _flatten(references[column], torch.float64)).square().sum(1).sqrt()
            for column in indices.T
        ],
        dim=1,
    )
    order = exact.argsort(dim=1, stable=True)[:, :k]
    return Neighbours(exact.gather(1, order), indices.gather(1, order))


@dataclass(frozen=True)
class CopyingSummary:
    """Distances to the nearest training image: samples and held-out real images.

    Attributes:
        median_samples, median_held_out: medians of the two sets of distances.
        ratio: of the medians; 1 for a perfect model, near 0 for one that memorises its training set, None if most
            held-out images are also in the training set.
        first_percentile_held_out, minimum_held_out: of the distances of held-out images.
        share_below_first_percentile: fraction of samples below it; 0.01 for real images.
        share_below_minimum: fraction of samples that are nearer than every held-out image: likely copies.
        num_samples, num_held_out, num_training: number of images compared.
    """

    median_samples: float
    median_held_out: float
    ratio: float | None
    first_percentile_held_out: float
    minimum_held_out: float
    share_below_first_percentile: float
    share_below_minimum: float
    num_samples: int
    num_held_out: int
    num_training: int

    def to_dict(self) -> dict[str, Any]:
        """All values as plain numbers, with a description of the protocol."""
        note = "L2 to the nearest training image, over pixels or features as given, in their units"
        return {**asdict(self), "protocol": note}


def copying_summary(samples: Tensor, held_out: Tensor, training: Tensor, chunk: int = 2048) -> CopyingSummary:
    """Distances of samples to the training images compared with those of held-out real images.

    Args:
        samples, held_out, training: rows (N, ...) of one shape, uint8 pixels or features.
        chunk: as in ``nearest_neighbours``.
    Raises:
        UsageError: no samples or no held-out images, rows of different shape, NaN.
    """
    if len(samples) == 0 or len(held_out) == 0:
        raise UsageError(
            f"a copying summary needs at least 1 sample and 1 held-out image, got {len(samples)} and {len(held_out)}"
        )
    sampled = nearest_neighbours(samples, training, chunk=chunk).distances[:, 0]
    real = nearest_neighbours(held_out, training, chunk=chunk).distances[:, 0]
    return summarise_copying(sampled, real, len(training))


def summarise_copying(sampled: Tensor, real: Tensor, num_training: int) -> CopyingSummary:
    """The summary from given distances (N,) of samples and (M,) of held-out images."""
    median_samples, median_real = float(sampled.quantile(0.5)), float(real.quantile(0.5))
    percentile, minimum = float(real.quantile(0.01)), float(real.min())
    return CopyingSummary(
        median_samples=median_samples,
        median_held_out=median_real,
        ratio=median_samples / median_real if median_real > 0 else None,
        first_percentile_held_out=percentile,
        minimum_held_out=minimum,
        share_below_first_percentile=float((sampled < percentile).double().mean()),
        share_below_minimum=float((sampled < minimum).double().mean()),
        num_samples=len(sampled),
        num_held_out=len(real),
        num_training=num_training,
    )
