"""What turns images into the numbers that distances are taken over: one contract. Imports no torch.

A distance is named after its features; only Inception-v3's may ever be called FID.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


class FeatureExtractor(ABC):
    """Maps images to feature vectors, each image by itself.

    Attributes:
        name: the row of ``FEATURES``.
        weights_sha256: hash of the weight file, or None where there are no weights.
        dim: number of features D, or None where it depends on the size of the images.
        channels: number of channels it takes, or None for any.
        resize: how images are brought to the size that it reads, in words.
        colour: what becomes of their channels, in words.
        num_classes: number of classes K of ``classify``, or None where it has none.
        natural: whether it was trained on photographs of all kinds of things, in colour.
        published_names: what a metric over these features is called in the papers, by the name it has here; empty but
            for Inception-v3, whose Fréchet distance alone is FID.
    """

    name: ClassVar[str]
    weights_sha256: str | None = None
    dim: int | None = None
    channels: int | None = None
    resize: str = "none"
    colour: str = "as it is"
    num_classes: int | None = None
    natural: bool = False
    published_names: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features (B, D), floating point, of uint8 images (B, C, H, W); B may be 0.

        However many they are, networks see a fixed number of them at a time: a set need not be cut into chunks for it.

        Raises:
            UsageError: not uint8, not four axes, or not the channels it takes.
        """

    def classify(self, images: Tensor) -> Tensor:
        """Class probabilities (B, K) of uint8 images (B, C, H, W), for extractors that are classifiers.

        Raises:
            UsageError: this extractor has no classes, or the images are refused.
        """
        raise UsageError(
            f"features {self.name!r} have no classes; take 'handwriting', 'fashion', 'efficientnet' or 'inception'"
        )

    def features_and_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``features`` and ``classify`` of the same images, at the price of one where the row knows how.

        Raises:
            UsageError: as these two.
        """
        return self.features(images), self.classify(images)

    def published_name(self, metric: str) -> str:
        """What ``metric`` may be called in a result: ``FID`` and the like over Inception-v3, else its name here."""
        return self.published_names.get(metric, metric)

    def protocol(self) -> dict[str, Any]:
        """What a result must say about its features."""
        return {
            "extractor": self.name,
            "weights_sha256": self.weights_sha256,
            "dim": self.dim,
            "resize": self.resize,
            "colour": self.colour,
        }
