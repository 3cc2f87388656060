"""Study ``one-class``: one class against several at an equal training budget.

The same recipe is trained three times on the same number of images: of one class; of all classes; of all classes with
class conditioning. A model of one class spends its whole budget on it; a model of all classes sees fewer images of each
and shares common features between classes. So all are compared with real images of that class and of all classes; other
real images, compared in the same way, show the best possible score at that number of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.coverage import coverage
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.set_distance import FrechetSetDistance, SetDistance, set_distance
from undiffuse.studies.images.context import ImageArray
from undiffuse.studies.plots import image_grid

NEAREST = 5  # the neighbour that sets the radii of precision and recall
#: Maximum number of real images for comparison: precision and recall need all pairs.
REFERENCES = 2000
_SHOWN = 12
#: Minimum fraction of the real images of a class to which the classifier must assign the same label.
_KNOWN = 0.5


class Training(NamedTuple):
    """One of the trainings.

    Attributes:
        name: name of its folder.
        label: label in tables.
        one_class: whether it is trained on the one class only.
        conditional: whether it is conditioned on the class of each image.
    """

    name: str
    label: str
    one_class: bool
    conditional: bool


TRAININGS = (
    Training("one-class", "one class", True, False),
    Training("all-classes", "all classes", False, False),
    Training("all-classes-conditional", "all classes, conditional", False, True),
)


class SampleSet(NamedTuple):
    """Samples of a training: of the one class (``the class``) or without a requested class (``anything``)."""

    training: Training
    of_class: bool

    @property
    def label(self) -> str:
        """What is sampled, for tables."""
        return "the class" if self.of_class else "anything"


#: All sets of samples; an unconditional model cannot sample a given class.
SETS = (
    SampleSet(TRAININGS[0], False),
    SampleSet(TRAININGS[1], False),
    SampleSet(TRAININGS[2], True),
    SampleSet(TRAININGS[2], False),
)


class Target(NamedTuple):
    """Features (N, D) of real images, and their summary for the distance."""

    features: Tensor
    distance: SetDistance
    summary: Any


def target_of(
    extractor: FeatureExtractor, images: Tensor, num: int, what: str, distance: SetDistance | None = None
) -> Target:
    """Prepare real images for comparison with samples.

    Args:
        num: samples per set.
        what: name of the images, for messages.
        distance: the Fréchet distance by default.
    Raises:
        UsageError: if there are fewer images or samples than the distance needs with these features.
    """
    distance = distance or FrechetSetDistance()
    features = extractor.features(images)
    try:
        distance.check(min(num, len(features)), features.shape[1], "--metric kernel")
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from None
    return Target(features, distance, distance.of(features))


def scores(samples: Tensor, target: Target) -> dict[str, float]:
    """Distance with standard error, precision and recall of features (M, D) against a target."""
    name, distance = target.distance.name, target.distance
    estimate = distance.between(distance.of(samples), target.summary)
    found = coverage(target.features, samples, k=NEAREST)
    return {
        name: estimate.value,
        f"{name}_standard_error": estimate.standard_error,
        "precision": found.precision,
        "recall": found.recall,
    }


def class_share(extractor: FeatureExtractor, samples: Tensor, real: Tensor) -> float | None:
    """Fraction of samples with the class that the classifier predicts for most of ``real``.

    ``None`` without a classifier, or if the classifier does not have the class: if its predictions for ``real`` are
    spread over several classes, as those of an ImageNet classifier for sunflowers, the fraction would not be
    informative.

    Args:
        samples, real: uint8 images (N, C, H, W); all images of ``real`` are of one class.
    """
    try:
        predicted = extractor.classify(real).argmax(1)
    except UsageError:
        return None
    mode = int(predicted.mode().values)
    if (predicted == mode).double().mean() < _KNOWN:
        return None
    return float((extractor.classify(samples).argmax(1) == mode).double().mean())


def measure(
    extractor: FeatureExtractor, samples: Tensor, targets: Mapping[str, Target], real_of_class: Tensor
) -> dict[str, Any]:
    """All scores of a set of uint8 images against each target, and the fraction of the class."""
    features = extractor.features(samples)
    return {
        "class_share": class_share(extractor, samples, real_of_class),
        **{name: scores(features, target) for name, target in targets.items()},
    }


def markdown(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> str:
    """The table and its settings, as Markdown."""
    distance = set_distance(record["metric"])
    titles = [f"{name}, {of}" for of in ("the class", "all") for name in (distance.short_label, "precision", "recall")]
    head = ["trained on", "sampled", "images of the class seen", "classified as the class", *titles]
    lines = [
        "# One class against several at an equal training budget",
        "",
        f"Data: {record['data']}; the class: {record['class']}. {record['images']:,} images seen by each training of "
        f"the recipe {record['recipe']}, seed {record['seed']}; {record['samples']} samples of each set; "
        f"{record['features']} features, {record['references_class']:,} and {record['references_all']:,} real training "
        "images of the class and of all.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    lines += ["| " + " | ".join(row_texts(row, distance)) + " |" for row in rows]
    lines += [
        "",
        f"Lower {distance.label}s ({_published(distance)}: other features) and higher precision and recall are "
        "better. A model without class conditioning is measured by its unconditional samples. The last rows "
        "are other real images, as many as there are samples, which no model should be expected to exceed. Numbers "
        "after ± are standard errors over sampling, not over training runs.",
        "",
    ]
    return "\n".join(lines)


def _published(distance: SetDistance) -> str:
    """The published metric that it is not, since its features differ from those of the papers."""
    return "no FID" if distance.positive else "no KID"


def row_texts(row: Mapping[str, Any], distance: SetDistance) -> list[str]:
    """A row of the table as text."""
    cells = [row["trained_on"], row["asked_for"], _count(row.get("class_images"))]
    if row.get("failed"):
        return [*cells, row["failed"], *[""] * 6]
    share = row["class_share"]
    cells.append("–" if share is None else f"{share:.1%}")
    for name in ("class", "all"):
        part = row[name]
        cells += [f"{part[distance.name]:.3g} ± {part[f'{distance.name}_standard_error']:.2g}"]
        cells += [f"{part['precision']:.2f}", f"{part['recall']:.2f}"]
    return cells


def _count(value: float | None) -> str:
    return "–" if value is None else f"{round(value):,}"


def draw_samples(path: Path, rows: Sequence[tuple[str, str, ImageArray]]) -> None:
    """Write an image grid with one row per set: (label, note, images (N, C, H, W)), of which the first are shown."""
    table = image_grid.Table(
        [images[:_SHOWN] for _, _, images in rows],
        row_labels=[label for label, _, _ in rows],
        notes=[note for _, note, _ in rows],
    )
    image_grid.write([table], path)


def other_images(count: int, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of reference images and of ``num`` other images among ``count``, in a random order set by the seed.

    Raises:
        UsageError: if there are too few images for both.
    """
    if count < 2 * num:
        raise UsageError(
            f"{count} training images of one kind are too few to compare {num} samples with {num} real images and to "
            f"keep {num} others for reference; use --num {max(1, count // 2)} or fewer, or more data"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[num : num + REFERENCES], order[:num]
