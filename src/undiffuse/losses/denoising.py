"""The denoising loss: regression on the network's output F, with the weighting folded in.

E ||x_0 - x_0-hat||^2 w(t) = E ||F - F*||^2 w(t) c_out^2: the right side cancels at neither end of the process.

Source: Ho et al. 2020, arXiv:2006.11239, eqs. 12 and 14; Karras et al. 2022, arXiv:2206.00364, eq. 8.
"""

from __future__ import annotations

from torch import Tensor

from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import NetworkDenoiser
from undiffuse.core.parameterization import Parameterization
from undiffuse.core.rows import mean_over_features
from undiffuse.losses.weighting import LogWeight


def denoising_loss(
    denoiser: NetworkDenoiser,
    x_0: Tensor,
    eps: Tensor,
    t: Tensor,
    log_weight: LogWeight,
    cond: Condition | None = None,
) -> Tensor:
    """Weighted squared error, a mean over the elements of each sample.

    Args:
        denoiser: its network is evaluated once, at x_t = alpha x_0 + sigma eps.
        x_0: (B, ...) clean data.
        eps: (B, ...) standard normal noise.
        t: (B,) times in (0, 1].
        log_weight: a row of ``WEIGHTINGS``.
        cond: (B, ...) fields that the network is conditioned on; None is unconditional.
    Returns:
        (B,) losses in the dtype of ``x_0``.
    """
    output = denoiser.output(denoiser.process.diffuse(x_0, eps, t), t, cond)
    return output_error(denoiser.parameterization, output, x_0, eps, t, log_weight)


def output_error(
    parameterization: Parameterization, output: Tensor, x_0: Tensor, eps: Tensor, t: Tensor, log_weight: LogWeight
) -> Tensor:
    """The denoising loss from the network's output.

    Args:
        parameterization: of the network.
        output: (B, ...) F at x_t = alpha x_0 + sigma eps.
        x_0: (B, ...) clean data.
        eps: (B, ...) standard normal noise.
        t: (B,) times in (0, 1].
        log_weight: a row of ``WEIGHTINGS``.
    Returns:
        (B,) losses in the dtype of ``x_0``.
    """
    error = mean_over_features((output - parameterization.target(x_0, eps, t)) ** 2)
    return parameterization.output_weight(log_weight(parameterization.process, t), t).to(error.dtype) * error
