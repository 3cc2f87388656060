"""Texts about a run: the summary sentence, formatted numbers, the table of settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from undiffuse.core.space import Space
from undiffuse.models.options import option_rows
from undiffuse.seen import images_seen
from undiffuse.wording import count_noun as number_of


class Progress(NamedTuple):
    """Progress of a run; 0 images and ``None`` for values that are not recorded."""

    images: int
    seconds: float | None
    loss: float | None
    loss_raw: float | None


def progress_of(record: Mapping[str, Any], metrics_log: Sequence[Mapping[str, Any]]) -> Progress:
    """Images seen (also from a model's record), training seconds and the last validation losses."""
    seconds = [row["wall"]["seconds"] for row in metrics_log if "seconds" in row.get("wall", {})]
    validation = [row for row in metrics_log if row.get("kind") == "validation"]
    last = validation[-1] if validation else {}
    return Progress(
        images_seen(record, metrics_log), max(seconds, default=None), last.get("loss"), last.get("loss_raw")
    )


def dig(tree: Any, path: str) -> Any:
    """The value at ``a.b.c`` of nested mappings, or None."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def headline(record: Mapping[str, Any], progress: Progress, measured: Sequence[str]) -> str:
    """The model, its data, the length of its training and its results, in one or two sentences."""
    config, epoch = record.get("config", {}), dig(record, "data.train")
    passes = f" ({progress.images / epoch:.3g} passes)" if epoch else ""
    spent = f" in {duration(progress.seconds)}" if progress.seconds is not None else ""
    text = f"{_what(config)} trained on {_data(record)}"
    if progress.images:
        text += f". It saw {progress.images:,} {items_of(record)}{passes}{spent}"
    if progress.loss is not None:
        text += f" and ended at a validation loss of {number(progress.loss)}"
    return f"{text}. Measured: {', '.join(measured)}." if measured else f"{text}."


def _what(config: Mapping[str, Any]) -> str:
    named, process = dig(config, "system.name") or "generative", dig(config, "system.process.name")
    kind = "GAN" if named == "gan" else named
    network, predicts = dig(config, "system.network.name"), dig(config, "system.parameterization")
    objective = dig(config, "system.objective.name")
    parts = {
        f"{objective} objective": objective,
        f"{process} process": process,
        f"{predicts} prediction": predicts,
        f"{network} network": network,
    }
    details = ", ".join(text for text, known in parts.items() if known)
    return f"A {kind} model ({details})" if details else f"A {kind} model"


def _data(record: Mapping[str, Any]) -> str:
    shape, classes = dig(record, "model.shape") or [], classes_of(record)
    count, name = dig(record, "data.train"), dig(record, "config.data.name") or "unnamed data"
    text = f"{count:,} {items_of(record)} of {name}" if isinstance(count, int) else str(name)
    extras = [size_of(shape)] if is_image(shape) else []
    extras += [number_of(len(classes), "class")] if classes else []
    return f"{text} ({', '.join(extras)})" if extras else text


def classes_of(record: Mapping[str, Any]) -> list[str]:
    """The classes that the model is conditioned on; none for an unconditional model."""
    conditional = dig(record, "config.system.class_conditional")
    return [str(name) for name in dig(record, "model.class_names") or []] if conditional else []


def items_of(record: Mapping[str, Any]) -> str:
    """The kind of a run's items: ``points`` of the plane or ``images``."""
    return "points" if dig(record, "model.shape") == [2] else "images"


def is_image(shape: Sequence[int]) -> bool:
    """Whether a record's samples are images; False if it has no shape."""
    return bool(shape) and Space.of_data(shape).is_image


def size_of(shape: Sequence[int]) -> str:
    """(1, 8, 9) -> ``8 × 9 pixels, grey``: height before width as in the arrays."""
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
    """A number with four significant digits; anything else as JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def count_noun(names: Sequence[str]) -> str:
    """Names joined by commas, with the count of repeated ones: ``as it is, flip, all together (5 times)``."""
    groups = [(name, len(list(same))) for name, same in groupby(names)]
    return ", ".join(name if count == 1 else f"{name} ({count} times)" for name, count in groups)


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted keys ``a.b.c`` with their values, in the format of the command line."""
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
    "Objective": "system.objective.name",
    "Generator": "system.generator.name",
    "Discriminator": "system.discriminator.name",
    "Precision": "system.precision",
    **{row.option.title: f"system.sampling.{row.field}" for row in option_rows().values() if row.option.title},
    "Optimizer": "optimizer.name",
    "Learning rate": "optimizer.learning_rate",
    "Batch": "batch_images",
    "EMA half-life": "ema.halflife_images",
    "Seed": "seed",
}


def glance(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The most important settings of a configuration."""
    found = [(title, dig(config, path)) for title, path in AT_A_GLANCE.items()]
    unit = {title: " images" for title, path in AT_A_GLANCE.items() if path.endswith("_images")}
    return [(title, number(value) + unit.get(title, "")) for title, value in found if value is not None]
