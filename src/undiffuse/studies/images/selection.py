"""Study ``selection``: the best k of n samples, by the distance to the nearest training image.

An image near a real image looks real, but the nearest are copies of the training set. So the selection is compared with
the same selection from as many held-out real images, and samples that are nearer to the training set are marked.

Distances are LPIPS (Zhang et al. 2018, arXiv:1801.03924) if its weights are available. LPIPS is only computed for the
training images that are among the nearest in pixels of any sample or held-out image.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from undiffuse.config import FrozenModel
from undiffuse.errors import UsageError
from undiffuse.metrics.neighbours import Neighbours
from undiffuse.observer import ProgressCallback
from undiffuse.studies.images.context import ImageStudyContext
from undiffuse.studies.images.reference_distances import (
    COPY,
    Real,
    Scale,
    Search,
    distances_to,
    draw,
    extractor_of,
    frame_legend,
    real_of,
    references_of,
)
from undiffuse.studies.plots import image_grid
from undiffuse.studies.plots.plot_style import BLUE, GREY, ORANGE, PURPLE, StudyFigure, grid_lines, save

_BINS = 36


class SelectionOptions(FrozenModel):
    """Options of the study.

    Args:
        num: number of samples.
        k: number of selected samples.
        distance: ``lpips``, ``features`` (Euclidean, with the extractor for the data) or ``pixels``.
        weights: file of LPIPS's weights; by default searched for by ``metrics.load_lpips``.
        references: training images searched, evenly spaced over the set; by default as many as fit into 256 MiB.
        candidates: for LPIPS: number of nearest training images in pixels of each image for which LPIPS is computed.
        real: held-out images for reference; training images, each compared with the others, if none were held out.
    """

    num: Annotated[int, Field(ge=1)] = 64
    k: Annotated[int, Field(ge=1, le=24)] = 6
    distance: Literal["lpips", "features", "pixels"] = "lpips"
    weights: str = ""
    references: Annotated[int, Field(ge=1)] | None = None
    candidates: Annotated[int, Field(ge=1)] = 8
    real: Annotated[int, Field(ge=2)] = 256


#: Distances (N,) between images at the same index.
Pairs = Callable[[Tensor, Tensor], Tensor]


def study_selection(
    context: ImageStudyContext, options: SelectionOptions, folder: Path, on_progress: ProgressCallback
) -> list[StudyFigure]:
    """Write ``selection.png``."""
    search, pairs, distance_name = measures(context, options)
    references, positions = references_of(context, options.references)
    real = real_of(context, options.real, references, "selection")
    total = 2 * options.num
    samples, _ = draw(context, options.num, lambda done: on_progress(done, total))
    indices = real.indices
    if options.distance == "lpips":
        pool = candidates(torch.cat([samples, real.images]), references, options.candidates)
        references, positions = references[pool], positions[pool]
        indices = None if indices is None else torch.searchsorted(pool, indices)
    found = search(samples, references, 1)
    others = real.nearest(search, real.images, references, indices)
    between = pairs(*batches(context, len(samples)))
    on_progress(total, total)
    scale = Scale.of(others.distances[:, 0])
    pick, like = best(found.distances[:, 0], options.k), best(others.distances[: options.num, 0], options.k)
    sets = {"samples": (samples, found, pick), real.label: (real.images, others, like)}
    _draw(folder / "selection.png", sets, references, scale, between, distance_name, context.seed)
    numbers = {
        "distance": distance_name,
        **scale.numbers(found.distances[:, 0]),
        "num_searched": len(references),
        "num_training": len(context.data[0]),
        "picked": scale.described(pick, found, positions, context.seed),
        "picked_mean": float(found.distances[pick, 0].mean()),
        "picked_of_as_many_real_mean": float(others.distances[like, 0].mean()),
        "scale": real.label,
        "between_batches_mean": float(between.mean()),
        "between_batches_std": float(between.std()) if len(between) > 1 else None,
    }
    return [_study_figure(numbers, options, real)]


def measures(context: ImageStudyContext, options: SelectionOptions) -> tuple[Search, Pairs, str]:
    """The neighbour search, the pairwise distance, and the name of the distance.

    Raises:
        UsageError: if LPIPS's weights are not found.
    """
    if options.distance == "pixels":
        return distances_to, lambda a, b: lengths(a, b) / 255, "L2 of pixels"
    if options.distance == "features":
        extractor = extractor_of(context)

        def search(queries: Tensor, references: Tensor, k: int) -> Neighbours:
            return distances_to(extractor.features(queries), extractor.features(references), k)

        def compare(a: Tensor, b: Tensor) -> Tensor:
            return lengths(extractor.features(a), extractor.features(b))

        return search, compare, f"L2 of {extractor.name} features"
    from undiffuse.metrics.perceptual import load_lpips

    try:
        lpips = load_lpips(options.weights or None)
    except UsageError as error:
        raise UsageError(f"{error}; or use distance=features or distance=pixels") from None
    return lpips.nearest, lpips.distance, "LPIPS"


def lengths(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (N,) in float64 between rows at the same index."""
    found: Tensor = (a.double() - b.double()).flatten(1).norm(dim=1)
    return found


def candidates(queries: Tensor, references: Tensor, k: int) -> Tensor:
    """Positions of the references that are among the ``k`` nearest in pixels of any query, ascending."""
    found: Tensor = torch.unique(distances_to(queries, references, min(k, len(references))).indices)
    return found


def best(distances: Tensor, k: int) -> list[int]:
    """Indices of the ``k`` smallest distances, ascending."""
    rows: list[int] = distances.argsort(stable=True)[:k].tolist()
    return rows


def batches(context: ImageStudyContext, num: int) -> tuple[Tensor, Tensor]:
    """Two disjoint batches of real training images, in a random order that depends on the seed."""
    count = min(num, len(context.data[0]) // 2)
    images = context.real(2 * count, "training")
    order = torch.randperm(2 * count, generator=torch.Generator().manual_seed(context.seed))
    return images[order[:count]], images[order[count:]]


def _draw(
    path: Path,
    sets: dict[str, tuple[Tensor, Neighbours, list[int]]],
    references: Tensor,
    scale: Scale,
    between: Tensor,
    distance_name: str,
    seed: int,
) -> None:
    tables = []
    for name, (images, found, pick) in sets.items():
        distances = found.distances[pick, 0]
        frames = scale.frames(distances) if name == "samples" else [""] * len(pick)
        count = len(images) if name == "samples" else min(len(images), len(sets["samples"][0]))
        labels = [f"{value:.2g}" for value in distances.tolist()]
        if name == "samples":
            labels = [f"seed {seed + row}\n{label}" for row, label in zip(pick, labels, strict=True)]
        tables.append(
            image_grid.Table(
                [images[pick].numpy(), references[found.indices[pick, 0]].numpy()],
                row_labels=(
                    name[:-1].replace(" ", "\n"),
                    f"nearest{' other' if name == 'training images' else ''}\ntraining image",
                ),
                column_labels=labels,
                title=f"The {len(pick)} nearest of {count} {name}, by {distance_name}",
                frames={(row, column): colour for column, colour in enumerate(frames) if colour for row in (0, 1)},
            )
        )
    figure, (axes,) = image_grid.draw(tables, 1)
    _histogram(
        axes, {name: found.distances[:, 0] for name, (_, found, _) in sets.items()}, scale, between, distance_name
    )
    save(figure, path)


def _histogram(axes: Any, nearest: dict[str, Tensor], scale: Scale, between: Tensor, distance_name: str) -> None:
    reach = (0.0, 1.02 * float(torch.cat([*nearest.values(), between]).max()) or 1.0)
    for (name, values), colour in zip(reversed(nearest.items()), (GREY, BLUE), strict=True):
        label = f"{name} to their nearest"
        axes.hist(values.numpy(), bins=_BINS, range=reach, density=True, color=colour, alpha=0.55, label=label)
    axes.hist(
        between.numpy(), bins=_BINS, range=reach, density=True, histtype="step", color=PURPLE, label="two real batches"
    )
    axes.axvline(scale.minimum, color=COPY, linewidth=1.3, label="nearest real image")
    axes.axvline(scale.first_percentile, color=ORANGE, linewidth=1.3, linestyle="--")
    axes.set(xlabel=distance_name, ylabel="density", yticks=[], xlim=reach)
    axes.legend(fontsize=7.5, frameon=False, loc="upper right")
    grid_lines(axes)


def _study_figure(numbers: dict[str, Any], options: SelectionOptions, real: Real) -> StudyFigure:
    marked = sum(row["likely_copy"] for row in numbers["picked"])
    among = ""
    if options.distance == "lpips":
        among = f", those among the {options.candidates} nearest in pixels of any image compared"
    return StudyFigure(
        "selection.png",
        f"The best {len(numbers['picked'])} of {numbers['num_samples']} samples",
        f"Selected by {numbers['distance']} to the nearest training image, shown below each. The same selection "
        f"from as many {real.label} shows this distance for images that are not copies of each other. "
        f"{frame_legend(real)} {marked} of the selected samples are likely copies. Mean of the selection "
        f"{numbers['picked_mean']:.3f}, of "
        f"the selection of real images {numbers['picked_of_as_many_real_mean']:.3f}; images of two real batches are "
        f"{numbers['between_batches_mean']:.3f} apart. The smallest distance favours copies: without the marks it is "
        "not a "
        f"measure of quality. Searched: {numbers['num_searched']:,} of {numbers['num_training']:,} training images"
        f"{among}.",
        "min over training images y of d(x, y)",
        "metrics.perceptual.Lpips.nearest; Zhang et al. 2018, arXiv:1801.03924",
        numbers,
    )
