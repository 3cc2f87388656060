"""Image grids: tables of images with labelled rows and columns, enlarged by an integer factor, with charts below.

A table is assembled as one array and drawn pixel by pixel, so that small images are enlarged without interpolation and
the PNG stays small; text and charts are drawn by matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.studies.plots import plot_style

Array = npt.NDArray[Any]

#: Target size in pixels of the longer side of an enlarged image, and the size to which larger images are reduced.
SIDE, LARGEST_SIDE = 112, 160
_GAP, _WIDE_GAP, _FRAME = 3, 14, 2
_MARGIN, _TITLE, _LINE = 14, 30, 20
#: Approximate width of a letter of a title, in pixels.
_TITLE_LETTER = 11.8
_BETWEEN = 22
#: Minimum width of each chart below a grid, in pixels.
_CHART_WIDTH = 470


@dataclass(frozen=True)
class Table:
    """Images in rows and columns.

    Attributes:
        rows: uint8 images (columns, C, H, W) of each row; rows may differ in length.
        row_labels: labels at the left of each row; empty for none.
        column_labels: labels of one or more lines above each column; empty for none.
        title: text above the table, left-aligned.
        notes: text at the right of each row; empty for none.
        frames: colour of the frame around the image at (row, column).
        gaps: indices of columns with a gap before them.
        row_gaps: indices of rows with a gap before them.
    """

    rows: Sequence[Array]
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()
    title: str = ""
    notes: Sequence[str] = ()
    frames: Mapping[tuple[int, int], str] = field(default_factory=dict)
    gaps: Sequence[int] = ()
    row_gaps: Sequence[int] = ()


def draw(
    tables: Sequence[Table], num_charts: int = 0, chart_height: int = 400, chart_gap: int = 90
) -> tuple[Any, Array]:
    """Draw tables below each other, with ``num_charts`` chart axes below them.

    Args:
        tables: one or more tables.
        chart_height, chart_gap: in pixels; the gap between charts contains their axis labels.
    Returns:
        The figure, for ``plot_style.save``, and the axes ``(num_charts,)``.
    """
    import matplotlib

    placed = [_TableLayout(table) for table in tables]
    left = max(entry.left for entry in placed)
    width = max(max(left + entry.width + entry.right for entry in placed) + _MARGIN, num_charts * _CHART_WIDTH)
    below = chart_height + _BETWEEN if num_charts else 0
    height = sum(entry.height for entry in placed) + _BETWEEN * (len(placed) - 1) + 2 * _MARGIN + below
    with matplotlib.rc_context(plot_style.SETTINGS):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width / plot_style.DPI, height / plot_style.DPI), dpi=plot_style.DPI)
        top = _MARGIN
        for entry in placed:
            entry.draw(figure, left, top, width, height)
            top += entry.height + _BETWEEN
        return figure, _charts(figure, num_charts, chart_height, chart_gap, width, height)


def write(tables: Sequence[Table], path: Path) -> None:
    """Write tables without charts as a PNG."""
    plot_style.save(draw(tables)[0], path)


def _charts(figure: Any, count: int, chart_height: int, gap: int, width: int, height: int) -> Array:
    if not count:
        return np.empty(0, dtype=object)
    left, right = 96, 24
    chart_width = (width - left - right - (count - 1) * gap) / count
    sides = {"left": left / width, "right": 1 - right / width}
    grid = figure.add_gridspec(
        1, count, **sides, bottom=62 / height, top=(chart_height - 34) / height, wspace=gap / chart_width
    )
    return np.array([figure.add_subplot(grid[0, index]) for index in range(count)], dtype=object)


class _TableLayout:
    """A table with its layout in pixels."""

    def __init__(self, table: Table) -> None:
        self.table = table
        rows = [_resize(np.asarray(row)) for row in table.rows]
        self.cell = rows[0].shape[-2:]
        self.grid = _assemble(rows, table, self.cell)
        self.width, self.pixels = self.grid.shape[1], self.grid.shape[0]
        self.left = _MARGIN + _text_width(table.row_labels)
        self.right = max(_text_width(table.notes), round(len(table.title) * _TITLE_LETTER) - self.width)
        lines = max((label.count("\n") + 1 for label in table.column_labels), default=0)
        self.above = (_TITLE if table.title else 0) + lines * _LINE + (4 if lines else 0)
        self.height = self.above + self.pixels

    def draw(self, figure: Any, left: int, top: int, width: int, height: int) -> None:
        """Draw the table with its upper left corner at (left, top) in a figure of ``width`` x ``height`` pixels."""
        bottom = height - top - self.above - self.pixels
        place = (left / width, bottom / height, self.width / width, self.pixels / height)
        axes = figure.add_axes(place)
        axes.imshow(self.grid, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        table, (cell_h, _) = self.table, self.cell
        for row, label in enumerate(table.row_labels):
            y = _start(row, cell_h, table.row_gaps) + cell_h / 2
            axes.text(-8, y, label, ha="right", va="center", fontsize=8.5)
        for row, note in enumerate(table.notes):
            y = _start(row, cell_h, table.row_gaps) + cell_h / 2
            axes.text(self.width + 8, y, note, ha="left", va="center", fontsize=8.5)
        self._draw_header(axes)

    def _draw_header(self, axes: Any) -> None:
        table, (_, cell_w) = self.table, self.cell
        for column, label in enumerate(table.column_labels):
            x = _start(column, cell_w, table.gaps) + cell_w / 2
            axes.text(x, -9, label, ha="center", va="baseline", fontsize=8, linespacing=1.15)
        if table.title:
            axes.text(0, -self.above + 2, table.title, ha="left", va="top", fontsize=9.5, fontweight="bold")


def _text_width(labels: Sequence[str]) -> int:
    """Approximate width in pixels of labels at the side."""
    longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    return round(longest * 9.4) + 14 if longest else 0


def _start(index: int, side: int, gaps: Sequence[int]) -> int:
    """Pixel offset of a row or column."""
    return index * (side + _GAP) + _FRAME + sum(_WIDE_GAP for gap in gaps if gap <= index)


def _assemble(rows: Sequence[Array], table: Table, cell: tuple[int, int]) -> Array:
    """All images of a table as one uint8 array (height, width, 3) on white."""
    (cell_h, cell_w), columns = cell, max(len(row) for row in rows)
    height = _start(len(rows) - 1, cell_h, table.row_gaps) + cell_h + _FRAME
    width = _start(columns - 1, cell_w, table.gaps) + cell_w + _FRAME
    grid = np.full((height, width, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            y, x = _start(r, cell_h, table.row_gaps), _start(c, cell_w, table.gaps)
            if (colour := table.frames.get((r, c))) is not None:
                grid[y - _FRAME : y + cell_h + _FRAME, x - _FRAME : x + cell_w + _FRAME] = _rgb(colour)
            grid[y : y + cell_h, x : x + cell_w] = image.transpose(1, 2, 0)
    return grid


def _resize(images: Array) -> Array:
    """Images (N, C, H, W) enlarged by an integer factor to about ``SIDE`` pixels, or reduced to ``LARGEST_SIDE``."""
    longest = max(images.shape[-2:])
    if longest > LARGEST_SIDE:
        factor = -(-longest // LARGEST_SIDE)
        height, width = (side // factor for side in images.shape[-2:])
        cropped = images[..., : height * factor, : width * factor].astype(np.float64)
        blocks = cropped.reshape(*images.shape[:2], height, factor, width, factor)
        reduced: Array = blocks.mean((3, 5)).round().astype(np.uint8)
        return reduced
    factor = max(1, round(SIDE / longest))
    return images.repeat(factor, axis=-2).repeat(factor, axis=-1)


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))  # type: ignore[return-value]
