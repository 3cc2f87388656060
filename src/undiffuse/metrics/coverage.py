"""Precision, recall, density and coverage: fidelity and diversity of generated images.

Each set is modelled as the union of balls around its feature vectors (rows), whose radius is the distance to the k-th
nearest other row of the same set.

    precision = fraction of generated rows that lie in any ball of the real set
    recall    = fraction of real rows that lie in any ball of the generated set
    density   = mean number of real balls that contain a generated row, divided by k; not bounded by 1
    coverage  = fraction of real balls that contain at least one generated row

The first two are the improved precision and recall of Kynkäänniemi et al. 2019 (arXiv:1904.06991). The others are by
Naeem et al. 2020 (arXiv:2002.09797) and robust against outliers, which have very large balls. Balls are closed, as both
papers define them: a row at exactly the radius is inside.

All four depend on the counts. For two equal distributions the expected coverage is 1 - ((N-1) ... (N-k)) / ((N+M-1)
... (N+M-k)) and the expected density 1, while precision and recall depend on the shape of the data: compare them with
the values of two real sets of the same size.

The standard errors treat the balls as fixed. Over disjoint subsets of MNIST, where the balls vary too, they were 0.7 to
1.1 times the observed standard deviation for precision, recall and coverage, and 0.6 times for density.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.metrics.statistics import check_features

CHUNK_ELEMENTS = 1 << 19  # distances in memory at a time, about the size of a CPU cache
ROUNDING = 1e-12  # relative rounding error of an exact distance; smaller differences are ties


@dataclass(frozen=True)
class Coverage:
    """Precision, recall, density and coverage of a generated set against a real one.

    Attributes:
        precision, recall, coverage: fractions in 0..1.
        density: at least 0; about 1 for real images.
        precision_error, recall_error, density_error, coverage_error: standard errors over the rows that are counted,
            with fixed balls; those of fractions by Agresti & Coull (1998), so never 0.
        k: the k-th nearest neighbour determines the radius of a ball.
        num_real, num_generated: number of images on each side.
        dim: number of features.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int
    num_real: int
    num_generated: int
    dim: int
    precision_error: float
    recall_error: float
    density_error: float
    coverage_error: float

    def to_dict(self) -> dict[str, Any]:
        """All values as plain numbers, with a description of the protocol."""
        note = (
            f"closed balls to the {self.k}-th nearest of the same set on {self.dim} features; depends on the counts; "
            "standard errors over the rows counted, balls held fixed"
        )
        return {**asdict(self), "protocol": note}


def coverage(real: Tensor, generated: Tensor, k: int = 5) -> Coverage:
    """Precision, recall, density and coverage of ``generated`` (M, D) against ``real`` (N, D).

    Distances are computed by float64 matrix products in chunks; pairs within the rounding error of a ball's radius are
    recomputed from exact differences, so duplicates and ties are handled exactly.

    Raises:
        UsageError: different numbers of features, NaN, or fewer than k + 1 rows on a side.
    Source: Kynkäänniemi et al. 2019, equations 1 to 3; Naeem et al. 2020, equations 3 and 4.
    """
    real = check_features(real)
    generated = check_features(generated, real.shape[1])
    _check_enough(real, generated, k)
    real_set, generated_set = _with_balls(real, k), _with_balls(generated, k)
    balls_around, is_recalled, is_covered = _count(real_set, generated_set)
    density = balls_around.double() / k
    return Coverage(
        precision=_share(balls_around > 0),
        recall=_share(is_recalled),
        density=float(density.mean()),
        coverage=_share(is_covered),
        k=k,
        num_real=len(real),
        num_generated=len(generated),
        dim=real.shape[1],
        precision_error=_share_error(balls_around > 0),
        recall_error=_share_error(is_recalled),
        density_error=float(density.std()) / math.sqrt(len(density)),
        coverage_error=_share_error(is_covered),
    )


def expected_coverage(num_real: int, num_generated: int, k: int = 5) -> float:
    """The expected coverage of two sets from the same continuous distribution.

    Source: Naeem et al. 2020, section 3.3.
    """
    pairs = ((num_real - j) / (num_real + num_generated - j) for j in range(1, k + 1))
    return 1 - math.prod(pairs)


class _Balls(NamedTuple):
    """Rows (N, D) with the squared radius (N,) of the ball around each."""

    rows: Tensor
    squared_radii: Tensor


def _check_enough(real: Tensor, generated: Tensor, k: int) -> None:
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    if min(len(real), len(generated)) < k + 1:
        raise UsageError(
            f"precision, recall, density and coverage with k = {k} need at least {k + 1} images on each side, got "
            f"{len(real)} real and {len(generated)} generated; generate more or take a smaller k"
        )


def _share(inside: Tensor) -> float:
    return float(inside.double().mean())


def _share_error(inside: Tensor) -> float:
    """Binomial standard error with two successes and two failures added, so that it is never 0."""
    num = len(inside) + 4
    share = (int(inside.sum()) + 2) / num
    return math.sqrt(share * (1 - share) / num)


def _squared_distances(a: Tensor, b: Tensor, b_squares: Tensor) -> Tensor:
    product = torch.addmm(b_squares, a, b.T, alpha=-2)
    return product.add_(a.square().sum(1, keepdim=True))


def _exact(a: Tensor, b: Tensor, pairs: Tensor) -> Tensor:
    """Squared distances (P,) of rows ``pairs`` (P, 2), from differences: symmetric, and 0 for duplicates."""
    parts = torch.split(pairs, CHUNK_ELEMENTS // 64 or 1)
    return torch.cat([(a[i] - b[j]).square().sum(1) for i, j in (part.T for part in parts)])


def _rounding_bound(*centred: Tensor) -> float:
    """An upper bound of the rounding error of squared distances from a matrix product of these rows."""
    largest = max(float(rows.square().sum(1).max()) for rows in centred)
    return 4 * (centred[0].shape[1] + 8) * torch.finfo(torch.float64).eps * largest


def _chunks(num_rows: int, num_others: int) -> Iterator[slice]:
    size = max(1, CHUNK_ELEMENTS // num_others)
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def _with_balls(rows: Tensor, k: int) -> _Balls:
    centred = rows - rows.mean(0)
    squares, rounding = centred.square().sum(1), _rounding_bound(centred)
    radii = rows.new_empty(len(rows))
    for part in _chunks(len(rows), len(rows)):
        distances = _squared_distances(centred[part], centred, squares)
        distances[torch.arange(part.stop - part.start), torch.arange(part.start, part.stop)] = math.inf
        kth = distances.topk(k, dim=1, largest=False, sorted=False).values.amax(1, keepdim=True)
        radii[part] = _kth_exact(rows[part], rows, distances <= kth + 2 * rounding, k)
    return _Balls(rows, radii)


def _kth_exact(a: Tensor, b: Tensor, near: Tensor, k: int) -> Tensor:
    """The k-th smallest exact distance (c,) of each row of ``a`` to its candidates ``near`` (c, N) in ``b``."""
    pairs, counts = near.nonzero(), near.sum(1)
    place = torch.arange(len(pairs)) - (counts.cumsum(0) - counts)[pairs[:, 0]]
    table = a.new_full((len(a), int(counts.max())), math.inf)
    table[pairs[:, 0], place] = _exact(a, b, pairs)
    return table.topk(k, dim=1, largest=False).values.amax(1)


def _count(real: _Balls, generated: _Balls) -> tuple[Tensor, Tensor, Tensor]:
    """Number of real balls around each generated row (M,), and which real rows and balls (N,) are recalled, covered."""
    centre = real.rows.mean(0)
    real_rows, generated_rows = real.rows - centre, generated.rows - centre
    squares, rounding = real_rows.square().sum(1), _rounding_bound(real_rows, generated_rows)
    balls_around = torch.zeros(len(generated_rows), dtype=torch.int64)
    is_recalled, is_covered = (torch.zeros(len(real_rows), dtype=torch.bool) for _ in range(2))
    for part in _chunks(len(generated_rows), len(real_rows)):
        distances = _squared_distances(generated_rows[part], real_rows, squares)
        chunk = _Balls(generated.rows[part], generated.squared_radii[part])
        in_real = _inside(distances, real.squared_radii[None], rounding, chunk.rows, real.rows)
        in_generated = _inside(distances, chunk.squared_radii[:, None], rounding, chunk.rows, real.rows)
        balls_around[part] = in_real.sum(1)
        is_covered |= in_real.any(0)
        is_recalled |= in_generated.any(0)
    return balls_around, is_recalled, is_covered


def _inside(distances: Tensor, radii: Tensor, rounding: float, a: Tensor, b: Tensor) -> Tensor:
    """Which squared ``distances`` (c, N) are within ``radii`` (1, N) or (c, 1); exact for uncertain pairs."""
    inside = distances <= radii - rounding
    pairs = ((distances <= radii + rounding) ^ inside).nonzero()
    if len(pairs):
        row, column = pairs.T
        radius = radii.expand(distances.shape)[row, column]
        inside[row, column] = _exact(a, b, pairs) <= radius * (1 + ROUNDING)
    return inside
