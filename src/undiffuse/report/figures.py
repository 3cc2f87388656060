"""Curves of the journal as SVG that takes its colours from the page, so that light and dark both read well.

Matplotlib draws in placeholder colours which are then exchanged for the page's CSS variables. Only ``Figure`` objects
are used, never pyplot's global state, and the same journal gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

QUIET, RULE, TRAIN, EMA, RAW = "#020202", "#030303", "#040404", "#050505", "#060606"
VARIABLES = {QUIET: "--muted", RULE: "--rule", TRAIN: "--train", EMA: "--ema", RAW: "--raw"}
WIDE, NARROW, SMALL = (1000, 340), (340, 270), (320, 190)  # in the page's pixels
MOST_POINTS = 600
SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "undiffuse", "font.size": 12, "text.parse_math": False}

Values = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """One line of a plot over images seen."""

    label: str
    x: Values
    y: Values
    colour: str
    smooth: bool = False


def curve(
    rows: Sequence[Mapping[str, Any]], kind: str, key: str, label: str, colour: str, smooth: bool = False
) -> Curve:
    """The finite values of ``key`` (or of the clock's ``wall.key``) in rows of one kind, over images."""
    pairs = [
        (row["images"], row.get(key, row.get("wall", {}).get(key)))
        for row in rows
        if row.get("kind") == kind and "images" in row
    ]
    numbers = [(x, y) for x, y in pairs if isinstance(y, int | float) and np.isfinite(y)]
    array = np.asarray(numbers, dtype=np.float64).reshape(-1, 2)
    return Curve(label, array[:, 0], array[:, 1], colour, smooth)


def loss_curves(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Training loss and validation loss of the averaged and of the raw weights, as far as the journal has them."""
    curves = [
        curve(rows, "train", "loss", "training", TRAIN, smooth=True),
        curve(rows, "validation", "loss_raw", "validation, raw weights", RAW),
        curve(rows, "validation", "loss", "validation, EMA weights", EMA),
    ]
    return [one for one in curves if len(one.x)]


def side_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """What else the journal follows, by title."""
    keys = {"Learning rate": "learning_rate", "Gradient norm": "grad_norm", "Items per second": "images_per_second"}
    curves = {
        title: curve(rows, "train", key, title, TRAIN, smooth=key != "learning_rate") for title, key in keys.items()
    }
    return {title: one for title, one in curves.items() if len(one.x)}


def plot(curves: Sequence[Curve], size: tuple[int, int], from_zero: bool = False) -> str:
    """The curves as an ``<svg>`` element of ``size`` whose colours are CSS variables."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        axes = figure.add_subplot()
        for one in curves:
            _draw(axes, one)
        _dress(axes, curves, narrow=size[0] < 600, from_zero=from_zero)
        return _themed(figure, name=f"{curves[0].label}-{size[0]}")


def thinned(x: Values, y: Values, most: int = MOST_POINTS) -> tuple[Values, Values]:
    """Means over equal runs of neighbours, at most ``most`` of them."""
    if len(x) <= most:
        return x, y
    parts = np.array_split(np.arange(len(x)), most)
    return np.array([x[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


def moving_mean(y: Values, width: int) -> Values:
    """The mean over ``width`` neighbours; windows shrink towards the ends but stay centred, so that no end is bent."""
    index, sums = np.arange(len(y)), np.concatenate([[0.0], np.cumsum(y)])
    reach = np.minimum(np.minimum(index, len(y) - 1 - index), width // 2)
    return np.asarray((sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1))


def wants_log(curves: Sequence[Curve]) -> bool:
    """Whether the values span so much that only a logarithmic axis shows the later ones."""
    values = np.concatenate([one.y for one in curves])
    return bool(values.min() > 0 and values.max() / values.min() > 5)


def short(number: float) -> str:
    """12500 -> ``12.5k``, 0.0005 -> ``5e-4``; for the ticks of an axis."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{unit}"
    if 0 < abs(number) < 0.01:
        mantissa, exponent = f"{number:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{number:.6g}"


def _draw(axes: Any, one: Curve) -> None:
    x, y = thinned(one.x, one.y)
    lone = {"marker": "o", "markersize": 4.5} if len(x) <= 30 else {}
    if one.smooth and len(x) > 60:
        axes.plot(x, y, color=one.colour, linewidth=1, alpha=0.35)
        y = moving_mean(y, 2 * (len(y) // 60) + 3)
    axes.plot(x, y, color=one.colour, linewidth=1.8, label=one.label, **lone)


def _dress(axes: Any, curves: Sequence[Curve], narrow: bool, from_zero: bool) -> None:
    """Axes that stay in the background: no frame, a light grid, few ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, length=0, pad=6)
    steps = [1, 2, 2.5, 5, 10]
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8, steps=steps))
    axes.set_xlim(left=0)
    if not from_zero and wants_log(curves):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4 if narrow else 6, steps=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if from_zero:
        axes.set_ylim(bottom=0, top=max(1e-12, 1.15 * max(one.y.max() for one in curves)))


def _themed(figure: Any, name: str) -> str:
    buffer = io.StringIO()
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    prefix = re.sub(r"\W+", "-", name).lower()  # several figures share the page, so ids must differ
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
    for placeholder, variable in VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return svg.strip()
