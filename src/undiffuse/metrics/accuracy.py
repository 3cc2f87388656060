"""Classification accuracy score: train a classifier on generated images, test it on real ones.

Ravuri & Vinyals 2019, "Classification accuracy score for conditional generative models", arXiv:1905.10887. A generator
that drops part of a class, or confuses classes, gives a poor training set even if its images look good. The accuracy of
the same network trained on as many real images is the reference value.

The network is small and the same for every set: five 3x3 convolutions with batch norm, two of them with stride 2, for
images of 8 to 64 pixels. Scores are comparable only at the same image size, count and number of epochs, and not with
those of the paper, which trains a ResNet-50 on ImageNet.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from undiffuse.errors import UsageError
from undiffuse.metrics.pixels import check_images
from undiffuse.observer import ProgressCallback

SMALLEST, LARGEST = 8, 64
BATCH = 64
LEARNING_RATE, WEIGHT_DECAY, SMOOTHING = 4e-3, 0.01, 0.05


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy on the test images.

    Attributes:
        value: fraction of test images that are classified correctly.
        standard_error: binomial, of the test images; it does not include the variance over training runs.
        by_class: the accuracy of each class, None if the test set has no image of it.
        num_train, num_test, num_classes: sizes of the sets.
        epochs, seed: of the training.
    """

    value: float
    standard_error: float
    by_class: tuple[float | None, ...]
    num_train: int
    num_test: int
    num_classes: int
    epochs: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """All values as plain numbers, with a description of the protocol."""
        note = "small convolutional network trained on the one set, top-1 accuracy on the other"
        return {**asdict(self), "by_class": list(self.by_class), "protocol": note}


def train_and_test(
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    num_classes: int,
    seed: int = 0,
    epochs: int = 6,
    on_progress: ProgressCallback | None = None,
) -> Accuracy:
    """Train the small network on one labelled set and test it on another; the same arguments give the same bits.

    Args:
        train_images: uint8 (N, C, H, W), sides of 8 to 64 pixels.
        train_labels: integers (N,) in 0..num_classes - 1; classes may be missing or uneven.
        test_images: uint8 (M, C, H, W) of the same shape.
        test_labels: integers (M,).
        num_classes: K, at least 2.
        seed: of the initial weights and of the order of the images.
        epochs: passes over the training images.
        on_progress: called with (epochs done, epochs).
    Returns:
        The accuracy on the test images.
    Raises:
        UsageError: empty sets, sets of different shape, or invalid labels.
    """
    _check_set(train_images, train_labels, num_classes, "training")
    _check_set(test_images, test_labels, num_classes, "test")
    if train_images.shape[1:] != test_images.shape[1:]:
        shapes = [tuple(images.shape[1:]) for images in (train_images, test_images)]
        raise UsageError(f"training and test images must have one shape, got {shapes[0]} and {shapes[1]}")
    if epochs < 1:
        raise UsageError(f"epochs must be at least 1, got {epochs}")
    network = _train(train_images, train_labels, num_classes, seed, epochs, on_progress)
    correct = _predict(network, test_images) == test_labels.cpu()
    return _result(correct, test_labels.cpu(), len(train_images), num_classes, epochs, seed)


def check_sides(height: int, width: int, what: str) -> None:
    """Check that images are neither too small nor too large for the network.

    Raises:
        UsageError: with the sizes that it takes.
    """
    if min(height, width) < SMALLEST or max(height, width) > LARGEST:
        raise UsageError(
            f"accuracy is for images with sides of {SMALLEST} to {LARGEST} pixels, {what} images are "
            f"{height}x{width} (height x width); resize them"
        )


def _check_set(images: Tensor, labels: Tensor, num_classes: int, what: str) -> None:
    check_images(images, what=f"{what} images")
    count, _, height, width = images.shape
    check_sides(height, width, what)
    if labels.shape != (count,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(f"{what} labels must be {count} whole numbers, got {labels.dtype} {tuple(labels.shape)}")
    if num_classes < 2 or count < 2:
        raise UsageError(f"accuracy needs at least 2 classes and 2 {what} images, got {num_classes} and {count}")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        found = f"{int(labels.min())}..{int(labels.max())}"
        raise UsageError(f"{what} labels must lie in 0..{num_classes - 1}, got {found}; check the number of classes")


def _result(correct: Tensor, labels: Tensor, num_train: int, num_classes: int, epochs: int, seed: int) -> Accuracy:
    value = float(correct.double().mean())
    of_class = [correct[labels == label].double() for label in range(num_classes)]
    return Accuracy(
        value=value,
        standard_error=math.sqrt(value * (1 - value) / len(correct)),
        by_class=tuple(float(part.mean()) if len(part) else None for part in of_class),
        num_train=num_train,
        num_test=len(correct),
        num_classes=num_classes,
        epochs=epochs,
        seed=seed,
    )


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def small_network(channels: int, num_classes: int) -> nn.Sequential:
    """The network: (B, C, H, W) in [-1, 1] to logits (B, K)."""
    return nn.Sequential(
        _convolution(channels, 16),
        _convolution(16, 32, stride=2),
        _convolution(32, 32),
        _convolution(32, 64, stride=2),
        _convolution(64, 64),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 64, num_classes),
    )


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Initialise the weights from ``generator`` without using the global random state."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            with torch.no_grad():
                layer.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()


def _input(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _train(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    seed: int,
    epochs: int,
    on_progress: ProgressCallback | None,
) -> nn.Module:
    images, labels = images.cpu(), labels.cpu().long()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        network = small_network(images.shape[1], num_classes)
    _initialise(network, generator)
    batch = min(BATCH, len(images))
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) - len(order) % batch].view(-1, batch):  # full batches only, for batch norm
            logits = network(_input(images[rows]))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rate.step()
        if on_progress is not None:
            on_progress(epoch + 1, epochs)
    return network.eval()


@torch.no_grad()
def _predict(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(_input(part)).argmax(1) for part in torch.split(images.cpu(), 256)])
