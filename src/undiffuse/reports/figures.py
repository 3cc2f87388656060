"""Curves as SVG with CSS variables as colours, for light and dark themes.

Matplotlib draws in placeholder colours, which are then replaced by the page's CSS variables. Only ``Figure`` objects
are used, never pyplot's global state, and the same curves give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

QUIET, RULE, TRAIN, EMA, RAW, DATA = "#020202", "#030303", "#040404", "#050505", "#060606", "#070707"
#: One per run of a comparison; distinguishable in both themes with any common colour blindness.
RUN_COLOURS = tuple(f"#0a0a0{number}" for number in range(8))
VARIABLES = {
    **{QUIET: "--muted", RULE: "--rule", TRAIN: "--train", EMA: "--ema", RAW: "--raw", DATA: "--data"},
    **{colour: f"--run{number}" for number, colour in enumerate(RUN_COLOURS)},
}
WIDE, NARROW, SMALL = (1000, 340), (340, 270), (320, 190)  # in CSS pixels
MEDIUM = (480, 250)
MAX_POINTS = 600
SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "undiffuse", "font.size": 12, "text.parse_math": False}

Values = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """One line of a plot; ``error`` is drawn as symmetric error bars."""

    label: str
    x: Values
    y: Values
    colour: str
    smooth: bool = False
    dashed: bool = False
    error: Values | None = None


class Key(NamedTuple):
    """A line of a chart's legend."""

    label: str
    variable: str
    dashed: bool


class Chart(NamedTuple):
    """A rendered plot in two sizes, for wide and for narrow pages."""

    wide: str
    narrow: str
    keys: list[Key]
    label: str
    log: bool


def chart(
    curves: Sequence[Curve],
    label: str,
    name: str,
    size: tuple[int, int] = WIDE,
    *,
    from_zero: bool = False,
    x_from_zero: bool = True,
    log: bool | None = None,
    epoch: float | None = None,
) -> Chart | None:
    """A chart of the curves that have points; ``None`` if there are none.

    Args:
        label: text alternative for screen readers.
        name: unique on the page.
        from_zero: whether the value axis starts at 0.
        x_from_zero: whether the x axis starts at 0.
        log: whether the value axis is logarithmic; by default if the values have a large range.
        epoch: length of an epoch in units of x, for a second axis at the top.
    """
    from markupsafe import Markup  # a dependency of jinja2; the markup is drawn here and contains no user text

    shown = [line for line in curves if len(line.x)]
    if not shown:
        return None
    log = (not from_zero and needs_log_axis(shown)) if log is None else log
    wide, narrow = (
        Markup(plot(shown, chart_size, f"{name}-{chart_size[0]}", from_zero, x_from_zero, log, epoch))
        for chart_size in (size, NARROW)
    )
    return Chart(wide, narrow, keys_of(shown), label, log)


def keys_of(curves: Sequence[Curve]) -> list[Key]:
    """The legend of curves."""
    return [Key(line.label, VARIABLES[line.colour], line.dashed) for line in curves]


def plot(
    curves: Sequence[Curve],
    size: tuple[int, int],
    name: str,
    from_zero: bool = False,
    x_from_zero: bool = True,
    log: bool = False,
    epoch: float | None = None,
) -> str:
    """The curves as an ``<svg>`` element of ``size`` whose colours are CSS variables; see ``chart``."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        axes = figure.add_subplot()
        for line in curves:
            _draw(axes, line)
        _style_axes(axes, narrow=size[0] < 600)
        _scale(axes, curves, from_zero, x_from_zero, log, narrow=size[0] < 600)
        if epoch:
            _epoch_axis(axes, epoch)
        return _to_svg(figure, name)


def thinned(x: Values, y: Values, max_points: int = MAX_POINTS) -> tuple[Values, Values]:
    """Means over blocks of neighbouring points of equal size, at most ``max_points`` of them."""
    if len(x) <= max_points:
        return x, y
    parts = np.array_split(np.arange(len(x)), max_points)
    return np.array([x[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


def moving_mean(y: Values, width: int) -> Values:
    """The mean over ``width`` neighbours; windows shrink towards the ends but stay centred, to avoid bias there."""
    index, sums = np.arange(len(y)), np.concatenate([[0.0], np.cumsum(y)])
    reach = np.minimum(np.minimum(index, len(y) - 1 - index), width // 2)
    return np.asarray((sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1))


def needs_log_axis(curves: Sequence[Curve]) -> bool:
    """Whether the values are positive and have too large a range for a linear axis."""
    values = np.concatenate([line.y for line in curves])
    return bool(values.min() > 0 and values.max() / values.min() > 5)


def short(number: float) -> str:
    """A tick label: 12500 -> ``12.5k``, 0.0005 -> ``5e-4``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{unit}"
    if 0 < abs(number) < 0.01:
        mantissa, exponent = f"{number:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{number:.6g}"


def _draw(axes: Any, line: Curve) -> None:
    x, y = thinned(line.x, line.y)
    marker = {"marker": "o", "markersize": 4.5} if len(x) <= 30 and not line.dashed else {}
    style = {"linestyle": (0, (4, 3)), "linewidth": 1.5} if line.dashed else {"linewidth": 1.8}
    if line.smooth and len(x) > 60:
        axes.plot(x, y, color=line.colour, linewidth=1, alpha=0.3)
        y = moving_mean(y, 2 * (len(y) // 60) + 3)
    if line.error is not None and len(line.error) == len(x):
        axes.errorbar(x, y, line.error, fmt="none", color=line.colour, elinewidth=1.2, capsize=3)
    axes.plot(x, y, color=line.colour, label=line.label, **style, **marker)


def _style_axes(axes: Any, narrow: bool) -> None:
    """Unobtrusive axes: no frame, a light grid, few ticks."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=QUIET, length=0, pad=6)
    axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _scale(axes: Any, curves: Sequence[Curve], from_zero: bool, x_from_zero: bool, log: bool, narrow: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if x_from_zero:
        axes.set_xlim(left=0)
    if log:
        decades = np.log10(max(line.y.max() for line in curves) / min(line.y[line.y > 0].min() for line in curves))
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4 if narrow else 6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if from_zero:
        top = max((line.y + (line.error if line.error is not None else 0)).max() for line in curves)
        axes.set_ylim(bottom=0, top=max(1e-12, 1.15 * top))


def _epoch_axis(axes: Any, epoch: float) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    upper = axes.secondary_xaxis("top", functions=(lambda x: x / epoch, lambda x: x * epoch))
    upper.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    upper.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    upper.tick_params(colors=QUIET, length=3, pad=3)
    upper.spines["top"].set_color(RULE)


def _to_svg(figure: Any, name: str) -> str:
    buffer = io.StringIO()
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    svg = buffer.getvalue()[buffer.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    prefix = re.sub(r"\W+", "-", name).lower()  # a page has several figures, so ids must be unique
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
    for placeholder, variable in VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return svg.strip()
