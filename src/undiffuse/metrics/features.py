"""The registry of feature extractors, and the default one for a set. Listing them imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from undiffuse.core.space import Space
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.registry import lookup

FEATURES: dict[str, str] = {
    "handwriting": "undiffuse.metrics.classifier:HandwritingFeatures",
    "fashion": "undiffuse.metrics.classifier:FashionFeatures",
    "pixels": "undiffuse.metrics.pixels:PixelFeatures",
    "inception": "undiffuse.metrics.inception:InceptionFeatures",
    "efficientnet": "undiffuse.metrics.efficientnet:EfficientNetFeatures",
}


def fitting_features(shape: Sequence[int], origin: str) -> str:
    """The default features of images: ``fashion`` or ``handwriting`` for small grey images, else ``pixels``.

    Args:
        shape: of one image, (C, H, W).
        origin: text about the data: names, paths, classes.
    """
    if not Space.of_data(shape).is_image or shape[0] != 1 or max(shape[1:]) > 32:
        return "pixels"
    return "fashion" if "fashion" in origin.lower() else "handwriting"


def pick_features(name: str, shape: Sequence[int], origin: str) -> FeatureExtractor:
    """The feature extractor named ``name``; ``auto`` is the default one for images of that shape and origin.

    Raises:
        UsageError: as ``load_features`` does.
    """
    return load_features(fitting_features(shape, origin) if name == "auto" else name)


def load_features(name: str) -> FeatureExtractor:
    """The feature extractor of that name, with its weights loaded and their hash checked.

    Raises:
        UsageError: unknown name, or a weight file that is missing or does not belong to this release.
    """
    extractor: FeatureExtractor = lookup(FEATURES, name, "feature extractor")()
    return extractor
