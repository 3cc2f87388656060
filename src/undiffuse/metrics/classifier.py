"""The small classifier of this project for grey images of 8 to 28 pixels, and its features.

Six 3x3 convolutions (126,000 weights), the mean over the last map (96 features), a linear layer to ten classes. One
set of weights is for handwritten digits, another for the clothes of Fashion-MNIST; ``weights/README.md`` is their model
card, ``tools/train_classifier.py`` trains them. They expect bright strokes on a dark background, as in MNIST.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.pixels import check_images, resize_images

IMAGE_SIZE = 28
NUM_FEATURES = 96
NUM_CLASSES = 10
BATCH = 64  # fixed batch size, so that features do not depend on the size of the caller's batch
WEIGHTS = Path(__file__).parent / "weights"


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


class SmallClassifier(nn.Module):
    """Features (B, 96) and logits (B, 10) of float images (B, 1, 28, 28) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(1, 16),
            _convolution(16, 32, stride=2),
            _convolution(32, 32),
            _convolution(32, 64, stride=2),
            _convolution(64, 64),
            _convolution(64, NUM_FEATURES),
        )
        self.head = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """The mean of the last feature map over its 7x7 positions, (B, 96)."""
        maps: Tensor = self.body(images)
        return maps.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def to_input(images: Tensor) -> Tensor:
    """uint8 images (B, 1, H, W) as network input: (B, 1, 28, 28) in [-1, 1]."""
    return resize_images(images.float() / 127.5 - 1, IMAGE_SIZE)


def load_classifier(path: Path, sha256: str) -> SmallClassifier:
    """The classifier whose weights are in ``path``, for inference.

    Raises:
        UsageError: the file is missing, or its SHA-256 is not ``sha256``.
    """
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the classifier's weights at {path} ({error.strerror}); reinstall undiffuse"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UsageError(f"{path} has SHA-256 {found[:12]}..., expected {sha256[:12]}...; reinstall undiffuse")
    network = SmallClassifier()
    network.load_state_dict({name: value.float() for name, value in load(content).items()})
    return network.eval().requires_grad_(False)


class ClassifierFeatures(FeatureExtractor):
    """Penultimate features and class probabilities of a trained ``SmallClassifier``, on the CPU in float32."""

    dim = NUM_FEATURES
    num_classes = NUM_CLASSES
    channels = 1
    resize = f"bilinear, antialiased, to {IMAGE_SIZE}x{IMAGE_SIZE}"
    classes: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        assert self.weights_sha256 is not None
        self.network = load_classifier(WEIGHTS / f"{self.name}.safetensors", self.weights_sha256)

    def features(self, images: Tensor) -> Tensor:
        return self._in_fixed_batches(images)[0]

    def classify(self, images: Tensor) -> Tensor:
        return self._in_fixed_batches(images)[1]

    def features_and_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one forward pass: (B, 96) and (B, 10)."""
        return self._in_fixed_batches(images)

    @torch.no_grad()
    def _in_fixed_batches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        check_images(images, self.channels)
        features = torch.empty(len(images), NUM_FEATURES)
        for start in range(0, len(images), BATCH):
            block = to_input(images[start : start + BATCH].cpu())
            padded = torch.zeros(BATCH, 1, IMAGE_SIZE, IMAGE_SIZE)
            padded[: len(block)] = block
            features[start : start + BATCH] = self.network.features(padded)[: len(block)]
        return features, self._probabilities(features)

    def _probabilities(self, features: Tensor) -> Tensor:
        """In float64 and per image, so that these do not depend on the batch either."""
        weight, bias = self.network.head.weight.double(), self.network.head.bias.double()
        logits = (features.double()[:, None] * weight).sum(-1) + bias
        return torch.softmax(logits, dim=1)


class HandwritingFeatures(ClassifierFeatures):
    """Trained on handwritten digits: MNIST and scikit-learn's 8x8 scans."""

    name = "handwriting"
    weights_sha256 = "92099765e3a7ad76a7027ac05b9615c2955fec31dd1f1f34ecf7cb6fab907d32"
    classes = tuple("0123456789")


class FashionFeatures(ClassifierFeatures):
    """Trained on Fashion-MNIST."""

    name = "fashion"
    weights_sha256 = "94babc71a774792860b0d5fc6aa961e15221ee2ca87f8ac74c95de5f571c659d"
    classes = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
