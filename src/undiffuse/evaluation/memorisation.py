"""Memorisation: nearest training images in pixels and in features, and the gap between two losses.

The conclusion follows from stated thresholds on three signs:

    near     samples nearer to a training image than 99 % of the held-out images are; 1 % of real ones are
    ratio    median distance of a sample to its nearest training image, over the same median of held-out images
    gap      (held-out loss - training loss) / held-out loss, with the same times and noise

``likely copies``: near from a quarter on, or ratio below a half, in pixels or in features. ``signs of copying``: near
from a tenth on in pixels, or a gap from a quarter on that is more than three standard errors. Otherwise ``no sign of
copying``. In features a legible, typical sample lies near to training images without being one of them, so there
only the first rule counts.
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
from undiffuse.evaluation.base import Result, spread
from undiffuse.evaluation.context import EvaluationContext, need_held_out, need_images
from undiffuse.evaluation.gather import Rows, nearest_in
from undiffuse.evaluation.generalisation_gap import GeneralisationGap, generalisation_gap
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.neighbours import CopyingSummary, Neighbours, summarise_copying
from undiffuse.metrics.summary import PIXEL_BYTES
from undiffuse.objectives.from_model import objective_of

#: Shares of samples nearer than 99 % of the held-out images; a ratio of medians; a relative gap of losses.
LIKELY_SHARE, LIKELY_RATIO, SIGN_SHARE, SIGN_GAP = 0.25, 0.5, 0.1, 0.25
LIKELY, SIGNS, NONE = "likely copies", "signs of copying", "no sign of copying"
FEWEST = 50  # held-out images whose first percentile says anything: of a few, the nearest lies anywhere
RULE = (
    f"{LIKELY!r} where at least {LIKELY_SHARE:g} of the images are nearer than 99 % of the held-out ones, or the "
    f"ratio is below {LIKELY_RATIO:g}, in pixels or features; {SIGNS!r} from a share of {SIGN_SHARE:g} on in pixels, "
    f"or from a gap of losses of {SIGN_GAP:g} on that is beyond three standard errors; else {NONE!r}. Shares count "
    f"from {FEWEST} held-out images on, which must be of the same kind as the training images"
)
MOST = 10_000  # queries, of either side
_CLOSEST = 16  # samples that a memorisation result names
_CHEAP_FEATURES = 256  # with more of them an image takes long, and only those of the reference summary are searched


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
    held_out = spread(context.held_out, min(context.protocol.num, most(context.held_out)))
    bank = context.generated_images
    searches = search(bank.rows, held_out, context.train, context.extractor)
    objective, gap = objective_of(context.model), None
    if objective is not None and objective.loss_available:
        gap = generalisation_gap(objective, context.train, context.held_out, context.protocol.seed)
    stated = {
        "distance": "L2",
        "samples": context.sampling(),
        "samples_searched": len(bank.rows),
        "held_out_images": len(held_out),
        "held_out_fingerprint": context.held_out.fingerprint,
        "data_fingerprint": context.train.fingerprint,
    }
    closest = _closest(searches[0].sampled, bank.numbers, context.protocol.seed)
    return [*neighbour_results(searches, stated, context.extractor, closest, gap), *_gap_result(gap, stated)]


def check_memorisation(context: EvaluationContext) -> None:
    """Refuse a model of points, or one without held-out images as a reference, before anything is sampled."""
    need_images(context, "copying")
    need_held_out(context, "copying", 2)


def most(dataset: Dataset) -> int:
    """Images of a set that are queried at most: they are held in memory."""
    return max(2, min(MOST, PIXEL_BYTES // math.prod(dataset.shape)))


def search(
    samples: Tensor, held_out: Tensor, train: Dataset, extractor: FeatureExtractor, own: Rows | None = None
) -> list[Search]:
    """Searches in pixels and, where they are something else, in features.

    Args:
        samples, held_out: uint8 images (N, C, H, W) and (M, C, H, W).
        train: the set that they are looked for in.
        own: where the held-out images are ``train``'s own, their rows in it: each is no neighbour of itself.
    """
    spaces: list[tuple[str, Callable[[Tensor], Tensor], Rows]] = [("pixels", _itself, np.arange(len(train)))]
    if extractor.name != "pixels":
        some = len(train) if (extractor.dim or math.inf) <= _CHEAP_FEATURES else min(len(train), MOST // 2)
        spaces.append((f"{extractor.name} features", extractor.features, evenly_spaced(len(train), some)))
    found = []
    for name, space, rows in spaces:
        queries = torch.cat([space(images) for images in (samples, held_out)])
        near = nearest_in(queries, train, rows, space, k=1 if own is None else 2)
        sampled, scale = (_rows(near, part) for part in (slice(len(samples)), slice(len(samples), None)))
        scale = scale if own is None else _without(scale, own)
        found.append(Search(name, Neighbours(sampled.distances[:, :1], sampled.indices[:, :1]), scale, len(rows)))
    return found


def _itself(images: Tensor) -> Tensor:
    return images


def _rows(neighbours: Neighbours, rows: slice) -> Neighbours:
    return Neighbours(neighbours.distances[rows], neighbours.indices[rows])


def _without(neighbours: Neighbours, own: Rows) -> Neighbours:
    """The nearest neighbour of each row that is not the row itself."""
    second = (neighbours.indices[:, 0] == torch.from_numpy(own)).long()[:, None]
    return Neighbours(neighbours.distances.gather(1, second), neighbours.indices.gather(1, second))


def neighbour_results(
    searches: list[Search],
    stated: dict[str, Any],
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
        protocol = {"space": found.space, **({} if pixels else extractor.protocol()), **stated}
        protocol["training_images"] = found.num_training
        name = "neighbour_ratio" if pixels else "neighbour_ratio_features"
        unit = "median distance / that of held-out images"
        results.append(Result(name, summary.ratio, unit, None, "near 1", protocol, details))
    return results


def _gap_result(gap: GeneralisationGap | None, stated: dict[str, Any]) -> list[Result]:
    if gap is None:
        return []
    protocol = {key: value for key, value in stated.items() if not key.startswith("samples")}
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
    return summary.share_below_first_percentile if summary.num_held_out >= FEWEST else 0.0


def _closest(sampled: Neighbours, numbers: Tensor, seed: int) -> list[dict[str, Any]]:
    """The samples nearest to any training image: the first to look at."""
    order = sampled.distances[:, 0].argsort(stable=True)[:_CLOSEST].tolist()
    return [
        {
            "seed": seed + int(numbers[row]),
            "training_item": int(sampled.indices[row, 0]),
            "distance": float(sampled.distances[row, 0]),
        }
        for row in order
    ]
