"""Consistency losses: f at (x_t, t) is regressed on f at a slightly less noisy point of the same path.

A consistency function maps every point of a probability-flow path to the path's clean end,

    f(x_t, t) = f(x_s, s) on one path,   f(x, 0) = x / alpha(0).

Training regresses f(x_t, t) on f(x_s, s) without a gradient, with x_s from a teacher's ODE step (distillation) or from
the same image and the same noise at s (training). Here f is a denoiser's x_0-hat.

With segments (Heek et al. 2024) a path ends at the next boundary b below t: the target is the x_0 whose DDIM step
t -> b ends at the same point as the DDIM step s -> b from f(x_s, s). With b = 0 that is f(x_s, s) itself.

Source: Song et al. 2023, arXiv:2303.01469; Song & Dhariwal 2023, "Improved Techniques for Training Consistency
Models", arXiv:2310.14189; Geng et al. 2024, "Consistency Models Made Easy", arXiv:2406.14548; Heek et al. 2024,
"Multistep Consistency Models", arXiv:2403.06807.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from undiffuse.core.process import Process
from undiffuse.core.rows import per_row, sum_over_features, where_rows

#: c / sqrt(d) of the pseudo-Huber distance (Song & Dhariwal 2023, sec. 3.3).
HUBER = 0.00054
#: n(r) = 1 + 8 sigmoid(-r) makes the relative steps near the data larger than elsewhere (Geng et al. 2024, appendix A).
_NEAR_DATA = 8.0


def pseudo_huber(difference: Tensor, constant: float) -> Tensor:
    """sqrt(||difference||^2 + c^2) - c per sample, c = ``constant`` sqrt(d) for samples of d numbers.

    Quadratic for small differences and linear for large ones, so that outliers do not dominate.

    Args:
        difference: (B, ...).
        constant: c / sqrt(d), at least 0.
    Returns:
        (B,).
    Source: Song & Dhariwal 2023, arXiv:2310.14189, eq. 7.
    """
    c = constant * math.sqrt(max(difference[0].numel() if len(difference) else 1, 1))
    square = sum_over_features(difference**2)
    return square / (torch.sqrt(square + c**2) + c)  # equal, but without cancellation for small differences


def knot_pair(times: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The first knot at or above each time and the knot below it.

    Args:
        times: (K + 1,) descending knots.
        t: (B,) times.
    Returns:
        Two tensors (B,).
    """
    ascending = times.flip(0).to(t.device)
    upper = torch.searchsorted(ascending, t).clamp(1, len(ascending) - 1)
    return ascending[upper], ascending[upper - 1]


def knots_at(seen: int, first: int, last: int, doubling_images: int) -> int:
    """Number of steps of the discretisation, doubled at intervals from ``first`` up to ``last``.

    Args:
        seen: images seen so far.
        first: initial number of steps.
        last: maximum number of steps.
        doubling_images: images from one doubling to the next.
    Source: Song & Dhariwal 2023, arXiv:2310.14189, sec. 3.4 (an exponential curriculum).
    """
    doublings = min(seen // doubling_images, max(last // first, 1).bit_length())
    return int(min(first * 2**doublings, last))


def ratio_below(process: Process, t: Tensor, halvings: int) -> Tensor:
    """The s with r_s = r_t (1 - n(r_t) / 2^halvings), r = sigma / alpha; 0 where that is not positive.

    n(r) = 1 + 8 sigmoid(-r). With few halvings s = 0, which gives the diffusion loss; each halving halves the gap.

    Args:
        process: the forward process.
        t: (B,) times in (0, 1].
        halvings: how often the gap has been halved, at least 0.
    Source: Geng et al. 2024, arXiv:2406.14548, sec. 3.2.
    """
    r = torch.exp(-process.log_snr(t) / 2)
    n = 1 + _NEAR_DATA * torch.exp(torch.nn.functional.logsigmoid(-r))
    remaining = 1 - n / 2.0**halvings
    log_snr = process.log_snr(t) - 2 * torch.log(remaining.clamp(min=0))
    return torch.where(remaining > 0, process.time_of_log_snr(log_snr), torch.zeros_like(t))


def end_of_segment(boundaries: Tensor, t: Tensor) -> Tensor:
    """The largest boundary below each time.

    Args:
        boundaries: (N + 1,) descending.
        t: (B,) times.
    Returns:
        (B,).
    """
    return knot_pair(boundaries, t)[1]


@torch.no_grad()
def consistency_target(
    process: Process, x_t: Tensor, t: Tensor, x_s: Tensor, s: Tensor, x_0_s: Tensor, end: Tensor
) -> Tensor:
    """The regression target of f(x_t, t), an x_0 of shape (B, ...).

    Args:
        process: of x_t.
        x_t: (B, ...) the noisier point of the path.
        t: (B,) its times.
        x_s: (B, ...) the less noisy point.
        s: (B,) its times, end <= s < t.
        x_0_s: (B, ...) f(x_s, s); ignored where s = end.
        end: (B,) times at which the paths end; 0 for the data.
    """
    at_end = s <= end
    # where s = end, x_s is the end point itself, and t replaces s because sigma(s) may be 0
    safe_s = torch.where(at_end, t, s)
    x_end = where_rows(at_end, x_s, _ddim(process, x_s, safe_s, x_0_s, end))
    keep = process.sigma(end) / process.sigma(t)
    gain = process.alpha(end) - process.alpha(t) * keep
    return (x_end - per_row(keep, x_t) * x_t) / per_row(gain, x_t)


def _ddim(process: Process, x_t: Tensor, t: Tensor, x_0: Tensor, s: Tensor) -> Tensor:
    keep = process.sigma(s) / process.sigma(t)
    gain = process.alpha(s) - process.alpha(t) * keep
    return per_row(keep, x_t) * x_t + per_row(gain, x_t) * x_0
