"""The sampler of mean-velocity models: one evaluation goes from t to any s."""

from __future__ import annotations

from torch import Tensor

from undiffuse.core.condition import Evaluation
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.parameterization import eps_of
from undiffuse.core.rows import per_row
from undiffuse.samplers.ancestral import finalize
from undiffuse.samplers.base import Memory, Sampler, Steps
from undiffuse.samplers.noise import NoiseSource


def mean_velocity() -> Sampler:
    """x_s = alpha_s x_0 + sigma_s eps, with x_0 and eps from the mean velocity between t and s.

    The denoiser receives the time s as the evaluation's ``target_time``. For the flow process this is
    x_s = x_t - (t - s) u(x_t, t, s) with the mean velocity u, exact in one step if u is exact; a model without mean
    velocities takes a DDIM step, hence order 1.

    Source: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", arXiv:2505.13447, eq. 12.
    """
    return Sampler("mean_velocity", _step, order=1, max_nfe_per_step=1, stochastic=False, source="arXiv:2505.13447")


def _step(denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource) -> tuple[Tensor, Memory]:
    process, (t, s) = denoiser.process, steps[:2]
    x_0 = denoiser(x, t, evaluation=Evaluation(target_time=s)).x_0
    moved = per_row(process.alpha(s), x) * x_0 + per_row(process.sigma(s), x) * eps_of(process, x, x_0, t)
    return finalize(steps, moved, x_0), memory
