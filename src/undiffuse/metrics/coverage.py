"""Precision, recall, density and coverage: do the generated images look real, and do they reach all real ones?

Each set is taken as the union of balls around its rows, each out to the row's k-th nearest other row of its own set.

    precision = share of generated rows that lie in some ball of the real set
    recall    = share of real rows that lie in some ball of the generated set
    density   = mean number of real balls around a generated row, over k; not bounded by 1
    coverage  = share of real balls that hold at least one generated row

The first two are the improved precision and recall of Kynkäänniemi et al. 2019 (arXiv:1904.06991), the others of Naeem
et al. 2020 (arXiv:2002.09797), who made them robust against outliers: one stray row has a huge ball. Balls are closed,
as both papers define them: a row at exactly the radius is inside.

All four depend on the counts. Of two equal distributions, coverage is expected at 1 - ((N-1) ... (N-k)) / ((N+M-1)
... (N+M-k)), density at 1, and precision and recall at whatever the shape of the data makes of them: compare them
with the values of two real sets of the same size.

The standard errors hold the balls fixed. Over disjoint parts of MNIST, where the balls vary too, they were 0.7 to 1.1
times the spread that was seen for the three shares, and 0.6 times for density.
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

CHUNK_ELEMENTS = 1 << 19  # distances in memory at a time: what a cache holds
ROUNDING = 1e-12  # of an exact distance, relative: closer than that is a tie


@dataclass(frozen=True)
class Coverage:
    """Precision, recall, density and coverage of a generated set against a real one.

    Attributes:
        precision, recall, coverage: shares in 0..1.
        density: at least 0; 1 is what real images give.
        precision_error, recall_error, density_error, coverage_error: standard errors over the rows that are counted,
            with the balls held fixed; those of shares by Agresti & Coull (1998), so never 0.
        k: which neighbour sets the radius of a ball.
        num_real, num_generated: the images on each side.
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
        """Everything as plain numbers, with the protocol in words."""
        note = (
            f"closed balls to the {self.k}-th nearest of the same set on {self.dim} features; depends on the counts; "
            "standard errors over the rows counted, balls held fixed"
        )
        return {**asdict(self), "protocol": note}


def coverage(real: Tensor, generated: Tensor, k: int = 5) -> Coverage:
    """Precision, recall, density and coverage of ``generated`` (M, D) against ``real`` (N, D).

    Float64 matrix products find the distances, a bounded number at a time; pairs too near a ball's edge for their
    rounding are decided by exact differences, so copies and ties come out as they are.

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
    """The coverage to expect where both sets come from one continuous distribution.

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
            f"{len(real)} real and {len(generated)} generated; make more or take a smaller k"
        )


def _share(inside: Tensor) -> float:
    return float(inside.double().mean())


def _share_error(inside: Tensor) -> float:
    """Binomial, after two more hits and two more misses: at a share of 0 or 1 the plain formula would claim 0."""
    num = len(inside) + 4
    share = (int(inside.sum()) + 2) / num
    return math.sqrt(share * (1 - share) / num)


def _squared_distances(a: Tensor, b: Tensor, b_squares: Tensor) -> Tensor:
    product = torch.addmm(b_squares, a, b.T, alpha=-2)
    return product.add_(a.square().sum(1, keepdim=True))


def _exact(a: Tensor, b: Tensor, pairs: Tensor) -> Tensor:
    """Squared distances (P,) of rows ``pairs`` (P, 2), from differences: 0 for a copy, whichever side comes first."""
    parts = torch.split(pairs, CHUNK_ELEMENTS // 64 or 1)
    return torch.cat([(a[i] - b[j]).square().sum(1) for i, j in (part.T for part in parts)])


def _doubt(*centred: Tensor) -> float:
    """More than the rounding of a squared distance that a matrix product of these rows gives."""
    largest = max(float(rows.square().sum(1).max()) for rows in centred)
    return 4 * (centred[0].shape[1] + 8) * torch.finfo(torch.float64).eps * largest


def _chunks(num_rows: int, num_others: int) -> Iterator[slice]:
    size = max(1, CHUNK_ELEMENTS // num_others)
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))


def _with_balls(rows: Tensor, k: int) -> _Balls:
    centred = rows - rows.mean(0)
    squares, doubt = centred.square().sum(1), _doubt(centred)
    radii = rows.new_empty(len(rows))
    for part in _chunks(len(rows), len(rows)):
        distances = _squared_distances(centred[part], centred, squares)
        distances[torch.arange(part.stop - part.start), torch.arange(part.start, part.stop)] = math.inf
        kth = distances.topk(k, dim=1, largest=False, sorted=False).values.amax(1, keepdim=True)
        radii[part] = _kth_exact(rows[part], rows, distances <= kth + 2 * doubt, k)
    return _Balls(rows, radii)


def _kth_exact(a: Tensor, b: Tensor, near: Tensor, k: int) -> Tensor:
    """The k-th smallest exact distance (c,) of each row of ``a`` to the rows of ``b`` that may be ``near`` (c, N)."""
    pairs, counts = near.nonzero(), near.sum(1)
    place = torch.arange(len(pairs)) - (counts.cumsum(0) - counts)[pairs[:, 0]]
    table = a.new_full((len(a), int(counts.max())), math.inf)
    table[pairs[:, 0], place] = _exact(a, b, pairs)
    return table.topk(k, dim=1, largest=False).values.amax(1)


def _count(real: _Balls, generated: _Balls) -> tuple[Tensor, Tensor, Tensor]:
    """Real balls around each generated row (M,), which real rows (N,) are recalled, which real balls are covered."""
    centre = real.rows.mean(0)
    real_rows, generated_rows = real.rows - centre, generated.rows - centre
    squares, doubt = real_rows.square().sum(1), _doubt(real_rows, generated_rows)
    balls_around = torch.zeros(len(generated_rows), dtype=torch.int64)
    is_recalled, is_covered = (torch.zeros(len(real_rows), dtype=torch.bool) for _ in range(2))
    for part in _chunks(len(generated_rows), len(real_rows)):
        distances = _squared_distances(generated_rows[part], real_rows, squares)
        some = _Balls(generated.rows[part], generated.squared_radii[part])
        in_real = _inside(distances, real.squared_radii[None], doubt, some.rows, real.rows)
        in_generated = _inside(distances, some.squared_radii[:, None], doubt, some.rows, real.rows)
        balls_around[part] = in_real.sum(1)
        is_covered |= in_real.any(0)
        is_recalled |= in_generated.any(0)
    return balls_around, is_recalled, is_covered


def _inside(distances: Tensor, radii: Tensor, doubt: float, a: Tensor, b: Tensor) -> Tensor:
    """Which squared ``distances`` (c, N) are within ``radii`` (1, N) or (c, 1); doubtful ones are computed exactly."""
    inside = distances <= radii - doubt
    pairs = ((distances <= radii + doubt) ^ inside).nonzero()
    if len(pairs):
        row, column = pairs.T
        radius = radii.expand(distances.shape)[row, column]
        inside[row, column] = _exact(a, b, pairs) <= radius * (1 + ROUNDING)
    return inside
