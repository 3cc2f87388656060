"""The curves of a page: selected from metrics logs and schedules, with their colours and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from undiffuse.reports.figures import DATA, EMA, RAW, RUN_COLOURS, TRAIN, Curve, Values
from undiffuse.reports.metrics_table import name_of

if TYPE_CHECKING:
    from undiffuse.evaluation.schedule import Schedule

#: Title of the chart of the loss's weights.
WEIGHT = "Weight on the error of ε"

Rows = Sequence[Mapping[str, Any]]


def curve(rows: Rows, kind: str, key: str, label: str, colour: str, smooth: bool = False) -> Curve:
    """The finite values of ``key`` (or of ``wall.key``) in rows of one kind, over images."""
    pairs = [
        (row["images"], row.get(key, row.get("wall", {}).get(key)))
        for row in rows
        if row.get("kind") == kind and "images" in row
    ]
    numbers = [(x, y) for x, y in pairs if isinstance(y, int | float) and np.isfinite(y)]
    array = np.asarray(numbers, dtype=np.float64).reshape(-1, 2)
    return Curve(label, array[:, 0], array[:, 1], colour, smooth)


def loss_curves(rows: Rows) -> list[Curve]:
    """Training loss and validation loss of the averaged and of the raw weights, if the metrics log has them."""
    curves = [
        curve(rows, "train", "loss", "training", TRAIN, smooth=True),
        curve(rows, "validation", "loss_raw", "validation, raw weights", RAW),
        curve(rows, "validation", "loss", "validation, EMA weights", EMA),
    ]
    return [line for line in curves if len(line.x)]


#: Charts of a classifier of noisy data: title -> key of the validation rows.
_ACCURACIES = {
    "Accuracy on held-out data": "accuracy",
    "Accuracy, log-SNR below −4": "accuracy_below_-4",
    "Accuracy, log-SNR −4 to 0": "accuracy_-4_to_0",
    "Accuracy, log-SNR 0 to 4": "accuracy_0_to_4",
    "Accuracy, log-SNR above 4": "accuracy_above_4",
    "Accuracy, training minus held-out data": "accuracy_gap",
}


def side_curves(rows: Rows) -> dict[str, Curve]:
    """Further curves of the metrics log, by title."""
    keys = {"Learning rate": "learning_rate", "Gradient norm": "grad_norm", "Items per second": "images_per_second"}
    keys |= {
        "Loss of the generator": "generator_loss",
        "Mean sign of the discriminator on training data, r_t": "r_t",
        "Probability of augmentation, p": "p",
    }
    plain = ("learning_rate", "p")
    curves = {title: curve(rows, "train", key, title, TRAIN, smooth=key not in plain) for title, key in keys.items()}
    gap = "Discriminator logit, training minus held-out data"
    curves[gap] = curve(rows, "validation", "d_real_gap", gap, RAW)
    for title, key in _ACCURACIES.items():
        curves[title] = curve(rows, "validation", key, title, RAW)
    return {title: line for title, line in curves.items() if len(line.x)}


def quality_metrics(rows: Rows) -> list[str]:
    """The metrics in the quality rows, without duplicates."""
    return list(dict.fromkeys(str(row["metric"]) for row in rows if row.get("kind") == "quality" and "metric" in row))


def quality_curve(rows: Rows, metric: str, label: str, colour: str) -> Curve:
    """One metric of the samples over images seen, with its standard errors."""
    metric_rows = [row for row in rows if row.get("kind") == "quality" and row.get("metric") == metric]
    value = curve(metric_rows, "quality", "value", label, colour)
    errors = dict(zip(*curve(metric_rows, "quality", "standard_error", label, colour)[1:3], strict=True))
    return value._replace(error=np.array([errors.get(images, 0.0) for images in value.x]))


def quality_curves(rows: Rows) -> dict[str, Curve]:
    """Each metric of the quality rows by its title."""
    curves = {name_of(key): quality_curve(rows, key, name_of(key), EMA) for key in quality_metrics(rows)}
    return {title: line for title, line in curves.items() if len(line.x)}


def drift_curves(rows: Rows, points: bool = False) -> dict[str, list[Curve]]:
    """Mean of each channel and contrast of the samples over images seen, and of the data (dashed), by title."""
    quality = [row for row in rows if row.get("kind") == "quality"]
    means = _mean_curves(quality, points)
    contrast = [
        curve(quality, "quality", "contrast", "samples", EMA),
        curve(quality, "quality", "data_contrast", "data", DATA)._replace(dashed=True),
    ]
    titles = ("Mean of each coordinate", "Spread") if points else ("Mean colour", "Contrast")
    found = dict(zip(titles, (means, contrast), strict=True))
    return {title: curves for title, curves in found.items() if curves and all(len(line.x) for line in curves)}


def _mean_curves(quality: Rows, points: bool) -> list[Curve]:
    count = max((len(row.get("mean") or []) for row in quality), default=0)
    names = _channel_names(count, points)
    colours = [EMA] if count == 1 else _channel_colours(count, points)
    curves = []
    for channel in range(count):
        flat = [{**row, "s": _entry(row, "mean", channel), "d": _entry(row, "data_mean", channel)} for row in quality]
        named = f", {names[channel]}" if names[channel] else ""
        curves.append(curve(flat, "quality", "s", f"samples{named}", colours[channel]))
        dashed_colour = DATA if count == 1 else colours[channel]
        curves.append(curve(flat, "quality", "d", f"data{named}", dashed_colour)._replace(dashed=True))
    return curves


def _entry(row: Mapping[str, Any], key: str, index: int) -> Any:
    values = row.get(key) or []
    return values[index] if index < len(values) else None


def _channel_names(count: int, points: bool) -> list[str]:
    if points:
        return [f"coordinate {index + 1}" for index in range(count)]
    return {1: [""], 3: ["red", "green", "blue"]}.get(count, [f"channel {index + 1}" for index in range(count)])


def _channel_colours(count: int, points: bool) -> list[str]:
    order = (1, 2, 0) if count == 3 and not points else range(count)  # red, green and blue of the palette
    return [RUN_COLOURS[index % len(RUN_COLOURS)] for index in order]


def time_curves(schedule: Schedule) -> dict[str, list[Curve]]:
    """alpha and sigma, and the log-SNR, over time."""
    return {
        "Signal α(t) and noise σ(t)": [
            _finite_curve("α, of the signal", schedule.t, schedule.alpha, EMA),
            _finite_curve("σ, of the noise", schedule.t, schedule.sigma, RAW),
        ],
        "Log-SNR λ(t)": [_finite_curve("log-SNR", schedule.t, schedule.log_snr, EMA)],
    }


def level_curves(schedule: Schedule) -> dict[str, list[Curve]]:
    """Density of the training draws and weight of the loss over the log-SNR; empty without a time density."""
    if not len(schedule.level):
        return {}
    density = [_finite_curve("density of training's draws", schedule.level, schedule.density, EMA)]
    if not len(schedule.weight):
        return {"Noise levels drawn": density}
    weight = _finite_curve("weight", schedule.level, schedule.weight, RAW)
    if np.ptp(weight.y) > 1e-6:
        density.append(_finite_curve("density × weight, scaled to one", schedule.level, schedule.share, RAW))
    return {"Noise levels drawn": density, WEIGHT: [weight]}


def _finite_curve(label: str, x: Values, y: Values, colour: str) -> Curve:
    finite = np.isfinite(y)
    return Curve(label, x[finite], y[finite], colour)


def run_curve(rows: Rows, kind: str, key: str, label: str, number: int) -> Curve:
    """A curve of run ``number`` of several, with the run's colour; dashed when colours repeat."""
    colour = RUN_COLOURS[number % len(RUN_COLOURS)]
    solid = curve(rows, kind, key, label, colour, smooth=kind == "train")
    return solid._replace(dashed=number >= len(RUN_COLOURS))
