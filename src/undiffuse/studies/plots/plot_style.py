"""The plot style of the studies: panels of the plane on one scale, colours that are safe for colour blindness.

Only ``Figure`` objects are used, never pyplot's global state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from undiffuse.files import replacing
from undiffuse.studies.theory.context import LIMIT

#: The palette of Okabe and Ito, whose colours are distinct under all common forms of colour blindness.
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, RED, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00", "#777777"),
)
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, "#000000", GREY)
INK = "#222222"
#: Pixels per inch: a full-width figure is about 1,800 pixels wide.
DPI = 150
#: Matplotlib's settings for every figure of a study.
SETTINGS: Any = {
    **{"font.size": 10, "axes.titlesize": 10.5, "axes.labelsize": 10, "axes.edgecolor": "#999999"},
    **{"xtick.color": "#555555", "ytick.color": "#555555", "xtick.labelsize": 8.5, "ytick.labelsize": 8.5},
    **{"text.color": INK, "axes.titlecolor": INK, "axes.labelcolor": INK},
    **{"axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.6},
}


class StudyFigure(NamedTuple):
    """One figure of a study, with its caption and numbers.

    Attributes:
        file: name of the PNG.
        title: a short title.
        caption: what it shows and how to read it.
        formula: what is computed.
        source: papers and the function that computes it.
        numbers: values for JSON.
    """

    file: str
    title: str
    caption: str
    formula: str
    source: str
    numbers: dict[str, Any]


def figure(width: float, height: float) -> Any:
    """An empty figure of ``width`` x ``height`` inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def panels(rows: int, columns: int, size: float = 2.5, extra: float = 0.0) -> tuple[Any, Any]:
    """A figure of square panels of ``size`` inches and its axes ``(rows, columns)``; ``extra`` inches to the right."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        fig = figure(columns * size + 0.3 + extra, rows * (size + 0.06) + 0.45)
        return fig, fig.subplots(rows, columns, squeeze=False)


def charts(columns: int, width: float = 5.6, height: float = 3.9) -> tuple[Any, Any]:
    """A figure of charts side by side and its axes ``(columns,)``."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        fig = figure(columns * width, height)
        return fig, fig.subplots(1, columns, squeeze=False)[0]


def save(fig: Any, path: Path) -> None:
    """Write a figure atomically as a PNG; equal figures give equal bytes."""
    import matplotlib

    with replacing(path) as temporary, matplotlib.rc_context(SETTINGS):
        fig.savefig(temporary, format="png", metadata={"Software": None})


def frame(axes: Any, title: str = "", limit: float = LIMIT, ticks: bool = True) -> None:
    """Set the axes to a square window of the plane, with ticks at -2, 0, 2."""
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", title=title)
    marks = (-2, 0, 2) if ticks else ()
    axes.set_xticks(marks)
    axes.set_yticks(marks)
    axes.tick_params(length=2, pad=2)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#cccccc", linewidth=0.8)


def image(axes: Any, values: Tensor, limit: float = LIMIT, **options: Any) -> Any:
    """Draw values on ``plane(side)`` as an image in the window."""
    side = math.isqrt(len(values))
    extent = (-limit, limit, -limit, limit)
    table = values.reshape(side, side).numpy()
    return axes.imshow(table, origin="lower", extent=extent, interpolation="bilinear", **options)


def shade(axes: Any, log_density: Tensor, limit: float = LIMIT) -> None:
    """Draw a density in pale blue as background, each panel scaled to its maximum."""
    relative = ((log_density - log_density.max()) / 2).exp()  # the square root of the density: tails stay visible
    image(axes, relative, limit, cmap="Blues", vmin=0, vmax=1.7)


def scatter(axes: Any, points: Tensor, colour: str = BLUE, size: float = 2.0, alpha: float = 0.5) -> None:
    """Draw points as dots."""
    array = points.numpy()
    axes.scatter(array[:, 0], array[:, 1], s=size, c=colour, alpha=alpha, linewidths=0, rasterized=True)


def row_label(axes: Any, text: str) -> None:
    """Label a row of panels at its left."""
    axes.set_ylabel(text, fontsize=10.5, labelpad=4)


def grid_lines(axes: Any) -> None:
    """Draw a light grid behind a chart."""
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def plain(value: Any) -> Any:
    """Round all numbers of a nested value to four digits for JSON; NaN and infinity become ``None``."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
