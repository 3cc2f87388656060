"""Shared code of studies that compare samples with real images: sampling, features, references, distance scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import pick_features
from undiffuse.metrics.neighbours import Neighbours, nearest_neighbours
from undiffuse.models.classes import Classes
from undiffuse.models.request import SampleRequest
from undiffuse.samplers.base import Progress
from undiffuse.studies.images.context import ImageStudyContext
from undiffuse.studies.plots.plot_style import ORANGE

#: Colour of the frames around likely copies: a red that is distinct from the orange.
COPY = "#C00000"
CHUNK = 500  # images fetched at a time
DRAWN = 64  # samples generated at a time
#: Default limit in bytes of the training images that are searched.
MAX_BYTES = 2**28

#: Maps uint8 images (N, C, H, W) to the space (N, ...) in which distances are computed.
Space = Callable[[Tensor], Tensor]
#: Finds the k nearest references of queries.
Search = Callable[[Tensor, Tensor, int], Neighbours]


def _report(on_progress: Callable[[float], None], start: int, first: int, progress: Progress) -> None:
    """Report a step of the samples from ``start`` on as a fraction of each sample."""
    on_progress(start + len(progress.x) * (progress.index + 1) / progress.count)


def draw(
    context: ImageStudyContext,
    num: int,
    on_progress: Callable[[float], None] | None = None,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    class_name: Classes = None,
) -> tuple[Tensor, int]:
    """``num`` samples, uint8 (N, C, H, W), and the NFE.

    Args:
        on_progress: called with the number of samples generated so far.
        sampler, steps: the model's by default.
        class_name: one class for all; by default cycling through the model's classes.
    Raises:
        UsageError, RunError: if the model does not support the options, or sampling fails.
    """
    seeds, cond = context.seeds(num), context.condition(num, class_name)
    parts, nfe = [], 0
    for start in range(0, num, DRAWN):
        rows = slice(start, start + DRAWN)
        part = cond.select(rows) if cond is not None else None
        report = None if on_progress is None else partial(_report, on_progress, start)
        request = SampleRequest.of(
            seeds[rows], sampler=sampler, steps=steps, cond=part, batch_size=DRAWN, callback=report
        )
        sampled = context.model.module.sample(request)
        parts.append(context.model.finish(sampled.x))
        nfe = sampled.nfe
        if on_progress is not None:
            on_progress(min(start + DRAWN, num))
    return torch.cat(parts), nfe


def extractor_of(context: ImageStudyContext, name: str = "auto") -> FeatureExtractor:
    """The feature extractor ``name``; ``auto`` selects one by the model's data."""
    return pick_features(name, context.shape, context.model.origin)


def centre_of(images: Tensor, share: float) -> Tensor:
    """A central crop of images (N, C, H, W): a fraction ``share`` of each side, at least one pixel."""
    height, width = images.shape[-2:]
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - rows) // 2, (width - columns) // 2
    return images[..., top : top + rows, left : left + columns]


def references_of(context: ImageStudyContext, limit: int | None) -> tuple[Tensor, Tensor]:
    """Training images to search and their positions in the training set, evenly spaced.

    Args:
        limit: maximum number; ``None`` for as many as fit into ``MAX_BYTES``.
    """
    train = context.data[0]
    most = limit or max(1, MAX_BYTES // torch.Size(context.shape).numel())
    rows = torch.as_tensor(evenly_spaced(len(train), min(most, len(train))), dtype=torch.int64)
    return fetch(train, rows), rows


def fetch(dataset: Dataset, rows: Tensor) -> Tensor:
    """Fetch the uint8 images (N, C, H, W) at these positions, chunk by chunk."""
    return torch.cat([dataset.fetch(part.numpy()).items for part in torch.split(rows, CHUNK)])


class Real(NamedTuple):
    """Real images that provide reference distances.

    Attributes:
        images: uint8 (M, C, H, W).
        indices: position of each among the references, (M,); ``None`` for held-out images, which are not among them.
    """

    images: Tensor
    indices: Tensor | None

    @property
    def label(self) -> str:
        """Name of the set, for captions."""
        return "held-out images" if self.indices is None else "training images"

    def nearest(self, search: Search, queries: Tensor, references: Tensor, indices: Tensor | None = None) -> Neighbours:
        """The nearest reference of each image, other than the image itself.

        Args:
            search: finds the k nearest references of queries.
            queries, references: in the space of the search.
            indices: replaces the attribute if ``references`` is a subset of the references.
        """
        if self.indices is None:
            return search(queries, references, 1)
        found, itself = search(queries, references, 2), self.indices if indices is None else indices
        column = (found.indices[:, :1] == itself[:, None]).long()
        return Neighbours(found.distances.gather(1, column), found.indices.gather(1, column))


def real_of(context: ImageStudyContext, count: int, references: Tensor, study: str) -> Real:
    """Held-out images, evenly spaced; if fewer than two were held out, images among the references.

    Raises:
        UsageError: if there are neither two held-out images nor three references.
    """
    held_out = context.data[1]
    if len(held_out) >= 2:
        rows = evenly_spaced(len(held_out), min(count, len(held_out)))
        return Real(fetch(held_out, torch.as_tensor(rows)), None)
    if len(references) < 3:
        raise UsageError(
            f"the study {study!r} needs real images as a reference: 2 held out, or 3 training images; got "
            f"{len(held_out)} and {len(references)}; train with a data.validation_fraction"
        )
    indices = torch.as_tensor(evenly_spaced(len(references), min(count, len(references))), dtype=torch.int64)
    return Real(references[indices], indices)


def distances_to(queries: Tensor, references: Tensor, k: int = 1) -> Neighbours:
    """Nearest neighbours; distances between uint8 images are those of values in [0, 1]."""
    found = nearest_neighbours(queries, references, k)
    return found._replace(distances=found.distances / 255) if references.dtype == torch.uint8 else found


class Scale(NamedTuple):
    """Distances between real images: their minimum, 1 % quantile and median."""

    minimum: float
    first_percentile: float
    median: float
    num: int

    @classmethod
    def of(cls, real: Tensor) -> Scale:
        """Compute from the distances (M,) of real images to their nearest other training image."""
        real = real.double()
        return cls(float(real.min()), float(real.quantile(0.01)), float(real.median()), len(real))

    def copies(self, distances: Tensor) -> Tensor:
        """(N,) bool: nearer than any real image, or at distance 0."""
        return (distances < self.minimum) | (distances == 0)

    def near(self, distances: Tensor) -> Tensor:
        """(N,) bool: nearer than 99 in 100 real images, copies included."""
        return self.copies(distances) | (distances < self.first_percentile)

    def frames(self, distances: Tensor) -> list[str]:
        """The frame colour of each sample: red for a likely copy, orange for near, otherwise none."""
        copies, near = self.copies(distances).tolist(), self.near(distances).tolist()
        return [COPY if copy else ORANGE if close else "" for copy, close in zip(copies, near, strict=True)]

    def described(self, rows: Sequence[int], found: Neighbours, positions: Tensor, seed: int) -> list[dict[str, Any]]:
        """JSON record of these samples: seed, nearest training image, and whether it is too near."""
        distances = found.distances[:, 0]
        copies, near = self.copies(distances), self.near(distances)
        return [
            {
                "seed": seed + row,
                "distance": float(distances[row]),
                "training_item": int(positions[found.indices[row, 0]]),
                "likely_copy": bool(copies[row]),
                "near": bool(near[row]),
            }
            for row in rows
        ]

    def numbers(self, distances: Tensor) -> dict[str, float | int]:
        """JSON record: distances of samples and real images, the number of near samples, and that expected by "
        "chance."""
        return {
            "median_samples": float(distances.double().median()),
            "median_real": self.median,
            "ratio": float(distances.double().median()) / self.median if self.median > 0 else float("nan"),
            "minimum_samples": float(distances.min()),
            "minimum_real": self.minimum,
            "first_percentile_real": self.first_percentile,
            "likely_copies": int(self.copies(distances).sum()),
            "likely_copies_by_chance": len(distances) / (self.num + 1),
            "near": int(self.near(distances).sum()),
            "near_by_chance": len(distances) * 0.01,
            "num_samples": len(distances),
            "num_real": self.num,
        }


def frame_legend(real: Real) -> str:
    """Explanation of the frame colours, for a caption."""
    reference = "every held-out image" if real.indices is None else "every training image is to another one"
    return (
        f"A red frame marks a likely copy: nearer to a training image than {reference}; an orange frame a sample "
        "nearer "
        "than 99 in 100 of them."
    )
