"""Near-duplicate images: mirrored, recompressed, resized, or slightly shifted.

Two images a, b differ by

    d(a, b) = min over mirroring and shifts m of  RMS(a - m b) / contrast,

where both are thumbnails of at most 32 pixels per side, smoothed by (1, 2, 1) / 4 along each axis, a shift is at most
one thumbnail pixel, and the contrast is the standard deviation of an image's values (root mean square of the two). d is
0 for identical images and about sqrt(2) for unrelated ones.

The limit was chosen on MNIST, whose 60,000 digits have no copies but thousands of very similar strokes: none of its
1.8e9 pairs is below 0.07, 3 are below 0.08 and 97 below 0.1. Of recompressed images (JPEG, quality 75) nine in ten stay
below 0.05 on MNIST, Fashion-MNIST and photographs and below 0.07 on emoji; of photographs downscaled to half and
upscaled again, below 0.03. Not detected: shifts by a fraction of a thumbnail pixel, crops, rotations, other brightness.

All pairs are searched, exactly and in little memory. The moduli of an image's low Fourier frequencies are invariant to
shifts, and, with those of opposite horizontal frequency sorted, also to mirroring; neither step increases the distance
of two images (Parseval; the triangle inequality; the rearrangement inequality). So the distance of such signatures, one
matrix product, is a lower bound on d except for border effects, and only pairs below the limit are compared pixel by
pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from undiffuse.diagnostics.limits import NEAR

#: Longest side of a thumbnail.
SIDE = 32
#: Number of frequencies per axis.
_FREQUENCIES = 4
#: Maximum number of candidates; beyond that the limit on signatures is halved.
_MAX_CANDIDATES = 2_000_000
#: Thumbnails narrower than this are not shifted, since a pixel is too large a fraction of them.
_MIN_SHIFTED = 16
_TILE, _CHUNK = (256, 4096), 4096


@dataclass(frozen=True)
class Pairs:
    """Near-duplicates i < j, nearest first.

    Attributes:
        first, second: (P,) row indices.
        distance: (P,) d.
        mirrored: (P,) whether the second is the mirror image.
        limit: the limit used for signatures: less than requested if there were too many candidates.
    """

    first: Tensor
    second: Tensor
    distance: Tensor
    mirrored: Tensor
    limit: float

    def __len__(self) -> int:
        return len(self.first)


def thumbnails(images: Tensor, sides: tuple[int, int] | None = None) -> Tensor:
    """Downscale uint8 images (B, C, H, W) by area averaging to at most ``SIDE`` per side, or to (height, width)."""
    height, width = sides or (min(SIDE, images.shape[-2]), min(SIDE, images.shape[-1]))
    if tuple(images.shape[-2:]) == (height, width):
        return images
    pooled: Tensor = F.adaptive_avg_pool2d(images.float(), (height, width))
    return pooled.round().to(torch.uint8)


def contrast_of(images: Tensor) -> Tensor:
    """(B,) standard deviation of each image's values about its mean."""
    return images.flatten(1).float().std(1, correction=0)


def near_pairs(images: Tensor, near: float = NEAR, boundary: int | None = None) -> Pairs:
    """All pairs with d <= ``near``.

    Args:
        images: uint8 (N, C, H, W), thumbnails; those without contrast have no near-duplicates.
        near: the limit on d.
        boundary: compare only rows below this index with rows from it on; by default all pairs.
    """
    chunks = torch.split(images, _CHUNK)
    signatures = torch.cat([signature(chunk) for chunk in chunks]) if len(images) else torch.zeros(0, 1)
    contrast = torch.cat([contrast_of(chunk) for chunk in chunks]) if len(images) else torch.zeros(0)
    limit = near
    while (found := _candidates(signatures, contrast, limit, boundary)) is None:
        limit /= 2
    first, second = found
    if len(first) == 0:
        return Pairs(first, second, torch.zeros(0), torch.zeros(0, dtype=torch.bool), limit)
    chunked = zip(torch.split(first, _CHUNK), torch.split(second, _CHUNK), strict=True)
    parts = [_verified(images[a], images[b]) for a, b in chunked]
    distance, mirrored = (torch.cat(part) for part in zip(*parts, strict=True))
    order = distance.argsort(stable=True)
    order = order[distance[order] <= near]
    return Pairs(first[order], second[order], distance[order], mirrored[order], limit)


def signature(images: Tensor) -> Tensor:
    """(B, F) features invariant to shifts and mirroring; their distances are in units of the RMS per pixel."""
    height, width = images.shape[-2:]
    limit = max(1, min(_FREQUENCIES, (height - 1) // 2, (width - 1) // 2))
    moduli = torch.fft.rfft2(images.float(), norm="ortho").abs() / math.sqrt(images[0].numel())
    down, across = min(limit, height - 1), min(limit, width // 2)
    upper, lower = moduli[..., 1 : down + 1, : across + 1], moduli[..., height - down :, : across + 1].flip(-2)
    sqrt2 = math.sqrt(2)  # rfft2 returns only one of a frequency and its opposite
    parts = [
        moduli[..., 0, :1],
        moduli[..., 0, 1 : across + 1] * sqrt2,
        upper[..., 0] * sqrt2,
        torch.maximum(upper[..., 1:], lower[..., 1:]) * sqrt2,
        torch.minimum(upper[..., 1:], lower[..., 1:]) * sqrt2,
    ]
    return torch.cat([part.flatten(1) for part in parts], 1)


def _candidates(
    signatures: Tensor, contrast: Tensor, limit: float, boundary: int | None
) -> tuple[Tensor, Tensor] | None:
    """Pairs i < j whose signatures are within ``limit`` contrasts, or ``None`` if there are too many."""
    first, second, count = [], [], 0
    for a, b in _tiles(signatures, contrast, limit, boundary):
        first.append(a)
        second.append(b)
        count += len(a)
        if count > _MAX_CANDIDATES:
            return None
    none = torch.zeros(0, dtype=torch.int64)
    return torch.cat([none, *first]), torch.cat([none, *second])


def _tiles(signatures: Tensor, contrast: Tensor, limit: float, boundary: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """|s_a - s_b|^2 - limit^2 (c_a^2 + c_b^2) / 2 as one matrix product, tile by tile, so that it stays in cache."""
    size, (tall, wide) = len(signatures), _TILE
    rows, columns = (
        (0, size) if boundary is None else (0, boundary),
        (0, size) if boundary is None else (boundary, size),
    )
    centred = signatures - signatures.mean(0) if size else signatures
    slack = 1e-4  # for float32 sums; false candidates are removed by the pixel comparison
    norm = (centred.square().sum(1) * (1 - slack) - limit**2 / 2 * contrast**2)[:, None]
    one = torch.ones_like(norm)
    left, right = torch.cat([-2 * centred, one, norm], 1), torch.cat([centred, norm, one], 1)
    flat = contrast == 0
    buffer = torch.empty(tall * wide)
    for top in range(*rows, tall):
        bottom = min(top + tall, rows[1])
        start = columns[0] if boundary is not None else top
        for begin in range(start, columns[1], wide):
            end = min(begin + wide, columns[1])
            tile = buffer[: (bottom - top) * (end - begin)].view(bottom - top, end - begin)
            torch.mm(left[top:bottom], right[begin:end].T, out=tile)
            if float(tile.min()) >= 0:
                continue
            a, b = (tile < 0).nonzero().T
            a, b = a + top, b + begin
            keep = (a < b) & ~flat[a] & ~flat[b]
            yield a[keep], b[keep]


def _verified(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) d of uint8 images (P, C, H, W), and whether the mirrored distance is smaller."""
    a, b = softened(a), softened(b)
    scale = ((contrast_of(a) ** 2 + contrast_of(b) ** 2) / 2).sqrt().clamp_min(1e-6)
    plain, mirrored = _shifted_distance(a, b), _shifted_distance(a, b.flip(-1))
    return torch.minimum(plain, mirrored) / scale, mirrored < plain


def softened(images: Tensor) -> Tensor:
    """Smooth images by (1, 2, 1) / 4 along each axis, which removes compression noise but keeps real differences."""
    x = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    x = (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
    return (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4


def _shifted_distance(a: Tensor, b: Tensor) -> Tensor:
    """Smallest RMS difference over shifts of at most one pixel, on the overlap of the two images."""
    height, width = a.shape[-2:]
    best = (a - b).square().flatten(1).mean(1)
    if min(height, width) < _MIN_SHIFTED:
        return best.sqrt()
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            here, there = _overlap(a, down, across), _overlap(b, -down, -across)
            best = torch.minimum(best, (here - there).square().flatten(1).mean(1))
    return best.sqrt()


def _overlap(images: Tensor, down: int, across: int) -> Tensor:
    """The overlap after a shift, without a margin of one pixel where smoothing used pixels outside the overlap."""
    height, width = images.shape[-2:]
    rows, columns = slice(max(down, 0), height + min(down, 0)), slice(max(across, 0), width + min(across, 0))
    return images[..., rows, columns][..., 1:-1, 1:-1]


def groups_of(first: list[int], second: list[int]) -> list[list[int]]:
    """Connected components of the pairs, largest first, each sorted."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        parent.setdefault(row, row)
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for a, b in zip(first, second, strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    members: dict[int, list[int]] = {}
    for row in sorted(parent):
        members.setdefault(root(row), []).append(row)
    return sorted(members.values(), key=lambda group: (-len(group), group))
