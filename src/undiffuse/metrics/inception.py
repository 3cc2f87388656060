"""Inception-v3's features: only over these is a Fréchet distance FID and a kernel distance KID.

The network of Heusel et al. 2017 (arXiv:1706.08500), TensorFlow's ``inception-2015-12-05``, in the TorchScript file
that StyleGAN2-ADA and its successors use: it takes uint8 images, resizes them to 299 x 299 as TensorFlow does, and
returns 2,048 pooled features or 1,008 class probabilities. A TorchScript file is code: it is run only if its SHA-256 is
the published one. If that file is missing and the package torch-fidelity is installed with its weights, its port of
the same network is used, and the protocol records it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.fixed_batches import GREY_REPEATED, check_grey_or_colour, in_fixed_batches, to_three_channels
from undiffuse.metrics.weight_files import WEIGHT_FILES, download_advice, find_weights, missing_message, read_weights
from undiffuse.registry import resolve

NUM_FEATURES = 2048
NUM_CLASSES = 1008
BATCH = 16


class Inception(NamedTuple):
    """One port of the network: uint8 (B, 3, H, W) -> features (B, 2048) and probabilities (B, 1008)."""

    features: Callable[[Tensor], Tensor]
    probabilities: Callable[[Tensor], Tensor]
    port: str
    weights_sha256: str


def load_inception(path: Path | str | None = None) -> Inception:
    """The published TorchScript file, else torch-fidelity's port.

    Args:
        path: the TorchScript file or its folder; by default the locations that ``weight_files`` lists.
    Raises:
        UsageError: both are missing, or a file is not the published one (its code is not run).
    """
    if path is not None or find_weights("inception") is not None:
        return _torchscript(read_weights("inception", path))
    if find_spec("torch_fidelity") is not None:
        return _torch_fidelity()
    raise UsageError(missing_message("inception"))


def _torchscript(content: bytes) -> Inception:
    with warnings.catch_warnings():  # newer torch deprecates TorchScript, but the file is only published in this format
        warnings.simplefilter("ignore", DeprecationWarning)
        module: Any = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
        module.eval()
    return Inception(
        lambda images: module(images, return_features=True),
        lambda images: module(images, no_output_bias=True),  # as in the published inception score
        "TorchScript inception-2015-12-05.pt",
        WEIGHT_FILES["inception"].sha256,
    )


def _torch_fidelity() -> Inception:
    """The installed package's network; its weights are found and checked here because it would download them."""
    weights = find_weights("torch-fidelity")
    if weights is None:
        raise UsageError(
            f"{missing_message('inception')}; or, for the installed torch-fidelity, {download_advice('torch-fidelity')}"
        )
    read_weights("torch-fidelity", weights)
    try:
        network = resolve("torch_fidelity.feature_extractor_inceptionv3:FeatureExtractorInceptionV3")
    except Exception as error:  # it needs a torchvision that is compatible with the installed torch
        raise UsageError(
            f"{missing_message('inception')}; torch-fidelity is installed but fails to import ({error})"
        ) from None
    names = ["2048", "logits_unbiased"]
    module = network("inception-v3-compat", names, feature_extractor_weights_path=str(weights)).eval()
    return Inception(
        lambda images: module(images)[0],
        lambda images: torch.softmax(module(images)[1], dim=1),
        "torch-fidelity inception-v3-compat",
        WEIGHT_FILES["torch-fidelity"].sha256,
    )


class InceptionFeatures(FeatureExtractor):
    """Pooled features and class probabilities of Inception-v3, on the CPU in float32: the features of FID."""

    name = "inception"
    dim = NUM_FEATURES
    num_classes = NUM_CLASSES
    natural = True
    colour = GREY_REPEATED
    resize = "bilinear as TensorFlow 1 does, inside the network, not antialiased, to 299x299 without keeping the shape"
    published_names: Mapping[str, str] = MappingProxyType(
        {"frechet_distance": "FID", "kernel_distance": "KID", "inception_score": "IS"}
    )

    def __init__(self, path: Path | str | None = None) -> None:
        self.network = load_inception(path)
        self.weights_sha256 = self.network.weights_sha256

    def features(self, images: Tensor) -> Tensor:
        return self._in_fixed_batches(images, self.network.features, NUM_FEATURES)

    def classify(self, images: Tensor) -> Tensor:
        """Probabilities (B, 1008), without the bias of the last layer, as the inception score uses them."""
        return self._in_fixed_batches(images, self.network.probabilities, NUM_CLASSES).double()

    def protocol(self) -> dict[str, Any]:
        """The entries of every extractor, and the port of the network."""
        return {**super().protocol(), "port": self.network.port}

    def _in_fixed_batches(self, images: Tensor, compute: Callable[[Tensor], Tensor], width: int) -> Tensor:
        check_grey_or_colour(images)
        result = in_fixed_batches(images, BATCH, lambda block: compute(to_three_channels(block).contiguous()).float())
        if result.shape[1:] != (width,):
            raise UsageError(f"{self.network.port} gave rows of {tuple(result.shape[1:])}, expected {width} numbers")
        return result
