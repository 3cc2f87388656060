"""Multistep consistency sampling: predict x_0, add noise at a lower level, predict again."""

from __future__ import annotations

from torch import Tensor

from undiffuse.core.denoiser import Denoiser
from undiffuse.core.rows import per_row
from undiffuse.samplers.ancestral import finalize
from undiffuse.samplers.base import Memory, Sampler, Steps
from undiffuse.samplers.noise import NoiseSource


def consistency_step(
    denoiser: Denoiser, x: Tensor, steps: Steps, memory: Memory, noise: NoiseSource
) -> tuple[Tensor, Memory]:
    """x_s = alpha_s x_0-hat + sigma_s z with new noise z; see ``consistency``.

    Args:
        denoiser: a consistency function, whose x_0-hat is the end of the ODE path.
        x: (B, ...) at times ``steps.t``.
        steps: the step of each sample.
        memory: returned unchanged; a one-step method needs none.
        noise: source of z.
    """
    process, x_0 = denoiser.process, denoiser(x, steps.t).x_0
    moved = per_row(process.alpha(steps.s), x) * x_0 + per_row(process.sigma(steps.s), x) * noise.normal(x)
    return finalize(steps, moved, x_0), memory


def consistency() -> Sampler:
    """x_s = alpha_s f(x_t, t) + sigma_s z: exact with any number of steps if f is a consistency function.

    f maps x_t to the end of its ODE path, so x_0-hat is a sample, not a mean. With a denoiser that predicts the mean
    the sample distribution is too narrow, increasingly so with more steps: use this sampler with few-step models only.

    Source: Song et al. 2023, "Consistency Models", arXiv:2303.01469, algorithm 1.
    """
    return Sampler(
        "consistency",
        consistency_step,
        order=0,
        max_nfe_per_step=1,
        stochastic=True,
        source="arXiv:2303.01469",
        for_consistency_models=True,
    )
