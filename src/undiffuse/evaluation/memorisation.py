"""Memorisation: nearest training images in pixels and in features, and the gap between training and held-out loss.

The conclusion follows from thresholds on three statistics:

    near     fraction of samples nearer to a training image than 99 % of the held-out images; 0.01 for real images
    ratio    median distance of a sample to its nearest training image, over the same median of held-out images
    gap      (held-out loss - training loss) / held-out loss, with the same times and noise

``likely copies``: near >= 1/4 or ratio < 1/2, in pixels or in features. ``signs of copying``: near >= 1/10 in pixels,
or a gap of at least 1/4 that is more than three standard errors. Otherwise ``no sign of copying``. In feature space a
typical sample is near to training images without being a copy, so only the first rule applies to features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse.data.audit import evenly_spaced
from undiffuse.data.dataset import Dataset
from undiffuse.evaluation.base import Result, evenly_spaced_subset
from undiffuse.evaluation.context import EvaluationContext, need_held_out, need_images
from undiffuse.evaluation.generalisation_gap import GeneralisationGap, generalisation_gap
from undiffuse.evaluation.streaming import Rows, nearest_in
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.neighbours import CopyingSummary, Neighbours, summarise_copying
from undiffuse.metrics.summary import PIXEL_BYTES
from undiffuse.objectives.from_model import objective_of

#: Thresholds of ``near``, ``ratio``, ``near`` again and ``gap``; see the module.
LIKELY_SHARE, LIKELY_RATIO, SIGN_SHARE, SIGN_GAP = 0.25, 0.5, 0.1, 0.25
LIKELY, SIGNS, NONE = "likely copies", "signs of copying", "no sign of copying"
MIN_HELD_OUT = 50  # held-out images that are needed to estimate their first percentile
RULE = (
    f"{LIKELY!r} where at least {LIKELY_SHARE:g} of the images are nearer than 99 % of the held-out ones, or the "
    f"ratio is below {LIKELY_RATIO:g}, in pixels or features; {SIGNS!r} from a share of {SIGN_SHARE:g} on in pixels, "
    f"or from a gap of losses of {SIGN_GAP:g} on that is beyond three standard errors; else {NONE!r}. Shares count "
    f"from {MIN_HELD_OUT} held-out images on, which must be of the same kind as the training images"
)
MAX_QUERIES = 10_000  # on either side
_CLOSEST = 16  # samples listed in a memorisation result
_CHEAP_FEATURES = 256  # with more features per image, which are slow, only a subset of the training images is searched


@dataclass(frozen=True)
class Search:
    """Nearest training images of samples and of held-out images in one space."""

    space: str
    sampled: Neighbours
    held_out: Neighbours
    num_training: int

    @property
    def summary(self) -> CopyingSummary:
        """Distances of samples relative to those of held-out images."""
        return summarise_copying(self.sampled.distances[:, 0], self.held_out.distances[:, 0], self.num_training)


def memorisation(context: EvaluationContext) -> list[Result]:
    """Whether the model repeats its training images: distances to them, relative to those of held-out ones."""
    check_memorisation(context)
    held_out = evenly_spaced_subset(context.held_out, min(context.protocol.num, max_queries(context.held_out)))
    bank = context.generated_images
    searches = search(bank.rows, held_out, context.train, context.extractor)
    objective, gap = objective_of(context.model), None
    if objective is not None and objective.loss_available:
        gap = generalisation_gap(objective, context.train, context.held_out, context.protocol.seed)
    entries = {
        "distance": "L2",
        "samples": context.sampling(),
        "samples_searched": len(bank.rows),
        "held_out_images": len(held_out),
        "held_out_fingerprint": context.held_out.fingerprint,
        "data_fingerprint": context.train.fingerprint,
    }
    closest = _closest(searches[0].sampled, bank.numbers, context.protocol.seed)
    return [*neighbour_results(searches, entries, context.extractor, closest, gap), *_gap_result(gap, entries)]


def check_memorisation(context: EvaluationContext) -> None:
    """Check before sampling that the model generates images and that there are held-out images."""
    need_images(context, "copying")
    need_held_out(context, "copying", 2)


def max_queries(dataset: Dataset) -> int:
    """Maximum number of query images from a set; they are all in memory."""
    return max(2, min(MAX_QUERIES, PIXEL_BYTES // math.prod(dataset.shape)))


def search(
    samples: Tensor, held_out: Tensor, train: Dataset, extractor: FeatureExtractor, self_rows: Rows | None = None
) -> list[Search]:
    """Nearest-neighbour searches in pixels and, unless the features are pixels, in features.

    Args:
        samples, held_out: uint8 images (N, C, H, W) and (M, C, H, W).
        train: the set that is searched.
        self_rows: if the held-out images are part of ``train``, their rows in it, to exclude each from its neighbours.
    """
    spaces: list[tuple[str, Callable[[Tensor], Tensor], Rows]] = [("pixels", _identity, np.arange(len(train)))]
    if extractor.name != "pixels":
        count = len(train) if (extractor.dim or math.inf) <= _CHEAP_FEATURES else min(len(train), MAX_QUERIES // 2)
        spaces.append((f"{extractor.name} features", extractor.features, evenly_spaced(len(train), count)))
    found = []
    for name, space, rows in spaces:
        queries = torch.cat([space(images) for images in (samples, held_out)])
        near = nearest_in(queries, train, rows, space, k=1 if self_rows is None else 2)
        sampled, scale = (_rows(near, part) for part in (slice(len(samples)), slice(len(samples), None)))
        scale = scale if self_rows is None else _exclude_self(scale, self_rows)
        found.append(Search(name, Neighbours(sampled.distances[:, :1], sampled.indices[:, :1]), scale, len(rows)))
    return found


def _identity(images: Tensor) -> Tensor:
    return images


def _rows(neighbours: Neighbours, rows: slice) -> Neighbours:
    return Neighbours(neighbours.distances[rows], neighbours.indices[rows])


def _exclude_self(neighbours: Neighbours, self_rows: Rows) -> Neighbours:
    """The nearest neighbour of each row that is not the row itself."""
    second = (neighbours.indices[:, 0] == torch.from_numpy(self_rows)).long()[:, None]
    return Neighbours(neighbours.distances.gather(1, second), neighbours.indices.gather(1, second))


def neighbour_results(
    searches: list[Search],
    entries: dict[str, Any],
    extractor: FeatureExtractor,
    closest: list[dict[str, Any]],
    gap: GeneralisationGap | None = None,
) -> list[Result]:
    """A ratio of medians for each space, each with the conclusion."""
    found_by_rule = conclusion([found.summary for found in searches], gap)
    concluded = {"verdict": found_by_rule, "rule": RULE}  # data
    results = []
    for found in searches:
        pixels, summary = found.space == "pixels", found.summary
        details = {**concluded, **summary.to_dict(), **({"closest": closest} if pixels else {})}
        protocol = {"space": found.space, **({} if pixels else extractor.protocol()), **entries}
        protocol["training_images"] = found.num_training
        name = "neighbour_ratio" if pixels else "neighbour_ratio_features"
        unit = "median distance / that of held-out images"
        results.append(Result(name, summary.ratio, unit, None, "near 1", protocol, details))
    return results


def _gap_result(gap: GeneralisationGap | None, entries: dict[str, Any]) -> list[Result]:
    if gap is None:
        return []
    protocol = {key: value for key, value in entries.items() if not key.startswith("samples")}
    protocol |= {"distance": "none", "loss": "the model's own"}
    protocol |= {"pictures": gap.num_images, "rounds": gap.num_rounds}  # data
    details = {"training_loss": gap.training, "held_out_loss": gap.held_out}
    unit = "(held-out - training loss) / held-out loss"
    return [Result("training_gap", gap.relative, unit, gap.standard_error, "near 0", protocol, details)]


def conclusion(summaries: list[CopyingSummary], gap: GeneralisationGap | None) -> str:
    """The conclusion by the rule of this module; the first summary is that in pixels."""
    if any(_likely(summary) for summary in summaries):
        return LIKELY
    near = _share(summaries[0]) >= SIGN_SHARE
    known = gap is not None and gap.relative is not None and gap.relative >= SIGN_GAP
    surely = gap is None or gap.standard_error is None or (gap.relative or 0) > 3 * gap.standard_error
    return SIGNS if near or (known and surely) else NONE


def _likely(summary: CopyingSummary) -> bool:
    return _share(summary) >= LIKELY_SHARE or (summary.ratio is not None and summary.ratio < LIKELY_RATIO)


def _share(summary: CopyingSummary) -> float:
    return summary.share_below_first_percentile if summary.num_held_out >= MIN_HELD_OUT else 0.0


def _closest(sampled: Neighbours, numbers: Tensor, seed: int) -> list[dict[str, Any]]:
    """The samples nearest to any training image, nearest first."""
    order = sampled.distances[:, 0].argsort(stable=True)[:_CLOSEST].tolist()
    return [
        {
            "seed": seed + int(numbers[row]),
            "training_item": int(sampled.indices[row, 0]),
            "distance": float(sampled.distances[row, 0]),
        }
        for row in order
    ]
