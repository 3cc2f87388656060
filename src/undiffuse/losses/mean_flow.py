"""Mean velocities: learned, they lead from any time to any other in one network evaluation.

Along the path of a flow, dx / dt = v(x, t), the mean velocity between s and t is

    u(x_t, t, s) = 1 / (t - s) integral_s^t v(x_r, r) dr,   so   x_s = x_t - (t - s) u(x_t, t, s),

and u(x, t, t) = v(x, t). Differentiating along the path with s fixed gives the identity that is trained on:

    u = v - (t - s) du/dt,   du/dt = v du/dx + du/dt.                                       ``derivative_target``

Split at any time m between s and t, the integral is the sum of its parts, which needs no derivative:

    (t - s) u(x_t, t, s) = (t - m) u(x_t, t, m) + (m - s) u(x_m, m, s).                     ``split_target``

The first part is an ODE step of a teacher (``heun_velocity``): with u in both parts the mean velocities of every other
flow are solutions as well, and training drifts to one of them.

Source: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", arXiv:2505.13447, eqs. 3-11; Guo et al. 2025,
"SplitMeanFlow", arXiv:2507.16884, eq. 9.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from undiffuse.core.rows import per_row, sum_over_features

#: u(x (B, ...), t (B,), s (B,)) -> (B, ...).
MeanVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
#: v(x (B, ...), t (B,)) -> (B, ...).
Velocity = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def derivative_target(u: MeanVelocity, x_t: Tensor, t: Tensor, s: Tensor, velocity: Tensor) -> Tensor:
    """v - (t - s) (v du/dx + du/dt), the right side of the identity, by one Jacobian-vector product.

    Args:
        u: the current mean velocity; every operation in it needs a forward-mode derivative.
        x_t: (B, ...) at times ``t``.
        t, s: (B,) with s <= t.
        velocity: (B, ...) v at (x_t, t): the conditional eps - x_0, or a teacher's, which is its mean.
    Returns:
        (B, ...) without a gradient.
    Source: Geng et al. 2025, arXiv:2505.13447, eqs. 8 and 10.
    """
    tangents = (velocity, torch.ones_like(t), torch.zeros_like(s))
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no forward-mode derivative
        rate: Tensor = torch.func.jvp(u, (x_t, t, s), tangents)[1]
    target: Tensor = velocity - per_row(t - s, x_t) * rate
    return target


@torch.no_grad()
def split_target(u: MeanVelocity, x_t: Tensor, t: Tensor, m: Tensor, s: Tensor, first: Tensor) -> Tensor:
    """The mean of both parts' velocities, weighted by their lengths.

    Args:
        u: the current mean velocity.
        x_t: (B, ...) at times ``t``.
        t, m, s: (B,) with s <= m <= t.
        first: (B, ...) a teacher's mean velocity from t to m.
    Returns:
        (B, ...) without a gradient; ``first`` where m = s.
    """
    x_m = x_t - per_row(t - m, x_t) * first
    share = torch.where(m > s, (t - m) / (t - s).clamp(min=1e-300), torch.ones_like(t))
    second = u(x_m, m, s)
    return second + per_row(share, x_t) * (first - second)


@torch.no_grad()
def heun_velocity(v: Velocity, x_t: Tensor, t: Tensor, m: Tensor, velocity: Tensor) -> Tensor:
    """The mean velocity from t to m <= t by one step of Heun's method, ``(B, ...)``, with error O((t - m)^2).

    Args:
        v: the velocity as a function of x and t.
        x_t: (B, ...) at times ``t``.
        t: (B,) times of ``x_t``.
        m: (B,) times of the end, at most ``t``.
        velocity: (B, ...) v at (x_t, t).
    """
    return (velocity + v(x_t - per_row(t - m, x_t) * velocity, m)) / 2


def adaptive_loss(error: Tensor, power: float, floor: float) -> Tensor:
    """||error||^2 / (||error||^2 + floor)^power with a stop-gradient on the divisor, which limits large gradients.

    Args:
        error: (B, ...).
        power: 0 is the squared error; 1/2 with a small floor is close to a norm; 1 is the default of the paper.
        floor: lower limit of the divisor.
    Returns:
        (B,).
    Source: Geng et al. 2025, arXiv:2505.13447, sec. 4.3 and eq. 22.
    """
    squared = sum_over_features(error**2)
    return squared / (squared.detach() + floor) ** power
