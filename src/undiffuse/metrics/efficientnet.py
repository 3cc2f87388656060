"""EfficientNet-lite0's ImageNet features: 1,280 numbers per image, for natural images if Inception is not available.

Inverted residuals (Sandler et al. 2018, arXiv:1801.04381) scaled as EfficientNet-B0 (Tan & Le 2019, arXiv:1905.11946),
the lite variant: ReLU6, no squeeze-and-excitation. The weights are converted from TensorFlow's, so convolutions pad as
TensorFlow does. Batch norm is folded into the convolutions when the weights are loaded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.fixed_batches import GREY_REPEATED, check_grey_or_colour, in_fixed_batches, to_three_channels
from undiffuse.metrics.weight_files import WEIGHT_FILES, read_weights

IMAGE_SIZE = 224
NUM_FEATURES = 1280
NUM_CLASSES = 1000
BATCH = 8
NORM_EPS = 1e-3  # of the published batch norm
MEAN, STD = 127.0, 128.0  # of the lite models' input, of all three channels

#: (kernel, blocks, stride of the first, expansion, channels out)
STAGES = (
    (3, 1, 1, 1, 16),
    (3, 2, 2, 6, 24),
    (5, 2, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (5, 3, 1, 6, 112),
    (5, 4, 2, 6, 192),
    (3, 1, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: an odd pixel is added at the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
        if not any(total):
            return super().forward(x)
        (top, left) = (side // 2 for side in total)
        return super().forward(F.pad(x, (left, total[1] - left, top, total[0] - top)))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; with a residual connection if the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        expanded = inputs * expansion
        self.expand = SameConv(inputs, expanded, 1) if expansion > 1 else None
        self.depthwise = SameConv(expanded, expanded, kernel, stride, groups=expanded)
        self.project = SameConv(expanded, outputs, 1)
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        expanded = F.relu6(self.expand(x)) if self.expand is not None else x
        projected: Tensor = self.project(F.relu6(self.depthwise(expanded)))
        return x + projected if self.adds_input else projected


class EfficientNetLite0(nn.Module):
    """Features (B, 1280) and logits (B, 1000) of standardised float images (B, 3, 224, 224)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        self.blocks = nn.ModuleList(_blocks())
        self.head = SameConv(STAGES[-1][-1], NUM_FEATURES, 1)
        self.classes = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """The mean over the positions of the last feature map, (B, 1280)."""
        x = F.relu6(self.stem(images))
        for block in self.blocks:
            x = block(x)
        features: Tensor = F.relu6(self.head(x)).mean((2, 3))
        return features


def _blocks() -> Iterator[InvertedResidual]:
    inputs = 32
    for kernel, count, stride, expansion, outputs in STAGES:
        for index in range(count):
            yield InvertedResidual(inputs, outputs, kernel, stride if index == 0 else 1, expansion)
            inputs = outputs


def folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict with each batch norm folded into the preceding convolution, under this module's names.

    W' = W gamma / sqrt(var + eps), b' = beta - mean gamma / sqrt(var + eps), calculated in float64.
    """
    result = {"classes.weight": state["_fc.weight"], "classes.bias": state["_fc.bias"]}
    for ours, convolution, norm in _names():
        gain = state[f"{norm}.weight"].double() / (state[f"{norm}.running_var"].double() + NORM_EPS).sqrt()
        result[f"{ours}.weight"] = (state[f"{convolution}.weight"].double() * gain[:, None, None, None]).float()
        result[f"{ours}.bias"] = (
            state[f"{norm}.bias"].double() - state[f"{norm}.running_mean"].double() * gain
        ).float()
    return result


def _names() -> Iterator[tuple[str, str, str]]:
    """(name here, published name of the convolution, published name of its batch norm)."""
    yield "stem", "_conv_stem", "_bn0"
    for index in range(sum(row[1] for row in STAGES)):
        block = f"_blocks.{index}"
        if index > 0:  # the first block has no expansion
            yield f"blocks.{index}.expand", f"{block}._expand_conv", f"{block}._bn0"
        yield f"blocks.{index}.depthwise", f"{block}._depthwise_conv", f"{block}._bn1"
        yield f"blocks.{index}.project", f"{block}._project_conv", f"{block}._bn2"
    yield "head", "_conv_head", "_bn1"


def load_efficientnet(path: Path | str | None = None) -> EfficientNetLite0:
    """The network with its published weights, for inference.

    Raises:
        UsageError: the file is missing or is not the published one.
    """
    state = torch.load(io.BytesIO(read_weights("efficientnet", path)), map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    network.load_state_dict(folded(state))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on the CPU
    return network.eval().requires_grad_(False)


def to_input(images: Tensor) -> Tensor:
    """uint8 images (B, 1 or 3, H, W) as network input: (B, 3, 224, 224), about -1..1."""
    x = to_three_channels(images.float())
    if x.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
        x = F.interpolate(x, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True, align_corners=False)
    return ((x.clamp(0, 255) - MEAN) / STD).contiguous(memory_format=torch.channels_last)


class EfficientNetFeatures(FeatureExtractor):
    """Pooled features and ImageNet probabilities of EfficientNet-lite0, on the CPU in float32."""

    name = "efficientnet"
    dim = NUM_FEATURES
    num_classes = NUM_CLASSES
    natural = True
    colour = GREY_REPEATED
    resize = f"bicubic, antialiased, clipped to 0..255, to {IMAGE_SIZE}x{IMAGE_SIZE} without keeping the shape"
    weights_sha256 = WEIGHT_FILES["efficientnet"].sha256

    def __init__(self, path: Path | str | None = None) -> None:
        self.network = load_efficientnet(path)

    def features(self, images: Tensor) -> Tensor:
        check_grey_or_colour(images)
        return in_fixed_batches(images, BATCH, lambda block: self.network(to_input(block)))

    def classify(self, images: Tensor) -> Tensor:
        """Probabilities (B, 1000) of the ImageNet classes, in float64."""
        return self.features_and_probabilities(images)[1]

    def features_and_probabilities(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both from one forward pass: (B, 1280) and (B, 1000)."""
        features = self.features(images)
        return features, in_fixed_batches(features, BATCH, self._probabilities)

    def _probabilities(self, features: Tensor) -> Tensor:
        return torch.softmax(self.network.classes(features).double(), dim=1)
