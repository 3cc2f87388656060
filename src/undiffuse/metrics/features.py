"""What turns pictures into the numbers that distances are taken over: one contract, one table.

A distance is named after its features; only Inception-v3's may ever be called FID. Listing the rows imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from undiffuse.errors import UsageError
from undiffuse.registry import lookup

if TYPE_CHECKING:
    from torch import Tensor


class FeatureExtractor(ABC):
    """Maps pictures to feature vectors, each picture by itself.

    Attributes:
        name: the row of ``FEATURES``.
        weights_sha256: hash of the weight file, or None where there are no weights.
        dim: number of features D, or None where it depends on the size of the pictures.
        channels: number of channels it takes, or None for any.
        resize: how pictures are brought to the size that it reads, in words.
    """

    name: ClassVar[str]
    weights_sha256: str | None = None
    dim: int | None = None
    channels: int | None = None
    resize: str = "none"

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features (B, D), floating point, of uint8 pictures (B, C, H, W); B may be 0.

        Raises:
            UsageError: not uint8, not four axes, or not the channels it takes.
        """

    def classify(self, images: Tensor) -> Tensor:
        """Class probabilities (B, K) of uint8 pictures (B, C, H, W), for extractors that are classifiers.

        Raises:
            UsageError: this extractor has no classes, or the pictures are refused.
        """
        raise UsageError(f"features {self.name!r} have no classes; take 'handwriting' or 'fashion'")

    def protocol(self) -> dict[str, Any]:
        """What a result must say about its features."""
        return {
            "extractor": self.name,
            "weights_sha256": self.weights_sha256,
            "dim": self.dim,
            "resize": self.resize,
        }


FEATURES: dict[str, str] = {
    "handwriting": "undiffuse.metrics.classifier:HandwritingFeatures",
    "fashion": "undiffuse.metrics.classifier:FashionFeatures",
    "pixels": "undiffuse.metrics.pixels:PixelFeatures",
}


def load_features(name: str) -> FeatureExtractor:
    """The feature extractor of that row, its weights read and their hash checked.

    Raises:
        UsageError: unknown name, or a weight file that is missing or is not the one of this release.
    """
    extractor: FeatureExtractor = lookup(FEATURES, name, "feature extractor")()
    return extractor
