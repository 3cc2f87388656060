"""Numbers and settings in words: the summary sentence, the table of metrics, the table of settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """One line of the table of metrics, ready to print."""

    name: str
    value: str
    uncertainty: str
    unit: str
    gist: str
    protocol: list[tuple[str, str]]


class Progress(NamedTuple):
    """Where the run stands, from its journal; None where the journal is silent."""

    images: int
    seconds: float | None
    loss: float | None
    loss_raw: float | None


def progress_of(journal: Sequence[Mapping[str, Any]]) -> Progress:
    """Images seen, seconds spent and the last validation losses."""
    seconds = [row["wall"]["seconds"] for row in journal if "seconds" in row.get("wall", {})]
    validation = [row for row in journal if row.get("kind") == "validation"]
    last = validation[-1] if validation else {}
    images = max((int(row["images"]) for row in journal if "images" in row), default=0)
    return Progress(images, max(seconds, default=None), last.get("loss"), last.get("loss_raw"))


def dig(tree: Any, path: str) -> Any:
    """The value at ``a.b.c`` of nested mappings, or None."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def headline(record: Mapping[str, Any], progress: Progress, metrics: Sequence[Metric]) -> str:
    """What was trained on what, for how long, and what came of it, in one or two sentences."""
    config, trained = record.get("config", {}), dig(record, "data.train")
    passes = f" ({progress.images / trained:.3g} passes)" if trained else ""
    spent = f" in {duration(progress.seconds)}" if progress.seconds is not None else ""
    text = f"{_what(config)} trained on {_data(record)}. It saw {progress.images:,} items{passes}{spent}"
    if progress.loss is not None:
        text += f" and ended at a validation loss of {number(progress.loss)}"
    figures = ", ".join(f"{m.name} {m.value}{f' ± {m.uncertainty}' if m.uncertainty else ''} {m.unit}".strip() for m in metrics[:3])
    return f"{text}. Measured: {figures}." if figures else f"{text}."


def _what(config: Mapping[str, Any]) -> str:
    kind, process = dig(config, "system.name") or "generative", dig(config, "system.process.name")
    network, predicts = dig(config, "system.network.name"), dig(config, "system.parameterization")
    parts = [f"{process} process" if process else "", f"{predicts} prediction" if predicts else "", f"{network} network" if network else ""]
    details = ", ".join(part for part in parts if part)
    return f"A {kind} model ({details})" if details else f"A {kind} model"


def _data(record: Mapping[str, Any]) -> str:
    shape, classes = dig(record, "model.shape") or [], dig(record, "model.class_names") or []
    count, name = dig(record, "data.train"), dig(record, "config.data.name") or "unnamed data"
    text = f"{count:,} items of {name}" if isinstance(count, int) else str(name)
    extras = [size_of(shape)] if shape else []
    extras += [f"{len(classes)} classes"] if classes else []
    return f"{text} ({', '.join(extras)})" if extras else text


def size_of(shape: Sequence[int]) -> str:
    """(1, 8, 9) -> ``8 × 9 pixels, grey``: height before width as in the arrays."""
    if len(shape) != 3:
        return f"{'×'.join(map(str, shape))} values each"
    colour = {1: "grey", 3: "colour"}.get(shape[0], f"{shape[0]} channels")
    return f"{shape[1]} × {shape[2]} pixels, {colour}"


def duration(seconds: float) -> str:
    """3.2 -> ``3.2 s``; 75 -> ``1 min 15 s``; 7500 -> ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def number(value: Any) -> str:
    """A number to four figures; anything else as JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def with_uncertainty(value: Any, uncertainty: Any) -> tuple[str, str]:
    """Both to the same decimal: the uncertainty to two figures, the value no further than that."""
    known = isinstance(uncertainty, int | float) and not isinstance(uncertainty, bool) and math.isfinite(uncertainty)
    if not known or uncertainty <= 0 or not isinstance(value, int | float) or not math.isfinite(value):
        return ("–" if value is None else number(value)), ""
    decimals = max(0, 1 - math.floor(math.log10(uncertainty)))
    if decimals > 6:
        return f"{value:.4g}", f"{uncertainty:.2g}"
    return f"{value:,.{decimals}f}", f"{uncertainty:,.{decimals}f}"


def metrics_of(evaluation: Mapping[str, Any] | None) -> list[Metric]:
    """The lines of the table of metrics."""
    lines = []
    for row in (evaluation or {}).get("results", []):
        value, uncertainty = with_uncertainty(row.get("value"), row.get("uncertainty"))
        protocol = list(flattened(row.get("protocol") or {}))
        gist = " · ".join(f"{key} {text}" for key, text in protocol if len(text) <= 24)
        name = str(row.get("metric", "unnamed")).replace("_", " ")
        lines.append(Metric(name, value, uncertainty, str(row.get("unit") or ""), gist, protocol))
    return lines


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as ``a.b.c`` and their values, as one would write them on the command line."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


AT_A_GLANCE = {
    "Process": "system.process.name",
    "Network predicts": "system.parameterization",
    "Loss weighting": "system.weighting.name",
    "Time density": "system.time_density.name",
    "Network": "system.network.name",
    "Precision": "system.precision",
    "Sampler": "system.sampling.sampler",
    "Sampling steps": "system.sampling.num_steps",
    "Optimizer": "optimizer.name",
    "Learning rate": "optimizer.learning_rate",
    "Batch": "batch_images",
    "EMA half-life": "ema.halflife_images",
    "Seed": "seed",
}


def glance(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings a reader asks for first, those of them that this configuration has."""
    found = [(title, dig(config, path)) for title, path in AT_A_GLANCE.items()]
    units = {"Batch": " images", "EMA half-life": " images"}
    return [(title, number(value) + units.get(title, "")) for title, value in found if value is not None]
