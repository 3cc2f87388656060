"""Memorisation: whether samples repeat training images.

The distance of each sample to its nearest training image is compared with that of held-out real images. If fewer than
ten were held out, training images are used instead, with their distance to the nearest other training image.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from undiffuse.diagnostics.duplicates import thumbnails
from undiffuse.diagnostics.findings import Finding, percent
from undiffuse.diagnostics.run_context import RunContext
from undiffuse.metrics.neighbours import CopyingSummary, Neighbours, nearest_neighbours, summarise_copying
from undiffuse.wording import format_names

#: Maximum number of training images searched, as thumbnails.
_MAX_TRAINING = 200_000
_NAMED = 16
_REAL = 500
#: Minimum number of held-out images for a reference distribution.
_MIN_HELD_OUT = 10


def memorisation(context: RunContext) -> Iterable[Finding]:
    """Whether samples are nearer to the training set than real images are."""
    context.check_images()
    training = thumbnails(context.real(_MAX_TRAINING))
    sampled = nearest_neighbours(thumbnails(context.samples), training)
    held_out = thumbnails(context.real(_REAL, held_out=True))
    if len(held_out) >= _MIN_HELD_OUT:
        real, scale = nearest_neighbours(held_out, training).distances[:, 0], "held-out images"
    else:
        real, scale = (
            _distances_within(training),
            f"training images to each other, {_reason_for_training_scale(len(held_out))}",
        )
    summary = summarise_copying(sampled.distances[:, 0], real, len(training))
    yield assess_memorisation(summary, scale, _closest(context, sampled))


def _reason_for_training_scale(count: int) -> str:
    if count == 0:
        return "because none were held out"
    return f"because {count} held out {'is' if count == 1 else 'are'} too few for a scale"


def _distances_within(training: Tensor) -> Tensor:
    """(M,) distance of training images to the nearest other training image."""
    rows = torch.linspace(0, len(training) - 1, min(len(training), _REAL)).round().long()
    return nearest_neighbours(training[rows], training, k=2).distances[:, 1]


def _closest(context: RunContext, sampled: Neighbours) -> list[dict[str, Any]]:
    order = sampled.distances[:, 0].argsort()[:_NAMED].tolist()
    return [
        {
            "seed": context.seed + row,
            "training_item": context.data[0].item_name(int(sampled.indices[row, 0])),
            "distance": float(sampled.distances[row, 0]),
        }
        for row in order
    ]


def assess_memorisation(summary: CopyingSummary, scale: str, closest: list[dict[str, Any]]) -> Finding:
    """The finding of ``memorisation`` for a summary; 1 % of samples is expected below the scale's first percentile."""
    near, ratio = summary.share_below_first_percentile, summary.ratio
    details = {**summary.to_dict(), "scale": scale, "closest": closest}
    shown = "-" if ratio is None else f"{ratio:.2f}"
    text = (
        f"{percent(near)} of {summary.num_samples} samples are nearer to a training image than 99 % of {scale}; "
        f"ratio of median distances {shown}"
    )
    named = format_names(f"seed {pair['seed']} = {pair['training_item']}" for pair in closest)
    advice = "look at the pairs in doctor.json (closest); train on more images or for fewer num_images"
    if near >= 0.2 or (ratio is not None and ratio < 0.6):
        return Finding("problem", "the model copies its training images", f"{text}: {named}", advice, details)
    if near >= 0.06 and near * summary.num_samples >= 8:
        return Finding("warning", "some samples are likely copies", f"{text}: {named}", advice, details)
    return Finding("ok", "no copying seen", text, details=details)
