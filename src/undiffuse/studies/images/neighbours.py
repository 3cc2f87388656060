"""Study ``neighbours``: samples with their nearest training images, in pixels, in features, and on a crop.

A generator that memorises its training set generates samples that are nearer to it than unseen real images. So every
distance is compared with those of held-out images to the same training images. Pixels detect exact copies, features
detect shifted or shaded copies, and a central crop compares the object without its surroundings.

Source: Ho et al. 2020, arXiv:2006.11239, figs. 12-16 (pixels, features, and the crop for large images).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.config import FrozenModel
from undiffuse.metrics.neighbours import Neighbours
from undiffuse.observer import ProgressCallback
from undiffuse.studies.images.context import ImageArray, ImageStudyContext
from undiffuse.studies.images.reference_distances import (
    COPY,
    Real,
    Scale,
    Space,
    centre_of,
    distances_to,
    draw,
    extractor_of,
    frame_legend,
    real_of,
    references_of,
)
from undiffuse.studies.plots import image_grid
from undiffuse.studies.plots.plot_style import BLUE, GREY, ORANGE, StudyFigure, grid_lines, save
from undiffuse.wording import count_noun

_BINS = 40


class NeighboursOptions(FrozenModel):
    """Options of the study.

    Args:
        num: number of samples.
        shown: rows of each table: the samples with the smallest distances, and the first seeds.
        k: neighbours shown for each sample.
        crop: fraction of each side, centred, that is compared in the third space.
        features: a key of ``metrics.FEATURES``; ``auto`` selects by the data.
        references: training images searched, evenly spaced over the set; by default as many as fit into 256 MiB.
        real: held-out images for reference; training images, each compared with the others, if none were held out.
    """

    num: Annotated[int, Field(ge=1)] = 200
    shown: Annotated[int, Field(ge=1, le=20)] = 5
    k: Annotated[int, Field(ge=1, le=16)] = 7
    crop: Annotated[float, Field(gt=0, le=1)] = 0.5
    features: str = "auto"
    references: Annotated[int, Field(ge=1)] | None = None
    real: Annotated[int, Field(ge=2)] = 1000


class Material(NamedTuple):
    """Samples, real images and references (uint8), and the references' positions in the training set."""

    samples: Tensor
    real: Real
    references: Tensor
    positions: Tensor


def study_neighbours(
    context: ImageStudyContext, options: NeighboursOptions, folder: Path, on_progress: ProgressCallback
) -> list[StudyFigure]:
    """Write ``neighbours_pixels.png``, ``neighbours_features.png`` and ``neighbours_crop.png``."""
    extractor = extractor_of(context, options.features)
    references, positions = references_of(context, options.references)
    real = real_of(context, options.real, references, "neighbours")
    total = options.num + 3 * 64  # each search takes about as long as 64 samples
    samples, _ = draw(context, options.num, lambda done: on_progress(done, total))
    material = Material(samples, real, references, positions)
    spaces: dict[str, tuple[str, Space]] = {
        "pixels": ("pixels", lambda images: images),
        "features": (f"{extractor.name} features", extractor.features),
        "crop": (f"the middle {options.crop:.0%}", lambda images: centre_of(images, options.crop)),
    }
    figures = []
    for number, (key, (space_name, space)) in enumerate(spaces.items(), 1):
        figures.append(_study_figure(context, key, space_name, space, material, options, folder))
        on_progress(options.num + 64 * number, total)
    return figures


def _study_figure(
    context: ImageStudyContext,
    key: str,
    space_name: str,
    space: Space,
    material: Material,
    options: NeighboursOptions,
    folder: Path,
) -> StudyFigure:
    """Search in one space and draw the results."""
    references = space(material.references)
    k = min(options.k, len(references))
    found = distances_to(space(material.samples), references, k)
    real = material.real.nearest(distances_to, space(material.real.images), references).distances[:, 0]
    scale, nearest = Scale.of(real), found.distances[:, 0]
    view = space if key == "crop" else (lambda images: images)
    images = (view(material.samples).numpy(), view(material.references).numpy())
    file = f"neighbours_{key}.png"
    _draw(folder / file, images, found, scale, (material.real.label, real), options.shown, context.seed, space_name)
    numbers: dict[str, Any] = {
        "space": space_name,
        **scale.numbers(nearest),
        "num_references": len(references),
        "num_training": len(context.data[0]),
        "scale": material.real.label,
        "marked": scale.described(_near(nearest, scale), found, material.positions, context.seed),
    }
    return StudyFigure(
        file,
        f"Nearest training images in {space_name}",
        _caption(space_name, numbers, material.real),
        *_sources(key),
        numbers,
    )


def _near(nearest: Tensor, scale: Scale) -> list[int]:
    """Indices of the samples that are too near, the nearest first."""
    near = scale.near(nearest)
    return [row for row in nearest.argsort(stable=True).tolist() if near[row]]


def _draw(
    path: Path,
    images: tuple[ImageArray, ImageArray],
    found: Neighbours,
    scale: Scale,
    real: tuple[str, Tensor],
    shown: int,
    seed: int,
    space_name: str,
) -> None:
    nearest = found.distances[:, 0]
    closest = nearest.argsort(stable=True)[:shown].tolist()
    first = list(range(min(shown, len(nearest))))
    tables = [
        _table(
            f"The {len(closest)} nearest of {count_noun(len(nearest), 'sample')}, by {space_name}",
            closest,
            images,
            found,
            scale,
            seed,
        ),
        _table(f"The first {count_noun(len(first), 'seed')}", first, images, found, scale, seed),
    ]
    figure, (axes,) = image_grid.draw(tables, 1)
    _histogram(axes, nearest, real, scale)
    save(figure, path)


def _table(
    title: str, rows: list[int], images: tuple[ImageArray, ImageArray], found: Neighbours, scale: Scale, seed: int
) -> image_grid.Table:
    """One row per sample: the sample, a gap, its neighbours from near to far."""
    samples, references = images
    frames = scale.frames(found.distances[rows, 0])
    return image_grid.Table(
        [np.concatenate([samples[row][None], references[found.indices[row].numpy()]]) for row in rows],
        row_labels=[f"seed {seed + row}" for row in rows],
        column_labels=["sample", "nearest", *(f"{n}." for n in range(2, found.indices.shape[1] + 1))],
        title=title,
        notes=[_note(float(found.distances[row, 0]), scale) for row in rows],
        frames={(number, column): colour for number, colour in enumerate(frames) if colour for column in (0, 1)},
        gaps=(1,),
    )


def _note(distance: float, scale: Scale) -> str:
    ratio = f"\n{distance / scale.median:.2f} of real median" if scale.median > 0 else ""
    return f"distance {distance:.3g}{ratio}"


def _histogram(axes: Any, nearest: Tensor, real: tuple[str, Tensor], scale: Scale) -> None:
    reach = (0.0, 1.02 * float(torch.cat([nearest, real[1]]).max()) or 1.0)
    for values, colour, label in ((real[1], GREY, real[0]), (nearest, BLUE, "samples")):
        axes.hist(values.numpy(), bins=_BINS, range=reach, density=True, color=colour, alpha=0.55, label=label)
    axes.axvline(scale.minimum, color=COPY, linewidth=1.3, label="nearest real image")
    axes.axvline(
        scale.first_percentile, color=ORANGE, linewidth=1.3, linestyle="--", label="1 in 100 real images is nearer"
    )
    axes.set(xlabel="distance to the nearest training image", ylabel="density", yticks=[], xlim=reach)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    grid_lines(axes)


def _caption(space_name: str, numbers: dict[str, Any], real: Real) -> str:
    return (
        f"Samples, each with its nearest training images from near to far, by distance in {space_name}; above the "
        "nearest "
        f"of all samples, below the first seeds. {frame_legend(real)} Here {numbers['likely_copies']} of "
        f"{numbers['num_samples']} samples are likely copies, compared with about "
        f"{numbers['likely_copies_by_chance']:.2g} by chance; the median distance is {numbers['ratio']:.2f} of that of "
        f"{numbers['num_real']} {real.label}. Searched: {numbers['num_references']:,} of "
        f"{numbers['num_training']:,} training images."
    )


def _sources(key: str) -> tuple[str, str]:
    formula = {
        "pixels": "L2 distance of pixel values in [0, 1]",
        "features": "L2 distance of features",
        "crop": "L2 distance of the pixel values of the central crop, in [0, 1]",
    }
    return formula[key], "metrics.neighbours.nearest_neighbours; Ho et al. 2020, arXiv:2006.11239, figs. 12-16"
