"""``undiffuse data info``: a data set as a table, and as a grid of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undiffuse.api.datasets.describing import describe_data
from undiffuse.captions import alternatives_of
from undiffuse.cli.checks.data import check_augmentation_grid
from undiffuse.cli.terminal import print_line, table
from undiffuse.wording import count_noun


def show_data(
    source: str,
    grid: Path | None,
    augment: str | None = None,
    options: Sequence[str] = (),
    recipe: str | None = None,
) -> None:
    """Print the summary of a data set and, if requested, write an image grid; see ``describe_data``.

    Raises:
        UsageError: as ``describe_data``, or an augmentation without a grid.
    """
    check_augmentation_grid(augment, grid)
    found = describe_data(source, grid, augment, options, recipe)
    summary = found.summary
    classes = ", ".join(f"{name}: {count}" for name, count in summary["classes"].items()) or "none"
    rows = [
        ["items", f"{count_noun(summary['num_items'], summary['kind'][:-1])} of shape {tuple(summary['shape'])}"],
        ["classes", classes],
        *[
            ["captions, such as" if row == 0 else "", " | ".join(alternatives_of(text)) or "none"]
            for row, text in enumerate(summary["captions"])
        ],
        ["split", _split(summary, found.validation_fraction, recipe)],
        ["duplicates", str(summary["num_duplicates"])],
        ["values", _values(summary)],
        ["fingerprint", summary["fingerprint"]],
        *[[key, value] for key, value in summary["provenance"].items()],
    ]
    table(summary["name"], ["", ""], rows)
    if found.columns:
        print_line(f"{augment}, column by column: {', '.join(found.columns)}")
    if grid is not None:
        print_line(f"contact grid: {grid}")


def _values(summary: Mapping[str, Any]) -> str:
    """The range of values, and the number of items it was computed from if not all were read."""
    looked_at, total = summary["num_looked_at"], summary["num_items"]
    part = "" if looked_at == total else f" in {looked_at:,} of {total:,}, evenly spaced"
    return f"{summary['value_range'][0]:g} to {summary['value_range'][1]:g}{part}"


def _split(summary: Mapping[str, Any], fraction: float, recipe: str | None) -> str:
    """The sizes of both parts and the held-out fraction, which a recipe may set other than the source's default."""
    origin = f"recipe {recipe}" if recipe is not None else "by default; --recipe NAME shows that of a recipe"
    parts = f"{summary['split']['train']} training, {summary['split']['validation']} held out"
    return f"{parts} (data.validation_fraction={fraction:g}, {origin})"
