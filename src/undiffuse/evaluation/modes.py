"""Metric ``modes``: the modes of the data that samples cover, how evenly, and whether the model has collapsed.

The modes of points are those of the source's mixture. The modes of grey images are the classes of the classifier that
fits the data; for stacks of three channels, all triples of classes. See ``metrics.modes`` for the counts and the
definition of collapse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undiffuse.config import Component
from undiffuse.core.space import Space
from undiffuse.data.audit import evenly_spaced
from undiffuse.data.config import SourceConfig, StackedMnistConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.registry import SOURCE_CONFIGS
from undiffuse.data.sources.modes import PointModes, known_modes
from undiffuse.errors import UsageError
from undiffuse.evaluation.base import Result
from undiffuse.evaluation.context import EvaluationContext
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import fitting_features, load_features
from undiffuse.metrics.modes import (
    WITHIN,
    ModeAssignments,
    Modes,
    assign_images,
    assign_points,
    classify_channels,
    equal_shares,
    good_of_gaussian,
    measure_modes,
    product_shares,
    smoothed,
    to_details,
)

#: Real images on which the classifier's class distribution is measured.
REAL_IMAGES = 1000


class DataModes(NamedTuple):
    """The modes of the data, and how samples are assigned to them.

    Attributes:
        description: what a mode is.
        shares: (K,) of the data in each mode.
        assign: (samples) -> their modes, and the fraction of real data that is good.
        protocol: entries of a result's protocol.
    """

    description: str
    shares: Tensor
    assign: Callable[[Tensor], ModeAssignments]
    protocol: dict[str, Any]


def modes(context: EvaluationContext) -> list[Result]:
    """Modes found, fraction of good samples, KL of the modes' histogram from the data's, and whether it collapsed."""
    check_modes(context)
    model = context.model
    known = data_modes(source_of(model.config), model.module.shape, model.origin, lambda: context.train)
    samples = context.generated_images.rows if context.generates_images else context.samples
    found = measure_modes(known.assign(samples), known.shares)
    return _results(found, {**known.protocol, "modes": known.description, "samples": context.sampling()})


def mode_counter(
    record: Mapping[str, Any], shape: tuple[int, ...], origin: str, load_train: Callable[[], Dataset]
) -> Callable[[Tensor], Modes] | None:
    """A function that counts the modes of finished samples, ``None`` for data without known modes.

    Args:
        record: the model's ``config.json``.
        shape: of one sample.
        origin: names in the data's provenance, which determine the classifier.
        load_train: returns the training items; called when samples are counted.
    """
    source = source_of(record)
    try:
        check_known(source, shape, origin)
    except UsageError:
        return None

    def count(samples: Tensor) -> Modes:
        known = data_modes(source, shape, origin, load_train)
        return measure_modes(known.assign(samples), known.shares)

    return count


def data_modes(
    source: SourceConfig, shape: tuple[int, ...], origin: str, load_train: Callable[[], Dataset]
) -> DataModes:
    """The modes of a source's data; see ``check_known``."""
    known = known_modes(source)
    return point_modes(known) if known is not None else image_modes(source, shape, origin, load_train)


def check_modes(context: EvaluationContext) -> None:
    """Check before sampling that the modes of the model's data are known."""
    check_known(source_of(context.model.config), context.model.module.shape, context.model.origin)


def has_modes(context: EvaluationContext) -> bool:
    """Whether the modes of the model's data are known."""
    try:
        check_modes(context)
    except UsageError:
        return False
    return True


def source_of(record: Mapping[str, Any]) -> SourceConfig:
    """The source in a ``config.json``."""
    source = Component(SOURCE_CONFIGS, "data source").pick(record["config"]["data"])
    assert isinstance(source, SourceConfig)
    return source


def check_known(source: SourceConfig, shape: tuple[int, ...], origin: str) -> None:
    """Check that the modes of the data are known.

    Raises:
        UsageError: with the sources whose modes are known.
    """
    known = known_modes(source)
    if known is not None and known.std > 0:
        return
    if known is not None:
        raise UsageError("metric 'modes' needs data with noise, this model's has noise=0; train with data.noise=0.05")
    stacked = isinstance(source, StackedMnistConfig)
    grey = Space.of_data(shape).is_image and (shape[0] == 1 or stacked)
    if not grey or fitting_features((1, *shape[1:]), origin) == "pixels":
        name = source.model_dump()["name"]
        raise UsageError(
            f"metric 'modes' needs data of known modes, {name!r} of shape {tuple(shape)} has none: the sources "
            "gaussians, gaussian_ring, rings and stacked_mnist do, and grey digits or clothes of up to 32 pixels"
        )


def point_modes(known: PointModes) -> DataModes:
    """The modes of points: a point is good within 3 standard deviations of the nearest mode."""
    expected = good_of_gaussian(1 if known.noun == "circles" else 2)

    def assign(points: Tensor) -> ModeAssignments:
        return assign_points(torch.from_numpy(known.distances(points.double().cpu().numpy())), expected)

    protocol = {"good": f"within {WITHIN:g} standard deviations of a mode", "std": known.std}
    return DataModes(known.noun, equal_shares(known.num), assign, protocol)


def image_modes(
    source: SourceConfig, shape: tuple[int, ...], origin: str, load_train: Callable[[], Dataset]
) -> DataModes:
    """The modes of images: an image is good if each channel is classified with confidence.

    The shares of stacks are the products of their digits' shares by the labels; those of other images are the
    classifier's predictions on real images.
    """
    extractor = load_features(fitting_features((1, *shape[1:]), origin))
    train = load_train()
    real = train.fetch(evenly_spaced(len(train), REAL_IMAGES)).items
    labels, confident = classify_channels(extractor, real)
    num, stacked = int(extractor.num_classes or 0), isinstance(source, StackedMnistConfig)
    if stacked:
        shares, basis = product_shares(_digits(train, labels), num), "product of the digits' shares"
    else:
        shares, basis = smoothed(torch.bincount(labels.flatten(), minlength=num)), "classifier on training images"
    protocol = {
        **extractor.protocol(),
        "good": "every channel named with a probability of at least 0.9",
        "data_shares": basis,
        "reference": "training images",
        "reference_images": len(real),
        "data_fingerprint": train.fingerprint,
    }
    description = "classes of three channels" if stacked else "classes"
    return DataModes(description, shares, _image_assigner(extractor, float(confident.double().mean())), protocol)


def _image_assigner(extractor: FeatureExtractor, good_of_real: float) -> Callable[[Tensor], ModeAssignments]:
    return lambda images: assign_images(extractor, images, good_of_real)


def _digits(train: Dataset, predicted: Tensor) -> Tensor:
    """(N, 3) classes of the channels by the labels, or the predicted classes if there are no labels of stacks."""
    if train.labels is None or train.num_classes != 1000:
        return predicted
    code = torch.from_numpy(train.labels)
    return torch.stack([code // 100, code // 10 % 10, code % 10], dim=1)


def _results(found: Modes, entries: dict[str, Any]) -> list[Result]:
    entries = {**entries, "num_samples": found.num_samples, "uncertainty_of": "samples, not of training again"}
    details = {"about": "modes", **to_details(found)}
    good_details = {"real_data": found.real_good_share}
    return [
        Result(
            "modes_found", float(found.found), f"of {found.num_modes}", found.found_error, "higher", entries, details
        ),
        Result("good_samples", found.good_share, "share", found.good_share_error, "higher", entries, good_details),
        Result("mode_kl", found.kl, "nats", found.kl_error, "lower", entries, {"real_data": found.real_kl}),
    ]
