"""What studies share that compare samples with real images: draws, features, references, and what is too near."""

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

#: Of the frames around likely copies: a red that differs clearly from the orange.
COPY = "#C00000"
CHUNK = 500  # images fetched at a time
DRAWN = 64  # samples made at a time
#: Training images are searched as far as they fit into this many bytes, by default.
MAX_BYTES = 2**28

#: Brings images uint8 (N, C, H, W) into the space (N, ...) in which distances are taken.
Space = Callable[[Tensor], Tensor]
#: The k nearest references of queries.
Search = Callable[[Tensor, Tensor, int], Neighbours]


def _report(on_progress: Callable[[float], None], start: int, first: int, progress: Progress) -> None:
    """A step of the samples from ``start`` on is made, which counts for a part of each."""
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
        on_progress: called with the samples made so far.
        sampler, steps: the model's own by default.
        class_name: one class for all; the model's classes in turn by default.
    Raises:
        UsageError, RunError: what the model cannot do, or what broke down.
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
    """The feature extractor called ``name``; ``auto`` is the one that fits the model's data."""
    return pick_features(name, context.shape, context.model.origin)


def centre_of(images: Tensor, share: float) -> Tensor:
    """The middle of images (N, C, H, W): ``share`` of each side, at least one pixel."""
    height, width = images.shape[-2:]
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - rows) // 2, (width - columns) // 2
    return images[..., top : top + rows, left : left + columns]


def references_of(context: ImageStudyContext, limit: int | None) -> tuple[Tensor, Tensor]:
    """Training images to search and their positions in the training set, evenly spread over it.

    Args:
        limit: how many at most; ``None`` for as many as fit into ``MAX_BYTES``.
    """
    train = context.data[0]
    most = limit or max(1, MAX_BYTES // torch.Size(context.shape).numel())
    rows = torch.as_tensor(evenly_spaced(len(train), min(most, len(train))), dtype=torch.int64)
    return fetch(train, rows), rows


def fetch(dataset: Dataset, rows: Tensor) -> Tensor:
    """Images uint8 (N, C, H, W) at these positions, chunk by chunk."""
    return torch.cat([dataset.fetch(part.numpy()).items for part in torch.split(rows, CHUNK)])


class Real(NamedTuple):
    """Real images that distances are compared with.

    Attributes:
        images: uint8 (M, C, H, W).
        own: the position of each among the references, (M,); ``None`` for held-out images, which are not there.
    """

    images: Tensor
    own: Tensor | None

    @property
    def words(self) -> str:
        """What they are called."""
        return "held-out images" if self.own is None else "training images"

    def nearest(self, search: Search, queries: Tensor, references: Tensor, own: Tensor | None = None) -> Neighbours:
        """Each one's nearest reference but itself.

        Args:
            search: the k nearest references of queries.
            queries, references: in the space of the search.
            own: as the attribute, where ``references`` are not all that it counts.
        """
        if self.own is None:
            return search(queries, references, 1)
        found, itself = search(queries, references, 2), self.own if own is None else own
        column = (found.indices[:, :1] == itself[:, None]).long()
        return Neighbours(found.distances.gather(1, column), found.indices.gather(1, column))


def real_of(context: ImageStudyContext, count: int, references: Tensor, study: str) -> Real:
    """Held-out images, evenly spread; where fewer than two were held out, the references themselves.

    Raises:
        UsageError: neither two held-out images nor three references.
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
    own = torch.as_tensor(evenly_spaced(len(references), min(count, len(references))), dtype=torch.int64)
    return Real(references[own], own)


def distances_to(queries: Tensor, references: Tensor, k: int = 1) -> Neighbours:
    """Nearest neighbours; distances between uint8 images are those of values in [0, 1]."""
    found = nearest_neighbours(queries, references, k)
    return found._replace(distances=found.distances / 255) if references.dtype == torch.uint8 else found


class Scale(NamedTuple):
    """How near real images come to other real ones: of their distances, the least, the 1 % quantile, the median."""

    minimum: float
    first_percentile: float
    median: float
    num: int

    @classmethod
    def of(cls, real: Tensor) -> Scale:
        """From the distances (M,) of real images to their nearest training image but themselves."""
        real = real.double()
        return cls(float(real.min()), float(real.quantile(0.01)), float(real.median()), len(real))

    def copies(self, distances: Tensor) -> Tensor:
        """(N,) bool: nearer than any real image, or no distance at all."""
        return (distances < self.minimum) | (distances == 0)

    def near(self, distances: Tensor) -> Tensor:
        """(N,) bool: nearer than 99 in 100 real images, copies included."""
        return self.copies(distances) | (distances < self.first_percentile)

    def frames(self, distances: Tensor) -> list[str]:
        """The colour of each sample's frame: red for a likely copy, orange for near, none else."""
        copies, near = self.copies(distances).tolist(), self.near(distances).tolist()
        return [COPY if copy else ORANGE if close else "" for copy, close in zip(copies, near, strict=True)]

    def described(self, rows: Sequence[int], found: Neighbours, positions: Tensor, seed: int) -> list[dict[str, Any]]:
        """For the JSON: of these samples the seed, the nearest training image, and whether it is too near."""
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
        """For the JSON: both sides' distances and how many samples are too near, and how many would be by chance."""
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


def reading(real: Real) -> str:
    """What the frames mean, for a caption."""
    whom = "every held-out image" if real.own is None else "every training image is to another one"
    return (
        f"A red frame marks a likely copy: nearer to a training image than {whom}; an orange one a sample nearer "
        "than 99 in 100 of them."
    )
