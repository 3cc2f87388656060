"""EDM's stochastic sampler: noise is added before each step of Heun's method ("churn").

The noise moves x_t exactly to a higher noise level t-hat of the same process; from there Heun's method goes to s. This
removes part of the errors of earlier steps at the cost of a longer step.

Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv:2206.00364,
sec. 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.rows import per_row
from undiffuse.errors import UsageError
from undiffuse.samplers.base import Memory, Sampler, Steps
from undiffuse.samplers.noise import NoiseSource
from undiffuse.samplers.ode import heun_step

#: The largest relative increase of the noise-to-signal ratio in a step.
MAX_CHURN = math.sqrt(2) - 1


def edm(s_churn: float = 8.0, s_min: float = 0.05, s_max: float = 50.0, s_noise: float = 1.0) -> Sampler:
    """Raise r = sigma / alpha by gamma = min(s_churn / steps, sqrt(2) - 1), with noise; then a step of Heun's method.

        r_hat = (1 + gamma) r,   x_hat / alpha_hat = x / alpha + sqrt(r_hat^2 - r^2) s_noise eps

    Args:
        s_churn: total amount of noise added over all steps; 0 is bitwise identical to ``heun``.
        s_min, s_max: the range of r in which noise is added.
        s_noise: standard deviation of the noise; the paper uses 1.003 or 1.007 to compensate for networks that remove
            too much noise, 1 preserves the marginals.
    Raises:
        UsageError: a value out of range.
    Note:
        Order 2 if gamma is below its limit, that is with more than s_churn / 0.414 steps. The default s_churn gives at
        50 steps the same gamma = 0.16 as the paper's 40 at 256 steps; s_min and s_max are the paper's for ImageNet-64.
        The added noise never exceeds the noise levels of training.
    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 2 and table 5.
    """
    if not (0 <= s_churn < math.inf and 0 <= s_min <= s_max and 0 < s_noise < math.inf):
        raise UsageError(
            "edm needs 0 <= s_churn, 0 <= s_min <= s_max and 0 < s_noise, got "
            f"s_churn={s_churn}, s_min={s_min}, s_max={s_max}, s_noise={s_noise}"
        )

    def step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
        if s_churn > 0:
            gamma = (s_churn / steps.count.double()).clamp(max=MAX_CHURN)
            t_hat = churned_time(denoiser, steps.t, gamma, s_min, s_max)
            bridge = denoiser.process.bridge(steps.t, t_hat)
            x = per_row(bridge.alpha_ts, x) * x + per_row(bridge.var_max.sqrt() * s_noise, x) * noise.normal(x)
            steps = steps._replace(t=t_hat)
        return heun_step(denoiser, x, steps, memory, noise)

    return Sampler("edm", step, order=2, max_nfe_per_step=2, stochastic=s_churn > 0, source="arXiv:2206.00364")


def churned_time(denoiser: Denoiser, t: Tensor, gamma: Tensor, s_min: float, s_max: float) -> Tensor:
    """The time whose noise-to-signal ratio is (1 + gamma) r if r(t) is in [s_min, s_max], else t.

    Args:
        denoiser: its process and log-SNR range limit the time.
        t: (B,) times in [0, 1].
        gamma: (B,) relative increase of r, at least 0.
        s_min, s_max: the range of r in which noise is added.
    Returns:
        (B,) float64, at least ``t``.
    """
    process = denoiser.process
    log_snr = process.log_snr(t)
    lowest = process.log_snr(torch.ones_like(t)).clamp(min=denoiser.log_snr_range[0])
    raised = torch.maximum(log_snr - 2 * torch.log1p(gamma), lowest)
    ratio = torch.exp(-log_snr / 2)
    inside = (ratio >= s_min) & (ratio <= s_max) & (raised < log_snr)
    # converting a time to its log-SNR and back has a rounding error; the result must not be below t
    return torch.where(inside, torch.maximum(process.time_of_log_snr(raised), t), t)
