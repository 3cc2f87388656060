"""``undiffuse data info``: a data set in a table, and on a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undiffuse.api.configuration.sources import as_recipe_reads, configured
from undiffuse.api.outputs import check_file
from undiffuse.augment import AUGMENTATIONS, GRID_ROWS, augmentation_grid, grid_columns
from undiffuse.claims import writes_to
from undiffuse.cli.checks.data import check_augmentation_grid
from undiffuse.cli.terminal import say, table
from undiffuse.data import load_dataset, source_config_for
from undiffuse.data.audit import describe, evenly_spaced, preview_grid
from undiffuse.files import replacing
from undiffuse.images import save_png
from undiffuse.registry import lookup
from undiffuse.wording import counted


@writes_to("grid")
def show_data(
    source: str,
    grid: Path | None,
    augment: str | None = None,
    options: Sequence[str] = (),
    recipe: str | None = None,
) -> None:
    """Print the summary of a data set and, if asked, write a contact grid.

    Args:
        augment: a row of ``AUGMENTATIONS``, which the grid then shows at work.
        options: ``key=value`` of the source's configuration.
        recipe: show it as this recipe reads it.
    Raises:
        UsageError: options that the source does not have, no such row, none without a grid, or one for points.
    """
    check_augmentation_grid(augment, grid)
    check_file(grid, "grid.png", "--grid")
    augmentation = lookup(AUGMENTATIONS, augment, "augmentation")() if augment is not None else None
    config = configured(as_recipe_reads(source_config_for(source), recipe), options)
    dataset = load_dataset(config)
    summary = describe(dataset, config)
    classes = ", ".join(f"{name}: {count}" for name, count in summary["classes"].items()) or "none"
    rows = [
        ["items", f"{counted(summary['num_items'], summary['kind'][:-1])} of shape {tuple(summary['shape'])}"],
        ["classes", classes],
        *[["captions, such as" if row == 0 else "", text] for row, text in enumerate(summary["captions"])],
        ["split", _split(summary, config.validation_fraction, recipe)],
        ["duplicates", str(summary["num_duplicates"])],
        ["values", _values(summary)],
        ["fingerprint", summary["fingerprint"]],
        *[[key, value] for key, value in summary["provenance"].items()],
    ]
    table(summary["name"], ["", ""], rows)
    if grid is None:
        return
    if augmentation is not None:
        images = dataset.fetch(evenly_spaced(len(dataset), GRID_ROWS)).items
        save_png(grid, augmentation_grid(images, augmentation, smallest_side=64))
        say(f"{augment}, column by column: {', '.join(grid_columns(augmentation, dataset.shape))}")
    else:
        with replacing(grid) as path:
            preview_grid(dataset).save(path, format="PNG")
    say(f"contact grid: {grid}")


def _values(summary: Mapping[str, Any]) -> str:
    """The range of values, and of how many items where not all were read."""
    looked_at, total = summary["num_looked_at"], summary["num_items"]
    part = "" if looked_at == total else f" in {looked_at:,} of {total:,}, evenly spaced"
    return f"{summary['value_range'][0]:g} to {summary['value_range'][1]:g}{part}"


def _split(summary: Mapping[str, Any], fraction: float, recipe: str | None) -> str:
    """Both parts, and by which share: a recipe may hold out another one than the source does by itself."""
    of = f"recipe {recipe}" if recipe is not None else "by default; --recipe NAME shows the share of a recipe"
    parts = f"{summary['split']['train']} training, {summary['split']['validation']} held out"
    return f"{parts} (data.validation_fraction={fraction:g}, {of})"
