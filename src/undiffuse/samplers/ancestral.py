"""Samplers based on the bridge: DDPM's ancestral sampling and DDIM with any eta.

Both step from x_t and x_0-hat to x_s through q(x_s | x_t, x_0), for any process and any pair s <= t.
"""

from __future__ import annotations

from torch import Tensor

from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.parameterization import eps_of
from undiffuse.core.process import Bridge
from undiffuse.core.rows import per_row, where_rows
from undiffuse.core.variance import mixed_variance
from undiffuse.errors import UsageError
from undiffuse.samplers.base import Memory, Sampler, Steps
from undiffuse.samplers.noise import NoiseSource


def finalize(steps: Steps, moved: Tensor, x_0: Tensor) -> Tensor:
    """Replace x at s by x_0-hat, the mean of the last step, for samples at their final step.

    Args:
        steps: the step of each sample; ``final`` marks final steps.
        moved: (B, ...) x at s from the sampler's formula.
        x_0: (B, ...) x_0-hat of the step.
    """
    return where_rows(steps.final, x_0, moved)


def ancestral(variance: str = "beta_tilde") -> Sampler:
    """Sample x_s from N(c_t x_t + c_0 x_0-hat, variance), DDPM's algorithm 2.

    Args:
        variance: ``beta_tilde``, that of the bridge (exact if the data is a single point), ``beta``, that of the
            forward step (exact for data from N(0, I)), or ``learned``, an interpolation predicted by the model.
    Raises:
        UsageError: an unknown variance.
    Source: Ho et al. 2020, arXiv:2006.11239, eqs. 6-7, algorithm 2; Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15.
    """
    if variance not in ("beta_tilde", "beta", "learned"):
        raise UsageError(f"ancestral variance must be 'beta_tilde', 'beta' or 'learned', got {variance!r}")

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        denoised: Denoised = denoiser(x, steps.t)
        x_0, bridge = denoised.x_0, denoiser.process.bridge(steps.s, steps.t)
        mean = per_row(bridge.c_t, x) * x + per_row(bridge.c_0, x) * x_0
        return finalize(steps, mean + _std(bridge, denoised, variance) * noise.normal(x), x_0), memory

    return Sampler(
        "ancestral",
        step,
        order=1,
        max_nfe_per_step=1,
        stochastic=True,
        source="arXiv:2006.11239",
        needs_learned_variance=variance == "learned",
    )


def _std(bridge: Bridge, denoised: Denoised, variance: str) -> Tensor:
    """Standard deviation of the reverse step in the dtype of x_0-hat, per sample or per element."""
    if variance != "learned":
        return per_row((bridge.var if variance == "beta_tilde" else bridge.var_max).sqrt(), denoised.x_0)
    if denoised.variance_mix is None:
        raise UsageError("ancestral:variance=learned needs a model trained with system.learned_variance=true; use beta")
    return mixed_variance(bridge, denoised.variance_mix).sqrt().to(denoised.x_0.dtype)


def ddim(eta: float = 0.0) -> Sampler:
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - eta^2 var) eps + eta sqrt(var) z, with var of the bridge.

    Args:
        eta: 0 is deterministic (equal to ``euler``), 1 is ancestral sampling with beta-tilde.
    Raises:
        UsageError: an eta outside [0, 1].
    Source: Song et al. 2021, "Denoising Diffusion Implicit Models", arXiv:2010.02502, eqs. 12 and 16.
    """
    if not 0 <= eta <= 1:
        raise UsageError(f"eta must be in [0, 1], got {eta}")

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        process = denoiser.process
        x_0 = denoiser(x, steps.t).x_0
        eps = eps_of(process, x, x_0, steps.t)
        var = eta**2 * process.bridge(steps.s, steps.t).var
        direction = (process.sigma(steps.s) ** 2 - var).clamp(min=0).sqrt()
        moved = per_row(process.alpha(steps.s), x) * x_0 + per_row(direction, x) * eps
        if eta > 0:
            moved = moved + per_row(var.sqrt(), x) * noise.normal(x)
        return finalize(steps, moved, x_0), memory

    return Sampler("ddim", step, order=1, max_nfe_per_step=1, stochastic=eta > 0, source="arXiv:2010.02502")
