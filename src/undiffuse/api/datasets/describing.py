"""Describe a data set and write a grid of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undiffuse.api.configuration.sources import as_recipe_reads, configured
from undiffuse.api.outputs import check_file
from undiffuse.augment import AUGMENTATIONS, GRID_ROWS, augmentation_grid, grid_columns
from undiffuse.data import load_dataset, source_config_for
from undiffuse.data.audit import describe, evenly_spaced, preview_grid
from undiffuse.files import replacing
from undiffuse.images import save_png
from undiffuse.locking import locks
from undiffuse.registry import lookup


@dataclass(frozen=True)
class DataDescription:
    """Description of a data set.

    Attributes:
        summary: counts, shape, classes, split, values and fingerprint, see ``data.audit.describe``.
        validation_fraction: of the split.
        columns: labels of the grid's columns if it shows an augmentation.
    """

    summary: dict[str, Any]
    validation_fraction: float
    columns: list[str]


@locks("grid")
def describe_data(
    source: str,
    grid: Path | None = None,
    augment: str | None = None,
    options: Sequence[str] = (),
    recipe: str | None = None,
) -> DataDescription:
    """Describe a data set and, if requested, write a grid of 64 items.

    Args:
        source: a folder, an archive, or the name of a source.
        grid: a PNG file.
        augment: a row of ``AUGMENTATIONS`` to show in the grid.
        options: ``key=value`` texts for the source.
        recipe: read the data with the data options of this recipe.
    Raises:
        UsageError: unknown options of the source, an unknown augmentation, or one for points.
    """
    check_file(grid, "grid.png", "--grid")
    augmentation = lookup(AUGMENTATIONS, augment, "augmentation")() if augment is not None else None
    config = configured(as_recipe_reads(source_config_for(source), recipe), options)
    dataset = load_dataset(config)
    summary, columns = describe(dataset, config), list[str]()
    if grid is not None and augmentation is not None:
        images = dataset.fetch(evenly_spaced(len(dataset), GRID_ROWS)).items
        save_png(grid, augmentation_grid(images, augmentation, smallest_side=64))
        columns = list(grid_columns(augmentation, dataset.shape))
    elif grid is not None:
        with replacing(grid) as path:
            preview_grid(dataset).save(path, format="PNG")
    return DataDescription(summary, config.validation_fraction, columns)
