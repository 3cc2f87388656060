"""Importance-sampled times: drawn more often where the loss is larger, with weights that keep its mean unbiased.

    p_k  proportional to  sqrt(E L_k^2),   the loss of a sample at knot k / T has the weight 1 / (T p_k)

with E over the last ten losses at that knot; p is uniform until every knot has ten losses.

Source: Nichol & Dhariwal 2021, arXiv:2102.09672, sec. 3.3, eq. 18.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Losses stored per knot.
HISTORY = 10
#: Fraction of uniform draws: it keeps every p_k above 0 and bounds the weights by its inverse.
UNIFORM_SHARE = 0.001


class ImportanceDraws(nn.Module):
    """The loss history of a chain's knots and the importance sampling that follows from it; all state is in buffers.

    Args:
        num_steps: T, knots k / T with k = 1 ... T.
    """

    losses: Tensor
    counts: Tensor

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.register_buffer("losses", torch.zeros(num_steps, HISTORY, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(num_steps, dtype=torch.int64))

    @property
    def num_steps(self) -> int:
        """T, the number of knots."""
        return len(self.counts)

    def probabilities(self) -> Tensor:
        """p_1 ... p_T, ``(T,)`` float64 on the CPU, uniform until every knot has a full history."""
        losses, counts = self.losses.cpu(), self.counts.cpu()
        size = losses.square().mean(1).sqrt()
        uniform = torch.full_like(size, 1 / self.num_steps)
        if not bool((counts >= HISTORY).all()) or not float(size.sum()) > 0:
            return uniform
        return (1 - UNIFORM_SHARE) * size / size.sum() + UNIFORM_SHARE * uniform

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Times and weights from uniform numbers.

        The sums are computed on the CPU, where they are deterministic.

        Args:
            u: (B,) in (0, 1).
        Returns:
            Knots t (B,) and weights 1 / (T p) (B,), float64 on the device of ``u``.
        """
        p = self.probabilities()
        edges = torch.cumsum(p, 0)
        index = torch.searchsorted(edges, u.detach().cpu().double() * edges[-1], right=True)
        index = index.clamp(max=self.num_steps - 1)
        return ((index + 1).double() / self.num_steps).to(u.device), (1 / (self.num_steps * p[index])).to(u.device)

    @torch.no_grad()
    def record(self, t: Tensor, losses: Tensor) -> None:
        """Append losses to the history in order, or none of them if any is not finite.

        A step with a non-finite loss is repeated to find the cause and must draw the same times again.

        Args:
            t: (B,) knots.
            losses: (B,) unweighted losses there.
        """
        if not bool(torch.isfinite(losses).all()):
            return
        index = torch.round(t.double() * self.num_steps).long() - 1
        order = torch.argsort(index, stable=True)
        index, losses = index[order], losses.detach().double()[order]
        first, after = torch.searchsorted(index, index), torch.searchsorted(index, index, right=True)
        rank = torch.arange(len(index), device=index.device) - first
        kept = after - first - rank <= HISTORY  # the last ten, if one knot has more
        slot = (self.counts[index] + rank) % HISTORY
        self.losses[index[kept], slot[kept]] = losses[kept]
        self.counts.add_(torch.bincount(index, minlength=self.num_steps))
