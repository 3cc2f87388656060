"""Parameterizations of the network's prediction, as one table: (process, t) -> coefficients.

    x_0-hat = c_skip x_t + c_out F(c_in x_t, c_noise)        the prediction of x_0 from the network F,
    F*      = p x_0 + q eps                                  and the network's regression target.

The coefficients (p, q) of the target are explicit so that a loss never divides by a vanishing c_out.

==================  ==================================  ==============================
row                 the network predicts                source
==================  ==================================  ==============================
``x0``              x_0                                 Ho et al. 2020
``eps``             eps                                 Ho et al. 2020, eq. 12
``eps_unit``        eps, from x_t of unit variance      c_in as in Karras et al. 2022
``v``               alpha eps - sigma x_0               Salimans & Ho 2022
``score``           grad log p_t = -eps / sigma         Song et al. 2019, 2021
``flow``            alpha' x_0 + sigma' eps             Lipman et al. 2022
``edm``             Karras's preconditioned residual    Karras et al. 2022, table 1
``posterior_mean``  mean of q(x_{t-1} | x_t, x_0)       Ho et al. 2020, eq. 8
==================  ==================================  ==============================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from undiffuse.core.process import Process
from undiffuse.core.process_limits import check_parameterization
from undiffuse.core.rows import per_row
from undiffuse.registry import lookup

#: Standard deviation of image data in [-1, 1] that the EDM row assumes (Karras et al. 2022).
DATA_STD = 0.5


class Coefficients(NamedTuple):
    """One row of the table at times t, each entry ``(B,)`` float64; ``target_x0`` and ``target_eps`` are p and q."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    c_noise: Tensor
    target_x0: Tensor
    target_eps: Tensor


def _x0(process: Process, t: Tensor) -> Coefficients:
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    return Coefficients(one, zero, one, 1000 * t, one, zero)


def _eps(process: Process, t: Tensor) -> Coefficients:
    alpha, sigma = process.alpha(t), process.sigma(t)
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    return Coefficients(one, 1 / alpha, -sigma / alpha, 1000 * t, zero, one)


def _eps_unit(process: Process, t: Tensor) -> Coefficients:
    # with alpha = 1 and sigma up to 50, an unscaled x_t would have values of that magnitude
    return _eps(process, t)._replace(c_in=1 / process.norm(t))


def _v(process: Process, t: Tensor) -> Coefficients:
    alpha, sigma = process.alpha(t), process.sigma(t)
    power = alpha**2 + sigma**2
    return Coefficients(torch.ones_like(t), alpha / power, -sigma / power, 1000 * t, -sigma, alpha)


def _score(process: Process, t: Tensor) -> Coefficients:
    alpha, sigma = process.alpha(t), process.sigma(t)
    return Coefficients(torch.ones_like(t), 1 / alpha, sigma**2 / alpha, 1000 * t, torch.zeros_like(t), -1 / sigma)


def _flow(process: Process, t: Tensor) -> Coefficients:
    # sigma' of a variance-preserving process is infinite at t = 0
    t = t.clamp(min=1e-12)
    alpha, sigma = process.alpha(t), process.sigma(t)
    d_alpha, d_sigma = process.rates(t)
    turn = d_sigma * alpha - sigma * d_alpha
    return Coefficients(torch.ones_like(t), d_sigma / turn, -sigma / turn, 1000 * t, d_alpha, d_sigma)


def _edm(process: Process, t: Tensor) -> Coefficients:
    alpha, sigma = process.alpha(t), process.sigma(t)
    spread = torch.sqrt(sigma**2 + (DATA_STD * alpha) ** 2)
    c_noise = -process.log_snr(t) / 8  # log(sigma / alpha) / 4
    return Coefficients(
        c_in=1 / spread,
        c_skip=DATA_STD**2 * alpha / spread**2,
        c_out=DATA_STD * sigma / spread,
        c_noise=c_noise,
        target_x0=sigma / (DATA_STD * spread),
        target_eps=-DATA_STD * alpha / spread,
    )


def posterior_mean(num_steps: int) -> Row:
    """The row for predicting the mean of q(x_{t - 1/T} | x_t, x_0); for discrete chains only.

    Args:
        num_steps: T, the length of the chain.
    """

    def row(process: Process, t: Tensor) -> Coefficients:
        bridge = process.bridge((t - 1 / num_steps).clamp(min=0), t)
        alpha, sigma = process.alpha(t), process.sigma(t)
        return Coefficients(
            torch.ones_like(t),
            -bridge.c_t / bridge.c_0,
            1 / bridge.c_0,
            1000 * t,
            bridge.c_t * alpha + bridge.c_0,
            bridge.c_t * sigma,
        )

    return row


Row = Callable[[Process, Tensor], Coefficients]

PARAMETERIZATIONS: dict[str, Row | None] = {
    "x0": _x0,
    "eps": _eps,
    "eps_unit": _eps_unit,
    "v": _v,
    "score": _score,
    "flow": _flow,
    "edm": _edm,
    "posterior_mean": None,  # built from the chain's length, see ``Parameterization``
}


class Parameterization:
    """A row of the table bound to a process.

    Args:
        name: a key of ``PARAMETERIZATIONS``.
        process: the forward process.
    Raises:
        UsageError: an unknown name, ``posterior_mean`` without a discrete chain, or ``flow`` with one (its alpha is not
            differentiable at the knots, so the velocity is undefined there).
    Example:
        >>> from undiffuse.core.processes import FlowProcess
        >>> row = Parameterization("flow", FlowProcess())(torch.tensor([0.25]))
        >>> float(row.c_skip), float(row.c_out)
        (1.0, -0.25)
    """

    def __init__(self, name: str, process: Process) -> None:
        row = lookup(PARAMETERIZATIONS, name, "parameterization")
        num_steps = process.num_steps
        check_parameterization(name, num_steps)
        self.name, self.process = name, process
        self._row: Row = posterior_mean(num_steps) if row is None and num_steps is not None else row

    def __call__(self, t: Tensor) -> Coefficients:
        """The coefficients at times ``t`` (B,).

        Args:
            t: (B,) times in [0, 1].
        """
        return self._row(self.process, t.double())

    def network_input(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c_in x_t, c_noise), the network's inputs.

        Args:
            x_t: (B, ...) noisy data.
            t: (B,) times in [0, 1].
        Returns:
            (B, ...) and (B,) in the dtype of ``x_t``.
        """
        row = self(t)
        return per_row(row.c_in, x_t) * x_t, row.c_noise.to(device=x_t.device, dtype=x_t.dtype)

    def x_0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x_0-hat = c_skip x_t + c_out F from the network's output F.

        Args:
            output: (B, ...) F(c_in x_t, c_noise).
            x_t: (B, ...) noisy data.
            t: (B,) times in [0, 1].
        """
        row = self(t)
        return per_row(row.c_skip, x_t) * x_t + per_row(row.c_out, x_t) * output

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """F* = p x_0 + q eps, the regression target of the network.

        Args:
            x_0: (B, ...) clean data.
            eps: (B, ...) the noise in x_t.
            t: (B,) times in [0, 1].
        """
        row = self(t)
        return per_row(row.target_x0, x_0) * x_0 + per_row(row.target_eps, x_0) * eps

    def output_weight(self, log_weight: Tensor, t: Tensor) -> Tensor:
        """The factor on ||F - F*||^2 that equals exp(log_weight) on ||x_0 - x_0-hat||^2.

        Args:
            log_weight: (B,) float64, logarithm of the weight on x_0.
            t: (B,) times in [0, 1].
        Returns:
            (B,) float64.
        """
        return torch.exp(log_weight + 2 * torch.log(self(t).c_out.abs()))


def eps_of(process: Process, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
    """eps = (x_t - alpha x_0) / sigma.

    Args:
        process: the forward process.
        x_t: (B, ...) noisy data.
        x_0: (B, ...) clean data or its prediction.
        t: (B,) times with sigma > 0.
    """
    return (x_t - per_row(process.alpha(t), x_t) * x_0) / per_row(process.sigma(t), x_t)


def score_of(process: Process, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
    """grad log p_t(x_t) = -eps / sigma when x_0 is the posterior mean E[x_0 | x_t].

    Args:
        process: the forward process.
        x_t: (B, ...) noisy data.
        x_0: (B, ...) the posterior mean.
        t: (B,) times with sigma > 0.
    """
    return -eps_of(process, x_t, x_0, t) / per_row(process.sigma(t), x_t)
