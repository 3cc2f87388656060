"""Statistics and nearest neighbours of image sets in constant memory; statistics are cached by content."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import CHUNK
from undiffuse.evaluation.cache import Cache
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.neighbours import Neighbours, nearest_neighbours
from undiffuse.metrics.summary import ImageSetStatistics
from undiffuse.observer import SILENT, Observer

_SEARCH_BYTES = 64 * 2**20  # of the reference images in memory at a time
_SEARCH_ROWS = 16_384

Rows = npt.NDArray[np.int64]


def summary_key(dataset: Dataset, count: int, extractor: FeatureExtractor) -> dict[str, Any]:
    """Cache key of the statistics of ``count`` evenly spaced images."""
    return {
        "summary_of": dataset.fingerprint,
        "rows": f"{min(count, len(dataset))} of {len(dataset)}, evenly spaced",
        "features": extractor.protocol(),
    }


def compute_statistics(
    dataset: Dataset, count: int, extractor: FeatureExtractor, cache: Cache, observer: Observer = SILENT
) -> ImageSetStatistics:
    """Statistics of ``count`` evenly spaced images of a set, from the cache if possible."""
    key = summary_key(dataset, count, extractor)

    def compute() -> dict[str, Tensor]:
        return _summarise(dataset, evenly_spaced(len(dataset), count), extractor, observer).tensors()

    try:
        return ImageSetStatistics.from_tensors(extractor, cache.tensors(key, compute))
    except (KeyError, ValueError, RuntimeError, UsageError):
        cache.invalidate(key)  # incompatible entry
        return ImageSetStatistics.from_tensors(extractor, cache.tensors(key, compute))


def _summarise(dataset: Dataset, rows: Rows, extractor: FeatureExtractor, observer: Observer) -> ImageSetStatistics:
    """Compute statistics; images are indexed by their position in ``rows``, for jackknife groups of equal sizes."""
    summary = ImageSetStatistics(extractor)
    for start in range(0, len(rows), CHUNK):
        items = dataset.fetch(rows[start : start + CHUNK]).items
        summary.update(items, torch.arange(start, start + len(items)))
        observer.progress(start + len(items), len(rows))
    return summary


def nearest_in(
    queries: Tensor, dataset: Dataset, rows: Rows, embed: Callable[[Tensor], Tensor], k: int = 1
) -> Neighbours:
    """The ``k`` nearest images of a set, read in chunks so that memory does not grow with the set.

    Args:
        queries: (N, ...) embeddings.
        dataset: images.
        rows: indices of the images to search, at least ``k``.
        embed: maps uint8 images (B, C, H, W) to embeddings.
        k: number of neighbours.
    Returns:
        Distances (N, k), ascending, and indices (N, k) into the set.
    """
    size = max(k, min(_SEARCH_ROWS, _SEARCH_BYTES // max(1, math.prod(dataset.shape))))
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(parts) > 1 and len(parts[-1]) < k:
        parts[-2:] = [np.concatenate(parts[-2:])]
    chunk = max(16, min(2048, _SEARCH_BYTES // (4 * max(1, math.prod(queries.shape[1:])))))  # as floats, some MiB
    found: Neighbours | None = None
    for part in parts:
        near = nearest_neighbours(queries, embed(dataset.fetch(part).items), k, chunk)
        found = _merge_nearest(found, Neighbours(near.distances, torch.from_numpy(part)[near.indices]), k)
    assert found is not None
    return found


def _merge_nearest(a: Neighbours | None, b: Neighbours, k: int) -> Neighbours:
    """The ``k`` nearest of both; ``a`` comes first at equal distances."""
    if a is None:
        return b
    distances, indices = torch.cat([a.distances, b.distances], 1), torch.cat([a.indices, b.indices], 1)
    order = distances.argsort(dim=1, stable=True)[:, :k]
    return Neighbours(distances.gather(1, order), indices.gather(1, order))


def rebatch(batches: Iterable[Tensor], size: int = CHUNK) -> Iterator[Tensor]:
    """The same rows in batches of ``size``, so that sums over them round the same for all input batch sizes."""
    pending: list[Tensor] = []
    for batch in batches:
        pending.append(batch)
        if sum(map(len, pending)) >= size:
            parts = torch.split(torch.cat(pending), size)
            pending = [part for part in parts if len(part) < size]  # the last, if any
            yield from parts[: len(parts) - len(pending)]
    if pending:
        yield torch.cat(pending)
