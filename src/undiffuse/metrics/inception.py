"""Inception-v3's features: the only ones over which a Fréchet distance is FID, a kernel distance KID.

The network of Heusel et al. 2017 (arXiv:1706.08500), TensorFlow's ``inception-2015-12-05``, in the TorchScript file
that StyleGAN2-ADA and its successors measure with: uint8 images in, resized inside to 299 x 299 as TensorFlow does,
2,048 pooled features or 1,008 class probabilities out. A TorchScript file is code: it is run only when its SHA-256 is
the published one. Where that file is missing and the package torch-fidelity is installed with its weights, that port
of the same network is taken, and the protocol says so.
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
from undiffuse.metrics.weight_files import WEIGHT_FILES, find_weights, how_to_get, missing, read_weights
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
        path: the TorchScript file or its folder; by default the places that ``weight_files`` names.
    Raises:
        UsageError: neither is there, or a file is not the published one; nothing of such a file is run.
    """
    if path is not None or find_weights("inception") is not None:
        return _torchscript(read_weights("inception", path))
    if find_spec("torch_fidelity") is not None:
        return _torch_fidelity()
    raise UsageError(missing("inception"))


def _torchscript(content: bytes) -> Inception:
    with warnings.catch_warnings():  # newer torch calls TorchScript deprecated; it is how this file is published
        warnings.simplefilter("ignore", DeprecationWarning)
        module: Any = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
        module.eval()
    return Inception(
        lambda images: module(images, return_features=True),
        lambda images: module(images, no_output_bias=True),  # as the inception score of the papers has it
        "TorchScript inception-2015-12-05.pt",
        WEIGHT_FILES["inception"].sha256,
    )


def _torch_fidelity() -> Inception:
    """The installed package's network; its weights are looked for and checked here, for it would download them."""
    where = find_weights("torch-fidelity")
    if where is None:
        raise UsageError(
            f"{missing('inception')}; or, for the installed torch-fidelity, {how_to_get('torch-fidelity')}"
        )
    read_weights("torch-fidelity", where)
    try:
        network = resolve("torch_fidelity.feature_extractor_inceptionv3:FeatureExtractorInceptionV3")
    except Exception as error:  # it needs a torchvision that fits the torch at hand
        raise UsageError(f"{missing('inception')}; torch-fidelity is installed but fails to import ({error})") from None
    names = ["2048", "logits_unbiased"]
    module = network("inception-v3-compat", names, feature_extractor_weights_path=str(where)).eval()
    return Inception(
        lambda images: module(images)[0],
        lambda images: torch.softmax(module(images)[1], dim=1),
        "torch-fidelity inception-v3-compat",
        WEIGHT_FILES["torch-fidelity"].sha256,
    )


class InceptionFeatures(FeatureExtractor):
    """Pooled features and class probabilities of Inception-v3, on the CPU in float32: the row that FID is made of."""

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
        """Probabilities (B, 1008), without the bias of the last layer, as the inception score takes them."""
        return self._in_fixed_batches(images, self.network.probabilities, NUM_CLASSES).double()

    def protocol(self) -> dict[str, Any]:
        """As of every extractor, and which port of the network it was."""
        return {**super().protocol(), "port": self.network.port}

    def _in_fixed_batches(self, images: Tensor, compute: Callable[[Tensor], Tensor], width: int) -> Tensor:
        check_grey_or_colour(images)
        result = in_fixed_batches(images, BATCH, lambda block: compute(to_three_channels(block).contiguous()).float())
        if result.shape[1:] != (width,):
            raise UsageError(f"{self.network.port} gave rows of {tuple(result.shape[1:])}, expected {width} numbers")
        return result
