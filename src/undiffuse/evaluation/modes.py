"""Metric ``modes``: the modes of the data that samples reach, how evenly, and whether the model has collapsed.

Points have the modes that their source is made of. Grey images have the classes of the classifier that suits the data;
stacks of three have their cube. See ``metrics.modes`` for what is counted and when a model has collapsed.
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
    even,
    good_of_gaussian,
    located_images,
    located_points,
    measure_modes,
    named_channels,
    product_shares,
    smoothed,
    to_details,
)

#: Real images that say what the classifier makes of the data.
REAL_IMAGES = 1000


class DataModes(NamedTuple):
    """The modes of the data, and how samples are assigned to them.

    Attributes:
        words: what a mode is.
        shares: (K,) of the data.
        locate: (samples) -> their modes, and the share of good ones among real data.
        protocol: entries of a result's protocol.
    """

    words: str
    shares: Tensor
    locate: Callable[[Tensor], ModeAssignments]
    protocol: dict[str, Any]


def modes(context: EvaluationContext) -> list[Result]:
    """Modes found, share of good samples, KL of the modes' histogram against the data's; whether it collapsed."""
    check_modes(context)
    model = context.model
    known = data_modes(source_of(model.config), model.module.shape, model.origin, lambda: context.train)
    samples = context.generated_images.rows if context.makes_images else context.samples
    found = measure_modes(known.locate(samples), known.shares)
    return _results(found, {**known.protocol, "modes": known.words, "samples": context.sampling()})


def mode_counter(
    record: Mapping[str, Any], shape: tuple[int, ...], origin: str, load_train: Callable[[], Dataset]
) -> Callable[[Tensor], Modes] | None:
    """What counts the modes of finished samples, ``None`` for data whose modes are not known.

    Args:
        record: the model's ``config.json``.
        shape: of one sample.
        origin: names in the data's provenance, which pick the classifier.
        load_train: gives the training items; called when samples are first counted.
    """
    source = source_of(record)
    try:
        check_known(source, shape, origin)
    except UsageError:
        return None

    def count(samples: Tensor) -> Modes:
        known = data_modes(source, shape, origin, load_train)
        return measure_modes(known.locate(samples), known.shares)

    return count


def data_modes(
    source: SourceConfig, shape: tuple[int, ...], origin: str, load_train: Callable[[], Dataset]
) -> DataModes:
    """The modes of a source's data; see ``check_known``."""
    known = known_modes(source)
    return point_modes(known) if known is not None else image_modes(source, shape, origin, load_train)


def check_modes(context: EvaluationContext) -> None:
    """Refuse data whose modes are not known, before anything is sampled."""
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
    """Refuse data whose modes are not known.

    Raises:
        UsageError: says which data have known modes.
    """
    known = known_modes(source)
    if known is not None and known.std > 0:
        return
    if known is not None:
        raise UsageError("modes need data with noise about them, this model's has noise=0; train with data.noise=0.05")
    stacked = isinstance(source, StackedMnistConfig)
    grey = Space.of_data(shape).is_image and (shape[0] == 1 or stacked)
    if not grey or fitting_features((1, *shape[1:]), origin) == "pixels":
        name = source.model_dump()["name"]
        raise UsageError(
            f"metric 'modes' needs data of known modes, {name!r} of shape {tuple(shape)} has none: the sources "
            "gaussians, gaussian_ring, rings and stacked_mnist do, and grey digits or clothes of up to 32 pixels"
        )


def point_modes(known: PointModes) -> DataModes:
    """Of points: good within 3 standard deviations of the nearest mode."""
    expected = good_of_gaussian(1 if known.words == "circles" else 2)

    def locate(points: Tensor) -> ModeAssignments:
        return located_points(torch.from_numpy(known.distances(points.double().cpu().numpy())), expected)

    protocol = {"good": f"within {WITHIN:g} standard deviations of a mode", "std": known.std}
    return DataModes(known.words, even(known.num), locate, protocol)


def image_modes(
    source: SourceConfig, shape: tuple[int, ...], origin: str, load_train: Callable[[], Dataset]
) -> DataModes:
    """Of images: good where each channel is named with confidence.

    The shares of stacks are the products of those of their digits by the labels; of other images, what the classifier
    says of real ones.
    """
    extractor = load_features(fitting_features((1, *shape[1:]), origin))
    train = load_train()
    real = train.fetch(evenly_spaced(len(train), REAL_IMAGES)).items
    labels, sure = named_channels(extractor, real)
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
    words = "classes of three channels" if stacked else "classes"
    return DataModes(words, shares, _locating(extractor, float(sure.double().mean())), protocol)


def _locating(extractor: FeatureExtractor, good_of_real: float) -> Callable[[Tensor], ModeAssignments]:
    return lambda images: located_images(extractor, images, good_of_real)


def _digits(train: Dataset, named: Tensor) -> Tensor:
    """(N, 3) classes of the channels by the labels of ten classes, else as they were named."""
    if train.labels is None or train.num_classes != 1000:
        return named
    code = torch.from_numpy(train.labels)
    return torch.stack([code // 100, code // 10 % 10, code % 10], dim=1)


def _results(found: Modes, stated: dict[str, Any]) -> list[Result]:
    stated = {**stated, "num_samples": found.num_samples, "uncertainty_of": "samples, not of training again"}
    details = {"about": "modes", **to_details(found)}
    few = {"real_data": found.real_good_share}
    return [
        Result(
            "modes_found", float(found.found), f"of {found.num_modes}", found.found_error, "higher", stated, details
        ),
        Result("good_samples", found.good_share, "share", found.good_share_error, "higher", stated, few),
        Result("mode_kl", found.kl, "nats", found.kl_error, "lower", stated, {"real_data": found.real_kl}),
    ]
