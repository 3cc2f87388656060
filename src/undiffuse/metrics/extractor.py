"""The interface of feature extractors, which map images to the vectors that distances use. Imports no torch.

A distance is named after its features; only the one over Inception-v3's features is named FID.
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
    """Maps images to feature vectors, independently of the other images of a batch.

    Attributes:
        name: the row of ``FEATURES``.
        weights_sha256: hash of the weight file, or None without weights.
        dim: number of features D, or None if it depends on the size of the images.
        channels: number of channels it takes, or None for any.
        resize: how images are resized to its input size, as text.
        colour: how their channels are converted, as text.
        num_classes: number of classes K of ``classify``, or None without classes.
        natural: whether it was trained on colour photographs of general subjects.
        published_names: published names of metrics over these features by their names here; empty except for
            Inception-v3, since only its Fréchet distance is FID.
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

        Networks process a fixed number of images at a time, so callers need not split a set into chunks.

        Raises:
            UsageError: not uint8, not four axes, or another number of channels than it takes.
        """

    def classify(self, images: Tensor) -> Tensor:
        """Class probabilities (B, K) of uint8 images (B, C, H, W), for extractors that are classifiers.

        Raises:
            UsageError: this extractor has no classes, or the images are invalid.
        """
        raise UsageError(
            f"features {self.name!r} have no classes; take 'handwriting', 'fashion', 'efficientnet' or 'inception'"
        )

    def features_and_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``features`` and ``classify`` of the same images, in one forward pass if the extractor implements it.

        Raises:
            UsageError: as ``features`` and ``classify`` do.
        """
        return self.features(images), self.classify(images)

    def published_name(self, metric: str) -> str:
        """The name of ``metric`` in a result: ``FID`` and the like over Inception-v3, else its name here."""
        return self.published_names.get(metric, metric)

    def protocol(self) -> dict[str, Any]:
        """A result's protocol entries about its features."""
        return {
            "extractor": self.name,
            "weights_sha256": self.weights_sha256,
            "dim": self.dim,
            "resize": self.resize,
            "colour": self.colour,
        }
