"""Score matching in terms of the score: explicit, implicit and denoising, for any process.

For a model s(x, t) of the score grad log p_t, and x = alpha x_0 + sigma eps,

    explicit    E ||s - grad log p_t||^2                  the Fisher divergence; p_t must be known
    implicit    E [||s||^2 + 2 div s]                     = explicit - E ||grad log p_t||^2     (Hyvarinen)
    denoising   E ||s + eps / sigma||^2                   = explicit + D / sigma^2 - E ||grad log p_t||^2   (Vincent)

so all three have the same minimum. Training uses the denoising form times a factor lambda(t); in terms of x_0-hat, with
s = -(x - alpha x_0-hat) / sigma^2, it is lambda alpha^2 / sigma^4 ||x_0 - x_0-hat||^2, a row of ``WEIGHTINGS``:

    lambda = sigma^2    SNR                            ``score``, the same as ``simple``: for VE, ||sigma s + eps||^2;
                                                       for VP, ||eps-hat - eps||^2 with eps-hat = -sigma s
    lambda = g^2 / 2    g^2 alpha^2 / (2 sigma^4)      ``likelihood``, = -SNR'(t) / 2: the continuous-time bound

Source: Hyvarinen 2005, "Estimation of Non-Normalized Statistical Models by Score Matching", JMLR 6, thm. 1; Vincent
2011, "A Connection Between Score Matching and Denoising Autoencoders", Neural Computation 23; Song et al. 2021,
arXiv:2011.13456, eq. 7; Song et al. 2021, "Maximum Likelihood Training of Score-Based Diffusion Models",
arXiv:2101.09258, thm. 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.parameterization import score_of
from undiffuse.core.process import Process
from undiffuse.core.rows import mean_over_features, per_row, sum_over_features
from undiffuse.errors import UsageError

#: (x (B, D), t (B,)) -> score (B, D).
Score = Callable[[Tensor, Tensor], Tensor]
#: lambda(t) on the squared error of the score: (process, t (B,)) -> (B,) float64.
ScoreFactor = Callable[[Process, Tensor], Tensor]

#: Maximum number of points of a quadrature.
_MAX_NODES = 1_000_000


def sigma2(process: Process, t: Tensor) -> Tensor:
    """lambda = sigma^2: every noise level contributes equally (Song & Ermon 2019, arXiv:1907.05600, sec. 4.2).

    Args:
        process: the forward process.
        t: (B,) times in [0, 1].
    """
    return process.sigma(t) ** 2


def half_g2(process: Process, t: Tensor) -> Tensor:
    """lambda = g^2 / 2: its integral over t bounds -log p (Song et al. 2021, arXiv:2101.09258, eq. 8).

    Args:
        process: the forward process.
        t: (B,) times in [0, 1].
    """
    return process.diffusion2(t) / 2


def score_function(denoiser: Denoiser, cond: Condition | None = None) -> Score:
    """The score of a denoiser, -(x - alpha x_0-hat) / sigma^2.

    Args:
        denoiser: of any process.
        cond: (B, ...) fields that it is conditioned on; None is unconditional.
    """

    def score(x: Tensor, t: Tensor) -> Tensor:
        denoised: Denoised = denoiser(x, t, cond)
        return score_of(denoiser.process, x, denoised.x_0, t)

    return score


def denoising_score_matching(
    score: Score, process: Process, x_0: Tensor, eps: Tensor, t: Tensor, factor: ScoreFactor = sigma2
) -> Tensor:
    """lambda(t) ||s(x_t, t) + eps / sigma||^2, a mean over elements.

    Args:
        score: the model, see ``score_function``.
        process: the forward process, of any kind.
        x_0: (B, ...) clean data.
        eps: (B, ...) standard normal noise.
        t: (B,) times with sigma > 0.
        factor: ``sigma2``, ``half_g2`` or another.
    Returns:
        (B,) in the dtype of ``x_0``. For training use the equivalent row of ``WEIGHTINGS`` (see the module), which
        does not divide by sigma.
    """
    error = score(process.diffuse(x_0, eps, t), t) + eps / per_row(process.sigma(t), eps)
    return factor(process, t).to(x_0.dtype) * mean_over_features(error**2)


def implicit_score_matching(score: Score, x: Tensor, t: Tensor) -> Tensor:
    """||s||^2 + 2 div s at each point, with the exact divergence: D backward passes.

    Args:
        score: differentiable; each output depends only on its own sample.
        x: (B, D) points of p_t.
        t: (B,) times.
    Returns:
        (B,) sums over elements; its mean over p_t is the Fisher divergence minus E ||grad log p_t||^2.
    """
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        value = score(leaf, t)
        slopes = [torch.autograd.grad(value[:, i].sum(), leaf, retain_graph=True)[0][:, i] for i in range(x.shape[1])]
    return sum_over_features(value.detach() ** 2) + 2 * torch.stack(slopes, 1).sum(1)


def quadrature(mixture: GaussianMixture, process: Process, t: float, num_nodes: int = 32) -> tuple[Tensor, Tensor]:
    """Points and probabilities such that sum p f(x) = E f(x_t), by Gauss-Hermite nodes around each component.

    Args:
        mixture: K components in D dimensions.
        process: the forward process.
        t: one time.
        num_nodes: n per dimension; exact for polynomials of degree 2 n - 1.
    Returns:
        x (K n^D, D) and p (K n^D,), float64; components of weight 0 are left out.
    Raises:
        UsageError: more than a million points.
    """
    count, dims = mixture.means.shape
    if count * num_nodes**dims > _MAX_NODES:
        raise UsageError(
            f"{num_nodes} nodes in {dims} dimensions around {count} Gaussians are more than a million points; take "
            "fewer nodes, or draw x_t and average"
        )
    times = torch.tensor([t], dtype=torch.float64)
    alpha, sigma = process.alpha(times), process.sigma(times)
    nodes, weights = (torch.from_numpy(value) for value in np.polynomial.hermite_e.hermegauss(num_nodes))
    weights = weights / math.sqrt(2 * math.pi)
    z = torch.cartesian_prod(*[nodes] * dims).reshape(-1, dims)
    p = torch.cartesian_prod(*[weights] * dims).reshape(-1, dims).prod(1)
    std = (alpha**2 * mixture.variances + sigma**2).sqrt()
    x = (alpha * mixture.means)[:, None] + std[:, None] * z
    return x.reshape(-1, dims), (mixture.weights[:, None] * p).flatten()


def fisher_divergence(score: Score, mixture: GaussianMixture, process: Process, t: float, num_nodes: int = 32) -> float:
    """F(p_t || model) = E_{p_t} ||grad log p_t - s||^2 on data whose score is known, by quadrature.

    Args:
        score: the model's, (N, D) and (N,) to (N, D); see ``score_function``.
        mixture: the data, in one or two dimensions (few Gaussians in three).
        process: the forward process.
        t: one time, at which the density is smooth (sigma > 0, or no component a point).
        num_nodes: of the quadrature, per dimension.
    Returns:
        A sum over dimensions; 0 for the exact score.
    Example:
        >>> from undiffuse.core.processes import VPSDE
        >>> mixture, process = GaussianMixture.ring(8), VPSDE()
        >>> fisher_divergence(score_function(mixture.denoiser(process)), mixture, process, 0.5) < 1e-20
        True
    """
    x, p = quadrature(mixture, process, t, num_nodes)
    times = torch.full((len(x),), t, dtype=torch.float64)
    error = score(x, times).double() - mixture.score(x, process, times)
    return float(p @ sum_over_features(error**2))
