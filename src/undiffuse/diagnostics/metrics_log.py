"""Checks of a run's metrics log: whether training finished, whether it diverged, whether it overfits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from undiffuse.diagnostics.findings import Finding, percent
from undiffuse.diagnostics.gan_dynamics import assess_balance, assess_gap, is_adversarial
from undiffuse.diagnostics.run_context import RunContext
from undiffuse.errors import UsageError
from undiffuse.wording import command, count_noun, format_names

Rows = Sequence[Mapping[str, Any]]

_DIVERGED = 1.5  # times the lowest smoothed loss
_SPIKE = 3.0  # times the local median
_WINDOW = 9
#: Epochs above which models have been observed to memorise images.
MANY_EPOCHS = 300


def progress(context: RunContext) -> Iterable[Finding]:
    """Whether training is finished and warmed up, and the number of epochs."""
    context.rows("train")
    seen, num_images = context.images_seen, int(context.config["num_images"])
    warmup = int(context.config["optimizer"]["warmup_images"])
    if seen < num_images:
        yield Finding(
            "warning",
            "training is not finished",
            f"{seen:,} of {num_images:,} images ({percent(seen / num_images)})",
            f"go on with: {command('train', '--resume', '--out', context.folder)}",
            {"images": seen, "num_images": num_images},
        )
    else:
        yield Finding("ok", "training is finished", count_noun(seen, "image"), details={"images": seen})
    if seen < warmup:
        yield Finding(
            "warning",
            "learning rate still warming up",
            f"{seen:,} of optimizer.warmup_images={warmup:,} were seen",
            f"train {'on' if seen < num_images else 'again for more num_images'}, or lower optimizer.warmup_images",
            {"images": seen, "warmup_images": warmup},
        )
    yield epochs(seen, int(context.record["data"]["train"]))


def epochs(images: int, num_training: int) -> Finding:
    """The number of epochs."""
    passes = images / max(num_training, 1)
    text = f"{count_noun(images, 'image')} are {passes:,.1f} passes over {count_noun(num_training, 'training item')}"
    details = {"epochs": passes, "training_items": num_training}
    if passes > MANY_EPOCHS:
        advice = "see the finding about memorisation; train for fewer num_images, or on more images"
        return Finding("warning", "each image was seen very often", text, advice, details)
    return Finding("ok", "passes over the data", text, details=details)


def losses(context: RunContext) -> Iterable[Finding]:
    """Loss and gradient norm over training: finite, falling, without spikes."""
    rows = context.rows("train")
    if is_adversarial(rows):
        yield from _not_finite(rows)
        yield assess_balance(rows)
    else:
        yield from assess_losses(rows)


def assess_losses(rows: Rows) -> Iterable[Finding]:
    """The findings of ``losses`` for rows with ``images``, ``loss`` and ``grad_norm``."""
    yield from _not_finite(rows)
    valid = [row for row in rows if _is_finite(row, "loss") and _is_finite(row, "grad_norm")]
    values = [float(row["loss"]) for row in valid]
    if len(values) < 2 * _WINDOW:
        yield Finding("note", "metrics log too short to assess", f"{count_noun(len(values), 'finite row')} of training")
        return
    yield from _shape(values)
    yield from _spikes(valid)


def _not_finite(rows: Rows) -> Iterable[Finding]:
    bad = [row for row in rows if not _is_finite(row, "loss") or not _is_finite(row, "grad_norm")]
    if bad:
        where = format_names(f"{row['images']:,}" for row in bad)
        yield Finding(
            "problem",
            "losses that are not finite",
            f"{len(bad)} of {count_noun(len(rows), 'row')} of the metrics log, at {where} images",
            "restart with a lower optimizer.learning_rate, optimizer.clip_norm=1 or system.precision=fp32",
            {"images": [row["images"] for row in bad]},
        )


def _shape(values: Sequence[float]) -> Iterable[Finding]:
    """Whether the loss diverged, is still falling, or has levelled off."""
    smooth = [statistics.median(values[i : i + _WINDOW]) for i in range(len(values) - _WINDOW + 1)]
    last, lowest = smooth[-1], min(smooth)
    part = smooth[-max(len(smooth) // 5, 2) :]
    fall = (part[0] - last) / abs(part[0]) if part[0] else 0.0
    details = {"last": last, "lowest": lowest, "first": values[0], "fall_over_last_fifth": fall}
    if lowest > 0 and last > _DIVERGED * lowest:
        yield Finding(
            "problem",
            "training diverged",
            f"the loss ends at {last:.4g}, {last / lowest:.2g} times its lowest, {lowest:.4g}",
            "restart with a lower optimizer.learning_rate",
            details,
        )
    elif fall > 0.05:
        text = f"it fell by {percent(fall)} over the last fifth of training, to {last:.4g}"
        yield Finding("note", "loss still falling", text, "train for more num_images, unless it overfits", details)
    else:
        text = f"from {values[0]:.4g} to {last:.4g}, {percent(max(fall, 0.0))} of it over the last fifth"
        yield Finding("ok", "loss has levelled off", text, details=details)


def _spikes(rows: Rows) -> Iterable[Finding]:
    for key in ("loss", "grad_norm"):
        values = [float(row.get(key, math.nan)) for row in rows]
        half = _WINDOW // 2
        found = [
            int(rows[i]["images"])
            for i in range(half, len(values))
            if values[i] > _SPIKE * statistics.median(values[max(i - half, 0) : i + half + 1])
        ]
        if found:
            many, where = len(found) > 0.02 * len(values), format_names(f"{images:,}" for images in found)
            yield Finding(
                "warning" if many else "note",
                f"spikes of the {'loss' if key == 'loss' else 'gradient norm'}",
                f"{len(found)} of {count_noun(len(values), 'row')} above {_SPIKE:g} times the median around them, at "
                f"{where} images",
                "lower optimizer.learning_rate or optimizer.clip_norm if samples suffer",
                {"images": found},
            )


def overfitting(context: RunContext) -> Iterable[Finding]:
    """Whether the validation loss rises again."""
    rows = context.rows("validation")
    yield from assess_gap(rows) if is_adversarial(rows) else assess_validation(rows)


def assess_validation(rows: Rows) -> Iterable[Finding]:
    """The finding of ``overfitting`` for rows with ``images`` and ``loss``."""
    valid = [row for row in rows if _is_finite(row, "loss")]
    if len(valid) < 2:
        raise UsageError(
            f"the metrics log has {count_noun(len(valid), 'validation loss')}, 2 are needed; train with a "
            "validate_every_images that the run passes at least twice, and with data.validation_fraction above 0"
        )
    best = min(valid, key=lambda row: float(row["loss"]))
    last, lowest = float(valid[-1]["loss"]), float(best["loss"])
    rise = (last - lowest) / abs(lowest) if lowest else 0.0
    details = {"last": last, "lowest": lowest, "lowest_at_images": best["images"], "rise": rise}
    if rise > 0.05:
        yield Finding(
            "problem" if rise > 0.25 else "warning",
            "validation loss rises again",
            f"it was lowest, {lowest:.4g}, at {best['images']:,} images and is {percent(rise)} higher at the end",
            f"train again with num_images={best['images']}, a smaller network, dropout or more images",
            details,
        )
    else:
        yield Finding("ok", "validation loss", f"{last:.4g} at the end, lowest {lowest:.4g}", details=details)


def _is_finite(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key, 0.0)
    return isinstance(value, int | float) and math.isfinite(value)
