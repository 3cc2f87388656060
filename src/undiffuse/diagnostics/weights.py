"""Checks of the weights: finite values, and a suitable half-life of the average."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from undiffuse.diagnostics.findings import Finding, percent
from undiffuse.diagnostics.run_context import RunContext
from undiffuse.wording import count_noun, format_names

_IMMATURE = 0.01  # fraction of the average that is still the initial weights
_LAGGING = 0.2  # half-life as a fraction of the run
_WORSE = 0.02  # relative to the loss


def ema(context: RunContext) -> Iterable[Finding]:
    """Whether the average has forgotten the initial weights, and whether it is better than the raw weights."""
    settings, seen = context.config["ema"], context.images_seen
    if seen:
        yield assess_ema(seen, int(settings["halflife_images"]), settings.get("rampup"))
    rows = [row for row in context.metrics_log if row.get("kind") == "validation" and "loss_raw" in row]
    if rows:
        yield assess_ema_loss(float(rows[-1]["loss"]), float(rows[-1]["loss_raw"]))


def assess_ema(images: int, halflife_images: int, rampup: float | None) -> Finding:
    """Fraction of the initial weights left in the average, and the half-life relative to the run.

    Without ramp-up the fraction left after N images is 0.5^(N/h) for a half-life h. With a half-life of min(h, r N) it
    decreases as a power of N during the ramp and is negligible at its end.
    """
    ramp = 0.0 if rampup is None else halflife_images / rampup
    left = 0.0 if rampup is not None else 0.5 ** (images / halflife_images)
    reached = halflife_images if images >= ramp else (rampup or 1.0) * images
    details = {"images": images, "halflife_images": halflife_images, "rampup": rampup, "first_weights_left": left}
    if left > _IMMATURE:
        return Finding(
            "problem" if left > 0.2 else "warning",
            "averaged weights are immature",
            f"after {images:,} images, {images / halflife_images:.2g} half-lives, {percent(left)} of them is still the "
            "weights at the start",
            "sample with --weights raw, train on, or set ema.rampup=0.05 or a shorter ema.halflife_images",
            details,
        )
    if reached > _LAGGING * images:
        return Finding(
            "note",
            "averaged weights lag behind",
            f"half of them is older than {reached:,.0f} of {images:,} images",
            "train on, or shorten ema.halflife_images",
            details,
        )
    return Finding("ok", "averaged weights", f"half-life {reached:,.0f} of {images:,} images", details=details)


def assess_ema_loss(averaged: float, raw: float) -> Finding:
    """The validation loss of the averaged weights compared with that of the raw ones."""
    details = {"loss": averaged, "loss_raw": raw}
    if not (math.isfinite(averaged) and math.isfinite(raw)):
        text = f"{averaged:g} averaged, {raw:g} raw"
        return Finding("problem", "validation losses are not finite", text, "see the finding about weights", details)
    worse = (averaged - raw) / abs(raw) if raw else 0.0
    if worse > _WORSE:
        return Finding(
            "warning" if worse < 0.2 else "problem",
            "averaged weights are worse than raw ones",
            f"validation loss {averaged:.4g} against {raw:.4g}, {percent(worse)} higher",
            "sample with --weights raw, train on, or shorten ema.halflife_images",
            details,
        )
    return Finding(
        "ok", "averaged against raw weights", f"validation loss {averaged:.4g} against {raw:.4g}", "", details
    )


def finite(context: RunContext) -> Iterable[Finding]:
    """Whether all weights are finite, and the distance between averaged and raw weights."""
    averaged = dict(context.model.module.state_dict())
    yield from assess_weights(averaged, context.raw)


def assess_weights(averaged: Mapping[str, Tensor], raw: Mapping[str, Tensor] | None) -> Iterable[Finding]:
    """The findings of ``finite`` for two sets of named tensors."""
    both = {f"{name} (averaged)": value for name, value in averaged.items()}
    both |= {f"{name} (raw)": value for name, value in (raw or {}).items()}
    bad = [name for name, value in both.items() if not bool(torch.isfinite(value).all())]
    trained = [name for name in averaged if not name.startswith("guide.")]  # which are not trained
    total = sum(averaged[name].numel() for name in trained)
    if bad:
        yield Finding(
            "problem",
            "weights that are not finite",
            f"{count_noun(len(bad), 'tensor')}: {format_names(bad)}",
            "go back to an earlier checkpoint, with a lower optimizer.learning_rate",
            {"tensors": bad},
        )
        return
    details: dict[str, float] = {"parameters": total}
    text = f"{total:,} finite numbers"
    if raw:
        names = [name for name in trained if name in raw and averaged[name].is_floating_point()]
        apart = math.sqrt(sum(float((averaged[n].cpu().double() - raw[n].double()).square().sum()) for n in names))
        size = math.sqrt(sum(float(raw[n].double().square().sum()) for n in names))
        details["relative_distance"] = apart / size if size else 0.0
        text += f"; averaged and raw ones are {percent(details['relative_distance'])} of their norm apart"
    yield Finding("ok", "weights", text, details=details)
