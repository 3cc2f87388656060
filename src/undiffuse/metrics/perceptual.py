"""LPIPS, the learned perceptual distance of two images, and nearest neighbours under it.

Zhang, Isola, Efros, Shechtman, Wang 2018, "The unreasonable effectiveness of deep features as a perceptual metric",
arXiv:1801.03924, version 0.1 with AlexNet. At each of five layers the channels are normalised to unit length, and

    d(a, b) = sum_l mean_hw sum_c w_lc (f_lhwc(a) - f_lhwc(b))^2,   w >= 0.

With the embedding e(a), the concatenation of sqrt(w_lc / (H_l W_l)) f_lhwc(a), this is d(a, b) = |e(a) - e(b)|^2, so
the distances of all pairs of two sets are one matrix product.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from undiffuse.errors import UsageError
from undiffuse.metrics.alexnet import CHANNELS, AlexNetMaps
from undiffuse.metrics.fixed_batches import GREY_REPEATED, check_grey_or_colour, in_fixed_batches, to_three_channels
from undiffuse.metrics.neighbours import Neighbours
from undiffuse.metrics.weight_files import (
    WEIGHT_FILES,
    download_command,
    find_weights,
    read_weights,
    searched_folders,
    weights_folder,
)
from undiffuse.observer import ProgressCallback

SMALLEST_SIDE = 64  # of the patches that the linear weights were trained on
BATCH = 32
SPARE = 3  # candidates beyond k in the approximate search, which are re-ranked by exact distances
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1], version 0.1
EPS = 1e-10  # added to a length before dividing by it


class Lpips:
    """LPIPS v0.1 over AlexNet of uint8 images (B, 1 or 3, H, W), on the CPU.

    Images with a side under 64 pixels are enlarged (bilinear, with the aspect ratio kept) to a shorter side of 64:
    AlexNet needs 31 pixels, and its first stride of 4 leaves little to compare below 64. Larger images are not resized.
    The embedding of an image does not depend on its batch.

    Args:
        network: AlexNet with its weights.
        heads: five vectors of non-negative channel weights (C_l,).
        hashes: SHA-256 of the weight files, by file name.
    """

    def __init__(self, network: AlexNetMaps, heads: list[Tensor], hashes: dict[str, str]) -> None:
        if [len(head) for head in heads] != list(CHANNELS) or any(bool((head < 0).any()) for head in heads):
            raise UsageError("LPIPS needs five heads of 64, 192, 384, 256, 256 weights, none negative")
        self.network = network.eval().requires_grad_(False)
        self.roots = [head.double().sqrt().float()[:, None, None] for head in heads]
        self.hashes = hashes

    def protocol(self) -> dict[str, Any]:
        """A result's protocol entries about this distance."""
        return {
            "metric": "LPIPS v0.1, AlexNet",
            "weights_sha256": self.hashes,
            "resize": f"bilinear up to a shorter side of {SMALLEST_SIDE}, larger images as they are",
            "colour": GREY_REPEATED,
        }

    def features(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) in float32 whose squared L2 distance is LPIPS; D is 31,872 at 64 x 64 pixels.

        Raises:
            UsageError: not uint8 images of one or three channels.
        """
        check_grey_or_colour(images)
        return in_fixed_batches(images, BATCH, self._embed)

    def _embed(self, images: Tensor) -> Tensor:
        maps = self.network(to_input(images))
        parts = []
        for root, layer in zip(self.roots, maps, strict=True):
            length = layer.square().sum(1, keepdim=True).sqrt()
            parts.append((layer / (length + EPS) * (root / layer[0, 0].numel() ** 0.5)).flatten(1))
        return torch.cat(parts, 1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS (B,) in float64 of each image of ``a`` to the image of ``b`` at the same index.

        Args:
            a, b: uint8 (B, 1 or 3, H, W); B may be 0, and grey may be compared with colour.
        Raises:
            UsageError: another dtype, or different counts or sizes.
        """
        _check_pair(a, b, "the two sets")
        if len(a) != len(b):
            raise UsageError(f"LPIPS compares image by image, got {len(a)} and {len(b)}; take as many of each")
        pairs = zip(torch.split(a, BATCH), torch.split(b, BATCH), strict=True)
        return torch.cat([_squared(self.features(part_a), self.features(part_b)) for part_a, part_b in pairs])

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS (N, M) in float64 of all pairs, within about 1e-6 of the embeddings' squared length.

        Args:
            a, b: uint8 (N, C, H, W) and (M, C, H, W); all embeddings are in memory (128 kB per image at 64 x 64).
        """
        _check_pair(a, b, "the two sets")
        return _products(self.features(a), self.features(b)).double().clamp(min=0)

    def nearest(
        self,
        queries: Tensor,
        references: Tensor,
        k: int = 1,
        chunk: int = 512,
        on_progress: ProgressCallback | None = None,
    ) -> Neighbours:
        """The ``k`` references nearest to each query by LPIPS; a copy has distance exactly 0.

        Embeddings are computed ``chunk`` images at a time and not stored, so memory is 2 * chunk * D floats (130 MB at
        64 x 64 and below) for any number of references; the references are embedded once for every ``chunk`` queries.

        Args:
            queries: uint8 (N, C, H, W); N may be 0.
            references: uint8 (M, C, H, W) of the same size, M >= k.
            k: number of neighbours.
            chunk: images of either side whose embeddings are in memory at a time.
            on_progress: called with (pairs compared, pairs to compare) during the search.
        Returns:
            LPIPS (N, k) in float64, ascending, and indices (N, k) into the references.
        Raises:
            UsageError: images of different size, or fewer references than ``k``.
        """
        _check_pair(queries, references, "queries and references")
        if not 1 <= k <= len(references) or chunk < 1:
            raise UsageError(f"nearest needs 1 <= k <= {len(references)} references and chunk >= 1, got {k}, {chunk}")
        parts = [
            self._search(
                part,
                references,
                k,
                chunk,
                _chunk_progress(on_progress, start, len(part), len(queries), len(references)),
            )
            for start, part in zip(range(0, len(queries), chunk), torch.split(queries, chunk), strict=False)
        ]
        if not parts:
            return Neighbours(torch.zeros(0, k, dtype=torch.float64), torch.zeros(0, k, dtype=torch.int64))
        return Neighbours(torch.cat([p.distances for p in parts]), torch.cat([p.indices for p in parts]))

    def _search(
        self, queries: Tensor, references: Tensor, k: int, chunk: int, on_progress: Callable[[int], None]
    ) -> Neighbours:
        """The neighbours of one chunk of queries: candidates by matrix products, then exact distances to these."""
        embedded = self.features(queries)
        keep = min(k + SPARE, len(references))
        scores, indices = torch.zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.int64)
        for start in range(0, len(references), chunk):
            part = references[start : start + chunk]
            scores = torch.cat([scores, _products(embedded, self.features(part))], 1)
            indices = torch.cat([indices, torch.arange(start, start + len(part)).expand(len(queries), -1)], 1)
            kept = scores.topk(min(keep, scores.shape[1]), dim=1, largest=False).indices
            scores, indices = scores.gather(1, kept), indices.gather(1, kept)
            on_progress(start + len(part))
        return self._rerank(embedded, references, indices, k)

    def _rerank(self, embedded: Tensor, references: Tensor, indices: Tensor, k: int) -> Neighbours:
        """Exact distances to the candidates (N, C), sorted; ties in the order of the references."""
        indices = indices.sort(1).values
        needed, inverse = torch.unique(indices, return_inverse=True)
        exact = torch.empty(indices.shape, dtype=torch.float64)
        for start in range(0, len(needed), BATCH):
            features = self.features(references[needed[start : start + BATCH]])
            row, column = ((inverse >= start) & (inverse < start + BATCH)).nonzero(as_tuple=True)
            for rows, columns in zip(torch.split(row, BATCH), torch.split(column, BATCH), strict=True):
                exact[rows, columns] = _squared(embedded[rows], features[inverse[rows, columns] - start])
        order = exact.argsort(dim=1, stable=True)[:, :k]
        return Neighbours(exact.gather(1, order), indices.gather(1, order))


def to_input(images: Tensor) -> Tensor:
    """uint8 images (B, 1 or 3, H, W) as network input: no side under 64, [-1, 1] shifted and scaled."""
    x = images.float() / 127.5 - 1
    factor = SMALLEST_SIDE / min(x.shape[-2:])
    if factor > 1:
        size = tuple(max(round(side * factor), SMALLEST_SIDE) for side in x.shape[-2:])
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    shift, scale = (torch.tensor(value)[:, None, None] for value in (SHIFT, SCALE))
    return (to_three_channels(x) - shift) / scale


def _check_pair(a: Tensor, b: Tensor, what: str) -> None:
    for images in (a, b):
        check_grey_or_colour(images)
    if a.shape[-2:] != b.shape[-2:]:
        sizes = [f"{images.shape[-1]}x{images.shape[-2]}" for images in (a, b)]
        raise UsageError(f"{what} must have images of one size, got {sizes[0]} and {sizes[1]}; resize one of them")


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).square().sum(1)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (N, M) of all pairs, in float32."""
    lengths = [torch.linalg.vector_norm(rows, dim=1).square() for rows in (a, b)]  # does not copy the rows
    products: Tensor = a @ b.T
    return products.mul(-2).add(lengths[0][:, None]).add(lengths[1])


def _chunk_progress(
    on_progress: ProgressCallback | None, first: int, count: int, num_queries: int, num_references: int
) -> Callable[[int], None]:
    """A progress callback for one chunk of ``count`` queries, in units of queries times references."""

    def report(done: int) -> None:
        if on_progress is not None:
            on_progress(first * num_references + done * count, num_queries * num_references)

    return report


def load_lpips(path: Path | str | None = None) -> Lpips:
    """LPIPS with its published weights, in either of two layouts.

    Either ``lpips_alexnet.npz`` with all weights, or torchvision's ``alexnet-owt-7be5be79.pth`` together with the heads
    ``alex.pth``, which the packages lpips and torchmetrics contain. These packages are not imported.

    Args:
        path: the ``.npz``, the AlexNet ``.pth``, or a folder that contains one of them; by default the locations that
            ``weight_files`` lists.
    Raises:
        UsageError: the files are missing or are not the published ones.
    """
    combined = find_weights("lpips", path)
    if combined is not None and combined.name != WEIGHT_FILES["alexnet"].name:
        return _from_npz(read_weights("lpips", combined))
    alexnet = find_weights("alexnet", path)
    if alexnet is None:
        raise UsageError(_missing_message(path))
    heads = alexnet.with_name(WEIGHT_FILES["lpips-heads"].name)
    return _from_torch(
        read_weights("alexnet", alexnet), read_weights("lpips-heads", heads if heads.is_file() else None)
    )


def _missing_message(path: Path | str | None) -> str:
    """One line: how to get the files, AlexNet by download and the heads by pip, and where to put them."""
    heads = "" if find_weights("lpips-heads") else f", and {download_command('lpips-heads')} for its linear heads"
    names = {key: WEIGHT_FILES[key].name for key in ("alexnet", "lpips-heads", "lpips")}
    return (
        f"LPIPS needs torchvision's AlexNet, which is missing: run {download_command('alexnet')}{heads}; or put "
        f"{names['alexnet']} and {names['lpips-heads']}, or {names['lpips']} alone, into {weights_folder()} (looked in "
        f"{searched_folders('lpips', path)})"
    )


def _hashes(*keys: str) -> dict[str, str]:
    return {WEIGHT_FILES[key].name: WEIGHT_FILES[key].sha256 for key in keys}


def _from_npz(content: bytes) -> Lpips:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        network, heads = AlexNetMaps(), []
        for index, convolution in enumerate(network.convolutions):
            kernel = torch.from_numpy(arrays[f"AlexNet_0.Conv_{index}.kernel"])  # (height, width, in, out)
            convolution.load_state_dict(
                {
                    "weight": kernel.permute(3, 2, 0, 1).contiguous(),
                    "bias": torch.from_numpy(arrays[f"AlexNet_0.Conv_{index}.bias"]),
                }
            )
            heads.append(torch.from_numpy(arrays[f"NetLinLayer_{index}.Conv_0.kernel"]).flatten())
    return Lpips(network, heads, _hashes("lpips"))


def _from_torch(alexnet: bytes, heads: bytes) -> Lpips:
    state = torch.load(io.BytesIO(alexnet), map_location="cpu", weights_only=True)
    lin = torch.load(io.BytesIO(heads), map_location="cpu", weights_only=True)
    network = AlexNetMaps()
    for convolution, place in zip(network.convolutions, (0, 3, 6, 8, 10), strict=True):
        names = {kind: state[f"features.{place}.{kind}"] for kind in ("weight", "bias")}
        convolution.load_state_dict(names)
    return Lpips(
        network, [lin[f"lin{i}.model.1.weight"].flatten() for i in range(5)], _hashes("alexnet", "lpips-heads")
    )
