"""Forward processes, each defined by a pair of functions (alpha, sigma).

With time t in [0, 1] (0 is data, 1 is the prior) a process is

    x_t = alpha(t) x_0 + sigma(t) eps,   eps ~ N(0, I)

and from the pair (alpha, sigma) follow

    log-SNR     lambda(t) = 2 log(alpha / sigma), strictly decreasing, with inverse ``time_of_log_snr``
    drift       f(x, t)   = (d log alpha / dt) x
    diffusion   g(t)^2    = d(sigma^2)/dt - 2 (d log alpha / dt) sigma^2
    bridge      q(x_s | x_t, x_0) = N(c_t x_t + c_0 x_0, var I)  for s <= t

Time arithmetic is always float64; coefficients are cast when they are applied to an image (``core.rows.per_row``).

Source: Kingma et al. 2021, "Variational Diffusion Models", arXiv:2107.00630, secs. 3.1 and A; Song et al. 2021,
"Score-Based Generative Modeling through SDEs", arXiv:2011.13456, sec. 3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from undiffuse.core.rows import per_row


class Bridge(NamedTuple):
    """Coefficients of q(x_s | x_t, x_0) and of the step s -> t, each ``(B,)`` float64.

    ``alpha_ts`` and ``var_max`` describe the forward step q(x_t | x_s) = N(alpha_ts x_s, var_max I): for one knot of
    a discrete process ``var_max`` is beta_t and ``var`` is beta-tilde_t.
    """

    alpha_ts: Tensor
    var_max: Tensor
    c_t: Tensor
    c_0: Tensor
    var: Tensor


class Process(ABC):
    """A Gaussian forward process; subclasses implement ``alpha`` and ``sigma``."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal coefficient alpha(t).

        Args:
            t: (B,) times in [0, 1].
        Returns:
            (B,) float64.
        """

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise standard deviation sigma(t).

        Args:
            t: (B,) times in [0, 1].
        Returns:
            (B,) float64.
        """

    @property
    def num_steps(self) -> int | None:
        """T of a discrete chain; ``None`` for a continuous process."""
        return None

    @property
    def knots(self) -> Tensor | None:
        """The times 0, 1/T, ..., 1 of a discrete chain, ``(T + 1,)`` float64; ``None`` for a continuous process."""
        num_steps = self.num_steps
        return None if num_steps is None else torch.arange(num_steps + 1, dtype=torch.float64) / num_steps

    @property
    def prior_std(self) -> float:
        """Standard deviation of the Gaussian that sampling starts from."""
        return float(self.sigma(torch.ones(1, dtype=torch.float64)))

    def start_std(self, time: float) -> float:
        """Standard deviation of the initial noise for sampling from ``time``: ``prior_std`` scaled by sigma(time)."""
        t = torch.tensor([time, 1.0], dtype=torch.float64)
        sigma, last = self.sigma(t).tolist()
        return float(self.prior_std * (sigma / last))

    def norm(self, t: Tensor) -> Tensor:
        """sqrt(alpha^2 + sigma^2): x_t divided by it has unit variance if the data has.

        Args:
            t: (B,) times in [0, 1].
        """
        return torch.hypot(self.alpha(t), self.sigma(t))

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t) = 2 log(alpha / sigma): +inf if sigma = 0, -inf if alpha = 0.

        Args:
            t: (B,) times in [0, 1].
        """
        return 2 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The t with lambda(t) = log_snr; values outside the process's range give exactly 0 or 1.

        Args:
            log_snr: (B,) log-SNRs, possibly infinite.
        """
        return _bisect(self.log_snr, log_snr.double())

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha'(t), sigma'(t)), the coefficients of the flow velocity alpha' x_0 + sigma' eps.

        Args:
            t: (B,) times in [0, 1].
        """
        return derivative(self.alpha, t), derivative(self.sigma, t)

    def d_log_alpha(self, t: Tensor) -> Tensor:
        """d log alpha / dt.

        Args:
            t: (B,) times in [0, 1].
        """
        return self.rates(t)[0] / self.alpha(t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t) of the forward SDE dx = f dt + g dw.

        Args:
            x: (B, ...) points.
            t: (B,) times in [0, 1].
        """
        return per_row(self.d_log_alpha(t), x) * x

    def diffusion2(self, t: Tensor) -> Tensor:
        """g(t)^2 of the forward SDE.

        Args:
            t: (B,) times in [0, 1].
        """
        sigma = self.sigma(t)
        return 2 * sigma * self.rates(t)[1] - 2 * self.d_log_alpha(t) * sigma**2

    def diffuse(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x_0 + sigma eps, a draw from q(x_t | x_0).

        Args:
            x_0: (B, ...) clean data.
            eps: (B, ...) standard normal noise.
            t: (B,) times in [0, 1].
        """
        return per_row(self.alpha(t), x_0) * x_0 + per_row(self.sigma(t), x_0) * eps

    def bridge(self, s: Tensor, t: Tensor) -> Bridge:
        """q(x_s | x_t, x_0) for s <= t, finite at both ends; s = t is the identity.

        var_max = -sigma_t^2 expm1(lambda_t - lambda_s), c_t = alpha_ts sigma_s^2 / sigma_t^2,
        c_0 = alpha_s var_max / sigma_t^2, var = var_max sigma_s^2 / sigma_t^2.

        Args:
            s: (B,) the earlier times, at most ``t``.
            t: (B,) the later times in [0, 1].
        Source: Kingma et al. 2021, arXiv:2107.00630, eqs. 18-22 of appendix A.
        """
        same = s == t
        alpha_s, alpha_t, sigma_s, sigma_t = self.alpha(s), self.alpha(t), self.sigma(s), self.sigma(t)
        one, zero = torch.ones_like(alpha_t), torch.zeros_like(alpha_t)
        # 1 - SNR_t / SNR_s; if s = t both log-SNRs may be infinite and their difference NaN
        gain = torch.where(same, zero, -torch.expm1(self.log_snr(t) - self.log_snr(s)))
        alpha_ts = torch.where(same, one, alpha_t / alpha_s)
        keep = torch.where(same, one, (sigma_s / sigma_t) ** 2)
        var_max = sigma_t**2 * gain
        return Bridge(alpha_ts, var_max, alpha_ts * keep, alpha_s * gain, var_max * keep)


def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """d function / dt by automatic differentiation in float64.

    Args:
        function: elementwise, (B,) to (B,).
        t: (B,) points of differentiation.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = t.detach().clone().double().requires_grad_()
        value = function(leaf)
        if not value.requires_grad:  # a constant alpha
            return torch.zeros_like(leaf)
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return slope


def _bisect(decreasing: Callable[[Tensor], Tensor], target: Tensor, iterations: int = 80) -> Tensor:
    """Solve decreasing(t) = target on [0, 1] by bisection; the ends are returned exactly."""
    low, high = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(iterations):
        middle = (low + high) / 2
        above = decreasing(middle) > target
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    middle = (low + high) / 2
    middle = torch.where(target >= decreasing(torch.zeros_like(target)), torch.zeros_like(middle), middle)
    return torch.where(target <= decreasing(torch.ones_like(target)), torch.ones_like(middle), middle)
