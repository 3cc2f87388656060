"""Changes of a guided x_0-hat that reduce the saturation of large guidance weights, per sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undiffuse.core.per_sample import PerSample
from undiffuse.core.rows import per_row, where_rows


@dataclass(frozen=True)
class Refinement(PerSample):
    """How the guided x_0-hat of each sample is changed; the tensors stay on the CPU.

    Args:
        rescale: (B,) float64 in [0, 1], how far the standard deviation of the guided x_0-hat is returned to that of the
            conditional one (Lin et al. 2023, arXiv:2305.08891, eq. 15 and 16).
        parallel: (B,) float64, factor of the part of the guidance that is parallel to the conditional x_0-hat (eta of
            adaptive projected guidance, Sadat et al. 2024, arXiv:2410.02416, eq. 8).
        norm: (B,) float64, largest root mean square of a difference of two predictions, infinite for none; the paper's
            r (eq. 9) divided by the square root of the number of values.
    Note:
        The papers rescale the prediction of v and project that of x_0. Here both are applied to x_0-hat, so that they
        do not depend on the parameterization. The momentum of adaptive projected guidance is left out: a step of a
        solver depends on the current sample alone.
    """

    rescale: Tensor | None = None
    parallel: Tensor | None = None
    norm: Tensor | None = None

    @property
    def rows(self) -> Tensor | None:
        """(B,) bool, the samples that are changed; None if none is."""
        if self.rescale is None or self.parallel is None or self.norm is None:
            return None
        rows = (self.rescale != 0) | (self.parallel != 1) | torch.isfinite(self.norm)
        return rows if bool(rows.any()) else None

    def limited(self, difference: Tensor) -> Tensor:
        """Differences (B, ...) of two predictions with their root mean square limited to ``norm``."""
        assert self.norm is not None
        if not bool(torch.isfinite(self.norm).any()):
            return difference
        size = _mean_per_sample(difference.double().square()).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        return difference * per_row((self.norm.to(size.device) / size).clamp(max=1), difference)

    def refined(self, update: Tensor, conditional: Tensor) -> Tensor:
        """The guided x_0-hat.

        Args:
            update: (B, ...) guidance, added to the conditional prediction.
            conditional: (B, ...) conditional x_0-hat.
        """
        assert self.rescale is not None and self.parallel is not None
        guided = conditional + update
        if bool((projected := self.parallel != 1).any()):
            changed = guided + per_row(self.parallel - 1, update) * _parallel_part(update, conditional)
            guided = where_rows(projected, changed, guided)
        if not bool(self.rescale.any()):
            return guided
        before, after = (_standard_deviation(x) for x in (conditional, guided))
        factor = before / after.clamp(min=torch.finfo(torch.float64).tiny)
        rescale = self.rescale.to(factor.device)
        scaled = guided * per_row(rescale * factor + (1 - rescale), guided)
        return where_rows(self.rescale != 0, scaled, guided)


def _parallel_part(x: Tensor, direction: Tensor) -> Tensor:
    """The projection of each sample of ``x`` on that of ``direction``."""
    inner = _mean_per_sample(x.double() * direction.double())
    length = _mean_per_sample(direction.double().square()).clamp(min=torch.finfo(torch.float64).tiny)
    return per_row(inner / length, direction) * direction


def _standard_deviation(x: Tensor) -> Tensor:
    """Standard deviation over the values of each sample, (B,) float64."""
    x = x.double()
    return _mean_per_sample((x - per_row(_mean_per_sample(x), x)).square()).sqrt()


def _mean_per_sample(x: Tensor) -> Tensor:
    """Means (B,) of float64 values, one sample at a time: the order of a sum may depend on the size of a batch."""
    return torch.stack([row.mean() for row in x.flatten(1)]) if len(x) else x.new_zeros(0)
